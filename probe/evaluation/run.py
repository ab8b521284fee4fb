"""Runs a task on a model's features and writes its records."""

import hashlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from probe.brief import brief, counted
from probe.data.corpus import Corpus, load_corpus
from probe.data.intervals import LABEL, IntervalSet
from probe.data.label_spellings import several_spellings
from probe.errors import ProbeError, listed
from probe.evaluation.blocks import blocks_of
from probe.evaluation.condition_plan import Hearing, asked_under, groups_of, heard, hearings
from probe.evaluation.dataset import Features, Problem, Score, described
from probe.evaluation.folds import folds_of, log_folds, named_in_errors, pooled
from probe.evaluation.grid_edges import warn_of_edges
from probe.evaluation.interval_rows import with_intervals
from probe.evaluation.label_free_fits import Fitting
from probe.evaluation.layer_depth import n_blocks
from probe.evaluation.model_stores import name_of
from probe.evaluation.prechecks import problem_of, stores_of
from probe.evaluation.progress import progress_of
from probe.evaluation.provenance import arguments_of, provenance, stem, with_own_name
from probe.evaluation.score_records import (
    FAILED,
    RecordContext,
    belongs,
    outcome_lines,
    record_of,
    say_what_scores_rest_on,
    training_speakers,
    with_shared_speakers,
)
from probe.evaluation.tasks import Task, open_task, same_question
from probe.evaluation.trial_lists import SCOPE, Scope, intervals_of, trial_lists
from probe.evaluation.unfinished import Unfinished, short_name, unfinished_folder
from probe.files import require_writable, sha256_of_json, statuses_in
from probe.measures.metrics import metric_of
from probe.model_names import ModelName
from probe.models.catalogue import choose_device
from probe.models.encoder import device_name
from probe.records import SEED_FOLDER, Record, iterate_records, sha256_of_outcomes, write_records
from probe.remote.paths import as_path
from probe.store.claims import Claims
from probe.store.feature_store import FeatureStore

