"""The summary in words: the best model of each task and its layer, which others may be the best,
and which are near chance.

Nothing is decided here: dev chose the layers, and `probe.reporting.ties` set the marks.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import listed
from probe.measures.comparison import AT_CHANCE
from probe.measures.metrics import CODELENGTH, metric_of
from probe.protocols import protocols
from probe.records import OWN_HEADS
from probe.reporting.layer_choices import NO_CHOICE, UNKNOWN
from probe.reporting.report.repeat_commands import in_order
from probe.reporting.scores import INTERVALS_ABOUT
from probe.reporting.text import blocks_text, one_line, trained_on
from probe.reporting.ties import BEST, IN_SET, NOT_TESTED, OTHERS

FEW_BLOCKS = 20  # fewer blocks get a caution
MOST_NAMED = 30
SPECTRAL = {"fbank": "fbank (filter banks)", "mfcc": "mfcc (cepstra)"}
ANSWER = ["task", "corpus", "train_condition", "metric"]
PLACE = ["condition", "train_domain", "test_domain"]
Row = Mapping[Hashable, Any]


def answers(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per task, corpus and training condition, in the order of the rows.

    Args:
        rows: of `probe.reporting.scores.Scores.chosen`.

    Returns:
        ``title``, ``place`` (task, corpus and training) and ``about``; ``set`` (the models that may
        be the best; empty where there is only one model), ``chance`` (whether all models are near
        it), ``score`` (the best model's score and its interval; empty texts where several or none
        are best), ``lead`` (three texts: where, who, what) and ``more`` (sentences) for the score
        on clean audio, or at the first place there is; ``elsewhere``: the other conditions and
        domains, each as ``where``, ``who`` and ``what``; ``caution`` where blocks are few;
        ``protocol``, the published one that the task follows, and ``deviations`` from it.
    """
    main = rows[rows["metric"].eq(rows["select_by"]) & rows["value"].notna()]
    # A model's own head was trained on other data than the probes, so it is no rival.
    main = main[(main["metric"] != CODELENGTH.name) & ~main["head"].isin(OWN_HEADS)]
    return [_answer(group) for _, group in main.groupby(ANSWER, sort=False)]


def _answer(rows: pd.DataFrame) -> dict[str, Any]:
    """The entry of one question."""
    first = rows.iloc[0]
    n, blocks = int(rows["n"].max()), int(rows["n_blocks"].max())
    better = f"{'higher' if first['higher_is_better'] else 'lower'} is better"
    name, title = first["metric"], metric_of(first["metric"]).title
    about = [f"{title[:1].upper()}{title[1:]}{'' if title == name else f' ({name})'}: {better}"]
    if trained := trained_on(first["train_condition"]):
        about.append(trained[:1].upper() + trained[1:])
    if known := set(rows["block_kind"]) - {""}:
        what = " and ".join(INTERVALS_ABOUT[kind] for kind in sorted(known))
        about.append(f"Intervals are about {what}")
    if (rows["shared_speakers"] > 0).any():
        about.append("Test speakers are in training too (‡)")
    kinds = {blocks_text(kind) for kind in known}
    many = f"{blocks} {kinds.pop() if len(kinds) == 1 else blocks_text('')}"
    about.append(f"The scores rest on {n} items of {many}")
    caution = f"Only {many}: the intervals are wide and approximate, and differences are uncertain."
    place = [first["task"], first["corpus"], trained_on(first["train_condition"])]
    order = {name: rank for rank, name in enumerate(in_order(rows["condition"]))}
    rows = rows.assign(rank=rows["condition"].map(order)).sort_values("rank", kind="stable")
    groups = [cells.to_dict("records") for _, cells in rows.groupby(PLACE, sort=False)]
    lead, *others = groups
    protocol = protocols().get(first["task"])
    claim, more = _verdict(lead)
    return {
        "title": one_line(first["task"]),
        "place": one_line(", ".join(filter(None, place))),
        "about": one_line(". ".join(about) + "."),
        "set": [one_line(row["model"]) for row in lead if row["mark"] in (BEST, IN_SET)],
        "chance": all(map(near_chance, lead)),
        "score": _big_score(lead),
        "lead": [_where(lead[0]), _who(lead), claim],
        "more": more,
        "elsewhere": [
            {"where": _where(cells[0]), "who": _who(cells), "what": _in_short(cells)}
            for cells in others
        ],
        "caution": caution if blocks < FEW_BLOCKS else "",
        "protocol": protocol.of if protocol else "",
        "deviations": list(protocol.deviations) if protocol else [],
    }


