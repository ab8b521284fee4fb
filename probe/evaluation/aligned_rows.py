"""Which rows of two stores are of the same sound, and a sample of them.

Pooled views have one row (or n segments) an utterance: row i belongs to row i. Frames belong
together by their time:

    the same model and view      frame i belongs to frame i, where both conditions have as many frames; otherwise the condition
                                 changed the speed, and frame i of n belongs to the frame nearest to the same share of the
                                 utterance. Lengths may differ by a factor of `MOST_STRETCH`, and by `MOST_APART` frames more:
                                 front-ends round the number of frames down.
    different models             a frame of the one with the longer hop belongs to the mean of the other's frames whose centres are
                                 at most half that hop from its own; where there are none, at the ends, it is left out. Centres are
                                 those of `probe.evaluation.kinds.frames`. The utterance may be longer in one of them by `MOST_APART`
                                 longer hops: front-ends drop or pad the end in different ways.

Rows stand by groups: speakers (or utterances, where no speaker is known) are dealt into at most
`MOST_GROUPS` groups of similar size, which a jackknife leaves out one at a time. The sample takes
every k-th pair of all, from a random start on, so that groups, speakers and utterances all have
their share.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from probe.data.corpus import Utterance
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import Features, block_of
from probe.evaluation.kinds.frames import first_centre_s
from probe.store.views import n_rows, parse_view

MOST_STRETCH = 2.0
MOST_APART = 4
MOST_GROUPS = 10

BY_INDEX = "row i with row i"
STRETCHED = "nearest share of the utterance, where lengths differ"
BY_TIME = "mean of the frames within half the longer hop"


@dataclass(frozen=True)
class Ranges:
    """What of one side stands in each pair: the mean of its rows ``first`` to ``stop``, (pair,)
    int64.
    """

    first: np.ndarray
    stop: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(pair, dim): the rows themselves where each range has one; otherwise their means,
        float32.
        """
        if (self.stop - self.first == 1).all():
            return rows if len(rows) == len(self.first) else rows[self.first]
        sums = np.concatenate(
            [np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0, dtype=np.float64)]
        )
        return ((sums[self.stop] - sums[self.first]) / (self.stop - self.first)[:, None]).astype(
            np.float32
        )


