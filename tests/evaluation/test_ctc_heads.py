"""A checkpoint's own CTC head: found by architecture and weights, read greedily, kept per
utterance, shown beside the probes.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import jiwer
import pytest
import soundfile
import torch
import transformers
from exhaustive import mostly_nightly
from hypothesis import given, settings
from hypothesis import strategies as st
from presets import librispeech
from runs import run
from safetensors.torch import load_file, save_file
from scored import summary_rows
from torch import Tensor

import probe
from probe.data.audio import load_audio
from probe.errors import ProbeError
from probe.evaluation.dataset import Features
from probe.evaluation.kinds import own_head
from probe.evaluation.kinds.transcripts import Part
from probe.evaluation.tasks import open_task
from probe.extraction.extract import extract
from probe.extraction.settings import Running, Storing
from probe.measures.transcription import case_folded
from probe.models.catalogue import open_model
from probe.models.encoder import CTC, ModelInfo, greedy_text
from probe.models.frames import FrameGrid
from probe.record_check import check_records
from probe.records import OWN_HEAD, OWN_HEAD_BEAM, read_records
from probe.reporting.scores import Scores
from probe.reporting.tables.files import write_tables
from probe.reporting.tables.score_tables import to_markdown
from probe.store.feature_store import FeatureStore
from probe.store.integrity import verify_store
from probe.store.stores import find_stores, open_store

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "conv_dim": [12] * 7,
    "num_conv_pos_embeddings": 5,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 10,
}
PRE_LN = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", {}),
    "wav2vec2 pre-LN": ("Wav2Vec2", PRE_LN),
    "data2vec-audio": ("Data2VecAudio", {"conv_pos_kernel_size": 7}),
    "hubert": ("Hubert", PRE_LN),
    "wavlm": ("WavLM", {}),
}
SOME_FAMILIES = mostly_nightly(FAMILIES, ["wav2vec2", "hubert"])
HEAD = ("lm_head.weight", "lm_head.bias")
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "|"]
TOKENS = [*SPECIAL, *"ABCDE"]
WRITES = ("", "", "", "", " ", *"ABCDE")


def ids(tokens: Sequence[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def noise(n_samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One fine-tuned checkpoint per family, whose head writes another symbol nearly every frame."""
    folders = {}
    for family, (name, changes) in FAMILIES.items():
        folder = folders[family] = tmp_path_factory.mktemp(family.replace(" ", "-"))
        torch.manual_seed(5)
        config = getattr(transformers, f"{name}Config")(**SIZES | changes)
        model = getattr(transformers, f"{name}ForCTC")(config).eval()
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
            inputs = extractor(noise(16_000).numpy(), sampling_rate=16_000, return_tensors="pt")
            frames = model.base_model(inputs.input_values).last_hidden_state[0]
            model.lm_head.weight.copy_(torch.randn(10, 24))
            model.lm_head.bias.copy_(-model.lm_head.weight @ frames.mean(0))
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
        (folder / "vocab.json").write_text(json.dumps(ids(TOKENS)))
        transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    return folders


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A fine-tuned wav2vec2 without any tokenizer file, which a test may change."""
    folder = Path(shutil.copytree(folders["wav2vec2"], tmp_path / "copy"))
    for name in (
        "vocab.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.json",
    ):
        (folder / name).unlink(missing_ok=True)
    return folder


def write(folder: Path, **files: Any) -> None:
    """JSON files by their stem."""
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(
            content if isinstance(content, str) else json.dumps(content)
        )


def writes_of(folder: Path) -> tuple[str, ...]:
    info = open_model(str(folder), "cpu").info
    assert info.notes == ()
    return tuple(info.ctc["writes"])


def no_head_of(folder: Path) -> str:
    """The one note of a checkpoint whose head cannot be run."""
    info = open_model(str(folder), "cpu").info
    assert info.ctc == {}
    (note,) = info.notes
    assert "\n" not in note
    return note


# The encoder inside, the head on top


@pytest.mark.parametrize("family", SOME_FAMILIES)
@pytest.mark.parametrize("n_samples", [400, 9111])
def test_a_fine_tuned_checkpoint_gives_its_encoders_layers_bit_for_bit(
    folders: dict[str, Path], tmp_path: Path, family: str, n_samples: int
) -> None:
    fine_tuned = open_model(str(folders[family]), "cpu")
    model = transformers.AutoModelForCTC.from_pretrained(folders[family])
    model.base_model.save_pretrained(tmp_path)
    shutil.copy(folders[family] / "preprocessor_config.json", tmp_path)
    bare = open_model(str(tmp_path), "cpu")
    assert (bare.info.ctc, bare.info.layers, bare.info.aliases) == (
        {},
        fine_tuned.info.layers,
        fine_tuned.info.aliases,
    )
    assert bare.info.parameters == fine_tuned.info.parameters, "the head's are not the encoder's"
    batch = noise(n_samples)[None], torch.tensor([n_samples]), list(bare.info.layers)
    for name, found, expected in zip(
        batch[2], fine_tuned.encode(*batch)[0], bare.encode(*batch)[0], strict=True
    ):
        assert torch.equal(found, expected), name


@pytest.mark.parametrize("family", SOME_FAMILIES)
@pytest.mark.parametrize("n_samples", [400, 9111])
def test_the_layer_of_the_head_is_transformers_logits(
    folders: dict[str, Path], family: str, n_samples: int
) -> None:
    wave = noise(n_samples)
    encoder = open_model(str(folders[family]), "cpu")
    assert tuple(encoder.info.ctc["writes"]) == WRITES
    assert encoder.info.ctc["alphabet"] == " ABCDE"
    assert CTC not in encoder.info.layers, "it is run only where it is asked for"
    (last, scores), n_frames = encoder.encode(wave[None], torch.tensor([n_samples]), ["1", CTC])
    assert scores.shape == (1, encoder.info.n_frames(n_samples), 10)
    assert n_frames.tolist() == [[encoder.info.n_frames(n_samples)]] * 2
    model = transformers.AutoModelForCTC.from_pretrained(folders[family]).eval()
    inputs = transformers.AutoFeatureExtractor.from_pretrained(folders[family])(
        wave.numpy(), sampling_rate=16_000, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = model(inputs.input_values).logits
    assert float((scores - expected).abs().max() / expected.abs().max()) <= 1e-5
    assert torch.equal(scores.argmax(-1), expected.argmax(-1))
    assert torch.equal(last, encoder.encode(wave[None], torch.tensor([n_samples]), ["1"])[0][0])


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_the_texts_of_the_planted_heads_are_not_trivial(
    folders: dict[str, Path], family: str
) -> None:
    encoder = open_model(str(folders[family]), "cpu")
    scores = encoder.encode(noise(16_000)[None], torch.tensor([16_000]), [CTC])[0][0]
    text = greedy_text(scores[0].argmax(-1).tolist(), encoder.info.ctc["writes"])
    assert len(text) >= 8
    assert len(set(text)) >= 3


# Greedy decoding


def scores_of(symbols: Sequence[int], n_symbols: int = len(WRITES)) -> Tensor:
    """(frame, symbol) whose best symbols are these, over negative scores elsewhere."""
    scores = -torch.rand(len(symbols), n_symbols, generator=torch.Generator().manual_seed(1))
    scores[torch.arange(len(symbols)), torch.tensor(symbols, dtype=torch.int64)] += 1.5
    return scores


def symbols_of(tokens: str) -> list[int]:
    """``.`` for the blank, ``<`` ``>`` ``?`` for the other specials, otherwise the token itself."""
    return [".<>?|ABCDE".index(token) for token in tokens]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("", ""),
        ("A", "A"),
        ("....", ""),
        ("AAAA", "A"),
        ("AA.AA", "AA"),
        ("A.B.B.A", "ABBA"),
        ("AB..BBA", "ABBA"),
        ("ABBA", "ABA"),
        ("A?A", "AA"),
        ("<A>A", "AA"),
        ("<A>", "A"),
        ("?", ""),
        ("A|B", "A B"),
        ("A||B", "A B"),
        ("A|.|B", "A B"),
        ("A.|.B", "A B"),
        ("|A|", "A"),
        (".|.|A.|.|.", "A"),
        ("||||", ""),
        ("A|A", "A A"),
        ("A|?|A", "A A"),
        ("DAD.|BAD.D||", "DAD BADD"),
    ],
)
def test_symbols_are_read_as_ctc_means_them(tokens: str, text: str) -> None:
    assert greedy_text(symbols_of(tokens), WRITES) == text


def test_the_first_of_equal_scores_is_read() -> None:
    assert greedy_text([0, 0, 0], WRITES) == ""
    assert greedy_text([0, 0, 0], ("A", "")) == "A"


def test_symbols_of_several_characters_are_written_whole() -> None:
    assert greedy_text([1, 0, 1, 2, 3, 3, 1], ("", "th", " ", "é")) == "thth éth"


def slowly(symbols: Sequence[int], writes: Sequence[str]) -> str:
    """The same by the book: a symbol counts where it is not the one before it; then one space
    between words.
    """
    text = ""
    for i in range(len(symbols)):
        if i == 0 or symbols[i] != symbols[i - 1]:
            text += writes[symbols[i]]
    while "  " in text:
        text = text.replace("  ", " ")
    return text.removeprefix(" ").removesuffix(" ")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 9), max_size=40),
    st.lists(st.sampled_from(["", " ", "a", "B", "é", "th", "'"]), min_size=10, max_size=10),
)
def test_greedy_texts_are_those_of_a_slow_decoder(symbols: list[int], writes: list[str]) -> None:
    assert greedy_text(symbols, writes) == slowly(symbols, writes)


@settings(max_examples=100, deadline=None)
@given(symbols=st.lists(st.sampled_from([0, 4, 5, 6, 7, 8, 9]), max_size=40))
def test_without_other_specials_greedy_texts_are_those_of_transformers_tokenizer(
    folders: dict[str, Path], symbols: list[int]
) -> None:
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folders["wav2vec2"])
    expected = tokenizer.decode(symbols) if symbols else ""
    assert greedy_text(symbols, WRITES) == " ".join(expected.split())


# What is no head


@pytest.mark.parametrize(
    ("family", "architecture"),
    mostly_nightly(
        [*((family, "Model") for family in FAMILIES), ("wav2vec2", "ForPreTraining")],
        [("hubert", "Model"), ("wav2vec2", "ForPreTraining")],
    ),
)
def test_a_tokenizer_beside_a_checkpoint_without_head_is_no_head(
    folders: dict[str, Path], tmp_path: Path, family: str, architecture: str
) -> None:
    sizes = {"num_codevectors_per_group": 4, "codevector_dim": 8, "proj_codevector_dim": 8}
    config = transformers.AutoConfig.from_pretrained(folders[family], **sizes)
    shutil.copytree(folders[family], tmp_path, dirs_exist_ok=True)
    getattr(transformers, FAMILIES[family][0] + architecture)(config).save_pretrained(tmp_path)
    assert (tmp_path / "vocab.json").exists()
    encoder = open_model(str(tmp_path), "cpu")
    assert encoder.info.ctc == {}
    assert not any("CTC" in note for note in encoder.info.notes)
    with pytest.raises(KeyError):
        encoder.encode(noise(800)[None], torch.tensor([800]), [CTC])


@pytest.mark.parametrize(
    ("gone", "family"),
    mostly_nightly(
        itertools.product([HEAD, HEAD[:1], HEAD[1:]], FAMILIES),
        [(HEAD, "wav2vec2"), (HEAD[:1], "hubert"), (HEAD[1:], "wavlm")],
    ),
)
def test_an_architecture_whose_head_is_not_in_the_file_has_none_and_says_so(
    folders: dict[str, Path], tmp_path: Path, gone: tuple[str, ...], family: str
) -> None:
    folder = Path(shutil.copytree(folders[family], tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: weights[name] for name in weights if name not in gone},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    names = ", ".join(sorted(gone))
    assert no_head_of(folder) == f"its CTC head is not run: {names} missing, NaN or infinite"
    whole = open_model(str(folders[family]), "cpu")
    batch = noise(2000)[None], torch.tensor([2000]), list(whole.info.layers)
    for found, expected in zip(
        open_model(str(folder), "cpu").encode(*batch)[0], whole.encode(*batch)[0], strict=True
    ):
        assert torch.equal(found, expected)


def test_a_head_behind_an_adapter_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["wav2vec2"], tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    write(folder, config=config | {"add_adapter": True})
    assert open_model(str(folder), "cpu").info.ctc == {}


def test_a_random_twin_has_no_head(folders: dict[str, Path]) -> None:
    assert open_model(f"random:{folders['wav2vec2']}", "cpu").info.ctc == {}


def test_a_head_with_a_weight_that_is_not_finite_is_not_run(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"][3, 3] = float("nan")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert no_head_of(copy) == "its CTC head is not run: lm_head.weight missing, NaN or infinite"


# Vocabularies


@pytest.mark.parametrize(
    ("vocabulary", "reason"),
    [
        (None, "no vocab.json"),
        ("", "Expecting value"),
        ('{"<pad>": 0, ', "Expecting property name"),
        (["<pad>"], "'list' object"),
        (ids(TOKENS[:-1]), "9 tokens, 9 of them for its 10 symbols"),
        (ids([*TOKENS, "F"]), "11 tokens, 10 of them for its 10 symbols"),
        (
            ids([*SPECIAL, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]),
            "32 tokens, 10 of them for its 10 symbols",
        ),
        (ids(TOKENS) | {"E": 8}, "9 tokens, 9 of them for its 10 symbols"),
        (ids(TOKENS) | {"E": -1}, "9 of them for its 10 symbols"),
        (ids(TOKENS) | {"E": 10}, "9 of them for its 10 symbols"),
        (
            {token: str(number) for token, number in ids(TOKENS).items()},
            "0 of them for its 10 symbols",
        ),
        (
            ids(["[PAD]", "[UNK]", "|", *"ABCDEFG"]),
            "none of its symbols is the blank '<pad>'; name pad_token in tokenizer_config.json",
        ),
        (ids([*TOKENS[:-1], "\ud800"]), "surrogates not allowed"),
        ({"eng": ids(TOKENS), "fra": ids(TOKENS)}, "vocabularies of 2 languages"),
    ],
)
def test_a_vocabulary_that_does_not_fit_gives_no_head_and_the_reason(
    copy: Path, vocabulary: Any, reason: str
) -> None:
    if vocabulary is not None:
        write(copy, vocab=vocabulary)
    note = no_head_of(copy)
    assert note.startswith("its CTC head has no vocabulary that fits and cannot be used: ")
    assert reason in note


def test_a_damaged_tokenizer_beside_a_vocabulary_gives_no_head(copy: Path) -> None:
    write(copy, vocab=ids(TOKENS), tokenizer_config="{")
    assert "no vocabulary that fits" in no_head_of(copy)


def test_a_vocabulary_alone_is_enough_with_the_usual_special_symbols(copy: Path) -> None:
    write(copy, vocab=ids(TOKENS))
    assert writes_of(copy) == WRITES


@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
def test_special_symbols_in_brackets_write_nothing(copy: Path, file: str) -> None:
    write(
        copy,
        vocab=ids([*"ABCDEFG", "|", "[UNK]", "[PAD]"]),
        **{file: {"pad_token": "[PAD]", "unk_token": "[UNK]"}},
    )
    assert writes_of(copy) == (*"ABCDEFG", " ", "", "")


def test_lower_case_and_symbols_of_several_characters_are_kept(copy: Path) -> None:
    write(copy, vocab=ids([*SPECIAL, "a", "th", "é", "'", "ß"]))
    assert writes_of(copy)[5:] == ("a", "th", "é", "'", "ß")


@pytest.mark.parametrize("delimiter", [" ", "#", "▁"])
def test_another_word_boundary_is_a_space(copy: Path, delimiter: str) -> None:
    write(
        copy,
        vocab=ids([*SPECIAL[:-1], delimiter, *"ABCDE"]),
        tokenizer_config={"word_delimiter_token": delimiter},
    )
    assert writes_of(copy) == WRITES
    transformers.Wav2Vec2CTCTokenizer(
        str(copy / "vocab.json"), word_delimiter_token=delimiter
    ).save_pretrained(copy)
    assert writes_of(copy) == WRITES


def test_the_blank_writes_nothing_even_where_it_is_called_the_word_boundary(copy: Path) -> None:
    write(copy, vocab=ids(["|", *SPECIAL[1:-1], *"ABCDEF"]), tokenizer_config={"pad_token": "|"})
    assert writes_of(copy) == ("", "", "", "", *"ABCDEF")


def test_added_symbols_beyond_the_head_do_not_count(copy: Path) -> None:
    write(copy, vocab=ids(TOKENS), added_tokens={"<extra>": 10, "<more>": 11})
    assert writes_of(copy) == WRITES


def test_of_a_vocabulary_by_languages_the_named_one_is_taken(copy: Path) -> None:
    write(
        copy,
        vocab={"eng": ids(TOKENS), "fra": ids([*SPECIAL, *"vwxyz"])},
        tokenizer_config={"target_lang": "fra"},
    )
    assert writes_of(copy)[5:] == tuple("vwxyz")


# Extraction


@pytest.mark.parametrize(
    ("view", "family"),
    mostly_nightly(
        itertools.product(["frames", "mean"], FAMILIES),
        [("frames", "wav2vec2"), ("mean", "hubert")],
    ),
)
def test_the_texts_stand_in_the_index_and_in_the_shards(
    folders: dict[str, Path], tones: Callable[..., Path], tmp_path: Path, family: str, view: str
) -> None:
    manifest = tones(words=2, speakers=2, repetitions=3)
    done = extract(
        str(folders[family]),
        manifest,
        tmp_path / "features",
        storing=Storing(view=view, ctc=True),
        running=Running(device="cpu", check=False),
    )
    store = open_store(tmp_path / "features")
    texts = {key: versions[-1].ctc_text for key, versions in store.utterances.items()}
    assert len(texts) == done.extracted == 12
    assert len(set(texts.values())) > 3
    encoder = open_model(str(folders[family]), "cpu")
    for utterance in probe.load_corpus(manifest).utterances:
        samples = torch.from_numpy(load_audio(utterance.path, 16_000).samples)
        scores = encoder.encode(samples[None], torch.tensor([len(samples)]), [CTC])[0][0]
        assert texts[utterance.key] == greedy_text(scores[0].argmax(-1).tolist(), WRITES)
    assert texts_in_shards(store.path) == texts
    assert store.recipe["ctc"] == {"writes": list(WRITES), "alphabet": " ABCDE"}
    assert list(store.layers) == list(encoder.info.layers), "the scores themselves are not kept"


def texts_in_shards(store: Path) -> dict[str, str]:
    """Key -> text as plain h5py reads it; of the parts of a long utterance only the last may have
    one.
    """
    texts: dict[str, str] = {}
    for path in sorted(store.glob("shard-*.h5")):
        with h5py.File(path, "r") as file:
            part, parts = file.attrs["part"]
            for key, text in zip(file["keys"][:], file["ctc_text"][:], strict=True):
                assert part == parts - 1 or not text
                texts[key.decode()] = texts.get(key.decode(), "") + text.decode()
    return texts


def test_a_long_utterance_in_several_parts_has_its_text_in_the_last(
    folders: dict[str, Path],
    tones: Callable[..., Path],
    tmp_path: Path,
    shards_of: Callable[..., None],
) -> None:
    shards_of(500)
    extract(
        str(folders["hubert"]),
        tones(words=1, speakers=1, repetitions=3),
        tmp_path / "features",
        storing=Storing(ctc=True),
        running=Running(device="cpu"),
    )
    store = open_store(tmp_path / "features")
    assert all(job.parts > 1 for job in store.jobs)
    assert texts_in_shards(store.path) == {
        key: versions[-1].ctc_text for key, versions in store.utterances.items()
    }
    assert all(versions[-1].ctc_text for versions in store.utterances.values())


def test_the_text_is_there_where_the_last_frames_give_no_row(
    folders: dict[str, Path],
    tones: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shards_of: Callable[..., None],
) -> None:
    manifest = tones(words=1, speakers=1, repetitions=3)
    running = Running(device="cpu", chunk_s=0.04, check=False)
    monkeypatch.setattr("probe.models.packed.packed_encoder.ROWS", {"cpu": 1})
    monkeypatch.setattr("probe.models.catalogue.LONG_S", 0.0)
    expected = extract(
        str(folders["hubert"]),
        manifest,
        tmp_path / "whole",
        storing=Storing(ctc=True),
        running=running,
    )
    shards_of(100)
    strided = extract(
        str(folders["hubert"]),
        manifest,
        tmp_path / "strided",
        storing=Storing(dtype="float32", ctc=True, view="frames:1000"),
        running=running,
    )
    assert all(job.parts > 1 for job in FeatureStore(strided.store).jobs)
    texts = [
        {
            key: versions[-1].ctc_text
            for key, versions in FeatureStore(done.store).utterances.items()
        }
        for done in (expected, strided)
    ]
    assert texts[0] == texts[1]
    assert all(texts[0].values())


class Interrupted(Exception):
    """What the encoder below raises."""


class Dying:
    """An encoder that is interrupted at one of its utterances."""

    def __init__(self, encoder: Any, dies_at: int) -> None:
        self.info, self.device = encoder.info, encoder.device
        self.implementation, self.precision, self.chunking = (
            encoder.implementation,
            encoder.precision,
            encoder.chunking,
        )
        self.rows = 1
        self.encoder, self.left = encoder, dies_at

    def encode(self, *batch: Any) -> Any:
        if not self.left:
            raise Interrupted
        self.left -= 1
        return self.encoder.encode(*batch)


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("dies_at", mostly_nightly([0, 1, 5, 11], [5]))
def test_an_interrupted_run_that_is_repeated_has_the_same_bytes(
    folders: dict[str, Path],
    tones: Callable[..., Path],
    tmp_path: Path,
    shards_of: Callable[..., None],
    dies_at: int,
) -> None:
    shards_of(12_000)
    manifest = tones(words=2, speakers=2, repetitions=3)
    encoder = open_model(str(folders["data2vec-audio"]), "cpu")
    extract(
        encoder,
        manifest,
        tmp_path / "straight",
        storing=Storing(ctc=True),
        running=Running(check=False),
    )
    assert len(list((tmp_path / "straight").rglob("shard-*.h5"))) > 2
    with pytest.raises(Interrupted):
        extract(
            Dying(encoder, dies_at),
            manifest,
            tmp_path / "broken",
            storing=Storing(ctc=True),
            running=Running(check=False),
        )
    extract(
        encoder,
        manifest,
        tmp_path / "broken",
        storing=Storing(ctc=True),
        running=Running(check=False),
    )
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "straight")


def test_with_and_without_texts_are_two_stores_with_the_same_features(
    folders: dict[str, Path], tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(words=1, speakers=2, repetitions=3)
    for ctc in (False, True):
        extract(
            str(folders["wavlm"]),
            manifest,
            tmp_path / "features",
            storing=Storing(ctc=ctc),
            running=Running(device="cpu", check=False),
        )
    plain, own = sorted(find_stores(tmp_path / "features"), key=lambda store: "ctc" in store.recipe)
    assert plain.layer("final").values.tobytes() == own.layer("final").values.tobytes()
    assert {versions[-1].ctc_text for versions in plain.utterances.values()} == {None}
    assert "ctc" not in plain.recipe


@pytest.mark.parametrize("name", ["fbank", "random:data2vec-audio-tiny", "no vocabulary"])
def test_without_a_head_there_is_nothing_to_run(
    copy: Path, tones: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    name = str(copy) if name == "no vocabulary" else name
    message = (
        rf"^{Path(name).name}: no CTC head can be run \(.*\)\. Leave --ctc out, or name a "
        rf"fine-tuned"
    )
    if name.startswith("random:"):
        message = (
            rf"^{name}: random weights have no CTC head\. Leave --ctc out, or name a fine-tuned "
            rf"checkpoint"
        )
    for dry_run in (False, True):
        with pytest.raises(ProbeError, match=message):
            extract(
                name,
                tones(words=1),
                tmp_path / "features",
                dry_run=dry_run,
                storing=Storing(ctc=True),
                running=Running(device="cpu"),
            )
    assert not (tmp_path / "features").exists()


# The reference row


class Reader:
    """Hears the pitch of a tone and spells a word with it; one word wrongly, and one twice where
    the speaker's overtone is high.

    Attributes:
        spells: word by number; the corpus of tones has ba, do and ke.
    """

    LETTERS = ("", " ", *"ABDEKO")
    implementation, precision, chunking = "reference", "fp32", None
    rows = 1
    device = torch.device("cpu")

    def __init__(self, name: str, *spells: str) -> None:
        ctc = {"writes": self.LETTERS, "alphabet": "".join(sorted(self.LETTERS))}
        grid = FrameGrid(160, 400, 400)
        self.info = ModelInfo(
            name, "1", "", "fake", {"0": 6, "1": 6}, {"final": "1"}, grid=grid, ctc=ctc
        )
        self.spells = spells

    def encode(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        n_frames = self.info.n_frames(int(lengths[0]))
        spectrum = torch.fft.rfft(waveforms[0]).abs()
        hertz = 16_000 / waveforms.shape[1]
        word = round((float(spectrum[: int(2000 / hertz)].argmax()) * hertz - 300) / 400)
        high = float(spectrum[int(2000 / hertz) :].argmax()) * hertz > 1600
        text = self.spells[word] * (2 if high and word == 2 else 1)
        scores = scores_of([0] * n_frames, len(self.LETTERS))
        for i, letter in enumerate(text):
            scores[2 * i + 1] = torch.eye(len(self.LETTERS))[self.LETTERS.index(letter)]
        frames = torch.randn(n_frames, 6, generator=torch.Generator().manual_seed(word))
        of_layer = {"0": frames, "1": -frames, CTC: scores}
        return [of_layer[name][None] for name in layers], torch.tensor([[n_frames]] * len(layers))


QUICK = {"epochs": 2, "learning_rates": [1e-3]}


def own_rows(path: Path) -> dict[tuple[str, str], Any]:
    table = read_records(path)
    return {(row.split, row.metric): row for row in table[table["head"] == OWN_HEAD].itertuples()}


@pytest.fixture
def read_out(tones: Callable[..., Path], tmp_path: Path) -> Path:
    """The manifest of tones that two readers have transcribed: ``good`` reads every word, ``bad``
    errs.
    """
    manifest = tones()
    for encoder in (Reader("good", "BA", "DO", "KE"), Reader("bad", "BA", "D", "KE ")):
        extract(
            encoder,
            manifest,
            tmp_path / "features",
            storing=Storing(ctc=True),
            running=Running(check=False),
        )
    return manifest


def test_the_reference_is_jiwers_wer_of_case_folded_texts_on_dev_and_test(
    read_out: Path, tmp_path: Path
) -> None:
    run(open_task("asr-ctc", QUICK), "bad", read_out, tmp_path / "features", tmp_path / "results")
    (store,) = [store for store in find_stores(tmp_path / "features") if store.requested == "bad"]
    rows = own_rows(tmp_path / "results")
    assert set(rows) == {(split, metric) for split in ("dev", "test") for metric in ("wer", "cer")}
    for split in ("dev", "test"):
        utterances = [
            item for item in probe.load_corpus(read_out).utterances if item.split == split
        ]
        references = [case_folded(item.text) for item in utterances]
        read = [case_folded(store.utterances[item.key][-1].ctc_text or "") for item in utterances]
        assert rows[split, "wer"].value == jiwer.wer(references, read) > 0.3
        assert rows[split, "cer"].value == jiwer.cer(references, read) > 0.1
        for metric in ("wer", "cer"):
            row = rows[split, metric]
            assert (row.layer, row.select_by, row.n, row.higher_is_better) == (
                "ctc",
                "cer",
                len(utterances),
                False,
            )
            assert row.chosen == {"decoding": "greedy", "normaliser": "case-folded"}
            assert row.note == "its own head, greedy, both sides case-folded"
            assert row.search == []
            assert row.headline


def test_the_case_of_neither_side_counts(read_out: Path, tmp_path: Path) -> None:
    read_out.write_text(read_out.read_text().replace(",ba,", ",Ba,"))
    run(open_task("asr-ctc", QUICK), "good", read_out, tmp_path / "features", tmp_path / "results")
    rows = own_rows(tmp_path / "results")
    doubled = [row.value for row in rows.values() if row.metric == "wer"]
    assert all(0 < value < 0.4 for value in doubled), "only the word that is said twice is wrong"


def test_the_reference_has_the_normaliser_of_the_task(read_out: Path, tmp_path: Path) -> None:
    read_out.write_text(read_out.read_text().replace(",ba,", ",Ba!,"))
    task = open_task("asr-ctc", QUICK | {"normalize": "superb"})
    run(task, "good", read_out, tmp_path / "features", tmp_path / "results")
    row = own_rows(tmp_path / "results")["test", "wer"]
    assert 0 < row.value < 0.4, "only the word that is said twice is wrong"
    assert row.chosen["normaliser"] == "superb 1"
    assert row.note == "its own head, greedy, both sides normalised (superb 1)"


def test_the_texts_that_were_scored_can_be_read(read_out: Path, tmp_path: Path) -> None:
    run(open_task("asr-ctc", QUICK), "good", read_out, tmp_path / "features", tmp_path / "results")
    (path,) = (tmp_path / "results" / "outcomes").glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    own = [line for line in lines if line["head"] == OWN_HEAD]
    assert {(line["reference"], line["hypothesis"]) for line in own} == {
        ("ba", "ba"),
        ("do", "do"),
        ("ke", "ke"),
        ("ke", "keke"),
    }


def test_characters_that_the_head_cannot_write_are_counted_in_the_note(
    read_out: Path, tmp_path: Path
) -> None:
    read_out.write_text(read_out.read_text().replace(",do,", ",do x,"))
    run(open_task("asr-ctc", QUICK), "good", read_out, tmp_path / "features", tmp_path / "results")
    note = own_rows(tmp_path / "results")["test", "wer"].note
    assert (
        note
        == "its own head, greedy, both sides case-folded; 4 characters that it cannot write: 'x'"
    )


def test_a_task_of_several_domains_has_no_reference(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(words=2, speakers=2, domains=("near", "far"))
    extract(
        Reader("good", "BA", "DO", "KE"),
        manifest,
        tmp_path / "features",
        storing=Storing(ctc=True),
        running=Running(check=False),
    )
    (tmp_path / "shift.toml").write_text('kind = "shift"\nof = "asr-ctc"\n')
    run(
        open_task(tmp_path / "shift.toml", QUICK),
        "good",
        manifest,
        tmp_path / "features",
        tmp_path / "results",
    )
    assert set(read_records(tmp_path / "results")["head"]) == {"ctc-linear"}


def test_features_without_texts_have_no_reference_and_those_with_texts_are_preferred(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones(words=2, speakers=2)
    reader = Reader("good", "BA", "DO", "KE")
    extract(reader, manifest, tmp_path / "features", running=Running(check=False))
    run(open_task("asr-ctc", QUICK), "good", manifest, tmp_path / "features", tmp_path / "before")
    assert not own_rows(tmp_path / "before")
    extract(
        reader,
        manifest,
        tmp_path / "features",
        storing=Storing(ctc=True),
        running=Running(check=False),
    )
    run(open_task("asr-ctc", QUICK), "good", manifest, tmp_path / "features", tmp_path / "after")
    assert len(own_rows(tmp_path / "after")) == 4


def test_the_table_shows_the_reference_with_its_note_and_never_in_bold(
    read_out: Path, tmp_path: Path
) -> None:
    for name in ("good", "bad"):
        run(
            open_task("asr-ctc", QUICK), name, read_out, tmp_path / "features", tmp_path / "results"
        )
    records = read_records(tmp_path / "results")
    rows = summary_rows(records)
    own = rows[rows["head"] == OWN_HEAD]
    assert sorted(zip(own["model"], own["metric"], strict=True)) == [
        (m, s) for m in ("bad", "good") for s in ("cer", "wer")
    ]
    assert set(own["layer"]) == {"ctc"}
    assert set(own["note"]) == {"its own head, greedy, both sides case-folded"}
    best = rows.loc[rows[rows["metric"] == "wer"]["value"].idxmin()]
    assert (best["model"], best["head"]) == ("good", OWN_HEAD), "it is the best there is, and yet"
    lines = to_markdown(rows, layers=False).splitlines()
    printed = [line for line in lines if f"| {OWN_HEAD} " in line]
    assert len(printed) == 4
    for line in printed:
        assert "**" not in line
        assert "its own head, greedy, both sides case-folded" in line
        assert line.split("|")[5].strip() == "ctc"
    files = write_tables(records, tmp_path / "tables")
    assert OWN_HEAD in (tmp_path / "tables" / "table.csv").read_text()
    assert {path.name for path in files} >= {"table.md", "layers.md"}


# --- beam search of the own head
# ------------------------------------------------------------


@pytest.fixture
def fine_tuned(folders: dict[str, Path], tones: Callable[..., Path], tmp_path: Path) -> Path:
    """A manifest whose features were extracted with a checkpoint's own head, named ``tuned``."""
    manifest = tones()
    storing = Storing(ctc=True, dtype="float32")
    model = f"tuned={folders['wav2vec2']}"
    extract(model, manifest, tmp_path / "features", storing=storing)
    (tmp_path / "words.txt").write_text("A\nBE\nCAB\nDEED\n")
    return manifest


