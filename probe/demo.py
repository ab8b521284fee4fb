"""The demo: what the layers of a small trained encoder hold, on synthetic speech, offline."""

import logging
import textwrap
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from probe.data.synthetic import DOMAINS, write_synthetic_corpus
from probe.evaluation.run import Training
from probe.evaluation.tasks import open_task
from probe.extraction.extract import extract
from probe.extraction.settings import Storing
from probe.files import require_writable
from probe.measures.comparison import paired_difference
from probe.measures.metrics import ACCURACY
from probe.model_names import RANDOM
from probe.models.sources.known import NANO
from probe.pipeline import Bench, run_tasks
from probe.records import COMBINED, read_records
from probe.reporting.report.page import write_report
from probe.reporting.scores import Scores, with_all_labels
from probe.reporting.tables.files import write_tables

log = logging.getLogger(__name__)

TWIN = RANDOM + NANO
BASELINES = ("fbank", "mfcc")
# Model -> the layers that are extracted; None means all that it has.
LAYERS: dict[str, str | None] = {NANO: "conv,0-6", TWIN: "conv,0-6", **dict.fromkeys(BASELINES)}
CLEAN, PHONE = DOMAINS
SOUNDS, SHIFT, VOICES = "sounds", "sounds-shift", "voices"
# The demo's questions; the files lie in its folder, as examples for questions of one's own.
TASKS = {
    SOUNDS: """\
kind = "frames"
description = "Which sound is it? A label every 20 ms, of speakers who are not in training."
labels = "sounds.csv"
l2 = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
weighted = false
""",
    SHIFT: """\
kind = "shift"
description = "Which sound is it? Trained on clean speech or over a telephone, tested on both."
of = "sounds.toml"
""",
    VOICES: """\
kind = "classify"
description = "Who is speaking? From mean and standard deviation over time of other words."
label = "speaker"
l2 = [1e-3, 1e-2, 1e-1, 1.0]
weighted = false
controls = ["majority"]
""",
}
TOPICS = {
    SHIFT: "which sound is it, clean or over a telephone (task sounds-shift)",
    VOICES: "who is speaking (task voices)",
}
TITLE = "layerprobe demo: what a small encoder's layers hold, on synthetic speech"
WIDTH = 80

# A question of the story: its task, and the domains of training and test where it names them.
Question = tuple[str, str, str]
SAID: Question = (SHIFT, CLEAN, CLEAN)
OVER_TELEPHONE: Question = (SHIFT, CLEAN, PHONE)
WHO: Question = (VOICES, "", "")


def demo(to: str | Path, seed: int = 0) -> Bench:
    """Ask what is said, who says it and whether it holds over a telephone, of the encoder that
    ships with layerprobe, its twin with random weights, filter banks and cepstra.

    Args:
        to: receives ``audio/`` with its manifests, ``tasks/``, ``features/``, ``results/``, the
            tables, the figures and ``report.html``.
        seed: of the corpus, the training and the bootstrap.
    """
    folder = Path(to)
    require_writable(folder)
    features, results, tasks = (folder / name for name in ("features", "results", "tasks"))
    log.info("Generating 960 utterances of 48 invented voices in %s", folder / "audio")
    corpus = write_synthetic_corpus(folder / "audio", seed)
    tasks.mkdir(exist_ok=True)
    for name, text in TASKS.items():
        (tasks / f"{name}.toml").write_text(text, encoding="utf-8")
    done = Bench()
    for model, layers in LAYERS.items():
        log.info("Extracting the features of %s", model)
        extraction = extract(model, corpus.words, features, storing=Storing(layers=layers))
        done.extractions.append(extraction)
        if extraction.failures:
            done.unusable[model] = sorted(failure.key for failure in extraction.failures)
    for name, manifest in ((SHIFT, corpus.words), (VOICES, corpus.voices)):
        log.info("Training a probe on every layer: %s", TOPICS[name])
        task = open_task(tasks / f"{name}.toml")
        training = Training(seed=seed)
        runs = run_tasks([*LAYERS], [task], manifest, features, results, training=training)
        done.refused += runs.refused
    scores = Scores.of(records := read_records(results))
    page = write_report(records, folder / "report.html", [results], title=TITLE)
    done.files = [*write_tables(scores, folder), page]
    return done


