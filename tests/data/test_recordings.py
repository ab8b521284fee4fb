"""Excerpts: exactly the samples between start and end, of a recording that is read and decoded
once.
"""

import io
import os
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from exhaustive import mostly_nightly
from hostile import FORMATS, RATE_HZ, small_files, speechlike

from probe.data import archives, sound_files
from probe.data.audio import Audio, header_duration_s, load_audio, read_header
from probe.data.audio_bytes import Deadline
from probe.data.excerpts import WHOLE, Excerpt
from probe.data.guarded_decoding import Decoder
from probe.data.recordings import Recordings
from probe.errors import UtteranceError

SPH = ("NIST", "PCM_16", 8000, 2)
TIMES = [(0.7, 1.1), (0.0, 0.4), (1.2500301, 2.0), (0.3, 0.9), (1.9, None), (0.1, 0.12)]


def written(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ, **how: str) -> Path:
    soundfile.write(path, samples, rate_hz, **how)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound of two seconds in every format."""
    folder = tmp_path_factory.mktemp("formats")
    paths = {}
    for name, content in small_files(2.05).items():
        paths[name] = folder / name
        paths[name].write_bytes(content)
    container, coding, rate_hz, channels = SPH
    sound = speechlike(2.05, rate_hz, channels)
    paths["sph"] = written(folder / "sph", sound, rate_hz, format=container, subtype=coding)
    return paths


def same(one: Audio, other: Audio, *but: str) -> bool:
    fields = [
        {name: value for name, value in vars(item).items() if name not in (*but, "samples")}
        for item in (one, other)
    ]
    return fields[0] == fields[1] and np.array_equal(one.samples, other.samples)


# Samples


@pytest.mark.parametrize("form", [*FORMATS, "sph"])
def test_an_excerpt_has_the_samples_of_the_whole_in_whatever_order_excerpts_are_asked_for(
    files: dict[str, Path], form: str
) -> None:
    path, recordings = files[form], Recordings()
    rate_hz = read_header(path).rate_hz
    whole = load_audio(path, rate_hz).samples
    for start_s, end_s in TIMES:
        excerpt = Excerpt(start_s, end_s)
        stop = None if end_s is None else round(end_s * rate_hz)
        expected = whole[round(start_s * rate_hz) : stop]
        kept = recordings.load(path, rate_hz, excerpt=excerpt, more_to_come=True)
        alone = load_audio(path, rate_hz, excerpt=excerpt)
        np.testing.assert_array_equal(kept.samples, expected)
        assert same(kept, alone) and kept.duration_s == len(expected) / rate_hz


@pytest.mark.parametrize("form", ["WAV", "FLAC"])
@pytest.mark.parametrize("rate_hz", mostly_nightly([8000, 16_000, 22_050], [16_000]))
def test_an_excerpt_is_bit_for_bit_the_file_that_is_cut_out(
    tmp_path: Path, form: str, rate_hz: int
) -> None:
    sound = speechlike(3, 44_100, 2)
    sound[40_000:60_000] = 1.0  # clipped in one excerpt only
    path = written(tmp_path / "long", sound, 44_100, format=form, subtype="PCM_16")
    stored, _ = soundfile.read(path, dtype="int16")
    recordings = Recordings()
    for start_s, end_s in [(1.7, 2.9), (0.0, 0.5), (0.5, 1.61803)]:
        for channel in (None, 1, 2):
            cut = stored[round(start_s * 44_100) : round(end_s * 44_100)]
            cut = cut if channel is None else cut[:, channel - 1]
            alone = written(tmp_path / "cut", cut, 44_100, format=form, subtype="PCM_16")
            excerpt = Excerpt(start_s, end_s, channel)
            audio = recordings.load(path, rate_hz, excerpt=excerpt, more_to_come=True)
            expected = load_audio(alone, rate_hz)
            assert same(audio, expected, "sha256", "file_bytes", "mtime_ns")
            assert ("clipped" in audio.flags) == (start_s == 0.5)


def test_a_block_is_as_long_as_in_a_file_of_its_own_whatever_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seek that libsndfile does not do exactly is made up from samples decoded lately."""
    content = small_files(2.0)["mp3"]
    (tmp_path / "a").write_bytes(content)
    whole = load_audio(tmp_path / "a", RATE_HZ).samples
    monkeypatch.setattr(sound_files, "RECENT_SAMPLES", 9000)
    tape_reads: list[int] = []
    plain = sound_files._Sndfile.read

    def read(self: sound_files._Sndfile, n: int) -> np.ndarray:
        tape_reads.append(n)
        return plain(self, n)

    monkeypatch.setattr(sound_files._Sndfile, "read", read)
    recordings = Recordings()
    for start_s, end_s, n_decoded in [(0.9, 1.4, 22_400), (1.0, 1.5, 1600), (1.45, 1.5, 0)]:
        tape_reads.clear()
        excerpt = Excerpt(start_s, end_s)
        audio = recordings.load(tmp_path / "a", RATE_HZ, excerpt=excerpt, more_to_come=True)
        first, stop = round(start_s * RATE_HZ), round(end_s * RATE_HZ)
        np.testing.assert_array_equal(audio.samples, whole[first:stop])
        assert sum(tape_reads) == n_decoded


