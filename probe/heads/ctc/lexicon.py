"""Pronunciations: word lists with phones, and transcripts turned into phones.

A line is a word and its phones, separated by spaces or tabs, as in CMUdict (``HELLO HH AH0 L OW1``,
comments from ``;;;`` on, other pronunciations as ``HELLO(2)``) and Kaldi's ``lexicon.txt`` (other
pronunciations as lines of the same word). The first pronunciation of a word counts. Phones are
taken as they stand, with their stress marks. Words are compared case-folded.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from probe.errors import ProbeError
from probe.heads.ctc.vocabulary import letters

Lexicon = Mapping[str, tuple[str, ...]]

# How a word that the lexicon lacks reads where it stands for one symbol; no phone of a lexicon may
# be called so.
UNKNOWN_PHONE = "<unk>"


def read_lexicon(path: Path) -> dict[str, tuple[str, ...]]:
    """Case-folded word -> its first pronunciation.

    Raises:
        ProbeError: no such file, not UTF-8, a word without phones, or no words.
    """
    lexicon: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(read_lines(path, "lexicon"), start=1):
        if line.startswith(";;;") or not line.strip():
            continue
        word, *phones = line.split()
        if not phones:
            raise ProbeError(
                f"{path} line {number}: {word!r} has no phones; expected a word and its phones, "
                "separated by spaces."
            )
        if UNKNOWN_PHONE in phones:
            raise ProbeError(
                f"{path} line {number}: {UNKNOWN_PHONE} is what unknown words are called; expected "
                "another phone name."
            )
        lexicon.setdefault(re.sub(r"(?<=.)\(\d+\)$", "", word).casefold(), tuple(phones))
    if not lexicon:
        raise ProbeError(f"{path}: no words; expected a word and its phones in each line.")
    return lexicon


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a text file.

    Raises:
        ProbeError: no such file, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ProbeError(
            f"{path}: no {what} here ({error.strerror}); expected a text file."
        ) from error
    except UnicodeDecodeError as error:
        raise ProbeError(f"{path}: {what} is not UTF-8 ({error}). Convert it first.") from error


def pronounced(text: str, lexicon: Lexicon) -> tuple[str, list[str]]:
    """(phones of a transcript, separated by spaces; its words that the lexicon lacks, each of which
    reads `UNKNOWN_PHONE`).

    A word is looked up as it stands and, if it is not there, by its letters: ``stop!`` as ``stop``,
    ``well-known`` as ``well`` and ``known``.
    """
    phones: list[str] = []
    unknown: list[str] = []
    for word in text.casefold().split():
        for piece in [word] if word in lexicon else letters(word).split():
            if piece not in lexicon:
                unknown.append(piece)
            phones += lexicon.get(piece, (UNKNOWN_PHONE,))
    return " ".join(phones), unknown
