"""A bench: the three stages chained for several models and tasks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
from probe.errors import ProbeError
from probe.evaluation.condition_plan import Hearing, asked_under, hearings
from probe.evaluation.prechecks import askable, check, stores_of
from probe.evaluation.run import TRAINING, Training, run
from probe.evaluation.tasks import Task, log_columns, open_task
from probe.evaluation.trial_lists import SCOPE, Scope
from probe.extraction.extract import DECODING, RUNNING, STORING, Extraction, extract, open_encoder
from probe.extraction.settings import Decoding, Running, Storing
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
    trials: str | Path | None = None,
    dev_trials: str | Path | None = None,
    labels: str | Path | None = None,
    conditions: Sequence[str | Condition] | None = None,
    condition_seed: int = 0,
    seed: int = 0,
    again: bool = False,
    dry_run: bool = False,
    storing: Storing = STORING,
    running: Running = RUNNING,
    decoding: Decoding = DECODING,
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
        conditions: under which tasks are asked, in the place of their own; what they need is
            extracted.
        condition_seed: of what conditions draw that are no `Condition` yet.
        again: also runs tasks whose records are there already.
        dry_run: only the plan of every extraction.
        storing: as `probe.extract` takes it; each task decides the view and the splits. With
            ``ctc`` the models that have a CTC head keep its transcripts.
        running, decoding: as `probe.extract` takes them.

    Raises:
        ProbeError: the corpus or a task file cannot be used at all, or none of the tasks can be
            asked.
    """
    names = distinct_models(models)
    opened = [task if isinstance(task, Task) else open_task(task) for task in tasks]
    if not dry_run:
        require_writable(Path(to))
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus, decoding.audio_root)
    log_columns(loaded, opened)
    given = [
        item if isinstance(item, Condition) else parse_condition(item, seed=condition_seed)
        for item in conditions or ()
    ]
    known = distinct(given)
    opened = [asked_under(task, list(known)) for task in opened]
    scope = Scope(trials=trials, dev_trials=dev_trials, labels=labels, limit=storing.limit)
    opened, refused = askable(
        {task.name: task for task in opened}, lambda task: check(task, loaded, scope, seed)
    )
    needed = [_needed(task, hearings(task), scope, loaded) for task in opened]
    used = {condition for of_task in needed for condition in of_task}
    heard = [
        known.get(name) or parse_condition(name, seed=condition_seed)
        for name in dict.fromkeys([CLEAN, *known, *sorted(used)])
    ]
    heard = [condition for condition in heard if condition.name in used]
    training = Training(
        device=choose_device(running.device),
        seed=seed,
        memory_bytes=running.memory_bytes,
        again=again,
    )
    features, results = Path(to) / "features", Path(to) / "results"
    if not dry_run:
        for folder in (Path(to), results):
            require_writable(folder)
    done = Bench(refused=refused)
    root = Path(decoding.audio_root) if decoding.audio_root else None

    def opened_model(model: ModelName) -> tuple[Encoder, dict[str, Disturbance | None]]:
        """The model and what is done to its audio, once it is certain that it has the layers."""
        encoder = open_encoder(model, running)
        info = encoder.info
        _refuse_wide_projections(
            opened,
            info,
            choose_layers(
                storing.layers, list(info.every_layer), info.aliases, info.id, list(info.layers)
            ),
        )
        return encoder, {
            item.name: open_condition(item, encoder.info.rate_hz, loaded, root) for item in heard
        }

    if len(names) > 1:  # a model that cannot be had is found before hours go into the others
        names = [model for model in names if _can_be_had(model, opened_model, done)]
    for position, model in enumerate(names):
        try:
            encoder, disturbances = opened_model(model)
            if storing.ctc and not encoder.info.ctc:
                log.info("%s: has no CTC head that --ctc could run", model.name)
            for condition in heard:
                disturbance = disturbances[condition.name]
                here = [
                    (task, of[condition.name])
                    for task, of in zip(opened, needed, strict=True)
                    if condition.name in of
                ]
                for view in views_for([task for task, _ in here], storing.stride):
                    result = extract(
                        encoder,
                        loaded,
                        features,
                        condition=disturbance or condition,
                        storing=replace(
                            storing,
                            view=view,
                            stride=1,
                            ctc=storing.ctc and bool(encoder.info.ctc),
                            splits=set().union(*(splits for _, splits in here)),
                        ),
                        running=running,
                        decoding=decoding,
                        dry_run=dry_run,
                    )
                    done.extractions.append(result)
                    if result.failures:
                        where = (
                            model.name if disturbance is None else f"{model.name}, {condition.name}"
                        )
                        done.unusable[where] = sorted(failure.key for failure in result.failures)
            del encoder
        except ProbeError as error:
            done.refused.append(_reason(model, error))
            log.error("%s", done.refused[-1])
            continue
        for i, task in enumerate([] if dry_run else opened):
            try:
                number = f"task {position * len(opened) + i + 1} of {len(names) * len(opened)}"
                run(task, model, loaded, features, results, scope, training, number)
            except ProbeError as error:
                done.refused.append(f"{model.name}, {task.name}: {error}")
                log.error("%s", done.refused[-1])
    if not dry_run and any(results.glob("*.jsonl")):
        done.files = write_tables(read_records(results), Path(to))
    return done


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
) -> Runs:
    """Runs every task on every model's features, as far as they can be asked.

    Raises:
        ProbeError: nothing can be asked at all.
    """
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    log_columns(loaded, tasks)
    training = replace(training, device=choose_device(training.device))
    tasks = [asked_under(task, scope.conditions) for task in tasks]
    possible, refused = askable(
        {task.name: task for task in tasks}, lambda task: check(task, loaded, scope, training.seed)
    )
    pairs = {
        f"{model.name}, {task.name}": (model, task)
        for model in distinct_models(models)
        for task in possible
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


def _reason(model: ModelName, error: ProbeError) -> str:
    """What is wrong with a model; its name comes first, and once."""
    reason = str(error)
    return reason if reason.startswith(f"{model.name}: ") else f"{model.name}: {reason}"


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
                f"{task.name}: layer {narrowest} has {dim} dimensions ({task.view}); they cannot be projected to "
                f"{width}. Set project to {dim} or less."
            )


def _can_be_had(model: ModelName, open_it: Callable[[ModelName], Any], done: Bench) -> bool:
    """Whether a model can be opened; a reason against it is logged and stands in ``done``."""
    try:
        open_it(model)
    except ProbeError as error:
        done.refused.append(_reason(model, error))
        log.error("%s", done.refused[-1])
        return False
    return True


def _needed(
    task: Task, asked: Sequence[Hearing], scope: Scope, corpus: Corpus
) -> dict[str, set[str]]:
    """Condition -> splits of the rows that a task hears under it."""
    needed: dict[str, set[str]] = {}
    for hearing in asked:
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
    there = {item.split for item in corpus.utterances}
    return {name: splits & there for name, splits in needed.items()}


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
