"""The corpus: its splits, its files against the rate the model hears, its transcripts."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from probe.data import transcript_checks
from probe.doctor.findings import Finding
from probe.errors import UtteranceError, listed

if TYPE_CHECKING:
    from probe.data.corpus import Corpus, Utterance
    from probe.models.encoder import ModelInfo

MOST_FILES = 400
# Of those, so many are decoded, unless they are long: damage and unusual sound do not show in
# headers.
MOST_DECODED, LONGEST_DECODED_S, DECODE_TIMEOUT_S = 20, 60, 10
USUAL_RATE_HZ, USUAL_MIN_SAMPLES = 16_000, 400


def splits(corpus: "Corpus") -> Iterator[Finding]:
    """How many utterances each split has."""
    counts = Counter(item.split for item in corpus.utterances)
    parts = ", ".join(f"{counts[split]} {split}" for split in ("train", "dev", "test"))
    text = f"{corpus.name}: {len(corpus.utterances)} utterances ({parts})"
    absent = [split for split in ("train", "dev", "test") if not counts[split]]
    if absent:
        advice = "Extraction needs no split; `probe run` trains on train, chooses on dev and reports on test."
        yield Finding("corpus", "note", f"{text}: nothing in {' and '.join(absent)}.", advice)
    else:
        yield Finding("corpus", "ok", text)


def audio(corpus: "Corpus", info: "ModelInfo | None") -> Iterator[Finding]:
    """Whether the files can be opened, are long enough and have the model's rate; up to 400 of them
    by their headers.

    Twenty of them are also decoded.
    """
    from probe.data.audio import read_header

    wanted_hz, min_samples = (
        (info.rate_hz, info.grid.min_samples) if info else (USUAL_RATE_HZ, USUAL_MIN_SAMPLES)
    )
    ear = f"the model hears {wanted_hz} Hz" if info else f"most models hear {wanted_hz} Hz"
    looked = spread(corpus.utterances, MOST_FILES)
    rates, short, wide, broken = (
        Counter[int](),
        list[str](),
        list[str](),
        list[tuple["Utterance", str]](),
    )
    sound: list[Utterance] = []
    for item in looked:
        try:
            header = read_header(item.path, item.duration_s)
        except UtteranceError as error:
            broken.append((item, str(error)))
            continue
        rates[header.rate_hz] += 1
        if header.n_samples <= LONGEST_DECODED_S * header.rate_hz:
            sound.append(item)
        if 0 < header.n_samples * wanted_hz < min_samples * header.rate_hz:
            short.append(item.key)
        if header.channels > 1:
            wide.append(item.key)
    of = f"of {len(looked)} files" + (
        "" if len(looked) == len(corpus.utterances) else " (evenly chosen)"
    )
    yield from _rates(rates, wanted_hz, ear, of)
    yield from _decoded(spread(tuple(sound), MOST_DECODED), wanted_hz, broken)
    if broken:
        names = "\n".join(f"{item.key}: {reason}" for item, reason in broken[:3])
        convert = any("libsndfile does not read" in reason for _, reason in broken)
        advice = (
            "Convert them (ffmpeg -i in.m4a -ar 16000 -ac 1 out.wav)"
            if convert
            else "Fetch them again, or correct the manifest"
        )
        advice += ", or remove their rows; extraction names them, leaves them out and ends with exit code 3."
        yield Finding("audio", "problem", f"unusable: {len(broken)} {of}, such as\n{names}", advice)
    if short:
        text = f"shorter than the {min_samples / wanted_hz:g} s that give a frame: {len(short)} {of} ({listed(short, 3)})."
        yield Finding(
            "audio",
            "problem",
            text,
            "Remove their rows; extraction leaves them out and ends with exit code 3.",
        )
    if wide:
        text = f"several channels, which are averaged: {len(wide)} {of} ({listed(wide, 3)})."
        yield Finding(
            "audio",
            "note",
            text,
            "Where each channel is another speaker or microphone, split them into files first.",
        )


def _decoded(
    items: "list[Utterance]", rate_hz: int, broken: "list[tuple[Utterance, str]]"
) -> Iterator[Finding]:
    """What is unusual about the sound of a few files; those that cannot be decoded are appended to
    ``broken``.
    """
    from probe.data.audio import load_audio
    from probe.data.audio_bytes import Deadline

    keys: dict[str, list[str]] = defaultdict(list)
    for item in items:
        try:
            flags = load_audio(
                item.path, rate_hz, item.duration_s, deadline=Deadline(DECODE_TIMEOUT_S)
            ).flags
        except UtteranceError as error:
            if not isinstance(error.__cause__, TimeoutError):
                broken.append((item, str(error)))
            continue
        for flag in flags:
            keys[flag].append(item.key)
    if keys:
        parts = "; ".join(
            f"{flag} {len(of_flag)} ({listed(of_flag, 3)})"
            for flag, of_flag in sorted(keys.items())
        )
        advice = "Extraction takes them as they are, and `probe show` names them. docs/reliability.md says what the words mean."
        yield Finding(
            "audio",
            "note",
            f"unusual sound, of {len(items)} files that were decoded: {parts}.",
            advice,
        )


def _rates(rates: Counter[int], wanted_hz: int, ear: str, of: str) -> Iterator[Finding]:
    for rate_hz, count in sorted(rates.items()):
        text = f"{count} {of} have {rate_hz} Hz; {ear}"
        if rate_hz < wanted_hz:
            text += f": they are resampled on extraction and nothing above {rate_hz // 2} Hz is in them."
            if len(rates) == 1:
                advice = "Do not compare with results on wide-band speech; a model that has heard telephone speech may do better."
            else:
                advice = "Give narrow and wide band different values in the column domain, so that scores are told apart."
            yield Finding("audio", "note", text, advice)
        elif rate_hz > wanted_hz:
            text += f": they are resampled on extraction (soxr HQ); what is above {wanted_hz // 2} Hz is left out."
            yield Finding(
                "audio",
                "note",
                text,
                f"Nothing needs doing; files of {wanted_hz} Hz are read faster.",
            )
        else:
            yield Finding("audio", "ok", text)


def spread(items: "tuple[Utterance, ...]", most: int) -> "list[Utterance]":
    """At most ``most`` of the items, evenly spread over them."""
    n = min(most, len(items))
    return [items[number * len(items) // n] for number in range(n)]


def text(corpus: "Corpus", info: "ModelInfo | None") -> Iterator[Finding]:
    """Whether the transcripts can be learned from and written."""
    given = [item for item in corpus.utterances if item.text.strip()]
    if not given:
        advice = "Nothing needs doing, unless you ask word-id or asr-ctc: fill the column text."
        yield Finding("text", "note", "there are no transcripts.", advice)
        return
    problems = [
        *_unknown_to_train(given),
        *_unknown_to_head(given, info),
        *_invisible(given),
        *_look_alikes(given),
        *_forms(given),
    ]
    if empty := transcript_checks.empty(corpus.utterances):
        text = f"empty: {len(empty)} of {len(corpus.utterances)} transcripts ({listed(empty, 3)})."
        advice = "Empty means unknown: tasks on text leave these out. Fill them in where something is said."
        problems.append(Finding("text", "note", text, advice))
    if not problems:
        characters = len({character for item in given for character in item.text})
        yield Finding(
            "text",
            "ok",
            f"{len(given)} transcripts of {characters} different characters, in one form",
        )
    yield from problems


def _unknown_to_train(given: "list[Utterance]") -> Iterator[Finding]:
    known = {character for item in given if item.split == "train" for character in item.text}
    if not known:
        return
    tested = [(item.key, item.text) for item in given if item.split != "train"]
    if unseen := transcript_checks.described(transcript_checks.unseen(tested, known)):
        text = f"dev and test transcripts have characters that train does not have: {unseen}."
        advice = "They can only be errors. Bring text into one form, replace them, or move such utterances to train."
        yield Finding("text", "problem", text, advice)


def _unknown_to_head(given: "list[Utterance]", info: "ModelInfo | None") -> Iterator[Finding]:
    """Characters that the checkpoint's own CTC head cannot write, whatever the case."""
    if info is None or not info.ctc:
        return
    alphabet = set("".join(info.ctc["alphabet"]).casefold())
    folded = [(item.key, item.text.casefold()) for item in given]
    if unseen := transcript_checks.described(transcript_checks.unseen(folded, alphabet)):
        text = f"transcripts have characters that the model's own CTC head cannot write: {unseen}."
        advice = f"They can only be errors of that head. Write them with its characters: {''.join(sorted(alphabet)).strip()}"
        yield Finding("text", "problem", text, advice)