def test_going_far_back_begins_again_and_says_so_once(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sound_files, "RECENT_SAMPLES", 1000)
    path, recordings = files["ogg"], Recordings()
    whole = load_audio(path, RATE_HZ).samples
    for start_s in (1.0, 0.0, 1.0, 0.0):
        excerpt = Excerpt(start_s, start_s + 0.5)
        audio = recordings.load(path, RATE_HZ, excerpt=excerpt, more_to_come=True)
        first = round(start_s * RATE_HZ)
        np.testing.assert_array_equal(audio.samples, whole[first : first + 8000])
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: its excerpts go back in time and its format has no exact seek, so it is decoded "
        "again from its beginning. Order the rows of a recording by start."
    ]


# Once


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Bytes that were read from files and samples that were decoded."""
    counted = {"bytes": 0, "samples": 0}
    plain_read, plain_decode = os.read, soundfile.SoundFile.read

    def read(descriptor: int, n: int) -> bytes:
        block = plain_read(descriptor, n)
        counted["bytes"] += len(block)
        return block

    def decode(self: soundfile.SoundFile, *args: object, **how: object) -> np.ndarray:
        block = plain_decode(self, *args, **how)
        counted["samples"] += len(block)
        return block

    monkeypatch.setattr("probe.data.audio_bytes.os.read", read)
    monkeypatch.setattr(soundfile.SoundFile, "read", decode)
    yield counted


@pytest.mark.parametrize(
    ("form", "seconds", "n"),
    mostly_nightly(
        [
            ("WAV", 30, 50),
            ("MP3", 30, 50),
            *((form, 10_800, 5000) for form in ("WAV", "FLAC", "MP3")),
        ],
        [("WAV", 30, 50), ("MP3", 30, 50)],
    ),
)
def test_a_long_recording_with_many_excerpts_is_read_and_decoded_once(
    tmp_path: Path, counts: dict[str, int], form: str, seconds: int, n: int
) -> None:
    path, piece = tmp_path / "long", speechlike(30)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, format=form) as file:
        for _ in range(seconds // 30):
            file.write(piece)
    recordings, step = Recordings(), seconds / n
    for number in range(n):
        excerpt = Excerpt(number * step, (number + 1) * step)
        audio = recordings.load(path, RATE_HZ, excerpt=excerpt, more_to_come=number + 1 < n)
        assert len(audio.samples) == round(excerpt.end_s * RATE_HZ) - round(  # type: ignore[operator]
            excerpt.start_s * RATE_HZ
        )
    assert counts == {"bytes": path.stat().st_size, "samples": seconds * RATE_HZ}


def test_a_file_that_changes_between_two_excerpts_is_read_again(tmp_path: Path) -> None:
    path, recordings = written(tmp_path / "a.wav", speechlike(2, seed=1)), Recordings()
    first = recordings.load(path, RATE_HZ, excerpt=Excerpt(0, 1), more_to_come=True)
    written(path, speechlike(2, seed=2))
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 1))
    second = recordings.load(path, RATE_HZ, excerpt=Excerpt(0, 1), more_to_come=True)
    assert first.sha256 != second.sha256 and not np.array_equal(first.samples, second.samples)
    path.unlink()
    with pytest.raises(UtteranceError, match="cannot be read: No such file"):
        recordings.load(path, RATE_HZ, excerpt=Excerpt(1, 2), more_to_come=True)


@pytest.mark.parametrize("isolate", [False, True])
def test_a_decoder_keeps_a_recording_and_refuses_an_excerpt_without_losing_it(
    tmp_path: Path, isolate: bool
) -> None:
    path = written(tmp_path / "a.wav", speechlike(2, channels=2))
    with Decoder(isolate=isolate) as decoder:
        for excerpt in (Excerpt(0.5, 1), Excerpt(0, 0.5, 2), Excerpt(5, 6), Excerpt(1, 1.5, 1)):
            if excerpt.start_s == 5:
                with pytest.raises(UtteranceError, match="start is 5 s"):
                    decoder.load(path, 8000, excerpt=excerpt, more_to_come=True)
                continue
            audio = decoder.load(path, 8000, excerpt=excerpt, more_to_come=True)
            assert same(audio, load_audio(path, 8000, excerpt=excerpt))
        assert decoder.header_duration_s(path, Excerpt(0.5)) == 1.5


def test_the_sha256_is_another_for_each_excerpt_and_the_files_for_the_whole(
    files: dict[str, Path],
) -> None:
    path = files["float wav"]
    excerpts = [WHOLE, Excerpt(0, 1), Excerpt(0, 1, 1), Excerpt(0, 1, 2), Excerpt(0.5, 1)]
    shas = [load_audio(path, RATE_HZ, excerpt=item).sha256 for item in excerpts]
    assert len(set(shas)) == len(shas)
    assert shas[1] == load_audio(path, 8000, excerpt=Excerpt(0.0, 1.0)).sha256


# Refusals


@pytest.mark.parametrize(
    ("excerpt", "message"),
    [
        (Excerpt(2.1, 2.5), "start is 2.1 s in the manifest, the recording lasts 2.05 s; correct"),
        (Excerpt(2.05), "start is 2.05 s in the manifest, the recording lasts 2.05 s"),
        (Excerpt(1, 2.2), "end is 2.2 s in the manifest, the recording lasts 2.05 s; correct it"),
        (Excerpt(0, 32_000), "the recording lasts 2.05 s; is this column in samples or millisec"),
        (Excerpt(1, 1.00001), "no sample at .* Hz between them; expected a longer excerpt"),
        (Excerpt(channel=3), "channel 3 is named, but the recording has [12]; expected 1"),
    ],
)
@pytest.mark.parametrize("form", ["float wav", "flac", "mp3", "opus"])
def test_an_excerpt_that_is_not_in_the_recording_is_refused_with_both_numbers(
    files: dict[str, Path], form: str, excerpt: Excerpt, message: str
) -> None:
    if form in ("mp3", "opus"):  # the encoder pads
        message = message.replace("2.05 s", r"2\.\d+ s")
    with pytest.raises(UtteranceError, match=message):
        load_audio(files[form], RATE_HZ, excerpt=excerpt)
    if form in ("float wav", "flac"):
        with pytest.raises(UtteranceError, match=message):
            read_header(files[form], excerpt=excerpt)
        assert header_duration_s(files[form], excerpt) is None


def test_an_end_that_a_manifest_rounded_up_is_the_end_of_the_recording(
    files: dict[str, Path],
) -> None:
    audio = load_audio(files["wav"], RATE_HZ, excerpt=Excerpt(1, 2.1))
    assert audio.duration_s == 1.05
    assert read_header(files["wav"], excerpt=Excerpt(1, 2.1)).n_samples == 16_800


def test_a_promised_duration_is_the_excerpts(files: dict[str, Path]) -> None:
    assert load_audio(files["flac"], RATE_HZ, 0.5, excerpt=Excerpt(1, 1.5)).duration_s == 0.5
    with pytest.raises(
        UtteranceError, match=r"duration_s is 2\.05 in the manifest, the audio lasts"
    ):
        load_audio(files["flac"], RATE_HZ, 2.05, excerpt=Excerpt(1, 1.5))


def test_what_is_wrong_elsewhere_in_the_file_does_not_matter(tmp_path: Path) -> None:
    sound = speechlike(2)[:, 0]
    sound[20_000] = np.nan
    path = written(tmp_path / "a.wav", sound, subtype="FLOAT")
    assert load_audio(path, RATE_HZ, excerpt=Excerpt(0, 1)).duration_s == 1
    with pytest.raises(UtteranceError, match="1 samples are NaN"):
        load_audio(path, RATE_HZ, excerpt=Excerpt(1, 2))


# Archives


@pytest.fixture
def packed(tmp_path: Path) -> dict[str, Path]:
    """Two sounds in archives of several kinds."""
    contents = {
        name: written(tmp_path / name, speechlike(1, seed=seed)).read_bytes()
        for seed, name in enumerate(["a.wav", "b.wav"])
    }
    paths = {name: tmp_path / name for name in ("x.tar", "x.tar.gz", "stored.zip", "x.zip")}
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz")):
        with tarfile.open(paths[name], mode) as tar:  # type: ignore[call-overload]
            for member, content in contents.items():
                info = tarfile.TarInfo(f"in/{member}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("in/link.wav")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("x.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(paths[name], "w", method) as archive:
            for member, content in contents.items():
                archive.writestr(f"in/{member}", content)
    return paths


@pytest.mark.parametrize("name", ["x.tar", "stored.zip", "x.zip"])
def test_a_member_of_an_archive_is_the_file_itself(
    tmp_path: Path, packed: dict[str, Path], name: str, counts: dict[str, int]
) -> None:
    for member in ("b.wav", "a.wav"):
        excerpt = Excerpt(member=f"in/{member}")
        audio = load_audio(packed[name], 8000, excerpt=excerpt)
        assert counts["bytes"] <= 33_000
        assert same(audio, load_audio(tmp_path / member, 8000), "file_bytes", "mtime_ns")
        assert audio.file_bytes == packed[name].stat().st_size
        assert read_header(packed[name], excerpt=excerpt).n_samples == RATE_HZ
        counts["bytes"] = 0
    part = load_audio(packed[name], 8000, excerpt=Excerpt(0.2, 0.7, member="in/a.wav"))
    assert same(
        part,
        load_audio(tmp_path / "a.wav", 8000, excerpt=Excerpt(0.2, 0.7)),
        *("file_bytes", "mtime_ns"),
    )


@pytest.mark.parametrize(
    ("name", "member", "message"),
    [
        ("x.tar", "in/c.wav", "has no member 'in/c.wav', but 3 others (in/a.wav, in/b.wav"),
        ("x.zip", "a.wav", "has no member 'a.wav', but 2 others"),
        ("x.tar", "in/link.wav", "is no plain file"),
        ("x.tar.gz", "in/a.wav", "compressed by gzip, so every member .* Unpack it with gunzip"),
        ("a.wav", "in/a.wav", "not an archive; expected a tar or a ZIP archive"),
    ],
)
def test_a_member_that_cannot_be_read_is_refused(
    tmp_path: Path, packed: dict[str, Path], name: str, member: str, message: str
) -> None:
    pattern = message.replace("(", r"\(")
    with pytest.raises(UtteranceError, match=pattern):
        load_audio(tmp_path / name, RATE_HZ, excerpt=Excerpt(member=member))


@pytest.mark.parametrize("name", ["x.tar", "stored.zip", "x.zip"])
def test_a_damaged_archive_is_refused(packed: dict[str, Path], name: str) -> None:
    content, path = packed[name].read_bytes(), packed[name]
    excerpt = Excerpt(member="in/b.wav")
    for n in (len(content) // 2, len(content) - 12_000):
        path.write_bytes(content[:n])
        with pytest.raises(UtteranceError, match=r"damaged|cut off|no member"):
            load_audio(path, RATE_HZ, excerpt=excerpt)
    if name != "x.tar":
        middle = len(content) * 3 // 4
        path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
        with pytest.raises(UtteranceError, match="the archive is damaged"):
            load_audio(path, RATE_HZ, excerpt=excerpt)


def test_the_members_of_an_archive_are_listed_once(
    packed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[int] = []
    plain = archives._listed

    def counted(descriptor: int, n_bytes: int) -> object:
        listed.append(n_bytes)
        return plain(descriptor, n_bytes)

    monkeypatch.setattr(archives, "_listed", counted)
    for member in ("in/a.wav", "in/b.wav", "in/a.wav"):
        load_audio(packed["x.tar"], RATE_HZ, excerpt=Excerpt(member=member))
    assert len(listed) == 1


def test_an_excerpt_that_takes_too_long_leaves_the_next_one_where_the_decoder_is(
    tmp_path: Path, counts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a", speechlike(20), format="MP3")
    whole = load_audio(path, RATE_HZ).samples
    monkeypatch.setattr(sound_files, "BLOCK_SAMPLES", RATE_HZ)
    counts["samples"], late, recordings = 0, Deadline(100), Recordings()
    checks: list[int] = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 12:
            raise late.missed()

    monkeypatch.setattr(late, "check", check)
    with pytest.raises(UtteranceError, match="took longer"):
        excerpt = Excerpt(18, 19)
        recordings.load(path, RATE_HZ, excerpt=excerpt, more_to_come=True, deadline=late)
    assert 9 * RATE_HZ < counts["samples"] < 12 * RATE_HZ
    again = recordings.load(path, RATE_HZ, excerpt=Excerpt(18, 19.5))
    np.testing.assert_array_equal(again.samples, whole[18 * RATE_HZ : 39 * RATE_HZ // 2])
    assert counts["samples"] == 39 * RATE_HZ // 2


@pytest.mark.parametrize("damage", ["cut off", "in the middle"])
def test_a_damaged_recording_is_read_once_however_many_excerpts_fail(
    tmp_path: Path, counts: dict[str, int], damage: str
) -> None:
    form = "WAV" if damage == "cut off" else "FLAC"
    path = written(tmp_path / "a", speechlike(4), format=form)
    content = path.read_bytes()
    if damage == "cut off":
        path.write_bytes(content[:-1000])
    else:
        path.write_bytes(content[:60_000] + bytes(20_000) + content[80_000:])
    recordings, refused = Recordings(), []
    for number in range(16):
        excerpt = Excerpt(number / 4, (number + 1) / 4)
        try:
            recordings.load(path, RATE_HZ, excerpt=excerpt, more_to_come=True)
        except UtteranceError as error:
            refused.append(str(error))
    assert len(refused) == 16 if damage == "cut off" else 0 < len(refused) < 16
    assert counts["bytes"] == path.stat().st_size
    path.write_bytes(content)  # it is mended, so it is read again
    excerpt = Excerpt(1, 2)
    assert recordings.load(path, RATE_HZ, excerpt=excerpt).duration_s == 1
