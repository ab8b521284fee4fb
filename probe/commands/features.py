"""Features: extract them, hear them, look at stores, verify and export them."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import click

from probe.commands.options import HEARD, HOW, decoding_of, options, running_of, storing_of
from probe.commands.printing import (
    conditions_of,
    exit_with_failures,
    print_extractions,
    print_files,
    print_table,
)
from probe.errors import EXIT_FAILURE, ProbeError, UsageError


@click.command()
@options("model", "hook", "corpus")
@click.option(
    "--to", required=True, type=click.Path(path_type=Path), help="Folder of all feature stores."
)
@click.option(
    "--view",
    metavar="VIEW",
    default="frames",
    show_default=True,
    help="What is kept: frames, segments:n, meanstd or mean.",
)
@options("stride", "sha256", *HEARD, *HOW, "layers", "device", "limit")
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(["train", "dev", "test"]),
    help="Only rows of this split, such as the test rows under a condition; several times. All where left out.",
)
@options("dry_run", "json")
def extract(
    models: tuple[str, ...],
    hooks: tuple[str, ...],
    corpus: str,
    to: Path,
    texts: tuple[str, ...],
    declared: Path | None,
    condition_seed: int,
    splits: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Dump every layer of every utterance; continue where an earlier run was interrupted."""
    from probe.data.corpus import load_corpus
    from probe.evaluation.tasks import log_columns
    from probe.extraction.extract import extract as extract_features
    from probe.model_names import distinct_models
    from probe.models.plugins.loader import with_hooks

    storing = storing_of(values, splits=splits or None)
    running, decoding = running_of(values), decoding_of(values)
    if running.sha256 is not None and len(models) > 1:
        raise UsageError("--sha256: belongs to one model; name one --model.")
    loaded = load_corpus(corpus, decoding.audio_root)
    log_columns(loaded)
    heard = conditions_of(texts, declared, condition_seed)
    done = [
        extract_features(
            model,
            loaded,
            to,
            condition=condition,
            storing=storing,
            running=running,
            decoding=decoding,
            dry_run=dry_run,
        )
        for model in distinct_models(with_hooks(models, hooks))
        for condition in heard
    ]
    print_extractions(done, dry_run, as_json)
    exit_with_failures(
        {
            str(item.store): [f"{failure.key} ({failure.reason})" for failure in item.failures]
            for item in done
            if item.failures
        }
    )


@click.command()
@click.argument("corpus", metavar="CORPUS")
@options(*HEARD)
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the WAV files and the picture.",
)
@click.option("--n", type=click.IntRange(1, 20), default=3, show_default=True, help="Utterances.")
@options("audio_root", "json")
def listen(
    corpus: str,
    texts: tuple[str, ...],
    declared: Path | None,
    condition_seed: int,
    to: Path,
    n: int,
    audio_root: Path | None,
    as_json: bool,
) -> None:
    """Write a few utterances of CORPUS, clean and under each condition, to hear and see them; print
    their levels.
    """
    from probe.pipeline import listen as write_examples

    done = write_examples(corpus, conditions_of(texts, declared, condition_seed), to, n, audio_root)
    rows = [
        {
            "utterance": item.key,
            "condition": item.condition,
            "seconds": round(len(item.samples) / 16_000, 3),
            "level_db": round(item.level_db, 2) if math.isfinite(item.level_db) else None,
            "snr_db": None if item.snr_db is None else round(item.snr_db, 2),
            "file": str(path),
        }
        for item, path in zip(done.examples, done.files, strict=False)
    ]
    if as_json:
        click.echo(
            json.dumps(
                {"gain_db": round(done.gain_db, 2), "examples": rows}, indent=2, ensure_ascii=False
            )
        )
    else:
        head = ["utterance", "condition", "seconds", "level dBFS", "SNR dB", "file"]
        cells = [
            [item[name] for name in ("utterance", "condition", "seconds", "level_db", "snr_db")]
            for item in rows
        ]
        cells = [[*row, path.name] for row, path in zip(cells, done.files, strict=False)]
        print_table(head, [["-" if cell is None else str(cell) for cell in row] for row in cells])
    click.echo(
        f"{to}: {len(rows)} sounds, gain of all so that none clips: {done.gain_db:.1f} dB", err=True
    )
    print_files(done.files[len(rows) :])


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@options("json")
def show(store: Path, as_json: bool) -> None:
    """What is inside a feature store, or in every store beneath a folder."""
    from probe.store.stores import describe_store, find_stores

    stores = find_stores(store)
    if not stores:
        raise ProbeError(
            f"{store}: no feature store here or two folders below; expected a folder that `probe extract` wrote."
        )
    described = [describe_store(item) for item in stores]
    if as_json:
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
    else:
        click.echo(
            "\n\n".join(
                "\n".join(f"{name:<13} {value}" for name, value in item.items())
                for item in described
            )
        )


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@options("json")
def verify(store: Path, as_json: bool) -> None:
    """Read every byte of a feature store, or of every store beneath a folder, and name what is
    damaged, with the commands that mend it.

    Exits with 1 where anything is damaged, or cannot be read, in which case it may be sound. Notes
    are no damage: planned shards that are not written yet, files of a run that was killed.
    """
    from tqdm import tqdm

    from probe.store.integrity import store_folders, verify_store

    folders = store_folders(store)
    n_bytes = sum(path.stat().st_size for folder in folders for path in folder.glob("shard-*.h5"))
    with tqdm(
        total=n_bytes, desc="verify", unit="B", unit_scale=True, leave=False, disable=None
    ) as bar:
        verified = [verify_store(folder, bar.update) for folder in folders]
    if as_json:
        click.echo(json.dumps([item.as_json() for item in verified], indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(line for item in verified for line in item.lines()))
    if any(item.damage or item.unread for item in verified):
        sys.exit(EXIT_FAILURE)


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--to", required=True, type=click.Path(path_type=Path), help="A new file; for npy a new folder."
)
@click.option(
    "--form",
    type=click.Choice(["hdf5", "npy", "sentences"]),
    default="hdf5",
    show_default=True,
    help="One packed file; an array per layer and index.csv; or (layer, frame, dim) per utterance with sentence_to_index.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True
)
@options("layers")
@click.option(
    "--corpus",
    metavar="CSV",
    help="Only the utterances of this manifest, in its order and with its columns.",
)
def export(
    store: Path, to: Path, form: str, dtype: str, layers: str | None, corpus: str | None
) -> None:
    """Write a store's features as plain HDF5 or NumPy files for other programs."""
    from tqdm import tqdm

    from probe.pipeline import export as export_store

    with tqdm(desc="export", unit="B", unit_scale=True, leave=False, disable=None) as bar:

        def tick(n_bytes: int, of: int) -> None:
            bar.total = of
            bar.update(n_bytes)

        missing = export_store(
            store, to, form, layers=layers, dtype=dtype, corpus=corpus, tick=tick
        )
    click.echo(str(to))
    exit_with_failures({f"{store}, not extracted": missing} if missing else {})
