"""The summary in words: per task the best model and its layer, what is tied with it, what is near
chance.

Nothing is decided here: layers are those that dev chose, marks those of `probe.reporting.ties`.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from probe.errors import listed
from probe.records import OWN_HEAD
from probe.reporting.losses import CHANCE, CLEAN, COSTS, by_severity
from probe.reporting.rows import one_line
from probe.reporting.tables.cells import percent
from probe.reporting.ties import BEST, BITS, OTHERS, TIED

NO_BEST = "is called best, since the scores are of different utterances"
FEW_BLOCKS = 20  # below it a reader is told to mind the intervals
METRICS = {
    "cer": "character error rate (cer)",
    "wer": "word error rate (wer)",
    "per": "phone error rate (per)",
    "eer": "equal error rate (eer)",
    "eer_hull": "equal error rate (eer_hull)",
}
SPECTRAL = {"fbank": "fbank (filter banks)", "mfcc": "mfcc (cepstra)"}
QUESTION = ["task", "corpus", "train_condition", "metric"]
PLACE = ["condition", "train_domain", "test_domain"]
Row = Mapping[Hashable, Any]


def answers(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per task, corpus and training, in the order of the rows.

    Args:
        rows: of `probe.reporting.rows.summary_rows`.

    Returns:
        ``title`` and ``about``; ``best`` (models; none where one was asked alone), ``chance``
        (whether all models are near it) and ``lead`` (in words: where, who, what) of the clean
        score, or of the first place there is; ``elsewhere``: the other conditions and domains, each
        as ``where``, ``who`` and ``what``; ``caution`` where blocks are few.
    """
    main = rows[
        (rows["metric"] == rows["select_by"]) & (rows["metric"] != BITS) & rows["value"].notna()
    ]
    main = main[main["head"] != OWN_HEAD]  # a reference outside the contest
    found = []
    for names, group in main.groupby(QUESTION, sort=False):
        task, corpus, trained, metric = map(str, names)
        way = "higher" if group["higher_is_better"].iloc[0] else "lower"
        heard = [] if trained == CLEAN else [f"trained on {one_line(trained)}"]
        n, blocks = int(group["n"].max()), int(group["n_blocks"].max())
        about = "; ".join(
            [
                f"{METRICS.get(metric, metric)}, {way} is better",
                *heard,
                f"{one_line(corpus)}: {n} scored, {blocks} speakers or other blocks",
            ]
        )
        (place, first), *others = _places(group)
        caution = f"Only {blocks} speakers or other blocks: intervals are wide and rough, differences uncertain."
        found.append(
            {
                "title": one_line(task),
                "about": one_line(about),
                "best": [one_line(row["model"]) for row in _best(first)] if len(first) > 1 else [],
                "chance": all(map(near_chance, first)),
                "lead": [_where(place), _who(first), _verdict(first)],
                "elsewhere": [
                    {"where": _where(there), "who": _who(cells), "what": _in_short(cells)}
                    for there, cells in others
                ],
                "caution": caution if blocks < FEW_BLOCKS else "",
            }
        )
    return found


def headline(found: Sequence[Mapping[str, Any]]) -> str:
    """Which model scores best how often, of the leading scores of `answers` that are not all near
    chance; empty where these are few.

    The first three are named, and whoever has as many as the third.
    """
    counted = [answer for answer in found if answer["best"] and not answer["chance"]]
    times = Counter(name for answer in counted for name in answer["best"])
    if len(counted) < 2:
        return ""
    least = [n for _, n in times.most_common(3)][-1]
    names = {
        n: [name for name, of_name in times.items() if of_name == n]
        for n in sorted(set(times.values()), reverse=True)
    }
    told = [
        f"{listed(of_n, 30)} in {n} of {len(counted)}" for n, of_n in names.items() if n >= least
    ]
    rest = "; others less often" if min(names) < least else ""
    left = sum(answer["chance"] for answer in found)
    left_out = (
        f" Not counted: {left} of {len(found)} in which none is told from chance." if left else ""
    )
    return f"Best score most often: {'; '.join(told)}{rest}.{left_out} What is tied or uncertain is said below."


def baselines(models: Sequence[str]) -> str:
    """What those of the models are that were not pretrained; empty where all were."""
    spectral = " and ".join(SPECTRAL[name] for name in models if name in SPECTRAL)
    said = [f"{spectral}: computed without a network"] if spectral else []
    said += (
        ["random: an architecture with random weights"]
        if any(name.startswith("random:") for name in models)
        else []
    )
    return f"Baselines, which a pretrained model should beat: {'; '.join(said)}." if said else ""


def near_chance(row: Row) -> bool:
    """Whether a score's interval reaches the best that controls, or the metric, give for nothing;
    False where there are none.
    """
    sign = 1 if row["higher_is_better"] else -1
    none = 1.0 if row["metric"].startswith(COSTS) else CHANCE.get(row["metric"], math.nan)
    known = [
        sign * value for value in (row["majority"], row["shuffled"], none) if not math.isnan(value)
    ]
    end = row["low" if row["higher_is_better"] else "high"]
    return bool(known) and sign * (row["value"] if math.isnan(end) else end) <= max(known)


