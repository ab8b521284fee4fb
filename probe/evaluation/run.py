"""Runs a task on a model's features and writes its records."""

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from probe.data import texts
from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.data.intervals import EXPECTED, IntervalSet, load_intervals
from probe.data.trials import Trial, TrialList, draw_trials, load_trials
from probe.environment import code_version, package_versions
from probe.errors import ProbeError, UsageError, listed
from probe.evaluation import classify, frames, shift, transcribe, verify
from probe.evaluation.backends import ON_SPEAKERS
from probe.evaluation.depth import depth_of, n_blocks
from probe.evaluation.fitting import Fitting
from probe.evaluation.hearing import Hearing, asked_under, groups_of, heard, hearings, of_blocks
from probe.evaluation.problem import Features, Problem, Score, described
from probe.evaluation.tasks import Task, open_task
from probe.evaluation.transcribe import CTC_LAYER
from probe.files import file_name, sha256_of_json, write_atomically
from probe.measures.uncertainty import interval
from probe.records import (
    NO_LAYER,
    SEVERAL,
    WEIGHTED,
    Record,
    chosen_layers,
    frame_of,
    hashed_block,
    iterate_records,
    write_records,
)
from probe.store.features import FeatureStore
from probe.store.folder import select_store

log = logging.getLogger("probe")

FAILED = "failed at extraction"
TRIED = {"l2", "learning_rate", "lm_weight", "word_score"}  # what comes from a grid
SECONDS_BETWEEN_SIGNS = 0.5  # of life, in the progress bar

KINDS: dict[str, Callable[[Task, Problem, Features], Iterator[Score]]] = {
    "classify": classify.run,
    "transcribe": transcribe.run,
    "verify": verify.run,
    "frames": frames.run,
    "shift": lambda task, problem, features: shift.run(task, problem, features, KINDS[task.of.kind] if task.of else classify.run),
}


@dataclass(frozen=True)
class Run:
    """What a run wrote.

    Attributes:
        paths: files of records, one for each condition of training and tests.
        records: their content.
        left_out: utterances of the corpus without features because their extraction failed, under any condition.
    """

    paths: list[Path]
    records: list[Record]
    left_out: list[str]

    @property
    def path(self) -> Path:
        """The first file."""
        return self.paths[0]


