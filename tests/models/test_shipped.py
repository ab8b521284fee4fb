"""The trained model in this package: it opens without a network, and its layers differ as layers of
a trained encoder do.
"""

import numpy as np
import pytest
import soundfile
from safetensors import safe_open

from probe import extract, paired_difference, read_records, run
from probe.data.synthetic import (
    COLUMNS,
    SOUND_COLUMNS,
    make_speakers,
    speaker_utterances,
    split_of_word,
    write_csv,
)
from probe.errors import ProbeError
from probe.extraction.settings import Running, Storing
from probe.measures.counts import Counts
from probe.models.catalogue import offline_names, open_model
from probe.models.sources import hub
from probe.models.sources.known import NANO, SHIPPED, known_models

TWIN = f"random:{NANO}"
LAYERS = ("conv", *"0123456")
SPLITS = 6 * ["train"] + 2 * ["dev"] + 8 * ["test"]  # of the speakers, for sounds
COMMON = "controls = []\nl2 = [1e-3]\nweighted = false\n"
SOUNDS = 'kind = "frames"\nlabels = "sounds.csv"\n' + COMMON
VOICES = 'kind = "classify"\nlabel = "speaker"\n' + COMMON
Counted = dict[tuple[str, str, str], Counts]  # (task, model, layer) -> counts


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
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    """The test accuracies on clean synthetic speech of 16 speakers whom pretraining and the demo
    do not have.
    """
    folder = tmp_path_factory.mktemp("shipped")
    speakers = make_speakers(np.random.default_rng([5, 0]))[: len(SPLITS)]
    rows: dict[str, list[tuple[str, ...]]] = {"words": [], "voices": [], "sounds": []}
    for number, speaker in enumerate(speakers):
        for one in speaker_utterances(speaker, np.random.default_rng([5, 1, number])):
            if one.domain == "clean":
                path = folder / one.path
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, one.samples, one.rate_hz, subtype="PCM_16")
                rows["words"].append(one.row(SPLITS[number]))
                rows["voices"].append(one.row(split_of_word(one.word)))
                rows["sounds"] += [
                    (one.path, f"{start:.4f}", f"{end:.4f}", letter)
                    for start, end, letter in one.sounds
                ]
    for name, columns in (("words", COLUMNS), ("voices", COLUMNS), ("sounds", SOUND_COLUMNS)):
        write_csv(folder / f"{name}.csv", columns, rows[name])
    for model in (NANO, TWIN, "fbank"):
        layers = None if model == "fbank" else "conv,0-6"
        extract(
            model,
            folder / "words.csv",
            folder / "features",
            storing=Storing(layers=layers),
            running=Running(check=False),
        )
        for name, text, manifest in (("sounds", SOUNDS, "words"), ("voices", VOICES, "voices")):
            task = folder / f"{name}.toml"
            task.write_text(text)
            run(task, model, folder / f"{manifest}.csv", folder / "features", folder / "results")
    records = read_records(folder / "results")
    records = records[(records["split"] == "test") & (records["metric"] == "accuracy")]
    return {(row.task, row.model, row.layer): row.counts for row in records.itertuples()}


def faults(counted: Counted, model: str, order: tuple[str, ...] = LAYERS) -> list[str]:
    """What the layers of a model, read in this order, lack of those of a trained encoder: each
    claim is a paired difference whose 95 % interval must lie above 0.
    """
    place = dict(zip(LAYERS, order, strict=True))
    claims = [
        *(("sounds", upper, model, "conv") for upper in "0345"),
        *(("sounds", layer, "fbank", "0") for layer in "0345"),
        *(("sounds", layer, TWIN, layer) for layer in "0345"),
        ("voices", "0", model, "6"),
        ("voices", "1", model, "6"),
    ]
    lacking = []
    for task, layer, other, beside in claims:
        low = counted[task, other, place[beside] if other == model else beside]
        pair = paired_difference(counted[task, model, place[layer]], low, "accuracy")
        assert pair.low is not None
        if pair.low <= 0:
            lacking.append(f"{task}: {layer} above {other} {beside}: {pair}")
    return lacking


def test_its_layers_rise_for_what_is_said_and_fall_for_who_says_it(counted: Counted) -> None:
    assert not faults(counted, NANO)


def test_layers_of_random_weights_do_not(counted: Counted) -> None:
    assert len(faults(counted, TWIN)) > 6


@pytest.mark.parametrize("order", [LAYERS[::-1], LAYERS[4:] + LAYERS[:4], LAYERS[1:] + LAYERS[:1]])
def test_layers_in_another_order_do_not(counted: Counted, order: tuple[str, ...]) -> None:
    assert faults(counted, NANO, order)