log = logging.getLogger("probe")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How heads are trained.

    Attributes:
        device: where; None takes a GPU where there is one.
        seed: of heads, drawn trials, controls and the bootstrap.
        seeds: how many, from ``seed`` on; None takes as many as is usual for the task's
            head: see `probe.evaluation.kind.Settings.usual_seeds`.
        memory_bytes: for features that are held at a time; what does not fit is read again when it
            is needed.
        again: whether to train anew where records of the same question, features, code and
            libraries are there already.
    """

    device: str | None = None
    seed: int = 0
    memory_bytes: int = 4_000_000_000
    again: bool = False
    seeds: int | None = 1

    def of_seeds(self, task: Task[Any], results: Path) -> dict[Path, "Training"]:
        """The folder of each seed's records -> how it is trained; that of the first seed is
        ``results`` itself.
        """
        n_seeds = task.inner.settings.usual_seeds if self.seeds is None else self.seeds
        return {
            results / f"{SEED_FOLDER}{seed}" if seed > self.seed else results: replace(
                self, seed=seed, seeds=1
            )
            for seed in range(self.seed, self.seed + n_seeds)
        }


TRAINING = Training()


@dataclass(frozen=True)
class Run:
    """What a run wrote.

    Attributes:
        paths: files of records, one for each condition of training and tests.
        records: their content.
        left_out: utterances of the corpus without features because their extraction failed, under
            any condition.
    """

    paths: list[Path]
    records: list[Record]
    left_out: list[str]

    def __repr__(self) -> str:
        about = [f"{item.task} of {item.model} on {item.corpus}" for item in self.records[:1]]
        missing = f"{len(self.left_out)} left out" if self.left_out else ""
        return brief(
            self,
            counted(len(self.paths), "file"),
            counted(len(self.records), "record"),
            missing,
            *about,
        )

    @property
    def path(self) -> Path:
        """The first file."""
        return self.paths[0]


@dataclass(frozen=True)
class _Job:
    """A task of one model, and what all of its trainings share."""

    task: Task[Any]
    requested: ModelName
    model: str
    whole: Corpus
    corpus: Corpus
    stores: Mapping[str, FeatureStore]
    results: Path
    scope: Scope
    training: Training

    @property
    def device(self) -> str:
        return choose_device(self.training.device)


def run(
    task: str | Path | Task[Any],
    model: str | ModelName,
    corpus: str | Path | Corpus,
    features: str | Path,
    results: str | Path,
    scope: Scope = SCOPE,
    training: Training = TRAINING,
    number: str = "",
) -> Run:
    """Trains and scores every layer, and writes
    ``results/<model>__<task>__<corpus>__<condition>.jsonl`` for every condition; further seeds into
    ``results/seed1/`` and so on.

    What an interrupted run has finished of a task is kept in ``results/.unfinished/``; the same
    call goes on from there.

    Args:
        task: a ready task's name, a TOML file, or a task that is open.
        model: SPEC or NAME=SPEC (`probe.model_names`), or the name that it was given at extraction.
            Where SPEC is a folder or a file, its weights must be those that the features were
            extracted from; ``NAME@<revision>`` names older features.
        corpus: a manifest, ``librispeech:ROOT#subsets``, or a corpus that is loaded.
        features: the folder of stores.
        results: the folder of records.
        scope: lists, conditions and the part of the corpus that the task is asked of.
        training: how heads are trained.
        number: of the task among several, such as ``task 3 of 12``, for the progress.

    Raises:
        ProbeError: features are missing, or the task cannot be asked of this corpus.
    """
    task = asked_under(task if isinstance(task, Task) else open_task(task), scope.conditions)
    whole = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    corpus = with_own_name(whole.limited(scope.limit), as_path(results))
    if other := same_question(task):
        log.info(
            "%s: asks the same question as the ready task %s, whose records have another name",
            *(task.name, other),
        )
    requested = ModelName.parse(model)
    stores = stores_of(task, requested, corpus, as_path(features))
    name = name_of(requested, next(iter(stores.values())))
    job = _Job(task, requested, name, whole, corpus, stores, as_path(results), scope, training)
    for line in task.inner.kind.warnings(corpus.utterances):
        log.warning("%s: %s", corpus.name, line)
    done = Run([], [], [])
    seeds = training.of_seeds(task, as_path(results))
    trainings = list(itertools.product(seeds.items(), hearings(task)))
    for position, ((folder, of_seed), hearing) in enumerate(trainings, start=1):
        place = f"training {position} of {len(trainings)}" if len(trainings) > 1 else ""
        notes = [f"({text})" for text in (number, place) if text]
        own = replace(job, results=folder, training=of_seed)
        _train(own, hearing, " ".join([task.name, name, *notes]), done)
    say_what_scores_rest_on(task, name, done.records)
    if done.left_out:
        log.warning(
            "%s: %d utterances failed at extraction and are left out: %s",
            *(corpus.name, len(done.left_out), listed(done.left_out)),
        )
    return done


def _train(job: _Job, hearing: Hearing, title: str, done: Run) -> None:
    """Trains and tests under the conditions of one training, and adds to what is ``done``."""
    started = time.monotonic()
    task, corpus = job.task, job.corpus
    stores = {condition: job.stores[condition] for condition in hearing.conditions}
    features = Features(stores, task.view, corpus)
    failed = dict.fromkeys(item.key for item in features.failed)
    done.left_out.extend(key for key in failed if key not in done.left_out)
    folds = folds_of(task, corpus)
    for fold, part in folds.items():
        features.require(corpus.name, hearing.heard(part))
        with named_in_errors(task, fold):
            _refuse_failed(task, part, features, hearing)
    if not done.paths:
        log_folds(task, corpus, folds)
        _warn_of_copies(features, folds, hearing.conditions[0])
    lists = trial_lists(task, corpus, features, hearing, job.scope, job.training.seed)
    intervals = intervals_of(task, job.whole, features, job.scope.labels)
    shas = {split: item.sha256 for split, item in lists.items()}
    shas |= dict.fromkeys(("dev", "test"), intervals.sha256) if intervals else {}
    audio = sorted({(key, item.audio_sha256) for (_, key), item in features.stored.items()})
    audio_sha256 = sha256_of_json(audio)
    common = {
        condition: _common_fields(job, hearing, condition) | {"audio_sha256": audio_sha256}
        for condition in hearing.names.values()
    }
    paths = {
        condition: job.results / f"{stem(fields)}.jsonl" for condition, fields in common.items()
    }

    def is_there() -> bool:
        """Whether finished records of this very question are there; they are added then."""
        if job.training.again:
            return False
        folders = [store.path for store in stores.values()]
        finished = [
            _finished(path, folders, common[condition], shas) for condition, path in paths.items()
        ]
        if not all(finished):
            return False
        log.info(
            "%s: there already; --again trains anew", listed([str(path) for path in paths.values()])
        )
        done.paths.extend(paths.values())
        done.records.extend(record for records in finished for record in records)
        return True

    if is_there():
        return
    require_writable(job.results)
    with Claims(job.results) as claims:
        claims.sweep()
        claims.wait_for(short_name(next(iter(paths.values())).stem))
        if is_there():  # another run has trained meanwhile
            return
        if not done.paths:
            _warn_of_spellings(task, corpus, intervals)
        own = next(iter(common.values()))
        parts = _unfinished(job, own, shas, features, hearing)
        of_folds: dict[str, list[Score]] = {}
        with progress_of(title) as progress:
            progress.split(len(folds))
            for fold, part in folds.items():
                problem = replace(
                    problem_of(task, part, hearing, lists, intervals, features.usable),
                    seed=job.training.seed,
                    device=job.device,
                    memory_bytes=job.training.memory_bytes,
                    progress=progress,
                    unfinished=parts,
                    place=f"fold {fold}: " if fold else "",
                )
                with named_in_errors(task, fold):
                    of_fold = _scores(task, problem, features)
                voices = training_speakers(task, problem.train)
                of_folds[fold] = [with_shared_speakers(score, voices) for score in of_fold]
        warn_of_edges(task.name, job.model, [score for some in of_folds.values() for score in some])
        scores = pooled(of_folds)
        fields = {
            "seconds": round(time.monotonic() - started + parts.seconds, 2),
            "arguments": _arguments(job, hearing),
        }
        blocks = blocks_of(task.inner.settings.predicted_column, corpus.utterances)
        context = RecordContext(
            order={layer: index for index, layer in enumerate(features.layers)},
            n_blocks=n_blocks(features.store.recipe),
            groups=groups_of(corpus, blocks),
            block_kind=blocks.kind,
            lists=shas,
        )
        for name, condition in hearing.names.items():
            of_file = [
                replace(score, test_domain="") if name else score
                for score in scores
                if belongs(score, name, hearing)
            ]
            records = [record_of(score, common[condition] | fields, context) for score in of_file]
            _write(paths[condition], of_file, records, corpus, done)
        parts.remove()


def _write(
    path: Path, scores: Sequence[Score], records: list[Record], corpus: Corpus, done: Run
) -> None:
    """Writes the records of one file with their outcomes."""
    outcomes = outcome_lines(scores, records, corpus)
    digest = hashlib.sha256(outcomes).hexdigest()
    records = [replace(record, outcomes_sha256=digest) for record in records]
    if kept := write_records(path, records, outcomes):
        log.warning(
            "%s held records of another manifest, other audio, another seed, task, recipe or "
            "revision of the model; they are kept as %s. To keep both, name another folder with "
            "--to, rename the manifest, or give each version of a model a name: --model NAME=SPEC.",
            *(path, kept.name),
        )
    done.paths.append(path)
    done.records.extend(records)


def _common_fields(job: _Job, hearing: Hearing, condition: str) -> dict[str, Any]:
    """What all records of a file share, but for what it took."""
    fields = provenance(
        *(job.task, job.model, job.corpus, job.stores, hearing, condition),
        *(job.training.seed, job.device),
    )
    return fields | {"limit": None if job.corpus.sha256 == job.whole.sha256 else job.scope.limit}


def _arguments(job: _Job, hearing: Hearing) -> dict[str, Any]:
    """What repeats the run."""
    how = asdict(job.scope) | asdict(job.training) | {"device": job.device}
    how["conditions"] = list(job.task.settings.conditions)
    del how["again"]
    if job.task.inner.settings.usual_seeds == 1:
        del how["seeds"]
    return arguments_of(job.task, job.requested, job.corpus, job.stores[hearing.train[0]], how)


def _finished(
    path: Path, stores: Sequence[Path], common: Mapping[str, Any], shas: Mapping[str, str]
) -> list[Record]:
    """The records in ``path`` if they answer this very question, and their outcomes lie beside
    them; otherwise none.

    Records that are older than anything that the stores hold do not count either.
    """
    if not path.exists() or common["code"]["commit"].endswith(
        "+"
    ):  # a working tree with changes has no version
        return []
    if path.stat().st_mtime_ns <= max(
        status.st_mtime_ns
        for store in stores
        for name, status in statuses_in(store).items()
        if name.endswith(".json")
    ):
        return []
    try:
        records = list(iterate_records(path))
    except ProbeError:
        return []
    if {record.outcomes_sha256 for record in records} != {sha256_of_outcomes(path)}:
        return []
    same = all(
        all(getattr(record, name) == value for name, value in common.items() if name != "arguments")
        and record.trials_sha256 == shas.get(record.split, "")
        for record in records
    )
    return records if same else []


def _unfinished(
    job: _Job,
    common: Mapping[str, Any],
    shas: Mapping[str, str],
    features: Features,
    hearing: Hearing,
) -> Unfinished:
    """Where finished parts of a training are kept: by all that decides its scores.

    Code with changes has no version and keeps none.
    """
    if common["code"]["commit"].endswith("+"):
        return Unfinished()
    question = {
        **common,
        "lists": dict(shas),
        "recipes": {name: store.recipe_sha256 for name, store in features.stores.items()},
        "hearing": [list(hearing.train), list(hearing.tests)],
        "memory_bytes": job.training.memory_bytes,
        "computed on": device_name(torch.device(common["device"])),
    }
    return Unfinished(unfinished_folder(job.results, stem(dict(common)), question), question)


def _scores(task: Task[Any], problem: Problem, features: Features) -> list[Score]:
    """What the task's kind says of every layer, with the utterances that have no features or
    no rows counted in each score.
    """
    scores: list[Score] = []
    grids = features.on_grids()
    problem.progress.split(len(grids))
    for number, part in enumerate(grids):
        problem.progress.begin()
        if task.has_intervals:
            part = with_intervals(part, problem.rows)
        fitted = part.fitted_on(_fitting(task, problem))
        place = problem.place + (f"grid {number}: " if number else "")
        of_part = described(task.kind.run(task, replace(problem, place=place), fitted), fitted)
        # What is of no layer, or of a sum of layers, comes once.
        scores += [score for score in of_part if not number or score.layer in part.layers]
    excluded = dict(problem.excluded)
    if features.failed:
        excluded[FAILED] = len({item.key for item in features.failed})
    return [replace(score, excluded={**score.excluded, **excluded}) for score in scores]


def _refuse_failed(task: Task[Any], corpus: Corpus, features: Features, hearing: Hearing) -> None:
    """Names a failed extraction before anything else is missed: all rows of a split that the task
    needs have no features.

    Raises:
        ProbeError: the store, the split, the first reason and what to do.
    """
    rows = hearing.heard(corpus)
    whole = "trials" in task.needs  # trials may be of any split
    for split in ["all"] if whole else ["train", "dev", "test"]:
        of_split = [item for item in rows if whole or item.split == split]
        if of_split and not features.usable(of_split):
            item = of_split[0]
            store = features.stores[item.condition]
            failure = store.failure(item.key, item.path, str(item.excerpt))
            raise ProbeError(
                f"{store.path}: the extraction of all {len(of_split)} "
                f"{'' if whole else f'{split} '}utterances of {corpus.name} "
                f"failed ({item.key}: {failure.reason if failure else 'no reason is known'}), so "
                "there is nothing to run "
                f"{task.name} on. Mend the audio and run `probe extract` again."
            )


def _fitting(task: Task[Any], problem: Problem) -> Fitting:
    """What is fitted without labels, see `probe.evaluation.kind.ProjectedSettings`."""
    settings = task.inner.settings
    width, how = getattr(settings, "project", 0), getattr(settings, "projection", "pca")
    return Fitting(problem.train, width, how, problem.seed, problem.memory_bytes)


def _warn_of_spellings(task: Task[Any], corpus: Corpus, intervals: IntervalSet | None) -> None:
    """Names classes that are written in several ways, see `several_spellings`."""
    settings, column = task.inner.settings, task.inner.settings.predicted_column
    if intervals is not None and column in ("", LABEL):
        of_spans = (spans.labels for spans in intervals.spans.values())
        labels = [label for names in of_spans for label in names if not settings.ignores(label)]
        column = intervals.name
    elif (
        metric_of(task.inner.kind.main(settings).metric).of_numbers or column not in corpus.columns
    ):
        return
    else:
        labels = [item.label(column) for item in corpus.utterances if item.label(column).strip()]
    if fact := several_spellings(column, Counter(labels)):
        log.warning("%s: %s", corpus.name, fact)


def _warn_of_copies(features: Features, folds: Mapping[str, Corpus], condition: str) -> None:
    """Names recordings that stand in two splits, or in two folds, under different names:
    byte-identical files.
    """
    splits: dict[str, dict[str, str]] = {}
    for fold, corpus in folds.items():
        rows = [item for item in corpus.utterances if not fold or item.split == "test"]
        for utterance in features.usable(heard(rows, condition)):
            place = splits.setdefault(features.of(utterance).audio_sha256, {})
            place[fold or utterance.split] = utterance.key
    copies = [" = ".join(keys.values()) for keys in splits.values() if len(keys) > 1]
    if copies:
        log.warning(
            "%s: %d recordings are in more than one %s, byte for byte: %s",
            next(iter(folds.values())).name,
            len(copies),
            "fold" if len(folds) > 1 else "split",
            listed(copies, 3),
        )