def run(
    task: str | Path | Task,
    model: str,
    corpus: str | Path | Corpus,
    features: str | Path,
    results: str | Path,
    *,
    trials: str | Path | None = None,
    dev_trials: str | Path | None = None,
    labels: str | Path | None = None,
    conditions: Sequence[str] | None = None,
    device: str = "cpu",
    seed: int = 0,
    limit: int | None = None,
    memory_bytes: int = 4 << 30,
    again: bool = True,
) -> Run:
    """Trains and scores every layer, and writes ``results/<model>__<task>__<corpus>__<condition>.jsonl`` for every condition.

    Args:
        task: a ready task's name, a TOML file, or a task that is open.
        model: as it was named at extraction.
        corpus: a manifest, ``librispeech:ROOT#subsets``, or a corpus that is loaded.
        features: the folder of stores.
        results: the folder of records.
        trials, dev_trials: lists for verification; without ``dev_trials`` seeded pairs of dev rows are drawn.
        labels: for frames, a CSV file of intervals or a folder of TextGrids, in the place of the one that the task names; its
            sha256 stands where that of a list of trials does.
        conditions: to be asked under, in the place of the task's own; each has its own store. What is disturbed is the task's
            (`probe.evaluation.hearing`). Where all of them train together they are part of the task's name.
        device: where heads are trained.
        seed: of heads, drawn trials, controls and the bootstrap.
        limit: at most so many utterances of each split, the ones that `probe.extract` takes; part of the corpus' name in records.
        memory_bytes: for features that are held at a time; what does not fit is read again when it is needed.
        again: whether to train anew where records of the same question, features, code and libraries are there already.

    Raises:
        ProbeError: features are missing, or the task cannot be asked of this corpus.
    """
    task = asked_under(task if isinstance(task, Task) else open_task(task), conditions)
    whole = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    corpus = whole.limited(limit)
    asked = hearings(task)
    stores = {
        condition: select_store(Path(features), model, task.view, condition, [item.key for item in corpus.utterances])
        for condition in dict.fromkeys(name for hearing in asked for name in hearing.conditions)
    }
    done = Run([], [], [])
    for line in texts.warnings(corpus.utterances) if (task.of or task).kind == "transcribe" else ():
        log.warning("%s: %s", corpus.name, line)
    groups = groups_of(corpus)
    for number, hearing in enumerate(asked):
        started = time.monotonic()
        found = Features({condition: stores[condition] for condition in hearing.conditions}, task.view, corpus)
        if not number:
            _warn_of_copies(found, corpus, hearing.conditions[0])
        for item in found.failed:
            if item.key not in done.left_out:
                done.left_out.append(item.key)
        found.require(corpus.name, hearing.heard(corpus))
        _refuse_failed(task, corpus, found, hearing)
        lists = _trial_lists(task, corpus, found, hearing, trials, dev_trials, seed)
        intervals = _intervals(task, whole, found, labels)
        shas = {split: item.sha256 for split, item in lists.items()}
        shas |= dict.fromkeys(("dev", "test"), intervals.sha256) if intervals else {}
        common = {
            condition: _provenance(task, model, corpus, stores, hearing, condition, seed, device)
            | {"limit": None if corpus is whole else limit}
            for condition in hearing.names.values()
        }
        paths = {condition: Path(results) / f"{_stem(fields)}.jsonl" for condition, fields in common.items()}
        folders = [stores[condition].path for condition in hearing.conditions]
        finished = {
            condition: () if again else _finished(path, folders, common[condition], shas) for condition, path in paths.items()
        }
        voices = _training_speakers(
            task, found.usable(hearing.rows([item for item in corpus.utterances if item.split == "train"]))
        )
        if all(finished.values()):
            log.info("%s: there already; --again trains anew", listed([str(path) for path in paths.values()]))
            done.paths.extend(paths.values())
            done.records.extend(record for records in finished.values() for record in records)
            continue
        scores = _scores(task, model, corpus, found, hearing, lists, intervals, seed, device, memory_bytes)
        seconds = round(time.monotonic() - started, 2)
        _warn_of_edges(task.name, model, scores)
        order = {layer: index for index, layer in enumerate([*found.layers, WEIGHTED, CTC_LAYER])} | {NO_LAYER: -1}
        blocks = n_blocks(found.store.recipe)
        for name, condition in hearing.names.items():
            of_file = [replace(score, test_domain="") if name else score for score in scores if _belongs(score, name, hearing)]
            fields = common[condition] | {"seconds": seconds}
            records = [_record(score, fields, order, shas, depth_of(score.layer, blocks), groups, voices) for score in of_file]
            path = paths[condition]
            if kept := write_records(path, records):
                log.warning("%s held records of another manifest, seed, task or recipe; they are kept as %s", path, kept.name)
            _write_outcomes(Path(results) / "outcomes" / path.name, of_file, records, corpus)
            done.paths.append(path)
            done.records.extend(records)
    _say_what_scores_rest_on(task, model, done.records)
    if done.left_out:
        log.warning(
            "%s: %d utterances failed at extraction and are left out: %s", corpus.name, len(done.left_out), listed(done.left_out)
        )
    return done


def _belongs(score: Score, name: str, hearing: Hearing) -> bool:
    """Whether a score stands in the file of a test set: its own tests, what was trained and chosen for them, and the controls.

    Of a training on clean audio the trained controls, budgets and codes stand in the file of clean tests alone.
    """
    if name and (score.test_domain or name) != name:
        return False
    if hearing.train_condition != CLEAN or hearing.names[name] == CLEAN:
        return True
    return not (score.budget or score.metric == "codelength" or score.control not in ("", "majority"))


