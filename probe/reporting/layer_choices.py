"""How sure the choice of each layer is, see `probe.measures.choice_shares`.

Layers are chosen by dev scores. Their blocks (speakers) are resampled, and each resample chooses a
layer by the same rules, see `probe.records.dev_choices`.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from probe.measures.bootstrap import N_RESAMPLES
from probe.measures.choice_shares import MOST_CHOICES, choice_shares, smallest_set
from probe.measures.uncertainty import FEWEST_BLOCKS
from probe.records import CHOICE, COMBINED, dev_choices
from probe.reporting.text import DASH, blocks_text, one_line

UNKNOWN = "unknown"
NO_CHOICE = ""
FIELDS = ["layer", "layer_index", "counts", "value", "metric", "seed", "dev_loss"]

Row = Mapping[Any, Any]


@dataclass(frozen=True)
class LayerChoice:
    """How sure one choice of a layer is.

    Attributes:
        shares: layer -> the share of resamples that choose it, in the order of layers; empty if
            that is unknown, or if there is one layer only.
        is_known: whether it is known.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    is_known: bool = True

    @cached_property
    def likely(self) -> list[str]:
        """The smallest set of layers that 90 % of resamples choose from."""
        layers = list(self.shares)
        return [layers[i] for i in smallest_set([*self.shares.values()])] if layers else []

    @property
    def set_text(self) -> str:
        """The smallest set as text, such as ``5-8,final``; `UNKNOWN`, or `NO_CHOICE` of one layer
        only.
        """
        if not self.is_known:
            return UNKNOWN
        runs: list[list[str]] = []
        for layer in self.likely:
            is_next = runs and layer.isdecimal() and runs[-1][-1].isdecimal()
            if is_next and int(layer) == int(runs[-1][-1]) + 1:
                runs[-1].append(layer)
            else:
                runs.append([layer])
        return ",".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


class LayerChoices:
    """The choices of layers of a table; each is resampled once, when it is first needed."""

    def __init__(self, merged: pd.DataFrame) -> None:
        """Takes the rows of `probe.reporting.scores.Scores.merged`."""
        dev = dev_choices(merged)
        self._candidates: dict[tuple[Hashable, ...], list[Row]] = defaultdict(list)
        columns = [dev[name].tolist() for name in (*CHOICE, *FIELDS)]
        for values in zip(*columns, strict=True):
            place, row = values[: len(CHOICE)], values[len(CHOICE) :]
            self._candidates[place].append(dict(zip(FIELDS, row, strict=True)))
        self._choices: dict[tuple[Hashable, ...], LayerChoice] = {}

    def of(self, row: Row) -> LayerChoice:
        """How sure the layer of a row with the columns `CHOICE` is."""
        candidates = self._candidates.get(tuple(row[name] for name in CHOICE), [])
        if len(candidates) < 2 or candidates[0]["layer"] in COMBINED:
            return LayerChoice()
        candidates = [item for item in candidates if item["layer"] not in COMBINED]
        # The dev scores of one training stand beside every test condition.
        scores = tuple((item["layer"], item["value"]) for item in candidates)
        key = (*(row[name] for name in CHOICE if name != "condition"), scores)
        if key not in self._choices:
            self._choices[key] = _choice(candidates)
        return self._choices[key]


def _choice(candidates: Sequence[Row]) -> LayerChoice:
    """From the dev scores of layers, the best first."""
    if len(candidates) < 2:
        return LayerChoice()
    by_preference = sorted(candidates, key=lambda row: (row["dev_loss"], row["layer_index"]))
    shares = None
    if all(row["counts"] for row in candidates):
        counts = [row["counts"] for row in by_preference]
        shares = choice_shares(counts, candidates[0]["metric"], int(candidates[0]["seed"]))
    if shares is None:
        return LayerChoice(is_known=False)
    of_layers = dict(zip((row["layer"] for row in by_preference), shares, strict=True))
    in_order = sorted(candidates, key=lambda row: row["layer_index"])
    return LayerChoice({row["layer"]: of_layers[row["layer"]] for row in in_order})


def with_choice(row: Row) -> str:
    """The layer of a row of `probe.reporting.scores.Scores.chosen` with how sure it is: ``6 (5-8;
    72 %)`` are the layer, the smallest set and the share, ``6 (?)`` is unknown.
    """
    if pd.isna(row["layer"]):
        return DASH
    return " ".join(filter(None, (one_line(row["layer"]), how_sure(row))))


def how_sure(row: Row) -> str:
    """What `with_choice` puts behind the layer; empty where there is nothing to choose."""
    if row["layer_set"] == UNKNOWN:
        return "(?)"
    if row["layer_set"] == NO_CHOICE:
        return ""
    share = f"{100 * row['layer_share']:.0f} %"
    return f"({share})" if row["layer_set"] == row["layer"] else f"({row['layer_set']}; {share})"


def choice_notes(rows: pd.DataFrame) -> list[str]:
    """Sentences on what stands behind the layers in a table of `Scores.chosen`, with layers of the
    table as examples.
    """
    chosen = rows[rows["layer"].notna() & (rows["layer_set"] != NO_CHOICE)]
    known = chosen[chosen["layer_set"] != UNKNOWN]
    several = known[known["layer_set"] != known["layer"]]
    example = (several if len(several) else known)[:1]
    notes = [_known_note(row) for row in example.to_dict("records")]
    notes += [
        f"layer {with_choice(row)}: dev has fewer than {FEWEST_BLOCKS} "
        f"{blocks_text(row['block_kind'])}, or the records hold no counts of dev"
        for row in chosen[chosen["layer_set"] == UNKNOWN][:1].to_dict("records")
    ]
    return notes


def _known_note(row: Row) -> str:
    layer, share = one_line(row["layer"]), f"{100 * row['layer_share']:.0f} %"
    note = f"layer {with_choice(row)}: "
    resamples = f"of {N_RESAMPLES:,} resamples of the dev {blocks_text(row['block_kind'])} choose"
    if row["layer_set"] == row["layer"]:
        return f"{note}{share} {resamples} {layer}"
    most = f"{100 * MOST_CHOICES:.0f} %"
    return f"{note}{most} {resamples} one of {row['layer_set']}, and {share} choose {layer}"
