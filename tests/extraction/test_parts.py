"""The parts of an extraction: decoding ahead, computing together, pooling piece by piece, writing
behind.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exhaustive import mostly_nightly
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from windows import HOP, RATE_HZ, WINDOW, Windows, extract, files_of, write_audio, write_manifest

from probe.data.audio import Audio
from probe.data.corpus import load_corpus
from probe.data.guarded_decoding import Decoder, answer
from probe.errors import ProbeError, UsageError
from probe.extraction import threads, write_behind
from probe.extraction.extract import environment_of
from probe.extraction.pooling import Pooling, as_stored, quantised
from probe.extraction.read_ahead import decoded
from probe.extraction.settings import Running, Storing
from probe.extraction.write_behind import Writer
from probe.models.catalogue import open_model
from probe.models.encoder import Chunking
from probe.models.frames import FrameGrid
from probe.store.feature_store import Failure, FeatureStore
from probe.store.integrity import verify_store
from probe.store.views import pool

# Pooling


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_view_of_pieces_is_the_view_of_the_whole(data: st.DataObject) -> None:
    n_frames = data.draw(st.integers(1, 40))
    view = data.draw(
        st.sampled_from(
            [
                "frames",
                "frames:2",
                "frames:7",
                "mean",
                "meanstd",
                "segments:1",
                "segments:5",
                "segments:50",
            ]
        )
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, n_frames), max_size=5)) | {n_frames})
    offset = data.draw(st.sampled_from([0.0, 1e3, -1e5]))
    frames = torch.randn(n_frames, 3, generator=torch.Generator().manual_seed(n_frames)) + offset
    pooling = Pooling(view, n_frames)
    pieces = frames.tensor_split(cuts[:-1])
    rows = [found for piece in pieces if (found := pooling.add(piece)) is not None]
    np.testing.assert_allclose(
        torch.cat(rows).numpy(),
        pool(frames.numpy(), view),
        rtol=2e-6,
        atol=1e-6 + 1e-9 * abs(offset),
    )


# Decoding ahead


@pytest.fixture
def corpus(tmp_path: Path) -> list[Any]:
    """Twelve utterances; the fourth is damaged."""
    names = [f"{number:02d}.wav" for number in range(12)]
    for number, name in enumerate(names):
        write_audio(tmp_path / name, 8000 + 100 * number)
    (tmp_path / names[3]).write_bytes(b"RIFF")
    return list(load_corpus(write_manifest(tmp_path, names)).utterances)


@pytest.mark.parametrize(
    ("workers", "at_first", "ahead_bytes"),
    [(1, 1, 50_000), (3, 3, 0), (3, 1, 50_000), (3, 3, 10**9)],
)
def test_audio_comes_in_order_whatever_decodes_it(
    corpus: list[Any], workers: int, at_first: int, ahead_bytes: int
) -> None:
    found = list(
        decoded(corpus, RATE_HZ, [Decoder() for _ in range(workers)], at_first, ahead_bytes)
    )
    assert [utterance.key for utterance, _ in found] == [utterance.key for utterance in corpus]
    assert [isinstance(sound, Failure) for _, sound in found] == [
        number == 3 for number in range(12)
    ]
    assert all(
        len(sound.samples) == 8000 + 100 * n
        for n, (_, sound) in enumerate(found)
        if isinstance(sound, Audio)
    )


class Counting(Decoder):
    """Counts what was begun."""

    begun = 0

    def load(self, *arguments: Any, **how: Any) -> Audio:
        self.begun += 1
        return super().load(*arguments, **how)


@pytest.mark.parametrize(("ahead_bytes", "most"), [(1, 3), (70_000, 5), (10**9, 12)])
def test_no_more_is_decoded_than_may_wait(corpus: list[Any], ahead_bytes: int, most: int) -> None:
    decoder = Counting()
    found = decoded(corpus, RATE_HZ, [decoder], 1, ahead_bytes)
    next(found)
    time.sleep(0.5)
    assert decoder.begun <= most
    assert decoder.begun == 12 or ahead_bytes < 10**9
    assert len(list(found)) == 11


class Slow(Decoder):
    """Takes a while for each file."""

    used = False

    def load(self, *arguments: Any, **how: Any) -> Audio:
        self.used = True
        time.sleep(0.2)
        return super().load(*arguments, **how)


@pytest.mark.parametrize(("pause_s", "used"), [(0.0, {2, 3}), (0.3, {1})])
def test_a_decoder_joins_only_where_the_model_waits(
    corpus: list[Any], pause_s: float, used: set[int]
) -> None:
    decoders = [Slow(), Slow(), Slow()]
    for _ in decoded(corpus, RATE_HZ, decoders, 1, 10**9):
        time.sleep(pause_s)
    assert sum(item.used for item in decoders) in used


def test_files_that_are_being_decoded_count_too(corpus: list[Any]) -> None:
    decoders = [Slow(), Slow(), Slow()]
    found = decoded(
        corpus, RATE_HZ, decoders, 3, 100_000
    )  # a file of 16 kB may take 130 kB until it is decoded
    next(found)
    assert sum(item.used for item in decoders) == 1
    found.close()


def test_leaving_does_not_wait_for_a_decoder_that_is_stuck(
    corpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "probe.data.guarded_decoding.answer",
        lambda request, *rest: (
            time.sleep(30) if request.path.endswith("01.wav") else answer(request, *rest)
        ),
    )
    found = decoded(corpus, RATE_HZ, [Decoder()], 1, 10**9)
    next(found)
    time.sleep(0.3)
    start = time.monotonic()
    found.close()
    assert time.monotonic() - start < 5


def test_leaving_ends_the_threads(corpus: list[Any]) -> None:
    before = threading.active_count()
    found = decoded(corpus, RATE_HZ, [decoder := Decoder()], 1, 1)
    next(found)
    found.close()
    decoder.close()
    time.sleep(0.1)
    assert threading.active_count() <= before


# Writing behind


def test_work_is_done_in_order_and_finished_at_the_end() -> None:
    done: list[int] = []
    with Writer() as write:
        for number in range(5):
            write(lambda number=number: (time.sleep(0.01), done.append(number)))  # type: ignore[misc]
    assert done == [0, 1, 2, 3, 4]


def test_what_a_write_raises_ends_the_run_and_nothing_is_written_after_it() -> None:
    done: list[int] = []

    def fails() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), Writer() as write:
        write(fails)
        for number in range(100):
            write(lambda number=number: done.append(number))  # type: ignore[misc]
            time.sleep(0.001)
    assert done == []
    with pytest.raises(OSError, match="No space left"), Writer() as write:
        write(fails)  # the last one


def test_one_write_may_wait_and_then_the_run_does() -> None:
    gate = threading.Event()
    handed = []

    def hand_over(write: Writer) -> None:
        for number in range(4):
            write(gate.wait)
            handed.append(number)

    with Writer() as write:
        thread = threading.Thread(target=hand_over, args=(write,))
        thread.start()
        time.sleep(0.2)
        assert handed == [0, 1]
        gate.set()
        thread.join()


def test_an_interrupted_run_finishes_what_is_computed_but_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), Writer() as write:
        write(lambda: (time.sleep(0.1), done.append(0)))
        write(lambda: done.append(1))
        raise KeyboardInterrupt
    assert done == [0, 1]
    monkeypatch.setattr(write_behind, "GRACE_S", 0.1)
    gate = threading.Event()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Writer() as write:
        write(gate.wait)
        write(lambda: done.append(2))
        raise KeyboardInterrupt
    assert time.monotonic() - start < 2
    gate.set()
    time.sleep(0.1)
    assert done == [0, 1]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, even where a shell started this in the background and has it
    ignored.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_while_the_last_shards_are_written_waits_for_them() -> None:
    done: list[int] = []

    def interrupt() -> None:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        done.append(0)

    with pytest.raises(KeyboardInterrupt), Writer() as write:
        write(interrupt)
    assert done == [0]


# Computing together


class Pieces(Windows):
    """Computes several utterances at once, ``rows`` frames at a time, and notes how many; runs out
    of memory above ``most``.
    """

    def __init__(self, rows: int = 40, most: int = 10**9, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.rows, self.most = rows, most
        self.together: list[int] = []

    def pieces(self, waveforms: Sequence[Tensor], layers: Sequence[str]) -> Iterator[list[Tensor]]:
        self.together.append(len(waveforms))
        encoded = [
            self.encode(wave[None], torch.tensor([len(wave)]), layers)[0] for wave in waveforms
        ]
        whole = [
            torch.cat([item[0] for item in of_layer]) for of_layer in zip(*encoded, strict=True)
        ]
        for start in range(0, len(whole[0]), self.rows):
            if self.rows > self.most and (start or self.rows > len(whole[0])):
                raise torch.OutOfMemoryError(
                    "CUDA out of memory. Tried to allocate 2 GiB\nand more"
                )
            yield [item[start : start + self.rows] for item in whole]


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """A manifest of short utterances, a damaged one, one too short, and one in four shards."""
    names = [f"{number}.wav" for number in range(9)]
    for number, name in enumerate(names):
        write_audio(tmp_path / name, {4: 100, 6: WINDOW + 99 * HOP}.get(number, 800 + 240 * number))
    (tmp_path / "2.wav").write_bytes(b"RIFF")
    return write_manifest(tmp_path, names)


@pytest.fixture
def small_shards(shards_of: Callable[..., None]) -> None:
    shards_of(48 * 30)


@pytest.mark.parametrize(
    ("rows", "view"),
    mostly_nightly(
        itertools.product([1, 7, 40, 10_000], ["frames", "frames:2", "meanstd", "segments:3"]),
        [(1, "frames"), (7, "frames:2"), (40, "meanstd"), (7, "segments:3")],
    ),
)
def test_how_many_are_computed_together_changes_no_byte(
    audio: Path, tmp_path: Path, small_shards: None, view: str, rows: int
) -> None:
    alone = extract(Windows(), audio, tmp_path / "alone", storing=Storing(view=view))
    together = extract(
        encoder := Pieces(rows), audio, tmp_path / "together", storing=Storing(view=view)
    )
    if view.startswith("frames"):
        assert files_of(tmp_path / "together") == files_of(tmp_path / "alone")
    else:  # sums of other pieces
        one, other = FeatureStore(alone.store), FeatureStore(together.store)
        for layer in one.layers:
            np.testing.assert_allclose(
                one.layer(layer).values, other.layer(layer).values, rtol=1e-3, atol=1e-6
            )
    assert {item.key for item in together.failures} == {"2.wav", "4.wav"}
    assert verify_store(together.store).findings == ()
    assert (max(encoder.together) > 2) == (rows > 7)


@pytest.mark.parametrize("rows", [20, 60, 500])
def test_a_device_without_memory_gets_less_at_a_time_and_the_result_is_the_same(
    audio: Path,
    tmp_path: Path,
    small_shards: None,
    rows: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("probe.extraction.forward.FEWEST_ROWS", 4)
    extract(Windows(), audio, tmp_path / "alone")
    encoder = Pieces(rows, most=10)
    with caplog.at_level("WARNING", "probe"):
        extract(encoder, audio, tmp_path / "together")
    assert 5 <= encoder.rows <= 10
    assert f"windows: goes on with {rows // 2} frames at a time" in caplog.text
    assert files_of(tmp_path / "together") == files_of(tmp_path / "alone")


class Small(Pieces):
    """A device on which utterances of more than ``fits`` frames do not fit."""

    def __init__(self, fits: int) -> None:
        super().__init__(rows=300)
        self.fits = fits

    def pieces(self, waveforms: Sequence[Tensor], layers: Sequence[str]) -> Iterator[list[Tensor]]:
        for wave in waveforms:
            if self.info.n_frames(len(wave)) > self.fits:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            yield from super().pieces([wave], layers)


def test_an_utterance_that_does_not_fit_fails_alone(
    audio: Path, tmp_path: Path, small_shards: None
) -> None:
    done = extract(encoder := Small(50), audio, tmp_path / "features")
    assert encoder.rows == 150
    assert {item.key for item in done.failures} == {"2.wav", "4.wav", "6.wav"}
    (reason,) = [item.reason for item in done.failures if item.key == "6.wav"]
    assert "does not fit into the device's memory; --chunk-s takes less" in reason
    assert done.extracted == 6
    assert verify_store(done.store).findings == ()


class Hungry(Pieces):
    """Runs out of memory, as torch says it of a CPU, where one of the utterances it is given is
    longer than ``fits`` frames.
    """

    def __init__(self, fits: int) -> None:
        super().__init__(rows=10_000)
        self.fits = fits

    def pieces(self, waveforms: Sequence[Tensor], layers: Sequence[str]) -> Iterator[list[Tensor]]:
        if any(self.info.n_frames(len(wave)) > self.fits for wave in waveforms):
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"
            )
        yield from super().pieces(waveforms, layers)


def test_what_does_not_fit_takes_no_other_with_it_and_is_tried_again(
    audio: Path, tmp_path: Path, small_shards: None
) -> None:
    done = extract(Hungry(50), audio, tmp_path / "features")
    reasons = {item.key: item.reason for item in done.failures}
    assert set(reasons) == {"2.wav", "4.wav", "6.wav"}
    assert "does not fit into the device's memory" in reasons["6.wav"]
    again = extract(Hungry(10_000), audio, tmp_path / "features")
    assert again.extracted == 1
    assert {item.key for item in again.failures} == {"2.wav", "4.wav"}
    whole = FeatureStore(extract(Windows(), audio, tmp_path / "whole").store)
    np.testing.assert_array_equal(
        FeatureStore(again.store).layer("1", whole.keys).values, whole.layer("1").values
    )


@dataclass(frozen=True)
class Miscounted(FrameGrid):
    """Counts some frames less than there are in longer audio."""

    surplus: int = 0

    def n_frames(self, n_samples: int) -> int:
        return super().n_frames(n_samples) - self.surplus * (n_samples > 1500)


class Miscounting(Windows):
    """Gives one frame more or less than its grid says of longer audio."""

    def __init__(self, surplus: int) -> None:
        super().__init__(grid=Miscounted(HOP, WINDOW, WINDOW, surplus))
        self.rows = 1000


class MiscountingPieces(Pieces):
    """The same in pieces of its own."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.info = replace(self.info, grid=Miscounted(HOP, WINDOW, WINDOW, 1))