def _stem(fields: dict[str, Any]) -> str:
    """The name of a file of records, without its ending."""
    condition, trained = fields["condition"], fields["train_condition"]
    heard = condition if trained in (CLEAN, condition) else f"{trained} to {condition}"
    return "__".join(file_name(part) for part in (fields["model"], fields["task"], fields["corpus"], heard))


def _finished(path: Path, stores: Sequence[Path], common: dict[str, Any], shas: dict[str, str]) -> list[Record]:
    """The records in ``path`` if they are of this very question, and younger than all that the stores hold; otherwise none."""
    if not path.exists() or common["code"]["commit"].endswith("+"):  # a working tree with changes has no version
        return []
    if path.stat().st_mtime_ns <= max(item.stat().st_mtime_ns for store in stores for item in store.glob("*.json")):
        return []
    try:
        records = list(iterate_records(path))
    except ProbeError:
        return []
    same = all(
        all(getattr(record, name) == value for name, value in common.items())
        and record.trials_sha256 == shas.get(record.split, "")
        for record in records
    )
    return records if same else []


def _scores(
    task: Task,
    model: str,
    corpus: Corpus,
    features: Features,
    hearing: Hearing,
    lists: dict[str, TrialList],
    intervals: IntervalSet | None,
    seed: int,
    device: str,
    memory_bytes: int,
) -> list[Score]:
    """What the task's kind says of every layer, with the utterances that have no features counted in each score."""
    by_split = {split: [item for item in corpus.utterances if item.split == split] for split in ("train", "dev", "test")}
    with tqdm(desc=f"{task.name} {model}", total=len(features.layers), unit="layer", disable=None) as bar:
        problem = Problem(
            train=features.usable(hearing.rows(by_split["train"])),
            dev=features.usable(hearing.rows(by_split["dev"])),
            tests={name: features.usable(rows) for name, rows in hearing.test_sets(by_split["test"]).items()},
            dev_trials=hearing.dev_trials(lists["dev"].trials) if lists else (),
            trials=hearing.trials(lists["test"].trials, task.settings["enroll"]) if lists else {},
            intervals=intervals,
            seed=seed,
            device=device,
            memory_bytes=memory_bytes,
            columns=(*corpus.columns, "condition"),
            tick=lambda word: _tick(bar, word),
        )
        scores: list[Score] = []
        for number, part in enumerate(features.on_grids()):
            fitted = part.fitted_on(_fitting(task, problem))
            found = described(KINDS[task.kind](task, problem, fitted), fitted)
            # What is of no layer, or of a sum of layers, comes once.
            scores += [score for score in found if not number or score.layer in part.layers]
        bar.update(bar.total - bar.n)
    if not features.failed:
        return scores
    n_failed = len({item.key for item in features.failed})
    return [replace(score, excluded={**score.excluded, FAILED: n_failed}) for score in scores]


def _training_speakers(task: Task, train: Sequence[Utterance]) -> dict[str, set[str]]:
    """Train domain, empty where a task does not cross any, -> the speakers of its training rows as records name them.

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
    """How many of the scored speakers a head has learned from; None where that is unknown or nothing is trained."""
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
    """Names a failed extraction before anything else is missed: all rows of a split that the task needs have no features.

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


