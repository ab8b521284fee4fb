"""Plug-ins: the contract and its adapter, HEAR's interface, hooks, names, and what becomes of
hostile ones.
"""

import itertools
import re
import shlex
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scored import summary_rows
from torch import Tensor

import probe
from probe.cli import cli
from probe.errors import ProbeError, UsageError
from probe.extraction.extract import Extraction, extract
from probe.extraction.settings import Running, Storing
from probe.models.catalogue import open_model
from probe.models.check import check_model
from probe.models.frames import FrameGrid, measured_grid
from probe.models.plugins import loader
from probe.models.plugins.hooks import HookedModule
from probe.store.stores import open_store, select_store

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
CPU = torch.device("cpu")


class Sound(torch.nn.Module):
    """A plug-in that keeps the contract; faults are planted in its subclasses."""

    sample_rate, hop_samples, version = 16_000, 320, "1"

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.front = torch.nn.Conv1d(1, 6, kernel_size=400, stride=320)
            self.blocks = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(2))
        self.layer_widths: Any = {"0": 6, "1": 6, "2": 6}

    def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
        layers = [self.front(waveforms[:, None]).transpose(1, 2)]
        for block in self.blocks:
            layers.append(layers[-1] + torch.tanh(block(layers[-1])))
        return layers, 1 + (lengths - 400) // 320

    def forward(self, waveforms: Tensor) -> Tensor:
        frames = self.front(waveforms[:, None]).transpose(1, 2)
        for block in self.blocks:
            frames = block(frames)
        return frames


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a module into the working folder, which is the test's own, and returns its name, like
    no other's.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [item for item in sys.path if item != ""])
    numbers = itertools.count()

    def write(source: str, name: str = "") -> str:
        name = name or f"plug_{tmp_path.name}_{next(numbers)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        sys.modules.pop(name, None)
        sys.path_importer_cache.pop(str(tmp_path), None)
        return name

    return write


SOURCE = """
import torch

class Net:
    sample_rate, hop_samples, layer_widths = 16_000, 320, {"0": 1}

    def encode(self, waveforms, lengths):
        frames = waveforms.unfold(1, 400, 320).square().mean(2, keepdim=True)
        return [frames], 1 + (lengths - 400) // 320
"""


def probe_line(line: str) -> None:
    """Runs one command line in this process."""
    cli.main(shlex.split(line)[1:], standalone_mode=False)


# The page


def run_the_page(corpus: Path, written: Callable[..., str], limit: int = 1000) -> tuple[Any, Any]:
    """The example of docs/plugins.md, from its Python to its table: the row of word-id and the
    store.
    """
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    written(source, "mynet")
    for line in commands.strip().splitlines():
        probe_line(
            line.replace("corpus.csv", f"{corpus} --limit {limit}").replace(
                "probe check", "probe check --quick"
            )
        )
    table = summary_rows(probe.read_records("results"))
    assert "plugin:mynet:MyNet" in Path("tables/table.md").read_text(encoding="utf-8")
    (row,) = table[table.metric == "accuracy"].itertuples()
    return row, open_store("features")


def test_the_example_of_the_page_runs_from_its_source_to_its_table(
    tones: Callable[..., Path], written: Any
) -> None:
    row, store = run_the_page(tones(), written)
    assert row.value > row.majority + 0.3
    assert store.recipe["model"]["id"] == "plugin:mynet:MyNet"
    assert {item.n_frames for versions in store.utterances.values() for item in versions} == {14}


@pytest.mark.nightly
def test_the_example_of_the_page_runs_on_real_speech(speech: Path, written: Any) -> None:
    row, store = run_the_page(speech.resolve() / "digits_shared.csv", written, limit=150)
    assert row.value > row.majority + 0.05
    for versions in store.utterances.values():
        assert versions[-1].n_frames == 1 + (round(versions[-1].duration_s * 16_000) - 400) // 320


# The contract


def test_a_sound_plugin_passes_and_its_layers_come_in_the_order_asked_for() -> None:
    encoder = open_model(Sound(), "cpu")
    assert not check_model(encoder).failed
    wave = torch.randn(1, 16_000)
    layers, counts = encoder.encode(wave, torch.tensor([16_000]), ["2", "0"])
    expected = Sound().eval().encode(wave, torch.tensor([16_000]))[0]
    assert torch.equal(layers[0], expected[2])
    assert torch.equal(layers[1], expected[0])
    assert counts.tolist() == [[49], [49]]
    assert encoder.info.parameters == sum(weight.numel() for weight in Sound().parameters())


def test_masks_and_counters_of_a_plugin_are_no_weights() -> None:
    class Masked(Sound):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
            self.register_buffer("steps", torch.tensor(5_000_000))

    assert not check_model(open_model(Masked(), "cpu"), quick=True).failed


def test_modules_inside_a_plain_object_are_hashed_and_put_into_evaluation_mode() -> None:
    class Wrapping:
        sample_rate, hop_samples, layer_widths, version = 16_000, 320, {"0": 6, "1": 6, "2": 6}, "1"

        def __init__(self) -> None:
            self.net = Sound()

        def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
            assert not self.net.training
            return self.net.encode(waveforms, lengths)

    plugin = Wrapping()
    encoder = open_model(plugin, "cpu")
    assert encoder.info.weights_sha256
    with torch.no_grad():
        plugin.net.front.weight[0, 0, 0] += 1
    assert open_model(plugin, "cpu").info.weights_sha256 != encoder.info.weights_sha256


