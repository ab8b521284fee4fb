"""Chosen frames of a layer as rows, read from the store by large blocks and held only where they
fit.

The rows stand in the order of the store, so that neighbouring utterances are read in one piece.
Neither the order nor a value depends on how much is read or held at a time (of projected ones: but
for the rounding of a product).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from probe.data.corpus import Utterance
from probe.evaluation.dataset import Features
from probe.heads.linear.context import stack_context
from probe.store.feature_store import Stored

READ_BYTES = 64 << 20  # of frames and what is made of them, at a time
LEAST_READ_BYTES = 1 << 20  # less would take a pass through the store minutes


@dataclass(frozen=True)
class Chosen:
    """Which frames of an utterance are rows: (row,) int64, ascending; one may be several rows."""

    utterance: Utterance
    frames: np.ndarray


@dataclass(frozen=True)
class _Stretch:
    """Frames ``first`` to ``stop`` of one utterance under a condition, of which there is something
    to read.
    """

    condition: str
    stored: Stored
    frames: np.ndarray
    first: int
    stop: int


class StoredRows:
    """The chosen frames of one layer; satisfies `probe.heads.linear.rows.Rows`."""

    def __init__(
        self,
        features: Features,
        layer: str,
        chosen: Sequence[Chosen],
        context: int,
        memory_bytes: int,
        hold: bool,
    ) -> None:
        """Plans what is read at a time.

        Args:
            chosen: in the order of the store, see `in_store_order`.
            context: frames on both sides that stand beside each.
            hold: whether rows that take no more than ``memory_bytes`` stay in memory once they were
                read.
        """
        self.features, self.layer, self.context = features, layer, context
        stored_width = features.store.layers[layer]
        width = features.fitting.width or stored_width
        self.shape = (sum(len(item.frames) for item in chosen), (2 * context + 1) * width)
        # A frame that is read may become its rows at once, in float32 at most.
        per_frame = max(
            (-(-len(item.frames) // features.of(item.utterance).n_rows) for item in chosen),
            default=1,
        )
        n_bytes = 4 * (stored_width + width + per_frame * self.shape[1])
        most_frames = max(1, min(READ_BYTES, max(LEAST_READ_BYTES, memory_bytes)) // n_bytes)
        self._reads = list(_reads(features, chosen, context, most_frames))
        self._holds = (
            hold and self.shape[0] * self.shape[1] * self._item_bytes(chosen) <= memory_bytes
        )
        self._held: list[np.ndarray] | None = None

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order; may be called many times."""
        if self._held is not None:
            yield from self._held
            return
        read: list[np.ndarray] = []
        for stretches in self._reads:
            rows = self._read(stretches)
            if self._holds:
                read.append(rows)
            yield rows
        if self._holds:
            self._held = read

    def _read(self, stretches: Sequence[_Stretch]) -> np.ndarray:
        """The rows of neighbouring stretches of one condition."""
        wider = [
            (
                item,
                max(0, item.first - self.context),
                min(item.stored.n_rows, item.stop + self.context),
            )
            for item in stretches
        ]
        parts = [part_of(item.stored, first, stop) for item, first, stop in wider]
        array = self.features.stored_rows(self.layer, parts, stretches[0].condition)
        array = replace(array, values=self.features.project(self.layer, array.values))
        if self.context == 0:
            places = [
                start + item.frames - first
                for start, (item, first, _) in zip(array.offsets, wider, strict=False)
            ]
            every = np.concatenate(places)
            return (
                array.values
                if np.array_equal(every, np.arange(len(array.values)))
                else array.values[every]
            )
        stacked = [
            stack_context(frames, self.context)[item.frames - first]
            for frames, (item, first, _) in zip(array, wider, strict=True)
        ]
        return np.concatenate(stacked)

    def _item_bytes(self, chosen: Sequence[Chosen]) -> int:
        """Bytes of a number as it is read: 2 where all shards hold float16 and nothing is
        projected.
        """
        if self.features.fitting.width:
            return 4
        stores = self.features.stores
        layer = self.features.store.aliases.get(self.layer, self.layer)
        shards = {
            (item.utterance.condition, place[0])
            for item in chosen
            for place in self.features.of(item.utterance).pieces
        }
        return (
            2
            if all(
                stores[condition].dtypes[shard][layer] == "float16" for condition, shard in shards
            )
            else 4
        )


def in_store_order(features: Features, utterances: Sequence[Utterance]) -> list[int]:
    """Positions of the utterances, in the order in which the stores hold them."""
    return sorted(
        range(len(utterances)),
        key=lambda i: (utterances[i].condition, features.of(utterances[i]).pieces[:1], i),
    )


def _reads(
    features: Features, chosen: Sequence[Chosen], context: int, most_frames: int
) -> Iterator[list[_Stretch]]:
    """What is read at a time: neighbouring stretches of ``most_frames`` frames of one store, or a
    part of a longer one.
    """
    waiting: list[_Stretch] = []
    n_frames = 0
    for item in chosen:
        stored, condition = features.of(item.utterance), item.utterance.condition
        for first in range(0, stored.n_rows, most_frames):
            stop = min(first + most_frames, stored.n_rows)
            frames = item.frames[
                np.searchsorted(item.frames, first) : np.searchsorted(item.frames, stop)
            ]
            if not len(frames):
                continue
            if waiting and (
                n_frames + stop - first > most_frames or condition != waiting[0].condition
            ):
                yield waiting
                waiting, n_frames = [], 0
            waiting.append(_Stretch(condition, stored, frames, first, stop))
            n_frames += stop - first
    if waiting:
        yield waiting


def part_of(stored: Stored, first: int, stop: int) -> Stored:
    """A version of an utterance cut down to its frames ``first`` to ``stop``."""
    if (first, stop) == (0, stored.n_rows):
        return stored
    pieces = []
    position = 0
    for shard, start, end in stored.pieces:
        low, high = max(first - position, 0), min(stop - position, end - start)
        if low < high:
            pieces.append((shard, start + low, start + high))
        position += end - start
    return stored._replace(pieces=tuple(pieces))
