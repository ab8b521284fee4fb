"""Cross-validation: a task is trained once for each fold, and the scores of all folds are pooled.

The setting ``folds`` names the folds (`probe.data.splits`). For each of them, the fold is the test
set, the next fold is the dev set that chooses the settings, and the others are for training. Counts
are summed over the folds before value and interval are computed from them, so a pooled score is of
every utterance once. Settings are chosen within each fold; the layer is chosen by the pooled dev
score.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from probe.data.corpus import Corpus
from probe.data.splits import fold_corpora
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import Score
from probe.evaluation.tasks import Task
from probe.measures.counts import pooled_counts
from probe.measures.metrics import metric_of

log = logging.getLogger("probe")

# Scores that agree in these are of one question; all folds must have answered it.
QUESTION = ("head", "split", "metric", "control", "budget", "train_domain", "test_domain")


def folds_of(task: Task[Any], corpus: Corpus) -> dict[str, Corpus]:
    """Fold -> the corpus when this fold is the test set; a task without folds has one, without a
    name, which is the corpus as it is.

    Raises:
        ProbeError: the corpus cannot be divided so.
    """
    if not task.settings.folds:
        return {"": corpus}
    with named_in_errors(task, ""):
        return fold_corpora(corpus, task.settings.folds)


def log_folds(task: Task[Any], corpus: Corpus, folds: Mapping[str, Corpus]) -> None:
    """Says which folds there are, and that the corpus' own split is ignored."""
    if list(folds) == [""]:
        return
    sizes = [
        f"{fold} ({sum(item.split == 'test' for item in part.utterances)})"
        for fold, part in folds.items()
    ]
    log.info(
        "%s: %d folds by %s, each with its number of rows: %s",
        *(task.name, len(folds), task.settings.folds, listed(sizes, 20)),
    )
    if any(item.split for item in corpus.utterances):
        log.info(
            "%s: the column split of %s is ignored: each fold tests once, and the next one chooses",
            *(task.name, corpus.name),
        )


@contextmanager
def named_in_errors(task: Task[Any], fold: str) -> Iterator[None]:
    """Puts the names of the task and of a fold before an error's message."""
    try:
        yield
    except ProbeError as error:
        if not task.settings.folds:
            raise
        text = str(error).removeprefix(f"{task.name}: ")
        place = f"{task.name}: fold {fold}" if fold else task.name
        raise type(error)(f"{place}: {text}") from error


def pooled(of_folds: Mapping[str, Sequence[Score]]) -> list[Score]:
    """The scores of all folds together: one for each that every fold has, in the order of the first
    fold.

    A control that is trained at one layer only, which may differ between folds, is one score too.

    Args:
        of_folds: fold -> its scores; without folds, the empty name and all scores.
    """
    if list(of_folds) == [""]:
        return list(of_folds[""])
    cells: dict[tuple[str, ...], dict[str, Score]] = {}
    for fold, scores in of_folds.items():
        for score in scores:
            cells.setdefault((score.layer, *_question(score)), {})[fold] = score
    merged: list[Score] = []
    rest: dict[tuple[str, ...], dict[str, Score]] = {}  # question -> what is not of all folds
    for (_, *question), cell in cells.items():
        if len(cell) == len(of_folds):
            merged.append(_pooled(cell))
        else:
            for fold, score in cell.items():
                rest.setdefault(tuple(question), {})[fold] = score
    best = _best_layers(merged)
    for cell in rest.values():
        score = next(iter(cell.values()))
        if len(cell) < len(of_folds) or not score.control:
            log.warning(
                "%s of head %s%s: only in folds %s; left out",
                *(score.metric, score.head, f", budget {score.budget}" if score.budget else ""),
                listed(list(cell)),
            )
            continue
        layers = ", ".join(f"{item.layer} in fold {fold}" for fold, item in cell.items())
        layer = best.get((score.head, score.train_domain), score.layer)
        together = _pooled({fold: replace(item, layer=layer) for fold, item in cell.items()})
        note = "; ".join(filter(None, [together.note, f"at the layer of each fold: {layers}"]))
        merged.append(replace(together, note=note))
    return merged


def _question(score: Score) -> tuple[str, ...]:
    return tuple(getattr(score, name) for name in QUESTION)


def _best_layers(scores: Sequence[Score]) -> dict[tuple[str, str], str]:
    """(head, train domain) -> the layer with the best dev score."""
    best: dict[tuple[str, str], tuple[float, str]] = {}
    for score in scores:
        is_choice = score.split == "dev" and score.metric == score.select_by and not score.control
        if not is_choice or score.budget or score.value is None or score.layer_weights:
            continue
        loss = -score.value if score.higher_is_better else score.value
        place = (score.head, score.train_domain)
        if place not in best or loss < best[place][0]:
            best[place] = (loss, score.layer)
    return {place: layer for place, (_, layer) in best.items()}


def _pooled(cell: Mapping[str, Score]) -> Score:
    """One score of all folds from the same score of each of them."""
    scores = list(cell.values())
    scored = [score for score in scores if score.counts is not None]
    excluded: Counter[str] = Counter()
    for score in scores:
        excluded |= Counter(score.excluded)
    shared = [score.shared_speakers for score in scored]
    counts, note = None, _joined_notes(cell)
    if scored and metric_of(scores[0].metric).of_trials:
        note = "a metric of ranks is not pooled over folds, whose heads differ"
    elif scored:
        counts = pooled_counts([dict(score.counts or {}) for score in scored])
    return replace(
        scores[0],
        counts=counts,
        n=sum(score.n for score in scores),
        n_train=round(float(np.mean([score.n_train for score in scores]))),
        chosen=_common([score.chosen for score in scores]),
        search=_with_folds(cell, lambda score: score.search),
        curve=_with_folds(cell, lambda score: score.curve),
        layer_weights=_means([score.layer_weights for score in scores]),
        statistics=_means([score.statistics for score in scores]),
        excluded=dict(excluded),
        note=note,
        outcomes=_with_folds(cell, lambda score: score.outcomes),
        shared_speakers=(
            frozenset().union(*(names for names in shared if names is not None))
            if shared and None not in shared
            else None
        ),
        folds=[
            {
                "fold": fold,
                "value": score.value,
                "n": score.n,
                "n_train": score.n_train,
                "chosen": dict(score.chosen),
            }
            for fold, score in cell.items()
        ],
    )


def _with_folds(
    cell: Mapping[str, Score], entries_of: Callable[[Score], Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """The entries of all folds, each with the name of its fold."""
    return [{"fold": fold, **entry} for fold, score in cell.items() for entry in entries_of(score)]


def _common(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that all folds share."""
    return {
        key: value
        for key, value in values[0].items()
        if all(other.get(key) == value for other in values[1:])
    }


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over folds of each entry that all of them have."""
    shared = [key for key in values[0] if all(key in other for other in values)]
    return {key: float(np.mean([other[key] for other in values])) for key in shared}


def _joined_notes(cell: Mapping[str, Score]) -> str:
    """The notes of the folds: once where they agree, otherwise behind the names of the folds."""
    notes = {fold: score.note for fold, score in cell.items() if score.note}
    if len(notes) == len(cell) and len(set(notes.values())) == 1:
        return next(iter(notes.values()))
    return "; ".join(f"fold {fold}: {note}" for fold, note in notes.items())