def headline(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which models a reader can choose, from `answers`: a sentence on all tasks, then one for each
    set of models that may be the best, with its tasks; empty where fewer than two tasks have one.
    """
    known = [answer for answer in entries if answer["set"] and not answer["chance"]]
    if len(known) < 2:
        return []
    titles = [answer["title"] for answer in known]
    name = "title" if len(set(titles)) == len(titles) else "place"
    tasks: dict[tuple[str, ...], list[str]] = {}
    for answer in known:
        tasks.setdefault(tuple(sorted(answer["set"])), []).append(answer[name])
    everywhere = sorted(set.intersection(*(set(names) for names in tasks)))
    sentences = [
        "No model is the best choice for every task. These may be the best, by 95 % model "
        "confidence sets:"
    ]
    if everywhere:
        who = listed(everywhere, MOST_NAMED)
        sentences = [f"{who} may be the best in every task (95 % model confidence sets)."]
    if len(tasks) > 1 or not everywhere:
        sentences += [
            f"{listed(places, MOST_NAMED)}: {listed([*names], MOST_NAMED)}"
            for names, places in tasks.items()
        ]
    if near := [answer[name] for answer in entries if answer["chance"]]:
        sentences.append(
            f"{listed(near, MOST_NAMED)}: no model is significantly better than chance"
        )
    return sentences


def baselines(models: Sequence[str]) -> str:
    """Which models are not pretrained; empty where all are."""
    parts = []
    if spectral := [SPECTRAL[name] for name in models if name in SPECTRAL]:
        parts.append(f"{' and '.join(spectral)}, computed without a network")
    if any(name.startswith("random:") for name in models):
        parts.append("random, the architecture with random weights")
    return f"A pretrained model should beat the baselines: {'; '.join(parts)}." if parts else ""


def near_chance(row: Row) -> bool:
    """Whether a score is not significantly better than guessing and the controls."""
    return bool(row["chance"] == AT_CHANCE)


def _best(cells: Sequence[Row]) -> list[Row]:
    """The rows marked best, or the only one; none where it is unknown which is best."""
    return [row for row in cells if row["mark"] == BEST] or ([*cells] if len(cells) == 1 else [])


def _where(row: Row) -> str:
    condition, source, target = (one_line(row[name]) for name in PLACE)
    parts = [condition] if condition not in (CLEAN, "") else []
    if source:
        parts.append(f"within {source}" if source == target else f"{source} to {target}")
    return ", ".join(parts)


def _who(cells: Sequence[Row]) -> str:
    return listed([_named(row) for row in _best(cells)], MOST_NAMED) or "No model"


def _no_best(cells: Sequence[Row]) -> str:
    """What follows "No model" where none is marked best."""
    if all(map(near_chance, cells)):
        why = "none is significantly better than chance"
    elif any(row["mark"] == NOT_TESTED for row in cells):
        why = "the models were not tested against each other (too few blocks, or no interval)"
    else:
        why = "the models were scored on different utterances"
    return f"is called best because {why}"


def _verdict(cells: Sequence[Row]) -> tuple[str, list[str]]:
    """What follows the name of the best, and the sentences after it: the set and the rest."""
    best = _best(cells)
    claim, more = (
        _about_best(cells, best) if best else (f"{_no_best(cells)}: {_values(cells)}.", [])
    )
    chance = [one_line(row["model"]) for row in cells if near_chance(row)]
    if len(chance) == len(cells):
        if best:
            more.append("No model is significantly better than chance.")
    elif chance:
        more.append(f"Not significantly better than chance: {listed(chance, MOST_NAMED)}.")
    return claim, more


def _big_score(cells: Sequence[Row]) -> list[str]:
    """The score of the only best model and its interval; empty texts where there is none."""
    best = _best(cells)
    return [_amount(best[0]), _ends(best[0])] if len(best) == 1 else ["", ""]


def _about_best(cells: Sequence[Row], best: Sequence[Row]) -> tuple[str, list[str]]:
    if len(cells) == 1:
        claim = "is the only model."
    elif len(best) == 1:
        claim = "scores best."
    else:
        claim = f"score best: {_scores_text(best)}."
    sentences = []
    for row in best:
        last = row["last_layer"]
        if not pd.isna(last) and last != row["layer"] and not math.isnan(row["last_value"]):
            whose = (
                f"The last layer of {one_line(row['model'])}" if len(best) > 1 else "Its last layer"
            )
            sentences.append(f"{whose} ({one_line(last)}) scores {_amount(row, 'last_value')}.")
        sentences += _how_sure(row, f" of {one_line(row['model'])}" if len(best) > 1 else "")
    others = [row for row in cells if row not in best]
    if in_set := [row for row in others if row["mark"] == IN_SET]:
        sentences.append(f"Also in the 95 % model confidence set: {_values(in_set)}.")
    apart = [row for row in others if OTHERS in row["note"]]
    behind = [row for row in others if row["mark"] != IN_SET and row not in apart]
    if behind:
        choose = max if best[0]["higher_is_better"] else min
        second = choose(behind, key=lambda row: row["value"])
        sentences.append(f"{_named(second)} follows with {_score_text(second)}.")
    if apart:
        sentences.append(f"Not compared because of other test utterances: {_values(apart)}.")
    return claim, sentences


def _how_sure(row: Row, of_model: str) -> list[str]:
    """A sentence on how sure the layer is; none where there is nothing to choose, or it is
    unknown.
    """
    layer = one_line(str(row["layer"]))
    if row["layer_set"] in (NO_CHOICE, UNKNOWN):
        return []
    share = f"{100 * row['layer_share']:.0f} %"
    others = (
        ""
        if row["layer_set"] == layer
        else f", and one of {row['layer_set'].replace(',', ', ')} in 90 %"
    )
    chosen = f"layer {layer}{of_model} is chosen in {share} of cases{others}"
    return [f"When dev {blocks_text(row['block_kind'])} are resampled, {chosen}."]


def _in_short(cells: Sequence[Row]) -> str:
    """The score of the best, with what makes it doubtful."""
    best = _best(cells)
    if not best:
        return _no_best(cells)
    parts = [_scores_text(best)]
    if in_set := [one_line(row["model"]) for row in cells if row["mark"] == IN_SET]:
        also = " and ".join(in_set) if len(in_set) <= 2 else f"{len(in_set)} others"
        parts.append(f"also in the set: {also}")
    if any(map(near_chance, best)):
        parts.append("near chance")
    return ", ".join(parts)


def _score_text(row: Row) -> str:
    """A score with its interval."""
    return f"{_amount(row)} {_ends(row)}".rstrip()


def _ends(row: Row) -> str:
    """The interval of a score in brackets; empty where it has none."""
    text = metric_of(row["metric"]).text
    return "" if math.isnan(row["low"]) else f"[{text(row['low'])}, {text(row['high'])}]"


def _amount(row: Row, name: str = "value") -> str:
    """A number of a score, with % where it is one of percent."""
    metric = metric_of(row["metric"])
    return metric.text(row[name]) + (" %" if metric.printed_unit == "%" else "")


def _scores_text(best: Sequence[Row]) -> str:
    """The score of the best; several have their names, unless their intervals are equal too."""
    if len(best) == 1:
        return _score_text(best[0])
    if len(set(map(_score_text, best))) == 1:
        return f"{_score_text(best[0])} each"
    return listed([f"{one_line(row['model'])} {_score_text(row)}" for row in best], MOST_NAMED)


def _values(cells: Sequence[Row]) -> str:
    return listed([f"{_named(row)} {_amount(row)}" for row in cells], MOST_NAMED)


def _named(row: Row) -> str:
    name = one_line(row["model"])
    return name if pd.isna(row["layer"]) else f"{name} (layer {one_line(str(row['layer']))})"
