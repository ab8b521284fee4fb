"""Groups of speakers: the worst group, and whether the spread of the groups exceeds chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.measures.block_sums import CELLS, block_sums, sum_metric
from probe.measures.counts import Counts, form_of, is_trials, value_of
from probe.measures.degradation import degradation
from probe.measures.detection import why_too_short
from probe.measures.intervals import CONFIDENCE, INTERVALS
from probe.measures.metrics import ACCURACY, EER, metric_of
from probe.measures.uncertainty import FEWEST_BLOCKS, Estimate, interval, measure

Floats = NDArray[np.float64]

UNDEFINED = Estimate(None)
N_DRAWS, N_DRAWS_OF_TRIALS = 1000, 200  # draws for the spread by chance


@dataclass(frozen=True)
class Group:
    """One group of blocks and its score; if the group cannot be scored, ``estimate`` has no value
    and gives the reason.
    """

    name: str
    estimate: Estimate
    n_blocks: int

    @property
    def few(self) -> bool:
        """Whether the blocks are too few for an interval, and for the group to be the worst."""
        return self.n_blocks < FEWEST_BLOCKS


@dataclass(frozen=True)
class Groups:
    """The scores of groups and their spread.

    Attributes:
        all: in the order of names; intervals hold for all groups at once (Bonferroni).
        worst, best: among groups with enough blocks; None if there are fewer than two.
        spread: difference between best and worst, >= 0. Its interval may contain values below 0:
            the pair was selected as the widest one, so the interval is corrected for all pairs
            (Bonferroni).
        by_chance: the mean spread if blocks were in groups at random (for speakers: if all were
            equally good).
        probability: how often chance gives a spread as large.
    """

    all: list[Group]
    worst: Group | None = None
    best: Group | None = None
    spread: Estimate = UNDEFINED
    by_chance: float | None = None
    probability: float | None = None


def compare_groups(
    counts: Counts,
    groups: Sequence[str],
    higher_is_better: bool,
    seed: int | None = 0,
    metric: str = EER.name,
) -> Groups:
    """Return the scores of groups of blocks, the worst and the best, and the probability of their
    spread by chance.

    The trials of a group have both ends in it. Blocks without a group (an empty name) are left out.

    Args:
        counts: see `probe.records`.
        groups: (block,) the group of each block.
        seed: random seed of the spread by chance; None leaves it out.
        metric: metric of trials; see `probe.measures.counts.value_of`.
    """
    if form_of(counts) == "influences":
        note = "this metric ranks all utterances together, so groups are not compared"
        return Groups([], spread=Estimate(None, note=note))
    labels = np.array(groups)
    names = sorted(set(labels.tolist()) - {""})
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(names))
    parts, scored = {}, []
    for name in names:
        parts[name] = part = _restricted(counts, labels == name, metric)
        estimate = Estimate(None, note="nothing to score")
        if part is not None:
            ends = interval(part, metric, confidence)
            estimate = Estimate(value_of(part, metric), *(ends or ()))
        scored.append(Group(name, estimate, int(np.sum(labels == name))))
    ranked = [group for group in scored if group.estimate.value is not None and not group.few]
    if len(ranked) < 2:
        note = (
            f"{len(ranked)} groups of {FEWEST_BLOCKS} blocks or more that can be scored; two are "
            "needed"
        )
        return Groups(scored, spread=Estimate(None, note=note))
    worst, best = _ends(ranked, higher_is_better)
    n_pairs = len(ranked) * (len(ranked) - 1) / 2
    low, high = (
        measure(parts[group.name] or {}, metric, counts["block"]) for group in (worst, best)
    )
    spread = degradation(high, low, higher_is_better).estimate(1 - (1 - CONFIDENCE) / n_pairs)
    if seed is None:
        return Groups(scored, worst, best, spread)
    labels = np.where(np.isin(labels, [group.name for group in ranked]), labels, "")
    chance = _spreads_of_random_groups(counts, labels, seed, metric)
    return Groups(scored, worst, best, spread, *_against(chance, spread))


def compare_blocks(
    counts: Counts,
    names: Sequence[str],
    higher_is_better: bool,
    seed: int | None = 0,
    metric: str = ACCURACY.name,
) -> Groups:
    """Apply `compare_groups` with each block (speaker) as a separate group.

    Intervals are exact binomial (or Poisson) ones for all blocks at once; within a block every unit
    (utterance, word) counts as independent, so they tend to be too narrow. The spread by chance
    assumes equally good blocks (binomial, or Poisson if a rate can exceed 1). The result is
    undefined for trials, whose ends are different speakers, for amounts that are not whole numbers,
    and for metrics that are not ratios.
    """
    if form_of(counts) != "ratio":
        note = "a trial has two speakers: speakers are no groups of trials"
        if not is_trials(counts):
            note = "this metric is no ratio, so speakers are not compared one by one"
        return Groups([], spread=Estimate(None, note=note))
    columns = zip(names, counts["numerator"], counts["denominator"], strict=True)
    ratios = [(name, n, d) for name, n, d in columns if d]
    if len(ratios) < 2 or any(isinstance(n, float) for _, n, _ in ratios):
        return Groups([], spread=Estimate(None, note="fewer than two blocks, or no whole numbers"))
    confidence = 1 - (1 - CONFIDENCE) / len(ratios)
    interval_of = INTERVALS[metric_of(metric).interval_scale]
    scored = [
        Group(name, Estimate(n / d, *(interval_of(n / d, 0.0, np.inf, d, confidence) or ())), 1)
        for name, n, d in ratios
    ]
    worst, best = _ends(scored, higher_is_better)
    top, bottom = (best, worst) if higher_is_better else (worst, best)
    spread = _difference(top.estimate, bottom.estimate)
    if seed is None:
        return Groups(scored, worst, best, spread)
    _, numerators, denominators = (np.array(column) for column in zip(*ratios, strict=True))
    chance = _spreads_of_equal_blocks(numerators, denominators, seed)
    return Groups(scored, worst, best, spread, *_against(chance, spread))


def _ends(groups: Sequence[Group], higher_is_better: bool) -> tuple[Group, Group]:
    """Return the worst and the best group; among equals, the first by name is the worst and the
    last the best.
    """
    sign = 1 if higher_is_better else -1
    order = sorted(groups, key=lambda group: (sign * (group.estimate.value or 0.0), group.name))
    return order[0], order[-1]


def _difference(top: Estimate, bottom: Estimate) -> Estimate:
    """Return the difference of two estimates, with the smallest and the largest difference that
    their intervals allow.
    """
    value = (top.value or 0.0) - (bottom.value or 0.0)
    if top.low is None or top.high is None or bottom.low is None or bottom.high is None:
        return Estimate(value)
    return Estimate(value, top.low - bottom.high, top.high - bottom.low)


def _restricted(counts: Counts, inside: NDArray[np.bool_], metric: str) -> Counts | None:
    """Return the counts of some blocks, (block,) bool; None if they have no value."""
    form = form_of(counts)
    if form != "trials":
        function = sum_metric(counts, metric)
        if np.isnan(function(block_sums(counts)[inside].sum(axis=0)[None])[0]):
            return None
    if form == "classes":
        at = np.asarray(counts["at"], np.int64)
        cells = {name: np.asarray(counts[name])[inside[at]] for name in CELLS}
        cells["at"] = (np.cumsum(inside) - 1)[cells["at"]]
        names = [name for name, kept in zip(counts["block"], inside, strict=True) if kept]
        return {**counts, **cells, "block": names}
    if form != "trials":
        return {
            key: [value for value, kept in zip(counts[key], inside, strict=True) if kept]
            for key in counts
        }
    ends = [np.asarray(counts[end], np.int64) for end in ("enroll", "test")]
    within = inside[ends[0]] & inside[ends[1]]
    place = np.cumsum(inside) - 1
    enroll, test = (place[end[within]] for end in ends)
    target, rank = (np.asarray(counts[key])[within] for key in ("target", "rank"))
    n_others = int(len(target) - target.sum())
    if not 0 < n_others < len(target) or why_too_short(metric, n_others):
        return None
    block = [name for name, kept in zip(counts["block"], inside, strict=True) if kept]
    used, dense = np.unique(rank, return_inverse=True)
    part = {"block": block, "enroll": enroll, "test": test, "target": target, "rank": dense}
    if "score" in counts:
        part |= {**counts, **part, "score": np.asarray(counts["score"])[used]}
    return part


def _spreads_of_random_groups(
    counts: Counts, labels: NDArray[np.str_], seed: int, metric: str
) -> Floats:
    """Return (draw,) the spread with the groups of blocks shuffled; blocks without a group keep
    none.
    """
    generator = np.random.default_rng(seed)
    names, label = np.unique(labels, return_inverse=True)
    grouped, numbers = np.flatnonzero(labels != ""), np.flatnonzero(names != "")
    spreads = []
    for _ in range(N_DRAWS_OF_TRIALS if is_trials(counts) else N_DRAWS):
        label[grouped] = generator.permutation(label[grouped])
        values = _values_of_groups(counts, label, numbers, metric)
        if np.isfinite(values).all():
            spreads.append(np.ptp(values))
    return np.array(spreads)


def _values_of_groups(
    counts: Counts, label: NDArray[np.int64], numbers: NDArray[np.int64], metric: str
) -> Floats:
    """Return (group,) the values of the groups with these numbers, NaN if undefined; ``label``
    (block,) holds the number of each block's group.
    """
    if is_trials(counts):
        parts = [_restricted(counts, label == number, metric) for number in numbers]
        return np.array([np.nan if part is None else value_of(part, metric) for part in parts])
    sums = [np.bincount(label, column, numbers.max() + 1) for column in block_sums(counts).T]
    of_groups = np.stack(sums, axis=1).astype(np.float64)
    return sum_metric(counts, metric)(of_groups[numbers])


def _spreads_of_equal_blocks(
    numerators: NDArray[np.int64], denominators: NDArray[np.int64], seed: int
) -> Floats:
    """Return (draw,) the spread if all blocks were equally good."""
    generator, rate = np.random.default_rng(seed), numerators.sum() / denominators.sum()
    size = (N_DRAWS, len(denominators))
    if (numerators <= denominators).all():
        drawn = generator.binomial(denominators, rate, size)
    else:
        drawn = generator.poisson(denominators * rate, size)
    spreads: Floats = np.ptp(drawn / denominators, axis=1)
    return spreads


def _against(chance: Floats, spread: Estimate) -> tuple[float | None, float | None]:
    """Return the mean spread by chance and the probability of a spread at least as large (the
    observed spread counts as one draw).
    """
    if not len(chance):
        return None, None
    n_as_large = np.sum(chance >= (spread.value or 0.0) - 1e-12)
    return float(chance.mean()), float((1 + n_as_large) / (1 + len(chance)))
