"""Tasks: train and score heads, compare representations, and do all stages at once."""

import json
from pathlib import Path
from typing import Any

import click

from probe.commands.options import CHANGED, HEARD, HOW, decoding_of, options, running_of, storing_of
from probe.commands.printing import (
    conditions_of,
    exit_with_failures,
    finish_bench,
    print_extractions,
    print_files,
)
from probe.errors import ProbeError


@click.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@options("model", "hook", "corpus")
@click.option(
    "--from",
    "features",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of feature stores.",
)
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder of records.")
@options("trials", "dev_trials", "labels", *CHANGED, "condition", "conditions", "show_search")
@options("device", "seed", "limit", "memory", "again")
def run(
    tasks: tuple[str, ...],
    models: tuple[str, ...],
    hooks: tuple[str, ...],
    corpus: str,
    features: Path,
    to: Path,
    trials: Path | None,
    dev_trials: Path | None,
    labels: Path | None,
    label: str | None,
    head: str | None,
    texts: tuple[str, ...],
    declared: Path | None,
    disturb: str | None,
    project: int | None,
    projection: str | None,
    show_search: bool,
    device: str | None,
    seed: int,
    limit: int | None,
    memory_bytes: int,
    again: bool,
) -> None:
    """Train and score every layer. TASK is a ready task (see `probe tasks`) or a TOML file."""
    from probe.data.corpus import load_corpus
    from probe.evaluation.condition_plan import asked_under
    from probe.evaluation.prechecks import askable, check, stores_of
    from probe.evaluation.run import run as run_task
    from probe.evaluation.tasks import log_columns, open_task
    from probe.model_names import distinct_models
    from probe.models.catalogue import choose_device
    from probe.models.plugins.loader import with_hooks
    from probe.records import frame_of
    from probe.reporting.tables.files import (
        domain_matrices,
        search_table,
        summary_rows,
        to_markdown,
    )

    overrides = {
        "label": label,
        "head": head,
        "disturb": disturb,
        "project": project,
        "projection": projection,
    }
    opened = list(
        {task.name: task for task in (open_task(task, overrides) for task in tasks)}.values()
    )
    loaded = load_corpus(corpus)
    log_columns(loaded, opened)
    conditions = [
        *texts,
        *(
            []
            if texts or declared is None
            else [item.name for item in conditions_of((), declared, 0)]
        ),
    ]
    place = choose_device(device)
    beside: dict[str, Any] = {
        "trials": trials,
        "dev_trials": dev_trials,
        "labels": labels,
        "seed": seed,
        "limit": limit,
    }
    beside |= {"conditions": conditions or None}
    opened = [asked_under(task, conditions) for task in opened]
    possible, refused = askable(
        {task.name: task for task in opened}, lambda task: check(task, loaded, **beside)
    )
    named = distinct_models(with_hooks(models, hooks))
    pairs = {f"{model.name}, {task.name}": (model, task) for model in named for task in possible}
    asked, without = askable(
        pairs, lambda pair: stores_of(pair[1], pair[0], loaded.limited(limit), features)
    )
    refused += without
    left_out: dict[str, list[str]] = {}
    records = []
    for number, (model, task) in enumerate(asked, start=1):
        try:
            done = run_task(
                task,
                model,
                loaded,
                features,
                to,
                **beside,
                device=place,
                number=f"task {number} of {len(asked)}",
                memory_bytes=memory_bytes,
                again=again,
            )
        except ProbeError as error:
            if len(pairs) == len(opened) == 1:
                raise
            refused.append(f"{model.name}, {task.name}: {error}")
            continue
        for path in done.paths:
            click.echo(str(path), err=True)
        records += done.records
        if done.left_out:
            left_out[model.name] = done.left_out
    if records:
        frame = frame_of(records)
        click.echo(to_markdown(summary_rows(frame, all_heads=True), layers=False), nl=False)
        if matrices := domain_matrices(frame):
            click.echo("\n" + matrices, nl=False)
        if show_search:
            click.echo("\n" + search_table(frame), nl=False)
    exit_with_failures(left_out, refused)


