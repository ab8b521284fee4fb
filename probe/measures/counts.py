"""Counts: what a value derives from, in the forms that records hold.

Aim: enough to recompute a value, its interval and its difference from another score, without names
and without outcomes. `probe.records` describes the forms: a ratio of sums (accuracy, WER, CER),
trials (EER, minDCF), moments and classes, whose sums `probe.measures.block_sums` makes, and
influences (mean average precision), which hold the value and by how much each block moves it.
Another form, `several`, holds the counts of several trainings on the same utterances; its value is
the mean of theirs. Tables make it; no record holds it.

Conventions: a block is a set of utterances that stand or fall together, all of one speaker; where
no speaker is known, each utterance is its own block. Names come in plain and leave hashed; blocks
are sorted by their hashes, whatever the order of the utterances. Everything is plain ``int``,
``str`` and ``list``, ready for JSON; amounts are ``float``.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from probe.errors import ProbeError
from probe.measures.block_sums import (
    CELLS,
    CLASS_METRICS,
    MOMENTS,
    block_sums,
    class_units,
    exact_class_metric,
    pooled_classes,
    sum_metric,
)
from probe.measures.calibration import cllrs
from probe.measures.detection import TRIAL_METRICS, TrialMetric, cumulative_trials, ranked
from probe.measures.metrics import CLLR, EER, metric_of
from probe.records import hashed_block

Counts = dict[str, Any]
Form = Literal["ratio", "trials", "moments", "classes", "influences"]

# The keys of each form.
FORMS: dict[Form, set[str]] = {
    "ratio": {"block", "numerator", "denominator"},
    "trials": {"block", "enroll", "test", "target", "rank"},
    "moments": {"block", *MOMENTS},
    "classes": {"block", "class", *CELLS},
    "influences": {"block", "n", "tags", "value", "influence"},
}
NAMES: dict[Form, str] = {
    "ratio": "a ratio of sums",
    "trials": "trials",
    "moments": "moments of numbers",
    "classes": "sums of classes",
    "influences": "a value and the influence of each block",
}
# What the counts of trials may hold beside ranks, see `scored_trials`.
CALIBRATED = {"score", "calibration"}
# What scores of the same utterances do not share.
OF_SCORES = {"numerator", "rank", "predicted", "predicted_squares", "products"}
OF_SCORES |= {"value", "influence"} | CALIBRATED


def ratio_counts(blocks: Sequence[str], numerator: ArrayLike, denominator: ArrayLike) -> Counts:
    """Sums per block: ``block``, ``numerator`` and ``denominator``, one entry a block.

    Args:
        blocks: (utterance,) names of speakers.
        numerator: (utterance,) whole numbers or bool: hits, errors ...
        denominator: (utterance,) whole numbers: 1 for accuracy, reference words for WER ...

    Raises:
        ProbeError: lengths that differ, or numbers that are negative or not whole.
    """
    return _sums(blocks, *(_whole(values, len(blocks)) for values in (numerator, denominator)))


def amount_counts(blocks: Sequence[str], amounts: ArrayLike) -> Counts:
    """As `ratio_counts`, for the mean of an amount such as bits: (utterance,) finite and >= 0; each
    utterance counts once.

    Raises:
        ProbeError: lengths that differ, or an amount that is negative or not finite.
    """
    values = np.asarray(amounts, np.float64)
    if values.shape != (len(blocks),) or not np.isfinite(values).all() or (values < 0).any():
        raise ProbeError(
            f"amounts of shape {values.shape}, not all finite and >= 0; expected one for each of "
            f"{len(blocks)} utterances."
        )
    return _sums(blocks, values.tolist(), [1] * len(blocks))


def _sums(
    blocks: Sequence[str], numerators: Sequence[float], denominators: Sequence[int]
) -> Counts:
    sums: dict[str, list[Any]] = defaultdict(lambda: [0, 0])
    for name, numerator, denominator in zip(blocks, numerators, denominators, strict=True):
        pair = sums[hashed_block(name)]
        pair[0] += numerator
        pair[1] += denominator
    block = sorted(sums)
    return {
        "block": block,
        "numerator": [sums[digest][0] for digest in block],
        "denominator": [sums[digest][1] for digest in block],
    }


def trial_counts(
    enroll_blocks: Sequence[str], test_blocks: Sequence[str], target: ArrayLike, scores: ArrayLike
) -> Counts:
    """Trials with the blocks of their two ends: ``block``, and ``enroll``, ``test``, ``target`` and
    ``rank``, one entry a trial.

    Trials keep the order of the trial list, which pairs the trials of two models.

    Args:
        enroll_blocks, test_blocks: (trial,) names of the speakers of the two utterances.
        target: (trial,) bool or 0/1, whether both utterances are of one speaker.
        scores: (trial,) finite; higher means more likely one speaker.

    Raises:
        ProbeError: lengths that differ, a target that is not 0 or 1, a score that is not finite.
    """
    is_target, ranks = ranked(target, scores)
    if not len(enroll_blocks) == len(test_blocks) == len(ranks):
        raise ProbeError(
            f"{len(enroll_blocks)} and {len(test_blocks)} blocks for {len(ranks)} trials; expected "
            "two a trial."
        )
    enroll, test = (
        [hashed_block(name) for name in names] for names in (enroll_blocks, test_blocks)
    )
    block = sorted({*enroll, *test})
    position = {digest: index for index, digest in enumerate(block)}
    return {
        "block": block,
        "enroll": [position[digest] for digest in enroll],
        "test": [position[digest] for digest in test],
        "target": is_target.astype(int).tolist(),
        "rank": ranks.tolist(),
    }


def scored_trials(counts: Counts, scores: ArrayLike, calibration: tuple[float, float]) -> Counts:
    """The counts of trials with what Cllr needs: ``score``, the score of each rank in single
    precision, and ``calibration``, the slope and the offset that make a log-likelihood ratio of it.

    Args:
        counts: of `trial_counts`.
        scores: (trial,) that the ranks are of.
        calibration: see `probe.measures.calibration.calibration`.
    """
    of_rank = np.unique(np.asarray(scores, np.float64)).astype(np.float32)
    return {**counts, "score": of_rank.tolist(), "calibration": list(calibration)}


def influence_counts(blocks: Sequence[str], tags: ArrayLike, values: ArrayLike) -> Counts:
    """What a value that is no function of sums over blocks is recorded by: ``value``, and per
    ``block`` its utterances (``n``), their ``tags`` and its ``influence`` on the value, None for
    all where the value without some block is undefined.

    With v_i the value without block i, v their mean and B the number of blocks, the influence is
    (B - 1) / B * (v - v_i): of a mean of equal blocks it is what each block contributes.

    Args:
        blocks: (utterance,) names of speakers.
        tags: (utterance,) how many tags each one has.
        values: (1 + block,) the value, and the value without each of ``sorted(set(blocks))``.

    Raises:
        ProbeError: lengths that differ, or a value that is undefined.
    """
    sums = ratio_counts(blocks, tags, [1] * len(blocks))
    all_values = np.asarray(values, np.float64)
    if all_values.shape != (1 + len(sums["block"]),) or not np.isfinite(all_values[0]):
        raise ProbeError(
            f"values of shape {all_values.shape}, the first {all_values[:1]}; expected a value and "
            f"one without each of {len(sums['block'])} blocks."
        )
    without = all_values[1:]
    influences = (len(without) - 1) / len(without) * (without.mean() - without)
    moved = dict(zip(map(hashed_block, sorted(set(blocks))), influences, strict=True))
    is_defined = np.isfinite(all_values).all()
    return {
        "block": sums["block"],
        "n": sums["denominator"],
        "tags": sums["numerator"],
        "value": float(all_values[0]),
        "influence": [float(moved[name]) if is_defined else None for name in sums["block"]],
    }


def pooled_counts(parts: Sequence[Counts]) -> Counts:
    """The counts of one score on several sets of utterances together: the sums of each block over
    all of them.

    Raises:
        ProbeError: counts of trials, which pair utterances of one set only, or of influences.
    """
    if any(form_of(part) == "influences" for part in parts):
        raise ProbeError("ranks of several folds cannot be pooled: each is among rows of one fold.")
    if any(is_trials(part) for part in parts):
        raise ProbeError("trials of several folds cannot be pooled: each pairs rows of one fold.")
    if "class" in parts[0]:
        return pooled_classes(parts)
    names = [name for name in parts[0] if name != "block"]
    sums: dict[str, list[Any]] = defaultdict(lambda: [0] * len(names))
    for part in parts:
        for digest, *amounts in zip(part["block"], *(part[name] for name in names), strict=True):
            sums[digest] = [sum(pair) for pair in zip(sums[digest], amounts, strict=True)]
    block = sorted(sums)
    columns = list(zip(*(sums[digest] for digest in block), strict=True))
    return {
        "block": block,
        **{name: list(column) for name, column in zip(names, columns, strict=True)},
    }


def as_often(counts: Counts, other: Counts) -> Counts:
    """The counts of a ratio with every utterance as often as in ``other``, which may be the counts
    of several draws of a control together; unchanged where the other's are no multiple of them.
    """
    if "seeds" in counts and "seeds" in other:
        pairs = zip(counts["seeds"], other["seeds"], strict=False)
        return {**counts, "seeds": [as_often(*pair) for pair in pairs]}
    if "denominator" not in counts or "denominator" not in other:
        return counts
    n, n_other = (int(np.sum(item["denominator"])) for item in (counts, other))
    if not n or n_other % n:
        return counts
    factor = n_other // n
    scaled = {
        name: [value * factor for value in counts[name]] for name in ("numerator", "denominator")
    }
    return {**counts, **scaled}


def several(seeds: Sequence[Counts]) -> Counts:
    """The counts of one score, trained with several seeds and tested on the same utterances:
    ``block`` and ``seeds``.

    Raises:
        ProbeError: the seeds were not scored on the same utterances.
    """
    for counts in seeds[1:]:
        check_same_utterances(seeds[0], counts)
    return {"block": seeds[0]["block"], "seeds": list(seeds)}


def per_seed(counts: Counts) -> list[Counts]:
    """The counts of each seed: what `several` was made of, or ``counts`` alone."""
    seeds: list[Counts] = counts.get("seeds", [counts])
    return seeds


def utterances_of(counts: Counts) -> tuple[Hashable, ...]:
    """A key that scores of the same utterances share, and no others: blocks with their
    denominators or true numbers or classes, or trials with their ends.
    """
    return tuple(
        tuple(column) if isinstance(column, list) else column.tobytes()
        for column in _shared_columns(per_seed(counts)[0]).values()
    )


def _shared_columns(counts: Counts) -> dict[str, Any]:
    """The columns of counts that scores of the same utterances share."""
    form = form_of(counts)
    if form == "classes":
        # Utterances of each true class in each block, whatever was predicted for them.
        sums = block_sums(counts)[:, : len(counts["class"])]
        return {"block": counts["block"], "class": counts["class"], "true_class": sums}
    columns = {key: column for key, column in counts.items() if key not in OF_SCORES}
    if form == "trials":
        return {
            key: column if key == "block" else np.asarray(column, np.int64)
            for key, column in columns.items()
        }
    return {key: np.asarray(column).tolist() for key, column in columns.items()}


def check_same_utterances(a: Counts, b: Counts) -> None:
    """Refuses two scores that cannot be paired.

    Raises:
        ProbeError: other blocks, denominators or trials, another form, or another number of seeds.
    """
    if form_of(a) != form_of(b):
        raise ProbeError(
            f"the counts of one score are {NAMES[form_of(a)]}, those of the other "
            f"{NAMES[form_of(b)]}: only scores of one metric can be compared."
        )
    if (n := len(per_seed(a))) != (m := len(per_seed(b))):
        raise ProbeError(
            f"one score is of {n} seeds, the other of {m}. Run both with the same seeds."
        )
    a, b = (_shared_columns(per_seed(counts)[0]) for counts in (a, b))
    if differing := [key for key in a if not np.array_equal(a[key], b[key])]:
        raise ProbeError(
            f"the two scores differ in {', '.join(differing)} ({len(a['block'])} and "
            f"{len(b['block'])} blocks): both must be scored on the same utterances. Run both on "
            "one manifest and trial list, and see what each of them left out."
        )


def form_of(counts: Counts) -> Form:
    """The form of counts.

    Raises:
        ProbeError: they have none.
    """
    keys = per_seed(counts)[0].keys()
    for form, known in FORMS.items():
        if keys == known or (form == "trials" and keys == known | CALIBRATED):
            return form
    raise ProbeError(
        f"counts with the keys {sorted(keys)} have none of the forms that this version knows "
        f"({', '.join(FORMS)}). Run the task again."
    )


def is_trials(counts: Counts) -> bool:
    """Whether counts are trials.

    Raises:
        ProbeError: they have no known form.
    """
    return form_of(counts) == "trials"


def value_of(counts: Counts, metric: str = EER.name) -> float:
    """The value that counts derive: sum over sum of a ratio, a metric of trials or of sums, the
    mean over seeds of either.

    Equal to ``jiwer.wer`` / ``jiwer.cer`` of the corpus and to sklearn's ``accuracy_score`` of the
    same outcomes.

    Args:
        metric: one of `probe.measures.detection.TRIAL_METRICS`, where the counts are trials, or of
            `probe.measures.block_sums`; a ratio has one value.

    Raises:
        ProbeError: denominators that sum to 0, no targets or no non-targets (there is no empty
            case), counts of no known form, a metric that they do not have, numbers that are all
            equal where a correlation is asked for.
    """
    if "seeds" in counts:
        return float(np.mean([value_of(item, metric) for item in per_seed(counts)]))
    if is_trials(counts):
        measure = trial_metric(metric, counts)
        return float(measure(*cumulative_trials(counts["target"], counts["rank"]))[0])
    if "influence" in counts:
        return float(counts["value"])
    if "numerator" not in counts:
        if "class" in counts and metric in CLASS_METRICS:
            value = exact_class_metric(counts, metric)
        else:
            value = float(sum_metric(counts, metric)(block_sums(counts).sum(axis=0)[None])[0])
        if np.isnan(value):
            raise ProbeError(f"{metric} is undefined: there are no utterances, or all are equal.")
        return value
    numerator, denominator = sum(counts["numerator"]), sum(counts["denominator"])
    if not denominator:
        raise ProbeError(
            f"denominators of {len(counts['block'])} blocks sum to 0: nothing to divide by. "
            "Were all utterances left out, or are all reference transcripts empty?"
        )
    return float(numerator / denominator)


def trial_metric(metric: str, counts: Counts) -> TrialMetric:
    """The function that computes a metric of these trials.

    Raises:
        ProbeError: trials have no such metric, or these counts lack the scores that it needs.
    """
    if metric == CLLR.name:
        if not counts.keys() >= CALIBRATED:
            raise ProbeError(
                f"{metric}: the counts hold ranks of trials and no scores. Run the task again."
            )
        slope, offset = counts["calibration"]
        return partial(cllrs, ratios=slope * np.asarray(counts["score"], np.float64) + offset)
    if metric not in TRIAL_METRICS:
        raise ProbeError(
            f"metric {metric!r} of trials; expected one of {', '.join(TRIAL_METRICS)}."
        )
    return TRIAL_METRICS[metric]


def independent_units(counts: Counts, metric: str) -> float | None:
    """The independent units that a value rests on at best: words or utterances of a ratio, of an
    EER or AUC 4 / (1 / targets + 1 / non-targets) trials, of averages over classes
    `probe.measures.block_sums.class_units`.

    The second has the variance of an EER whose two densities are equal at the threshold. None for
    amounts, costs, moments and influences, which are no share of units.
    """
    first = per_seed(counts)[0]
    form = form_of(first)
    if form in ("moments", "influences"):
        return None
    if form == "classes":
        return class_units(first)
    if form == "ratio":
        is_share = all(isinstance(amount, int) for amount in first["numerator"])
        return sum(first["denominator"]) if is_share else None
    n_targets, n = int(np.sum(first["target"])), len(first["target"])
    return None if metric_of(metric).is_cost else 4 * n_targets * (n - n_targets) / n


def _whole(values: ArrayLike, n: int) -> list[int]:
    array = np.asarray(values)
    if array.shape != (n,) or (n and array.dtype.kind not in "biu") or (array < 0).any():
        raise ProbeError(
            f"counts: found {array.dtype} of shape {array.shape}; expected a whole number >= 0 for "
            f"each of {n} utterances. Give sums (hits, errors), not rates."
        )
    return [int(value) for value in array.tolist()]
