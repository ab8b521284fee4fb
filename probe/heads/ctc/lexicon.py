"""Read lexicons (words with their phones) and turn transcripts into phones.

A line is a word and its phones, separated by spaces or tabs, as in CMUdict (``HELLO HH AH0 L OW1``,
comments from ``;;;`` on, other pronunciations as ``HELLO(2)``) and Kaldi's ``lexicon.txt`` (other
pronunciations as lines of the same word). Only the first pronunciation of a word is used. Phones
keep their stress marks. The comparison of words ignores case.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from probe.data.text_normalisers import letters
from probe.errors import ProbeError

Lexicon = Mapping[str, tuple[str, ...]]

# The symbol for a word that the lexicon lacks; no phone of a lexicon may have this name.
UNKNOWN_PHONE = "<unk>"


def read_lexicon(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the first pronunciation of each word; keys are case-folded.

    Raises:
        ProbeError: the file is missing, is not UTF-8, has a word without phones, or has no words.
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
    """Return the lines of a text file.

    Raises:
        ProbeError: the file is missing or is not UTF-8.
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
    """Return the phones of a transcript, separated by spaces, and the words that the lexicon lacks;
    `UNKNOWN_PHONE` stands for each of them.

    A word is looked up as it is and, if the lexicon lacks it, without punctuation: ``stop!`` as
    ``stop``, ``well-known`` as ``well`` and ``known``.
    """
    phones: list[str] = []
    unknown: list[str] = []
    for word in text.casefold().split():
        for piece in [word] if word in lexicon else letters(word).split():
            if piece not in lexicon:
                unknown.append(piece)
            phones += lexicon.get(piece, (UNKNOWN_PHONE,))
    return " ".join(phones), unknown
