"""How a ``transcribe`` task reads a head: greedily, or by a beam search whose weights dev picks."""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from probe.data.text_normalisers import NORMALISERS, letters
from probe.evaluation.tasks import Task
from probe.heads.ctc.beam_search import (
    BeamDecoder,
    read_arpa_words,
    read_words,
    require_flashlight,
    written_words,
)
from probe.heads.ctc.vocabulary import Vocabulary, symbol_error_rates

log = logging.getLogger("probe")

Frames = Sequence[np.ndarray]


class Scorer(Protocol):
    """A fitted head, see `probe.heads.ctc.ctc_probe.CTCProbe`."""

    separator: str
    metric: str
    search_: list[dict[str, Any]]
    chosen_: dict[str, Any]

    def log_probabilities(self, frames: Frames) -> list[Tensor]:
        """Return (frame, symbol) for each utterance."""
        ...

    def transcribe(self, frames: Frames) -> list[str]:
        """Return the greedy text of each utterance."""
        ...


@dataclass(frozen=True)
class Reading:
    """A fitted head with its decoder.

    Attributes:
        transcribe: utterances of (frame, dim) -> their texts.
        search: every setting tried, the head's and the decoder's.
        chosen: those that dev picked.
    """

    transcribe: Callable[[Frames], list[str]]
    search: list[dict[str, Any]]
    chosen: dict[str, Any]


def check_decoding(task: Task[Any], vocabulary: Vocabulary | None) -> None:
    """Refuses a beam search that cannot be had.

    Args:
        vocabulary: of the heads that are trained; None where a checkpoint's own is not known yet.

    Raises:
        ProbeError: flashlight-text is not installed, a file is not there, or no listed word can be
            written.
    """
    if task.settings.decoding != "greedy":
        require_flashlight()
        words = _listed_words(task)
        if vocabulary:
            written_words(vocabulary, words, _spelling(task))


def _listed_words(task: Task[Any]) -> list[str]:
    """The words that a beam search may write."""
    lm, words = task.file("lm"), task.file("words")
    if words:
        return read_words(words)
    return read_arpa_words(lm) if lm else []


def _spelling(task: Task[Any]) -> Callable[[str], str]:
    settings = task.settings
    return letters if settings.units == "letters" else NORMALISERS[settings.normalize]


class Decoding:
    """The decoder of a task for one vocabulary, opened once for all layers."""

    def __init__(
        self, task: Task[Any], vocabulary: Vocabulary, spell: Callable[[str], str] | None = None
    ) -> None:
        """Opens what the task names.

        Args:
            spell: gives the spelling of a listed word in the head's symbols; the task's own where
                None.
        """
        self._decoders: dict[tuple[float, float], BeamDecoder] = {}
        settings, lm = task.settings, task.file("lm")
        if settings.decoding == "greedy":
            return
        listed_words = _listed_words(task)
        first: BeamDecoder | None = None
        for weight, score in itertools.product(
            settings.lm_weight if lm else [0.0], settings.word_score
        ):
            first = self._decoders[weight, score] = BeamDecoder(
                vocabulary,
                listed_words,
                lm,
                spell=spell or _spelling(task),
                beam=settings.beam,
                lm_weight=weight,
                word_score=score,
                like=first,
            )
        if first and first.left_out:
            log.warning(
                "%s: %d of %d words cannot be written with the head's characters",
                task.name,
                first.left_out,
                len(listed_words),
            )

    def of(self, probe: Scorer, dev_frames: Frames, dev_texts: Sequence[str]) -> Reading:
        """The head with the decoder of the lowest dev error rate, the first of equals."""
        if not self._decoders:
            return Reading(
                probe.transcribe, [*probe.search_], {**probe.chosen_, "decoding": "greedy"}
            )
        scored = probe.log_probabilities(dev_frames)
        entries = {}
        for (weight, score), decoder in self._decoders.items():
            (error,) = symbol_error_rates(
                dev_texts, [[decoder(item) for item in scored]], probe.separator
            )
            entries[weight, score] = probe.chosen_ | {
                "lm_weight": weight,
                "word_score": score,
                probe.metric: error,
            }
        best = min(entries, key=lambda setting: entries[setting][probe.metric])
        return Reading(
            lambda frames: [self._decoders[best](item) for item in probe.log_probabilities(frames)],
            [*probe.search_, *entries.values()],
            {**entries[best], "decoding": "beam"},
        )