def _invisible(given: "list[Utterance]") -> Iterator[Finding]:
    """Control characters, and spaces that are not plain or stand where they do not count."""
    if hidden := transcript_checks.hidden(given):
        names = listed([transcript_checks.named(item.what) for item in hidden])
        having = set().union(*(item.keys for item in hidden))
        keys = [item.key for item in given if item.key in having]
        text = (
            f"control characters or other spaces than the plain one: {names}, in {listed(keys, 3)}."
        )
        advice = "Remove them or put a space there: nobody sees them, every measure counts them."
        yield Finding("text", "problem", text, advice)
    loose = [item for item in given if item.text != item.text.strip(" ") or "  " in item.text]
    if loose:
        text = f"spaces at an end or several in a row: {len(loose)} transcripts (such as {_example(loose)})."
        yield Finding(
            "text",
            "note",
            text,
            "Leave one space between words: CER counts spaces, and classes differ by them.",
        )


def _look_alikes(given: "list[Utterance]") -> Iterator[Finding]:
    """Words that are spelled with letters of two scripts."""
    if words := transcript_checks.mixed_scripts(given):
        names = listed(
            [
                f"{item.what!r} in {item.keys[0]} ({transcript_checks.scripts(item.what)})"
                for item in words
            ],
            3,
        )
        text = f"words that mix letters of scripts that look alike: {len(words)}, such as {names}."
        advice = "Write each word in one script: look-alikes are characters of their own to every measure."
        yield Finding("text", "problem", text, advice)


