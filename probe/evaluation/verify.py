"""Kind ``verify``: speaker verification on a trial list, one vector per utterance, on every layer.

Metric: EER by linear interpolation of the ROC (lower is better). Backends:

* ``cosine``: of the vectors as they are;
* ``cosine-standardised``: of vectors standardised with training statistics, the headline: without it a few large dimensions decide;
* ``lda``: cosine after linear discriminant analysis fitted on training speakers that occur in no trial. Standardised vectors,
  principal components, then Ledoit-Wolf-shrunk LDA (scikit-learn).

Control ``shuffled``: the same scores against shuffled answers, LDA fitted on shuffled speakers.

The layer is chosen on the dev trials. SUPERB's ASV differs: a trained x-vector head, and the best test checkpoint.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from probe.data.trials import Trial
from probe.evaluation.problem import Features, Problem, Score, block_of, shuffled
from probe.evaluation.tasks import Task
from probe.heads.speakers import LEAST_SPEAKERS, DiscriminantProjection
from probe.heads.standardize import Standardizer
from probe.measures.counts import trial_counts

HEADLINE = "cosine-standardised"
Backend = Callable[[np.ndarray], np.ndarray]


def run(task: Task, problem: Problem, features: Features) -> Iterator[Score]:
    """EER of every layer and backend on the dev trials and on the trials."""
    splits = {"dev": list(problem.dev_trials), "test": list(problem.trials)}
    train = [item for item in problem.train if item.speaker]
    ends = {end.key: end for trials in splits.values() for trial in trials for end in (trial.enroll, trial.test)}
    in_trials = {end.speaker for end in ends.values()}
    unseen = [item for item in train if item.speaker not in in_trials]
    targets = {name: [trial.target for trial in trials] for name, trials in splits.items()}
    speakers = [item.speaker for item in unseen]
    questions = [("", targets, speakers)]
    if "shuffled" in task.settings["controls"]:
        mixed = {name: shuffled(flags, problem.seed) for name, flags in targets.items()}
        questions.append(("shuffled", mixed, shuffled(speakers, problem.seed)))
    row_of = {key: row for row, key in enumerate(ends)}
    for layer in features.layers:
        problem.tick(f"layer {layer}")
        vectors = features.read(layer, list(ends.values())).values.astype(np.float32)
        train_rows = features.read(layer, problem.train).values.astype(np.float32)
        unseen_rows = features.read(layer, unseen).values.astype(np.float32)
        for backend, (control, flags, names) in itertools.product(task.settings["backends"], questions):
            fitted, reason = _fit(backend, train_rows, unseen_rows, names)
            units = _unit(fitted(vectors)) if fitted else None
            for split, trials in splits.items():
                yield Score(
                    layer=layer,
                    head=backend,
                    headline=backend == HEADLINE,
                    control=control,
                    n_train={"cosine": 0, "lda": len(unseen)}.get(backend, len(problem.train)),
                    split=split,
                    metric="eer",
                    higher_is_better=False,
                    select_by="eer",
                    n=len(trials),
                    note=reason,
                    **_outcome(units, trials, flags[split], row_of),
                )


def _fit(backend: str, train: np.ndarray, unseen: np.ndarray, speakers: Sequence[str]) -> tuple[Backend | None, str]:
    """The backend's map from (row, dim) to vectors whose cosine is the score, or None and why there is none."""
    if backend == "cosine":
        return lambda rows: rows, ""
    if not len(train):
        return None, "no training rows to take statistics from"
    scaler = Standardizer.of(train)
    if backend == "cosine-standardised":
        return scaler.apply, ""
    n_speakers = len(set(speakers))
    if n_speakers < LEAST_SPEAKERS:
        return None, f"{n_speakers} training speakers occur in no trial; LDA needs {LEAST_SPEAKERS}"
    if len(speakers) <= n_speakers:
        return None, "one utterance per training speaker; LDA needs several"
    projection = DiscriminantProjection.fit(scaler.apply(unseen), speakers)
    return lambda rows: projection.apply(scaler.apply(rows)), ""


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a zero row stays zero and scores 0 with everything."""
    wide = rows.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)


def _outcome(units: np.ndarray | None, trials: Sequence[Trial], targets: Sequence[bool], row_of: dict[str, int]) -> dict:
    """Counts and per-trial outcomes of one backend, or no counts where there is no backend."""
    if units is None:
        return {"counts": None}
    enroll, test = ([row_of[end.key] for end in side] for side in zip(*((t.enroll, t.test) for t in trials), strict=True))
    scores = np.einsum("td,td->t", units[enroll], units[test])
    blocks = [[block_of(end) for end in side] for side in zip(*((t.enroll, t.test) for t in trials), strict=True)]
    outcomes = [
        {"enroll": trial.enroll.key, "test": trial.test.key, "label": int(target), "score": float(score)}
        for trial, target, score in zip(trials, targets, scores, strict=True)
    ]
    return {"counts": trial_counts(blocks[0], blocks[1], targets, scores), "outcomes": outcomes}
