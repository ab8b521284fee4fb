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
Learning rate, epoch, decoder and layer are chosen by dev CER or PER. docs/transcription.md says how
this differs from SUPERB.

Control ``shuffled`` is trained at the layer that dev chose, on shuffled training and dev
transcripts; budgets (`probe.data.label_budgets`) train every layer on some of the utterances. With
``weighted = "only"`` the sum is all that is trained, on the layers that SUPERB sums.

Where the features were extracted with the checkpoint's own CTC head, that head is scored too
(`probe.evaluation.kinds.own_head`). That is a reference, not a probe. With ``head = "own"`` nothing
else is scored, and no training rows are needed.
"""

import functools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from probe.data import transcript_checks
from probe.data.label_budgets import UtteranceBudget
from probe.data.text_normalisers import NONE, NORMALISERS
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import (
    Features,
    Problem,
    Score,
    labelled,
    layer_sum,
    refuse_empty,
    shuffled,
    summed_layers,
    whole_sum,
)
from probe.evaluation.kind import (
    SEEDS,
    AtLeastOne,
    Count,
    Kind,
    Main,
    ProjectedSettings,
    Rate,
    Several,
)
from probe.evaluation.kinds.error_rates import PHONE_METRICS, TEXT_METRICS, error_rates
from probe.evaluation.kinds.own_head import own_head_rates
from probe.evaluation.kinds.transcript_decoding import Decoding, check_decoding
from probe.evaluation.kinds.transcripts import Part, Transcripts
from probe.evaluation.questions import Answers, budgets
from probe.evaluation.tasks import Task
from probe.heads.ctc.all_layers import fit_groups
from probe.heads.ctc.ctc_probe import CTCProbe, CTCTraining
from probe.heads.ctc.modules import LEARNING_RATES, MOST_CONTEXT, MOST_HIDDEN, HeadSettings
from probe.heads.ctc.vocabulary import Vocabulary, frames_needed
from probe.measures.metrics import CER, PER, WER
from probe.records import OWN_HEAD, WEIGHTED

log = logging.getLogger("probe")

LEAST_UTTERANCES = 5
OWN = "own"  # no head is trained
HEAD_FIELDS = ("head", "hidden", "dropout", "hidden_sizes", "activation", "context")
TRAINING_FIELDS = ("learning_rates", "epochs", "patience", "batch_size", "spec_augment")
TOO_SHORT = "fewer frames than labels need"


class Settings(ProjectedSettings):
    """See docs/task-keys.md. No learning rates: the head's own."""

    head: Literal["linear", "mlp", "bilstm", "own"] = "linear"
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
    weighted: bool | Literal["only"] = True
    units: Literal["characters", "letters", "phones"] = "characters"
    normalize: Literal["none", "lower", "letters", "superb", "english"] = "none"
    lexicon: str = Field("", validate_default=True)
    unknown: Literal["refuse", "symbol", "leave-out"] = "refuse"
    decoding: Literal["greedy", "beam"] = "greedy"
    words: str = ""
    lm: str = Field("", validate_default=True)
    beam: int = Field(50, ge=1, le=10**5)
    lm_weight: AtLeastOne[Annotated[float, Field(ge=0, le=100)]] = (1.0, 2.0, 4.0)
    word_score: AtLeastOne[Annotated[float, Field(ge=-100, le=100)]] = (-1.0, 0.0, 1.0)
    controls: Several[Literal["shuffled"]] = Field(("shuffled",), validate_default=True)
    budgets: Several[UtteranceBudget] = ()

    UNHASHED: ClassVar = {**ProjectedSettings.UNHASHED, "normalize": NONE.name}
    FILES = ("lexicon", "words", "lm")

    @field_validator("controls", "budgets")
    @classmethod
    def _of_layers(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if names and info.data.get("weighted") == "only":
            raise ValueError("[] with weighted = 'only': they are of single layers")
        return names

    @field_validator("learning_rates")
    @classmethod
    def _own_of_head(cls, rates: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        return rates or LEARNING_RATES.get(info.data.get("head", ""), ())

    @field_validator("normalize")
    @classmethod
    def _once(cls, name: str, info: ValidationInfo) -> str:
        if name != NONE.name and info.data.get("units") == "letters":
            raise ValueError(
                "'none' with units = 'letters', which normalise already; use units = 'characters'"
            )
        return name

    @field_validator("lexicon")
    @classmethod
    def _of_phones(cls, name: str, info: ValidationInfo) -> str:
        units = info.data.get("units", "")
        if units == "phones" and not name:
            raise ValueError("a file with units = 'phones'")
        if units != "phones" and name:
            raise ValueError(f"no file with units = {units!r}; only phones need a lexicon")
        return name

    @field_validator("decoding")
    @classmethod
    def _of_letters(cls, decoding: str, info: ValidationInfo) -> str:
        if decoding == "beam" and info.data.get("units") == "phones":
            raise ValueError(
                "'greedy' with units = 'phones': a beam search writes words letter by letter"
            )
        return decoding

    @field_validator("words", "lm")
    @classmethod
    def _of_beam(cls, name: str, info: ValidationInfo) -> str:
        decoding = info.data.get("decoding", "")
        if decoding == "greedy" and name:
            raise ValueError("no file with decoding = 'greedy'; only 'beam' reads it")
        given = name or info.data.get("words", "")
        if decoding == "beam" and info.field_name == "lm" and not given:
            raise ValueError("a file, here or in words, with decoding = 'beam'")
        return name

    def hashed(self) -> dict[str, Any]:
        """See `probe.evaluation.kind.Settings`; a normaliser counts with its version."""
        values = super().hashed()
        label = NORMALISERS[self.normalize].label
        return values | ({"normalize": label} if "normalize" in values else {})

    @property
    def view(self) -> str:
        """Always whole frames."""
        return "frames"

    @property
    def usual_seeds(self) -> int:
        """See `probe.evaluation.kind.Settings`."""
        return SEEDS

    @property
    def main(self) -> Main:
        """How the main scores are named."""
        if self.head == OWN:
            return Main(OWN_HEAD, WER.name, CER.name, higher_is_better=False)
        if self.units == "phones":
            return Main(f"ctc-{self.head}", PER.name, PER.name, higher_is_better=False)
        return Main(f"ctc-{self.head}", WER.name, CER.name, higher_is_better=False)


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Error rates of every layer on dev and on each test set.

    Raises:
        ProbeError: no rows with text in a split, training text that never fits its audio, or words
            that a lexicon lacks.
    """
    material = _material(task, problem)
    transcripts, excluded = material.transcripts, material.excluded
    train, dev, tests = material.train, material.dev, material.tests
    if task.settings.head == OWN:
        if not features.ctc:
            raise ProbeError(
                f"{task.name}: {features.store.path} has no transcripts of a CTC head. Extract a "
                "fine-tuned checkpoint with --ctc."
            )
        yield from own_head_rates(task, features, [dev, *tests], transcripts, excluded)
        return
    vocabulary = Vocabulary.of(train.texts, transcripts.separator)
    for part in (dev, *tests):
        transcripts.check_coverage(vocabulary, part)
        transcripts.check_conventions(train, part)
    if features.ctc and problem.strict and not transcripts.separator:
        yield from own_head_rates(task, features, [dev, *tests], transcripts, excluded)
    own = Heads(task, problem, features, material, train, dev)
    layers = [] if task.settings.weighted == "only" else features.layers
    main = _answers(own, weighted=bool(task.settings.weighted))
    controls = [_answers(own.shuffled())] if "shuffled" in task.settings.controls else []
    with_budgets = [_answers(heads) for heads in own.with_budgets()]
    for answers, n_layers in (
        (main, len(layers)),
        *((item, 1) for item in controls),
        *((item, len(layers)) for item in with_budgets),
    ):
        answers.announce(problem, n_layers)
    dev_scores: dict[str, float] = {}
    for score in main.of_layers(problem, layers):
        if score.split == "dev" and score.metric == score.select_by and score.layer != WEIGHTED:
            dev_scores[score.layer] = score.value or 0.0
        yield score
    for answers in controls:
        yield from answers.of_layers(problem, [min(layers, key=lambda layer: dev_scores[layer])])
    for answers in with_budgets:
        yield from answers.of_layers(problem, layers)


def check(task: Task[Settings], problem: Problem) -> None:
    """Refuses what `run` would refuse, without features; a beam search also without what it needs.

    Raises:
        ProbeError: see `run` and `probe.evaluation.kinds.transcript_decoding.check_decoding`.
    """
    material = _material(task, problem)
    is_own = task.settings.head == OWN
    vocabulary = Vocabulary.of(material.train.texts, material.transcripts.separator)
    check_decoding(task, None if is_own else vocabulary)


@dataclass(frozen=True)
class Material:
    """The texts of a task: those of training, of dev, and of each test set; what was left out is
    counted.
    """

    transcripts: Transcripts
    train: Part
    dev: Part
    tests: Sequence[Part]
    excluded: dict[str, int]


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
    if task.settings.head == OWN:
        del splits["train"]
    refuse_empty(task.name, "text", splits)
    if task.settings.head != OWN and len(train.rows) < LEAST_UTTERANCES:
        raise ProbeError(
            f"{task.name}: {len(train.rows)} of {len(problem.train)} train rows have text; a CTC "
            f"head needs {LEAST_UTTERANCES} or "
            "more, for from fewer it learns these sentences by heart. Give more rows split train "
            "and text."
        )
    return Material(transcripts, train, dev, tests, dict(excluded))


@dataclass(frozen=True)
class Heads:
    """The heads of one question: of all layers, or of their learned sum.

    Attributes:
        train, dev: what they learn and choose from.
        control, budget: see `probe.records.Record`.
    """

    task: Task[Settings]
    problem: Problem
    features: Features
    material: Material
    train: Part
    dev: Part
    control: str = ""
    budget: str = ""

    def shuffled(self) -> "Heads":
        """The same heads on shuffled transcripts of training and dev."""
        train, dev = (
            replace(part, texts=shuffled(part.texts, self.problem.seed))
            for part in (self.train, self.dev)
        )
        return replace(self, train=train, dev=dev, control="shuffled")

    def with_budgets(self) -> "Iterator[Heads]":
        """The same heads on the training utterances that each budget pays for."""
        whole = self.train
        for budget, positions in budgets(
            *(self.task, self.problem, self.features, whole.rows, whole.texts),
            lacks=lambda positions: "" if positions else "no utterance",
        ):
            rows, texts = [whole.rows[i] for i in positions], [whole.texts[i] for i in positions]
            yield replace(self, train=replace(whole, rows=rows, texts=texts), budget=budget)

    @property
    def name(self) -> str:
        """Different for each question."""
        return f"{self.control} {self.budget}"

    @property
    def n_steps(self) -> int:
        """Steps of one layer: every epoch of every learning rate counts as many as there are
        training utterances.
        """
        settings = self.task.settings
        return len(settings.learning_rates) * settings.epochs * len(self.train.rows)

    def of_group(self, first: str) -> Iterator[Score]:
        """Scores of a layer and of those after it that are trained together with it."""
        problem = self.problem
        layers = self.features.layers
        # The control has one layer, alone.
        layers = [first] if self.control else layers[layers.index(first) :]

        def frames() -> Iterator[tuple[str, list[np.ndarray], list[np.ndarray]]]:
            for layer in layers:
                problem.progress.note(f"layers up to {layer}")
                yield layer, self._read([layer], self.train), self._read([layer], self.dev)

        groups = fit_groups(
            *(self._probe, frames(), self.train.texts, self.dev.texts),
            *(self._count, problem.memory_bytes),
        )
        for layer, probe in next(groups):
            yield from self._scores(probe, layer, [layer])

    def _count(self, n_read: int, n_spared: int) -> None:
        """Count the utterances that heads have read, and those that they will not read."""
        self.problem.progress.add(-n_spared)
        self.problem.progress.step(n_read)

    def of_sum(self) -> Iterator[Score]:
        """Scores of the learned sum of layers, where there is one."""
        features, problem = self.features, self.problem
        is_only = self.task.settings.weighted == "only"
        widths = {
            layer: features.fitting.width or features.store.layers[layer]
            for layer in (summed_layers(features.layers) if is_only else features.layers)
        }
        train, *others = (
            sum(features.of(item).n_rows for item in part.rows)
            for part in (self.train, self.dev, *self.material.tests)
        )
        n_rows = max(train + others[0], *others[1:], 0)
        sum_or_none = whole_sum if is_only else layer_sum
        summed = sum_or_none(self.task.name, features, widths, n_rows, problem.memory_bytes)
        if summed is None:
            return
        frames, dev_frames = (self._read(summed.layers, part) for part in (self.train, self.dev))
        probe = self._probe(n_mixed=len(summed.layers)).fit(
            *(frames, self.train.texts, dev_frames, self.dev.texts), self._count
        )
        yield from self._scores(probe, WEIGHTED, summed.layers, summed.note)

    def _scores(
        self, probe: CTCProbe, layer: str, layers: Sequence[str], note: str = ""
    ) -> Iterator[Score]:
        """Scores of a head that reads one layer or a sum of several."""
        main, transcripts = self.task.settings.main, self.material.transcripts
        dev_frames = self._read(layers, self.dev)
        reading = self._decoding.of(probe, dev_frames, self.dev.texts)
        n_short = len(probe.too_short_)
        common: dict[str, Any] = {
            "layer": layer,
            "head": main.head,
            "select_by": main.select_by,
            "higher_is_better": main.higher_is_better,
            "control": self.control,
            "budget": self.budget,
            "n_train": len(self.train.rows) - n_short,
            "search": reading.search,
            "chosen": {**reading.chosen, **transcripts.symbols},
            "layer_weights": dict(zip(layers, probe.shares_, strict=True))
            if layer == WEIGHTED
            else {},
            "excluded": self.material.excluded | ({TOO_SHORT: n_short} if n_short else {}),
        }
        for part in (self.dev, *self.material.tests):
            frames = dev_frames if part is self.dev else self._read(layers, part)
            notes = filter(None, [note, _warn_of_short(layer, probe, part, frames)])
            texts = reading.transcribe(frames) if part.rows else []
            as_scored = replace(part, texts=transcripts.as_scored(part.texts))
            texts = transcripts.as_scored(texts)
            yield from error_rates(common, as_scored, texts, "; ".join(notes))

    @functools.cached_property
    def _decoding(self) -> Decoding:
        separator = self.material.transcripts.separator
        return Decoding(self.task, Vocabulary.of(self.train.texts, separator))

    def _read(self, layers: Sequence[str], part: Part) -> list[np.ndarray]:
        """(frame, layer * dim) of each utterance: the layers side by side, as a sum of several
        takes them.
        """
        of_layers = [self.features.read(name, part.rows) for name in layers]
        if len(of_layers) == 1:
            return list(of_layers[0])
        return [np.concatenate(frames, axis=1) for frames in zip(*of_layers, strict=True)]

    def _probe(self, n_mixed: int = 1) -> CTCProbe:
        settings = self.task.settings
        head = HeadSettings(
            **{name: getattr(settings, name) for name in HEAD_FIELDS},
            join=max(1, round(settings.frame_ms / 1000 / self.features.hop_s)),
            n_layers=settings.layers,
            n_mixed=n_mixed,
        )
        training = CTCTraining(**{name: getattr(settings, name) for name in TRAINING_FIELDS})
        seed, device = self.problem.seed, self.problem.device
        return CTCProbe(head, training, units=settings.units, seed=seed, device=device)


def _answers(heads: Heads, weighted: bool = False) -> Answers[Heads, None]:
    """How one question is answered, with the learned sum of layers where it is ``weighted``."""
    return Answers(
        [heads],
        name=lambda _: heads.name,
        n_steps=lambda _: heads.n_steps,
        read=lambda _: None,
        score=lambda _heads, layer, _rows: heads.of_group(layer),
        sum_steps=heads.n_steps if weighted else 0,
        score_sum=heads.of_sum,
    )


def _warn_of_short(layer: str, probe: CTCProbe, part: Part, frames: list[np.ndarray]) -> str:
    """A note on utterances that no head can get right: fewer frames than labels."""
    short = [
        item.key
        for item, text, rows in zip(part.rows, part.texts, frames, strict=True)
        if frames_needed(probe.vocabulary_.encode(text)) > -(-len(rows) // probe.settings.join)
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
