"""What a corpus holds, before anything runs: hours, speakers, labels, transcripts, what its splits
share, and how its audio sounds.

Nothing here judges a model. A note names what will fail, or what will make a number say something
else than it seems to; it names the utterances, and the file and line of the first.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.brief import brief, counted
from probe.data import transcript_checks
from probe.data.corpus import Corpus, Utterance, read_corpus
from probe.data.label_spellings import several_spellings, spellings
from probe.data.sound_overview import CHANNEL_DIFFERENCE_DB, MOST_FILES, Sound, examine_sound
from probe.errors import listed

SHORTEST_S = 0.025
LABEL_SHARE = 0.5  # a column with more different values per row names utterances, not classes
LEVEL_DIFFERENCE_DB = 10.0
FEWEST_FILES = 3  # that a speaker's or a domain's level is the median of
QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


@dataclass(frozen=True)
class Note:
    """Something to know or to mend.

    Attributes:
        topic: ``splits``, ``sound``, ``durations``, ``text`` or ``labels``.
        fact: what was found, with examples.
        advice: what to do; empty where there is nothing to do.
    """

    topic: str
    fact: str
    advice: str = ""


@dataclass(frozen=True)
class Overview:
    """What a corpus holds.

    Attributes:
        corpus: name of the corpus.
        groups: a row per split and domain: utterances, hours (NaN where not all durations are
            known), speakers, texts.
        durations_s: seconds of the shortest utterance, quantiles, and the longest.
        sound: of the audio that was looked at; None where none was.
        text: counts of transcripts, words and characters.
        labels: column -> value -> split -> utterances, of columns with few values.
        shared: a row per pair of splits: speakers, texts and audio files that both have.
        notes: what to know or to mend.
    """

    corpus: str
    groups: pd.DataFrame
    durations_s: dict[str, float]
    sound: Sound | None
    text: dict[str, int]
    labels: dict[str, dict[str, dict[str, int]]]
    shared: pd.DataFrame
    notes: list[Note] = field(default_factory=list)

    def __repr__(self) -> str:
        n = int(self.groups["utterances"].sum())
        return brief(self, self.corpus, counted(n, "utterance"), counted(len(self.notes), "note"))

    def summary(self) -> dict[str, Any]:
        """Everything in plain values, for JSON."""
        return {
            "corpus": self.corpus,
            "groups": self.groups.replace({np.nan: None}).to_dict("records"),
            "durations_s": self.durations_s,
            "sound": None if self.sound is None else self.sound.summary(),
            "text": self.text,
            "labels": self.labels,
            "shared": self.shared.to_dict("records"),
            "notes": [asdict(note) for note in self.notes],
        }


def overview(
    corpus: Corpus | str | Path,
    most_files: int = MOST_FILES,
    audio_root: Path | str | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Overview:
    """What a corpus holds.

    Args:
        most_files: number of utterances, spread over the corpus, whose audio is decoded; 0 looks at
            no audio.
        audio_root: the folder that all audio must lie in.
        progress: called with the number of utterances that were decoded since the last call.

    Raises:
        ProbeError: the corpus cannot be loaded.
    """
    loaded = corpus if isinstance(corpus, Corpus) else read_corpus(corpus, audio_root)
    everything = [*loaded.utterances, *loaded.noise]
    root = None if audio_root is None else Path(audio_root)
    sound = examine_sound(everything, most_files, root, progress) if most_files else None
    table = _table(everything, sound)
    known = table["seconds"].dropna()
    durations = {
        name: round(float(known.quantile(q)), 4) for name, q in QUANTILES.items() if len(known)
    }
    labels = _labels(loaded)
    shared = _shared(table)
    notes = [
        *_split_notes(loaded, table, shared),
        *_sound_notes(table, sound),
        *_text_notes(loaded),
        *_label_notes(labels),
    ]
    return Overview(
        loaded.name, _groups(table), durations, sound, _text(loaded), labels, shared, notes
    )


def _table(utterances: Sequence[Utterance], sound: Sound | None) -> pd.DataFrame:
    """A row per utterance."""
    files = {} if sound is None else sound.files
    measured = {key: item.seconds for key, item in files.items()}
    return pd.DataFrame(
        {
            "key": [item.key for item in utterances],
            "split": [item.split for item in utterances],
            "domain": [item.domain for item in utterances],
            "speaker": [item.speaker for item in utterances],
            "text": [item.text.strip() for item in utterances],
            "seconds": pd.array(
                [measured.get(item.key, item.duration_s) for item in utterances], dtype="Float64"
            ).to_numpy(float, na_value=np.nan),
            "audio": [files[item.key].sha256 if item.key in files else "" for item in utterances],
            "level_db": [
                files[item.key].level_db if item.key in files else np.nan for item in utterances
            ],
        }
    )


def _groups(table: pd.DataFrame) -> pd.DataFrame:
    grouped = table.groupby(["split", "domain"], sort=False)
    return grouped.agg(
        utterances=("key", "size"),
        hours=("seconds", lambda seconds: seconds.sum(skipna=False) / 3600),
        speakers=("speaker", lambda names: names[names != ""].nunique()),
        texts=("text", lambda texts: texts[texts != ""].nunique()),
    ).reset_index()


def _shared(table: pd.DataFrame) -> pd.DataFrame:
    """What each pair of splits shares."""
    values = {
        column: {
            split: set(rows[column][rows[column] != ""])
            for split, rows in table.groupby("split", sort=False)
        }
        for column in ("speaker", "text", "audio")
    }
    splits = [split for split in ("train", "dev", "test") if split in set(table["split"])]
    rows = [
        {
            "splits": f"{first} and {second}",
            **{
                name: len(values[column][first] & values[column][second])
                for name, column in {
                    "speakers": "speaker",
                    "texts": "text",
                    "audio": "audio",
                }.items()
            },
        }
        for first, second in itertools.combinations(splits, 2)
    ]
    return pd.DataFrame(rows, columns=["splits", "speakers", "texts", "audio"])


def _split_notes(corpus: Corpus, table: pd.DataFrame, shared: pd.DataFrame) -> Iterator[Note]:
    missing = [split for split in ("train", "dev", "test") if not (table["split"] == split).any()]
    if corpus.utterances and missing:
        yield Note(
            "splits",
            f"there are no utterances of split {' and '.join(missing)}.",
            "Extraction needs no split; `probe run` trains on train, chooses on dev and reports on "
            "test. --split makes them.",
        )
    for row in shared.to_dict("records"):
        if row["audio"]:
            yield Note(
                "splits",
                f"{row['splits']} share the audio of {counted(row['audio'], 'file')}, byte by "
                "byte.",
                "Keep each recording in one split only; a score of heard audio is no test.",
            )
    if columns := _recordings_in_splits(table):
        n, examples = len(columns), listed(columns, 3)
        yield Note(
            "splits",
            f"all files of {counted(n, 'speaker')} have names that begin alike, in train and in "
            f"test: {examples}. They may come from one recording (session, chapter), so that a "
            "model may recognise the recording in place of the speaker.",
            "Name the recording in a column and split by it where the data allow that.",
        )


def _recordings_in_splits(table: pd.DataFrame) -> list[str]:
    """Beginnings that the names of all files of a speaker share, of speakers in train and test."""
    beginnings: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for key, split, speaker in table[["key", "split", "speaker"]].itertuples(index=False):
        stem = re.sub(r"\.\w{2,4}$", "", key.rpartition("/")[2].partition("#")[0])
        beginnings[speaker][re.sub(r"[-_.][a-zA-Z]*\d+$", "", stem)].add(split)
    return [
        next(iter(of_speaker))
        for speaker, of_speaker in beginnings.items()
        if speaker and len(of_speaker) == 1 and {"train", "test"} <= next(iter(of_speaker.values()))
    ]


def _sound_notes(table: pd.DataFrame, sound: Sound | None) -> Iterator[Note]:
    if sound is None:
        return
    left_out = "extraction names them, leaves them out and ends with exit code 3."
    if sound.unusable:
        n, reasons = len(sound.unusable), list(sound.unusable.items())[:3]
        text = "\n".join(f"{key}: {reason}" for key, reason in reasons)
        yield Note(
            "sound",
            f"{counted(n, 'utterance')} cannot be used, such as\n{text}",
            f"Mend the files or the rows; {left_out}",
        )
    short = [key for key, item in sound.files.items() if item.seconds < SHORTEST_S]
    if short:
        yield Note(
            "sound",
            f"{counted(len(short), 'utterance')} shorter than the {SHORTEST_S} s of one frame of "
            f"most models: {listed(short, 3)}.",
            f"Remove their rows; {left_out}",
        )
    for flag, keys in sound.flags.items():
        yield Note("sound", f"{flag}: {counted(len(keys), 'file')} ({listed(keys, 3)}).")
    if sound.full_scale:
        yield Note(
            "sound",
            f"full scale: samples at the largest value in {counted(len(sound.full_scale), 'file')} "
            f"({listed(sound.full_scale, 3)}), which may be clipped.",
        )
    if unequal := sound.unequal_channels:
        examples = listed([f"{key} {difference:+.0f} dB" for key, difference in unequal.items()], 3)
        yield Note(
            "sound",
            f"channels: the first two differ in level by {CHANNEL_DIFFERENCE_DB:.0f} dB or more in "
            f"{counted(len(unequal), 'utterance')}: {examples}.",
            "Layerprobe averages channels; name the one that is meant in the column channel.",
        )
    for column in ("speaker", "domain"):
        yield from _level_notes(table, column)
    if len(sound.rates_hz) > 1:
        rates = ", ".join(f"{n} of {rate} Hz" for rate, n in sorted(sound.rates_hz.items()))
        yield Note(
            "sound",
            f"files have different rates: {rates}. Nothing above half of a rate is in a file.",
            "Give narrow and wide band different values in the column domain.",
        )


def _level_notes(table: pd.DataFrame, column: str) -> Iterator[Note]:
    """Speakers or domains whose median level is far from the median of the others."""
    heard = table[(table[column] != "") & table["level_db"].notna()]
    medians = heard.groupby(column, sort=False)["level_db"].agg(["median", "size"])
    levels = medians[medians["size"] >= FEWEST_FILES]["median"]
    differences = {
        str(value): level - levels.drop(value).median()
        for value, level in levels.items()
        if len(levels) > 1
    }
    far = [
        f"{value} {difference:+.0f} dB"
        for value, difference in sorted(differences.items(), key=lambda item: -abs(item[1]))
        if abs(difference) >= LEVEL_DIFFERENCE_DB
    ]
    if far:
        yield Note(
            "sound",
            f"levels differ by {LEVEL_DIFFERENCE_DB:.0f} dB or more: {counted(len(far), column)} "
            f"against the median of the others: {listed(far)}.",
            "A model can tell them by the level alone, unless it normalises its input.",
        )


def _text(corpus: Corpus) -> dict[str, int]:
    texts = [item.text.strip() for item in corpus.utterances if item.text.strip()]
    words = Counter(word for text in texts for word in text.split())
    return {
        "transcripts": len(texts),
        "different": len(set(texts)),
        "words": words.total(),
        "vocabulary": len(words),
        "characters": len({character for text in texts for character in text}),
    }


def _text_notes(corpus: Corpus) -> Iterator[Note]:
    given = [item for item in corpus.utterances if item.text.strip()]
    if not given:
        return
    known = {character for item in given if item.split == "train" for character in item.text}
    tested = [(item.key, item.text) for item in given if item.split != "train"]
    if known and (unseen := transcript_checks.described(transcript_checks.unseen(tested, known))):
        yield Note(
            "text",
            f"dev and test transcripts have characters that train does not have: {unseen}.",
            "They will always be errors. Unify the spelling, or move such utterances to train.",
        )
    counts = Counter(item.text.strip() for item in given)
    if len(counts) <= LABEL_SHARE * len(given) and (groups := spellings(counts)):
        yield Note(
            "text",
            f"transcripts {listed(groups, 3)} differ only by case, spaces or Unicode form.",
            "Write each text in one way, or name a normaliser of the task (`normalize`).",
        )
    for line in transcript_checks.warnings(corpus.utterances):
        yield Note("text", f"{line}.")


def _labels(corpus: Corpus) -> dict[str, dict[str, dict[str, int]]]:
    """Column -> value -> split -> utterances, most frequent first."""
    labels: dict[str, dict[str, dict[str, int]]] = {}
    for column in corpus.columns:
        if column in ("split", "text"):
            continue
        values = [(item.label(column), item.split) for item in corpus.utterances]
        counts = Counter(value for value, _ in values if value.strip())
        is_label = column in ("speaker", "domain") or len(counts) <= LABEL_SHARE * counts.total()
        if counts and is_label:
            labels[column] = {value: {} for value, _ in counts.most_common()}
            for (value, split), n in Counter(values).items():
                if value.strip():
                    labels[column][value][split] = n
    return labels


def _label_notes(labels: dict[str, dict[str, dict[str, int]]]) -> Iterator[Note]:
    for column, values in labels.items():
        frequencies = {value: sum(of_split.values()) for value, of_split in values.items()}
        if fact := several_spellings(column, frequencies):
            yield Note("labels", fact, "Write each class in one way.")
