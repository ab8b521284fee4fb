"""The demo: what the layers of a small trained encoder hold, on synthetic speech, offline."""

from pathlib import Path

import pandas as pd

from probe.data.synthetic import write_synthetic_corpus
from probe.evaluation.run import Training
from probe.files import require_writable
from probe.model_names import RANDOM
from probe.models.sources.known import NANO
from probe.pipeline import Bench, bench
from probe.records import read_records
from probe.reporting.report.page import write_report
from probe.reporting.scores import Scores

TWIN = RANDOM + NANO
MODELS = (NANO, TWIN, "fbank", "mfcc")
SOUNDS, WORDS, VOICES, TELEPHONE = "sounds", "words", "voices", "telephone"
# The demo's questions; the files lie in its folder, as examples for questions of one's own.
TASKS = {
    SOUNDS: """\
kind = "frames"
description = "Which sound is it? A label every 20 ms, of speakers who are not in training."
labels = "sounds.csv"
""",
    WORDS: """\
kind = "classify"
description = "Which word is spoken? From mean and standard deviation over time."
label = "text"
""",
    TELEPHONE: """\
kind = "shift"
description = "Do words that are learned in one domain hold in the other?"
of = "words.toml"
""",
    VOICES: """\
kind = "classify"
description = "Who is speaking? From mean and standard deviation over time of other words."
label = "speaker"
""",
}
TITLE = "layerprobe demo: what a small encoder's layers hold, on synthetic speech"


def demo(to: str | Path, seed: int = 0) -> Bench:
    """Ask what is said, who says it and whether it holds over a telephone, of the encoder that
    ships with layerprobe, its twin with random weights, filter banks and cepstra.

    Args:
        to: receives ``audio/`` with its manifests, ``tasks/``, ``features/``, ``results/``, the
            tables, the figures and ``report.html``.
    """
    folder = Path(to)
    require_writable(folder)
    corpus = write_synthetic_corpus(folder / "audio", seed)
    files = {name: folder / "tasks" / f"{name}.toml" for name in TASKS}
    for name, file in files.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(TASKS[name], encoding="utf-8")
    training = Training(seed=seed)
    said = bench(
        MODELS,
        [files[SOUNDS], files[WORDS], files[TELEPHONE]],
        corpus.words,
        folder,
        training=training,
    )
    finished = bench(MODELS, [files[VOICES]], corpus.voices, folder, training=training)
    finished.extractions = said.extractions + finished.extractions
    finished.refused = said.refused + finished.refused
    results = folder / "results"
    page = write_report(read_records(results), folder / "report.html", [results], title=TITLE)
    finished.files.append(page)
    return finished


def story(records: pd.DataFrame) -> list[str]:
    """What the demo found, in lines for a terminal of 80 columns."""
    scores = Scores.of(records)
    rows = scores.layers(marked=False)
    rows = rows[(rows["metric"] == "accuracy") & rows["headline"] & (rows["layer_index"] >= 0)]
    rows = rows[rows["layer"].str.isdigit()]
    within = rows[rows["train_domain"] == ""]
    layers = sorted(within.loc[within["model"] == NANO, "layer_index"].unique())
    n_speakers = int(within.loc[within["task"] == SOUNDS, "n_blocks"].iloc[0])

    def line(name: str, task: str, model: str) -> str:
        of_task = within[within["task"] == task].set_index(["model", "layer_index"])["value"]
        cells = [f"{100 * of_task[model, layer]:6.1f}" for layer in layers]
        baselines = (
            [f"{100 * of_task[other, 0]:7.1f}" for other in ("fbank", "mfcc")]
            if model == NANO
            else []
        )
        return f"{name:<23}{''.join(cells)}{''.join(baselines)}"

    def chosen(task: str) -> pd.Series:
        return within[(within["task"] == task) & (within["model"] == NANO) & within["chosen"]].iloc[
            0
        ]

    sounds, voices = chosen(SOUNDS), chosen(VOICES)
    moved = scores.domains().set_index(["model", "train_domain", "test_domain"])["value"]
    phone = {model: 100 * moved[model, "clean", "telephone"] for model in (NANO, "fbank", "mfcc")}
    heads = "".join(f"{layer:6d}" for layer in layers)
    return [
        f"{'Accuracy in %, by layer':<23}{heads}  fbank   mfcc",
        line("what is said (sounds)", SOUNDS, NANO),
        line("  with random weights", SOUNDS, TWIN),
        line("who says it (voices)", VOICES, NANO),
        line("  with random weights", VOICES, TWIN),
        "",
        f"Sounds of {n_speakers} speakers it has never heard: {NANO.rpartition('/')[2]} is best in "
        f"layer {sounds['layer']},",
        f"{percent(sounds)}; voices are best in layer {voices['layer']}, {percent(voices)}.",
        f"Words learned on clean speech, heard over a telephone: {phone[NANO]:.0f} % right,",
        f"from filter banks {phone['fbank']:.0f} %, from cepstra {phone['mfcc']:.0f} %.",
    ]


def percent(row: pd.Series) -> str:
    """A score with its interval."""
    return f"{100 * row['value']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
