"""A bench: the three stages chained for several models and tasks."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
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
from probe.errors import ProbeError, listed
from probe.evaluation.condition_plan import Hearing, asked_under, hearings
from probe.evaluation.prechecks import askable, check, stores_of
from probe.evaluation.provenance import extraction_of
from probe.evaluation.run import run
from probe.evaluation.tasks import Task, log_columns, open_task
from probe.extraction.extract import (
    DECODING,
    RUNNING,
    STORING,
    Extraction,
    extract,
    open_encoder,
    recipe_of,
)
from probe.extraction.settings import Decoding, Running, Storing
from probe.files import require_writable
from probe.model_names import ModelName, distinct_models
from probe.models.catalogue import choose_device, open_model
from probe.models.encoder import Encoder, ModelInfo
from probe.models.plugins.loader import is_plugin
from probe.records import Record, read_records
from probe.reporting.tables.files import write_tables
from probe.store.feature_store import Job, writing
from probe.store.integrity import CERTIFICATE, HEAD_ADVICE, Verification, files_aside, verify_store
from probe.store.layer_names import choose_layers
from probe.store.repair import (
    held,
    is_back,
    jobs_to_repair,
    lost,
    rebuild_plans,
    remove_aside,
    set_aside,
)
from probe.store.stores import store_path
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
    beside: dict[str, Any] = {
        "trials": trials,
        "dev_trials": dev_trials,
        "labels": labels,
        "seed": seed,
        "limit": storing.limit,
    }
    opened, refused = askable(
        {task.name: task for task in opened}, lambda task: check(task, loaded, **beside)
    )
    needed = [_needed(task, hearings(task), trials, dev_trials, loaded) for task in opened]
    used = {condition for of_task in needed for condition in of_task}
    heard = [
        known.get(name) or parse_condition(name, seed=condition_seed)
        for name in dict.fromkeys([CLEAN, *known, *sorted(used)])
    ]
    heard = [condition for condition in heard if condition.name in used]
    place = choose_device(running.device)
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
                run(
                    task,
                    model,
                    loaded,
                    features,
                    results,
                    **beside,
                    device=place,
                    number=f"task {position * len(opened) + i + 1} of {len(names) * len(opened)}",
                    memory_bytes=running.memory_bytes,
                    again=again,
                )
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
    *,
    conditions: Sequence[str] | None = None,
    device: str | None = None,
    limit: int | None = None,
    memory_bytes: int = 4_000_000_000,
    again: bool = False,
    **given: Any,
) -> Runs:
    """Runs every task on every model's features, as far as they can be asked.

    Raises:
        ProbeError: nothing can be asked at all.
    """
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    log_columns(loaded, tasks)
    device = choose_device(device)
    given |= {"conditions": conditions, "limit": limit}
    tasks = [asked_under(task, conditions) for task in tasks]
    possible, refused = askable(
        {task.name: task for task in tasks}, lambda task: check(task, loaded, **given)
    )
    pairs = {
        f"{model.name}, {task.name}": (model, task)
        for model in distinct_models(models)
        for task in possible
    }
    ready, without_features = askable(
        pairs, lambda pair: stores_of(pair[1], pair[0], loaded.limited(limit), features)
    )
    runs = Runs(refused=refused + without_features)
    for number, (model, task) in enumerate(ready, start=1):
        try:
            finished = run(
                task,
                model,
                loaded,
                features,
                to,
                **given,
                device=device,
                number=f"task {number} of {len(ready)}",
                memory_bytes=memory_bytes,
                again=again,
            )
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
        width = (task.of or task).settings.get("project", 0)
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
    task: Task,
    asked: Sequence[Hearing],
    trials: str | Path | None,
    dev_trials: str | Path | None,
    corpus: Corpus,
) -> dict[str, set[str]]:
    """Condition -> splits of the rows that a task hears under it."""
    needed: dict[str, set[str]] = {}
    for hearing in asked:
        for name in hearing.conditions:
            needed.setdefault(name, set()).update(hearing.splits(name))
    if task.kind == "verify":  # utterances of trials may be of any split
        lists = [load_trials(path, corpus).trials for path in (trials, dev_trials) if path]
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


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes:
        found: the store as it is now.
        repaired: names of the shards that were extracted again, and of other files that were
            written anew.
        kept: job -> keys whose features only the files that were set aside hold: the audio gives
            others now, or none.
    """

    found: Verification
    repaired: list[str]
    kept: dict[int, list[str]]

    def __repr__(self) -> str:
        kept = f"{counted(len(self.kept), 'job')} kept aside" if self.kept else ""
        return brief(
            self,
            f"{counted(len(self.repaired), 'file')} repaired",
            kept,
            self.found.state,
            str(self.found.store),
        )


