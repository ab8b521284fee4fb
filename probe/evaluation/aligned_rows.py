"""Which rows of two stores belong to the same sound, and a sample of them.

docs/similarity.md says how rows are aligned. Rows stand by groups: speakers (or utterances, where
no speaker is known) are dealt into at most `MOST_GROUPS` groups of similar size, which a jackknife
leaves out one at a time. The sample takes every k-th pair of all, from a random start on, so that
groups, speakers and utterances all have their share.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from probe.data.corpus import Utterance
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import Features, block_of
from probe.evaluation.frame_times import first_centre_s
from probe.store.views import n_rows, parse_view

MOST_STRETCH = 2.0  # lengths may differ by this factor, and by `MOST_APART` frames more
MOST_APART = 4  # frames: front-ends round the number of frames, drop or pad the end
MOST_GROUPS = 10

BY_INDEX = "row i with row i"
STRETCHED = "nearest share of the utterance, where lengths differ"
BY_TIME = "mean of the frames within half the longer hop"


@dataclass(frozen=True)
class Ranges:
    """The rows of one side in each pair: the mean of ``first`` to ``stop``, both (pair,) int64."""

    first: np.ndarray
    stop: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(pair, dim): the rows themselves where each range has one; else their means, float32."""
        if (self.stop - self.first == 1).all():
            return rows if len(rows) == len(self.first) else rows[self.first]
        start = np.zeros((1, rows.shape[1]))
        sums = np.concatenate([start, np.cumsum(rows, axis=0, dtype=np.float64)])
        means = (sums[self.stop] - sums[self.first]) / (self.stop - self.first)[:, None]
        return means.astype(np.float32)


@dataclass(frozen=True)
class Pairs:
    """The pairs of rows of some utterances.

    Attributes:
        utterances: by group, within a group in the order of the first store.
        ranges: of each utterance, on both sides.
        sampled: of each utterance, its pairs in the sample: (sampled,) int64, ascending.
        bounds: (group + 1,) first sampled pair of each group.
        alignment: how rows were aligned.
        left_out: reason -> utterances.
    """

    utterances: list[Utterance]
    ranges: list[tuple[Ranges, Ranges]]
    sampled: list[np.ndarray]
    bounds: list[int]
    alignment: str
    left_out: dict[str, int]

    @property
    def n_rows(self) -> int:
        """All pairs."""
        return sum(len(one.first) for one, _ in self.ranges)

    @property
    def n_sampled(self) -> int:
        """Pairs in the sample."""
        return sum(map(len, self.sampled))

    @property
    def n_groups(self) -> int:
        """Groups of the jackknife."""
        return len(self.bounds) - 1


def pair_up(
    a: Features, b: Features, utterances: Sequence[Utterance], n_sample: int, seed: int
) -> Pairs:
    """The pairs of rows of the utterances that both stores have.

    Args:
        n_sample: pairs in the sample; all, where there are fewer.

    Raises:
        ProbeError: the stores have no common utterance, or lengths that do not belong together.
    """
    a_stored, b_stored = a.keyed, b.keyed
    common = [item for item in utterances if item.key in a_stored and item.key in b_stored]
    if not common:
        raise ProbeError(
            f"{a.store.path} and {b.store.path}: none of {len(utterances)} utterances was "
            "extracted in both without a failure. `probe show` names the reasons."
        )
    ranges, alignment = _align(a, b, common)
    n_pairs = np.array([len(one.first) for one, _ in ranges])
    group = _groups([block_of(item) for item in common], n_pairs.tolist())
    order = sorted(
        np.flatnonzero(n_pairs), key=lambda i: (group[i], a_stored[common[i].key].pieces[:1], i)
    )
    ends = np.cumsum(n_pairs[order])
    starts = ends - n_pairs[order]
    n_all = int(n_pairs.sum())
    n = min(n_sample, n_all)
    offset = np.random.default_rng([seed, n_all]).random()
    chosen = np.minimum(((np.arange(n) + offset) * n_all / max(1, n)).astype(np.int64), n_all - 1)
    parts = np.split(chosen, np.searchsorted(chosen, starts[1:]))
    sampled = [part - start for part, start in zip(parts, starts, strict=False)]
    sizes = Counter[int]()
    for i, part in zip(order, sampled, strict=True):
        sizes[group[i]] += len(part)
    left_out = {
        "failed at extraction": len(utterances) - len(common),
        "no pair of frames": len(common) - len(order),
    }
    return Pairs(
        [common[i] for i in order],
        [ranges[i] for i in order],
        sampled,
        [0, *np.cumsum([sizes[name] for name in sorted(sizes)]).tolist()],
        alignment,
        {reason: count for reason, count in left_out.items() if count},
    )


