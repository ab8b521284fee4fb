"""Kind ``transcribe``: characters, letters or phones from frames by a CTC head on every layer, and on a learned sum of all layers.

Frames that come faster than every ``frame_ms`` are joined, so that a head sees 10 ms features at the rate of 20 ms models.

Heads are trained for several layers together (`probe.heads.ctc_layers`). The weighted sum (layer `WEIGHTED`, SUPERB's way) is
trained on its own, after the single layers and without influence on them: softmax weights over all layers, each standardised as when
it stands alone, trained with the head.

Metrics: WER and CER, sums of errors over sums of reference words or characters (lower is better), on the transcripts as the
manifest has them or as the units have them; PER the same over phones. Learning rate, epoch, decoder and layer are chosen by dev CER
or PER. tasks/README.md says how this differs from SUPERB.

Control ``shuffled`` is trained at the layer that dev chose, on shuffled training and dev transcripts; budgets
(`probe.evaluation.subsets`) train every layer on some of the utterances.

Where the features were extracted with the checkpoint's own CTC head, its greedy transcripts are scored too (head ``own-ctc``, layer
``ctc``), on transcripts case-folded on both sides: fine-tuned checkpoints write capitals. That is a reference, not a probe.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probe.errors import ProbeError, listed
from probe.evaluation.decoding import Decoding
from probe.evaluation.problem import Features, Problem, Score, block_of, labelled, lacking, no_sum, refuse_empty, shuffled
from probe.evaluation.subsets import within_budget
from probe.evaluation.tasks import Task
from probe.evaluation.transcripts import Part, Transcripts
from probe.heads.ctc import CTCProbe
from probe.heads.ctc_layers import fit_layers
from probe.heads.vocabulary import Vocabulary, frames_needed
from probe.measures.counts import ratio_counts
from probe.measures.transcription import case_folded, character_errors, word_errors
from probe.records import OWN_HEAD, WEIGHTED

log = logging.getLogger("probe")

CTC_LAYER = "ctc"
LEAST_UTTERANCES = 5
TOO_SHORT = "fewer frames than labels need"
Metrics = dict[str, Callable[[str, str], tuple[int, int]]]
TEXT_METRICS: Metrics = {"wer": word_errors, "cer": character_errors}
PHONE_METRICS: Metrics = {"per": word_errors}  # phones stand in a text as words do


def run(task: Task, problem: Problem, features: Features) -> Iterator[Score]:
    """Error rates of every layer on dev and on each test set.

    Raises:
        ProbeError: no rows with text in a split, training text that never fits its audio, or words that a lexicon lacks.
    """
    excluded: Counter[str] = Counter()
    transcripts = Transcripts(task)
    train, dev, *tests = (
        transcripts.of(split, name, labelled(rows, "text", tally), tally)
        for split, name, rows, tally in [
            ("train", "", problem.train, excluded),
            ("dev", "", problem.dev, excluded),
            *(("test", name, problem.tests[name], tally) for name, tally in problem.tallies(excluded).items()),
        ]
    )
    refuse_empty(task.name, problem, train.rows, dev.rows, "text")
    if problem.strict and not any(part.rows for part in tests):
        raise ProbeError(f"{task.name}: {lacking('test', sum(map(len, problem.tests.values())), 'text')}")
    if len(train.rows) < LEAST_UTTERANCES:
        raise ProbeError(
            f"{task.name}: {len(train.rows)} of {len(problem.train)} train rows have text; a CTC head needs {LEAST_UTTERANCES} or "
            "more, for from fewer it learns these sentences by heart. Give more rows split train and text."
        )
    vocabulary = Vocabulary.of(train.texts, transcripts.separator)
    for part in (dev, *tests):
        transcripts.check_coverage(vocabulary, part)
    if features.ctc and problem.strict and not transcripts.separator:
        yield from _own_head(features, [dev, *tests], excluded)
    own = Question(train, dev, tests, features.layers, task.settings["weighted"])
    dev_scores: dict[str, float] = {}
    for score in _answers(task, problem, features, transcripts, own, excluded):
        if score.split == "dev" and score.metric == score.select_by and score.layer != WEIGHTED:
            dev_scores[score.layer] = score.value or 0.0
        yield score
    for question in _others(task, problem, features, own, min(features.layers, key=lambda layer: dev_scores[layer])):
        yield from _answers(task, problem, features, transcripts, question, excluded)


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


def _others(task: Task, problem: Problem, features: Features, own: Question, best: str) -> Iterator[Question]:
    """The control, at the layer that dev chose; then the budgets, at every layer."""
    if "shuffled" in task.settings["controls"]:
        train, dev = (replace(part, texts=shuffled(part.texts, problem.seed)) for part in (own.train, own.dev))
        yield replace(own, train=train, dev=dev, layers=[best], weighted=False, control="shuffled")
    keys = [item.key for item in own.train.rows]
    durations_s = [features.of(item).duration_s for item in own.train.rows]
    for budget in task.settings["budgets"]:
        chosen = within_budget(budget, keys, own.train.texts, durations_s, problem.seed)
        if not chosen:
            log.warning("%s: budget %s pays for %s; left out", task.name, budget, "all" if chosen is None else "no utterance")
            continue
        train = replace(own.train, rows=[own.train.rows[i] for i in chosen], texts=[own.train.texts[i] for i in chosen])
        yield replace(own, train=train, weighted=False, budget=budget)


def _answers(
    task: Task, problem: Problem, features: Features, transcripts: Transcripts, question: Question, excluded: Counter[str]
) -> Iterator[Score]:
    """Scores of every layer on one question."""
    train, dev, tests = question.train, question.dev, question.tests
    decoding = Decoding(task, Vocabulary.of(train.texts, transcripts.separator))
    for layer, probe in _fitted(task, problem, features, question):
        dev_frames = _read(features, layer, dev)
        reading = decoding.of(probe, dev_frames, dev.texts)
        common: dict[str, Any] = {
            "layer": layer,
            "head": f"ctc-{task.settings['head']}",
            "select_by": "per" if transcripts.separator else "cer",
            "higher_is_better": False,
            "control": question.control,
            "budget": question.budget,
            "n_train": len(train.rows) - len(probe.too_short_),
            "search": reading.search,
            "chosen": {**reading.chosen, **transcripts.symbols},
            "layer_weights": dict(zip(features.layers, probe.shares_, strict=True)) if layer == WEIGHTED else {},
            "excluded": {**excluded, TOO_SHORT: len(probe.too_short_)} if probe.too_short_ else dict(excluded),
        }
        for part, frames in _with_frames(features, layer, dev, dev_frames, tests):
            note = _warn_of_short(layer, probe, part, frames)
            yield from _counted(common, part, reading.transcribe(frames) if part.rows else [], note)


def _with_frames(
    features: Features, layer: str, dev: Part, dev_frames: list[np.ndarray], tests: Sequence[Part]
) -> Iterator[tuple[Part, list[np.ndarray]]]:
    """Dev and the test sets with their frames, which are read when their turn comes."""
    yield dev, dev_frames
    for part in tests:
        yield part, _read(features, layer, part)


def _fitted(task: Task, problem: Problem, features: Features, question: Question) -> Iterator[tuple[str, CTCProbe]]:
    """(layer, its probe), in the layers' order and the weighted sum last; several layers are trained together."""
    train, dev = question.train, question.dev

    def layers() -> Iterator[tuple[str, list[np.ndarray], list[np.ndarray]]]:
        for layer in question.layers:
            problem.tick(f"layer {layer}")
            yield layer, _read(features, layer, train), _read(features, layer, dev)

    def alive() -> None:
        problem.tick("")

    yield from fit_layers(
        lambda: _probe(task, problem, features.hop_s), layers(), train.texts, dev.texts, alive, problem.memory_bytes
    )
    if question.weighted and _can_be_mixed(task, problem, features, (train, dev, *question.tests)):
        problem.tick(f"layer {WEIGHTED}")
        frames, dev_frames = (_read(features, WEIGHTED, part) for part in (train, dev))
        probe = _probe(task, problem, features.hop_s, n_mixed=len(features.layers))
        yield WEIGHTED, probe.fit(frames, train.texts, dev_frames, dev.texts, alive)