def repair(
    store: str | Path,
    corpus: str | Path | Corpus,
    *,
    model: str | Encoder | None = None,
    device: str | None = None,
    check: bool = True,
    condition: str | None = None,
) -> Repair:
    """Extracts the damaged shards of a store again, and nothing else.

    Damaged files are set aside, extracted into their old places, and removed once all that they
    held is there again. Nothing is touched before corpus and model are known to fit.

    Args:
        store: its folder.
        corpus: the one that the store was extracted from; more or fewer rows do not matter.
        model: the store's own where None; a folder that has moved needs naming.
        check: see `probe.extraction.extract.extract`.
        condition: the store's, where its recipe does not suffice: files of noise that lie elsewhere
            than in the working folder.

    Raises:
        ProbeError: the recipe is damaged, the corpus lacks utterances, or the model gives another
            recipe.
    """
    folder = Path(store)
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    with writing(folder):
        found = verify_store(folder)
        if found.unread:
            names = listed([f"{item.file} {item.problem}" for item in found.unread])
            raise ProbeError(
                f"{folder}: {names}. It may be sound, so nothing was changed. Repair the store when it can be read."
            )
        head = found.head
        if head is None:
            raise ProbeError(f"{folder}: cannot be repaired without its recipe. {HEAD_ADVICE}.")
        repaired = rebuild_plans(found, [item.key for item in loaded.utterances])
        found = verify_store(folder) if repaired else found
        jobs = jobs_to_repair(found)
        todo = [job for job in jobs if not is_back(found, job)]
        certificate = any(item.file == f"{CERTIFICATE}.json" for item in found.damage)
        again = _utterances_of(folder, todo, loaded)
        encoder = disturbance = None
        if todo or certificate:
            encoder = _encoder_of(folder, head, model, device)
            disturbance = _disturbance_of(folder, head["recipe"], encoder, loaded, condition)
            _refuse_other_recipe(folder, head["recipe"], encoder, disturbance)
        for name in [name for job in todo for name in job.shard_names()] + [
            CERTIFICATE
        ] * certificate:
            set_aside(folder, name)
    if encoder is not None:
        asked = extraction_of(head["recipe"])
        heard = disturbance or CLEAN
        named = ModelName(head["requested"], head["environment"].get("spec", head["requested"]))
        encoder.info = replace(encoder.info, requested=named)
        storing, running = Storing(**asked), Running(check=check)
        to = folder.parent.parent
        extract(encoder, again, to, condition=heard, storing=storing, running=running)
    kept: dict[int, list[str]] = {}
    with writing(folder):
        for job in jobs:
            if missing := lost(folder, job):
                kept[job.number] = missing
                continue
            for name in job.shard_names():
                remove_aside(folder, name)
            repaired += job.shard_names()
        for name in files_aside(folder):
            if not name.startswith("shard-") and (folder / f"{name}.json").exists():
                remove_aside(folder, name)
                repaired = list(dict.fromkeys([*repaired, name]))
    return Repair(verify_store(folder) if jobs or repaired else found, repaired, kept)


