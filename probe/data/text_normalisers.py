"""Normalisers of transcripts, by name and version.

A task applies its normaliser to references and hypotheses alike, before anything else reads them.

* ``none``: the text as it is.
* ``lower``: lower case in NFC, one space between words; punctuation stays.
* ``letters``: case-folded letters, digits and apostrophes in NFC, one space in place of anything
  else; for every script.
* ``superb``: the symbols of SUPERB's ASR vocabulary, which are the letters A to Z, the apostrophe
  and the space. Accents are dropped, and anything else becomes a space. s3prl
  (``downstream/asr/dataset.py``) only turns letters into capitals, since LibriSpeech has no other
  symbols; what its vocabulary lacks would become ``<unk>``.
* ``english``: the English normaliser of Whisper (Radford et al. 2023, "Robust Speech Recognition
  via Large-Scale Weak Supervision", appendix C) as transformers has it: no case, no punctuation, no
  text in brackets, no fillers, contractions in full, numbers as digits. British spellings stay,
  because their list is part of Whisper's checkpoints and not of the library. It removes one period
  of several in a row, so that "six…" and "six..." leave periods behind, as in the library.
"""

import functools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as version_of

APOSTROPHES = "'\u2019\u02bc"


@dataclass(frozen=True)
class Normaliser:
    """A normaliser of transcripts.

    Attributes:
        name: as tasks write it.
        version: of its results; part of a task's hash.
        apply: text -> text.
        library: the package that does the work, whose version records state; empty for none.
    """

    name: str
    version: int
    apply: Callable[[str], str]
    library: str = ""

    def __call__(self, text: str) -> str:
        """Return the normalised text."""
        return self.apply(text)

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"

    @property
    def source(self) -> str:
        """Name and version, and the version of the library."""
        of_library = f" ({self.library} {version_of(self.library)})" if self.library else ""
        return self.label + of_library


def letters(text: str) -> str:
    """Return the case-folded letters, digits and apostrophes of ``text``, with one space in place
    of anything else.

    >>> letters("Don’t stop – it's 5 p.m.!")
    "don't stop it's 5 p m"
    """
    characters = (_letter(character) for character in unicodedata.normalize("NFC", text.casefold()))
    return " ".join("".join(characters).split())


def _letter(character: str) -> str:
    if character in APOSTROPHES:
        return "'"
    # Marks (M) are parts of letters in many scripts.
    return character if unicodedata.category(character)[0] in "LMN" else " "


def lower(text: str) -> str:
    """Return ``text`` in lower case.

    >>> lower("Don’t  STOP!")
    'don’t stop!'
    """
    return " ".join(unicodedata.normalize("NFC", text.lower()).split())


def superb(text: str) -> str:
    """Return the capitals A to Z and apostrophes of ``text``, with one space in place of anything
    else.

    >>> superb("Don’t stop, Zoë!")
    "DON'T STOP ZOE"
    """
    for apostrophe in APOSTROPHES:
        text = text.replace(apostrophe, "'")
    plain = "".join(
        character
        for character in unicodedata.normalize("NFKD", text).upper()
        if not unicodedata.combining(character)
    )
    return " ".join(re.sub("[^A-Z']", " ", plain).split())


def english(text: str) -> str:
    """Return ``text`` as Whisper's English normaliser writes it.

    >>> english("I'm here at twenty-one, uh, Mr. Brown's (laughs).")
    "i am here at 21 mister brown's"
    """
    return " ".join(_whisper()(text).split())


@functools.cache
def _whisper() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normaliser: Callable[[str], str] = EnglishTextNormalizer({})
    return normaliser


NONE = Normaliser("none", 1, str)
NORMALISERS = {
    item.name: item
    for item in (
        NONE,
        Normaliser("lower", 1, lower),
        Normaliser("letters", 1, letters),
        Normaliser("superb", 1, superb),
        Normaliser("english", 1, english, "transformers"),
    )
}