def _forms(given: "list[Utterance]") -> Iterator[Finding]:
    """More than one way to write the same words."""
    cases: dict[str, list[Utterance]] = defaultdict(list)
    for item in given:
        if item.text.lower() != item.text.upper():
            cases[
                "lower"
                if item.text == item.text.lower()
                else "upper"
                if item.text == item.text.upper()
                else "mixed"
            ].append(item)
    if len(cases) > 1 or "mixed" in cases:
        parts = [
            f"{len(items)} in {name} case (such as {_example(items)})"
            for name, items in cases.items()
        ]
        advice = "Text is compared as it stands: write all of it in one case, unless case is what you ask for."
        yield Finding("text", "note", f"letters are not in one case: {', '.join(parts)}.", advice)
    digits = [item for item in given if any(character.isdigit() for character in item.text)]
    spelled = [item for item in given if not any(character.isdigit() for character in item.text)]
    if digits and spelled:
        text = f"digits in {len(digits)} transcripts (such as {_example(digits)}), words alone in {len(spelled)}: 7 is not seven."
        yield Finding("text", "note", text, "Spell numbers out as they were spoken.")
    decomposed = [item for item in given if item.text != unicodedata.normalize("NFC", item.text)]
    if decomposed:
        text = f"accents are characters of their own in {len(decomposed)} transcripts (such as {_example(decomposed)})."
        yield Finding("text", "note", text, "Normalise them: unicodedata.normalize('NFC', text).")


def _example(items: "list[Utterance]") -> str:
    shown = items[0].text if len(items[0].text) <= 30 else items[0].text[:29] + "…"
    return f"{items[0].key}: {shown!r}"
