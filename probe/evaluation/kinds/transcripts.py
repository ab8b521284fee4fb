"""What a ``transcribe`` task takes for the truth: transcripts in the task's units, and how well
training covers them.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from probe.data.corpus import Utterance
from probe.data.text_normalisers import NONE, NORMALISERS, Normaliser, letters
from probe.data.transcript_checks import Found, convention_differences, described, unseen
from probe.errors import ProbeError, listed
from probe.evaluation.tasks import Task
from probe.heads.ctc.lexicon import UNKNOWN_PHONE, pronounced, read_lexicon
from probe.heads.ctc.vocabulary import UNITS, Vocabulary

log = logging.getLogger("probe")

LACKING = "words not in the lexicon"
NOTHING_LEFT = "no text after normalisation"


@dataclass(frozen=True)
class Part:
    """Utterances of one split, or of one test domain, with their texts.

    Attributes:
        notes: what must be known of the texts.
    """

    split: str
    domain: str
    rows: Sequence[Utterance]
    texts: Sequence[str]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.domain or self.split


class Transcripts:
    """Turns utterances into the texts that heads learn and are scored against.

    Attributes:
        separator: between two symbols, see `probe.heads.ctc.vocabulary.UNITS`.
        normaliser: of the task.
    """

    def __init__(self, task: Task[Any]) -> None:
        self._task, self._units, self._unknown = (
            task.name,
            task.settings.units,
            task.settings.unknown,
        )
        self.separator = UNITS[self._units]
        self.normaliser = NORMALISERS[task.settings.normalize]
        self._lexicon_path = task.file("lexicon")
        self._lexicon = read_lexicon(self._lexicon_path) if self._lexicon_path else {}

    def of(
        self, split: str, domain: str, rows: Sequence[Utterance], excluded: Counter[str]
    ) -> Part:
        """Utterances with their texts; the setting ``unknown`` says what becomes of words that the
        lexicon lacks.

        Args:
            excluded: where utterances that are left out are counted.

        Raises:
            ProbeError: words that the lexicon lacks, where ``unknown`` is ``refuse``.
        """
        texts = [self.normaliser(item.text) for item in rows]
        if self.normaliser is not NONE and (n_empty := texts.count("")):
            excluded[NOTHING_LEFT] += n_empty
            rows = [item for item, text in zip(rows, texts, strict=True) if text]
            texts = list(filter(None, texts))
        if self._units != "phones":
            texts = list(map(letters, texts)) if self._units == "letters" else texts
            return Part(split, domain, rows, texts)
        read = [
            (item, *pronounced(text, self._lexicon)) for item, text in zip(rows, texts, strict=True)
        ]
        words: dict[str, Found] = {}
        for item, _, lacking in read:
            for word in lacking:
                words.setdefault(word, Found(word)).add(item.key)
        if self._unknown == "leave-out":
            if n := sum(bool(lacking) for _, _, lacking in read):
                excluded[LACKING] += n
            read = [entry for entry in read if not entry[2]]
        part = Part(split, domain, [item for item, _, _ in read], [text for _, text, _ in read])
        if words:
            self._report(part, list(words.values()))
        return part

    def _report(self, part: Part, lacking: list[Found]) -> None:
        n = sum(item.count for item in lacking)
        named = listed([f"{item.what!r} in {item.keys[0]}" for item in lacking])
        text = f"{self._task}: {part.name}: {n} {LACKING} {self._lexicon_path}: {named}"
        if self._unknown == "refuse":
            raise ProbeError(
                f"{text}. Add them, or set unknown = 'symbol' (each reads {UNKNOWN_PHONE}) or "
                "'leave-out'."
            )
        log.warning("%s", text)
        if self._unknown == "symbol":
            part.notes.append(f"{n} {LACKING}, read as {UNKNOWN_PHONE}")

    def check_coverage(self, vocabulary: Vocabulary, part: Part) -> None:
        """Notes the symbols that training does not have, which can only be errors."""
        known = set(vocabulary.symbols)
        if self.separator:
            phones: dict[str, Found] = {}
            for item, text in zip(part.rows, part.texts, strict=True):
                for symbol in text.split():
                    if symbol not in known:
                        phones.setdefault(symbol, Found(symbol)).add(item.key)
            strange, what, detail = list(phones.values()), "phones", ""
        else:
            strange = unseen(
                [(item.key, text) for item, text in zip(part.rows, part.texts, strict=True)], known
            )
            what, detail = "characters", described(strange)
        if strange:
            names = listed(sorted(repr(item.what) for item in strange))
            part.notes.append(
                f"{sum(item.count for item in strange)} {what} not in training: {names}"
            )
            log.warning(
                "%s: %s: %s not in training: %s", self._task, part.name, what, detail or names
            )

    def check_conventions(self, train: Part, part: Part) -> None:
        """Warns of case or punctuation that only one of training and another part has."""
        if self.separator:
            return
        for difference in convention_differences(train.texts, part.texts):
            log.warning(
                "%s: %s: %s; every such character is an error. Normalise the transcripts, for "
                "example with normalize = 'lower' or 'letters'.",
                *(self._task, part.name, difference),
            )

    def as_scored(self, texts: Sequence[str]) -> list[str]:
        """Texts, of references or of hypotheses, as they are compared: a normaliser may change what
        it has written itself, such as 017.
        """
        return list(texts if self.separator else map(self.normaliser, texts))

    @property
    def symbols(self) -> Mapping[str, Any]:
        """What a record says of the vocabulary."""
        phones = self._units == "phones"
        return {
            "units": self._units,
            "normaliser": _normaliser_text(self.normaliser, self._units),
            "blank": "index 0",
            "unknown": UNKNOWN_PHONE if phones and self._unknown == "symbol" else "none",
            "boundary": "none" if phones else "space",
        }


def _normaliser_text(normaliser: Normaliser, units: str) -> str:
    """What a record says of the normaliser of a task."""
    own = {"characters": "", "letters": "letters", "phones": "lexicon"}[units]
    given = "" if normaliser is NONE else normaliser.source
    return ", ".join(filter(None, [given, own])) or NONE.name