@click.command()
@options("model", "hook")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="TASK",
    help="Ready task or TOML file; several times.",
)
@options("corpus")
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path),
    help="Receives features/, results/, tables and pictures.",
)
@options(
    *("trials", "dev_trials", "labels", *CHANGED, "layers", "stride", *HEARD, *HOW),
    *("show_search", "device", "seed", "limit", "dry_run", "again", "json"),
)
def bench(
    models: tuple[str, ...],
    hooks: tuple[str, ...],
    tasks: tuple[str, ...],
    corpus: str,
    to: Path,
    texts: tuple[str, ...],
    declared: Path | None,
    condition_seed: int,
    label: str | None,
    head: str | None,
    disturb: str | None,
    project: int | None,
    projection: str | None,
    show_search: bool,
    dry_run: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Models x tasks: extract what is missing, run every task, write the tables and the picture."""
    from probe.evaluation.tasks import open_task
    from probe.models.plugins.loader import with_hooks
    from probe.pipeline import bench as run_bench
    from probe.records import read_records
    from probe.reporting.tables.files import search_table

    overrides = {
        "label": label,
        "head": head,
        "disturb": disturb,
        "project": project,
        "projection": projection,
    }
    opened = list(
        {task.name: task for task in (open_task(task, overrides) for task in tasks)}.values()
    )
    heard = conditions_of(texts, declared, condition_seed) if texts or declared else None
    storing, running, decoding = storing_of(how), running_of(how), decoding_of(how)
    how |= {"conditions": heard, "condition_seed": condition_seed, "dry_run": dry_run}
    how |= {"storing": storing, "running": running, "decoding": decoding}
    done = run_bench(with_hooks(models, hooks), opened, corpus, to, **how)
    if dry_run or as_json:
        print_extractions(done.extractions, dry_run, as_json)
    if not dry_run:
        finish_bench(done, to, as_json)
        if show_search and not as_json and any((to / "results").glob("*.jsonl")):
            click.echo("\n" + search_table(read_records(to / "results")), nl=False)
    exit_with_failures(done.unusable, done.refused)


@click.command()
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Receives everything.",
)
@options("seed")
def demo(to: Path, seed: int) -> None:
    """The whole job on synthetic speech, offline: four kinds of tasks, three models, table and
    picture.
    """
    from probe.pipeline import demo as run_demo

    done = run_demo(to, seed)
    finish_bench(done, to, as_json=False)
    exit_with_failures(done.unusable, done.refused)


@click.command()
@options("model", "hook", "corpus")
@click.option(
    "--from",
    "features",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of feature stores.",
)
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path),
    help="Receives similarity/: files, tables, heat maps.",
)
@click.option(
    "--condition",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Compare clean with it; several times.",
)
@click.option(
    "--against", metavar="MODEL", help="Compare with every layer of this model, such as fbank."
)
@click.option(
    "--split",
    default="test",
    show_default=True,
    metavar="SPLIT",
    help="Of the manifest: train, dev, test or all.",
)
@click.option(
    "--view",
    metavar="VIEW",
    default="frames",
    show_default=True,
    help="frames, mean, meanstd or segments:n.",
)
@click.option(
    "--sample",
    "n_sample",
    type=click.IntRange(4),
    default=20_000,
    show_default=True,
    metavar="N",
    help="Rows for CKA and PWCCA.",
)
@options("layers", "seed", "limit", "memory")
def similarity(
    models: tuple[str, ...],
    hooks: tuple[str, ...],
    corpus: str,
    features: Path,
    to: Path,
    conditions: tuple[str, ...],
    against: str | None,
    **how: Any,
) -> None:
    """How far representations move: a model under conditions, against another model, or its layers
    among themselves.

    Cosine and relative distance of frames, CKA and PWCCA of layers. With --against, a --condition
    is that of both models.
    """
    from probe.data.corpus import load_corpus
    from probe.evaluation.layer_similarity import similarity as compare
    from probe.model_names import distinct_models
    from probe.models.plugins.loader import with_hooks
    from probe.reporting.tables.similarity_tables import (
        read_similarity,
        similarity_markdown,
        write_similarity,
    )

    loaded = load_corpus(corpus)
    conditions = tuple(dict.fromkeys(conditions))
    named = with_hooks([*models, *([against] if against else [])], hooks)
    other = named.pop() if against else None
    written = [
        path
        for model in distinct_models(named)
        for path in compare(
            model, loaded, features, to, conditions=conditions, against=other, **how
        )
    ]
    click.echo(similarity_markdown(read_similarity(*written)), nl=False)
    print_files([*written, *write_similarity(to / "similarity")])


@click.command()
@options("json")
def tasks(as_json: bool) -> None:
    """Ready tasks."""
    from probe.evaluation.tasks import open_task, ready_tasks

    rows = [
        {"task": task.name, "kind": task.kind, "description": task.description}
        for task in map(open_task, ready_tasks())
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['task']:<17}{row['kind']:<12}{row['description']}")