class WrongHop(Sound):
    hop_samples = 160


class HopTwiceAsLong(Sound):
    hop_samples = 640


class CountsOfThePaddedBatch(Sound):
    def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
        layers, counts = super().encode(waveforms, lengths)
        return layers, torch.full_like(counts, layers[0].shape[1])


class CountsWithoutARule(Sound):
    def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
        layers, counts = super().encode(waveforms, lengths)
        return layers, counts.clamp(max=40)


class NormalisedOverTheBatch(Sound):
    def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
        return super().encode(waveforms - waveforms.mean(), lengths)


class MovesByCallsBefore(Sound):
    calls = 0

    def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
        self.calls += 1
        layers, counts = super().encode(waveforms, lengths)
        return [item + 0.01 * self.calls for item in layers], counts


class RemembersTheUtteranceBefore(Sound):
    before = torch.zeros(6)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
        layers, counts = super().encode(waveforms, lengths)
        layers[2] = layers[2] + self.before
        self.before = layers[0].mean((0, 1))
        return layers, counts


class DropsOut(Sound):
    def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
        return super().encode(torch.nn.functional.dropout(waveforms), lengths)


class NotFinite(Sound):
    def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
        layers, counts = super().encode(waveforms, lengths)
        return [*layers[:2], layers[2] / waveforms.square().sum()], counts


FAULTS = {
    WrongHop: "frames",
    HopTwiceAsLong: "frames",
    CountsOfThePaddedBatch: "batches",
    CountsWithoutARule: "frames",
    NormalisedOverTheBatch: "batches",
    MovesByCallsBefore: "layers",
    RemembersTheUtteranceBefore: "batches",
    DropsOut: "layers",
    NotFinite: "values",
}


@pytest.mark.parametrize(
    ("faulty", "check"), FAULTS.items(), ids=lambda item: getattr(item, "__name__", item)
)
def test_the_check_finds_a_plugin_that_breaks_the_contract(faulty: type[Sound], check: str) -> None:
    certificate = check_model(open_model(faulty(), "cpu"), quick=True)
    assert check in {finding.check for finding in certificate.failed}


def test_weights_that_are_drawn_anew_each_time_are_found_by_opening_again(written: Any) -> None:
    source = SOURCE + "\n    def __init__(self):\n        self.net = torch.nn.Linear(3, 3)\n"
    state = torch.get_rng_state()
    assert not check_model(open_model(f"plugin:{written(source)}:Net", "cpu")).failed
    assert torch.equal(state, torch.get_rng_state())
    source += "        self.net.bias.data[0] = float(torch.Generator().seed() % 99991)\n"
    encoder = open_model(f"plugin:{written(source)}:Net", "cpu")
    assert {finding.check for finding in check_model(encoder).failed} == {"reopened"}


def test_a_plugin_with_a_wrong_hop_is_not_extracted(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ProbeError, match=r"features cannot be trusted(.|\n)*frames: "):
        extract(WrongHop(), tones(), tmp_path / "features")
    with pytest.raises(ProbeError, match="14 frames of 4800 samples where its grid gives 27"):
        extract(WrongHop(), tones(), tmp_path / "features", running=Running(check=False))


def changed(**attributes: Any) -> Sound:
    """A sound plug-in with other attributes."""
    plugin = Sound()
    for name, value in attributes.items():
        object.__setattr__(plugin, name, value)
    return plugin


def returning(change: Callable[[list[Tensor], Tensor], Any]) -> Sound:
    """A plug-in whose ``encode`` returns something else."""
    sound = Sound()
    return changed(encode=lambda waveforms, lengths: change(*sound.encode(waveforms, lengths)))


