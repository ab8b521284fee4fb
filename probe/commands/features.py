"""Commands that write, inspect and export features."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from probe.commands.help import command, option
from probe.commands.options import (
    PATH,
    PLACE,
    STORAGE,
    audio_root_option,
    condition_options,
    corpus_option,
    dry_run_option,
    engine_options,
    extraction_options,
    format_option,
    layers_option,
    models_options,
    sha256_option,
    shard_option,
)
from probe.commands.printing import (
    exit_with_failures,
    print_extractions,
    print_facts,
    print_files,
    print_json,
    print_table,
)
from probe.errors import EXIT_FAILURE, ProbeError, UsageError

if TYPE_CHECKING:
    from probe.data.conditions.condition import Condition
    from probe.engines.settings import EngineSettings
    from probe.extraction.settings import Extracting
    from probe.model_names import ModelName

store_argument = click.argument("store", type=PLACE)


@command()
@models_options
@corpus_option
@option(
    "--to",
    required=True,
    type=PLACE,
    metavar="DIR",
    help="Folder of all feature stores, or its URL.",
)
@extraction_options(
    option(
        "--view",
        metavar="VIEW",
        default="frames",
        show_default=True,
        group=STORAGE,
        help="What to keep: frames, segments:n, meanstd or mean.",
    ),
    sha256_option,
    option(
        "--only",
        "splits",
        multiple=True,
        callback=lambda _context, _option, splits: splits or None,
        type=click.Choice(["train", "dev", "test"]),
        help="Extract only rows of this split (repeatable; default: all).",
    ),
    shard_option,
)
@condition_options
@engine_options
@dry_run_option
@format_option("text", "json")
def extract(
    models: "list[ModelName]",
    corpus: str,
    to: Path,
    extracting: "Extracting",
    conditions: "list[Condition]",
    engine: "EngineSettings",
    dry_run: bool,
    form: str,
) -> None:
    """Extract every layer of every utterance into feature stores.

    Only what is missing is extracted: an interrupted run continues where it stopped. Several runs
    may work on one store at the same time.

    \b
    Examples:
      probe extract --model mfcc --corpus corpus.csv --to features/
      probe extract --model fbank --corpus dev.csv --to features/ \\
          --view meanstd --condition noise:babble@10dB --only test
      probe extract --model mfcc --corpus corpus.csv --to features/ --jobs 4
    """
    from probe.data.conditions.grammar import CLEAN
    from probe.data.corpus import load_corpus
    from probe.evaluation.tasks import log_columns
    from probe.extraction.engine_jobs import EachCondition, Extractions, extract_on
    from probe.extraction.extract import extract as extract_features
    from probe.model_names import distinct_models

    if extracting.running.sha256 is not None and len(models) > 1:
        raise UsageError("--sha256: belongs to one model; name one --model.")
    loaded = load_corpus(corpus, extracting.decoding.audio_root)
    log_columns(loaded)
    names, problems = distinct_models(models), []
    if dry_run:
        engine.refuse_plan()
    with engine.open(extracting.running.device, to) as workers:
        if workers is None:
            extractions = [
                extract_features(
                    model,
                    loaded,
                    to,
                    condition=condition,
                    storing=extracting.storing,
                    running=extracting.running,
                    decoding=extracting.decoding,
                    dry_run=dry_run,
                )
                for model in names
                for condition in conditions or (CLEAN,)
            ]
        else:
            steps = EachCondition(conditions or (CLEAN,), extracting)
            done = extract_on(workers, Extractions(steps, loaded, to, extracting), names, stop=True)
            extractions = [item for of_model in done.values() for item in of_model.extractions]
            problems = [item for of_model in done.values() for item in of_model.problems]
    print_extractions(extractions, dry_run, form)
    exit_with_failures(
        {
            str(item.store): [f"{failure.key} ({failure.reason})" for failure in item.failures]
            for item in extractions
            if item.failures
        },
        problems,
    )


@command()
@click.argument("corpus", metavar="CORPUS")
@condition_options
@option(
    "--to", required=True, type=PATH, metavar="DIR", help="Folder for WAV files and spectrograms."
)
@option(
    "--n",
    type=click.IntRange(1, 20),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of utterances.",
)
@audio_root_option
@format_option("text", "json")
def listen(
    corpus: str,
    conditions: "Sequence[Condition]",
    to: Path,
    n: int,
    audio_root: Path | None,
    form: str,
) -> None:
    """Write a few utterances under each condition as WAV files.

    The table shows the level of each file; spectrograms.png shows all of them.

    \b
    Example:
      probe listen dev.csv --condition noise:babble@10dB --to listen/
    """
    from probe.data.conditions.audition import listen as write_examples
    from probe.reporting.figures.spectrograms import draw_spectrograms
    from probe.reporting.figures.style import missing_matplotlib

    written = write_examples(corpus, conditions, to, n, audio_root)
    rows = [
        {
            "utterance": item.key,
            "condition": item.condition,
            "seconds": round(len(item.samples) / 16_000, 3),
            "level_db": round(item.level_db, 2) if math.isfinite(item.level_db) else None,
            "snr_db": None if item.snr_db is None else round(item.snr_db, 2),
            "file": str(path),
        }
        for item, path in zip(written.examples, written.files, strict=True)
    ]
    if form == "json":
        print_json({"gain_db": round(written.gain_db, 2), "examples": rows})
    else:
        head = ["utterance", "condition", "seconds", "level dBFS", "SNR dB", "file"]
        cells = [[*list(row.values())[:-1], Path(str(row["file"])).name] for row in rows]
        print_table(
            head,
            [["-" if cell is None else str(cell) for cell in row] for row in cells],
            optional=["seconds", "file"],
        )
    click.echo(
        f"{to}: {len(rows)} files, lowered by {abs(written.gain_db):.1f} dB so that none clips",
        err=True,
    )
    picture = to / "spectrograms.png"
    if not missing_matplotlib():
        draw_spectrograms(written.examples, picture)
    print_files([picture] if picture.exists() else [])


@command()
@store_argument
@format_option("text", "json")
def show(store: Path, form: str) -> None:
    """Show what a feature store holds, or every store in a folder.

    \b
    Example:
      probe show features/
    """
    from probe.store.stores import describe_store, find_stores

    stores = find_stores(store)
    if not stores:
        raise ProbeError(
            f"{store}: no feature store here or two folders below; expected a folder that "
            "`probe extract` wrote."
        )
    described = [describe_store(item) for item in stores]
    if form == "json":
        print_json(described)
        return
    for number, facts in enumerate(described):
        if number:
            click.echo()
        print_facts(facts)


@command()
@store_argument
@format_option("text", "json")
def verify(store: Path, form: str) -> None:
    """Read every byte of feature stores and report what is damaged.

    The report includes the commands that extract damaged shards again. The exit code is 1 if
    anything is damaged or cannot be read. Shards that are planned but not written yet, and files
    that a killed run left behind, are reported as notes, not as damage.

    \b
    Example:
      probe verify features/
    """
    from tqdm import tqdm

    from probe.store.feature_store import bytes_of_shards
    from probe.store.integrity import store_folders, verify_store

    folders = store_folders(store)
    n_bytes = sum(map(bytes_of_shards, folders))
    with tqdm(
        total=n_bytes, desc="verify", unit="B", unit_scale=True, leave=False, disable=None
    ) as bar:
        verified = [verify_store(folder, bar.update) for folder in folders]
    if form == "json":
        print_json([item.as_json() for item in verified])
    else:
        click.echo("\n".join(line for item in verified for line in item.lines()))
    if any(item.damage or item.unread for item in verified):
        sys.exit(EXIT_FAILURE)


@command()
@store_argument
@option(
    "--to",
    required=True,
    type=PATH,
    metavar="PATH",
    help="File to write, or a new folder for npy and sentences.",
)
@option(
    "--format",
    "form",
    type=click.Choice(["hdf5", "npy", "sentences"]),
    default="hdf5",
    show_default=True,
    help="hdf5: one file; npy: an array per layer and index.csv; sentences: (layer, frame, dim) "
    "per utterance with sentence_to_index.",
)
@option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Data type of the values.",
)
@layers_option
@option(
    "--corpus",
    metavar="CSV",
    help="Export only utterances of this manifest, in its order and with its columns.",
)
def export(
    store: Path, to: Path, form: str, dtype: str, layers: str | None, corpus: str | None
) -> None:
    """Export a feature store as plain HDF5 or NumPy files.

    \b
    Examples:
      probe export features/wav2vec2-base/frames-clean-1a2b3c4d --to features.h5
      probe export STORE --format npy --layers 6,12 --to arrays/
    """
    from tqdm import tqdm

    from probe.data.corpus import load_corpus
    from probe.store.export import export as export_store

    selected = load_corpus(corpus) if corpus else None
    with tqdm(desc="export", unit="B", unit_scale=True, leave=False, disable=None) as bar:

        def tick(n_bytes: int, total: int) -> None:
            bar.total = total
            bar.update(n_bytes)

        missing = export_store(
            store, to, form, layers=layers, dtype=dtype, corpus=selected, tick=tick
        )
    click.echo(str(to))
    exit_with_failures({f"{store}, not extracted": missing} if missing else {})
