"""A bench: the three stages chained for several models and tasks."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from probe.brief import brief, counted
from probe.data.conditions.condition import Condition, distinct, open_condition, parse_condition
from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus, load_corpus
from probe.data.trials import load_trials
from probe.engines.engine import ALL, Division, Engine
from probe.errors import ProbeError
from probe.evaluation.condition_plan import Hearing, asked_under, hearings
from probe.evaluation.engine_jobs import Asking, Finished, Pair, finished_here, finished_on
from probe.evaluation.prechecks import askable, check, stores_of
from probe.evaluation.run import TRAINING, Run, Training
from probe.evaluation.tasks import Task, log_columns, open_task
from probe.evaluation.trial_lists import SCOPE, Scope
from probe.extraction.engine_jobs import Extractions, Step, extract_on
from probe.extraction.extract import Extraction, open_encoder
from probe.extraction.settings import EXTRACTING, Extracting
from probe.files import require_writable
from probe.model_names import ModelName, distinct_models
from probe.models.catalogue import choose_device
from probe.models.encoder import ModelInfo
from probe.records import Record, read_records
from probe.remote.paths import as_path
from probe.reporting.tables.files import write_tables
from probe.store.feature_store import FeatureStore
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

    def add(self, model: ModelName, extraction: Extraction) -> None:
        """Add an extraction, with the utterances that it could not use."""
        self.extractions.append(extraction)
        if extraction.failures:
            condition = FeatureStore(extraction.store).recipe["condition"]
            where = model.name if condition == CLEAN else f"{model.name}, {condition}"
            self.unusable[where] = sorted(failure.key for failure in extraction.failures)

    def refuse(self, reason: str) -> None:
        """Add and log what could not be asked."""
        self.refused.append(reason)
        log.error("%s", reason)

    def refuse_unfinished(self, pairs: Iterable[Finished]) -> None:
        """Add the pairs of a model and a task that could not be asked."""
        for pair, finished in pairs:
            if isinstance(finished, ProbeError):
                self.refuse(f"{pair}: {finished}")


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
        to: folder or URL that receives ``features/``, ``results/``, the tables and the pictures.
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
    root = as_path(to)
    if not dry_run:
        require_writable(root)
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
    device, engine = training.device or running.device, extracting.engine
    extracting = replace(extracting, engine=None)
    training = replace(training, device=device if engine else choose_device(device))
    opened = [asked_under(task, scope.conditions) for task in opened]
    opened, refused = askable(
        {task.name: task for task in opened}, lambda task: check(task, loaded, scope, training.seed)
    )
    done = Bench(refused=refused)
    results = root / "results"
    if not dry_run:
        require_writable(results)
    plan = _Plan(opened, scope, loaded, known, extracting)
    work = Extractions(plan.steps, loaded, root / "features", extracting)
    asking = Asking(opened, loaded, work.to, results, scope, training)
    if engine is not None and not dry_run:
        _bench_on(engine, work, names, asking, done)
    else:
        _bench_here(work, names, None if dry_run else asking, done)
    if not dry_run and any(results.glob("*.jsonl")):
        done.files = write_tables(read_records(results), root)
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

    def steps(self, model: ModelName) -> list[Step]:
        """Open a model, and what is done to its audio, once it is certain that it has the layers.

        Returns:
            The stores that the tasks need of the model.

        Raises:
            ProbeError: the model, a layer or a condition cannot be had.
        """
        storing = self.extracting.storing
        encoder = open_encoder(model, self.extracting.running)
        info = encoder.info
        _refuse_wide_projections(
            self.tasks,
            info,
            choose_layers(
                storing.layers, list(info.every_layer), info.aliases, info.id, list(info.layers)
            ),
        )
        root = self.extracting.decoding.audio_root
        disturbances = {
            item.name: open_condition(item, info.rate_hz, self.corpus, Path(root) if root else None)
            for item in self.conditions
        }
        if storing.ctc and not info.ctc:
            log.info("%s: has no CTC head that --ctc could run", model.name)
        steps = []
        for condition in self.conditions:
            asking = [
                (task, of[condition.name])
                for task, of in zip(self.tasks, self.needed, strict=True)
                if condition.name in of
            ]
            splits = set().union(*(splits for _, splits in asking))
            for view in views_for([task for task, _ in asking], storing.stride):
                ctc = storing.ctc and bool(info.ctc)
                of_view = replace(storing, view=view, stride=1, ctc=ctc, splits=splits)
                steps.append(Step(encoder, disturbances[condition.name] or condition, of_view))
        return steps


def _bench_here(
    work: Extractions, models: Sequence[ModelName], asking: Asking | None, done: Bench
) -> None:
    """Extract and train in this process, model after model; without ``asking`` only plan."""
    if len(models) > 1:  # a model that cannot be had is found before hours go into the others
        models = [model for model in models if _tried(work.steps, model, done)]

    def extract(model: ModelName) -> None:
        for step in work.steps(model):
            done.add(model, work.extract(step, dry_run=asking is None))

    for position, model in enumerate(models):
        if _tried(extract, model, done) and asking is not None:
            pairs = asking.pairs(model)
            n_all = len(models) * len(pairs)
            done.refuse_unfinished(finished_here(asking, pairs, position * len(pairs), n_all))


def _bench_on(
    engine: Engine, work: Extractions, models: Sequence[ModelName], asking: Asking, done: Bench
) -> None:
    """Extract the features of all models on the workers of an engine, then train on them."""
    pairs = []
    for model, of_model in extract_on(engine, work, models).items():
        for extraction in of_model.extractions:
            done.add(model, extraction)
        for problem in of_model.problems:
            done.refuse(_of_model(model, problem))
        if not of_model.problems:
            pairs += asking.pairs(model)
    done.refuse_unfinished(finished_on(engine, asking, pairs))


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
    division: Division = ALL,
) -> Runs:
    """Runs every task on every model's features, as far as they can be asked.

    Args:
        division: which share of the pairs of a model and a task this run has, and whose workers
            train.

    Raises:
        ProbeError: nothing can be asked at all.
    """
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    log_columns(loaded, tasks)
    engine, share = division.engine, division.share
    if engine is None:
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
    asking = Asking(possible, loaded, features, to, scope, training)
    numbers = {task.name: number for number, task in enumerate(possible)}
    of_ready = [Pair(model, numbers[task.name], task.name) for model, task in ready]
    if engine is None:
        all_finished = finished_here(asking, of_ready, 0, len(of_ready))
    else:
        all_finished = finished_on(engine, asking, of_ready)
    for pair, finished in all_finished:
        if isinstance(finished, Run):
            runs.paths += finished.paths
            runs.records += finished.records
            if finished.left_out:
                runs.left_out[pair.model.name] = finished.left_out
        elif len(pairs) == len(tasks) == 1:
            raise finished
        else:
            runs.refused.append(f"{pair}: {finished}")
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
        done.refuse(_of_model(model, str(error)))
        return False
    return True


def _of_model(model: ModelName, reason: str) -> str:
    prefix = f"{model.name}: "
    return reason if reason.startswith(prefix) else prefix + reason


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