@pytest.mark.parametrize(
    "encoder",
    [Miscounting(1), Miscounting(-1), MiscountingPieces(1000)],
    ids=["more", "fewer", "pieces"],
)
def test_frames_that_are_not_counted_right_are_nobodys(
    audio: Path, tmp_path: Path, encoder: Any
) -> None:
    with pytest.raises(ProbeError, match=r"windows: \d+ frames of .* where its grid gives \d+"):
        extract(encoder, audio, tmp_path / "features")


def test_an_utterance_that_fails_after_some_of_its_parts_has_none(
    audio: Path, tmp_path: Path, small_shards: None
) -> None:
    done = extract(encoder := Pieces(10, poison=WINDOW + 99 * HOP), audio, tmp_path / "features")
    assert encoder.info.n_frames(WINDOW + 99 * HOP) == 100
    assert {item.key for item in done.failures} == {"2.wav", "4.wav", "6.wav"}
    store = FeatureStore(done.store)
    assert "6.wav" not in store.utterances
    assert verify_store(done.store).findings == ()
    assert len(list(done.store.glob("shard-*.*of*.h5"))) == 0


def test_a_budget_that_shards_alone_exceed_is_refused(audio: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"--memory 1\.00 GB: expected at least 1\.52 GB; shards take most of it"
    ):
        extract(
            Windows(),
            audio,
            tmp_path / "features",
            running=Running(check=False, memory_bytes=10**9),
        )


