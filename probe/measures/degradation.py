"""Robustness: what a score loses under other conditions, how much of a gap another model closes,
and which group is worst.

Aim: every measure with an interval, from the counts that records keep.

Conventions: a `Sampled` score is its value and its values in resamples of blocks (speakers), see
`probe.measures.uncertainty`. Scores of the same blocks are resampled together, so ``clean -
disturbed`` is a paired difference: what makes a speaker hard in both cancels. Sums and differences
of scores have the interval value +- t * se * sqrt(E / (E - 1)) of that module; ratios have
Fieller's (1954): all r for which ``top - r * bottom`` is not told from 0. A ratio whose ``bottom``
is not told from 0 is undefined: nearly any value would be in keeping with the scores.
``docs/robustness.md`` says how often the intervals held the truth.

Sources: Shah et al., Speech Robust Bench, arXiv 2403.07937 (WERD, NWER, NWERD, WERV); Taori et al.
2020, arXiv 2007.00644 (effective robustness); Hsu et al. 2021, arXiv 2104.01027 (the gap closed).
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, expit, logit, stdtrit

from probe.errors import ProbeError
from probe.measures.counts import Counts, is_trials, value_of
from probe.measures.metrics import EER
from probe.measures.uncertainty import (
    effective_blocks,
    half_width,
    highest,
    interval,
    least_error,
    resamples,
    units_of,
    wilson_interval,
)

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
FEWEST_MODELS = 5  # that a line is fitted over
FEW_BLOCKS = 4  # a group of fewer is flagged, and cannot be the worst
N_RESAMPLES = 1000
N_DRAWS, N_DRAWS_OF_TRIALS = 1000, 200  # of the spread that chance gives


@dataclass(frozen=True)
class Estimate:
    """A measure with its interval.

    Attributes:
        value: None where it is undefined; ``note`` says why.
        low, high: the interval, None where there are too few blocks.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval is known and holds no 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def at_least(self, least: float) -> "Estimate":
        """The same with value and ends no lower than ``least``."""
        value, low, high = (
            None if end is None else max(end, least) for end in (self.value, self.low, self.high)
        )
        return replace(self, value=value, low=low, high=high)


@dataclass(frozen=True)
class Sampled:
    """A score, or a sum of scores, with its values in resamples.

    Attributes:
        value: the score.
        resampled: (resample,) NaN where there is none.
        n_blocks: of equal size that would weigh as much.
        blocks: what was resampled; only scores that agree in it can be added.
        least, most: what the value can be.
        units: independent units that the value rests on at best, see
            `probe.measures.uncertainty.least_error`.
        apart: whether scores of the same blocks may be of other utterances.
    """

    value: float
    resampled: Floats
    n_blocks: float
    blocks: str
    least: float = -math.inf
    most: float = math.inf
    units: float | None = None
    apart: bool = False

    def __add__(self, other: "Sampled | float") -> "Sampled":
        if not isinstance(other, Sampled):
            least, most = self.least + other, self.most + other
            return replace(
                self,
                value=self.value + other,
                resampled=self.resampled + other,
                least=least,
                most=most,
            )
        if self.blocks != other.blocks:
            raise ProbeError(
                "the two scores are not of the same utterances: a paired difference needs the same blocks and denominators, or the "
                "same trials. Run both on one manifest and trial list, and see what each of them left out."
            )
        n_blocks = min(self.n_blocks, other.n_blocks)
        units = None
        if self.units and other.units:  # variances of other utterances add up
            units = (
                1 / (1 / self.units + 1 / other.units)
                if self.apart
                else min(self.units, other.units)
            )
        return Sampled(
            self.value + other.value,
            self.resampled + other.resampled,
            n_blocks,
            self.blocks,
            self.least + other.least,
            self.most + other.most,
            units,
            self.apart,
        )

    def __mul__(self, factor: float) -> "Sampled":
        least, most = sorted((self.least * factor, self.most * factor))
        return replace(
            self,
            value=self.value * factor,
            resampled=self.resampled * factor,
            least=least,
            most=most,
        )

    def __neg__(self) -> "Sampled":
        return self * -1

    def __sub__(self, other: "Sampled | float") -> "Sampled":
        return self + (-other)

    @property
    def least_error(self) -> float:
        """The standard error that the value has at least."""
        return least_error(self.value, self.units)

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """The value with its interval, without ends where blocks are too few."""
        half = half_width(self.resampled, self.n_blocks, confidence)
        if half is None:
            return Estimate(self.value)
        half = max(half, float(stdtrit(self.n_blocks - 1, (1 + confidence) / 2)) * self.least_error)
        return Estimate(
            self.value, max(self.least, self.value - half), min(self.most, self.value + half)
        )


