"""Tar archives of audio and WebDataset's shards: what is read, and every refusal."""

import io
import json
import logging
import re
import tarfile
from pathlib import Path

import pytest

from probe.data.corpus import load_corpus
from probe.data.readers import registry
from probe.data.readers.reading import Reading
from probe.data.readers.tars import expanded
from probe.errors import ProbeError


def shard(path: Path, members: dict[str, str | bytes | dict]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            if isinstance(content, dict):
                content = json.dumps(content)
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


SAMPLES: dict[str, str | bytes | dict] = {
    "a/utt1.flac": b"fLaC",
    "a/utt1.txt": "hello there\n",
    "a/utt1.json": {"speaker_id": "s1", "accent": "Irish", "words": 2},
    "a/utt2.flac": b"fLaC",
    "a/utt2.json": {"speaker_id": "s2", "accent": "Scottish"},
}


def rows(reading: Reading) -> list[dict[str, str]]:
    return [dict(row.values) for row in reading.rows]


def test_members_of_one_name_are_a_sample(tmp_path: Path) -> None:
    corpus = load_corpus(shard(tmp_path / "train-0.tar", SAMPLES))
    assert [
        (item.key, item.text, item.speaker, item.split, item.label("accent"), item.label("words"))
        for item in corpus.utterances
    ] == [
        ("train-0.tar#a/utt1.flac", "hello there", "s1", "train", "Irish", "2"),
        ("train-0.tar#a/utt2.flac", "", "s2", "train", "Scottish", ""),
    ]
    assert [item.excerpt.member for item in corpus.utterances] == ["a/utt1.flac", "a/utt2.flac"]
    assert corpus.name == "train-0"


def test_names_with_points_and_further_endings_are_grouped_by_their_audio(tmp_path: Path) -> None:
    members = {
        "./v1.0/utt_1.5_2.7.wav": b"RIFF",
        "./v1.0/utt_1.5_2.7.txt": "one",
        "./v1.0/utt_1.5_2.7.speaker.txt": "s1",
        "./v1.0/utt_1.5_2.7.cls": "3",
        "./v1.0/utt_1.5_2.8.wav": b"RIFF",
        "./v1.0/utt_1.5_2.8.normalized_text.txt": "two",
    }
    found = rows(registry.read(f"tar:{shard(tmp_path / 'x.tar', members)}"))
    names = ("text", "speaker", "label", "normalized_text")
    assert [[row[name] for name in names] for row in found] == [
        ["one", "s1", "3", ""],
        ["", "", "", "two"],
    ]


def test_patterns_folders_and_parts_name_several_shards(tmp_path: Path) -> None:
    for i in (0, 1, 2, 10):
        shard(tmp_path / f"data-{i:03}.tar", {f"{i}.wav": b"RIFF"})
    shard(tmp_path / "eval.tar", {"x.wav": b"RIFF"})

    def names(source: str) -> list[tuple[str, str]]:
        return [(row["member"], row.get("split", "")) for row in rows(registry.read(source))]

    pattern = names(f"{tmp_path}/data-{{000..002}}.tar")
    assert pattern == [("0.wav", ""), ("1.wav", ""), ("2.wav", "")]
    assert names(str(tmp_path)) == [*pattern, ("10.wav", ""), ("x.wav", "test")]
    parts = names(f"tar:{tmp_path}#train=data-00{{0..2}}.tar,dev=data-010,eval.tar")
    assert parts == [
        *((member, "train") for member, _ in pattern),
        ("10.wav", "dev"),
        ("x.wav", "test"),
    ]


def test_braces_are_expanded_as_a_shell_does() -> None:
    assert expanded("a{1..2}-{x,y}.tar") == ["a1-x.tar", "a1-y.tar", "a2-x.tar", "a2-y.tar"]
    assert expanded("{098..101}") == ["098", "099", "100", "101"]
    assert expanded("plain.tar") == ["plain.tar"]


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {"1.wav": b"RIFF", "1.npy": b"x", "2.txt": "no audio", "LICENSE": "x"}
    with caplog.at_level(logging.INFO, "probe"):
        registry.read(str(shard(tmp_path / "x.tar", members)))
    assert re.search("left out: 1 of .npy, 1 without audio .*txt", caplog.text)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.wav": b"x", "1.json": "{"}, "x.tar: 1.json is not JSON ("),
        ({"1.wav": b"x", "1.json": "[1]"}, "x.tar: 1.json is [1]; expected a JSON object"),
        ({"1.wav": b"x", "1.txt": b"\xff"}, "x.tar: 1.txt is not UTF-8 (byte 0)"),
        ({"1.wav": b"x", "1.txt": b" " * 2**21}, "x.tar: 1.txt has 2,097,152 bytes; expected"),
        ({"1.wav": b"x", "1.flac": b"x"}, "x.tar: 1.wav and 1.flac are both audio of one sample"),
        ({"1.txt": "x"}, "no audio in x.tar; expected tar archives with audio files"),
    ],
)
def test_a_damaged_sample_is_refused(
    tmp_path: Path, members: dict[str, str | bytes | dict], message: str
) -> None:
    with pytest.raises(ProbeError, match=re.escape(message)):
        registry.read(f"tar:{shard(tmp_path / 'x.tar', members)}")


def test_archives_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", SAMPLES)
    content = path.read_bytes()
    path.write_bytes(content[:700])
    with pytest.raises(ProbeError, match=r"x\.tar: not readable as a tar archive \(unexpected end"):
        registry.read(str(path))
    path.write_bytes(content * 2)
    with pytest.raises(ProbeError, match=r"x\.tar: more follows the end of the archive"):
        registry.read(str(path))
    with tarfile.open(tmp_path / "y.tar.gz", "w:gz") as archive:
        archive.add(path, "x.wav")
    with pytest.raises(
        ProbeError, match=r"y\.tar\.gz: the archive is compressed by gzip; .*gunzip"
    ):
        registry.read(str(tmp_path / "y.tar.gz"))
    with pytest.raises(ProbeError, match=r"z\.tar does not exist; found x\.tar, y\.tar\.gz"):
        registry.read(f"tar:{tmp_path}/z.tar")
    with pytest.raises(ProbeError, match=r"no tar archives in .*z; expected \.tar files"):
        registry.read(f"tar:{tmp_path}#train=z")