def test_the_stored_head_gives_the_scores_of_the_models_own(
    fine_tuned: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    (store,) = find_stores(tmp_path / "features")
    corpus = probe.load_corpus(fine_tuned)
    features = Features({"clean": store}, "frames", corpus)
    head = own_head._head_of(features)
    assert head is not None and head.vocabulary.symbols == (" ", *"abcde")
    item = corpus.utterances[0]
    part = Part("dev", "", [item], [item.text])
    (found,) = head.log_probabilities(head.frames(part))
    encoder = open_model(str(folders["wav2vec2"]), "cpu")
    wave = torch.from_numpy(soundfile.read(item.path, dtype="float32")[0])
    (scores,), _ = encoder.encode(wave[None], torch.tensor([len(wave)]), [CTC])
    expected = scores[0].softmax(1)
    torch.testing.assert_close(found[:, 0].exp(), expected[:, :4].sum(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[:, 1:].exp(), expected[:, 4:], atol=1e-5, rtol=1e-4)


def test_a_beam_search_of_the_own_head_writes_listed_words_and_is_no_contender(
    fine_tuned: Path, tmp_path: Path
) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    (tmp_path / "beam.toml").write_text(
        'kind = "transcribe"\nepochs = 1\nlearning_rates = [1e-3]\nweighted = false\n'
        'controls = []\ndecoding = "beam"\nwords = "words.txt"\nword_score = [-1.0, 1.0]\n'
        'normalize = "lower"\n'
    )
    fine_tuned.write_text(fine_tuned.read_text().replace(",do,", ",BE,"))
    run(tmp_path / "beam.toml", "tuned", fine_tuned, tmp_path / "features", tmp_path / "results")
    table = read_records(tmp_path / "results")
    own = table[table["head"] == OWN_HEAD_BEAM]
    assert {(row.split, row.metric) for row in own.itertuples()} == {
        (split, metric) for split in ("dev", "test") for metric in ("wer", "cer")
    }
    chosen = own.iloc[0]["chosen"]
    assert chosen["decoding"] == "beam" and chosen["normaliser"] == "lower 1"
    tried = {entry["word_score"]: entry["dev_cer"] for entry in own.iloc[0]["search"]}
    assert set(tried) == {-1.0, 1.0} and tried[chosen["word_score"]] == min(tried.values())
    (path,) = (tmp_path / "results" / "outcomes").glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    written = {
        word
        for line in lines
        if line["head"] == OWN_HEAD_BEAM
        for word in line["hypothesis"].split()
    }
    assert written and written <= {"a", "be", "cab", "deed"}
    marks = Scores.of(table, all_heads=True).chosen().set_index("head")["mark"]
    assert set(marks[[OWN_HEAD, OWN_HEAD_BEAM]]) == {""}
    assert not check_records([tmp_path / "results"])[1]


def test_a_store_without_the_head_says_how_to_add_it(
    fine_tuned: Path, folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (store,) = find_stores(tmp_path / "features")
    (store.path / "ctc_head.json").unlink()
    features = Features({"clean": store}, "frames", probe.load_corpus(fine_tuned))
    assert own_head._head_of(features) is None
    assert "run `probe extract --ctc` again, which adds it" in caplog.text
    storing = Storing(ctc=True, dtype="float32")
    again = f"tuned={folders['wav2vec2']}"
    done = extract(again, fine_tuned, tmp_path / "features", storing=storing)
    assert done.extracted == 0 and own_head._head_of(features) is not None


def test_a_damaged_head_is_found(fine_tuned: Path, tmp_path: Path) -> None:
    (store,) = find_stores(tmp_path / "features")
    path = store.path / "ctc_head.json"
    path.write_bytes(path.read_bytes().replace(b'"shape"', b'"shapes"'))
    with pytest.raises(ProbeError, match=r"ctc_head\.json"):
        assert store.ctc_head is None
    assert [item.file for item in verify_store(store.path).damage] == ["ctc_head.json"]


BIGRAMS = """\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-1\t<unk>
-1\t<s>\t-0.3
-1\t</s>
-1\tBAD\t-0.3
-1\tACE\t-0.3

\\2-grams:
-0.5\tBAD ACE

\\end\\
"""


def test_the_preset_of_released_checkpoints_needs_no_training_rows(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    librispeech(tmp_path)
    (tmp_path / "4-gram.arpa").write_text(BIGRAMS)
    monkeypatch.chdir(tmp_path)
    task = open_task("librispeech-own-ctc")
    assert task.protocol
    corpus = task.protocol.corpus.replace("ROOT", str(tmp_path))
    model = f"tuned={folders['wav2vec2']}"
    with pytest.raises(ProbeError, match="has no transcripts of a CTC head"):
        extract(model, corpus, tmp_path / "without")
        run(task, "tuned", corpus, tmp_path / "without", tmp_path / "results")
    extract(model, corpus, tmp_path / "features", storing=Storing(ctc=True))
    done = run(task, "tuned", corpus, tmp_path / "features", tmp_path / "results")
    heads = {(one.head, one.split, one.metric) for one in done.records}
    assert heads == {
        (head, split, metric)
        for head in (OWN_HEAD, OWN_HEAD_BEAM)
        for split in ("dev", "test")
        for metric in ("wer", "cer")
    }
    assert not check_records([tmp_path / "results"])[1]
    shown = Scores.of(read_records(tmp_path / "results")).chosen()
    assert {(row.head, row.layer) for row in shown.itertuples()} == {
        (OWN_HEAD, "ctc"),
        (OWN_HEAD_BEAM, "ctc"),
    }
