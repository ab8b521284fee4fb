"""Runs a task on a model's features and writes its records."""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from probe.brief import brief, counted
from probe.data import transcript_checks
from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.errors import ProbeError, listed
from probe.evaluation.condition_plan import (
    Hearing,
    asked_under,
    groups_of,
    heard,
    hearings,
    of_blocks,
)
from probe.evaluation.dataset import Features, Problem, Score, described
from probe.evaluation.kinds.registry import KINDS
from probe.evaluation.kinds.transcribe import CTC_LAYER
from probe.evaluation.label_free_fits import Fitting
from probe.evaluation.layer_depth import depth_of, n_blocks
from probe.evaluation.model_stores import name_of
from probe.evaluation.prechecks import problem_of, stores_of
from probe.evaluation.progress import progress_of
from probe.evaluation.provenance import arguments_of, provenance, stem
from probe.evaluation.tasks import Task, open_task, same_question
from probe.evaluation.trial_lists import intervals_of, trial_lists
from probe.evaluation.unfinished import Unfinished, unfinished_folder
from probe.evaluation.verification_backends import ON_SPEAKERS
from probe.files import require_writable, sha256_of_json
from probe.measures.uncertainty import interval
from probe.model_names import ModelName
from probe.models.catalogue import choose_device
from probe.models.encoder import device_name
from probe.records import (
    NO_LAYER,
    WEIGHTED,
    Record,
    chosen_layers,
    frame_of,
    hashed_block,
    iterate_records,
    sha256_of_outcomes,
    write_records,
)

log = logging.getLogger("probe")

FAILED = "failed at extraction"
TRIED = {"l2", "learning_rate", "lm_weight", "word_score"}  # what comes from a grid


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