def story(scores: Scores) -> list[str]:
    """What the demo measured, in some ten lines for a terminal of 80 columns: the accuracies of
    every layer, and what paired tests say of the layers that dev chose.
    """
    answers = _Answers(scores)
    said, who = answers.chosen(SAID), answers.chosen(WHO)
    last = answers.layers[-1]
    heads = "".join(f"{name:>6}" for name in (*answers.layers, *BASELINES))
    fbank = ("fbank", "0", "fbank")
    sentences = [
        f"What is said: layer {said}, chosen on dev, is {answers.beside(SAID, said, *fbank)}.",
        f"It is {answers.beside(SAID, said, TWIN, said, 'random weights')}.",
        f"Over a telephone it is {answers.beside(OVER_TELEPHONE, said, *fbank)}.",
        f"Who says it: layer {who}, chosen on dev, is {answers.beside(WHO, who, *fbank)}.",
    ]
    if who != last:
        fall = answers.beside(WHO, last, NANO, who, f"layer {who}")
        sentences.append(f"Layer {last} is {fall}.")
    return [
        f"{'% correct, by layer':<20}{heads}",
        answers.line("What is said", SAID, NANO),
        answers.line("  over a telephone", OVER_TELEPHONE, NANO),
        answers.line("  random weights", SAID, TWIN),
        answers.line("Who says it", WHO, NANO),
        answers.line("  random weights", WHO, TWIN),
        *(line for text in sentences for line in textwrap.wrap(text, WIDTH)),
    ]


class _Answers:
    """The demo's test accuracies, by question, model and layer."""

    def __init__(self, scores: Scores) -> None:
        rows = with_all_labels(scores.tested).sort_values("layer_index")
        rows = rows[(rows["metric"] == ACCURACY.name) & ~rows["layer"].isin(COMBINED)]
        keys = ["task", "train_domain", "test_domain", "model", "layer"]
        self._rows = {tuple(row[key] for key in keys): row for row in rows.to_dict("records")}
        self.layers = list(dict.fromkeys(key[-1] for key in self._rows if key[-2] == NANO))

    def row(self, question: Question, model: str, layer: str) -> Mapping[Hashable, Any]:
        """The score of a layer."""
        return self._rows[(*question, model, layer)]

    def chosen(self, question: Question) -> str:
        """The layer of the trained encoder that dev chose."""
        return str(self.row(question, NANO, self.layers[0])["chosen_layer"])

    def line(self, name: str, question: Question, model: str) -> str:
        """The accuracies of a model's layers; beside the trained encoder's those of the
        baselines, which have one layer.
        """
        cells = [(model, layer) for layer in self.layers]
        cells += [(baseline, "0") for baseline in BASELINES] if model == NANO else []
        values = [100 * self.row(question, *cell)["value"] for cell in cells]
        return f"{name:<20}" + "".join(f"{value:6.1f}" for value in values)

    def beside(self, question: Question, layer: str, model: str, other: str, name: str) -> str:
        """How a layer of the trained encoder stands to the layer ``other`` of a model, which is
        called ``name``, by the paired test.
        """
        own, others = self.row(question, NANO, layer), self.row(question, model, other)
        pair = paired_difference(own["counts"], others["counts"], ACCURACY.name)
        assert pair.low is not None and pair.high is not None
        if pair.low <= 0 <= pair.high:
            ends = f"[{100 * pair.low:.1f}, {100 * pair.high:.1f}]"
            return f"not clearly apart from {name} ({100 * pair.difference:+.1f} points {ends})"
        low, high = sorted((abs(100 * pair.low), abs(100 * pair.high)))
        side = "above" if pair.difference > 0 else "below"
        return f"{abs(100 * pair.difference):.1f} points [{low:.1f}, {high:.1f}] {side} {name}"
