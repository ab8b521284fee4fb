"""From scores to records: what stands in which file, and what is said about all of them."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus, Utterance
from probe.evaluation.condition_plan import Hearing, of_blocks
from probe.evaluation.dataset import Score
from probe.evaluation.layer_depth import depth_of
from probe.evaluation.tasks import Task
from probe.measures.metrics import CODELENGTH
from probe.measures.uncertainty import interval
from probe.records import COMBINED, NO_LAYER, Record, chosen_layers, frame_of, hashed_block

log = logging.getLogger("probe")

FAILED = "failed at extraction"
# Fields that a record takes over from a score as they are.
SHARED = (
    *("layer", "head", "train_domain", "test_domain", "split", "metric", "value", "n"),
    *("higher_is_better", "select_by", "headline", "control", "budget", "n_train", "note"),
)


@dataclass(frozen=True)
class RecordContext:
    """What records say beside their scores.

    Attributes:
        order: layer of the store -> its position.
        n_blocks: of the model, see `probe.evaluation.layer_depth`.
        groups: see `probe.evaluation.condition_plan.groups_of`.
        lists: split -> hash of the list that its scores rest on.
        block_kind: see `probe.records.Record`.
    """

    order: Mapping[str, int]
    n_blocks: int | None
    groups: Mapping[str, Mapping[str, str]]
    lists: Mapping[str, str]
    block_kind: str

    def position(self, layer: str) -> int:
        """Where a layer stands: none first, then those of the store, their sum, and other ones."""
        if layer == NO_LAYER:
            return -1
        return self.order.get(layer, len(self.order) + (layer not in COMBINED))


def belongs(score: Score, name: str, hearing: Hearing) -> bool:
    """Whether a score stands in the file of a test set: its own tests, what was trained and chosen
    for them, and the controls.

    Of a training on clean audio the trained controls, budgets and codes stand in the file of clean
    tests alone.
    """
    if name and (score.test_domain or name) != name:
        return False
    if hearing.train_condition != CLEAN or hearing.names[name] == CLEAN:
        return True
    return not (
        score.budget or score.metric == CODELENGTH.name or score.control not in ("", "majority")
    )


def training_speakers(task: Task[Any], train: Sequence[Utterance]) -> dict[str, set[str]]:
    """Train domain, empty where a task does not cross any, -> the speakers of its training rows as
    records name them.

    Nothing where the label is the speaker: then the same voices are the point of the task.
    """
    voices: dict[str, set[str]] = {}
    if task.inner.settings.predicted_column == "speaker":
        return voices
    column = task.settings.domain_column
    for item in train:
        if item.speaker:
            domain = item.label(column) if column else ""
            voices.setdefault(domain, set()).add(hashed_block(item.speaker))
    return voices


def with_shared_speakers(score: Score, voices: Mapping[str, set[str]]) -> Score:
    """The score with the scored speakers that its head has learned from.

    Args:
        voices: see `training_speakers`.
    """
    if score.counts is None or score.split == "train" or not score.n_train or not voices:
        return score
    learned = set() if score.learns_other_speakers else voices.get(score.train_domain, set())
    return replace(score, shared_speakers=frozenset(learned & set(score.counts["block"])))


def record_of(score: Score, common: Mapping[str, Any], context: RecordContext) -> Record:
    """The record of a score; ``common`` are the fields that all records of a file share."""
    counts = dict(score.counts or {})
    ends: tuple[float | None, float | None] = (None, None)
    if score.counts is not None:
        ends = interval(counts, score.metric) or ends
    grouped = counts and score.split == "test" and not score.control
    return Record(
        **common,
        **{name: getattr(score, name) for name in SHARED},
        layer_index=context.position(score.layer),
        depth=depth_of(score.layer, context.n_blocks),
        low=ends[0],
        high=ends[1],
        n_blocks=len(counts.get("block", ())),
        counts=counts,
        block_kind=context.block_kind if counts and score.split != "train" else "",
        groups=of_blocks(context.groups, counts["block"]) if grouped else {},
        chosen=dict(score.chosen),
        search=[dict(item) for item in score.search],
        layer_weights=dict(score.layer_weights),
        curve=[dict(item) for item in score.curve],
        statistics=dict(score.statistics),
        excluded=dict(score.excluded),
        shared_speakers=None if score.shared_speakers is None else len(score.shared_speakers),
        folds=[dict(item) for item in score.folds],
        trials_sha256=context.lists.get(score.split, ""),
    )


def outcome_lines(scores: Sequence[Score], records: Sequence[Record], corpus: Corpus) -> bytes:
    """Lines of what was said of every test utterance or trial, at the layer that dev chose.

    Utterances stand with their speaker and duration.
    """
    about = {
        item.key: {"speaker": item.speaker, "duration_s": item.duration_s}
        for item in corpus.utterances
    }
    layers = chosen_layers(frame_of(records))
    chosen = {
        (row.head, row.train_domain): row.chosen_layer
        for row in layers[layers["budget"] == ""].itertuples()
    }
    lines: list[str] = []
    finished_places: set[tuple[str, str, str]] = set()
    for score in scores:
        place = (score.head, score.train_domain, score.test_domain)
        if (
            score.split != "test"
            or score.control
            or score.budget
            or place in finished_places
            or chosen.get(place[:2]) != score.layer
        ):
            continue
        finished_places.add(place)
        head = {
            "layer": score.layer,
            "head": score.head,
            "train_domain": score.train_domain,
            "test_domain": score.test_domain,
        }
        lines += [
            json.dumps(
                {**head, **outcome, **about.get(outcome.get("key", ""), {})}, ensure_ascii=False
            )
            + "\n"
            for outcome in score.outcomes
        ]
    return "".join(lines).encode()


def say_what_scores_rest_on(task: Task[Any], model: str, records: Sequence[Record]) -> None:
    """Logs in one line each what was left out, and that speakers of test are in training."""
    most: Counter[str] = Counter()
    for record in records:
        most |= Counter({reason: n for reason, n in record.excluded.items() if reason != FAILED})
    if most:
        reasons = ", ".join(f"{n} ({reason})" for reason, n in sorted(most.items()))
        log.warning("%s, %s: these were left out: %s", task.name, model, reasons)
    tested = [record for record in records if record.split == "test" and record.shared_speakers]
    if tested:
        record = max(tested, key=lambda record: record.shared_speakers or 0)
        folds = "speaker:5" if record.n_blocks >= 5 else "speaker"
        log.warning(
            "%s, %s: %d of %d test speakers are in training too (marked in tables): a score may "
            "rest on their voices. To test on new speakers, run this task with --split "
            "speaker:80/10/10 or --folds %s.",
            *(task.name, model, record.shared_speakers, record.n_blocks, folds),
        )
