"""Beam search finds the best text of all there are, says what it lacks, and reads word lists and
ARPA files.
"""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from probe.errors import ProbeError
from probe.heads.ctc.beam_search import BeamDecoder, read_arpa_words, read_words
from probe.heads.ctc.vocabulary import Vocabulary

WORDS = ["a", "ab", "ba"]
ARPA = """\\data\\
ngram 1=6
ngram 2=2

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-0.8\ta\t-0.3
-1.0\tab\t-0.3
-1.2\tba\t-0.1
-2.0\t<unk>

\\2-grams:
-0.3\ta ab
-0.5\t<s> a

\\end\\
"""
# The same model: word -> log10 of its probability, context -> log10 of its back-off weight.
UNIGRAMS = {"</s>": -1.0, "a": -0.8, "ab": -1.0, "ba": -1.2}
BACK_OFF = {"<s>": -0.3, "a": -0.3, "ab": -0.3, "ba": -0.1}
BIGRAMS = {("a", "ab"): -0.3, ("<s>", "a"): -0.5}


@pytest.fixture(scope="module")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(
        "flashlight.lib.text.decoder", reason="beam search: pip install layerprobe[lm]"
    )
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    path.write_text(ARPA)
    return path


def log10_probability(words: list[str]) -> float:
    pairs = itertools.pairwise(["<s>", *words, "</s>"])
    return sum(
        BIGRAMS.get((before, word), BACK_OFF[before] + UNIGRAMS[word]) for before, word in pairs
    )


def best_text(values: Tensor, vocabulary: Vocabulary, lm_weight: float, word_score: float) -> str:
    """The text of the best of all paths that spell listed words."""
    best: dict[str, float] = {}
    for path in itertools.product(range(vocabulary.size), repeat=len(values)):
        text = " ".join(vocabulary.decode_greedy(path).split())
        score = sum(float(values[frame, symbol]) for frame, symbol in enumerate(path))
        best[text] = max(best.get(text, score), score)
    listed = {text: score for text, score in best.items() if set(text.split()) <= set(WORDS)}

    def total(text: str) -> float:
        words = text.split()
        return listed[text] + lm_weight * log10_probability(words) + word_score * len(words)

    return max(listed, key=total)


@pytest.mark.parametrize(
    ("lm_weight", "word_score"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.5), (3.0, 2.0)]
)
def test_the_best_of_all_texts_is_found(arpa: Path, lm_weight: float, word_score: float) -> None:
    vocabulary = Vocabulary.of(["ab ba"])
    decoder = BeamDecoder(
        vocabulary, WORDS, arpa, beam=500, lm_weight=lm_weight, word_score=word_score
    )
    again = BeamDecoder(
        vocabulary, WORDS, arpa, beam=500, lm_weight=lm_weight, word_score=word_score, like=decoder
    )
    found = set()
    for seed in range(15):
        values = (
            2 * torch.randn(5, vocabulary.size, generator=torch.Generator().manual_seed(seed))
        ).log_softmax(1)
        text = decoder(values)
        assert text == best_text(values, vocabulary, lm_weight, word_score)
        assert text == again(values)
        found.add(text)
    assert len(found) > 2


def sure_of(text: str, vocabulary: Vocabulary, doubt: float = 0.01) -> Tensor:
    """Log-probabilities that spell ``text``, each symbol between blanks."""
    path = [symbol for label in vocabulary.encode(text) for symbol in (0, label)]
    values = torch.full((len(path), vocabulary.size), doubt)
    values[torch.arange(len(path)), torch.tensor(path)] = 1.0
    return (values / values.sum(1, keepdim=True)).log()


@pytest.mark.usefixtures("arpa")
def test_only_listed_words_are_written_and_others_are_counted() -> None:
    vocabulary = Vocabulary.of(["abc cab"])
    decoder = BeamDecoder(vocabulary, ["cab", "abc", "xyz"])
    assert decoder.left_out == 1
    assert decoder(sure_of("abc cab", vocabulary)) == "abc cab"
    assert decoder(sure_of("abb cab", vocabulary)) == "abc cab"
    shouted = BeamDecoder(vocabulary, ["CAB", "ABC"], spell=str.lower)
    assert shouted(sure_of("cab abc", vocabulary)) == "cab abc"
    with pytest.raises(ProbeError, match="no word of the list has only characters of the training"):
        BeamDecoder(vocabulary, ["CAB"])


@pytest.mark.usefixtures("arpa")
def test_training_texts_of_one_word_need_no_space() -> None:
    vocabulary = Vocabulary.of(["no", "on"])
    decoder = BeamDecoder(vocabulary, ["no", "on", "noon"])
    assert decoder(sure_of("noon", vocabulary)) == "noon"
    assert decoder(sure_of("on", vocabulary)) == "on"


def test_without_the_extra_an_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder", None)
    with pytest.raises(ProbeError, match=r"pip install layerprobe\[lm\]"):
        BeamDecoder(Vocabulary.of(["ab"]), ["ab"])


def test_words_are_read_from_lists_and_arpa_files(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("hello HH AH0\nhello HH EH0\n\nworld\n")
    assert read_words(path) == ["hello", "world"]
    path.write_text(ARPA)
    assert read_arpa_words(path) == WORDS
    path.write_text("\n")
    with pytest.raises(ProbeError, match=r"words.txt: no words; expected one in each line"):
        read_words(path)
    with pytest.raises(ProbeError, match=r"no section .1-grams: with words"):
        read_arpa_words(path)


def test_an_n_gram_model_that_cannot_be_used_is_named(arpa: Path, tmp_path: Path) -> None:
    one = tmp_path / "1-gram.arpa"
    one.write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-1\t<unk>\n-1\tab\n\n\\end\\\n")
    with pytest.raises(ProbeError, match=r"1-gram.arpa: the n-gram model cannot .*bigram"):
        BeamDecoder(Vocabulary(("a", "b")), ["ab"], one)
