"""The three stages chained: a bench of models and tasks, and the demo on built-in data."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probe.data.corpus import Corpus, load_corpus
from probe.errors import ProbeError, UsageError
from probe.evaluation.run import run
from probe.evaluation.tasks import Task, open_task
from probe.extraction.extract import Extraction, extract
from probe.models.catalogue import choose_device, open_model
from probe.records import read_records
from probe.reporting.tables import write_tables
from probe.store.views import SERVED_BY

log = logging.getLogger("probe")

DEMO_MODELS = ("fbank", "mfcc", "random:data2vec-audio-tiny")
DEMO_TASKS = ("speaker-id", "word-id", "asr-ctc", "domain-shift")


@dataclass
class Bench:
    """What a bench did.

    Attributes:
        extractions: one per model and view.
        files: tables and pictures that were written.
        refused: what could not be asked, in words: a model, a task and the reason.
        unusable: utterances without features, by model.
    """

    extractions: list[Extraction] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unusable: dict[str, list[str]] = field(default_factory=dict)


def bench(
    models: Sequence[str],
    tasks: Sequence[str | Path | Task],
    corpus: str | Path | Corpus,
    to: str | Path,
    *,
    trials: str | Path | None = None,
    dev_trials: str | Path | None = None,
    layers: str | None = None,
    device: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    dry_run: bool = False,
    ctc: bool = False,
    check: bool = True,
) -> Bench:
    """Extracts what is missing, runs every task on every model, and writes tables and pictures into ``to``.

    A model or a task that cannot be had is named in the result's ``refused``, and the rest goes on.

    Args:
        models, tasks: names.
        to: receives ``features/``, ``results/``, the tables and the pictures.
        dry_run: only the plan of every extraction.
        ctc: also runs the own CTC head of the models that have one.
        check: see `probe.extraction.extract.extract`.

    Raises:
        ProbeError: the corpus or a task file cannot be used at all.
    """
    opened = [task if isinstance(task, Task) else open_task(task) for task in tasks]
    if any(task.kind == "verify" for task in opened) and trials is None:
        names = ", ".join(task.name for task in opened if task.kind == "verify")
        raise UsageError(f"{names}: needs --trials, a CSV list with the columns enroll,test,label.")
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    place = choose_device(device)
    features, results = Path(to) / "features", Path(to) / "results"
    done = Bench()
    for model in models:
        try:
            encoder = open_model(model, device)
            if ctc and not encoder.info.ctc:
                log.info("%s: has no CTC head that --ctc could run", model)
            for view in views_for(opened):
                result = extract(
                    encoder,
                    loaded,
                    features,
                    layers=layers,
                    view=view,
                    limit=limit,
                    dry_run=dry_run,
                    requested=model,
                    ctc=ctc and bool(encoder.info.ctc),
                    check=check,
                )
                done.extractions.append(result)
                if result.failures:
                    done.unusable[model] = sorted(failure.key for failure in result.failures)
            del encoder
        except ProbeError as error:
            done.refused.append(f"{model}: {error}")
            log.error("%s", done.refused[-1])
            continue
        for task in [] if dry_run else opened:
            try:
                run(
                    task,
                    model,
                    loaded,
                    features,
                    results,
                    trials=trials,
                    dev_trials=dev_trials,
                    device=place,
                    seed=seed,
                    limit=limit,
                )
            except ProbeError as error:
                done.refused.append(f"{model}, {task.name}: {error}")
                log.error("%s", done.refused[-1])
    if not dry_run and any(results.glob("*.jsonl")):
        done.files = write_tables(read_records(results), Path(to))
    return done


def views_for(tasks: Sequence[Task]) -> list[str]:
    """The fewest views that serve the tasks: a view that another one gives is not extracted as well."""
    wanted = {task.view for task in tasks}
    return sorted(view for view in wanted if not wanted & set(SERVED_BY[view][1:]))


def demo(to: str | Path, seed: int = 0) -> Bench:
    """The whole job on a synthetic corpus: four kinds of tasks on filter banks, cepstra and a small random data2vec.

    Args:
        to: receives ``audio/`` with its manifests, ``features/``, ``results/``, the tables and the pictures.
    """
    from probe.data.synthetic import write_synthetic_corpus

    folder = Path(to)
    made = write_synthetic_corpus(folder / "audio", seed)
    everything = bench(
        DEMO_MODELS, ["speaker-verify"], made.verification, folder, trials=made.trials, dev_trials=made.dev_trials, seed=seed
    )
    rest = bench(DEMO_MODELS, DEMO_TASKS, made.corpus, folder, seed=seed)
    rest.extractions = everything.extractions + rest.extractions
    rest.refused = everything.refused + rest.refused
    return rest


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes:
        found: the store as it is now.
        repaired: names of shards that were extracted again, and of other files that were written anew.
        kept: file set aside -> why it was not removed.
    """

    found: Verification
    repaired: list[str]
    kept: dict[str, str]


def repair(
    store: str | Path,
    corpus: str | Path | Corpus,
    *,
    model: str | Encoder | None = None,
    device: str | None = None,
    check: bool = True,
) -> Repair:
    """Extracts the damaged shards of a store again, and nothing else.

    Damaged files are set aside, extracted into their old places, and removed once all that they held is there again. Nothing is
    touched before model and corpus are known to fit.

    Args:
        store: its folder.
        corpus: that the store was extracted from, or one that has the damaged shards' utterances.
        model: the store's own where None; a folder that has moved needs naming.
        check: see `probe.extraction.extract.extract`.

    Raises:
        ProbeError: the store's recipe is damaged, the corpus lacks utterances, or the model gives another recipe.
    """
    folder = Path(store)
    loaded = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    found = verify_store(folder)
    if found.head is None:
        raise ProbeError(f"{folder}: cannot be repaired: " + "; ".join(item.problem for item in found.damage if item.file == HEAD))
    repaired: list[str] = []
    with writing(folder):
        for item in found.damage:
            if item.file.startswith("plan-"):
                rebuild_plan(found, folder / item.file, {one.key: i for i, one in enumerate(loaded.utterances)})
                repaired.append(item.file)
        found = verify_store(folder) if repaired else found
        jobs = jobs_to_repair(found)
        todo = [job for job in jobs if not is_back(found, job)]
        certificate = any(item.file == CERTIFICATE for item in found.damage)
        if todo or certificate:
            encoder = _fitting_encoder(found, model, device)
            wanted = _utterances_of(folder, todo, loaded)
            for job in todo:
                set_aside(folder, job)
            if certificate:
                (folder / CERTIFICATE).rename(free_name(folder / CERTIFICATE))
    if todo or certificate:
        recipe = found.head["recipe"]
        again = replace(loaded, utterances=tuple(wanted))
        extract(encoder, again, folder.parent.parent, requested=found.head["requested"], check=check, **_asked(recipe))
        found = verify_store(folder)
    kept: dict[str, str] = {}
    for job in jobs:
        names = job.shard_names()
        if missing := lost(folder, job):
            kept |= {path.name: f"holds features of {listed(missing)} that the audio no longer gives" for name in names for path in files_aside(folder, name)}
        else:
            remove_aside(folder, job)
            repaired += names
    if certificate and (folder / CERTIFICATE).exists():
        for path in folder.glob(f"{CERTIFICATE}*{ASIDE}"):
            path.unlink()
        repaired.append(CERTIFICATE)
    return Repair(verify_store(folder) if repaired else found, repaired, kept)
