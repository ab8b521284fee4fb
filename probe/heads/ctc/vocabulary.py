"""The symbols that a CTC head writes: characters, letters or phones.

* ``characters``: the characters of the transcripts as they are, including the space.
* ``letters``: the characters of transcripts normalised by
  `probe.data.text_normalisers.letters`: case-folded letters, digits
  and apostrophes, with one space between words.
* ``phones``: names such as ``AH0``, separated by spaces and without word boundaries
  (`probe.heads.ctc.lexicon`).

Index 0 is the blank; the sorted symbols of the training transcripts follow. There is no unknown
symbol: a symbol that training lacks always counts as an error.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLANK = 0
# The separator between two symbols in a text, for each unit.
UNITS = {"characters": "", "letters": "", "phones": " "}


@dataclass(frozen=True)
class Vocabulary:
    """Symbols in the order of their indices, which start at 1.

    Attributes:
        separator: text between two symbols: empty, or a space between phones.
    """

    symbols: tuple[str, ...]
    separator: str = ""

    @classmethod
    def of(cls, texts: Sequence[str], separator: str = "") -> "Vocabulary":
        """Return the vocabulary of the symbols that occur in ``texts``."""
        return cls(
            tuple(sorted({symbol for text in texts for symbol in split(text, separator)})),
            separator,
        )

    @property
    def size(self) -> int:
        """Number of symbols, including the blank."""
        return len(self.symbols) + 1

    def encode(self, text: str) -> list[int]:
        """Return the indices of the symbols of ``text``, without unknown symbols."""
        return [
            self.symbols.index(symbol) + 1
            for symbol in split(text, self.separator)
            if symbol in self.symbols
        ]

    def decode_greedy(self, best: Sequence[int]) -> str:
        """Return the text for the best symbol of each frame: merge repeats, drop blanks, strip
        spaces at both ends.
        """
        merged = [
            symbol
            for position, symbol in enumerate(best)
            if position == 0 or symbol != best[position - 1]
        ]
        return self.separator.join(
            self.symbols[symbol - 1] for symbol in merged if symbol != BLANK
        ).strip()


def split(text: str, separator: str) -> Sequence[str]:
    """Return the symbols of a text: its characters, or its words if spaces separate phones."""
    return text.split() if separator else text


def frames_needed(labels: Sequence[int]) -> int:
    """Return the number of frames that CTC needs: one for each label and one blank between equal
    neighbours.
    """
    return len(labels) + sum(first == second for first, second in itertools.pairwise(labels))


def symbol_error_rates(
    references: Sequence[str], hypotheses: Sequence[Sequence[str]], separator: str = ""
) -> list[float]:
    """Return the corpus error rate of each set of hypotheses, for the choice of an epoch;
    `probe.measures` computes the reported rate.
    """
    errors, n = np.zeros(len(hypotheses), dtype=np.int64), 0
    for reference, *readings in zip(references, *hypotheses, strict=True):
        symbols = split(reference, separator)
        errors += edit_distances(symbols, [split(text, separator) for text in readings])
        n += len(symbols)
    return (errors / max(1, n)).tolist()


def edit_distances(reference: Sequence[str], hypotheses: Sequence[Sequence[str]]) -> np.ndarray:
    """Return (hypothesis,) int64, the smallest number of insertions, deletions and substitutions
    that turn each hypothesis into the reference.

    The table of Wagner and Fischer (1974) is computed for all hypotheses together, one symbol of
    the reference at a time. It stores the distance of the first j symbols of a hypothesis minus j,
    so that a run of insertions is a running minimum.
    """
    lengths = np.array([len(text) for text in hypotheses])
    code = {symbol: number for number, symbol in enumerate(reference)}
    symbols = np.full((max(lengths, default=0), len(hypotheses)), -1, dtype=np.int32)
    for column, text in enumerate(hypotheses):
        symbols[: len(text), column] = [code.get(symbol, -1) for symbol in text]
    row = np.zeros((len(symbols) + 1, len(hypotheses)), dtype=np.int32)
    for position, symbol in enumerate(reference, 1):
        above = row[1:] + 1
        row[1:] = np.minimum(above, row[:-1] - (symbols == code[symbol]))
        row[0] = position
        np.minimum.accumulate(row, axis=0, out=row)
    return row[lengths, np.arange(len(hypotheses))] + lengths
