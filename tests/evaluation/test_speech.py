"""Real recordings: the figures that an independent script got, and chance with shuffled labels."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from exhaustive import mostly_nightly
from runs import run
from scored import summary_rows

from probe.extraction.extract import extract
from probe.extraction.settings import Storing
from probe.records import frame_of


def headline(done, column: str = "value") -> dict[tuple[str, str], float]:  # type: ignore[no-untyped-def]
    """(metric, test domain) -> value, or a control's, of the headline head on test."""
    return {
        (row.metric, row.test_domain): getattr(row, column)
        for row in summary_rows(frame_of(done.records)).itertuples()
    }


@pytest.fixture(scope="module")
def features(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the mfcc of the recordings of a corpus; they are extracted where a test needs them."""
    folder = tmp_path_factory.mktemp("features")

    @functools.cache
    def extracted(corpus: str) -> Path:
        result = extract("mfcc", speech / f"{corpus}.csv", folder, storing=Storing(view="meanstd"))
        assert not result.failures
        return folder

    # The corpora of speakers, and those of digits, share their recordings.
    return lambda corpus: extracted(
        "speakers_shared" if corpus.startswith("speakers") else "digits_crossdomain"
    )


POOLED = [
    # task, corpus, metric, test domain, real from..to, shuffled from..to
    ("speaker-id", "speakers_shared", "accuracy", "", (0.85, 1.0), (0.0, 0.08)),
    ("gender-id", "speakers_disjoint", "accuracy", "", (0.85, 1.0), (0.25, 0.75)),
    ("word-id", "digits_shared", "accuracy", "", (0.95, 1.0), (0.03, 0.18)),
    ("speaker-verify", "speakers_disjoint", "eer", "", (0.0, 0.14), (0.40, 0.60)),
    ("domain-shift", "digits_crossdomain", "accuracy", "sc16k", (0.10, 0.60), (0.0, 0.25)),
]


@pytest.mark.parametrize(
    ("task", "corpus", "metric", "domain", "real", "chance"), mostly_nightly(POOLED, [POOLED[1]])
)
def test_mfcc_scores_as_an_independent_script_and_at_chance_when_shuffled(
    speech: Path,
    features: Callable[[str], Path],
    tmp_path: Path,
    task: str,
    corpus: str,
    metric: str,
    domain: str,
    real: tuple[float, float],
    chance: tuple[float, float],
) -> None:
    trials = (
        {"trials": speech / "trials_test.csv", "dev_trials": speech / "trials_dev.csv"}
        if task == "speaker-verify"
        else {}
    )
    done = run(task, "mfcc", speech / f"{corpus}.csv", features(corpus), tmp_path, **trials)
    for column, (low, high) in (("value", real), ("shuffled", chance)):
        assert low <= headline(done, column)[metric, domain] <= high


@pytest.fixture(scope="module")
def frames(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fbank frames of the connected digits."""
    folder = tmp_path_factory.mktemp("frames")
    extract("fbank", speech / "connected_shared.csv", folder)
    return folder


@pytest.mark.nightly
def test_linear_ctc_beats_its_shuffled_control_by_15_points(
    speech: Path, frames: Path, tmp_path: Path
) -> None:
    done = run("asr-ctc", "fbank", speech / "connected_shared.csv", frames, tmp_path)
    assert headline(done)["cer", ""] <= headline(done, "shuffled")["cer", ""] - 0.15


@pytest.mark.slow
def test_bilstm_ctc_reads_connected_digits_and_not_shuffled_ones(
    speech: Path, frames: Path, tmp_path: Path
) -> None:
    done = run("asr-ctc-bilstm", "fbank", speech / "connected_shared.csv", frames, tmp_path)
    assert headline(done)["wer", ""] <= 0.20
    assert headline(done, "shuffled")["wer", ""] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "facebook/wav2vec2-base",
        "facebook/wav2vec2-large-robust",
        "facebook/data2vec-audio-base",
        "facebook/data2vec-audio-large",
    ],
)
def test_full_size_architectures_extract_real_speech(
    speech: Path, tmp_path: Path, name: str
) -> None:
    result = extract(
        f"random:{name}", speech / "sentences_shared.csv", tmp_path, storing=Storing(limit=1)
    )
    assert result.extracted == 3
    assert not result.failures
