"""Cross-validation: a task is trained once for each fold, and the scores of all folds are pooled.

The setting ``folds`` names the folds (`probe.data.splits`). For each of them, the fold is the test
set, the next fold is the dev set that chooses the settings, and the others are for training. Counts
are summed over the folds before value and interval are computed from them, so a pooled score is of
every utterance once. Settings and the layer are chosen within each fold: dev rows of one fold are
test rows of another, so the layer with the best pooled dev score would be chosen with the rows that
are reported.
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
from probe.evaluation.linear_search import CROSS_ENTROPY
from probe.evaluation.tasks import Task
from probe.measures.counts import pooled_counts
from probe.measures.metrics import metric_of
from probe.records import NO_LAYER, PER_FOLD, WEIGHTED

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
    fold, then those at the layer that each fold has chosen (`PER_FOLD`).

    Args:
        of_folds: fold -> its scores; without folds, the empty name and all scores.
    """
    if list(of_folds) == [""]:
        return list(of_folds[""])
    choices = {fold: _best_layers(scores) for fold, scores in of_folds.items()}
    cells: dict[tuple[str, ...], dict[str, Score]] = {}
    at_choice: dict[tuple[str, ...], dict[str, Score]] = {}
    for fold, scores in of_folds.items():
        for score in scores:
            question = tuple(getattr(score, name) for name in QUESTION)
            cells.setdefault((score.layer, *question), {})[fold] = score
            if score.layer == choices[fold].get(_place(score)):
                at_choice.setdefault(question, {})[fold] = score
    whole = {question for question, cell in at_choice.items() if len(cell) == len(of_folds)}
    lacking = {
        question: cell
        for (layer, *rest), cell in cells.items()
        if len(cell) < len(of_folds)
        and ((question := tuple(rest)) not in whole or layer == WEIGHTED)
    }
    for cell in lacking.values():
        score = next(iter(cell.values()))
        log.warning(
            "%s of head %s%s: only in folds %s; left out",
            *(score.metric, score.head, f", budget {score.budget}" if score.budget else ""),
            listed(list(cell)),
        )
    merged = [_pooled(cell) for cell in cells.values() if len(cell) == len(of_folds)]
    return merged + [_at_choice(at_choice[question]) for question in at_choice if question in whole]


def _place(score: Score) -> tuple[str, ...]:
    """What the scores of one choice of a layer agree in."""
    return score.head, score.train_domain, score.budget


def _best_layers(scores: Sequence[Score]) -> dict[tuple[str, ...], str]:
    """Place -> the layer with the best dev score, of equals the one with the lowest dev
    cross-entropy, then the first; none where there is one layer only.
    """
    losses: dict[tuple[str, ...], dict[str, tuple[float, float]]] = {}
    for score in scores:
        is_choice = score.split == "dev" and score.metric == score.select_by and not score.control
        if is_choice and score.value is not None and score.layer not in (WEIGHTED, NO_LAYER):
            loss = -score.value if score.higher_is_better else score.value
            both = (loss, score.chosen.get(CROSS_ENTROPY, 0.0))
            losses.setdefault(_place(score), {})[score.layer] = both
    return {
        place: min(of_layers, key=lambda layer: of_layers[layer])
        for place, of_layers in losses.items()
        if len(of_layers) > 1
    }


def _at_choice(cell: Mapping[str, Score]) -> Score:
    """One score of all folds at the layer that each of them has chosen."""
    n_folds = Counter(score.layer for score in cell.values())
    layers = ", ".join(f"{layer} ({n})" for layer, n in n_folds.most_common())
    score = _pooled(cell)
    note = "; ".join(filter(None, [score.note, f"layers that folds chose: {layers}"]))
    # The settings that were tried stand in the records of the layers; a control may have no others.
    search = score.search if score.control else ()
    return replace(score, layer=PER_FOLD, search=search, statistics={}, note=note)


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
                "layer": score.layer,
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
