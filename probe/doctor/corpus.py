"""The corpus: its splits, its audio, its transcripts and the spelling of its labels."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from probe.data import transcript_checks
from probe.doctor.findings import Finding, Findings
from probe.errors import UtteranceError, listed

if TYPE_CHECKING:
    from probe.data.corpus import Corpus, Utterance

MOST_FILES = 400
# Headers do not show all damage, so some of these files are decoded, unless they are long.
MOST_DECODED, LONGEST_DECODED_S, DECODE_TIMEOUT_S = 20, 60, 10
USUAL_RATE_HZ, USUAL_MIN_SAMPLES = 16_000, 400


def load(source: str) -> "Generator[Finding, None, Corpus]":
    """Load a corpus and count the utterances of each split."""
    from probe.data.corpus import load_corpus

    corpus = load_corpus(source)
    counts = Counter(item.split for item in corpus.utterances)
    parts = ", ".join(f"{counts[split]} {split}" for split in ("train", "dev", "test"))
    text = f"{corpus.name}: {len(corpus.utterances)} utterances ({parts})"
    if missing := [split for split in ("train", "dev", "test") if not counts[split]]:
        advice = (
            "Extraction needs no split; `probe run` trains on train, chooses on dev and reports on "
            "test."
        )
        yield Finding("corpus", "note", f"{text}: nothing in {' and '.join(missing)}.", advice)
    else:
        yield Finding("corpus", "ok", text)
    return corpus


def audio(corpus: "Corpus", rate_hz: int, min_samples: int) -> Findings:
    """Compare up to 400 files with the model's rate and shortest input; decode twenty of them."""
    from probe.data.audio import load_audio, read_header
    from probe.data.audio_bytes import Deadline

    files = spread(corpus.utterances, MOST_FILES)
    rates, short, unusable = Counter[int](), list[str](), dict[str, str]()
    readable: list[Utterance] = []
    for item in files:
        try:
            header = read_header(item.path, item.duration_s)
        except UtteranceError as error:
            unusable[item.key] = str(error)
            continue
        rates[header.rate_hz] += 1
        if header.n_samples <= LONGEST_DECODED_S * header.rate_hz:
            readable.append(item)
        if 0 < header.n_samples * rate_hz < min_samples * header.rate_hz:
            short.append(item.key)
    for item in spread(readable, MOST_DECODED):
        try:
            load_audio(item.path, rate_hz, item.duration_s, deadline=Deadline(DECODE_TIMEOUT_S))
        except UtteranceError as error:
            if not isinstance(error.__cause__, TimeoutError):
                unusable[item.key] = str(error)
    total = f"of {len(files)} files"
    if len(files) < len(corpus.utterances):
        total += " (evenly chosen)"
    for native_hz, count in sorted(rates.items()):
        yield _rate(native_hz, rate_hz, f"{count} {total} have {native_hz} Hz")
    left_out = "extraction names them, leaves them out and ends with exit code 3."
    if unusable:
        examples = "\n".join(f"{key}: {reason}" for key, reason in list(unusable.items())[:3])
        convert = any("libsndfile does not read" in reason for reason in unusable.values())
        advice = (
            "Convert them (ffmpeg -i in.m4a -ar 16000 -ac 1 out.wav)"
            if convert
            else "Fetch them again, or correct the manifest"
        )
        text = f"unusable: {len(unusable)} {total}, such as\n{examples}"
        yield Finding("audio", "problem", text, f"{advice}, or remove their rows; {left_out}")
    if short:
        text = (
            f"shorter than the {min_samples / rate_hz:g} s of one frame: {len(short)} {total} "
            f"({listed(short, 3)})."
        )
        yield Finding("audio", "problem", text, f"Remove their rows; {left_out}")


def _rate(native_hz: int, rate_hz: int, text: str) -> Finding:
    if native_hz == rate_hz:
        return Finding("audio", "ok", f"{text}, the model's rate")
    limit_hz = min(native_hz, rate_hz) // 2
    text += f", not {rate_hz}: extraction resamples them; nothing above {limit_hz} Hz remains."
    if native_hz > rate_hz:
        return Finding("audio", "note", text)
    advice = (
        "Do not compare their scores with those of wide-band speech: give narrow and wide band "
        "different values in the column domain."
    )
    return Finding("audio", "note", text, advice)


def spread(items: "Sequence[Utterance]", most: int) -> "list[Utterance]":
    """Return at most ``most`` of the items, evenly spread over them."""
    n = min(most, len(items))
    return [items[number * len(items) // n] for number in range(n)]


def text(corpus: "Corpus") -> Findings:
    """Look for characters that the training transcripts lack, and for text that looks alike."""
    given = [item for item in corpus.utterances if item.text.strip()]
    known = {character for item in given if item.split == "train" for character in item.text}
    tested = [(item.key, item.text) for item in given if item.split != "train"]
    if not given:
        advice = "Fill the column text if you want to run word-id or asr-ctc."
        yield Finding("text", "note", "there are no transcripts.", advice)
    elif known and (unseen := transcript_checks.described(transcript_checks.unseen(tested, known))):
        yield Finding(
            "text",
            "problem",
            f"dev and test transcripts have characters that train does not have: {unseen}.",
            "They will always be errors. Unify the spelling, or move such utterances to train.",
        )
    else:
        yield Finding("text", "ok", f"{len(given)} transcripts of {len(known)} characters")
    for line in transcript_checks.warnings(corpus.utterances) if given else ():
        yield Finding("text", "note", line)


def labels(corpus: "Corpus") -> Findings:
    """Look for classes that are written in two ways."""
    sizes: dict[str, int] = {}
    problems: list[Finding] = []
    for name in corpus.columns:
        counts = Counter(item.label(name) for item in corpus.utterances if item.label(name).strip())
        is_label = name in ("speaker", "domain") or 2 * len(counts) <= counts.total()
        if name == "split" or not is_label:
            continue
        sizes[name] = len(counts)
        spellings: dict[str, list[str]] = defaultdict(list)
        for value, count in counts.most_common():
            form = " ".join(unicodedata.normalize("NFKC", value).casefold().split())
            spellings[form].append(f"{value!r} ({count})")
        if groups := [" and ".join(group) for group in spellings.values() if len(group) > 1]:
            text = (
                f"{name}: {listed(groups, 3)} differ only by case, spaces or Unicode form; each "
                "counts as a class of its own."
            )
            problems.append(Finding("labels", "problem", text, "Write each class in one way."))
    counted = ", ".join(f"{name} {size}" for name, size in sizes.items())
    yield Finding("labels", "ok", f"different values: {counted}")
    yield from problems