# The form in the store


@given(
    values=arrays(
        np.float32,
        st.tuples(st.integers(1, 20), st.integers(1, 6)),
        elements=st.floats(-1e4, 1e4, width=32),
    )
)
@settings(deadline=None)
def test_int8_is_off_by_at_most_a_254th_of_the_largest_value_of_the_row(values: np.ndarray) -> None:
    packed, scales = quantised(torch.from_numpy(values))
    restored = (packed * scales[:, None]).numpy()
    largest = np.abs(values).max(axis=1, keepdims=True)
    assert (np.abs(restored - values) <= largest / 254 * (1 + 1e-5) + 1e-37).all()


@pytest.mark.parametrize(
    ("scale", "value", "sure"),
    [(1.0, 0.0, True), (1e-5, 0.0, False), (1.0, 65_520.0, False), (1.0, 65_504.0, True)],
)
def test_float16_is_taken_where_it_is_sure_to_be_faithful(
    scale: float, value: float, sure: bool
) -> None:
    rows = torch.from_numpy(scale * np.random.default_rng(0).normal(size=(50, 8))).float()
    rows[7, 3] = value or rows[7, 3]
    other = torch.ones(50, 4)
    stored, half = as_stored([rows, other], "float16", whole=True)
    assert half.dtype == np.float16
    assert stored.dtype == (np.float16 if sure else np.float32)
    np.testing.assert_array_equal(stored, rows.half().numpy() if sure else rows.numpy())
    assert as_stored([other], "float16", whole=False)[0].dtype == np.float32
    assert as_stored([other], "float32", whole=True)[0].dtype == np.float32


