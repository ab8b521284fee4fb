"""Real recordings through models that come from elsewhere than transformers' folders: from
extraction to the table.
"""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import transformers
from fairseq_files import fairseq_file
from runs import run
from scored import summary_rows
from small_bundles import small_bundle

from probe.data.corpus import load_corpus
from probe.extraction.extract import extract
from probe.extraction.settings import Storing
from probe.models.sources import bundles
from probe.records import frame_of
from probe.store.stores import open_store

PER_WORD = {"train": 2, "dev": 1, "test": 1}


@pytest.fixture
def corpus(speech: Path, tmp_path: Path) -> Path:
    """Eight recordings of two words."""
    with (speech / "digits_shared.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["text"] in ("zero", "one")]
    rows.sort(key=lambda row: (row["text"], row["split"]))
    groups = itertools.groupby(rows, key=lambda row: (row["text"], row["split"]))
    chosen = [
        row for (_, split), group in groups for row in itertools.islice(group, PER_WORD[split])
    ]
    with (tmp_path / "corpus.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"path": str(speech / row["path"])} for row in chosen)
    return tmp_path / "corpus.csv"


@pytest.mark.parametrize("kind", ["fairseq", "torchaudio"])
def test_real_speech_goes_from_a_file_and_from_a_bundle_to_the_table(
    folders: dict[str, Path],
    corpus: Path,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        bundles, "bundles", lambda: {"WAV2VEC2_BASE": small_bundle("WAV2VEC2_BASE")}
    )
    fairseq_file(
        tmp_path / "model.pt", transformers.AutoModel.from_pretrained(folders["data2vec-audio"])
    )
    model = {
        "fairseq": str(tmp_path / "model.pt"),
        "torchaudio": "random:torchaudio:WAV2VEC2_BASE",
    }[kind]
    items = load_corpus(corpus).utterances

    done = extract(model, corpus, tmp_path / "features", storing=Storing(layers="conv,0-3"))
    assert (done.extracted, done.failures) == (8, [])
    store, keys = open_store(done.store), [item.key for item in items]
    samples = [2 * soundfile.info(item.path).frames for item in items]  # 8 kHz, heard at 16
    for layer in ("conv", "3"):
        assert np.diff(store.layer(layer, keys).offsets).tolist() == [
            1 + (n - 400) // 320 for n in samples
        ]

    scored = run("word-id", model, corpus, tmp_path / "features", tmp_path / "results")
    table = frame_of(scored.records)
    assert set(table.layer) >= {"conv", "0", "1", "2", "3"}
    (n,) = {row.n for row in summary_rows(table).itertuples() if row.metric == "accuracy"}
    assert n == 2
