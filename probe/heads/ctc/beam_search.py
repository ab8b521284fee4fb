"""Beam search over the output of a CTC head, with a word list and an n-gram language model (Hannun
et al. 2014).

torchaudio's decoder does the search, on flashlight-text, which the extra ``[lm]`` installs. Only
listed words can be written. A hypothesis scores: the natural logarithm of the probability of its
likeliest path, ``lm_weight`` times the decimal logarithm of the language model's probability (as
ARPA files have it; sentence start and end included), ``word_score`` for each word. Paths of a text
are not summed: the decoder merges histories that the language model cannot tell apart, and would
sum over different texts. It runs on the CPU, and the same input gives the same text.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe.errors import ProbeError
from probe.heads.ctc.lexicon import read_lines
from probe.heads.ctc.vocabulary import BLANK, Vocabulary

# log-probability of what cannot be; finite, because the decoder adds it up.
NEVER = -1e4
SPACE = " "
# Of words and sentences in ARPA files.
MARKS = ("<s>", "</s>", "<unk>", "<UNK>")


def read_words(path: Path) -> list[str]:
    """The words of a list: the first of each line, so that a lexicon will do.

    Raises:
        ProbeError: no such file, not UTF-8, or no words.
    """
    words = list(
        dict.fromkeys(line.split()[0] for line in read_lines(path, "word list") if line.strip())
    )
    if not words:
        raise ProbeError(f"{path}: no words; expected one in each line.")
    return words


def read_arpa_words(path: Path) -> list[str]:
    """The words that an n-gram model in ARPA form knows.

    Raises:
        ProbeError: no such file, or no ARPA file.
    """
    lines = iter(read_lines(path, "language model"))
    for line in lines:
        if line.strip() == "\\1-grams:":
            break
    words = []
    for line in lines:
        if line.startswith("\\"):
            break
        if line.strip():
            words.append(line.split()[1])
    words = [word for word in words if word not in MARKS]
    if not words:
        raise ProbeError(
            f"{path}: no section \\1-grams: with words; expected an n-gram model in ARPA form."
        )
    return words


def written_words(
    vocabulary: Vocabulary, words: Iterable[str], spell: Callable[[str], str] = str
) -> dict[str, str]:
    """Word -> as it is written, for the words that a head with this vocabulary can write.

    Raises:
        ProbeError: there are none.
    """
    letters = set(vocabulary.symbols) - {SPACE}
    spellings = {word: text for word in words if (text := spell(word)) and set(text) <= letters}
    if not spellings:
        raise ProbeError(
            "beam search: no word of the list has only characters of the training transcripts; "
            "check its case."
        )
    return spellings


def require_flashlight() -> Any:
    """torchaudio's decoder.

    Raises:
        ProbeError: it is not installed.
    """
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:
        raise ProbeError("beam search needs flashlight-text: pip install layerprobe[lm]") from error
    return ctc_decoder


class BeamDecoder:
    """Log-probabilities of an utterance -> its text.

    Args:
        vocabulary: of the head: characters, with the space as word boundary where transcripts have
            more than one word.
        words: that can be written; those with characters that the head lacks are left out
            (``left_out``).
        lm: ARPA file; None for all words alike. Words are looked up in it as they are listed.
        spell: a listed word -> as it is written in transcripts.
        beam: hypotheses kept from frame to frame.
        like: a decoder of the same vocabulary, words and lm, whose model is used again.

    Raises:
        ProbeError: the extra ``[lm]`` is not installed, or no word can be written.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        words: Iterable[str],
        lm: Path | None = None,
        *,
        spell: Callable[[str], str] = str,
        beam: int = 50,
        lm_weight: float = 1.0,
        word_score: float = 0.0,
        like: "BeamDecoder | None" = None,
    ) -> None:
        words = list(words)
        self._written = written_words(vocabulary, words, spell)
        self.left_out = len(words) - len(self._written)
        self._has_space = SPACE in vocabulary.symbols
        self._boundary = vocabulary.symbols.index(SPACE) + 1 if self._has_space else vocabulary.size
        spelled = [(word, vocabulary.encode(text)) for word, text in self._written.items()]
        model = like._decoder.lm if like else (str(lm) if lm else None)
        n_tokens = vocabulary.size + (not self._has_space)
        self._decoder: Any = self._open(
            spelled, n_tokens, model, beam_size=beam, lm_weight=lm_weight, word_score=word_score
        )

    def __call__(self, log_probabilities: Tensor) -> str:
        """Text of (frame, symbol) float32 log-probabilities; empty where no listed words fit into
        the frames.
        """
        n_frames, n_symbols = log_probabilities.shape
        # Every listed word ends with a boundary; one more frame has it, or a blank, free of charge,
        # for the utterance's last word.
        emissions = torch.full((n_frames + 1, n_symbols + (not self._has_space)), NEVER)
        emissions[:-1, :n_symbols] = log_probabilities
        emissions[-1, [BLANK, self._boundary]] = 0
        (hypotheses,) = self._decoder(emissions[None].contiguous())
        return " ".join(self._written[word] for word in hypotheses[0].words) if hypotheses else ""

    def _open(
        self, spelled: list[tuple[str, list[int]]], n_tokens: int, lm: Any, **options: float
    ) -> Any:
        """torchaudio's decoder; symbols are called by their numbers, so that no character can be
        taken for a mark.
        """
        ctc_decoder = require_flashlight()
        with tempfile.TemporaryDirectory() as folder:
            lexicon = Path(folder) / "lexicon.txt"
            lines = [
                f"{word} {' '.join(map(str, [*symbols, self._boundary]))}\n"
                for word, symbols in spelled
            ]
            lexicon.write_text("".join(lines), encoding="utf-8")
            return ctc_decoder(
                lexicon=str(lexicon),
                tokens=[str(number) for number in range(n_tokens)],
                lm=lm,
                blank_token=str(BLANK),
                sil_token=str(self._boundary),
                log_add=False,
                beam_threshold=-NEVER,
                **options,
            )