def run(
    task: str | Path | Task,
    model: str | ModelName,
    corpus: str | Path | Corpus,
    features: str | Path,
    results: str | Path,
    *,
    trials: str | Path | None = None,
    dev_trials: str | Path | None = None,
    labels: str | Path | None = None,
    conditions: Sequence[str] | None = None,
    device: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    memory_bytes: int = 4_000_000_000,
    again: bool = False,
    number: str = "",
) -> Run:
    """Trains and scores every layer, and writes
    ``results/<model>__<task>__<corpus>__<condition>.jsonl`` for every condition.

    Args:
        task: a ready task's name, a TOML file, or a task that is open.
        model: SPEC or NAME=SPEC (`probe.model_names`), or the name that it was given at extraction.
            Where SPEC is a folder or a file, its weights must be those that the features were
            extracted from; ``NAME@<revision>`` names older features.
        corpus: a manifest, ``librispeech:ROOT#subsets``, or a corpus that is loaded.
        features: the folder of stores.
        results: the folder of records.
        trials, dev_trials: lists for verification; without ``dev_trials`` seeded pairs of dev rows
            are drawn.
        labels: for frames, a CSV file of intervals or a folder of TextGrids, in the place of the
            one that the task names; its sha256 stands where that of a list of trials does.
        conditions: to be asked under, in the place of the task's own; each has its own store. What
            is disturbed is the task's (`probe.evaluation.condition_plan`). Where all of them train
            together they are part of the task's name.
        device: where heads are trained; None takes a GPU where there is one.
        seed: of heads, drawn trials, controls and the bootstrap.
        limit: at most so many utterances of each split, the ones that `probe.extract` takes; part
            of the corpus' name in records.
        memory_bytes: for features that are held at a time; what does not fit is read again when it
            is needed.
        again: whether to train anew where records of the same question, features, code and
            libraries are there already.
        number: of the task among several, such as ``task 3 of 12``, for the progress.

    What an interrupted run has finished of a task is kept in ``results/.unfinished/``; the same
    call goes on from there.

    Raises:
        ProbeError: features are missing, or the task cannot be asked of this corpus.
    """
    task = asked_under(task if isinstance(task, Task) else open_task(task), conditions)
    whole = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    corpus = whole.limited(limit)
    asked = hearings(task)
    device = choose_device(device)
    if other := same_question(task):
        log.info(
            "%s: asks the same question as the ready task %s, whose records have another name",
            task.name,
            other,
        )
    given = ModelName.parse(model)
    stores = stores_of(task, given, corpus, Path(features))
    named = replace(given, name=name_of(given, next(iter(stores.values()))))
    done = Run([], [], [])
    for line in (
        transcript_checks.warnings(corpus.utterances)
        if (task.of or task).kind == "transcribe"
        else ()
    ):
        log.warning("%s: %s", corpus.name, line)
    groups = groups_of(corpus)
    for position, hearing in enumerate(asked):
        started = time.monotonic()
        found = Features(
            {condition: stores[condition] for condition in hearing.conditions}, task.view, corpus
        )
        if not position:
            _warn_of_copies(found, corpus, hearing.conditions[0])
        for item in found.failed:
            if item.key not in done.left_out:
                done.left_out.append(item.key)
        found.require(corpus.name, hearing.heard(corpus))
        _refuse_failed(task, corpus, found, hearing)
        lists = trial_lists(task, corpus, found, hearing, trials, dev_trials, seed)
        intervals = intervals_of(task, whole, found, labels)
        shas = {split: item.sha256 for split, item in lists.items()}
        shas |= dict.fromkeys(("dev", "test"), intervals.sha256) if intervals else {}
        common = {
            condition: provenance(
                task, named.name, corpus, stores, hearing, condition, seed, device
            )
            | {"limit": None if corpus is whole else limit}
            for condition in hearing.names.values()
        }
        paths = {
            condition: Path(results) / f"{stem(fields)}.jsonl"
            for condition, fields in common.items()
        }
        folders = [stores[condition].path for condition in hearing.conditions]
        finished = {
            condition: () if again else _finished(path, folders, common[condition], shas)
            for condition, path in paths.items()
        }
        voices = _training_speakers(
            task,
            found.usable(
                hearing.rows([item for item in corpus.utterances if item.split == "train"])
            ),
        )
        if all(finished.values()):
            log.info(
                "%s: there already; --again trains anew",
                listed([str(path) for path in paths.values()]),
            )
            done.paths.extend(paths.values())
            done.records.extend(record for records in finished.values() for record in records)
            continue
        require_writable(Path(results))
        own = next(iter(common))
        parts = _unfinished(
            Path(results), stem(common[own]), common[own], shas, found, hearing, memory_bytes
        )
        problem = replace(
            problem_of(task, corpus, hearing, lists, intervals, found.usable),
            seed=seed,
            device=device,
            memory_bytes=memory_bytes,
            unfinished=parts,
        )
        trained = f"training {position + 1} of {len(asked)}" if len(asked) > 1 else ""
        with progress_of(
            " ".join(
                filter(
                    None,
                    [task.name, named.name, *(f"({text})" for text in (number, trained) if text)],
                )
            )
        ) as shown:
            scores = _scores(task, replace(problem, progress=shown), found)
        seconds = round(time.monotonic() - started + parts.seconds, 2)
        arguments = arguments_of(
            task,
            given,
            corpus,
            stores[hearing.train[0]],
            trials=trials,
            dev_trials=dev_trials,
            labels=labels,
            conditions=list(task.settings["conditions"]),
            device=device,
            seed=seed,
            limit=limit,
            memory_bytes=memory_bytes,
        )
        _warn_of_edges(task.name, named.name, scores)
        order = {
            layer: index for index, layer in enumerate([*found.layers, WEIGHTED, CTC_LAYER])
        } | {NO_LAYER: -1}
        blocks = n_blocks(found.store.recipe)
        for name, condition in hearing.names.items():
            of_file = [
                replace(score, test_domain="") if name else score
                for score in scores
                if _belongs(score, name, hearing)
            ]
            fields = common[condition] | {"seconds": seconds, "arguments": arguments}
            records = [
                _record(score, fields, order, shas, depth_of(score.layer, blocks), groups, voices)
                for score in of_file
            ]
            path = paths[condition]
            outcomes = _outcomes(of_file, records, corpus)
            digest = hashlib.sha256(outcomes).hexdigest()
            records = [replace(record, outcomes_sha256=digest) for record in records]
            if kept := write_records(path, records, outcomes):
                log.warning(
                    "%s held records of another manifest, seed, task, recipe or revision of the model; they are kept as %s. "
                    "To keep two versions of a model side by side, give each a name: --model NAME=SPEC.",
                    *(path, kept.name),
                )
            done.paths.append(path)
            done.records.extend(records)
        parts.remove()
    _say_what_scores_rest_on(task, named.name, done.records)
    if done.left_out:
        log.warning(
            "%s: %d utterances failed at extraction and are left out: %s",
            corpus.name,
            len(done.left_out),
            listed(done.left_out),
        )
    return done