REFUSED = [
    (
        lambda: object(),
        (
            "object has no sample_rate, hop_samples, layer_widths, encode; expected the contract of"
            " docs/plugins.md"
        ),
    ),
    (
        lambda: torch.nn.Sequential(torch.nn.Linear(2, 2)),
        "--hook with names of its modules, such as 0",
    ),
    (lambda: changed(sample_rate="16k"), "sample_rate: found '16k'; expected a whole number"),
    (lambda: changed(sample_rate=16), "sample_rate: found 16; expected 1000 or more"),
    (lambda: changed(hop_samples=0), "hop_samples: found 0; expected 1 or more"),
    (lambda: changed(hop_samples=320.0), "hop_samples: found 320.0; expected a whole number"),
    (lambda: changed(min_samples=-1), "min_samples: found -1; expected"),
    (lambda: changed(layer_widths=[6, 6, 6]), "layer_widths: found .6, 6, 6.; expected an object"),
    (lambda: changed(layer_widths={}), "layer_widths: found {}; expected 1 or more entries"),
    (lambda: changed(layer_widths={"0": 0}), "layer_widths.0: found 0; expected 1 or more"),
    (lambda: changed(layer_widths={"a/b": 6}), "found 'a/b'; expected letters"),
    (lambda: changed(layer_widths={"0-2": 6}), "found '0-2'; expected letters"),
    (lambda: changed(layer_widths={"ctc": 6}), "found 'ctc'; expected letters"),
    (lambda: changed(layer_widths={0: 6}), "found 0; expected text"),
    (
        lambda: returning(lambda layers, counts: None),
        "encode returned a NoneType; expected a list of frames per layer, and",
    ),
    (lambda: returning(lambda layers, counts: layers), "encode returned 3 things; expected"),
    (
        lambda: returning(lambda layers, counts: (layers[0], counts)),
        "encode returned frames as a Tensor; expected a list of 3",
    ),
    (
        lambda: returning(lambda layers, counts: (layers[:2], counts)),
        "frames of 2 layers; expected a list of 3",
    ),
    (
        lambda: returning(lambda layers, counts: (layers, counts.float())),
        "valid frames of shape .1,., torch.float32; expected",
    ),
    (
        lambda: returning(lambda layers, counts: (layers, counts[None])),
        "valid frames of shape .1, 1.",
    ),
    (
        lambda: returning(lambda layers, counts: (layers, 320 * counts)),
        "15680. valid frames, where layer number 0 has 49",
    ),
    (lambda: returning(lambda layers, counts: (layers, -counts)), "-49. valid frames"),
    (
        lambda: returning(lambda layers, counts: ([x.int() for x in layers], counts)),
        "layer number 0 as torch.int32; expected",
    ),
    (
        lambda: returning(lambda layers, counts: ([x.numpy() for x in layers], counts)),
        "layer number 0 as a ndarray; expected",
    ),
    (
        lambda: returning(lambda layers, counts: ([x.mT for x in layers], counts)),
        "Are frame and dim exchanged",
    ),
    (
        lambda: returning(lambda layers, counts: ([x[0] for x in layers], counts)),
        "of shape .49, 6.; expected .1, frame, 6.",
    ),
    (
        lambda: returning(lambda layers, counts: ([x.to("meta") for x in layers], counts)),
        "encode of .* samples raised",
    ),
    (
        lambda: returning(lambda layers, counts: (layers, 0 * counts)),
        "0 frames of 32 s of audio; expected frames over time",
    ),
    (
        lambda: returning(lambda layers, counts: sys.exit("enough")),
        "raised SystemExit: enough .*test_plugins.py line",
    ),
    (
        lambda: returning(lambda layers, counts: {}["blocks"]),
        "raised KeyError: 'blocks' .*test_plugins.py line",
    ),
]


