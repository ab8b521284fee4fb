"""What a value derives from, in the two forms that records hold.

Aim: enough to recompute a value, its interval and its difference from another score, without names
and without outcomes. `probe.records` describes the forms: a ratio of sums (accuracy, WER, CER) and
trials (EER, minDCF). A third, `several`, holds the counts of several trainings on the same
utterances; its value is the mean of theirs. It is made when tables are, and in no record.

Conventions: a block is a set of utterances that stand or fall together, all of one speaker; where
no speaker is known, each utterance is its own. Names come in plain and leave hashed; blocks stand
in the order of their hashes, whatever the order of the utterances. Everything is plain ``int``,
``str`` and ``list``, ready for JSON; amounts are ``float``.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probe.errors import ProbeError
from probe.measures.detection import METRICS, per_rank, ranked
from probe.measures.metrics import EER
from probe.records import hashed_block

Counts = dict[str, Any]
TrialMetric = Callable[[NDArray[np.int64], NDArray[np.int64]], float]


def ratio_counts(blocks: Sequence[str], numerator: ArrayLike, denominator: ArrayLike) -> Counts:
    """Sums per block: ``block``, ``numerator`` and ``denominator``, one entry a block.

    Args:
        blocks: (utterance,) names of speakers.
        numerator: (utterance,) whole numbers or bool: hits, errors ...
        denominator: (utterance,) whole numbers: 1 for accuracy, reference words for WER ...

    Raises:
        ProbeError: lengths that differ, or numbers that are negative or not whole.
    """
    return _sums(blocks, _whole(numerator, len(blocks)), _whole(denominator, len(blocks)))


def amount_counts(blocks: Sequence[str], amounts: ArrayLike) -> Counts:
    """As `ratio_counts`, for the mean of an amount such as bits: (utterance,) finite and >= 0; each
    utterance counts once.

    Raises:
        ProbeError: lengths that differ, or an amount that is negative or not finite.
    """
    values = np.asarray(amounts, np.float64)
    if values.shape != (len(blocks),) or not np.isfinite(values).all() or (values < 0).any():
        raise ProbeError(
            f"amounts of shape {values.shape}, not all finite and >= 0; expected one for each of {len(blocks)} utterances."
        )
    return _sums(blocks, values.tolist(), [1] * len(blocks))


def _sums(blocks: Sequence[str], above: Sequence[float], below: Sequence[int]) -> Counts:
    sums: dict[str, list[Any]] = defaultdict(lambda: [0, 0])
    for name, upper, lower in zip(blocks, above, below, strict=True):
        pair = sums[hashed_block(name)]
        pair[0] += upper
        pair[1] += lower
    block = sorted(sums)
    return {
        "block": block,
        "numerator": [sums[b][0] for b in block],
        "denominator": [sums[b][1] for b in block],
    }


def trial_counts(
    enroll_blocks: Sequence[str], test_blocks: Sequence[str], target: ArrayLike, scores: ArrayLike
) -> Counts:
    """Trials with the blocks of their two ends: ``block``, and ``enroll``, ``test``, ``target`` and
    ``rank``, one entry a trial.

    Trials keep their order: it is the trial list's, and what pairs the trials of two models.

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
            f"{len(enroll_blocks)} and {len(test_blocks)} blocks for {len(ranks)} trials; expected two a trial."
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
    """The counts of each seed: what `several` was made of, or these themselves."""
    found: list[Counts] = counts.get("seeds", [counts])
    return found


def utterances_of(counts: Counts) -> tuple[Hashable, ...]:
    """What scores of the same utterances agree in, and no others: blocks with their denominators,
    or trials with their ends.
    """
    first = per_seed(counts)[0]
    if not is_trials(first):
        return tuple(first["block"]), tuple(first["denominator"])
    return tuple(first["block"]), *(
        np.asarray(first[key], np.int64).tobytes() for key in ("enroll", "test", "target")
    )


def check_same_utterances(a: Counts, b: Counts) -> None:
    """Refuses two scores that cannot be paired.

    Raises:
        ProbeError: other blocks, denominators or trials, another form, or another number of seeds.
    """
    if is_trials(a) != is_trials(b):
        raise ProbeError(
            "one score is a ratio of sums, the other is of trials: only scores of one metric can be compared."
        )
    if (n := len(per_seed(a))) != (m := len(per_seed(b))):
        raise ProbeError(
            f"one score is of {n} seeds, the other of {m}. Run both with the same seeds."
        )
    a, b = per_seed(a)[0], per_seed(b)[0]
    same = [key for key in a if key not in ("numerator", "rank")]
    if differing := [key for key in same if not np.array_equal(a[key], b[key])]:
        raise ProbeError(
            f"the two scores differ in {', '.join(differing)} ({len(a['block'])} and {len(b['block'])} blocks): both must be "
            "scored on the same utterances. Run both on one manifest and trial list, and see what each of them left out."
        )


def is_trials(counts: Counts) -> bool:
    """Whether counts are trials, and not a ratio of sums.

    Raises:
        ProbeError: they are neither.
    """
    counts = per_seed(counts)[0]
    if counts.keys() == {"block", "numerator", "denominator"}:
        return False
    if counts.keys() == {"block", "enroll", "test", "target", "rank"}:
        return True
    raise ProbeError(
        f"counts with the keys {sorted(counts)} are neither a ratio of sums nor trials. Run the task again."
    )


def value_of(counts: Counts, metric: str = EER.name) -> float:
    """The value that counts derive: sum over sum of a ratio, a metric of trials, the mean over
    seeds of either.

    Whether higher is better, the metric says.

    Equal to ``jiwer.wer`` / ``jiwer.cer`` of the corpus and to sklearn's ``accuracy_score`` of the
    same outcomes.

    Args:
        metric: of `probe.measures.detection.METRICS`, where the counts are trials; a ratio has one
            value.

    Raises:
        ProbeError: denominators that sum to 0, no targets or no non-targets (there is no empty
            case), counts of neither form, trials that are asked for another metric.
    """
    if "seeds" in counts:
        return float(np.mean([value_of(item, metric) for item in per_seed(counts)]))
    if is_trials(counts):
        target, ranks = ranked(counts["target"], counts["rank"])
        n_ranks = int(ranks.max(initial=-1)) + 1
        return trial_metric(metric)(
            per_rank(ranks, target, n_ranks), per_rank(ranks, ~target, n_ranks)
        )
    above, below = sum(counts["numerator"]), sum(counts["denominator"])
    if not below:
        raise ProbeError(
            f"denominators of {len(counts['block'])} blocks sum to 0: nothing to divide by. "
            "Were all utterances left out, or are all reference transcripts empty?"
        )
    return float(above / below)


def trial_metric(metric: str) -> TrialMetric:
    """What takes a metric from the target and non-target trials at each rank.

    Raises:
        ProbeError: trials have no such metric.
    """
    if metric not in METRICS:
        raise ProbeError(f"metric {metric!r} of trials; expected one of {', '.join(METRICS)}.")
    return METRICS[metric]


def _whole(values: ArrayLike, n: int) -> list[int]:
    array = np.asarray(values)
    if array.shape != (n,) or (n and array.dtype.kind not in "biu") or (array < 0).any():
        raise ProbeError(
            f"counts: found {array.dtype} of shape {array.shape}; expected a whole number >= 0 for each of {n} utterances. "
            "Give sums (hits, errors), not rates."
        )
    return [int(value) for value in array.tolist()]