def sampled(
    counts: Counts, seed: int = 0, over: Sequence[str] | None = None, metric: str = EER.name
) -> Sampled:
    """The value of ``counts`` and its values in resamples of blocks.

    Args:
        counts: see `probe.records`.
        seed: of the resamples.
        over: names of blocks to draw from, those of ``counts`` among them, for scores of different
            utterances (two domains) that are to be compared; without it, the counts' own.
        metric: of trials, see `probe.measures.counts.value_of`.

    Raises:
        ProbeError: the counts have no value.
    """
    spread = counts if over is None else _spread(counts, over)
    same = ("block", "denominator", "enroll", "test", "target") if over is None else ("block",)
    told = [np.asarray(spread[name]).tolist() for name in same if name in spread]
    blocks = hashlib.sha256(repr(told).encode()).hexdigest()
    resampled = resamples(spread, seed, N_RESAMPLES, metric)
    return Sampled(
        value_of(counts, metric),
        resampled,
        effective_blocks(counts),
        blocks,
        0.0,
        highest(counts),
        units_of(counts, metric),
        over is not None,
    )


def _spread(counts: Counts, over: Sequence[str]) -> Counts:
    """The same counts over more blocks."""
    place = {name: index for index, name in enumerate(over)}
    to = np.array([place[name] for name in counts["block"]], np.int64)
    if is_trials(counts):
        moved = {end: to[np.asarray(counts[end], np.int64)] for end in ("enroll", "test")}
        return {**counts, **moved, "block": list(over)}
    wider: dict[str, list[Any]] = {name: [0] * len(over) for name in ("numerator", "denominator")}
    for name, values in wider.items():
        for index, amount in zip(to, counts[name], strict=True):
            values[index] = amount
    return {**counts, **wider, "block": list(over)}


def ratio(top: Sampled, bottom: Sampled, confidence: float = CONFIDENCE) -> Estimate:
    """``top / bottom`` with Fieller's interval.

    Undefined where 0 lies in the interval of ``bottom``; without ends where blocks are too few.
    """
    if (
        half_width((top + bottom).resampled, (n := min(top.n_blocks, bottom.n_blocks)), confidence)
        is None
    ):
        return Estimate(
            top.value / bottom.value if bottom.value else None,
            note="" if bottom.value else "division by 0",
        )
    both = np.stack([top.resampled, bottom.resampled])
    t = stdtrit(n - 1, (1 + confidence) / 2)
    scale = t**2 * n / (n - 1)
    (tt, tb), (_, bb) = scale * np.cov(both[:, np.isfinite(both).all(axis=0)])
    tt, bb = (max(square, t**2 * part.least_error**2) for square, part in ((tt, top), (bb, bottom)))
    # r is in the interval if (top - r bottom)^2 <= tt - 2 r tb + r^2 bb: between the roots of a r^2
    # - 2 b r + c.
    a, b, c = bottom.value**2 - bb, top.value * bottom.value - tb, top.value**2 - tt
    if a <= 0:
        return Estimate(None, note="what it is divided by lies within its noise")
    root = float(np.sqrt(max(0.0, b * b - a * c)))
    return Estimate(top.value / bottom.value, float((b - root) / a), float((b + root) / a))


def degradation(clean: Sampled, disturbed: Sampled, higher_is_better: bool) -> Sampled:
    """What a score loses: positive where it is worse under the condition, in the metric's own unit
    (a fraction).
    """
    return clean - disturbed if higher_is_better else disturbed - clean


def relative_degradation(clean: Sampled, disturbed: Sampled, higher_is_better: bool) -> Estimate:
    """The degradation as a part of the clean score: 0.5 halves an accuracy, 1.0 doubles an error
    rate.
    """
    return ratio(degradation(clean, disturbed, higher_is_better), clean)


