"""What is odd about transcripts: empty ones, invisible characters, look-alike letters, characters
that training does not have.

`probe data` reports them, a ``transcribe`` task logs a warning when it starts.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from probe.data.corpus import Utterance
from probe.data.text_normalisers import APOSTROPHES
from probe.errors import listed

JOINERS = "\u200c\u200d"  # part of the spelling in Persian and in Indic scripts
# Scripts with letters that look the same (Latin a, Cyrillic а, Greek α): two of them in one word
# are a slip. Other mixtures are ordinary (kanji and kana, Thai and Latin without a space).
ALIKE = ("ARMENIAN", "CHEROKEE", "COPTIC", "CYRILLIC", "GREEK", "LATIN")
MOST_EXAMPLES = 3
FEWEST = 5  # capitals or punctuation marks that chance does not make vanish
MOST_DIFFERENT = 0.2  # between two shares of one convention


@dataclass
class Found:
    """A character or a word, and where it occurs.

    Attributes:
        count: how many times.
        keys: the utterances that have it, in order.
    """

    what: str
    count: int = 0
    keys: list[str] = field(default_factory=list)

    def add(self, key: str) -> None:
        """Count one more occurrence."""
        self.count += 1
        if not self.keys or self.keys[-1] != key:
            self.keys.append(key)


def empty(utterances: Iterable[Utterance]) -> list[str]:
    """Keys of utterances without a transcript."""
    return [item.key for item in utterances if not item.text.strip()]


def hidden(utterances: Iterable[Utterance]) -> list[Found]:
    """Control characters, and spaces other than the plain one, by code point."""
    return sorted(
        _characters(((item.key, item.text) for item in utterances), is_hidden),
        key=lambda item: item.what,
    )


def is_hidden(character: str) -> bool:
    """Whether a character is invisible and not the plain space."""
    return (
        unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Zs")
        and character not in " " + JOINERS
    )


def unseen(texts: Iterable[tuple[str, str]], known: set[str] | frozenset[str]) -> list[Found]:
    """Characters of (key, text) that are not ``known``, the most frequent first."""
    characters = _characters(texts, lambda character: character not in known)
    return sorted(characters, key=lambda item: -item.count)


def _characters(texts: Iterable[tuple[str, str]], is_odd: Callable[[str], bool]) -> list[Found]:
    characters: dict[str, Found] = {}
    for key, text in texts:
        for character in text:
            if character in characters or is_odd(character):
                characters.setdefault(character, Found(character)).add(key)
    return list(characters.values())


def mixed_scripts(utterances: Iterable[Utterance]) -> list[Found]:
    """Words with letters of two scripts that look alike, in order."""
    words: dict[str, Found] = {}
    for item in utterances:
        if item.text.isascii():
            continue
        for word in re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", item.text)):
            if len({script(letter) for letter in word} - {""}) > 1:
                words.setdefault(word, Found(word)).add(item.key)
    return list(words.values())


@lru_cache(maxsize=4096)
def script(letter: str) -> str:
    """The script of a letter by its Unicode name, if one of `ALIKE`; otherwise empty."""
    first, _, rest = unicodedata.name(letter, "").removeprefix("FULLWIDTH ").partition(" ")
    return first if first in ALIKE and "LETTER" in rest else ""


def scripts(word: str) -> str:
    """A word spelled out by its scripts: ``Latin c, Cyrillic а т``."""
    letters: dict[str, list[str]] = {}
    for letter in word:
        if name := script(letter):
            letters.setdefault(name.capitalize(), []).append(letter)
    return ", ".join(
        f"{name} {' '.join(dict.fromkeys(of_script))}" for name, of_script in letters.items()
    )


def named(character: str) -> str:
    """A character with its number and name where it is not plain."""
    if character.isascii() and character.isprintable():
        return repr(character)
    name = unicodedata.name(character, "control character").lower()
    return f"{character!r} (U+{ord(character):04X} {name})"


def described(characters: Sequence[Found]) -> str:
    """Characters with counts and the first utterance that has each; empty where there are none."""
    return listed(
        [f"{named(item.what)} {item.count} times, first in {item.keys[0]}" for item in characters]
    )


def convention_differences(train: Sequence[str], others: Sequence[str]) -> Iterator[str]:
    """In what the conventions of training's transcripts and others differ, in words: capitals or
    punctuation that one of them lacks although five would be expected, or another share of
    capitals.
    """
    for what, is_such, among in (
        ("of the letters are capitals", str.isupper, _has_case),
        ("of the characters are punctuation", _is_punctuation, _is_written),
    ):
        sides = []
        for texts in (train, others):
            characters = [character for text in texts for character in text if among(character)]
            sides.append((sum(map(is_such, characters)), len(characters)))
        shares = [n / max(1, n_all) for n, n_all in sides]
        lacking = min(shares) == 0 and max(shares) * min(n_all for _, n_all in sides) >= FEWEST
        if lacking or abs(shares[0] - shares[1]) > MOST_DIFFERENT:
            yield f"{shares[1]:.1%} {what}, {shares[0]:.1%} in training"


def _has_case(character: str) -> bool:
    return character.isupper() or character.islower()


def _is_written(character: str) -> bool:
    return not character.isspace()


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] == "P" and character not in APOSTROPHES


def warnings(utterances: Sequence[Utterance]) -> Iterator[str]:
    """Warnings for a task that transcribes, a line each, except characters that training lacks."""
    if keys := empty(utterances):
        n, examples = f"{len(keys)} of {len(utterances)}", listed(keys, MOST_EXAMPLES)
        yield f"{n} transcripts are empty and left out: {examples}"
    if characters := hidden(utterances):
        text = described(characters)
        yield f"transcripts have control characters or other spaces than the plain one: {text}"
    if words := mixed_scripts(utterances):
        text = listed(
            [f"{item.what!r} in {item.keys[0]} ({scripts(item.what)})" for item in words],
            MOST_EXAMPLES,
        )
        yield f"{len(words)} words mix letters of scripts that look alike: {text}"