# Threads


@pytest.fixture
def usual_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield 1
    torch.set_num_threads(before)


def seen_threads(encoder: Any, asked: int | None = None, begun_with: int | None = None) -> int:
    with threads.computing_on(encoder, asked, begun_with):
        return torch.get_num_threads()


def test_threads_are_those_asked_for_begun_with_or_measured(
    monkeypatch: pytest.MonkeyPatch, usual_threads: int, folders: dict[str, Path]
) -> None:
    monkeypatch.setattr(threads, "allowed_cores", lambda: 3)
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    reference, packed = Windows(), open_model(str(folders["wav2vec2 post-LN"]), "cpu")
    assert seen_threads(reference, 5, 2) == seen_threads(packed, 5, 2) == 5
    assert seen_threads(reference) == usual_threads
    assert seen_threads(reference, begun_with=2) == 2  # its bits may depend on them
    assert seen_threads(packed, begun_with=2) == 3
    assert environment_of(packed)["threads"] == 0
    assert environment_of(reference)["threads"] == usual_threads
    with monkeypatch.context() as without:
        without.setattr(threads, "can_pack", lambda dtype: False)
        assert seen_threads(packed, begun_with=2) == 2
        assert environment_of(packed)["threads"] == usual_threads
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert seen_threads(packed, begun_with=2) == usual_threads
    assert torch.get_num_threads() == usual_threads