def _encoder_of(
    folder: Path, head: Mapping[str, Any], model: str | Encoder | None, device: str | None
) -> Encoder:
    """The model of a store.

    Raises:
        ProbeError: it cannot be opened.
    """
    recipe, name = head["recipe"], str(head["environment"].get("spec", head["requested"]))
    if (
        re.fullmatch("[0-9a-f]{40}", recipe["model"]["revision"]) and ":" not in name
    ):  # on the hub, where a name may have moved on
        name = f"{name.partition('@')[0]}@{recipe['model']['revision']}"
    if model is None and is_plugin(name):
        raise ProbeError(
            f"{folder}: of {name}, which is code; a store's word is not enough to run it. If you trust it, name it with --model."
        )
    if model is None or isinstance(model, str):
        cut = recipe["chunking"] or {"chunk_s": 0.0, "context_s": 0.0}
        form = (recipe["implementation"], recipe["precision"], cut["chunk_s"], cut["context_s"])
        return open_model(model or name, device, None, *form)
    return model


def _disturbance_of(
    folder: Path, recipe: Mapping[str, Any], encoder: Encoder, corpus: Corpus, condition: str | None
) -> Disturbance | None:
    """What was done to the audio of a store.

    Raises:
        ProbeError: its text means nothing any more, or its files are not to be found by their
            names.
    """
    if "disturbance" not in recipe:
        return None
    text, seed = recipe["disturbance"]["text"], recipe["disturbance"]["seed"]
    try:
        found = parse_condition(condition or text, seed=seed or 0)
        return open_condition(
            replace(found, name=recipe["condition"]), encoder.info.rate_hz, corpus
        )
    except ProbeError as error:
        raise ProbeError(
            f"{folder}: its condition {text} cannot be had again: {error} --condition names files with their folder."
        ) from error


def _refuse_other_recipe(
    folder: Path, recipe: dict[str, Any], encoder: Encoder, disturbance: Disturbance | None
) -> None:
    """Raises where an extraction now would write into another store."""
    asked = extraction_of(recipe)
    names = choose_layers(
        asked["layers"], list(encoder.info.every_layer), encoder.info.aliases, encoder.info.id
    )
    now = recipe_of(encoder, names, Storing(**asked), disturbance)
    if now != recipe:
        differing = [
            key for key in recipe["model"] if now["model"].get(key) != recipe["model"][key]
        ]
        differing += [
            key
            for key in sorted(now.keys() | recipe.keys())
            if key != "model" and now.get(key) != recipe.get(key)
        ]
        raise ProbeError(
            f"{folder}: {encoder.info.id} would give other features now: {', '.join(differing)} differ from the store's recipe. "
            "Name the model with --model, or use the version of layerprobe that wrote the store."
        )
    expected = store_path(folder.parent.parent, recipe)
    if not expected.exists() or not expected.samefile(folder):
        raise ProbeError(
            f"{folder}: extraction would write into {expected}. Give the store's folders their names back."
        )


def _utterances_of(folder: Path, jobs: Sequence[Job], corpus: Corpus) -> Corpus:
    """The part of a corpus that these jobs need.

    Raises:
        ProbeError: the corpus lacks some, or the audio of something that was stored is gone.
    """
    rows = {item.key: item for item in corpus.utterances}
    wanted = {key for job in jobs for key in job.keys}
    stored = {key for job in jobs for key, _ in held(folder, job) or ()}
    if lacking := sorted(
        key for key in wanted if key not in rows or (key in stored and not rows[key].path.exists())
    ):
        raise ProbeError(
            f"{folder}: {corpus.name} lacks {listed(lacking)}, or their audio; nothing was changed. "
            "Give --corpus the manifest that the store was extracted from."
        )
    return replace(
        corpus, utterances=tuple(item for item in corpus.utterances if item.key in wanted)
    )
