"""Commands that train and score heads, compare representations, or run all stages at once."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.commands.help import command, option
from probe.commands.messages import say_held_warnings
from probe.commands.options import (
    PATH,
    PLACE,
    built,
    corpus_option,
    dry_run_option,
    engine_options,
    extraction_options,
    features_option,
    format_option,
    hook_option,
    layers_option,
    limit_option,
    memory_option,
    model_option,
    models_options,
    scope_options,
    seed_and_again_options,
    seed_option,
    shard_option,
    show_search_option,
    split_corpus_options,
    stored_scope_options,
    task_argument,
    task_options,
    training_options,
)
from probe.commands.printing import (
    exit_with_failures,
    print_extractions,
    print_files,
    print_json,
    print_scores,
    print_table,
)

if TYPE_CHECKING:
    from probe.engines.settings import EngineSettings
    from probe.engines.share import Share
    from probe.evaluation.run import Training
    from probe.evaluation.similarity_sides import Comparing
    from probe.evaluation.tasks import Task
    from probe.evaluation.trial_lists import Scope
    from probe.extraction.settings import Extracting
    from probe.model_names import ModelName


@command()
@task_argument
@models_options
@split_corpus_options
@features_option
@option("--to", required=True, type=PLACE, metavar="DIR", help="Folder of records, or its URL.")
@stored_scope_options
@training_options
@shard_option
@engine_options
@show_search_option
def run(
    tasks: "list[Task]",
    models: "list[ModelName]",
    corpus: str,
    features: Path,
    to: Path,
    scope: "Scope",
    training: "Training",
    share: "Share",
    engine: "EngineSettings",
    show_search: bool,
) -> None:
    """Train and score heads on every layer of stored features.

    TASK is a built-in task (see `probe tasks`) or a TOML file.

    \b
    Example:
      probe run speaker-id word-id --model mfcc --corpus corpus.csv \\
          --from features/ --to results/
    """
    from probe.engines.engine import Division
    from probe.pipeline import run_tasks
    from probe.records import frame_of
    from probe.reporting.tables.score_tables import search_table

    with engine.open(training.device, to) as workers:
        division = Division(share, workers)
        finished = run_tasks(models, tasks, corpus, features, to, scope, training, division)
    say_held_warnings()
    for path in finished.paths:
        click.echo(str(path), err=True)
    if finished.records:
        frame = frame_of(finished.records)
        print_scores(frame, all_heads=True)
        if show_search:
            click.echo("\n" + search_table(frame), nl=False)
    exit_with_failures(finished.left_out, finished.refused)


@command()
@models_options
@task_options
@split_corpus_options
@option(
    "--to",
    required=True,
    type=PLACE,
    metavar="DIR",
    help="Folder for features/, results/, tables and figures, or its URL.",
)
@scope_options
@extraction_options()
@seed_and_again_options
@engine_options
@show_search_option
@dry_run_option
@format_option("text", "json")
def bench(
    models: "list[ModelName]",
    tasks: "list[Task]",
    corpus: str,
    to: Path,
    scope: "Scope",
    extracting: "Extracting",
    training: "Training",
    engine: "EngineSettings",
    show_search: bool,
    dry_run: bool,
    form: str,
) -> None:
    """Run every task on every model, from audio to tables.

    Features that are missing are extracted first; the tables and layer curves cover all records in
    the folder. A model or task that cannot be used is reported, and the others continue.

    \b
    Example:
      probe bench --model facebook/wav2vec2-base --model fbank --task word-id \\
          --corpus corpus.csv --to out/
    """
    from probe.pipeline import bench as run_bench

    if dry_run:
        engine.refuse_plan()
    with engine.open(extracting.running.device, to) as workers:
        finished = run_bench(
            models,
            tasks,
            corpus,
            to,
            scope=scope,
            training=replace(training, memory_bytes=extracting.running.memory_bytes),
            extracting=replace(extracting, engine=workers),
            dry_run=dry_run,
        )
    if dry_run or form == "json":
        print_extractions(finished.extractions, dry_run, form)
    if not dry_run:
        _print_results(finished.files, to, form, show_search)
    exit_with_failures(finished.unusable, finished.refused, was_said=not finished.extractions)


@command()
@option(
    "--to",
    type=PATH,
    default=Path("demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for everything.",
)
@seed_option
def demo(to: Path, seed: int) -> None:
    """Show what a small encoder's layers hold, offline, in minutes.

    The encoder ships with layerprobe. The demo generates speech of 48 voices, asks of every layer
    what is said, who says it and whether it holds over a telephone, beside random weights, filter
    banks and cepstra, and ends with tables, curves and one page, report.html.

    \b
    Example:
      probe demo --to demo/
    """
    from probe.demo import demo as run_demo
    from probe.demo import story
    from probe.records import read_records
    from probe.reporting.scores import Scores

    # The demo says what it does; the notes of its steps would bury that.
    package = logging.getLogger("probe")
    logging.getLogger("probe.demo").setLevel(package.level)
    package.setLevel(logging.ERROR)
    finished = run_demo(to, seed)
    for line in story(Scores.of(read_records(to / "results"))):
        click.echo(line)
    click.echo(f"\nAll curves, intervals and differences: {to / 'report.html'}")
    exit_with_failures(finished.unusable, finished.refused)


def _print_results(files: Sequence[Path], to: Path, form: str, show_search: bool = False) -> None:
    """Print the scores of a bench, then where to find its files."""
    from probe.records import read_records
    from probe.reporting.tables.score_tables import search_table

    say_held_warnings()
    if form == "json" or not any((to / "results").glob("*.jsonl")):
        return
    records = read_records(to / "results")
    print_scores(records)
    if show_search:
        click.echo("\n" + search_table(records), nl=False)
    results = to / "results"
    click.echo(
        f"{len(files)} tables and figures are in {to}. Layers side by side: probe table --from "
        f"{results} --by layers. One page: probe report --from {results}",
        err=True,
    )


def _compared(
    models: tuple[str, ...], hooks: tuple[str, ...], against: str | None
) -> "tuple[list[ModelName], ModelName | None]":
    """The models, and the one that they are compared with."""
    from probe.model_names import distinct_models
    from probe.models.plugins.loader import with_hooks

    named = with_hooks([*models, *([against] if against else [])], hooks)
    other = named.pop() if against else None
    return distinct_models(named), other


def _comparing(**values: Any) -> "Comparing":
    from probe.evaluation.similarity_sides import Comparing

    return Comparing(**values)


@command()
@built(
    "compared",
    _compared,
    model_option,
    hook_option,
    option(
        "--against",
        metavar="MODEL",
        help="Compare with every layer of this model, for example fbank.",
    ),
)
@corpus_option
@features_option
@option(
    "--to",
    required=True,
    type=PATH,
    metavar="DIR",
    help="Folder for similarity/ (tables, figures).",
)
@option(
    "--condition",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Compare clean features with features under this condition (repeatable).",
)
@built(
    "comparing",
    _comparing,
    option(
        "--only",
        "split",
        default="test",
        show_default=True,
        metavar="SPLIT",
        help="Rows of the manifest: train, dev, test or all.",
    ),
    option(
        "--view",
        metavar="VIEW",
        help="Rows: frames (the default), mean, meanstd or segments:n; with --labels interval (the "
        "default), the mean of each labelled interval, or interval:third, of its middle third.",
    ),
    option(
        "--labels",
        type=PATH,
        metavar="PATH",
        help="Labels over time, as for `probe run`: compare layers with them.",
    ),
    option(
        "--tier",
        metavar="NAME",
        help="Tier or column of --labels, such as words (default: phones).",
    ),
    option(
        "--vectors",
        type=PATH,
        metavar="FILE",
        help="Compare layers with these vectors of the labels: NAME.npy with the labels in "
        "NAME.txt, or text lines as GloVe's.",
    ),
    option(
        "--sample",
        "n_sample",
        type=click.IntRange(4),
        default=20_000,
        show_default=True,
        metavar="N",
        help="Number of rows for all measures but cosine and distance.",
    ),
    option("--in-sample", is_flag=True, help="Take PWCCA on the rows that it is fitted to, too."),
    layers_option,
    seed_option,
    memory_option,
    limit_option,
)
def similarity(
    compared: "tuple[list[ModelName], ModelName | None]",
    corpus: str,
    features: Path,
    to: Path,
    conditions: tuple[str, ...],
    comparing: "Comparing",
) -> None:
    """Measure how similar layers are to other layers and to labels.

    The measures are cosine and relative distance of frames, CKA and CCA of layers, and with labels
    the mutual information. Compare clean features with each --condition, a model with another
    (--against, both under the condition), layers with labelled phones or words (--labels) or with
    vectors of these (--vectors), or the layers of one model with each other.

    \b
    Examples:
      probe similarity --model M --corpus corpus.csv --from features/ --to out/ \\
          --condition noise:babble@10dB
      probe similarity --model M --corpus corpus.csv --from features/ --to out/ \\
          --against fbank
      probe similarity --model M --corpus corpus.csv --from features/ --to out/ \\
          --labels phones.csv --view interval:third
      probe similarity --model M --corpus corpus.csv --from features/ --to out/ \\
          --labels aligned/ --tier words --vectors glove.6B.300d.txt
    """
    from probe.data.corpus import load_corpus
    from probe.evaluation.layer_similarity import similarity as compare
    from probe.reporting.tables.similarity_tables import (
        read_similarity,
        similarity_markdown,
        statements_markdown,
        write_similarity,
    )

    loaded = load_corpus(corpus)
    models, against = compared
    written = [
        path
        for model in models
        for path in compare(
            *(model, loaded, features, to),
            conditions=conditions,
            against=against,
            comparing=comparing,
        )
    ]
    frame = read_similarity(*written)
    click.echo(similarity_markdown(frame) + statements_markdown(frame), nl=False)
    print_files([*written, *write_similarity(to / "similarity")])


@command()
@click.argument("name", required=False, metavar="[TASK]")
@format_option("text", "json")
def tasks(name: str | None, form: str) -> None:
    """List the built-in tasks, or show one with its protocol.

    A protocol is whose task it is, the corpus with the command that runs it, and every point in
    which scores differ from the published ones.

    \b
    Example:
      probe tasks superb-ks
    """
    from probe.protocols import NOT_OFFERED, ready_summaries

    if name:
        from probe.evaluation.tasks import open_task

        _print_task(open_task(name), form)
        return
    summaries = ready_summaries()
    if form == "json":
        print_json(summaries)
        return
    columns = ["task", "kind", "description"]
    print_table(columns, [[item[column] for column in columns] for item in summaries])
    for task, reason in NOT_OFFERED.items():
        click.echo(f"{task} is not offered: {reason}.", err=True)


def _print_task(task: "Task", form: str) -> None:
    """Print one task: its settings that differ from its kind's defaults, and its protocol."""
    protocol = task.protocol
    settings = task.settings.model_dump(exclude_defaults=True)
    if form == "json":
        about = {"task": task.name, "kind": task.kind.name, "description": task.description}
        known = protocol.model_dump() | {"command": protocol.command(task.spec)} if protocol else {}
        print_json(about | {"version": task.version, "settings": settings, "protocol": known})
        return
    click.echo(f"{task.name} ({task.kind.name}, version {task.version}): {task.description}")
    click.echo(
        "Settings: " + (", ".join(f"{k} = {v!r}" for k, v in settings.items()) or "defaults")
    )
    if not protocol:
        return
    click.echo(f"Protocol: {protocol.of}")
    click.echo(f"Corpus: {protocol.audio}. From {protocol.download}")
    click.echo(f"Command: {protocol.command(task.spec)}")
    click.echo("Deviations:" if protocol.deviations else "Deviations: none")
    for number, sentence in enumerate(protocol.deviations, start=1):
        click.echo(f"  {number}. {sentence}")
    if protocol.clean:
        click.echo(f"The same question with statistics that hold: {protocol.clean}")