def _provenance(
    task: Task,
    model: str,
    corpus: Corpus,
    stores: Mapping[str, FeatureStore],
    hearing: Hearing,
    condition: str,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """The fields that all records of a file share: what was asked of what, and what it was computed with."""
    tested = hearing.tests if condition == SEVERAL else [condition]
    parts = [stores[name] for name in (*hearing.train, *tested)]
    recipes = sorted({part.recipe_sha256 for part in parts})
    drawn = {part.recipe["disturbance"]["seed"] for part in parts if "disturbance" in part.recipe} - {None}
    store = stores[hearing.train[0]]
    final = store.aliases.get("final", "final")
    return {
        "model": model,
        "revision": store.recipe["model"]["revision"],
        "final_layer": final if final in store.layers else "",
        "task": task.name,
        "task_version": task.version,
        "kind": task.kind,
        "corpus": corpus.name,
        "condition": condition,
        "train_condition": hearing.train_condition,
        "condition_seed": drawn.pop() if len(drawn) == 1 else None,
        "seed": seed,
        "recipe": recipes[0] if len(recipes) == 1 else sha256_of_json(recipes),
        "task_sha256": task.sha256,
        "manifest_sha256": corpus.sha256,
        "code": code_version(),
        "packages": package_versions(),
        "device": device,
    }


def _record(
    score: Score,
    common: dict[str, Any],
    order: dict[str, int],
    trials_sha256: dict[str, str],
    depth: float | None,
    groups: Mapping[str, Mapping[str, str]],
    voices: Mapping[str, set[str]],
) -> Record:
    ends = interval(dict(score.counts), seed=common["seed"], metric=score.metric) if score.counts is not None else None
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
        groups=of_blocks(groups, score.counts["block"]) if score.counts and score.split == "test" and not score.control else {},
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


def _write_outcomes(path: Path, scores: Sequence[Score], records: Sequence[Record], corpus: Corpus) -> None:
    """What was said of every test utterance, with its speaker and duration, or of every trial, at the layer that dev chose."""
    about = {item.key: {"speaker": item.speaker, "duration_s": item.duration_s} for item in corpus.utterances}
    picked = chosen_layers(frame_of(records))
    chosen = {(row.head, row.train_domain): row.chosen_layer for row in picked[picked["budget"] == ""].itertuples()}
    lines: list[str] = []
    seen: set[tuple[str, str, str]] = set()
    for score in scores:
        place = (score.head, score.train_domain, score.test_domain)
        if score.split != "test" or score.control or score.budget or place in seen or chosen.get(place[:2]) != score.layer:
            continue
        seen.add(place)
        head = {"layer": score.layer, "head": score.head, "train_domain": score.train_domain, "test_domain": score.test_domain}
        lines += [
            json.dumps({**head, **outcome, **about.get(outcome.get("key", ""), {})}, ensure_ascii=False) + "\n"
            for outcome in score.outcomes
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines).encode())


def _warn_of_copies(features: Features, corpus: Corpus, condition: str) -> None:
    """Names recordings that stand in two splits under different names: byte-identical files."""
    splits: dict[str, dict[str, str]] = {}
    for utterance in features.usable(heard(corpus.utterances, condition)):
        splits.setdefault(features.of(utterance).audio_sha256, {})[utterance.split] = utterance.key
    copies = [" = ".join(keys.values()) for keys in splits.values() if len(keys) > 1]
    if copies:
        log.warning(
            "%s: %d recordings are in more than one split, byte for byte: %s", corpus.name, len(copies), listed(copies, 3)
        )


def _trial_lists(
    task: Task,
    corpus: Corpus,
    features: Features,
    hearing: Hearing,
    trials: str | Path | None,
    dev_trials: str | Path | None,
    seed: int,
) -> dict[str, TrialList]:
    """The dev and test trials of a verification task; trials whose utterances have no features are left out."""
    if task.kind != "verify":
        return {}
    if trials is None:
        raise UsageError(
            f"{task.name}: needs --trials, a CSV list with the columns enroll,test,label, or lines `label path1 path2`."
        )
    failed = {item.key for item in features.failed}
    dev_rows = [item for item in corpus.utterances if item.split == "dev" and item.key not in failed]
    tested = load_trials(trials, corpus)
    if dev_trials:
        chosen = load_trials(dev_trials, corpus)
    else:
        taken = {frozenset((trial.enroll.key, trial.test.key)) for trial in tested.trials}
        chosen = draw_trials(dev_rows, task.settings["dev_trials"], seed, taken)
    lists = {"dev": chosen, "test": tested}
    _check_trials(lists)
    heard = [
        *hearing.dev_trials(lists["dev"].trials),
        *itertools.chain(*hearing.trials(lists["test"].trials, task.settings["enroll"]).values()),
    ]
    features.require(corpus.name, [end for trial in heard for end in (trial.enroll, trial.test)])
    for split, item in lists.items():
        kept = tuple(trial for trial in item.trials if not {trial.enroll.key, trial.test.key} & failed)
        if len(kept) < len(item.trials):
            log.warning("%s: %d trials left out, their extraction failed", item.name, len(item.trials) - len(kept))
        _refuse_one_sided(item.name, kept, len(item.trials) - len(kept))
        lists[split] = replace(item, trials=kept)
    return lists


