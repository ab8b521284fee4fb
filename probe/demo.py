"""The demo: a whole bench on synthetic speech, without a network."""

from pathlib import Path

from probe.data.synthetic import write_synthetic_corpus
from probe.evaluation.run import Training
from probe.evaluation.trial_lists import Scope
from probe.files import require_writable
from probe.pipeline import Bench, bench

MODELS = ("fbank", "mfcc", "random:data2vec-audio-tiny")
TASKS = ("speaker-id", "word-id", "asr-ctc", "domain-shift")


def demo(to: str | Path, seed: int = 0) -> Bench:
    """Run five tasks on filter banks, cepstra and a small random data2vec.

    Args:
        to: receives ``audio/`` with its manifests, ``features/``, ``results/``, the tables and the
            figures.
    """
    folder = Path(to)
    require_writable(folder)
    synthetic = write_synthetic_corpus(folder / "audio", seed)
    training = Training(seed=seed)
    verification = bench(
        MODELS,
        ["speaker-verify"],
        synthetic.verification,
        folder,
        scope=Scope(trials=synthetic.trials, dev_trials=synthetic.dev_trials),
        training=training,
    )
    finished = bench(MODELS, TASKS, synthetic.corpus, folder, training=training)
    finished.extractions = verification.extractions + finished.extractions
    finished.refused = verification.refused + finished.refused
    return finished
