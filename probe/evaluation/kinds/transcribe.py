"""Kind ``transcribe``: characters, letters or phones from frames by a CTC head on every layer, and
on a learned sum of all layers.

Frames that come faster than every ``frame_ms`` are joined, so that a head sees 10 ms features at
the rate of 20 ms models.

Heads are trained for several layers together (`probe.heads.ctc.all_layers`). The weighted sum
(layer `WEIGHTED`, SUPERB's way) is trained on its own, after the single layers and without
influence on them: softmax weights over all layers of one width, each standardised as when it stands
alone, trained with the head.

Metrics: WER and CER, sums of errors over sums of reference words or characters (lower is better),
on the transcripts as the manifest has them or as the units have them; PER the same over phones.
Learning rate, epoch, decoder and layer are chosen by dev CER or PER. tasks/README.md says how this
differs from SUPERB.

Control ``shuffled`` is trained at the layer that dev chose, on shuffled training and dev
transcripts; budgets (`probe.evaluation.label_budgets`) train every layer on some of the utterances.

Where the features were extracted with the checkpoint's own CTC head, its greedy transcripts are
scored too (head ``own-ctc``, layer ``ctc``), on transcripts case-folded on both sides: fine-tuned
checkpoints write capitals. That is a reference, not a probe.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from probe.data import transcript_checks
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import (
    Features,
    LayerSum,
    Problem,
    Score,
    block_of,
    labelled,
    layer_sum,
    refuse_empty,
    shuffled,
)
from probe.evaluation.kind import AtLeastOne, Count, Kind, Main, ProjectedSettings, Rate, Several
from probe.evaluation.label_budgets import UtteranceBudget
from probe.evaluation.questions import budgets
from probe.evaluation.tasks import Task
from probe.evaluation.transcript_decoding import Decoding, check_decoding
from probe.evaluation.transcripts import Part, Transcripts
from probe.evaluation.unfinished import finished, keep, part_of
from probe.heads.ctc.all_layers import fit_groups
from probe.heads.ctc.ctc_probe import CTCProbe
from probe.heads.ctc.modules import LEARNING_RATES, MOST_CONTEXT, MOST_HIDDEN
from probe.heads.ctc.vocabulary import Vocabulary, frames_needed
from probe.measures.counts import ratio_counts
from probe.measures.transcription import case_folded, character_errors, word_errors
from probe.models.encoder import CTC
from probe.records import OWN_HEAD, WEIGHTED

log = logging.getLogger("probe")

LEAST_UTTERANCES = 5
TOO_SHORT = "fewer frames than labels need"
Metrics = dict[str, Callable[[str, str], tuple[int, int]]]
TEXT_METRICS: Metrics = {"wer": word_errors, "cer": character_errors}
PHONE_METRICS: Metrics = {"per": word_errors}  # phones stand in a text as words do


class Settings(ProjectedSettings):
    """See tasks/README.md. No learning rates: the head's own."""

    head: Literal["linear", "mlp", "bilstm"] = "linear"
    learning_rates: Several[Rate] = Field((), validate_default=True)
    frame_ms: float = Field(20.0, ge=1, le=1000)
    context: int = Field(0, ge=0, le=MOST_CONTEXT)
    epochs: Count = 80
    patience: Count = 40
    batch_size: Count = 16
    hidden: int = Field(128, ge=1, le=MOST_HIDDEN)
    layers: int = Field(1, ge=1, le=2)
    dropout: float = Field(0.1, ge=0, le=0.9)
    hidden_sizes: AtLeastOne[Annotated[int, Field(ge=1, le=1 << 14)]] = (256,)
    activation: Literal["relu", "none"] = "relu"
    spec_augment: bool = False
    weighted: bool = True
    units: Literal["characters", "letters", "phones"] = "characters"
    lexicon: str = ""
    unknown: Literal["refuse", "symbol", "leave-out"] = "refuse"
    decoding: Literal["greedy", "beam"] = "greedy"
    words: str = ""
    lm: str = ""
    beam: int = Field(50, ge=1, le=10**5)
    lm_weight: AtLeastOne[Annotated[float, Field(ge=0, le=100)]] = (1.0, 2.0, 4.0)
    word_score: AtLeastOne[Annotated[float, Field(ge=-100, le=100)]] = (-1.0, 0.0, 1.0)
    controls: Several[Literal["shuffled"]] = ("shuffled",)
    budgets: Several[UtteranceBudget] = ()

    FILES = ("lexicon", "words", "lm")

    @field_validator("learning_rates")
    @classmethod
    def _own_of_head(cls, rates: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        return rates or LEARNING_RATES.get(info.data.get("head", ""), ())

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        """Refuses settings that need or exclude each other."""
        phones, beam = self.units == "phones", self.decoding == "beam"
        if phones != bool(self.lexicon):
            raise ValueError(
                f"a lexicon file with units = 'phones' and with nothing else; units = "
                f"{self.units!r}, lexicon = {self.lexicon!r}"
            )
        if phones and beam:
            raise ValueError(
                "units = 'characters' or 'letters' with decoding = 'beam', which writes words "
                "letter by letter"
            )
        if beam != bool(self.words or self.lm):
            raise ValueError(
                f"decoding = 'beam' with words or lm, or 'greedy' with neither; decoding = "
                f"{self.decoding!r}, words = {self.words!r}, lm = {self.lm!r}"
            )
        return self

    @property
    def view(self) -> str:
        """Always whole frames."""
        return "frames"

    @property
    def main(self) -> Main:
        """How the main scores are named."""
        if self.units == "phones":
            return Main(f"ctc-{self.head}", "per", "per", higher_is_better=False)
        return Main(f"ctc-{self.head}", "wer", "cer", higher_is_better=False)


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Error rates of every layer on dev and on each test set.

    Raises:
        ProbeError: no rows with text in a split, training text that never fits its audio, or words
            that a lexicon lacks.
    """
    material = _material(task, problem)
    transcripts, excluded = material.transcripts, material.excluded
    train, dev, *tests = material.parts
    vocabulary = Vocabulary.of(train.texts, transcripts.separator)
    for part in (dev, *tests):
        transcripts.check_coverage(vocabulary, part)
    if features.ctc and problem.strict and not transcripts.separator:
        yield from _own_head(features, [dev, *tests], excluded)
    own = Question(train, dev, tests, features.layers, task.settings.weighted)
    of_budgets = list(_budgets(task, problem, features, own))
    control = _control(problem, own) if "shuffled" in task.settings.controls else None
    for question in (own, *([control] if control else []), *of_budgets):
        problem.progress.add(_n_steps(task, question))
    dev_scores: dict[str, float] = {}
    for score in _answers(task, problem, features, transcripts, own, excluded):
        if score.split == "dev" and score.metric == score.select_by and score.layer != WEIGHTED:
            dev_scores[score.layer] = score.value or 0.0
        yield score
    if control:
        best = min(features.layers, key=lambda layer: dev_scores[layer])
        yield from _answers(
            task, problem, features, transcripts, replace(control, layers=[best]), excluded
        )
    for question in of_budgets:
        yield from _answers(task, problem, features, transcripts, question, excluded)


def check(task: Task[Settings], problem: Problem) -> None:
    """Refuses what `run` would refuse, without features; a beam search also without what it needs.

    Raises:
        ProbeError: see `run` and `probe.evaluation.transcript_decoding.check_decoding`.
    """
    material = _material(task, problem)
    check_decoding(task, Vocabulary.of(material.parts[0].texts, material.transcripts.separator))


@dataclass(frozen=True)
class Material:
    """The texts of a task: those of training, of dev, and of each test set; what was left out is
    counted.
    """

    transcripts: Transcripts
    parts: Sequence[Part]
    excluded: Counter[str]


def _material(task: Task[Settings], problem: Problem) -> Material:
    """What is trained on and scored.

    Raises:
        ProbeError: see `run`.
    """
    excluded: Counter[str] = Counter()
    transcripts = Transcripts(task)
    train, dev, *tests = (
        transcripts.of(split, name, labelled(rows, "text", tally), tally)
        for split, name, rows, tally in [
            ("train", "", problem.train, excluded),
            ("dev", "", problem.dev, excluded),
            *(
                ("test", name, problem.tests[name], tally)
                for name, tally in problem.tallies(excluded).items()
            ),
        ]
    )
    splits = {"train": (problem.train, train.rows), "dev": (problem.dev, dev.rows)}
    if problem.strict:
        tested = [
            [item for rows in some for item in rows]
            for some in (problem.tests.values(), (part.rows for part in tests))
        ]
        splits["test"] = (tested[0], tested[1])
    refuse_empty(task.name, "text", splits)
    if len(train.rows) < LEAST_UTTERANCES:
        raise ProbeError(
            f"{task.name}: {len(train.rows)} of {len(problem.train)} train rows have text; a CTC head needs {LEAST_UTTERANCES} or "
            "more, for from fewer it learns these sentences by heart. Give more rows split train and text."
        )
    return Material(transcripts, [train, dev, *tests], excluded)


@dataclass(frozen=True)
class Question:
    """What heads are trained on and scored on, at which layers, and whether on their sum too."""

    train: Part
    dev: Part
    tests: Sequence[Part]
    layers: Sequence[str]
    weighted: bool
    control: str = ""
    budget: str = ""


def _control(problem: Problem, own: Question) -> Question:
    """The control, of one layer: the one that dev chooses takes the place of the first."""
    train, dev = (
        replace(part, texts=shuffled(part.texts, problem.seed)) for part in (own.train, own.dev)
    )
    return replace(
        own, train=train, dev=dev, layers=own.layers[:1], weighted=False, control="shuffled"
    )


def _budgets(
    task: Task[Settings], problem: Problem, features: Features, own: Question
) -> Iterator[Question]:
    """The budgets, at every layer."""
    whole = own.train
    for budget, paid in budgets(
        *(task, problem, features, whole.rows, whole.texts),
        lacks=lambda positions: "" if positions else "no utterance",
    ):
        rows, texts = [whole.rows[i] for i in paid], [whole.texts[i] for i in paid]
        train = replace(whole, rows=rows, texts=texts)
        yield replace(own, train=train, weighted=False, budget=budget)


def _of_layer(task: Task[Settings], question: Question) -> int:
    """Steps of one layer: every epoch of every learning rate counts as many as there are training
    utterances.
    """
    return len(task.settings.learning_rates) * task.settings.epochs * len(question.train.rows)


def _n_steps(task: Task[Settings], question: Question) -> int:
    """Steps of all layers, and of their sum."""
    return _of_layer(task, question) * (len(question.layers) + int(question.weighted))


def _answers(
    task: Task[Settings],
    problem: Problem,
    features: Features,
    transcripts: Transcripts,
    question: Question,
    excluded: Counter[str],
) -> Iterator[Score]:
    """Scores of every layer on one question; layers that are trained together are kept together."""
    decoding = Decoding(task, Vocabulary.of(question.train.texts, transcripts.separator))

    summed = _summed(task, problem, features, question)

    def scores(fitted: Iterable[tuple[str, CTCProbe]]) -> Iterator[Score]:
        return _scores(task, features, transcripts, question, excluded, decoding, fitted, summed)

    def name(layer: str) -> str:
        return f"from layer {layer} on: {question.control} {question.budget}"

    of_layer, left = _of_layer(task, question), list(question.layers)
    while left and (kept := finished(problem, name(left[0]), 0)) is not None:
        layers = {score.layer for score in kept}
        problem.progress.add(-of_layer * len(layers))
        left = [layer for layer in left if layer not in layers]
        yield from kept
    start, mark = time.monotonic(), problem.progress.mark
    for group in _fitted(task, problem, features, replace(question, layers=left)) if left else ():
        problem.progress.settle(mark, of_layer * len(group))
        found = list(scores(group))
        keep(problem, name(group[0][0]), found, time.monotonic() - start)
        yield from found
        start, mark = time.monotonic(), problem.progress.mark
    if question.weighted:
        yield from part_of(
            problem,
            name(WEIGHTED),
            of_layer,
            lambda: scores(_mixed(task, problem, features, question, summed)),
        )


def _scores(
    task: Task[Settings],
    features: Features,
    transcripts: Transcripts,
    question: Question,
    excluded: Counter[str],
    decoding: Decoding,
    fitted: Iterable[tuple[str, CTCProbe]],
    summed: LayerSum | None,
) -> Iterator[Score]:
    """Scores of fitted heads on one question."""
    train, dev, tests = question.train, question.dev, question.tests
    for layer, probe in fitted:
        of_sum = summed if layer == WEIGHTED else None
        names = of_sum.layers if of_sum else [layer]
        dev_frames = _read(features, names, dev)
        reading = decoding.of(probe, dev_frames, dev.texts)
        common: dict[str, Any] = {
            "layer": layer,
            "head": task.settings.main.head,
            "select_by": task.settings.main.select_by,
            "higher_is_better": False,
            "control": question.control,
            "budget": question.budget,
            "n_train": len(train.rows) - len(probe.too_short_),
            "search": reading.search,
            "chosen": {**reading.chosen, **transcripts.symbols},
            "layer_weights": dict(zip(names, probe.shares_, strict=True)) if of_sum else {},
            "excluded": {**excluded, TOO_SHORT: len(probe.too_short_)}
            if probe.too_short_
            else dict(excluded),
        }
        about = [of_sum.note] if of_sum else []
        for part, frames in _with_frames(features, names, dev, dev_frames, tests):
            note = "; ".join(filter(None, [*about, _warn_of_short(layer, probe, part, frames)]))
            yield from _counted(common, part, reading.transcribe(frames) if part.rows else [], note)


def _with_frames(
    features: Features,
    layers: Sequence[str],
    dev: Part,
    dev_frames: list[np.ndarray],
    tests: Sequence[Part],
) -> Iterator[tuple[Part, list[np.ndarray]]]:
    """Dev and the test sets with their frames, which are read when their turn comes."""
    yield dev, dev_frames
    for part in tests:
        yield part, _read(features, layers, part)


def _fitted(
    task: Task[Settings], problem: Problem, features: Features, question: Question
) -> Iterator[list[tuple[str, CTCProbe]]]:
    """(layer, its probe) of the layers that are trained together, in the layers' order."""
    train, dev = question.train, question.dev

    def layers() -> Iterator[tuple[str, list[np.ndarray], list[np.ndarray]]]:
        for layer in question.layers:
            problem.progress.note(f"layers up to {layer}")
            yield layer, _read(features, [layer], train), _read(features, [layer], dev)

    def after_epoch(n_heads: int, n_spared: int) -> None:
        problem.progress.add(-n_spared * len(train.rows))
        problem.progress.step(n_heads * len(train.rows))

    yield from fit_groups(
        lambda: _probe(task, problem, features.hop_s),
        layers(),
        train.texts,
        dev.texts,
        after_epoch,
        problem.memory_bytes,
    )


def _mixed(
    task: Task[Settings],
    problem: Problem,
    features: Features,
    question: Question,
    summed: LayerSum | None,
) -> Iterator[tuple[str, CTCProbe]]:
    """The probe of the learned sum of layers, where there is one."""
    if summed is None:
        return
    train, dev = question.train, question.dev
    problem.progress.note("weighted sum of layers")
    frames, dev_frames = (_read(features, summed.layers, part) for part in (train, dev))
    probe = _probe(task, problem, features.hop_s, n_mixed=len(summed.layers))
    yield (
        WEIGHTED,
        probe.fit(
            frames,
            train.texts,
            dev_frames,
            dev.texts,
            lambda: problem.progress.step(len(train.rows)),
        ),
    )


def _summed(
    task: Task[Settings], problem: Problem, features: Features, question: Question
) -> LayerSum | None:
    """The layers whose sum is trained, if any."""
    if not question.weighted:
        return None
    widths = {
        layer: features.fitting.width or features.store.layers[layer] for layer in features.layers
    }
    parts = (question.train, question.dev, *question.tests)
    train, dev, *tests = (sum(features.of(item).n_rows for item in part.rows) for part in parts)
    return layer_sum(task.name, features, widths, max(train + dev, *tests, 0), problem.memory_bytes)


def _read(features: Features, layers: Sequence[str], part: Part) -> list[np.ndarray]:
    """(frame, layer * dim) of each utterance: the layers side by side, as a sum of several takes
    them.
    """
    if len(layers) == 1:
        return list(features.read(layers[0], part.rows))
    of_layers = [features.read(name, part.rows) for name in layers]
    return [np.concatenate(frames, axis=1) for frames in zip(*of_layers, strict=True)]


def _probe(task: Task[Settings], problem: Problem, hop_s: float, n_mixed: int = 1) -> CTCProbe:
    settings = task.settings
    same = (
        "head",
        "learning_rates",
        "epochs",
        "patience",
        "batch_size",
        "hidden",
        "dropout",
        "hidden_sizes",
        "activation",
    )
    return CTCProbe(
        **{key: getattr(settings, key) for key in (*same, "context", "spec_augment", "units")},
        join=max(1, round(settings.frame_ms / 1000 / hop_s)),
        n_layers=settings.layers,
        n_mixed=n_mixed,
        seed=problem.seed,
        device=problem.device,
    )


def _own_head(features: Features, parts: Sequence[Part], excluded: Counter[str]) -> Iterator[Score]:
    """The greedy transcripts that the checkpoint's own CTC head gave at extraction: a reference,
    nothing is trained here.
    """
    alphabet = set(features.ctc["alphabet"].casefold())
    common = {
        "layer": CTC,
        "head": OWN_HEAD,
        "select_by": "cer",
        "higher_is_better": False,
        "chosen": {"decoding": "greedy", "normaliser": "case-folded"},
        "excluded": dict(excluded),
    }
    for part in parts:
        if not part.rows:
            continue
        references = [case_folded(item.text) for item in part.rows]
        unknown = Counter(
            character for text in references for character in text if character not in alphabet
        )
        note = "its own head, greedy, both sides case-folded"
        if unknown:
            note += f"; {sum(unknown.values())} characters that it cannot write: {listed([repr(item) for item in sorted(unknown)])}"
        texts = [case_folded(features.of(item).ctc_text or "") for item in part.rows]
        yield from _counted(
            common, Part(part.split, part.domain, part.rows, references, [note]), texts
        )


def _warn_of_short(layer: str, probe: CTCProbe, part: Part, frames: list[np.ndarray]) -> str:
    """A note on utterances that no head can get right: fewer frames than labels."""
    short = [
        item.key
        for item, text, rows in zip(part.rows, part.texts, frames, strict=True)
        if frames_needed(probe.vocabulary_.encode(text)) > -(-len(rows) // probe.join)
    ]
    if not short:
        return ""
    n = len(short)
    log.warning(
        "layer %s: %s: %d utterances with fewer frames than labels need: %s",
        layer,
        part.split,
        n,
        listed(short),
    )
    return f"{n} utterances with fewer frames than labels"


def _counted(
    common: dict[str, Any], part: Part, texts: Sequence[str], note: str = ""
) -> Iterator[Score]:
    """Error rates of transcripts; scores without value where there are no utterances."""
    metrics = PHONE_METRICS if common["select_by"] == "per" else TEXT_METRICS
    common = {**common, "split": part.split, "test_domain": part.domain, "n": len(part.rows)}
    if not part.rows:
        yield from (
            Score(**common, metric=metric, counts=None, note="no rows with text")
            for metric in metrics
        )
        return
    blocks = [block_of(item) for item in part.rows]
    outcomes = [
        {"key": item.key, "reference": reference, "hypothesis": text}
        for item, reference, text in zip(part.rows, part.texts, texts, strict=True)
    ]
    notes = "; ".join(filter(None, [*part.notes, note]))
    for metric, count in metrics.items():
        errors, units = zip(
            *(count(reference, text) for reference, text in zip(part.texts, texts, strict=True)),
            strict=True,
        )
        yield Score(
            **common,
            metric=metric,
            counts=ratio_counts(blocks, errors, units),
            note=notes,
            outcomes=outcomes,
        )


KIND = Kind(
    "transcribe",
    Settings,
    run,
    check,
    lambda settings: settings.main,
    metrics=(*TEXT_METRICS, *PHONE_METRICS),
    by_domain=True,
    warnings=transcript_checks.warnings,
)
