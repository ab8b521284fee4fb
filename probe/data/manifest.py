"""Manifests that are written: a corpus, from whatever form it was read, as one CSV file."""

import csv
import io
import os
from pathlib import Path

from probe.data.corpus import Corpus, Utterance
from probe.data.excerpts import EXCERPT_COLUMNS
from probe.data.readers.reading import COLUMNS
from probe.files import write_atomically


def write_manifest(corpus: Corpus, path: Path | str) -> None:
    """Write a corpus, with its rows of split ``noise``, as a CSV manifest that gives the same
    utterances under the same names.

    Paths below the manifest's folder are relative to it, others are absolute.

    Raises:
        OSError: the file cannot be written.
    """
    to = Path(path)
    rows = [_row(item, to.parent) for item in (*corpus.utterances, *corpus.noise)]
    excerpts = [name for name in EXCERPT_COLUMNS if any(row[name] for row in rows)]
    columns = ["id", *COLUMNS, *excerpts, *corpus.further_columns]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(to, text.getvalue().encode())


def _row(item: Utterance, folder: Path) -> dict[str, str]:
    audio, base = (Path(os.path.abspath(place)) for place in (item.path, folder))  # noqa: PTH100 - links stay
    excerpt = item.excerpt
    return {
        **item.extra,
        "id": item.key,
        "path": str(audio.relative_to(base) if audio.is_relative_to(base) else audio),
        "text": item.text,
        "speaker": item.speaker,
        "domain": item.domain,
        "split": item.split,
        "duration_s": "" if item.duration_s is None else repr(item.duration_s),
        "start": repr(excerpt.start_s) if excerpt.start_s else "",
        "end": "" if excerpt.end_s is None else repr(excerpt.end_s),
        "channel": "" if excerpt.channel is None else str(excerpt.channel),
        "member": excerpt.member,
    }