@pytest.mark.parametrize(
    ("cores", "quota", "seconds", "chosen"),
    [
        (8, None, {2: 4.0, 4: 2.0, 8: 1.0}, 8),
        (8, None, {2: 4.0, 4: 1.95, 8: 2.0}, 8),
        (8, None, {2: 4.0, 4: 1.7, 8: 2.0}, 4),
        (8, None, {2: 1.0, 4: 1.0, 8: 3.0}, 4),
        (8, 4.0, {1: 4.0, 2: 2.0, 4: 1.0}, 4),
        (1, None, {}, 1),
    ],
)
def test_the_fastest_number_of_threads_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    quota: float | None,
    seconds: dict[int, float],
    chosen: int,
) -> None:
    monkeypatch.setattr(threads, "allowed_cores", lambda: cores)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(threads, "_seconds", lambda product, rows, n: seconds[n])
    assert threads.fastest("fp32") == chosen


def test_a_run_takes_fewer_threads_only_after_two_measurements_and_takes_them_back(
    monkeypatch: pytest.MonkeyPatch, usual_threads: int
) -> None:
    clock, measured = [0.0], [2]
    monkeypatch.setattr(threads, "allowed_cores", lambda: 4)
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)
    monkeypatch.setattr(threads, "fastest", lambda precision: measured[0])
    choice = threads.ThreadChoice("fp32", lambda: clock[0])

    def after(seconds: float, fastest: int) -> int:
        clock[0] += seconds
        measured[0] = fastest
        choice.look()
        return choice.threads

    assert after(0, 2) == 4  # the other program may end at once
    assert after(1, 2) == 4  # too early
    assert after(4.5, 4) == 4
    assert after(61, 2) == 4
    assert after(5, 2) == 2 == torch.get_num_threads()
    assert after(30, 4) == 2
    assert after(31, 4) == 2
    assert after(5, 4) == 4 == torch.get_num_threads()