def _groups(blocks: Sequence[str], sizes: Sequence[int]) -> list[int]:
    """The group of each utterance: whole blocks, the largest first, each into the group that has
    the fewest rows yet.
    """
    total = Counter[str]()
    for block, size in zip(blocks, sizes, strict=True):
        total[block] += size
    rows = [0] * min(MOST_GROUPS, len(total))
    group = {}
    for block in sorted(total, key=lambda name: (-total[name], name)):
        group[block] = rows.index(min(rows))
        rows[group[block]] += total[block]
    return [group[block] for block in blocks]


def _align(
    a: Features, b: Features, utterances: Sequence[Utterance]
) -> tuple[list[tuple[Ranges, Ranges]], str]:
    """The ranges of each utterance that belong together, and how they were aligned."""
    keyed = [(side.keyed, side.view) for side in (a, b)]
    lengths = np.array(
        [[n_rows(stored[item.key].n_rows, view) for stored, view in keyed] for item in utterances]
    )
    n, n_other = lengths.T
    same_model = a.store.recipe["model"] == b.store.recipe["model"] and a.hop_s == b.hop_s
    by_index = parse_view(a.view)[0] != "frames" or (same_model and bool((n == n_other).all()))
    if by_index:
        apart = n != n_other
    elif same_model:
        apart = lengths.max(axis=1) > MOST_STRETCH * lengths.min(axis=1) + MOST_APART
    else:
        apart = np.abs(n * a.hop_s - n_other * b.hop_s) > MOST_APART * max(a.hop_s, b.hop_s)
    if apart.any():
        names = [
            f"{item.key} ({one} and {other})"
            for item, (one, other), far in zip(utterances, lengths.tolist(), apart, strict=True)
            if far
        ]
        raise ProbeError(
            f"{a.store.path} and {b.store.path}: {len(names)} utterances have rows that cannot "
            f"belong to the same sound: {listed(names, 3)} rows. Extract both from the same "
            "manifest and audio."
        )
    pairs = lengths.tolist()
    if by_index:
        return [(_single(np.arange(one)), _single(np.arange(one))) for one, _ in pairs], BY_INDEX
    if same_model:
        shares = [(_single(np.arange(one)), _single(_shares(one, other))) for one, other in pairs]
        return shares, STRETCHED
    centres_s, hops_s = (first_centre_s(a), first_centre_s(b)), (a.hop_s, b.hop_s)
    return [_by_time(one, other, hops_s, centres_s) for one, other in pairs], BY_TIME


def _single(rows: np.ndarray) -> Ranges:
    return Ranges(rows, rows + 1)


def _shares(n: int, n_other: int) -> np.ndarray:
    """(n,) row of the other side that is nearest to the same share of the utterance."""
    return np.minimum(((np.arange(n) + 0.5) * n_other / n).astype(np.int64), n_other - 1)


def _by_time(
    n: int, n_other: int, hops_s: tuple[float, float], centres_s: tuple[float, float]
) -> tuple[Ranges, Ranges]:
    """Each row of the side with the longer hop, and those of the other side whose centres are
    within half that hop of its own.
    """
    if hops_s[0] < hops_s[1]:
        other, own = _by_time(n_other, n, (hops_s[1], hops_s[0]), (centres_s[1], centres_s[0]))
        return own, other
    rows = np.arange(n)
    # In the other side's rows. A centre on the edge belongs to both frames, whatever the rounding.
    middle = (centres_s[0] - centres_s[1] + rows * hops_s[0]) / hops_s[1]
    half = hops_s[0] / hops_s[1] / 2
    first = np.clip(np.ceil(middle - half - 1e-6), 0, n_other).astype(np.int64)
    stop = np.clip(np.floor(middle + half + 1e-6) + 1, 0, n_other).astype(np.int64)
    paired = stop > first
    return _single(rows[paired]), Ranges(first[paired], stop[paired])


def batches(
    features: Features, utterances: Sequence[Utterance], width: int, n_bytes: int
) -> Iterator[list[int]]:
    """Positions of neighbouring utterances whose rows take at most ``n_bytes`` as float32, at least
    one at a time.
    """
    stored, size = features.keyed, 0
    batch: list[int] = []
    for position, item in enumerate(utterances):
        own = 4 * width * stored[item.key].n_rows
        if batch and size + own > n_bytes:
            yield batch
            batch, size = [], 0
        batch.append(position)
        size += own
    if batch:
        yield batch


def stored_rows(
    features: Features, layer: str, utterances: Sequence[Utterance], n_bytes: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The position and the (row, dim) of each utterance in one layer, read in batches of at most
    ``n_bytes``.
    """
    keyed = features.keyed
    for positions in batches(features, utterances, features.store.layers[layer], n_bytes):
        arrays = features.stored_rows(layer, [keyed[utterances[i].key] for i in positions])
        yield from zip(positions, arrays, strict=True)