@dataclass(frozen=True)
class Pairs:
    """The pairs of rows of some utterances.

    Attributes:
        utterances: by group, within a group in the order of the first store.
        ranges: of each utterance, in both stores.
        sampled: of each utterance, which of its pairs are in the sample: (sampled,) int64,
            ascending.
        bounds: (group + 1,) first sampled pair of each group.
        alignment: how rows were found to belong together.
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


def pair_up(
    a: Features, b: Features, utterances: Sequence[Utterance], n_sample: int, seed: int
) -> Pairs:
    """The pairs of rows of the utterances that both stores have.

    Args:
        n_sample: pairs in the sample; all, where there are fewer.

    Raises:
        ProbeError: no utterance in both, or lengths that cannot be of the same sound.
    """
    a_stored, b_stored = a.keyed, b.keyed
    there = [item for item in utterances if item.key in a_stored and item.key in b_stored]
    if not there:
        raise ProbeError(
            f"{a.store.path} and {b.store.path}: none of {len(utterances)} utterances was extracted in both without a failure. "
            "`probe show` names the reasons."
        )
    found, alignment = _ranges(a, b, there)
    n_pairs = [len(one.first) for one, _ in found]
    left_out = {
        "failed at extraction": len(utterances) - len(there),
        "no pair of frames": n_pairs.count(0),
    }
    group = _groups([block_of(item) for item in there], n_pairs)
    order = sorted(
        (i for i in range(len(there)) if n_pairs[i]),
        key=lambda i: (group[i], a_stored[there[i].key].pieces[:1], i),
    )
    ends = np.cumsum([n_pairs[i] for i in order])
    n_all = int(ends[-1]) if len(order) else 0
    n = min(n_sample, n_all)
    start = np.random.default_rng([seed, n_all]).random()
    chosen = np.minimum(((np.arange(n) + start) * n_all / max(1, n)).astype(np.int64), n_all - 1)
    starts = np.concatenate([[0], ends[:-1]]) if len(order) else ends
    cuts = np.searchsorted(chosen, starts)
    sampled = [part - first for part, first in zip(np.split(chosen, cuts[1:]), starts, strict=True)]
    sizes = Counter[int]()
    for i, part in zip(order, sampled, strict=True):
        sizes[group[i]] += len(part)
    bounds = [0, *np.cumsum([sizes[name] for name in sorted(sizes)]).tolist()]
    return Pairs(
        [there[i] for i in order],
        [found[i] for i in order],
        sampled,
        bounds,
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


def _ranges(
    a: Features, b: Features, utterances: Sequence[Utterance]
) -> tuple[list[tuple[Ranges, Ranges]], str]:
    """Of each utterance the ranges that belong together, and how they were found."""
    sides = [(side.keyed, side.view) for side in (a, b)]
    lengths = [
        tuple(n_rows(stored[item.key].n_rows, view) for stored, view in sides)
        for item in utterances
    ]
    same_model = a.store.recipe["model"] == b.store.recipe["model"] and a.hop_s == b.hop_s
    if parse_view(a.view)[0] != "frames" or (
        same_model and all(one == other for one, other in lengths)
    ):
        _refuse(
            [
                f"{item.key} ({one} and {other})"
                for item, (one, other) in zip(utterances, lengths, strict=True)
                if one != other
            ],
            a,
            b,
        )
        return [(_single(np.arange(one)), _single(np.arange(one))) for one, _ in lengths], BY_INDEX
    if same_model:
        apart = [max(pair) > MOST_STRETCH * min(pair) + MOST_APART for pair in lengths]
        found = [
            (_single(np.arange(one)), _single(_nearest_share(one, other))) for one, other in lengths
        ]
    else:
        apart = [
            abs(one * a.hop_s - other * b.hop_s) > MOST_APART * max(a.hop_s, b.hop_s)
            for one, other in lengths
        ]
        centres = first_centre_s(a), first_centre_s(b)
        found = [_by_time(one, other, (a.hop_s, b.hop_s), centres) for one, other in lengths]
    _refuse(
        [
            f"{item.key} ({one} and {other})"
            for item, (one, other), far in zip(utterances, lengths, apart, strict=True)
            if far
        ],
        a,
        b,
    )
    return found, STRETCHED if same_model else BY_TIME


def _single(rows: np.ndarray) -> Ranges:
    return Ranges(rows, rows + 1)


def _nearest_share(n: int, n_other: int) -> np.ndarray:
    """(n,) of the other's rows the nearest to the same share of the utterance."""
    return np.minimum(((np.arange(n) + 0.5) * n_other / n).astype(np.int64), n_other - 1)


def _by_time(
    n: int, n_other: int, hops_s: tuple[float, float], centres_s: tuple[float, float]
) -> tuple[Ranges, Ranges]:
    """Each row of the side with the longer hop, and those of the other side within half that hop of
    its centre.
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
    there = stop > first
    return _single(rows[there]), Ranges(first[there], stop[there])


def _refuse(apart: list[str], a: Features, b: Features) -> None:
    if apart:
        raise ProbeError(
            f"{a.store.path} and {b.store.path}: {len(apart)} utterances have rows that cannot be of the same sound: "
            f"{listed(apart, 3)} rows. Extract both from the same manifest and audio."
        )


def batches(
    features: Features, utterances: Sequence[Utterance], width: int, n_bytes: int
) -> Iterator[list[int]]:
    """Positions of neighbouring utterances whose rows take at most ``n_bytes`` as float32, at least
    one at a time.
    """
    stored, size = features.keyed, 0
    waiting: list[int] = []
    for position, item in enumerate(utterances):
        own = 4 * width * stored[item.key].n_rows
        if waiting and size + own > n_bytes:
            yield waiting
            waiting, size = [], 0
        waiting.append(position)
        size += own
    if waiting:
        yield waiting