def margin_lost(
    loss: Sampled,
    clean: Sampled,
    chance: "Sampled | float",
    higher_is_better: bool,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The degradation as a part of what the clean score is above chance: 0 keeps all of it, 1
    leaves what chance gives.

    Undefined at chance, where there is nothing to lose; so it tells a layer that is invariant from
    one that knows nothing.
    """
    return ratio(loss, clean - chance if higher_is_better else -clean + chance, confidence)


def error_degradation(
    clean: Sampled, disturbed: Sampled, higher_is_better: bool, confidence: float = CONFIDENCE
) -> Estimate:
    """Speech Robust Bench's WERD, max(disturbed error - clean error, 0); the error of an accuracy
    is 1 - accuracy.
    """
    return degradation(clean, disturbed, higher_is_better).estimate(confidence).at_least(0)


def normalised_error(model: Sampled, baseline: Sampled, higher_is_better: bool) -> Estimate:
    """Speech Robust Bench's NWER as its paper has it: error / error of a baseline model on the same
    utterances and condition.

    The code beside the paper divides by a difficulty of the condition instead, from DNSMOS and PESQ
    of its audio; this does not.
    """
    return ratio(_error(model, higher_is_better), _error(baseline, higher_is_better))


def normalised_degradation(loss: Sampled, baseline_loss: Sampled) -> Estimate:
    """NWERD: WERD / WERD of the baseline; undefined where the baseline's own degradation is not
    beyond its noise and above 0.
    """
    if baseline_loss.value <= 0:
        return Estimate(None, note="the baseline loses nothing")
    return ratio(loss, baseline_loss).at_least(0)


def _error(score: Sampled, higher_is_better: bool) -> Sampled:
    return -score + 1 if higher_is_better else score


def variance(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """WERV: the variance (of the sample, K - 1 below) of an error rate over K samplings of
    condition and training.

    The interval is that of normal values (chi squared with K - 1 degrees of freedom). Undefined
    with one sampling.
    """
    n = len(values)
    if n < 2:
        return Estimate(None, note="one sampling: a variance needs two or more seeds")
    found = float(np.var(values, ddof=1))
    if not found:
        return Estimate(
            found, note="all samplings are equal, so nothing tells how far off the variance is"
        )
    ends = [
        (n - 1) * found / chdtri(n - 1, tail)
        for tail in ((1 - confidence) / 2, (1 + confidence) / 2)
    ]
    return Estimate(found, float(ends[0]), float(ends[1]))


def gap_closed(a: Sampled, b: Sampled, c: Sampled, higher_is_better: bool) -> Estimate:
    """(A - B) / (A - C): the part of the gap between out-of-domain and in-domain training that
    another model closes.

    All on the target domain's test rows. Values below 0 (worse than A) and above 1 (better than C)
    are legal. Undefined unless C is better than A beyond noise.

    Args:
        a: the first model, trained on the other domain.
        b: the second model, trained on the other domain.
        c: trained on the target domain: of the first model in one reading, of the second in the
            other.
    """
    gap = degradation(c, a, higher_is_better)
    found = gap.estimate()
    if found.low is None:
        return Estimate(None, note="too few blocks to tell whether there is a gap")
    if found.low <= 0:
        why = (
            "in-domain training is the worse" if found.beyond_noise else "it lies within its noise"
        )
        return Estimate(None, note=f"no gap to close: {why}")
    return ratio(degradation(b, a, higher_is_better), gap)


def effective_robustness(
    points: Mapping[str, tuple[float, float]], confidence: float = CONFIDENCE
) -> dict[str, Estimate]:
    """How far each model's disturbed score lies above what its clean score predicts, as a fraction;
    above 0 is better.

    The prediction is a straight line over the other models on logit axes (each model is left out of
    its own line), the interval that of a prediction by least squares: 0 outside means off the line
    of the others by more than these scatter.

    Args:
        points: model -> (clean, disturbed), accuracies, or 1 - error.

    Returns:
        Each model's; undefined with fewer than `FEWEST_MODELS` scores strictly between 0 and 1.
    """
    usable = {
        name: logit(np.array(point))
        for name, point in points.items()
        if all(0 < value < 1 for value in point)
    }
    if len(usable) < FEWEST_MODELS:
        why = f"{len(usable)} models with scores between 0 and 1; a line needs {FEWEST_MODELS}"
        return {name: Estimate(None, note=why) for name in points}
    found = {}
    for name in points:
        others = np.array([point for other, point in usable.items() if other != name])
        if name not in usable:
            found[name] = Estimate(None, note="a score of 0 or 1 has no place on a logit axis")
        elif np.ptp(others[:, 0]) == 0:
            found[name] = Estimate(
                None, note="the other models' clean scores are all equal: no line"
            )
        else:
            found[name] = _off_the_line(others, usable[name][0], points[name][1], confidence)
    return found


def _off_the_line(others: Floats, x: float, disturbed: float, confidence: float) -> Estimate:
    """The distance of a score from the line through ``others``, (model, 2) on logit axes."""
    n, (middle_x, middle_y) = len(others), others.mean(axis=0)
    from_x, from_y = (others - [middle_x, middle_y]).T
    slope = from_x @ from_y / (from_x @ from_x)
    predicted = middle_y + slope * (x - middle_x)
    scatter = np.square(from_y - slope * from_x).sum() / (n - 2)
    se = np.sqrt(scatter * (1 + 1 / n + (x - middle_x) ** 2 / (from_x @ from_x)))
    half = stdtrit(n - 2, (1 + confidence) / 2) * se
    low, high = disturbed - expit(predicted + half), disturbed - expit(predicted - half)
    return Estimate(float(disturbed - expit(predicted)), float(low), float(high))


@dataclass(frozen=True)
class Group:
    """One group of blocks and its score; ``estimate`` has no value where the group cannot be
    scored, and says why.
    """

    name: str
    estimate: Estimate
    n_blocks: int

    @property
    def few(self) -> bool:
        """Whether the blocks are too few for the group to be called the worst."""
        return self.n_blocks < FEW_BLOCKS


@dataclass(frozen=True)
class Groups:
    """The scores of groups and how far they lie apart.

    Attributes:
        all: in the order of names; intervals hold for all groups at once (Bonferroni).
        worst, best: of those that are not too few; None where fewer than two can be told.
        spread: best against worst, >= 0; the interval is of this difference and may hold values
            below 0: a pair that was looked for is widest by luck, so it is corrected for all pairs
            (Bonferroni).
        by_chance: the mean spread if blocks were in groups at random (of speakers: if all were
            equally good).
        probability: how often chance gives a spread as large.
    """

    all: list[Group]
    worst: Group | None = None
    best: Group | None = None
    spread: Estimate = Estimate(None)
    by_chance: float | None = None
    probability: float | None = None


def compare_groups(
    counts: Counts,
    groups: Sequence[str],
    higher_is_better: bool,
    seed: int = 0,
    metric: str = EER.name,
) -> Groups:
    """Scores per group of blocks, the worst and the best, and whether chance alone would spread
    them as far.

    A group's trials are those with both ends in it. Blocks without a group (an empty name) are left
    out.

    Args:
        counts: see `probe.records`.
        groups: (block,) the group of each block.
        seed: of resamples and random groups.
        metric: of trials, see `probe.measures.counts.value_of`.
    """
    labels = np.array(groups)
    names = sorted(set(labels.tolist()) - {""})
    parts = {name: _restricted(counts, labels == name) for name in names}
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(names))
    scored = [
        _group(name, parts[name], int(np.sum(labels == name)), confidence, seed, metric)
        for name in names
    ]
    told = [item for item in scored if item.estimate.value is not None and not item.few]
    if len(told) < 2:
        why = (
            f"{len(told)} groups of {FEW_BLOCKS} blocks or more that can be scored; two are needed"
        )
        return Groups(scored, spread=Estimate(None, note=why))
    worst, best = _ends(told, higher_is_better)
    n_pairs = len(told) * (len(told) - 1) / 2
    low, high = (
        sampled(parts[item.name] or {}, seed, counts["block"], metric) for item in (worst, best)
    )
    spread = degradation(high, low, higher_is_better).estimate(1 - (1 - CONFIDENCE) / n_pairs)
    kept = np.where(np.isin(labels, [item.name for item in told]), labels, "")
    return Groups(
        scored,
        worst,
        best,
        spread,
        *_against(_spreads_of_random_groups(counts, kept, seed, metric), spread.value or 0.0),
    )


def _ends(groups: Sequence[Group], higher_is_better: bool) -> tuple[Group, Group]:
    """The worst and the best; of equals the first by name is worst, the last best."""
    sign = 1 if higher_is_better else -1
    order = sorted(groups, key=lambda item: (sign * (item.estimate.value or 0.0), item.name))
    return order[0], order[-1]


def compare_blocks(
    counts: Counts, names: Sequence[str], higher_is_better: bool, seed: int = 0
) -> Groups:
    """As `compare_groups` where each block (speaker) is a group of its own.

    Intervals are Wilson's for all blocks at once, within a block every unit (utterance, word)
    counts as independent, so they are rather too narrow; chance is what is spread if all blocks
    were equally good (binomial, or Poisson where a rate can exceed 1). Undefined for trials, whose
    ends are different speakers, and for amounts that are not whole numbers.
    """
    if is_trials(counts):
        return Groups(
            [],
            spread=Estimate(
                None, note="a trial has two speakers: speakers are no groups of trials"
            ),
        )
    pairs = [
        (name, n, d)
        for name, n, d in zip(names, counts["numerator"], counts["denominator"], strict=True)
        if d
    ]
    if len(pairs) < 2 or any(isinstance(n, float) for _, n, _ in pairs):
        return Groups([], spread=Estimate(None, note="fewer than two blocks, or no whole numbers"))
    confidence = 1 - (1 - CONFIDENCE) / len(pairs)
    scored = [Group(name, _block_estimate(n, d, confidence), 1) for name, n, d in pairs]
    worst, best = _ends(scored, higher_is_better)
    top, bottom = (best, worst) if higher_is_better else (worst, best)
    spread = _apart(top.estimate, bottom.estimate)
    above, below = (np.array(column) for column in list(zip(*pairs, strict=True))[1:])
    generator, rate = np.random.default_rng(seed), above.sum() / below.sum()
    binomial = bool((above <= below).all())
    size = (N_DRAWS, len(pairs))
    drawn = (
        generator.binomial(below, rate, size) if binomial else generator.poisson(below * rate, size)
    )
    return Groups(
        scored, worst, best, spread, *_against(np.ptp(drawn / below, axis=1), spread.value or 0.0)
    )


def _apart(top: Estimate, bottom: Estimate) -> Estimate:
    """How far two estimates lie apart, between the nearest and the farthest that their intervals
    allow.
    """
    value = (top.value or 0.0) - (bottom.value or 0.0)
    if top.low is None or top.high is None or bottom.low is None or bottom.high is None:
        return Estimate(value)
    return Estimate(value, top.low - bottom.high, top.high - bottom.low)


def _block_estimate(numerator: int, denominator: int, confidence: float) -> Estimate:
    ends = (
        wilson_interval(numerator, denominator, confidence)
        if numerator <= denominator
        else (None, None)
    )
    return Estimate(numerator / denominator, *ends)


def _group(
    name: str, part: Counts | None, n_blocks: int, confidence: float, seed: int, metric: str
) -> Group:
    if part is None:
        return Group(name, Estimate(None, note="nothing to score"), n_blocks)
    ends = interval(part, seed, N_RESAMPLES, confidence, metric)
    return Group(name, Estimate(value_of(part, metric), *(ends or ())), n_blocks)


def _restricted(counts: Counts, inside: NDArray[np.bool_]) -> Counts | None:
    """The counts of some blocks, (block,) bool; None where they have no value."""
    block = [name for name, kept in zip(counts["block"], inside, strict=True) if kept]
    if not is_trials(counts):
        part = {
            key: [value for value, kept in zip(counts[key], inside, strict=True) if kept]
            for key in counts
        }
        return part if sum(part["denominator"]) else None
    ends = [np.asarray(counts[end], np.int64) for end in ("enroll", "test")]
    within = inside[ends[0]] & inside[ends[1]]
    place = np.cumsum(inside) - 1
    enroll, test = (place[end[within]] for end in ends)
    target, rank = (np.asarray(counts[key])[within] for key in ("target", "rank"))
    if not 0 < target.sum() < len(target):
        return None
    return {"block": block, "enroll": enroll, "test": test, "target": target, "rank": rank}


def _spreads_of_random_groups(
    counts: Counts, labels: NDArray[np.str_], seed: int, metric: str
) -> Floats:
    """(draw,) the spread with the blocks' groups shuffled; blocks without a group stay so."""
    generator = np.random.default_rng(seed)
    names, label = np.unique(labels, return_inverse=True)
    there, wanted = np.flatnonzero(labels != ""), np.flatnonzero(names != "")
    spreads = []
    for _ in range(N_DRAWS_OF_TRIALS if is_trials(counts) else N_DRAWS):
        label[there] = generator.permutation(label[there])
        values = _values_of_groups(counts, label, wanted, metric)
        if np.isfinite(values).all():
            spreads.append(np.ptp(values))
    return np.array(spreads)


def _values_of_groups(
    counts: Counts, label: NDArray[np.int64], wanted: NDArray[np.int64], metric: str
) -> Floats:
    """(group,) the values of the groups with these numbers, NaN where there is none; ``label``
    (block,) numbers the groups.
    """
    if is_trials(counts):
        parts = [_restricted(counts, label == number) for number in wanted]
        return np.array([np.nan if part is None else value_of(part, metric) for part in parts])
    above, below = (
        np.bincount(label, counts[key], wanted.max() + 1)[wanted]
        for key in ("numerator", "denominator")
    )
    return np.divide(above, below, out=np.full(len(wanted), np.nan), where=below > 0)


def _against(chance: Floats, spread: float) -> tuple[float | None, float | None]:
    """The mean of what chance gives, and how often it gives as much (the observed one counts as one
    draw).
    """
    if not len(chance):
        return None, None
    return float(chance.mean()), float((1 + np.sum(chance >= spread - 1e-12)) / (1 + len(chance)))
