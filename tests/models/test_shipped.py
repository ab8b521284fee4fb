"""The trained model in this package: it opens without a network, and its layers differ as layers of
a trained encoder do.
"""

import numpy as np
import pytest
import soundfile
from safetensors import safe_open

from probe import extract, read_records, run
from probe.data.synthetic import (
    COLUMNS,
    SOUND_COLUMNS,
    make_speakers,
    speaker_utterances,
    split_of_word,
    write_csv,
)
from probe.errors import ProbeError
from probe.extraction.settings import Storing
from probe.models.catalogue import offline_names, open_model
from probe.models.sources import hub
from probe.models.sources.known import NANO, SHIPPED, known_models

TWIN = f"random:{NANO}"
N_SPEAKERS = 16
SOUNDS = 'kind = "frames"\nlabels = "sounds.csv"\ncontrols = []\nl2 = [1e-3]\nweighted = false\n'
VOICES = 'kind = "classify"\nlabel = "speaker"\ncontrols = []\nl2 = [1e-3]\nweighted = false\n'


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the hub is asked."""
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked")
    )
    monkeypatch.setattr(hub, "answers", lambda *_: pytest.fail("the hub was asked"))


def test_it_opens_without_a_network_and_is_what_the_catalogue_says(no_network: None) -> None:
    encoder = open_model(NANO, "cpu")
    row = known_models()[NANO]
    assert encoder.info.id == NANO and NANO in offline_names()
    assert sum(one.numel() for one in encoder.model.parameters()) == row.parameters
    assert encoder.info.weights_sha256 != open_model(TWIN, "cpu").info.weights_sha256


def test_its_weights_are_float16_and_small() -> None:
    (file,) = SHIPPED[NANO].glob("*.safetensors")
    assert file.stat().st_size < 4_000_000
    with safe_open(file, "pt") as weights:
        names = list(weights.keys())
        assert {weights.get_slice(name).get_dtype() for name in names} == {"F16"}


def test_a_revision_of_it_is_refused() -> None:
    with pytest.raises(ProbeError, match="ships with layerprobe and has no revisions"):
        open_model(f"{NANO}@main", "cpu")


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], float]:
    """(task, model, layer) -> test accuracy on clean synthetic speech."""
    folder = tmp_path_factory.mktemp("shipped")
    speakers = make_speakers(np.random.default_rng([5, 0]))[:N_SPEAKERS]
    rows: dict[str, list[tuple[str, ...]]] = {"words": [], "voices": [], "sounds": []}
    for number, speaker in enumerate(speakers):
        for one in speaker_utterances(speaker, np.random.default_rng([5, 1, number])):
            if one.domain == "clean":
                path = folder / one.path
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, one.samples, one.rate_hz, subtype="PCM_16")
                split = ("train", "train", "dev", "test")[number // 2 % 4]
                rows["words"].append(one.row(split))
                rows["voices"].append(one.row(split_of_word(one.word)))
                rows["sounds"] += [
                    (one.path, f"{start:.4f}", f"{end:.4f}", letter)
                    for start, end, letter in one.sounds
                ]
    for name, columns in (("words", COLUMNS), ("voices", COLUMNS), ("sounds", SOUND_COLUMNS)):
        write_csv(folder / f"{name}.csv", columns, rows[name])
    values = {}
    for name, text, manifest, view in (
        ("sounds", SOUNDS, "words.csv", "frames"),
        ("voices", VOICES, "voices.csv", "meanstd"),
    ):
        task = folder / f"{name}.toml"
        task.write_text(text)
        for model in (NANO, TWIN, "fbank"):
            extract(model, folder / manifest, folder / "features", storing=Storing(view=view))
            run(task, model, folder / manifest, folder / "features", folder / "results")
    for row in read_records(folder / "results").itertuples():
        if row.split == "test" and row.metric == "accuracy" and not row.control:
            values[row.task, row.model, row.layer] = row.value
    return values


def curve(values: dict[tuple[str, str, str], float], task: str, model: str) -> list[float]:
    """The accuracies of layers 0 to 6."""
    return [values[task, model, str(layer)] for layer in range(7)]


def test_its_layers_rise_for_what_is_said_above_its_twin_and_filter_banks(
    accuracies: dict[tuple[str, str, str], float],
) -> None:
    trained, random = (curve(accuracies, "sounds", model) for model in (NANO, TWIN))
    print(trained, random, accuracies["sounds", "fbank", "0"])
    assert max(trained[3:]) > trained[0] + 0.03
    assert max(trained) > max(random) + 0.10
    assert max(trained) > accuracies["sounds", "fbank", "0"]


def test_its_layers_fall_for_who_says_it(accuracies: dict[tuple[str, str, str], float]) -> None:
    trained = curve(accuracies, "voices", NANO)
    print(trained, curve(accuracies, "voices", TWIN), accuracies["voices", "fbank", "0"])
    assert max(trained[:3]) > trained[6] + 0.05
