"""Extraction: every layer of every utterance once, whatever happens in between, and every failure
named.
"""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from exhaustive import mostly_nightly
from windows import RATE_HZ, Interrupted, Windows, extract, files_of, write_audio, write_manifest

from probe.data.audio import load_audio
from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.errors import ProbeError, UsageError
from probe.extraction.extract import Extraction, recipe_of
from probe.extraction.plan import human_bytes
from probe.extraction.settings import Running, Storing
from probe.files import read_json
from probe.models.catalogue import open_model
from probe.store.feature_store import FeatureStore
from probe.store.stores import open_store, store_path
from probe.store.views import VIEWS, pool

LENGTHS = {f"{name}.wav": 800 + 240 * number for number, name in enumerate("abcdefg")}
SMALL_SHARD = 48 * 20  # 20 frames of 12 float32


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """A folder of seven files of different lengths."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for name, n_samples in LENGTHS.items():
        write_audio(folder / name, n_samples)
    return folder


@pytest.fixture
def small_shards(shards_of: Callable[..., None]) -> None:
    """One to three utterances to a shard."""
    shards_of(SMALL_SHARD)


def keys_in_shards(store: Path) -> list[list[str]]:
    return [
        [item["key"] for item in read_json(path)["utterances"]]
        for path in sorted(store.glob("shard-*.json"))
    ]


def assert_right(store: FeatureStore, folder: Path, names: Iterable[str]) -> None:
    """Every layer of these files is what direct computation gives, up to float16."""
    for layer in store.layers:
        names = list(names)
        for found, name in zip(store.layer(layer, names), names, strict=True):
            wanted = pool(Windows().direct(folder / name, layer), store.view)
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


# --- what comes out


@pytest.mark.parametrize("view", VIEWS)
def test_features_are_the_ones_that_direct_computation_gives(
    audio: Path, tmp_path: Path, view: str
) -> None:
    done = extract(
        Windows(), write_manifest(audio, LENGTHS), tmp_path / "features", storing=Storing(view=view)
    )
    assert (done.extracted, done.failures) == (len(LENGTHS), [])
    store = open_store(tmp_path / "features")
    assert store.path == done.store
    assert store.view == view
    assert store.keys == list(LENGTHS)
    assert_right(store, audio, reversed(LENGTHS))


@pytest.mark.parametrize("name", ["mfcc", "fbank", "random:data2vec-audio-tiny"])
def test_a_real_model_gives_in_the_store_what_it_gives_alone(
    audio: Path, tmp_path: Path, name: str
) -> None:
    extract(
        name,
        write_manifest(audio, list(LENGTHS)),
        tmp_path / "features",
        running=Running(check=False, device="cpu"),
    )
    store, encoder = open_store(tmp_path / "features"), open_model(name, "cpu")
    for key in ("c.wav", "a.wav"):
        samples = torch.from_numpy(load_audio(audio / key, RATE_HZ).samples)
        direct, _ = encoder.encode(
            samples[None], torch.tensor([len(samples)]), list(encoder.info.layers)
        )
        for layer, frames in zip(encoder.info.layers, direct, strict=True):
            [found] = store.layer(layer, [key])
            assert found.shape == tuple(frames[0].shape)
            np.testing.assert_allclose(found, frames[0], rtol=1e-3, atol=2e-3)
    assert list(store.layers.items()) == list(encoder.info.layers.items())


def test_only_the_layers_that_are_asked_for_are_stored(audio: Path, tmp_path: Path) -> None:
    extract(
        Windows(),
        write_manifest(audio, list(LENGTHS)),
        tmp_path / "some",
        storing=Storing(layers="final,0"),
    )
    store = open_store(tmp_path / "some")
    assert store.layers == {"0": 3, "2": 4}
    assert_right(store, audio, LENGTHS)
    np.testing.assert_array_equal(store.layer("final").values, store.layer("2").values)
    with pytest.raises(ProbeError, match=r"layer 1 asked for; the store holds 0, 2"):
        store.layer("1")


def test_what_cannot_be_asked_for_is_a_usage_error(audio: Path, tmp_path: Path) -> None:
    manifest = write_manifest(audio, LENGTHS)
    with pytest.raises(UsageError, match="view 'median': expected frames, frames:k"):
        extract(Windows(), manifest, tmp_path / "features", storing=Storing(view="median"))
    with pytest.raises(
        UsageError, match=r"--layers 0-3: windows has no layer '3'; it has 0\.\.2 \(final is 2\)"
    ):
        extract(Windows(), manifest, tmp_path / "features", storing=Storing(layers="0-3"))
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("view", VIEWS)
def test_large_values_are_kept_in_float32_and_never_clipped(
    audio: Path, tmp_path: Path, view: str
) -> None:
    class Loud(Windows):
        def encode(self, *arguments: Any) -> Any:
            frames, lengths = super().encode(*arguments)
            return [frames[0], frames[1] * 1e6, frames[2] * 1e-6], lengths

    extract(
        Loud(),
        write_manifest(audio, ["a.wav", "b.wav"]),
        tmp_path / "features",
        storing=Storing(view=view),
    )
    store = open_store(tmp_path / "features")
    assert [str(store.layer(layer).values.dtype) for layer in "012"] == [
        "float16",
        "float32",
        "float32",
    ]
    for layer, factor in (("1", np.float32(1e6)), ("2", np.float32(1e-6))):
        [found] = store.layer(layer, ["b.wav"])
        np.testing.assert_allclose(
            found, pool(Windows().direct(audio / "b.wav", layer) * factor, view), rtol=1e-5
        )


def test_a_recipe_changes_with_whatever_decides_values() -> None:
    infos: list[dict[str, Any]] = [
        {},
        {"rate_hz": 8000},
        {"settings": {"x": 1}},
        {"normalize": True},
    ]
    recipes = [recipe_of(Windows(**info), ["0", "1", "2"]) for info in infos]
    recipes += [
        recipe_of(Windows(), ["0", "1"]),
        recipe_of(Windows(), ["0", "1", "2"], Storing(view="mean")),
    ]
    assert len({store_path(Path("x"), recipe) for recipe in recipes}) == len(recipes)
    assert recipe_of(Windows(), ["0"], Storing(view="mean")) == recipe_of(
        Windows(notes=("a remark",)), ["0"], Storing(view="mean")
    )
    assert json.loads(json.dumps(recipes[0])) == recipes[0]


def test_a_dry_run_writes_nothing_and_counts_what_is_missing(audio: Path, tmp_path: Path) -> None:
    manifest = write_manifest(audio, LENGTHS)
    before = files_of(tmp_path)
    encoder = Windows()
    plan = extract(encoder, manifest, tmp_path / "features", dry_run=True).plan
    assert files_of(tmp_path) == before
    assert encoder.seen == []
    assert len(plan.todo) == len(LENGTHS)
    frames = sum(encoder.info.n_frames(n_samples) for n_samples in LENGTHS.values())
    assert plan.n_frames == frames
    assert plan.n_bytes > 2 * frames * (3 + 5 + 4)
    assert plan.audio_s == pytest.approx(sum(LENGTHS.values()) / RATE_HZ)
    extract(encoder, write_manifest(audio, ["a.wav", "b.wav"], "two.csv"), tmp_path / "features")
    plan = extract(encoder, manifest, tmp_path / "features", dry_run=True).plan
    assert (plan.present, len(plan.todo)) == (2, len(LENGTHS) - 2)
    assert plan.describe().startswith("5 utterances to extract (0.00 h of audio, 46 frames, about ")
    assert ", 2 there already; " in plan.describe()


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1e3, "1 kB"), (3.14e6, "3.1 MB"), (2.4e9, "2.40 GB")],
)
def test_sizes_are_printed_in_the_unit_that_suits(n_bytes: float, text: str) -> None:
    assert human_bytes(n_bytes) == text


def test_a_disk_that_is_too_small_is_refused_before_the_work(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Windows()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(
        ProbeError,
        match=r"about \d+ kB to write, 10 B free\. No view of it would fit; name another disk\.",
    ):
        extract(encoder, write_manifest(audio, LENGTHS), tmp_path / "features")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=20_500))
    message = (
        r"20 kB free\. What would fit: .*--view frames:2 --dtype int8: 20 kB, .*--view meanstd"
    )
    with pytest.raises(ProbeError, match=message):
        extract(encoder, write_manifest(audio, LENGTHS), tmp_path / "features")
    assert encoder.seen == []
    assert not (tmp_path / "features" / "windows").exists()  # nothing is begun


@pytest.mark.parametrize(
    ("view", "dtype"),
    [("frames", "float32"), ("frames", "int8"), ("meanstd", "float16"), ("mean", "float16")],
)
def test_a_store_takes_no_more_than_was_estimated_and_not_much_less(
    tmp_path: Path, view: str, dtype: str
) -> None:
    names = [f"{n}.wav" for n in range(40)]
    for n, name in enumerate(names):
        write_audio(tmp_path / name, 16_000 + n)
    manifest = write_manifest(tmp_path, names)
    done = extract(
        Windows(), manifest, tmp_path / "features", storing=Storing(view=view, dtype=dtype)
    )
    taken = sum(path.stat().st_size for path in done.store.glob("shard-*"))
    assert 0.5 * done.plan.n_bytes < taken <= done.plan.n_bytes


def test_another_environment_warns_and_extracts_nothing_again(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, encoder = write_manifest(audio, LENGTHS), Windows()
    extract(encoder, manifest, tmp_path / "features")
    monkeypatch.setattr("probe.extraction.extract.device_name", lambda _: "another processor")
    with caplog.at_level(logging.WARNING, "probe"):
        extract(encoder, manifest, tmp_path / "features")
    assert "now it is another processor" in caplog.text
    assert len(encoder.seen) == len(LENGTHS)


# --- only what is missing


def test_a_second_run_extracts_nothing(audio: Path, tmp_path: Path) -> None:
    manifest, encoder = write_manifest(audio, LENGTHS), Windows()
    extract(encoder, manifest, tmp_path / "features")
    before = files_of(tmp_path / "features")
    done = extract(encoder, manifest, tmp_path / "features")
    assert (done.extracted, done.plan.present) == (0, len(LENGTHS))
    assert len(encoder.seen) == len(LENGTHS)
    assert files_of(tmp_path / "features") == before


def test_appended_rows_add_shards_and_leave_the_old_ones_alone(
    audio: Path, tmp_path: Path, small_shards: None
) -> None:
    names, encoder = list(LENGTHS), Windows()
    extract(encoder, write_manifest(audio, names[:4]), tmp_path / "features")
    before = files_of(tmp_path / "features")
    done = extract(encoder, write_manifest(audio, names), tmp_path / "features")
    after = files_of(tmp_path / "features")
    assert done.extracted == 3
    assert encoder.seen == list(LENGTHS.values())
    assert before.items() <= after.items()
    assert any(name.endswith(".h5") for name in after.keys() - before.keys())
    assert_right(open_store(tmp_path / "features"), audio, names)


def test_a_resplit_or_reordered_manifest_extracts_nothing(audio: Path, tmp_path: Path) -> None:
    manifest, encoder = write_manifest(audio, LENGTHS), Windows()
    extract(encoder, manifest, tmp_path / "features")
    header, *rows = manifest.read_text().splitlines()
    resplit = [row.replace(",train,", ",test,") for row in reversed(rows)]
    other = audio / "resplit.csv"
    other.write_text("\n".join([header + ",age", *(f"{row},30" for row in resplit)]) + "\n")
    assert extract(encoder, other, tmp_path / "features").extracted == 0
    assert len(encoder.seen) == len(LENGTHS)


def test_a_limited_run_is_completed_by_a_whole_one(audio: Path, tmp_path: Path) -> None:
    manifest, encoder = write_manifest(audio, LENGTHS), Windows()
    first = extract(encoder, manifest, tmp_path / "features", storing=Storing(limit=1))
    assert first.extracted == 3
    again = extract(encoder, manifest, tmp_path / "features", storing=Storing(limit=1))
    assert (again.extracted, again.plan.present) == (0, 3)
    whole = extract(encoder, manifest, tmp_path / "features")
    assert (whole.extracted, whole.plan.present) == (len(LENGTHS) - 3, 3)
    assert sorted(encoder.seen) == sorted(LENGTHS.values())
    assert_right(open_store(tmp_path / "features"), audio, LENGTHS)


def test_changed_audio_is_extracted_again_and_the_old_version_stays(
    audio: Path, tmp_path: Path
) -> None:
    manifest, encoder = write_manifest(audio, LENGTHS), Windows()
    extract(encoder, manifest, tmp_path / "features")
    before = files_of(tmp_path / "features")
    old_audio, old = (audio / "c.wav").read_bytes(), Windows().direct(audio / "c.wav", "1")
    write_audio(
        audio / "c.wav", LENGTHS["c.wav"], seed=99
    )  # as long as before: the size tells nothing
    encoder.seen.clear()
    done = extract(encoder, manifest, tmp_path / "features")
    assert done.extracted == 1
    assert encoder.seen == [LENGTHS["c.wav"]]
    assert before.items() <= files_of(tmp_path / "features").items()
    store = open_store(tmp_path / "features")
    assert_right(store, audio, LENGTHS)
    (audio / "c.wav").write_bytes(old_audio)
    stored = store.match("c.wav", audio / "c.wav")
    assert stored is not None
    np.testing.assert_allclose(store.read("1", [stored]).values, old, rtol=1e-3, atol=1e-4)
    assert extract(encoder, manifest, tmp_path / "features").extracted == 0


def test_a_touched_file_is_not_extracted_again(audio: Path, tmp_path: Path) -> None:
    manifest, encoder = write_manifest(audio, LENGTHS), Windows()
    extract(encoder, manifest, tmp_path / "features")
    for name in LENGTHS:
        os.utime(audio / name, ns=(1, 1))
    assert extract(encoder, manifest, tmp_path / "features").extracted == 0
    assert len(encoder.seen) == len(LENGTHS)


def test_each_view_and_each_choice_of_layers_has_its_own_store(audio: Path, tmp_path: Path) -> None:
    manifest, encoder = write_manifest(audio, ["a.wav"]), Windows()
    choices = [Storing(), Storing(view="mean"), Storing(layers="0"), Storing(layers="0-2")]
    stores = [
        extract(encoder, manifest, tmp_path / "features", storing=choice).store
        for choice in choices
    ]
    assert stores[0] == stores[3]
    assert len(set(stores)) == 3


# --- shards


def test_shards_keep_their_size_and_the_manifest_s_order(
    audio: Path, tmp_path: Path, small_shards: None
) -> None:
    done = extract(Windows(), write_manifest(audio, LENGTHS), tmp_path / "features")
    shards = keys_in_shards(done.store)
    assert [key for keys in shards for key in keys] == list(LENGTHS)
    assert len(shards) > 2
    for keys in shards:
        assert sum(4 * 12 * Windows().info.n_frames(LENGTHS[key]) for key in keys) <= SMALL_SHARD


def test_pooled_views_are_cut_by_audio_time(
    audio: Path, tmp_path: Path, shards_of: Callable[..., None]
) -> None:
    shards_of(audio_s=0.2)
    done = extract(
        Windows(),
        write_manifest(audio, LENGTHS),
        tmp_path / "features",
        storing=Storing(view="mean"),
    )
    for keys in keys_in_shards(done.store):
        assert sum(LENGTHS[key] for key in keys) <= 0.2 * RATE_HZ


def test_what_a_model_pads_is_counted_in_new_plans_and_stored_plans_stay(
    audio: Path, tmp_path: Path, shards_of: Callable[..., None]
) -> None:
    class Padding(Windows):
        def padded_samples(self, n_samples: int) -> int:
            return RATE_HZ

    shards_of(audio_s=2.0)
    with pytest.raises(Interrupted):
        extract(
            Windows(dies_at=2),
            write_manifest(audio, [*LENGTHS][:5]),
            tmp_path / "features",
            storing=Storing(view="mean"),
        )
    done = extract(
        Padding(),
        write_manifest(audio, LENGTHS),
        tmp_path / "features",
        storing=Storing(view="mean"),
    )
    assert keys_in_shards(done.store) == [[*LENGTHS][:5], [*LENGTHS][5:]]
    fresh = extract(
        Padding(), write_manifest(audio, LENGTHS), tmp_path / "fresh", storing=Storing(view="mean")
    )
    assert [len(keys) for keys in keys_in_shards(fresh.store)] == [2, 2, 2, 1]


def test_a_long_utterance_in_several_shards_reads_like_one(
    audio: Path, tmp_path: Path, shards_of: Callable[..., None]
) -> None:
    write_audio(audio / "long.wav", 30_000)
    manifest = write_manifest(audio, ["a.wav", "long.wav", "b.wav"])
    extract(Windows(), manifest, tmp_path / "whole")
    shards_of(48 * 50)
    done = extract(Windows(), manifest, tmp_path / "cut")
    names = sorted(path.name for path in done.store.glob("*.h5"))
    assert [name for name in names if "of4" in name] == [
        f"shard-00001.{part}of4.h5" for part in (1, 2, 3, 4)
    ]
    assert len(names) == 6
    whole, cut = open_store(tmp_path / "whole"), open_store(tmp_path / "cut")
    for layer in whole.layers:
        for view in VIEWS:
            one, other = (
                whole.layer(layer, view=view),
                cut.layer(layer, ["a.wav", "long.wav", "b.wav"], view=view),
            )
            assert one.values.tobytes() == other.values.tobytes()
            assert list(one.offsets) == list(other.offsets)
    assert extract(Windows(dies_at=0), manifest, tmp_path / "cut").extracted == 0


def test_durations_in_samples_make_no_plan_of_thousands_of_shards(
    audio: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(
        audio, LENGTHS, seconds=[2**20 * n_samples for n_samples in LENGTHS.values()]
    )
    done = extract(Windows(), manifest, tmp_path / "features")
    assert len(done.failures) == len(LENGTHS)
    assert done.plan.audio_s == pytest.approx(sum(LENGTHS.values()) / RATE_HZ)
    assert len(list(done.store.iterdir())) == 3  # recipe, plan, one index


def test_a_header_that_promises_far_too_much_does_not_stop_the_run(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards_of: Callable[..., None]
) -> None:
    monkeypatch.setattr(
        "probe.data.guarded_decoding.Decoder.header_duration_s", lambda self, path, excerpt: 3600.0
    )
    shards_of(1_000_000)
    done = extract(Windows(), write_manifest(audio, ["a.wav", "b.wav"]), tmp_path / "features")
    assert done.failures == []
    assert len(list(done.store.glob("*.h5"))) > 2 * 10  # more parts than frames
    assert_right(open_store(tmp_path / "features"), audio, ["b.wav", "a.wav"])


# --- interrupted


@pytest.mark.parametrize("dies_at", mostly_nightly(range(7), [0, 4, 6]))
def test_an_interrupted_run_that_is_repeated_is_bit_identical(
    audio: Path, tmp_path: Path, small_shards: None, dies_at: int
) -> None:
    write_audio(audio / "d.wav", 100)  # one of them fails
    manifest = write_manifest(audio, LENGTHS)
    extract(Windows(), manifest, tmp_path / "straight")
    encoder = Windows(dies_at=dies_at)
    if dies_at < 6:
        with pytest.raises(Interrupted):
            extract(encoder, manifest, tmp_path / "broken")
        n_complete = len(list((tmp_path / "broken").rglob("shard-*.json")))
        encoder = Windows()
    done = extract(encoder, manifest, tmp_path / "broken")
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "straight")
    assert [failure.key for failure in done.failures] == ["d.wav"]
    if 3 <= dies_at < 6:
        assert n_complete > 0
        assert len(encoder.seen) < 6  # what was complete was not done again


def killed_at_every_call(folder: str) -> None:
    """Runs in a process of its own: for each call that writes, a child that is killed at this call,
    and one that repeats the run.

    Leaves ``straight``, an uninterrupted run, and one folder per call; prints how many there are.
    """
    import probe.extraction.plan as plan

    plan.SHARD_BYTES = SMALL_SHARD
    manifest = Path(folder) / "audio" / "all.csv"

    def child(to: Path, kill_at: int | None) -> int:
        process = os.fork()
        if process:
            return os.waitpid(process, 0)[1]
        left = [kill_at]
        for name in ("write", "fsync", "replace", "link"):

            def counted(
                *arguments: Any,
                original: Callable[..., Any] = getattr(os, name),  # noqa: B008
                name: str = name,
            ) -> Any:
                if left[0] == 0:
                    if name == "write":
                        original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] = None if left[0] is None else left[0] - 1
                return original(*arguments)

            setattr(os, name, counted)
        extract(Windows(), manifest, to)
        os._exit(0)

    assert child(Path(folder) / "straight", None) == 0
    killed = 0
    while (status := child(Path(folder) / f"killed-{killed}", killed)) != 0:
        assert status == signal.SIGKILL
        assert child(Path(folder) / f"killed-{killed}", None) == 0
        killed += 1
    print(killed)


@pytest.mark.nightly
def test_a_run_killed_at_any_write_and_repeated_is_bit_identical(
    audio: Path, tmp_path: Path
) -> None:
    write_manifest(audio, list(LENGTHS)[:5])
    script = f"import conftest, test_extract; test_extract.killed_at_every_call({str(tmp_path)!r})"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (*Path(__file__).parents[:3],)))
    }
    line = [sys.executable, "-c", script]
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    killed = int(done.stdout.split()[-1])
    straight = files_of(tmp_path / "straight")
    n_files = len(straight)
    n_jobs = sum(name.endswith(".json") and "shard-" in name for name in straight)
    # Write, fsync, rename and the folder's fsync of each file; write and fsync of the file about
    # the run; a link for each claim.
    assert killed == 4 * n_files + 2 + n_jobs + 1
    for number in range(killed):
        assert files_of(tmp_path / f"killed-{number}") == straight, f"killed at call {number}"
    assert list(tmp_path.rglob(".*.tmp")), (
        "no kill left a temporary file; the test has lost its point"
    )


def test_an_interrupted_plan_is_finished_once_even_if_a_smaller_run_came_between(
    audio: Path, tmp_path: Path, small_shards: None
) -> None:
    names = list(LENGTHS)
    manifest = write_manifest(audio, names)
    for interrupted in (
        manifest,
        write_manifest(audio, names[5:6], "one.csv"),
        write_manifest(audio, names[2:], "some.csv"),
    ):
        with pytest.raises(Interrupted):
            extract(Windows(dies_at=0), interrupted, tmp_path / "features")
    encoder = Windows()
    done = extract(encoder, manifest, tmp_path / "features")
    assert sorted(encoder.seen) == sorted(LENGTHS.values())
    assert done.extracted == len(LENGTHS)
    store = open_store(tmp_path / "features")
    assert all(len(versions) == 1 for versions in store.utterances.values())
    assert_right(store, audio, names)


def test_audio_that_changed_between_two_halves_is_right(
    audio: Path, tmp_path: Path, small_shards: None
) -> None:
    manifest = write_manifest(audio, LENGTHS)
    with pytest.raises(Interrupted):
        extract(Windows(dies_at=5), manifest, tmp_path / "features")
    write_audio(audio / "a.wav", 1500, seed=5)
    write_audio(audio / "g.wav", 600, seed=6)
    extract(Windows(), manifest, tmp_path / "features")
    assert_right(open_store(tmp_path / "features"), audio, LENGTHS)


def test_a_damaged_shard_that_is_removed_as_told_comes_back_the_same(
    audio: Path, tmp_path: Path, small_shards: None
) -> None:
    manifest = write_manifest(audio, LENGTHS)
    store = extract(Windows(), manifest, tmp_path / "features").store
    before = files_of(store)
    for name in ("shard-00001.h5", "shard-00001.json"):
        (store / name).unlink()
    extract(Windows(), manifest, tmp_path / "features")
    assert files_of(store) == before


def test_a_store_on_a_read_only_disk_is_complete_or_named(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*LENGTHS]
    extract(Windows(), write_manifest(audio, names[:4]), tmp_path / "features")
    before = files_of(tmp_path / "features")
    opened = os.open

    def read_only(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).startswith(str(tmp_path / "features")) and flags & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT
        ):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    done = extract(Windows(dies_at=0), write_manifest(audio, names[:4]), tmp_path / "features")
    assert (done.extracted, done.plan.present, done.failures) == (0, 4, [])
    with pytest.raises(
        ProbeError,
        match=r"frames-clean-\w{8}: nothing can be written here \(Read-only file system\)",
    ):
        extract(Windows(dies_at=0), write_manifest(audio, names), tmp_path / "features")
    with pytest.raises(
        ProbeError,
        match=r"frames-clean-\w{8}: nothing can be written here \(Read-only file system\)",
    ):
        extract(
            Windows(dies_at=0),
            write_manifest(audio, names),
            tmp_path / "features",
            storing=Storing(dtype="float32"),
        )
    assert files_of(tmp_path / "features") == before


@pytest.mark.parametrize("after", mostly_nightly([0, 1, 2, 4], [0, 2]))
def test_a_full_disk_ends_the_run_and_a_larger_one_finishes_it(
    audio: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    manifest = write_manifest(audio, LENGTHS)
    extract(Windows(), manifest, tmp_path / "straight")
    write, left = os.write, [after]

    def full(descriptor: int, data: Any) -> int:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        if left[0] == 1:
            data = bytes(data)[: len(data) // 2]  # the disk takes a part first
        left[0] -= 1
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises((OSError, ProbeError), match="No space left on device"):
            extract(Windows(), manifest, tmp_path / "features")
    assert not list((tmp_path / "features").rglob("*.tmp"))
    assert files_of(tmp_path / "features").items() <= files_of(tmp_path / "straight").items()
    extract(Windows(), manifest, tmp_path / "features")
    assert files_of(tmp_path / "features") == files_of(tmp_path / "straight")


# --- failures


def reasons(done: Extraction) -> dict[str, str]:
    return {failure.key: failure.reason for failure in done.failures}


@pytest.fixture
def spoilt(audio: Path) -> Path:
    """The folder with files that cannot be used among the others, and digital silence."""
    write_audio(audio / "short.wav", 399)
    write_audio(audio / "shortest.wav", 400)
    (audio / "empty.wav").write_bytes(b"")
    (audio / "cut.wav").write_bytes((audio / "g.wav").read_bytes()[:-200])
    (audio / "text.wav").write_text("not audio")
    soundfile.write(audio / "nan.wav", np.full(1000, np.nan, np.float32), RATE_HZ, subtype="FLOAT")
    soundfile.write(audio / "silent.wav", np.zeros(1000, np.int16), RATE_HZ)
    write_audio(audio / "poison.wav", 1234)
    names = ["short", "a", "shortest", "empty", "cut", "text", "nan", "silent", "poison", "b"]
    return write_manifest(audio, [f"{name}.wav" for name in names])


def test_what_cannot_be_used_is_named_with_its_reason_and_the_rest_goes_on(
    spoilt: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "probe"):
        done = extract(Windows(poison=1234), spoilt, tmp_path / "features")
    found = reasons(done)
    assert set(found) == {"short.wav", "empty.wav", "cut.wav", "text.wav", "nan.wav", "poison.wav"}
    assert (
        found["short.wav"]
        == "too short: 399 samples at 16000 Hz (0.0249 s); windows needs at least 400"
    )
    assert "0 bytes" in found["empty.wav"]
    assert "truncated" in found["cut.wav"]
    assert "cannot be decoded" in found["text.wav"]
    assert "1000 samples are NaN or infinite" in found["nan.wav"]
    assert found["poison.wav"] == "layer 2 of windows gives NaN or infinite values"
    for key, reason in found.items():
        assert f"{key}: {reason}" in caplog.text
    assert done.extracted == 4
    store = open_store(tmp_path / "features")
    assert store.keys == ["a.wav", "shortest.wav", "silent.wav", "b.wav"]
    assert_right(store, spoilt.parent, store.keys)
    assert {key: failure.reason for key, failure in store.failures.items()} == found


def test_digital_silence_is_extracted_by_a_real_model(spoilt: Path, tmp_path: Path) -> None:
    manifest = write_manifest(spoilt.parent, ["silent.wav"], "silent.csv")
    done = extract(
        "mfcc", manifest, tmp_path / "features", running=Running(check=False, device="cpu")
    )
    assert done.failures == []
    assert np.isfinite(open_store(done.store).layer("0").values).all()


def test_failures_are_reported_again_and_not_tried_again(spoilt: Path, tmp_path: Path) -> None:
    first = extract(Windows(poison=1234), spoilt, tmp_path / "features")
    before = files_of(tmp_path / "features")
    encoder = Windows()
    second = extract(encoder, spoilt, tmp_path / "features")
    assert reasons(second) == reasons(first)
    assert (second.extracted, second.plan.present, len(second.plan.failed)) == (0, 4, 6)
    assert encoder.seen == []
    assert files_of(tmp_path / "features") == before
    assert ", 6 failed before; " in second.plan.describe()
    assert (
        reasons(
            extract(
                encoder, write_manifest(spoilt.parent, ["a.wav"], "a.csv"), tmp_path / "features"
            )
        )
        == {}
    )


def test_a_failure_is_tried_again_when_its_audio_changes(spoilt: Path, tmp_path: Path) -> None:
    extract(Windows(), spoilt, tmp_path / "features")
    write_audio(spoilt.parent / "cut.wav", 2000)
    encoder = Windows()
    done = extract(encoder, spoilt, tmp_path / "features")
    assert encoder.seen == [2000]
    assert done.extracted == 1
    assert "cut.wav" not in reasons(done)
    store = open_store(tmp_path / "features")
    assert_right(store, spoilt.parent, ["cut.wav"])
    assert "cut.wav" not in store.failures


def test_audio_that_gets_worse_is_a_failure_and_is_used_again_when_it_is_back(
    audio: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(audio, LENGTHS)
    extract(Windows(), manifest, tmp_path / "features")
    good = (audio / "b.wav").read_bytes()
    (audio / "b.wav").write_bytes(b"")
    for _ in range(2):
        assert set(reasons(extract(Windows(dies_at=0), manifest, tmp_path / "features"))) == {
            "b.wav"
        }
    (audio / "b.wav").write_bytes(good)
    assert extract(Windows(dies_at=0), manifest, tmp_path / "features").failures == []


def test_a_wrong_duration_in_the_manifest_is_tried_again_when_it_is_put_right(
    audio: Path, tmp_path: Path
) -> None:
    names = ["a.wav", "b.wav"]
    right = [LENGTHS[name] / RATE_HZ for name in names]
    wrong = write_manifest(audio, names, "wrong.csv", [right[0], right[1] * 2**20])
    for _ in range(2):
        done = extract(Windows(), wrong, tmp_path / "features")
        assert list(reasons(done)) == ["b.wav"]
        assert "is this column in samples?" in reasons(done)["b.wav"]
    done = extract(Windows(), write_manifest(audio, names, seconds=right), tmp_path / "features")
    assert done.failures == []
    assert done.extracted == 1
    assert_right(open_store(tmp_path / "features"), audio, names)


def test_a_file_that_goes_missing_meanwhile_is_a_failure_until_it_is_back(
    audio: Path, tmp_path: Path
) -> None:
    corpus = load_corpus(write_manifest(audio, LENGTHS))
    content = (audio / "c.wav").read_bytes()
    (audio / "c.wav").unlink()
    for _ in range(2):
        done = extract(Windows(), corpus, tmp_path / "features")
        assert reasons(done) == {"c.wav": "cannot be read: No such file or directory"}
    assert done.extracted == 0
    (audio / "c.wav").write_bytes(content)
    assert extract(Windows(), corpus, tmp_path / "features").failures == []
    assert_right(open_store(tmp_path / "features"), audio, LENGTHS)


def test_a_file_that_could_not_be_read_is_tried_again_by_the_next_run(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest(audio, LENGTHS)
    opened = os.open

    def broken(path: str | Path, *arguments: Any, **keywords: Any) -> int:
        if Path(path).name == "c.wav":
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr("probe.data.audio_bytes.os.open", broken)
        done = extract(Windows(), manifest, tmp_path / "features")
        assert reasons(done) == {"c.wav": "cannot be read: Input/output error"}
    assert open_store(done.store).failure("c.wav", audio / "c.wav") is not None
    assert extract(Windows(), manifest, tmp_path / "features").failures == []
    assert_right(open_store(tmp_path / "features"), audio, LENGTHS)


def test_a_corpus_of_failures_alone_is_a_store_without_features(
    audio: Path, tmp_path: Path
) -> None:
    write_audio(audio / "a.wav", 10)
    done = extract(Windows(), write_manifest(audio, ["a.wav"]), tmp_path / "features")
    assert list(reasons(done)) == ["a.wav"]
    assert list(done.store.glob("*.h5")) == []
    assert open_store(done.store).keys == []


def test_two_corpora_with_the_same_names_share_a_store(audio: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_audio(other / "a.wav", 4000)
    write_audio(other / "b.wav", LENGTHS["b.wav"], seed=3)
    manifests = [
        write_manifest(audio, ["a.wav", "b.wav"]),
        write_manifest(other, ["a.wav", "b.wav"]),
    ]
    for _ in range(2):
        for manifest in manifests:
            done = extract(Windows(), manifest, tmp_path / "features")
    assert done.extracted == 0
    store = open_store(tmp_path / "features")
    for manifest in manifests:
        stored = [store.match(item.key, item.path) for item in load_corpus(manifest).utterances]
        for found, name in zip(
            store.read("1", [item for item in stored if item]), ["a.wav", "b.wav"], strict=True
        ):
            np.testing.assert_allclose(
                found, Windows().direct(manifest.parent / name, "1"), rtol=1e-3, atol=1e-4
            )


def test_the_manifest_s_columns_are_copied_into_the_shard(audio: Path, tmp_path: Path) -> None:
    import h5py

    manifest = audio / "indexed.csv"
    manifest.write_text(
        ",path,text,speaker,domain,split,duration_s,a/b,a_b\n0,a.wav,zwölf,ann,near,test,,1,2\n",
        encoding="utf-8",
    )
    done = extract(Windows(), manifest, tmp_path / "features")
    with h5py.File(done.store / "shard-00000.h5") as file:
        values = {name: item[0].decode() for name, item in file["manifest"].items()}
    assert values["text"] == "zwölf"
    assert sorted(values.values()) == sorted(["0", "zwölf", "ann", "near", "test", "1", "2"])


def test_an_open_corpus_and_an_open_model_do_as_well_as_names(audio: Path, tmp_path: Path) -> None:
    manifest = write_manifest(audio, LENGTHS)
    by_name = extract(
        "mfcc", str(manifest), str(tmp_path / "one"), running=Running(check=False, device="cpu")
    )
    by_hand = extract(open_model("mfcc", "cpu"), load_corpus(manifest), tmp_path / "two")
    assert by_name.store.relative_to(tmp_path / "one") == by_hand.store.relative_to(
        tmp_path / "two"
    )
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_an_utterance_s_features_do_not_depend_on_the_corpus_around_it(
    audio: Path, tmp_path: Path
) -> None:
    corpus = load_corpus(write_manifest(audio, LENGTHS))
    alone = Corpus(corpus.name, corpus.sha256, corpus.utterances[2:3], corpus.columns)
    model = open_model("random:data2vec-audio-tiny", "cpu")
    extract(model, corpus, tmp_path / "all")
    extract(model, alone, tmp_path / "alone")
    for layer in model.info.layers:
        one, other = (
            open_store(tmp_path / name).layer(layer, ["c.wav"]).values for name in ("all", "alone")
        )
        assert one.tobytes() == other.tobytes()


def test_renamed_keys_are_other_utterances(audio: Path, tmp_path: Path) -> None:
    corpus = load_corpus(write_manifest(audio, ["a.wav"]))
    renamed: tuple[Utterance, ...] = (replace(corpus.utterances[0], key="another"),)
    extract(Windows(), corpus, tmp_path / "features")
    assert (
        extract(Windows(), replace(corpus, utterances=renamed), tmp_path / "features").extracted
        == 1
    )
    assert open_store(tmp_path / "features").keys == ["a.wav", "another"]