def _intervals(task: Task, corpus: Corpus, features: Features, given: str | Path | None) -> IntervalSet | None:
    """The labels over time that a task of kind frames wants.

    Args:
        corpus: without limit.
    """
    settings = (task.of or task).settings
    if (task.of or task).kind != "frames":
        return None
    path = Path(given) if given else corpus.folder / settings["labels"]
    if not given and not settings["labels"]:
        raise UsageError(f"{task.name}: needs --labels, {EXPECTED}, or the key labels in the task.")
    durations_s = {key: stored.duration_s for (_, key), stored in features.stored.items()}
    return load_intervals(path, corpus, durations_s, features.hop_s, settings["tier"], settings["types"])


def _check_trials(lists: dict[str, TrialList]) -> None:
    """Refuses trials that choose the layer and report it too; warns of what makes a trial too easy or wrong."""
    pairs = {name: {frozenset((trial.enroll.key, trial.test.key)) for trial in item.trials} for name, item in lists.items()}
    if common := pairs["dev"] & pairs["test"]:
        raise ProbeError(
            f"{lists['dev'].name}: {len(common)} of its trials are in {lists['test'].name} too; the layer would be chosen on the "
            "trials that are reported. Give lists without common trials, or leave --dev-trials out."
        )
    heard = {name: {end.speaker for trial in item.trials for end in (trial.enroll, trial.test)} for name, item in lists.items()}
    if both := sorted(heard["dev"] & heard["test"] - {""}):
        log.warning(
            "%s: %d speakers are in %s too (%s): the layer is chosen on voices that are reported",
            *(lists["dev"].name, len(both), lists["test"].name, listed(both, 3)),
        )
    for item in lists.values():
        ends = [(trial, trial.enroll, trial.test) for trial in item.trials]
        found = {
            "have an utterance of split train": sum("train" in (one.split, other.split) for _, one, other in ends),
            "have a label against the manifest's speakers": sum(
                bool(one.speaker and other.speaker) and trial.target != (one.speaker == other.speaker)
                for trial, one, other in ends
            ),
            "compare an utterance with itself": sum(one.key == other.key for _, one, other in ends),
        }
        for what, n in found.items():
            if n:
                log.warning("%s: %d of %d trials %s", item.name, n, len(ends), what)


def _refuse_one_sided(name: str, trials: Sequence[Trial], n_failed: int) -> None:
    kinds = Counter(trial.target for trial in trials)
    if not (kinds[True] and kinds[False]):
        why = f"the extraction of {n_failed} trials failed; " if n_failed else ""
        raise ProbeError(f"{name}: {why}{kinds[True]} target and {kinds[False]} other trials are left; expected some of both.")


def _warn_of_edges(task: str, model: str, scores: Sequence[Score]) -> None:
    """Names layers whose setting was picked from the end of its grid: beyond it there may be a better one."""
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
        log.warning("%s, %s: dev picked %s = %g, the %s of its grid, at layers %s", task, model, name, value, edge, names)


def _tick(bar: tqdm, word: str) -> None:
    """Moves the bar on to the next layer, or shows that the present one is alive."""
    if bar.disable:
        return
    if word:
        bar.set_postfix_str(word)
        bar.update(min(int(word.startswith("layer")), bar.total - bar.n - 1))
    elif time.time() - bar.last_print_t > SECONDS_BETWEEN_SIGNS:
        bar.last_print_t = time.time()
        bar.refresh()