def _can_be_mixed(task: Task, problem: Problem, features: Features, parts: Sequence[Part]) -> bool:
    """Whether a sum of all layers can be trained; says why not."""
    widths = {layer: features.store.layers[layer] for layer in features.layers}
    train, dev, *tests = ([features.of(item).n_rows for item in part.rows] for part in parts)
    n_frames = max(sum(train) + sum(dev), *map(sum, tests), 0)
    n_bytes = 4 * n_frames * sum(widths.values())
    return not no_sum(task.name, widths, n_bytes, problem.memory_bytes)


def _read(features: Features, layer: str, part: Part) -> list[np.ndarray]:
    """(frame, dim) of each utterance; (frame, layer * dim) for the sum of layers."""
    if layer != WEIGHTED:
        return list(features.read(layer, part.rows))
    layers = [features.read(name, part.rows) for name in features.layers]
    return [np.concatenate(frames, axis=1) for frames in zip(*layers, strict=True)]


def _probe(task: Task, problem: Problem, hop_s: float, n_mixed: int = 1) -> CTCProbe:
    settings = task.settings
    same = ("head", "learning_rates", "epochs", "patience", "batch_size", "hidden", "dropout", "hidden_sizes", "activation")
    return CTCProbe(
        **{key: settings[key] for key in (*same, "context", "spec_augment", "units")},
        join=max(1, round(settings["frame_ms"] / 1000 / hop_s)),
        n_layers=settings["layers"],
        n_mixed=n_mixed,
        seed=problem.seed,
        device=problem.device,
    )