def _belongs(score: Score, name: str, hearing: Hearing) -> bool:
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
        score.budget or score.metric == "codelength" or score.control not in ("", "majority")
    )


def _finished(
    path: Path, stores: Sequence[Path], common: dict[str, Any], shas: dict[str, str]
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
        item.stat().st_mtime_ns for store in stores for item in store.glob("*.json")
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
    results: Path,
    name: str,
    common: Mapping[str, Any],
    shas: Mapping[str, str],
    features: Features,
    hearing: Hearing,
    memory_bytes: int,
) -> Unfinished:
    """Where finished parts of a training are kept: by all that decides its scores.

    Code with changes has no version and keeps none.
    """
    if common["code"]["commit"].endswith("+"):
        return Unfinished()
    audio = sorted(
        [*place, stored.audio_sha256, stored.n_rows] for place, stored in features.stored.items()
    )
    recipes = {condition: store.recipe_sha256 for condition, store in features.stores.items()}
    question = {
        **common,
        "lists": dict(shas),
        "recipes": recipes,
        "audio": sha256_of_json(audio),
        "hearing": [list(hearing.train), list(hearing.tests)],
        "memory_bytes": memory_bytes,
        "computed on": device_name(torch.device(common["device"])),
    }
    return Unfinished(unfinished_folder(results, name, question), question)


def _scores(task: Task, problem: Problem, features: Features) -> list[Score]:
    """What the task's kind says of every layer, with the utterances that have no features counted
    in each score.
    """
    scores: list[Score] = []
    grids = features.on_grids()
    problem.progress.split(len(grids))
    for number, part in enumerate(grids):
        problem.progress.begin()
        fitted = part.fitted_on(_fitting(task, problem))
        place = f"grid {number}: " if number else ""
        found = described(KINDS[task.kind].run(task, replace(problem, place=place), fitted), fitted)
        # What is of no layer, or of a sum of layers, comes once.
        scores += [score for score in found if not number or score.layer in part.layers]
    if not features.failed:
        return scores
    n_failed = len({item.key for item in features.failed})
    return [replace(score, excluded={**score.excluded, FAILED: n_failed}) for score in scores]


def _training_speakers(task: Task, train: Sequence[Utterance]) -> dict[str, set[str]]:
    """Train domain, empty where a task does not cross any, -> the speakers of its training rows as
    records name them.

    Nothing where the label is the speaker: then the same voices are the point of the task.
    """
    voices: dict[str, set[str]] = {}
    if (task.of or task).settings.get("label") == "speaker":
        return voices
    for item in train:
        domain = item.label(task.settings["across"]) if task.kind == "shift" else ""
        if item.speaker:
            voices.setdefault(domain, set()).add(hashed_block(item.speaker))
    return voices


def _shared_speakers(score: Score, voices: Mapping[str, set[str]]) -> int | None:
    """How many of the scored speakers a head has learned from; None where that is unknown or
    nothing is trained.
    """
    if score.counts is None or score.split == "train" or not score.n_train or not voices:
        return None
    if score.head in ON_SPEAKERS:  # they learn from the speakers that occur in no trial
        return 0
    return len(voices.get(score.train_domain, set()) & set(score.counts["block"]))


def _say_what_scores_rest_on(task: Task, model: str, records: Sequence[Record]) -> None:
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
        log.warning(
            "%s, %s: %d of %d test speakers are in training too (marked in tables): a score may rest on their voices. Give all "
            "rows of a speaker the same split.",
            *(task.name, model, record.shared_speakers, record.n_blocks),
        )


def _refuse_failed(task: Task, corpus: Corpus, features: Features, hearing: Hearing) -> None:
    """Names a failed extraction before anything else is missed: all rows of a split that the task
    needs have no features.

    Raises:
        ProbeError: the store, the split, the first reason and what to do.
    """
    rows = hearing.heard(corpus)
    whole = task.kind == "verify"  # its trials may be of any split
    for split in ["all"] if whole else ["train", "dev", "test"]:
        of_split = [item for item in rows if whole or item.split == split]
        if of_split and not features.usable(of_split):
            item = of_split[0]
            store = features.stores[item.condition]
            failure = store.failure(item.key, item.path)
            raise ProbeError(
                f"{store.path}: the extraction of all {len(of_split)} {'' if whole else f'{split} '}utterances of {corpus.name} "
                f"failed ({item.key}: {failure.reason if failure else 'no reason is known'}), so there is nothing to run "
                f"{task.name} on. Mend the audio and run `probe extract` again."
            )


