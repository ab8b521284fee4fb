"""Beam search over the output of a CTC head, with a word list and an n-gram language model (Hannun
et al. 2014).

torchaudio's decoder runs the search with flashlight-text, which the extra ``[lm]`` installs. A
transcript contains only words of the list. The score of a hypothesis is the natural logarithm of
the probability of its most likely path, plus ``lm_weight`` times the decimal logarithm of the
language model's probability (as in ARPA files, including sentence start and end), plus
``word_score`` for each word. The search does not sum the paths of a text: the decoder merges
histories that the language model treats as equal, so a sum would run over different texts. It runs
on the CPU, and equal input gives equal text.
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

# Log-probability of an impossible symbol; finite, because the decoder adds it up.
NEVER = -1e4
SPACE = " "
# Marks of sentences and unknown words in ARPA files.
MARKS = ("<s>", "</s>", "<unk>", "<UNK>")


def read_words(path: Path) -> list[str]:
    """Return the first word of each line, so that a lexicon can serve as a word list.

    Raises:
        ProbeError: the file is missing, is not UTF-8, or has no words.
    """
    words = list(
        dict.fromkeys(line.split()[0] for line in read_lines(path, "word list") if line.strip())
    )
    if not words:
        raise ProbeError(f"{path}: no words; expected one in each line.")
    return words


def read_arpa_words(path: Path) -> list[str]:
    """Return the words of an n-gram model in ARPA form.

    Raises:
        ProbeError: the file is missing or is not an ARPA file.
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
    """Return the spelling of each word that a head with this vocabulary can write.

    Raises:
        ProbeError: the head can write none of them.
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
    """Return torchaudio's decoder.

    Raises:
        ProbeError: flashlight-text is not installed.
    """
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:
        raise ProbeError("beam search needs flashlight-text: pip install layerprobe[lm]") from error
    return ctc_decoder


class BeamDecoder:
    """A decoder that maps the log-probabilities of an utterance to its text.

    Args:
        vocabulary: the head's characters; the space is the word boundary if transcripts have more
            than one word.
        words: the word list; the decoder leaves out words with characters that the head lacks
            (``left_out`` counts them).
        lm: ARPA file; None gives all words the same probability. Words are looked up as they stand
            in the list.
        spell: returns the spelling of a listed word in transcripts.
        beam: number of hypotheses that are kept from frame to frame.
        like: a decoder with the same vocabulary, words and language model; its model is reused.

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
        """Return the text for (frame, symbol) float32 log-probabilities; empty if no listed words
        fit into the frames.
        """
        n_frames, n_symbols = log_probabilities.shape
        # Every listed word ends with a boundary. One additional frame offers the boundary or a
        # blank at no cost, for the last word of the utterance.
        emissions = torch.full((n_frames + 1, n_symbols + (not self._has_space)), NEVER)
        emissions[:-1, :n_symbols] = log_probabilities
        emissions[-1, [BLANK, self._boundary]] = 0
        (hypotheses,) = self._decoder(emissions[None].contiguous())
        return " ".join(self._written[word] for word in hypotheses[0].words) if hypotheses else ""

    def _open(
        self, spelled: list[tuple[str, list[int]]], n_tokens: int, lm: Any, **options: float
    ) -> Any:
        """Return torchaudio's decoder. Numbers stand for symbols, so that no character can be
        confused with a mark.
        """
        ctc_decoder = require_flashlight()
        with tempfile.TemporaryDirectory() as folder:
            lexicon = Path(folder) / "lexicon.txt"
            lines = [
                f"{word} {' '.join(map(str, [*symbols, self._boundary]))}\n"
                for word, symbols in spelled
            ]
            lexicon.write_text("".join(lines), encoding="utf-8")
            try:
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
            except RuntimeError as error:  # KenLM's words, behind the place in its source
                reason = str(error).strip().splitlines()[-1]
                raise ProbeError(
                    f"{lm if isinstance(lm, str) else 'beam search'}: the n-gram model cannot be "
                    f"used ({reason}); expected an ARPA file of order 2 or more."
                ) from error