def _own_head(features: Features, parts: Sequence[Part], excluded: Counter[str]) -> Iterator[Score]:
    """The greedy transcripts that the checkpoint's own CTC head gave at extraction: a reference, nothing is trained here."""
    alphabet = set(features.ctc["alphabet"].casefold())
    common = {
        "layer": CTC_LAYER,
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
        unknown = Counter(character for text in references for character in text if character not in alphabet)
        note = "its own head, greedy, both sides case-folded"
        if unknown:
            note += (
                f"; {sum(unknown.values())} characters that it cannot write: {listed([repr(item) for item in sorted(unknown)])}"
            )
        texts = [case_folded(features.of(item).ctc_text or "") for item in part.rows]
        yield from _counted(common, Part(part.split, part.domain, part.rows, references, [note]), texts)


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
    log.warning("layer %s: %s: %d utterances with fewer frames than labels need: %s", layer, part.split, n, listed(short))
    return f"{n} utterances with fewer frames than labels"


def _counted(common: dict[str, Any], part: Part, texts: Sequence[str], note: str = "") -> Iterator[Score]:
    """Error rates of transcripts; scores without value where there are no utterances."""
    metrics = PHONE_METRICS if common["select_by"] == "per" else TEXT_METRICS
    common = {**common, "split": part.split, "test_domain": part.domain, "n": len(part.rows)}
    if not part.rows:
        yield from (Score(**common, metric=metric, counts=None, note="no rows with text") for metric in metrics)
        return
    blocks = [block_of(item) for item in part.rows]
    outcomes = [
        {"key": item.key, "reference": reference, "hypothesis": text}
        for item, reference, text in zip(part.rows, part.texts, texts, strict=True)
    ]
    notes = "; ".join(filter(None, [*part.notes, note]))
    for metric, count in metrics.items():
        errors, units = zip(*(count(reference, text) for reference, text in zip(part.texts, texts, strict=True)), strict=True)
        yield Score(**common, metric=metric, counts=ratio_counts(blocks, errors, units), note=notes, outcomes=outcomes)