def test_measuring_threads_takes_less_than_a_second_of_each_core(usual_threads: int) -> None:
    start = time.process_time()  # of this process, so that a busy machine fails no test
    assert 1 <= threads.fastest("fp32") <= threads.allowed_cores()
    assert time.process_time() - start < threads.allowed_cores()
    assert torch.get_num_threads() == usual_threads


# The packed form through the whole


@pytest.mark.parametrize(
    "family", ["wav2vec2 post-LN", "wav2vec2 pre-LN", "data2vec-audio", "wavlm pre-LN"]
)
def test_features_of_the_packed_form_are_those_of_each_utterance_alone(
    folders: dict[str, Path],
    family: str,
    audio: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = open_model(str(folders[family]), "cpu")
    done = extract(encoder, audio, tmp_path / "features", storing=Storing(dtype="float32"))
    store = FeatureStore(done.store)
    assert len(store.keys) == 7
    loaded = {item.key: item for item in load_corpus(audio).utterances}
    for layer in store.layers:
        for key, rows in zip(store.keys, store.layer(layer), strict=True):
            wave = torch.from_numpy(Decoder().load(loaded[key].path, RATE_HZ).samples)
            frames, _ = encoder.encode(wave[None], torch.tensor([len(wave)]), [layer])
            np.testing.assert_array_equal(rows, frames[0][0].numpy())


def test_chunks_are_in_the_recipe_and_in_the_features(
    folders: dict[str, Path], audio: Path, tmp_path: Path
) -> None:
    folder = str(folders["wav2vec2 post-LN"])
    whole = FeatureStore(
        extract(
            folder, audio, tmp_path, running=Running(check=False, device="cpu", chunk_s=0)
        ).store
    )
    usual = FeatureStore(
        extract(folder, audio, tmp_path, running=Running(check=False, device="cpu")).store
    )
    assert whole.recipe["chunking"] is None
    assert usual.recipe["chunking"] == {"above_s": 120.0, "chunk_s": 20.0, "context_s": 5.0}
    np.testing.assert_array_equal(whole.layer("3").values, usual.layer("3").values)
    encoder = open_model(folder, "cpu").chunked(Chunking(0.0, 0.5, 0.1))  # type: ignore[attr-defined]
    cut = FeatureStore(extract(encoder, audio, tmp_path).store)
    np.testing.assert_array_equal(whole.layer("0").values, cut.layer("0").values)
    assert not np.array_equal(whole.layer("3", ["6.wav"]).values, cut.layer("3", ["6.wav"]).values)
    np.testing.assert_array_equal(
        whole.layer("3", ["1.wav"]).values, cut.layer("3", ["1.wav"]).values
    )
