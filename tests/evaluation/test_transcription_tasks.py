"""Kind transcribe: planted letters and phones are read, the sum of layers finds the planted one,
what is odd is named.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exhaustive import mostly_nightly

from probe.data.corpus import Utterance
from probe.errors import ProbeError
from probe.evaluation.dataset import Problem, Score
from probe.evaluation.kinds import transcribe
from probe.evaluation.kinds.transcripts import Transcripts
from probe.evaluation.label_free_fits import Fitting
from probe.evaluation.tasks import open_task
from probe.records import WEIGHTED
from probe.store.feature_store import LayerArray

LETTERS = "abcdefgh"
DIM = 12
WORDS = ["".join(word) for word in np.random.default_rng(3).choice(list(LETTERS), (60, 3))]
# Of epochs and rates that suffice for what is planted here.
FAST = {
    "linear": {"epochs": 25, "learning_rates": [1e-1]},
    "mlp": {"epochs": 20, "learning_rates": [1e-2], "hidden_sizes": [32]},
    "bilstm": {"epochs": 25, "learning_rates": [2e-2], "hidden": 24, "dropout": 0.0},
}


class PlantedFeatures:
    """Layer ``0`` is noise, layer ``1`` has three frames for each letter after one of silence,
    layer ``2`` the same under noise.
    """

    hop_s = 0.02

    def __init__(self, texts: dict[str, str], widths: Sequence[int] = (DIM, DIM, DIM)) -> None:
        generator = np.random.default_rng(0)
        codes = 3 * np.random.default_rng(7).standard_normal((len(LETTERS) + 2, DIM))
        self._frames: dict[tuple[str, str], np.ndarray] = {}
        for key, text in texts.items():
            symbols = [
                symbol for letter in text for symbol in (0, *[f"{LETTERS} ".index(letter) + 1] * 3)
            ]
            noise = generator.standard_normal((3, len(symbols), DIM))
            layers = [noise[0], codes[symbols] + 0.3 * noise[1], codes[symbols] + 4 * noise[2]]
            for layer, (rows, width) in enumerate(zip(layers, widths, strict=False)):
                self._frames[str(layer), key] = rows[:, :width].astype(np.float32)
        self.ctc: dict[str, Any] = {}
        self.fitting = Fitting()
        self.layers = [str(layer) for layer in range(len(widths))]
        self.store = SimpleNamespace(layers=dict(zip(self.layers, widths, strict=True)))
        lengths = {key: len(self._frames["0", key]) for key in texts}
        self.stored = {
            key: SimpleNamespace(n_rows=n, duration_s=n * self.hop_s) for key, n in lengths.items()
        }

    def of(self, utterance: Utterance) -> Any:
        return self.stored[utterance.key]

    def read(self, layer: str, utterances: Sequence[Utterance]) -> LayerArray:
        rows = [self._frames[layer, item.key] for item in utterances]
        offsets = np.cumsum([0, *map(len, rows)])
        return LayerArray(np.concatenate(rows), offsets, [item.key for item in utterances])


def planted(n_train: int = 100, **settings: Any) -> tuple[PlantedFeatures, Problem]:
    """Utterances of two words, with other utterances in dev and test."""
    generator = np.random.default_rng(1)
    splits = ["train"] * n_train + ["dev"] * 20 + ["test"] * 40
    rows = [
        Utterance(f"{split}{i}", "x.wav", " ".join(generator.choice(WORDS, 2)), "", "", split)
        for i, split in enumerate(splits)
    ]
    of = {
        split: [item for item in rows if item.split == split] for split in ("train", "dev", "test")
    }
    problem = Problem(train=of["train"], dev=of["dev"], tests={"": of["test"]}, **settings)
    return PlantedFeatures({item.key: item.text for item in rows}), problem


def scored(
    folder: Path,
    features: Any,
    problem: Problem,
    control: str = "",
    budget: str = "",
    **settings: Any,
) -> dict[tuple[str, str, str], Score]:
    """(layer, split, metric) -> score of a task, of one of its controls or of a budget."""
    path = folder / "own.toml"
    more = {"controls": [control] if control else [], "budgets": [budget] if budget else []}
    settings = {
        "kind": "transcribe",
        "batch_size": 8,
        **more,
        **FAST[settings.get("head", "linear")],
        **settings,
    }
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    return {
        (score.layer, score.split, score.metric): score
        for score in transcribe.run(open_task(path), problem, features)  # type: ignore[arg-type]
        if (score.control, score.budget) == (control, budget)
    }


@pytest.mark.parametrize("head", mostly_nightly(FAST, ["linear"]))
def test_every_head_reads_planted_letters_and_the_sum_finds_their_layer(
    tmp_path: Path, head: str
) -> None:
    scores = scored(tmp_path, *planted(), head=head)
    assert list(dict.fromkeys(layer for layer, _, _ in scores)) == ["0", "1", "2", WEIGHTED]
    assert scores["1", "test", "cer"].value < 0.02
    assert scores["0", "test", "cer"].value > 0.5
    assert scores[WEIGHTED, "test", "cer"].value < 0.1
    weights = scores[WEIGHTED, "test", "cer"].layer_weights
    assert max(weights, key=lambda layer: weights[layer]) == "1"
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["1"] > 0.4
    assert not scores["1", "test", "cer"].layer_weights
    assert scores["1", "test", "cer"].n_train == 100


@pytest.mark.nightly
@pytest.mark.parametrize("head", mostly_nightly(FAST, ["linear"]))
def test_no_head_reads_letters_after_training_on_shuffled_transcripts(
    tmp_path: Path, head: str
) -> None:
    scores = scored(tmp_path, *planted(), head=head, control="shuffled", weighted=False)
    assert {layer for layer, _, _ in scores} == {"1"}  # the one that dev chose
    assert scores["1", "test", "wer"].value >= 0.95


@pytest.mark.nightly
def test_with_fewer_utterances_every_layer_reads_less(tmp_path: Path) -> None:
    features, problem = planted()
    own, few, bit = (
        scored(tmp_path, features, problem, budget=budget, weighted=False, epochs=40)
        for budget in ("", "20", "8s")
    )
    for scores in (few, bit):
        assert {layer for layer, _, _ in scores} == {"0", "1", "2"}
        assert scores["2", "test", "cer"].value > own["2", "test", "cer"].value
    assert few["1", "test", "cer"].n_train == 20
    seconds = sorted(features.of(item).duration_s for item in problem.train)
    assert 8 / seconds[-1] - 1 <= bit["1", "test", "cer"].n_train <= 8 / seconds[0]
    assert few["1", "dev", "cer"].n == own["1", "dev", "cer"].n


def test_utterances_are_not_counted_by_transcript(tmp_path: Path) -> None:
    with pytest.raises(
        ProbeError,
        match=r"budgets\[0\]: found '5/class'; expected .*or hours \(30s, 10m, 1h\), or utterances "
        r"\(200\)\.",
    ):
        scored(tmp_path, *planted(10), budget="5/class")


@pytest.mark.parametrize("head", mostly_nightly(["mlp", "bilstm"], ["mlp"]))
def test_the_sum_of_layers_leaves_single_layers_as_they_are(tmp_path: Path, head: str) -> None:
    quick = {"head": head, "epochs": 2}
    beside, alone = (
        scored(tmp_path, *planted(30), weighted=weighted, **quick) for weighted in (True, False)
    )
    assert {layer for layer, _, _ in beside} - {layer for layer, _, _ in alone} == {WEIGHTED}
    for place, score in alone.items():
        assert (score.value, score.search, score.outcomes) == (
            beside[place].value,
            beside[place].search,
            beside[place].outcomes,
        )


@pytest.mark.parametrize(
    ("widths", "memory", "why"),
    [
        ([DIM], 1 << 30, ""),
        ([DIM, 5], 1 << 30, "no two layers have the same width: 0 12, 1 5"),
        ([DIM, DIM], 1000, r"all layers take 0.0 GB as float32, --memory is 0.0 GB"),
    ],
)
def test_a_sum_that_cannot_be_is_left_out_and_the_log_says_why_unless_there_is_one_layer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, widths: list[int], memory: int, why: str
) -> None:
    _, problem = planted(10, memory_bytes=memory)
    rows = [*problem.train, *problem.dev, *problem.tests[""]]
    features = PlantedFeatures({item.key: item.text for item in rows}, widths)
    with caplog.at_level("INFO"):
        scores = scored(tmp_path, features, problem, epochs=1)
    assert {layer for layer, _, _ in scores} == set(features.layers)
    assert (f"no weighted sum of layers 0..1: {why}" in caplog.text) == bool(why)
    assert ("no weighted sum" in caplog.text) == bool(why)


def test_layers_of_another_width_are_left_out_of_the_sum_and_the_note_names_them(
    tmp_path: Path,
) -> None:
    _, problem = planted(10)
    rows = [*problem.train, *problem.dev, *problem.tests[""]]
    features = PlantedFeatures({item.key: item.text for item in rows}, [5, DIM, DIM])
    test = scored(tmp_path, features, problem, epochs=1)[WEIGHTED, "test", "cer"]
    assert set(test.layer_weights) == {"1", "2"}
    assert test.note.startswith("a sum of the 2 layers 12 wide; left out: 0 (5 wide)")


def test_memory_reaches_the_groups_of_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    fit = transcribe.fit_groups
    monkeypatch.setattr(
        transcribe,
        "fit_groups",
        lambda *arguments: (given.append(arguments[-1]), fit(*arguments))[1],
    )
    scored(tmp_path, *planted(10, memory_bytes=12345), epochs=1)
    assert set(given) == {12345}


def test_records_say_what_is_written_and_how_it_is_read(tmp_path: Path) -> None:
    scores = scored(tmp_path, *planted(10), epochs=1, weighted=False, units="letters")
    assert (
        dict(scores["1", "dev", "cer"].chosen).items()
        >= {
            "decoding": "greedy",
            "units": "letters",
            "normaliser": "letters",
            "blank": "index 0",
            "unknown": "none",
            "boundary": "space",
        }.items()
    )


def test_letters_are_scored_on_normalised_transcripts(tmp_path: Path) -> None:
    features, problem = planted(10)
    shouted = [replace(item, text=item.text.upper() + "!") for item in problem.tests[""]]
    problem = replace(problem, tests={"": shouted})
    plain, letters = (
        scored(tmp_path, features, problem, epochs=1, weighted=False, units=units)[
            "1", "test", "cer"
        ]
        for units in ("characters", "letters")
    )
    assert "characters not in training: '!', 'A'" in plain.note
    assert letters.note == ""
    assert [item["reference"] for item in letters.outcomes] == [
        item.text.lower().rstrip("!") for item in shouted
    ]


def test_a_normaliser_is_applied_to_both_sides_and_recorded(tmp_path: Path) -> None:
    features, problem = planted()
    shouted = [replace(item, text=item.text.upper() + "!") for item in problem.tests[""]]
    problem = replace(problem, tests={"": shouted})
    scores = scored(tmp_path, features, problem, weighted=False, normalize="superb")
    test = scores["1", "test", "cer"]
    assert test.value < 0.02
    assert test.chosen["normaliser"] == "superb 1"
    assert [item["reference"] for item in test.outcomes] == [
        item.text.rstrip("!") for item in shouted
    ]


def test_a_text_that_is_changed_again_is_no_error_of_a_perfect_head(tmp_path: Path) -> None:
    task = open_task(own_task(tmp_path, normalize="english"))
    transcripts = Transcripts(task)
    utterance = Utterance("a", "a.wav", "oh one seven", "", "", "test")
    part = transcripts.of("test", "", [utterance], Counter())
    assert part.texts == ["017"]
    assert transcripts.as_scored(part.texts) == ["17"]
    assert transcripts.symbols["normaliser"].startswith("english 1 (transformers ")


def test_utterances_of_which_a_normaliser_leaves_nothing_are_counted(tmp_path: Path) -> None:
    features, problem = planted(10)
    odd = [replace(problem.tests[""][0], text="?!"), *problem.tests[""][1:]]
    problem = replace(problem, tests={"": odd})
    scores = scored(tmp_path, features, problem, epochs=1, weighted=False, normalize="superb")
    test = scores["1", "test", "cer"]
    assert (test.n, test.excluded["no text after normalisation"]) == (len(odd) - 1, 1)


def test_other_conventions_in_test_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features, problem = planted(10)
    shouted = [replace(item, text=item.text.upper()) for item in problem.tests[""]]
    problem = replace(problem, tests={"": shouted})
    scored(tmp_path, features, problem, epochs=1, weighted=False)
    assert "own: test: 100.0% of the letters are capitals, 0.0% in training" in caplog.text
    caplog.clear()
    scored(tmp_path, features, problem, epochs=1, weighted=False, normalize="lower")
    assert "capitals" not in caplog.text


def test_a_normaliser_counts_in_the_hash_and_its_absence_does_not(tmp_path: Path) -> None:
    plain, none, lower = (
        open_task(own_task(tmp_path, **settings))
        for settings in ({}, {"normalize": "none"}, {"normalize": "lower"})
    )
    assert "normalize" not in plain.settings.hashed()
    assert lower.settings.hashed()["normalize"] == "lower 1"
    assert plain.sha256 == none.sha256 != lower.sha256


def test_letters_are_not_normalised_twice(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="'none' with units = 'letters', which normalise already"):
        open_task(own_task(tmp_path, units="letters", normalize="lower"))


def own_task(folder: Path, **settings: Any) -> Path:
    path = folder / "own.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path.write_text("\n".join(['kind = "transcribe"', *lines]))
    return path


# --- phones
# ------------------------------------------------------------


def lexicon_of(folder: Path, words: Sequence[str], lacking: int = 0) -> Path:
    """Every letter is a phone of two characters; the last words can be left out."""
    lines = [
        f"{word.upper()}\t{' '.join(f'{letter.upper()}H' for letter in word)}\n"
        for word in dict.fromkeys(words)
    ]
    path = folder / "lexicon.txt"
    path.write_text(";;; of planted words\n" + "".join(lines[: len(lines) - lacking]))
    return path


def test_phones_are_read_and_counted_one_by_one(tmp_path: Path) -> None:
    lexicon_of(tmp_path, WORDS)
    scores = scored(tmp_path, *planted(60), units="phones", lexicon="lexicon.txt", weighted=False)
    assert {metric for _, _, metric in scores} == {"per"}
    best = scores["1", "test", "per"]
    assert best.value < 0.05
    assert best.select_by == "per"
    assert "dev_per" in best.search[0]
    assert best.counts is not None
    assert sum(best.counts["denominator"]) == 40 * 6
    assert {phone for item in best.outcomes for phone in item["reference"].split()} == {
        f"{letter.upper()}H" for letter in LETTERS
    }
    assert {key: best.chosen[key] for key in ("units", "unknown", "boundary")} == {
        "units": "phones",
        "unknown": "none",
        "boundary": "none",
    }


def test_words_that_the_lexicon_lacks_are_named_or_read_as_one_symbol_or_left_out(
    tmp_path: Path,
) -> None:
    lexicon_of(tmp_path, WORDS, lacking=10)
    lacking = set(list(dict.fromkeys(WORDS))[-10:])
    features, problem = planted(60)
    settings: dict[str, Any] = {
        "units": "phones",
        "lexicon": "lexicon.txt",
        "weighted": False,
        "epochs": 1,
    }
    first = next(item for item in problem.train if set(item.text.split()) & lacking)
    word = next(word for word in first.text.split() if word in lacking)
    with pytest.raises(
        ProbeError,
        match=rf"train: \d+ words not in the lexicon .*lexicon.txt: '{word}' in "
        rf"{first.key}.*unknown =",
    ):
        scored(tmp_path, features, problem, **settings)
    n = sum(not set(item.text.split()) & lacking for item in problem.tests[""])
    left = scored(tmp_path, features, problem, unknown="leave-out", **settings)["1", "test", "per"]
    assert left.n == n < 40
    assert left.excluded["words not in the lexicon"] > 40 - n
    symbol = scored(tmp_path, features, problem, unknown="symbol", **settings)["1", "test", "per"]
    assert symbol.n == 40
    assert symbol.chosen["unknown"] == "<unk>"
    assert "words not in the lexicon, read as <unk>" in symbol.note


# --- beam search
# ------------------------------------------------------------


@pytest.mark.nightly
def test_a_word_list_mends_what_a_noisy_layer_spells_wrong(tmp_path: Path) -> None:
    pytest.importorskip(
        "flashlight.lib.text.decoder", reason="beam search: pip install layerprobe[lm]"
    )
    (tmp_path / "words.txt").write_text("".join(f"{word}\n" for word in dict.fromkeys(WORDS)))
    greedy = scored(tmp_path, *planted(), weighted=False, epochs=40)
    beam = scored(
        tmp_path,
        *planted(),
        weighted=False,
        epochs=40,
        decoding="beam",
        words="words.txt",
        word_score=[-1.0, 0.0],
        beam=20,
    )
    place = ("2", "test", "wer")
    assert beam[place].value < 0.8 * greedy[place].value
    assert set(beam) == set(greedy)
    tried = [entry for entry in beam[place].search if "word_score" in entry]
    assert [entry["word_score"] for entry in tried] == [-1.0, 0.0]
    assert len(beam[place].search) == len(greedy[place].search) + 2
    assert beam[place].chosen["dev_cer"] == min(entry["dev_cer"] for entry in tried)
    assert beam[place].chosen["decoding"] == "beam"


# --- settings
# ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('units = "phones"', "own.toml: lexicon: found ''; expected a file with units = 'phones'"),
        (
            'lexicon = "a.txt"',
            "lexicon: found 'a.txt'; expected no file with units = 'characters'; only phones need",
        ),
        (
            'units = "phones"\nlexicon = "a"\ndecoding = "beam"\nwords = "b"',
            "decoding: found 'beam'; expected 'greedy' with units = 'phones': .* letter by letter",
        ),
        (
            'decoding = "beam"',
            "lm: found ''; expected a file, here or in words, with decoding = 'beam'",
        ),
        ('words = "b.txt"', "words: found 'b.txt'; expected no file with decoding = 'greedy'"),
        ('lm = "b.arpa"', "lm: found 'b.arpa'; expected no file with decoding = 'greedy'"),
        ("context = 21", "context: found 21; expected at most 20"),
        ("hidden_sizes = [0]", r"hidden_sizes\[0\]: found 0; expected 1 or more"),
        ('activation = "tanh"', "activation: found 'tanh'; expected 'relu' or 'none'"),
        ('unknown = "skip"', "unknown: found 'skip'; expected 'refuse', 'symbol' or 'leave-out'"),
        ("spec_augment = 1", "spec_augment: found 1; expected true or false"),
    ],
)
def test_settings_that_do_not_agree_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'kind = "transcribe"\n{text}\n')
    with pytest.raises(ProbeError, match=message):
        open_task(path)


def test_files_lie_beside_the_task_and_their_content_is_in_its_hash(tmp_path: Path) -> None:
    def task(folder: str, content: str, name: str = "lexicon.txt") -> Any:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(content)
        path = tmp_path / folder / "own.toml"
        path.write_text(f'kind = "transcribe"\nunits = "phones"\nlexicon = "{name}"\n')
        return open_task(path)

    first = task("a", "A AH\n")
    assert first.file("lexicon") == tmp_path / "a" / "lexicon.txt"
    assert first.file("words") is None
    assert first.sha256 == task("b", "A AH\n", "other.txt").sha256 != task("c", "A EH\n").sha256
    (tmp_path / "a" / "lexicon.txt").unlink()
    with pytest.raises(
        ProbeError, match=r"lexicon = 'lexicon.txt': no such file; looked for .*a.lexicon.txt"
    ):
        _ = first.sha256