def _fitting(task: Task, problem: Problem) -> Fitting:
    settings = (task.of or task).settings
    width, how = settings.get("project", 0), settings.get("projection", "pca")
    return Fitting(problem.train, width, how, problem.seed, problem.memory_bytes)


def _record(
    score: Score,
    common: dict[str, Any],
    order: dict[str, int],
    trials_sha256: dict[str, str],
    depth: float | None,
    groups: Mapping[str, Mapping[str, str]],
    voices: Mapping[str, set[str]],
) -> Record:
    ends = (
        interval(dict(score.counts), seed=common["seed"], metric=score.metric)
        if score.counts is not None
        else None
    )
    return Record(
        **common,
        layer=score.layer,
        layer_index=order[score.layer],
        depth=depth,
        head=score.head,
        train_domain=score.train_domain,
        test_domain=score.test_domain,
        split=score.split,
        metric=score.metric,
        value=score.value,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        n=score.n,
        n_blocks=len(score.counts["block"]) if score.counts is not None else 0,
        counts=dict(score.counts or {}),
        groups=of_blocks(groups, score.counts["block"])
        if score.counts and score.split == "test" and not score.control
        else {},
        higher_is_better=score.higher_is_better,
        select_by=score.select_by,
        headline=score.headline,
        chosen=dict(score.chosen),
        search=[dict(item) for item in score.search],
        layer_weights=dict(score.layer_weights),
        curve=[dict(item) for item in score.curve],
        statistics=dict(score.statistics),
        control=score.control,
        budget=score.budget,
        n_train=score.n_train,
        excluded=dict(score.excluded),
        shared_speakers=_shared_speakers(score, voices),
        note=score.note,
        trials_sha256=trials_sha256.get(score.split, ""),
    )


def _outcomes(scores: Sequence[Score], records: Sequence[Record], corpus: Corpus) -> bytes:
    """Lines of what was said of every test utterance or trial, at the layer that dev chose.

    Utterances stand with their speaker and duration.
    """
    about = {
        item.key: {"speaker": item.speaker, "duration_s": item.duration_s}
        for item in corpus.utterances
    }
    picked = chosen_layers(frame_of(records))
    chosen = {
        (row.head, row.train_domain): row.chosen_layer
        for row in picked[picked["budget"] == ""].itertuples()
    }
    lines: list[str] = []
    seen: set[tuple[str, str, str]] = set()
    for score in scores:
        place = (score.head, score.train_domain, score.test_domain)
        if (
            score.split != "test"
            or score.control
            or score.budget
            or place in seen
            or chosen.get(place[:2]) != score.layer
        ):
            continue
        seen.add(place)
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


def _warn_of_copies(features: Features, corpus: Corpus, condition: str) -> None:
    """Names recordings that stand in two splits under different names: byte-identical files."""
    splits: dict[str, dict[str, str]] = {}
    for utterance in features.usable(heard(corpus.utterances, condition)):
        splits.setdefault(features.of(utterance).audio_sha256, {})[utterance.split] = utterance.key
    copies = [" = ".join(keys.values()) for keys in splits.values() if len(keys) > 1]
    if copies:
        log.warning(
            "%s: %d recordings are in more than one split, byte for byte: %s",
            corpus.name,
            len(copies),
            listed(copies, 3),
        )


def _warn_of_edges(task: str, model: str, scores: Sequence[Score]) -> None:
    """Names layers whose setting was picked from the end of its grid: beyond it there may be a
    better one.
    """
    edges: dict[tuple[str, float, str], list[str]] = {}
    for score in scores:
        if score.split != "dev" or score.control or score.budget:
            continue
        for name in sorted(TRIED & score.chosen.keys()):
            value = score.chosen[name]
            grid = sorted({entry[name] for entry in score.search if name in entry})
            if len(grid) > 1 and value in (grid[0], grid[-1]):
                edge = "smallest" if value == grid[0] else "largest"
                edges.setdefault((name, value, edge), []).append(score.layer)
    for (name, value, edge), layers in edges.items():
        names = listed(list(dict.fromkeys(layers)))
        log.warning(
            "%s, %s: dev picked %s = %g, the %s of its grid, at layers %s",
            task,
            model,
            name,
            value,
            edge,
            names,
        )
