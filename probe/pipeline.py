"""A bench: the three stages chained for several models and tasks."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from probe.brief import brief, counted
from probe.data.conditions.condition import (
    Condition,
    Disturbance,
    distinct,
    open_condition,
    parse_condition,
)
from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus, load_corpus
from probe.data.trials import load_trials
from probe.engines.share import WHOLE, Share
from probe.errors import ProbeError
from probe.evaluation.condition_plan import Hearing, asked_under, hearings
from probe.evaluation.prechecks import askable, check, stores_of
from probe.evaluation.run import TRAINING, Training, run
from probe.evaluation.tasks import Task, log_columns, open_task
from probe.evaluation.trial_lists import SCOPE, Scope
from probe.extraction.extract import Extraction, extract, open_encoder
from probe.extraction.settings import EXTRACTING, Extracting
from probe.files import require_writable
from probe.model_names import ModelName, distinct_models
from probe.models.catalogue import choose_device
from probe.models.encoder import Encoder, ModelInfo
from probe.records import Record, read_records
from probe.reporting.tables.files import write_tables
from probe.store.layer_names import choose_layers
from probe.store.views import row_width, serves

log = logging.getLogger("probe")


@dataclass
class Bench:
    """What a bench did.

    Attributes:
        extractions: one per model, condition and view.
        files: tables and pictures that were written.
        refused: what could not be asked, in words: a model, a task and the reason.
        unusable: utterances without features, by model.
    """

    extractions: list[Extraction] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unusable: dict[str, list[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        refused = f"{len(self.refused)} refused" if self.refused else ""
        unusable = sum(map(len, self.unusable.values()))
        lacking = f"{counted(unusable, 'utterance')} without features" if unusable else ""
        extractions = counted(len(self.extractions), "extraction")
        return brief(self, extractions, counted(len(self.files), "file"), refused, lacking)


def bench(
    models: Sequence[str | ModelName],
    tasks: Sequence[str | Path | Task],
    corpus: str | Path | Corpus,
    to: str | Path,
    *,
    scope: Scope = SCOPE,
    training: Training = TRAINING,
    extracting: Extracting = EXTRACTING,
    dry_run: bool = False,
) -> Bench:
    """Extracts what is missing, runs every task on every model, and writes tables and pictures into
    ``to``.

    Everything that can be known without features is checked before the first utterance is
    extracted. A model or a task that cannot be had is named then, and in the result's ``refused``,
    and the rest goes on.

    Args:
        models: each SPEC or NAME=SPEC (`probe.model_names`).
        tasks: names, or tasks that are open.
        to: receives ``features/``, ``results/``, the tables and the pictures.
        scope: lists, limit and conditions of the tasks; what the conditions need is extracted.
        training: how heads are trained; without a device, on the one of the extraction.
        extracting: each task decides the view and the splits. With ``ctc`` the models that have a
            CTC head keep its transcripts.
        dry_run: only the plan of every extraction.

    Raises:
        ProbeError: the corpus or a task file cannot be used at all, or none of the tasks can be
            asked.
    """
    names = distinct_models(models)
    opened = [task if isinstance(task, Task) else open_task(task) for task in tasks]
    storing, running, decoding = extracting.storing, extracting.running, extracting.decoding
    if not dry_run:
        require_writable(Path(to))
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus, decoding.audio_root)
    log_columns(loaded, opened)
    known = distinct(
        [
            item if isinstance(item, Condition) else parse_condition(item)
            for item in scope.conditions or ()
        ]
    )
    if scope.limit is None:
        scope = replace(scope, limit=storing.limit)
    scope = replace(scope, conditions=list(known) or None)
    training = replace(training, device=choose_device(training.device or running.device))
    opened = [asked_under(task, scope.conditions) for task in opened]
    opened, refused = askable(
        {task.name: task for task in opened}, lambda task: check(task, loaded, scope, training.seed)
    )
    done = Bench(refused=refused)
    results = Path(to) / "results"
    if not dry_run:
        require_writable(results)
    plan = _Plan(opened, scope, loaded, known, extracting)
    if len(names) > 1:  # a model that cannot be had is found before hours go into the others
        names = [name for name in names if _tried(plan.open, name, done)]
    for position, model in enumerate(names):
        if not _tried(partial(plan.extract, to=Path(to), dry_run=dry_run, done=done), model, done):
            continue
        for number, task in enumerate([] if dry_run else opened, position * len(opened) + 1):
            place = f"task {number} of {len(names) * len(opened)}"
            try:
                run(task, model, loaded, Path(to) / "features", results, scope, training, place)
            except ProbeError as error:
                done.refused.append(f"{model.name}, {task.name}: {error}")
                log.error("%s", done.refused[-1])
    if not dry_run and any(results.glob("*.jsonl")):
        done.files = write_tables(read_records(results), Path(to))
    return done


class _Plan:
    """What the tasks of a bench hear, and how it is extracted."""

    def __init__(
        self,
        tasks: Sequence[Task],
        scope: Scope,
        corpus: Corpus,
        known: Mapping[str, Condition],
        extracting: Extracting,
    ) -> None:
        self.tasks, self.corpus, self.extracting = tasks, corpus, extracting
        self.needed = [_needed(task, hearings(task), scope, corpus) for task in tasks]
        used = {condition for of_task in self.needed for condition in of_task}
        order = dict.fromkeys([CLEAN, *known, *sorted(used)])
        self.conditions = [
            known.get(name) or parse_condition(name) for name in order if name in used
        ]

    def open(self, model: ModelName) -> tuple[Encoder, dict[str, Disturbance | None]]:
        """Opens a model, and what is done to its audio, once it is certain that it has the layers.

        Raises:
            ProbeError: the model, a layer or a condition cannot be had.
        """
        encoder = open_encoder(model, self.extracting.running)
        info, layers = encoder.info, self.extracting.storing.layers
        _refuse_wide_projections(
            self.tasks,
            info,
            choose_layers(layers, list(info.every_layer), info.aliases, info.id, list(info.layers)),
        )
        root = self.extracting.decoding.audio_root
        return encoder, {
            item.name: open_condition(item, info.rate_hz, self.corpus, Path(root) if root else None)
            for item in self.conditions
        }

    def extract(self, model: ModelName, to: Path, dry_run: bool, done: Bench) -> None:
        """Extracts what the tasks need of a model, and adds to what is ``done``."""
        encoder, disturbances = self.open(model)
        storing = self.extracting.storing
        if storing.ctc and not encoder.info.ctc:
            log.info("%s: has no CTC head that --ctc could run", model.name)
        for condition in self.conditions:
            disturbance = disturbances[condition.name]
            asking = [
                (task, of[condition.name])
                for task, of in zip(self.tasks, self.needed, strict=True)
                if condition.name in of
            ]
            for view in views_for([task for task, _ in asking], storing.stride):
                result = extract(
                    encoder,
                    self.corpus,
                    to / "features",
                    condition=disturbance or condition,
                    storing=replace(
                        storing,
                        view=view,
                        stride=1,
                        ctc=storing.ctc and bool(encoder.info.ctc),
                        splits=set().union(*(splits for _, splits in asking)),
                    ),
                    running=self.extracting.running,
                    decoding=self.extracting.decoding,
                    dry_run=dry_run,
                )
                done.extractions.append(result)
                if result.failures:
                    where = model.name if disturbance is None else f"{model.name}, {condition.name}"
                    done.unusable[where] = sorted(failure.key for failure in result.failures)


@dataclass
class Runs:
    """What several tasks on several models gave.

    Attributes:
        paths: files of records.
        records: their content.
        refused: what could not be asked: a model, a task and the reason.
        left_out: utterances without features, by model.
    """

    paths: list[Path] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def run_tasks(
    models: Sequence[str | ModelName],
    tasks: Sequence[Task],
    corpus: str | Path | Corpus,
    features: Path,
    to: Path,
    scope: Scope = SCOPE,
    training: Training = TRAINING,
    share: Share = WHOLE,
) -> Runs:
    """Runs every task on every model's features, as far as they can be asked.

    Args:
        share: of the pairs of a model and a task; the others are left to other runs.

    Raises:
        ProbeError: nothing can be asked at all.
    """
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    log_columns(loaded, tasks)
    training = replace(training, device=choose_device(training.device))
    tasks = [asked_under(task, scope.conditions) for task in tasks]
    names = distinct_models(models)
    own = {
        task.name: [model for model in names if share.has(f"{model.name}, {task.name}")]
        for task in tasks
    }
    if not share.is_whole:
        text = "share %s has %d of %d pairs of a model and a task"
        log.info(text, share, sum(map(len, own.values())), len(names) * len(tasks))
        tasks = [task for task in tasks if own[task.name]]
    if not tasks:
        return Runs()
    possible, refused = askable(
        {task.name: task for task in tasks}, lambda task: check(task, loaded, scope, training.seed)
    )
    pairs = {
        f"{model.name}, {task.name}": (model, task)
        for model in names
        for task in possible
        if model in own[task.name]
    }
    ready, without_features = askable(
        pairs, lambda pair: stores_of(pair[1], pair[0], loaded.limited(scope.limit), features)
    )
    runs = Runs(refused=refused + without_features)
    for number, (model, task) in enumerate(ready, start=1):
        try:
            place = f"task {number} of {len(ready)}"
            finished = run(task, model, loaded, features, to, scope, training, place)
        except ProbeError as error:
            if len(pairs) == len(tasks) == 1:
                raise
            runs.refused.append(f"{model.name}, {task.name}: {error}")
            continue
        runs.paths += finished.paths
        runs.records += finished.records
        if finished.left_out:
            runs.left_out[model.name] = finished.left_out
    return runs


def _refuse_wide_projections(tasks: Sequence[Task], info: ModelInfo, layers: Sequence[str]) -> None:
    """Refuses, before anything is extracted, a projection to more dimensions than a layer has.

    Raises:
        ProbeError: names the task, the narrowest layer and the most that it allows.
    """
    narrowest = min(layers, key=lambda layer: info.every_layer[layer])
    for task in tasks:
        width = getattr(task.inner.settings, "project", 0)
        dim = row_width(info.every_layer[narrowest], task.view)
        if width > dim:
            raise ProbeError(
                f"{task.name}: layer {narrowest} has {dim} dimensions ({task.view}); they cannot "
                f"be projected to {width}. Set project to {dim} or less."
            )


def _tried(attempt: Callable[[ModelName], object], model: ModelName, done: Bench) -> bool:
    """Whether an attempt with a model succeeds; a reason against it is logged and stands in
    ``done``, with the model's name first, and once.
    """
    try:
        attempt(model)
    except ProbeError as error:
        reason = str(error)
        prefix = f"{model.name}: "
        done.refused.append(reason if reason.startswith(prefix) else prefix + reason)
        log.error("%s", done.refused[-1])
        return False
    return True


def _needed(
    task: Task, task_hearings: Sequence[Hearing], scope: Scope, corpus: Corpus
) -> dict[str, set[str]]:
    """Condition -> splits of the rows that a task hears under it."""
    needed: dict[str, set[str]] = {}
    for hearing in task_hearings:
        for name in hearing.conditions:
            needed.setdefault(name, set()).update(hearing.splits(name))
    if "trials" in task.needs:  # utterances of trials may be of any split
        lists = [
            load_trials(path, corpus).trials for path in (scope.trials, scope.dev_trials) if path
        ]
        ends = {
            end.split for pairs in lists for trial in pairs for end in (trial.enroll, trial.test)
        }
        needed = {name: splits | ends for name, splits in needed.items()}
    corpus_splits = {item.split for item in corpus.utterances}
    if task.settings.folds:  # every row is trained on in one fold and tested in another
        return dict.fromkeys(needed, corpus_splits)
    return {name: splits & corpus_splits for name, splits in needed.items()}


def views_for(tasks: Sequence[Task], stride: int = 1) -> list[str]:
    """The fewest views that serve the tasks: a view that another one gives is not extracted as
    well.
    """
    wanted = {
        f"frames:{stride}" if task.view == "frames" and stride > 1 else task.view for task in tasks
    }
    return sorted(
        view for view in wanted if all(serves(other, view) is None for other in wanted - {view})
    )