@pytest.mark.parametrize(("made", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_is_not_of_the_contract_is_refused_by_name(
    made: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ProbeError, match=message) as refused:
        open_model(made(), "cpu")
    assert "plugin:" in str(refused.value)


def test_other_floating_types_lists_of_lengths_and_garbage_past_them_are_taken() -> None:
    def half(layers: list[Tensor], counts: Tensor) -> Any:
        return (
            tuple(
                torch.cat([item, torch.full_like(item, float("nan"))], 1).double()
                for item in layers
            ),
            counts.tolist(),
        )

    frames, _ = open_model(returning(half), "cpu").encode(
        torch.ones(1, 800), torch.tensor([800]), ["1"]
    )
    expected, _ = open_model(Sound(), "cpu").encode(torch.ones(1, 800), torch.tensor([800]), ["1"])
    assert frames[0].dtype == torch.float32
    assert torch.equal(frames[0], expected[0])


def test_a_plugin_is_given_silence_past_a_length_and_cannot_change_the_waveforms() -> None:
    class Greedy(Sound):
        def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
            assert all(
                not wave[length:].any() for wave, length in zip(waveforms, lengths, strict=True)
            )
            returned = super().encode(waveforms, lengths)
            waveforms.zero_()
            lengths.zero_()
            return returned

    waves, lengths = torch.ones(2, 800), torch.tensor([800, 500])
    waves[1, 500:] = float("nan")
    open_model(Greedy(), "cpu").encode(waves, lengths, ["0"])
    assert waves.nansum() == 1300
    assert lengths.tolist() == [800, 500]


def test_an_utterance_that_a_plugin_refuses_fails_alone(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    class Choosy(Sound):
        seen, refused = 0, None

        def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
            self.seen += 1
            if self.seen == 3 or (
                self.refused is not None and torch.equal(waveforms, self.refused)
            ):
                self.refused = waveforms.clone()
                raise ValueError("not this one")
            return super().encode(waveforms, lengths)

    manifest = tones(words=2, speakers=1)
    choosy = Choosy()
    encoder = open_model(choosy, "cpu")
    encoder.rows = 1000  # all in one pass
    choosy.seen, choosy.refused = 0, None
    done = extract(encoder, manifest, tmp_path / "features", running=Running(check=False))
    [failure] = done.failures
    assert re.search("raised ValueError: not this one .*test_plugins.py line", failure.reason)
    assert done.extracted == 11
    choosy.refused = None
    again = extract(encoder, manifest, tmp_path / "features", running=Running(check=False))
    assert (again.extracted, again.failures) == (1, [])
    stored = open_store(tmp_path / "features").layer("2")
    expected = extract(Sound(), manifest, tmp_path / "others")
    others = open_store(expected.store).layer("2", stored.keys)
    assert (stored.values == others.values).all()


def test_equal_failures_are_logged_once_and_counted(
    tones: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Sound):
        opened = False

        def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
            if self.opened:
                raise ValueError(f"nothing for {len(waveforms[0])} samples")
            return super().encode(waveforms, lengths)

    broken = Broken()
    encoder = open_model(broken, "cpu")
    broken.opened = True
    with caplog.at_level("WARNING", "probe"):
        done = extract(
            encoder, tones(words=2, speakers=1), tmp_path / "features", running=Running(check=False)
        )
    assert len(done.failures) == 12
    lines = [
        record.message
        for record in caplog.records
        if "fail" in record.message or "raised" in record.message
    ]
    assert len(lines) == 2
    assert re.match("11 more utterances failed for the same reason as ", lines[1])


TWIN = (
    SOURCE
    + """
class Trained(torch.nn.Module):
    sample_rate, hop_samples, layer_widths = 16_000, 320, {"0": 4}

    def __init__(self, scale="1"):
        super().__init__()
        self.front = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(1, 4, 400, 320))
        self.norm = torch.nn.BatchNorm1d(4)
        for parameter in self.parameters():
            parameter.data.fill_(float(scale)).requires_grad_(False)
        self.norm.running_mean.fill_(3.0)

    def forward(self, waveforms):
        return self.norm(self.front(waveforms[:, None])).mT

    def encode(self, waveforms, lengths):
        return [self.norm(self.front(waveforms[:, None])).mT], 1 + (lengths - 400) // 320

class Own(Trained):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(4))
"""
)


def test_random_before_a_plugin_draws_its_weights_anew_from_the_seed(written: Any) -> None:
    name = f"plugin:{written(TWIN)}:Trained@2"
    trained, twin, same, other = (
        open_model(item, "cpu")
        for item in (name, f"random:{name}", f"random:{name}@@0", f"random:{name}@@7")
    )
    assert twin.info.id == same.info.id == other.info.id == f"random:{name}"
    assert twin.info.revision == same.info.revision == f"{trained.info.revision}, seed 0"
    assert other.info.revision.endswith(", seed 7")
    assert twin.info.weights_sha256 == same.info.weights_sha256
    assert len({encoder.info.weights_sha256 for encoder in (trained, twin, other)}) == 3
    weights = twin.model.state_dict()  # type: ignore[attr-defined]
    assert weights["0.front.parametrizations.weight.original1"].std() > 0
    assert not weights["0.norm.running_mean"].any()
    assert not check_model(twin, quick=False).failed
    torch.manual_seed(1)
    state = torch.get_rng_state()
    hooked = open_model(f"random:{name}@@7#norm", "cpu", sha256=other.info.weights_sha256)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(hooked.info.layers) == ["0", "1"]


def test_what_cannot_be_drawn_anew_is_refused_by_name(written: Any) -> None:
    module = written(TWIN)
    with pytest.raises(
        ProbeError,
        match=r"1 of its 6 arrays of weights cannot be drawn anew.*: scale\. Give the modules",
    ):
        open_model(f"random:plugin:{module}:Own", "cpu")
    with pytest.raises(
        ProbeError, match=r"no torch parameters among its attributes.*Name it without random:"
    ):
        open_model(f"random:plugin:{module}:Net", "cpu")


def test_a_model_of_transformers_in_a_plugin_is_drawn_anew_by_its_own_rules(
    folders: dict[str, Path], written: Any
) -> None:
    source = (
        "import transformers\ndef load(folder):\n    return"
        " transformers.AutoModel.from_pretrained(folder)\n"
    )
    name = f"plugin:{written(source)}:load@{folders['wavlm pre-LN']}"
    twin = open_model(f"random:{name}#encoder.layers.*", "cpu")
    weights = twin.model.state_dict()  # type: ignore[attr-defined]
    assert 0.01 < weights["0.encoder.layers.1.attention.q_proj.weight"].std() < 0.04, (
        "transformers draws with 0.02"
    )
    assert not weights["0.encoder.layers.1.attention.q_proj.bias"].any()


def test_a_wrong_argument_is_told_from_a_faulty_plugin(written: Any) -> None:
    module = written(
        SOURCE + "\ndef load(path):\n    return open(path)\ndef of(size):\n    return int(size)\n"
    )
    message = (
        r"load raised FileNotFoundError: .* Check the text after @, 'bset.pt' \(no such file in"
        r" .*\), or mend the plug-in"
    )
    with pytest.raises(ProbeError, match=message):
        open_model(f"plugin:{module}:load@bset.pt", "cpu")
    with pytest.raises(
        ProbeError,
        match=r"of raised ValueError: .* Check the text after @, 'large'.* or mend the plug-in",
    ):
        open_model(f"plugin:{module}:of@large", "cpu")


def test_a_module_of_fixed_length_is_refused_with_both_causes() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front = torch.nn.Conv1d(1, 3, 400, 320)

        def forward(self, waveforms: Tensor) -> Tensor:
            return self.front(
                torch.nn.functional.pad(waveforms, (0, 480_000 - waveforms.shape[1]))[:, None]
            ).mT

    with pytest.raises(
        ProbeError,
        match=(
            r"--hook front: .*one result for an utterance: then hook.*pads or cuts its input to one"
        ),
    ):
        open_model(HookedModule(Fixed(), ["front"]), "cpu")


def test_memory_that_does_not_suffice_is_left_to_the_extraction() -> None:
    class Large(Sound):
        def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
            if waveforms.shape[1] > 100_000:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().encode(waveforms, lengths)

    with pytest.raises(torch.OutOfMemoryError):
        open_model(Large(), "cpu").encode(torch.ones(1, 100_001), torch.tensor([100_001]), ["0"])


def test_a_plugin_of_long_windows_passes() -> None:
    class Long(Sound):
        hop_samples = 8000

        def __init__(self) -> None:
            super().__init__()
            self.front = torch.nn.Conv1d(1, 6, kernel_size=20_000, stride=8000)

        def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
            return super().encode(waveforms, lengths)[0], 1 + (lengths - 20_000) // 8000

    encoder = open_model(Long(), "cpu")
    assert encoder.info.grid.min_samples == 20_000
    assert not check_model(encoder, quick=True).failed


# How many frames a length gives


@settings(max_examples=60, deadline=None)
@given(
    hop=st.integers(1, 700),
    field=st.integers(-900, 900),
    shortest=st.integers(1, 20_000),
    known=st.booleans(),
)
def test_the_grid_of_frames_is_found_by_counting(
    hop: int, field: int, shortest: int, known: bool
) -> None:
    grid = FrameGrid(hop, field, max(shortest, field, 1))
    assert measured_grid(grid.n_frames, 4000, hop if known else None) == grid


def test_a_model_that_makes_one_frame_of_anything_short_counts_from_where_frames_begin() -> None:
    assert measured_grid(lambda n: max(1, 1 + (n - 400) // 320), 16_000) == FrameGrid(320, 400, 400)


def test_frames_at_no_regular_distance_are_refused() -> None:
    with pytest.raises(ProbeError, match="frames come at no regular distance"):
        measured_grid(lambda n: int(n**0.5), 16_000)
    with pytest.raises(ProbeError, match="frames come at no regular distance"):
        measured_grid(lambda n: 2 * (n // 320), 16_000)


def test_centred_windows_pass_the_check_and_give_frames_from_the_first_sample_on(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    class Centred:
        sample_rate, hop_samples, layer_widths, version = 16_000, 160, {"0": 201}, "1"

        def encode(self, waveforms: Tensor, lengths: Tensor) -> Any:
            alone = [
                wave[:n]
                .stft(400, 160, window=torch.hann_window(400), center=True, return_complex=True)
                .abs()
                .mT
                for wave, n in zip(waveforms, lengths, strict=True)
            ]
            return [torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)], 1 + lengths // 160

    encoder = open_model(Centred(), "cpu")
    assert (encoder.info.grid.field_samples, encoder.info.grid.min_samples) == (0, 201)
    assert [encoder.info.n_frames(n) for n in (200, 201, 319, 320)] == [0, 2, 2, 3]
    assert not check_model(encoder, quick=True).failed
    store = open_store(extract(encoder, tones(words=1), tmp_path / "features").store)
    assert (store.field_s("0"), store.hop_s("0")) == (
        0.0,
        0.01,
    )  # where its frames stand, whatever its shortest length


# Names


def test_a_factory_of_the_working_folder_is_opened_by_name_and_is_given_the_text_after_at(
    written: Any,
) -> None:
    name = written(
        SOURCE
        + "\ndef load(size):\n    net = Net()\n    net.notes = [f'of size {size}']\n    return"
        " net\n"
    )
    assert open_model(f"plugin:{name}:Net", "cpu").info.id == f"plugin:{name}:Net"
    encoder = open_model(f"plugin:{name}:load@some/where:12", "cpu")
    assert encoder.info.id == f"plugin:{name}:load@some/where:12"
    assert encoder.info.notes == ("of size some/where:12",)


def install(folder: Path, package: str, **names: str) -> None:
    """What an installed distribution leaves behind: its entry points."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8"
    )
    lines = [f"{name} = {value}" for name, value in names.items()]
    (info / "entry_points.txt").write_text(
        "\n".join(["[probe.models]", *lines]) + "\n", encoding="utf-8"
    )


def test_installed_packages_have_names_of_their_own(
    written: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = written(SOURCE)
    install(tmp_path / "site", "netpack", **{"mynet": f"{module}:Net", "org/name": f"{module}:Net"})
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mynet").mkdir()
    assert open_model("mynet", "cpu").info.id == "mynet"
    with pytest.raises(ProbeError, match=r"no config\.json"):
        open_model("./mynet", "cpu")
    assert not loader.is_plugin("org/name"), "a package cannot take a name of the hub"
    with pytest.raises(ProbeError, match="Did you mean 'mynet'"):
        open_model("mynets", "cpu")
    with pytest.raises(
        UsageError, match=r"factory takes \(\), and is given one argument, the text after @"
    ):
        open_model("mynet@best.pt", "cpu")
    probe_line("probe models")
    assert "installed here: mynet" in capsys.readouterr().err
    install(tmp_path / "site", "otherpack", mynet="other:Net")
    with pytest.raises(
        ProbeError,
        match=(
            r"mynet: installed packages give this name to .*Net and to other:Net|other:Net and to"
        ),
    ):
        open_model("mynet", "cpu")


WRONG_NAMES = [
    (
        "plugin:{}",
        (
            "expected plugin:package.module:factory, plugin:package.module:factory@argument or"
            " hear:package.module"
        ),
    ),
    ("plugin:{}:", "expected plugin:package.module:factory"),
    ("plugin:{}.py:Net", "no module '{}.py'"),
    ("plugin:./{}:Net", "expected plugin:package.module:factory"),
    (
        "plugin:nowhere_at_all:Net",
        "no module 'nowhere_at_all', neither in .* nor installed. Change to the folder",
    ),
    ("plugin:{}.inner:Net", "no module '{}.inner'|no module"),
    ("plugin:{}:Nett", "no 'Nett' in .*{}.py; there are Net"),
    (
        "plugin:{}:torch",
        "{}:torch is a module; expected a function or a class that gives the plug-in",
    ),
    ("plugin:{}:ready", "{}:ready is a Linear; expected a function or a class"),
    (
        "plugin:{}:fails",
        "plugin:{}:fails: {}:fails raised ZeroDivisionError: division by zero .*{}.py line",
    ),
    ("plugin:{}:leaves", "raised SystemExit: 7 .*{}.py line"),
    (
        "plugin:{}:needs",
        r"factory takes \(path\), and is given no argument; text after @ would be one",
    ),
    ("plugin:{}:nothing", "NoneType has no sample_rate"),
    ("plugin:{}:Net#front", "a Net; only a torch module has modules for --hook front"),
    (
        "hear:{}",
        "hear:{}: has no load_model, get_timestamp_embeddings, get_scene_embeddings; expected",
    ),
]


@pytest.mark.parametrize(("name", "message"), WRONG_NAMES, ids=[name for name, _ in WRONG_NAMES])
def test_a_name_that_leads_to_no_plugin_is_refused_with_what_to_do(
    written: Any, name: str, message: str
) -> None:
    source = """
ready = torch.nn.Linear(1, 1)
def fails():
    return 1 / 0
def leaves():
    raise SystemExit(7)
def needs(path): ...
def nothing(): ...
"""
    module = written(SOURCE + source)
    with pytest.raises(ProbeError, match=message.replace("{}", module)):
        open_model(name.replace("{}", module), "cpu")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import a_library_nobody_has\n",
            (
                "importing {} raised ModuleNotFoundError: No module named 'a_library_nobody_has'"
                " .*{}.py line 1.*Install a_libr"
            ),
        ),
        (
            "\nimport torch\nraise RuntimeError('no licence')\n",
            "importing {} raised RuntimeError: no licence .*{}.py line 3",
        ),
        ("def broken(:\n", "importing {} raised SyntaxError: "),
        ("import sys\nsys.exit()\n", "importing {} raised SystemExit: "),
    ],
)
def test_an_import_that_fails_says_which_module_and_why(
    written: Any, source: str, message: str
) -> None:
    module = written(source)
    with pytest.raises(ProbeError, match=message.replace("{}", module)):
        open_model(f"plugin:{module}:Net", "cpu")


def test_what_a_plugin_prints_does_not_reach_stdout(
    written: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = SOURCE.replace("        frames", "        print('encoding')\n        frames")
    module = written("print('importing')\n" + loud)
    open_model(f"plugin:{module}:Net", "cpu")
    said = capsys.readouterr()
    assert said.out == ""
    assert "importing" in said.err
    assert "encoding" in said.err


def test_the_signal_that_ends_the_program_is_not_swallowed() -> None:
    with pytest.raises(SystemExit):
        open_model(returning(lambda layers, counts: sys.exit(143)), "cpu")


def test_expected_weights_are_compared(written: Any) -> None:
    module = written(SOURCE)
    with pytest.raises(ProbeError, match="its weights have sha256 none, --sha256 says abc"):
        open_model(f"plugin:{module}:Net", "cpu", sha256="abc")


# Whether features are still those of the code


def recipe(name: str, corpus: Path, to: Path) -> str:
    """The store that a plug-in's features would go into."""
    return extract(name, corpus, to, dry_run=True).store.name


def test_changed_code_makes_another_store_unless_a_version_stands_for_it(
    tones: Callable[..., Path], written: Any, tmp_path: Path
) -> None:
    corpus, to = tones(words=1), tmp_path / "features"

    def stored(source: str) -> str:
        return recipe(f"plugin:{written(source, 'plug_identity')}:Net", corpus, to)

    assert stored(SOURCE) == stored(SOURCE)
    assert stored(SOURCE) != stored(SOURCE.replace("square", "abs"))
    versioned = SOURCE.replace("Net:\n", "Net:\n    version = '7'\n")
    assert stored(versioned) == stored(versioned.replace("square", "abs"))
    assert stored(versioned) != stored(versioned.replace("7", "8"))


def test_every_file_of_a_package_and_the_file_that_is_its_argument_count(
    tones: Callable[..., Path], written: Any, tmp_path: Path
) -> None:
    corpus, to = tones(words=1), tmp_path / "features"
    (tmp_path / "plugpack" / "deep").mkdir(parents=True)
    (tmp_path / "plugpack" / "__init__.py").write_text("")
    (tmp_path / "plugpack" / "deep" / "net.py").write_text(
        SOURCE + "\n    def __init__(self, path=''):\n        pass\n"
    )
    (tmp_path / "weights.bin").write_bytes(b"1")
    name = "plugin:plugpack.deep.net:Net@weights.bin"
    before = recipe(name, corpus, to)
    (tmp_path / "weights.bin").write_bytes(b"2")
    other_weights = recipe(name, corpus, to)
    (tmp_path / "plugpack" / "deep" / "other.py").write_text("x = 1\n")
    other_code = recipe(name, corpus, to)
    assert len({before, other_weights, other_code}) == 3


def test_an_object_without_a_file_needs_a_version() -> None:
    names: dict = {"__name__": "plug_of_no_file"}
    sys.modules["plug_of_no_file"] = types.ModuleType("plug_of_no_file")
    exec(SOURCE, names)
    with pytest.raises(ProbeError, match=r"its code is in no file.* version of its own"):
        open_model(names["Net"](), "cpu")
    names["Net"].version = "3"
    names["Net"].name = "my net"
    info = open_model(names["Net"](), "cpu").info
    assert (info.id, info.revision) == ("my net", "3")


def test_a_certificate_is_not_taken_over_by_changed_code(
    tones: Callable[..., Path], written: Any, tmp_path: Path
) -> None:
    corpus = tones(words=1)
    extract(f"plugin:{written(SOURCE, 'plug_certified')}:Net", corpus, tmp_path / "features")
    worse = SOURCE.replace("[frames]", "[frames - waveforms.mean()]")
    with pytest.raises(ProbeError, match=r"features cannot be trusted(.|\n)*batches: "):
        extract(f"plugin:{written(worse, 'plug_certified')}:Net", corpus, tmp_path / "features")


def test_an_object_is_extracted_and_found_by_its_name(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    plugin = Sound()
    plugin.name = "mine"  # type: ignore[assignment]
    done = extract(plugin, tones(words=1), tmp_path / "features", storing=Storing(view="meanstd"))
    assert select_store(tmp_path / "features", "mine", "mean").path == done.store


# Hooks


class Stack(torch.nn.Module):
    """A stack of blocks that work on (frame, batch, dim) and return tuples, behind a front-end of
    (batch, dim, frame).
    """

    sample_rate = 8000

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front = torch.nn.Conv1d(1, 5, 20, 10)
        self.images = torch.nn.Conv2d(1, 2, 3, padding=1)
        self.blocks = torch.nn.ModuleList(torch.nn.LSTM(5, 5) for _ in range(3))
        self.pooled, self.twice, self.idle = (
            torch.nn.Linear(5, 5),
            torch.nn.Identity(),
            torch.nn.Identity(),
        )
        self.pairs, self.nothing = torch.nn.Identity(), Nothing()

    def forward(self, waveforms: Tensor) -> dict[str, Any]:
        frames = self.front(waveforms[:, None])
        self.images(frames[:, None])
        frames = frames.permute(2, 0, 1)
        for block in self.blocks:
            frames, _ = block(frames)
        self.pairs(frames[:, 0] @ frames[:, 0].T)
        self.twice(self.twice(frames))
        self.nothing(frames)
        return {"pooled": self.pooled(frames.mean(0))}


class Nothing(torch.nn.Module):
    """Returns nothing."""

    def forward(self, _frames: Tensor) -> None:
        return None


def test_hooked_layers_are_what_modules_give_whatever_their_axes() -> None:
    stack = Stack().eval()
    hooked = HookedModule(stack, ["blocks.*"])
    wave = torch.randn(1, 4000)
    front = stack.front(wave[:, None])[0].mT
    layers, counts = hooked.encode(wave, torch.tensor([4000]))
    assert dict(hooked.layer_widths) == {"0": 5, "1": 5, "2": 5, "3": 5}
    assert hooked.frame_grid == FrameGrid(10, 20, 20)
    assert counts.tolist() == [399]
    frames = front[:, None]
    for layer, block in zip(layers, [None, *stack.blocks], strict=True):
        frames = frames if block is None else block(frames)[0]
        assert torch.allclose(layer[0], frames[:, 0], atol=1e-6)
    images = HookedModule(stack, ["images"])
    assert dict(images.layer_widths) == {"0": 5, "1": 10}
    assert torch.allclose(
        images.encode(wave, torch.tensor([4000]))[0][1][0],
        stack.images(front.mT[None]).permute(2, 0, 1).flatten(1),
        atol=1e-6,
    )


def test_a_front_end_that_is_hooked_has_no_layer_0() -> None:
    encoder = loader.encoder_of(Stack(), CPU, "stack", hooks=("front",))
    assert list(encoder.info.layers) == ["1"]
    assert encoder.info.aliases == {"front": "1"}
    assert not check_model(encoder, quick=True).failed


@pytest.mark.parametrize("family", ["wav2vec2 post-LN", "wavlm pre-LN"])
def test_hooked_blocks_of_a_checkpoint_are_its_layers(
    folders: dict[str, Path], family: str
) -> None:
    ours = open_model(str(folders[family]), "cpu", implementation="reference")
    ours.model.version = "1"  # type: ignore[attr-defined]
    hooked = loader.encoder_of(ours.model, CPU, "wrapped", hooks=("encoder.layers.*",))  # type: ignore[attr-defined]
    assert list(hooked.info.layers) == ["0", "1", "2", "3"]
    assert (hooked.info.grid.hop_samples, hooked.info.grid.min_samples) == (320, 400)
    assert not check_model(hooked, quick=True).failed
    wave = torch.randn(1, 6000)
    wave = (wave - wave.mean()) / wave.std(correction=0)
    lengths, names = torch.tensor([6000]), ["0", "1", "2", "3"]
    for found, expected in zip(
        hooked.encode(wave, lengths, names)[0], ours.encode(wave, lengths, names)[0], strict=True
    ):
        assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (("block.*",), r"--hook block.\*: no module of this name in Stack; there are blocks.\*"),
        (("blocks",), "--hook blocks: runs 0 times in one pass; expected once"),
        (("twice",), "--hook twice: runs 2 times in one pass"),
        (("idle",), "--hook idle: runs 0 times"),
        (
            ("pooled",),
            (
                r"--hook pooled: gives shapes \(1, 5\) and \(1, 5\) of 1 s and 2 s; expected one"
                r" axis that grows with time"
            ),
        ),
        (("pairs",), r"--hook pairs: gives shapes \(799, 799\) and"),
        (("nothing",), "--hook nothing: returns no tensor but a NoneType"),
    ],
)
def test_a_hook_that_gives_no_frames_is_refused_by_name(hooks: Sequence[str], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        open_model(HookedModule(Stack(), hooks), "cpu")


def test_modules_of_different_frame_rates_are_refused() -> None:
    module = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, -1)), torch.nn.Conv1d(1, 4, 10, 10), torch.nn.Conv1d(4, 4, 2, 2)
    )
    with pytest.raises(
        ProbeError, match=r"different numbers of frames of 1 s: 1 1600, 2 800\. Hook those"
    ):
        open_model(HookedModule(module, ["1", "2"]), "cpu")


def test_hooks_are_an_option_wherever_a_model_is_opened(
    tones: Callable[..., Path], written: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tones(words=2, speakers=2)
    source = """
import torch

def load():
    front = torch.nn.Conv1d(1, 4, 400, 320)
    return torch.nn.Sequential(torch.nn.Unflatten(1, (1, -1)), front, torch.nn.GELU())
"""
    name = f"plugin:{written(source)}:load"
    with pytest.raises(
        ProbeError,
        match=(
            r"Sequential has no sample_rate, .*or --hook with names of its modules, such as 0, 1, 2"
        ),
    ):
        probe_line(f"probe check {name}")
    probe_line(f"probe check {name} --hook 1 --quick")
    probe_line(
        f"probe bench --model {name} --model fbank --hook 1 --task word-id --corpus {corpus} --to"
        " out --dry-run"
    )
    assert "plugin--" in capsys.readouterr().out
    probe_line(
        f"probe extract --model {name} --model fbank --hook 1 --hook 2 --corpus {corpus} --to"
        " features --view mean"
    )
    [store] = [store for store in probe.find_stores("features") if "plugin" in store.requested]
    assert (store.recipe["model"]["id"], store.requested) == (name, f"{name}#1,2")
    assert store.recipe["model"]["aliases"] == {"1": "1", "2": "2"}
    assert all(
        select_store(Path("features"), asked, "mean").path == store.path
        for asked in (name, f"{name}#1,2")
    )
    with pytest.raises(
        UsageError, match="--hook 1: fbank has layers of its own; hooks are for plugin:"
    ):
        probe_line(f"probe extract --model fbank --hook 1 --corpus {corpus} --to features")
    with pytest.raises(SystemExit):
        probe_line(f"probe doctor --model {name} --hook 7")
    assert "--hook 7: no module of this name in Sequential; there are *" in capsys.readouterr().out


# HEAR


def hear_module(**changes: Any) -> types.ModuleType:
    """A module of HEAR's interface: energies of windows of 25 ms every 12.5 ms, centred."""

    class Model(torch.nn.Module):
        sample_rate, timestamp_embedding_size, scene_embedding_size = 22_050, 2, 3

        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def timestamp(audio: Tensor, model: Model) -> tuple[Tensor, Tensor]:
        hop = int(0.0125 * 22_050)
        frames = torch.nn.functional.pad(audio, (hop, hop)).unfold(1, 2 * hop, hop)
        energies = torch.stack([model.scale * frames.square().mean(2), frames.abs().mean(2)], 2)
        return energies, torch.arange(frames.shape[1])[None] * changes.get("apart_ms", 12.5)

    def scene(audio: Tensor, model: Model) -> Tensor:
        return torch.cat([timestamp(audio, model)[0].mean(1), audio.amax(1, keepdim=True)], 1)

    module = types.ModuleType("hear_example")
    module.__dict__.update(
        load_model=lambda path="": Model(path),
        get_timestamp_embeddings=timestamp,
        get_scene_embeddings=scene,
    )
    for name in changes.get("without", ()):
        delattr(module, name)
    return module


def test_a_module_of_hears_interface_is_a_model(
    tones: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = hear_module()
    module.__file__ = __file__
    monkeypatch.setitem(sys.modules, "hear_example", module)
    encoder = open_model("hear:hear_example@weights.pt", "cpu")
    assert encoder.info.layers == {"0": 2, "scene": 3}
    assert (
        encoder.info.rate_hz,
        encoder.info.grid.hop_samples,
        encoder.info.grid.field_samples,
    ) == (22_050, 275, 0)
    assert encoder.model[0].path == "weights.pt"  # type: ignore[attr-defined]
    assert not check_model(encoder, quick=True).failed
    corpus = tones(words=1, speakers=1)
    done = extract(
        encoder, corpus, tmp_path / "features", storing=Storing(view="mean", dtype="float32")
    )
    assert isinstance(done, Extraction)
    scenes = open_store(done.store).layer("scene").values
    assert scenes.shape == (6, 3)
    assert (abs(scenes[:, :2] - open_store(done.store).layer("0").values) < 1e-6).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"without": ["get_scene_embeddings"]},
            "hear:hear_example: has no get_scene_embeddings; expected the functions",
        ),
        (
            {"apart_ms": 25.0},
            "hear:hear_example: timestamps 551.25 samples apart, where a frame comes every 275",
        ),
        (
            {"apart_ms": 0.0125},
            "timestamps 0.275625 samples apart, .*; expected the same, timestamps in ms",
        ),
    ],
)
def test_what_is_not_hears_interface_is_refused(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = hear_module(**changes)
    module.__file__ = __file__
    monkeypatch.setitem(sys.modules, "hear_example", module)
    with pytest.raises(ProbeError, match=message):
        open_model("hear:hear_example", "cpu")


def test_bench_names_a_model_that_cannot_be_had_once(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    spec = "plugin:nowhere_at_all:Net"
    done = probe.bench([spec, "fbank"], ["word-id"], tones(), tmp_path, dry_run=True)
    (reason,) = done.refused
    assert reason.startswith(f"{spec}: no module") and reason.count(spec) == 1