def score_text(row: Row) -> str:
    """A score in percent with its interval."""
    ends = "" if math.isnan(row["low"]) else f" [{percent(row['low'])}, {percent(row['high'])}]"
    return f"{percent(row['value'])} %{ends}"


def _scores_text(best: Sequence[Row]) -> str:
    """The score of the best; of several each by its name, unless their intervals are the same too."""
    if len(set(map(score_text, best))) == 1:
        return score_text(best[0]) + " each" * (len(best) > 1)
    return listed([f"{one_line(row['model'])} {score_text(row)}" for row in best], 30)


def _places(
    group: pd.DataFrame,
) -> Iterator[tuple[tuple[str, str, str], list[dict[Hashable, Any]]]]:
    """The rows of one question by `PLACE`, clean audio first, then the milder conditions."""
    rank = {
        name: number
        for number, name in enumerate([CLEAN, *by_severity(set(group["condition"]) - {CLEAN})])
    }
    ordered = group.assign(rank=group["condition"].map(rank)).sort_values("rank", kind="stable")
    for place, cells in ordered.groupby(PLACE, sort=False):
        condition, source, target = map(str, place)
        yield (condition, source, target), cells.to_dict("records")


def _best(cells: Sequence[Row]) -> list[Row]:
    """The rows marked best, or the only one; none where none is known to be best."""
    return [row for row in cells if row["mark"] == BEST] or [*cells] * (len(cells) == 1)


def _where(place: tuple[str, str, str]) -> str:
    condition, source, target = map(one_line, place)
    heard = [] if condition in (CLEAN, "") else [condition]
    told = (
        [] if not source else [f"within {source}" if source == target else f"{source} to {target}"]
    )
    return ", ".join(heard + told)


def _who(cells: Sequence[Row]) -> str:
    return listed([_named(row) for row in _best(cells)], 30) or "No model"


def _verdict(cells: Sequence[Row]) -> str:
    """What is said after the name of the best.

    That is its score, its last layer, the tied, the next, those not compared and those near chance.
    """
    best = _best(cells)
    chance = [one_line(row["model"]) for row in cells if near_chance(row)]
    near = (
        "None is told from chance."
        if len(chance) == len(cells)
        else f"Near chance: {listed(chance, 30)}."
    )
    if not best:
        return " ".join([f"{NO_BEST}: {listed(_with_values(cells), 30)}.", *[near] * bool(chance)])
    first, others = best[0], [row for row in cells if row not in best]
    verb = (
        "was asked alone" if len(cells) == 1 else "scores best" if len(best) == 1 else "score best"
    )
    said = [f"{verb}: {_scores_text(best)}."]
    for row in best:
        if (
            not _missing(row["last_layer"])
            and row["last_layer"] != row["layer"]
            and not math.isnan(row["last_value"])
        ):
            whose = (
                "Its last layer" if len(best) == 1 else f"Last layer of {one_line(row['model'])}"
            )
            said.append(f"{whose}, {one_line(row['last_layer'])}: {percent(row['last_value'])} %.")
    tied = _with_values([row for row in others if row["mark"] == TIED])
    said += (
        [f"Not told apart from {'it' if len(best) == 1 else 'them'}: {listed(tied, 30)}."]
        if tied
        else []
    )
    sign = -1 if first["higher_is_better"] else 1
    apart = [row for row in others if OTHERS in row["note"]]
    behind = sorted(
        (row for row in others if row["mark"] != TIED and row not in apart),
        key=lambda row: sign * row["value"],
    )
    said += [f"Then {_named(behind[0])}: {score_text(behind[0])}."] if behind else []
    said += (
        [f"Not compared, since scored on other utterances: {listed(_with_values(apart), 30)}."]
        if apart
        else []
    )
    return " ".join([*said, *[near] * bool(chance)])


def _with_values(cells: Sequence[Row]) -> list[str]:
    return [f"{_named(row)} {percent(row['value'])} %" for row in cells]


def _in_short(cells: Sequence[Row]) -> str:
    """The score of the best, with what makes it doubtful."""
    best = _best(cells)
    if not best:
        return NO_BEST
    tied = [one_line(row["model"]) for row in cells if row["mark"] == TIED]
    who = f"tied: {' and '.join(tied)}" if len(tied) <= 2 else f"{len(tied)} tied"
    return ", ".join(
        [_scores_text(best), *[who] * bool(tied), *["near chance"] * any(map(near_chance, best))]
    )


def _named(row: Row) -> str:
    layer = "" if _missing(row["layer"]) else f" (layer {one_line(str(row['layer']))})"
    return one_line(row["model"]) + layer


def _missing(value: object) -> bool:
    return value is None or value != value
