"""The command line: parse, call, print. stdout is data, stderr is progress."""

import itertools
import json
import logging
import math
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from probe.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    EXIT_TERMINATED,
    EXIT_USAGE,
    ProbeError,
    UsageError,
    listed,
)
from probe.options import HEARD, HOW, options
from probe.version import __version__

if TYPE_CHECKING:
    from probe.data.conditions.condition import Condition
    from probe.extraction.extract import Extraction

EXIT_CODES = "Exit codes: 0; 1 failure; 2 usage; 3 finished, but some utterances failed; 130 Ctrl-C; 143 SIGTERM, SIGUSR1."


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="probe")
@click.option("-q", "--quiet", is_flag=True, help="Only warnings on stderr.")
def cli(quiet: bool) -> None:
    """Features of every layer of pretrained speech models, probes on every layer, comparison tables."""
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    handler = AboveBars()
    handler.setFormatter(Plain("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("probe").setLevel(logging.WARNING if quiet else logging.INFO)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its report on keys says what our notes say
    for noisy in ("huggingface_hub", "transformers", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


@cli.command()
@options("model", "corpus")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder of all feature stores.")
@click.option(
    "--view", metavar="VIEW", default="frames", show_default=True, help="What is kept: frames, segments:n, meanstd or mean."
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
    corpus: str,
    to: Path,
    view: str,
    stride: int,
    sha256: str | None,
    texts: tuple[str, ...],
    declared: Path | None,
    condition_seed: int,
    audio_root: Path | None,
    splits: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Dump every layer of every utterance; continue where an earlier run was interrupted."""
    from probe.data.corpus import load_corpus
    from probe.extraction.extract import extract as extract_features

    if stride > 1 and view != "frames":
        raise UsageError(f"--stride {stride}: only --view frames has a stride, not {view}.")
    if sha256 is not None and len(models) > 1:
        raise UsageError("--sha256: belongs to one model; name one --model.")
    loaded = load_corpus(corpus, audio_root)
    how |= {"view": f"frames:{stride}" if stride > 1 else view, "sha256": sha256, "audio_root": audio_root}
    how |= {"splits": splits or None, "dry_run": dry_run}
    heard = conditions_of(texts, declared, condition_seed)
    done = [extract_features(model, loaded, to, condition=condition, **how) for model in models for condition in heard]
    print_extractions(done, dry_run, as_json)
    exit_with_failures(
        {str(item.store): [f"{failure.key} ({failure.reason})" for failure in item.failures] for item in done if item.failures}
    )


@cli.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@options("model", "corpus")
@click.option("--from", "features", required=True, type=click.Path(path_type=Path), help="Folder of feature stores.")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder of records.")
@options("trials", "dev_trials", "labels")
@click.option("--label", metavar="COLUMN", help="classify: the manifest's column that is predicted.")
@click.option("--head", type=click.Choice(["linear", "mlp", "bilstm"]), help="transcribe: the CTC head.")
@options("condition", "conditions")
@click.option(
    "--disturb",
    type=click.Choice(["test", "train", "both", "mixed"]),
    help="Which rows' audio the conditions are of; test: trained clean, once, and tested under each.",
)
@click.option("--project", type=click.IntRange(0), metavar="N", help="First project every layer to N dimensions; 0: not.")
@click.option("--projection", type=click.Choice(["pca", "random"]), help="How: fitted on the training rows, or at random.")
@click.option("--show-search", is_flag=True, help="Also print every setting that was tried, with its dev scores.")
@options("device", "seed", "limit", "memory", "again")
def run(
    tasks: tuple[str, ...],
    models: tuple[str, ...],
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
    from probe.evaluation.run import run as run_task
    from probe.evaluation.tasks import open_task
    from probe.models.catalogue import choose_device
    from probe.records import frame_of
    from probe.reporting.tables import domain_matrices, search_table, summary_rows, to_markdown

    overrides = {"label": label, "head": head, "disturb": disturb, "project": project, "projection": projection}
    opened = [open_task(task, overrides) for task in dict.fromkeys(tasks)]
    loaded = load_corpus(corpus)
    conditions = [*texts, *([] if texts or declared is None else [item.name for item in conditions_of((), declared, 0)])]
    place = choose_device(device)
    left_out: dict[str, list[str]] = {}
    records = []
    refused: list[str] = []
    for model in dict.fromkeys(models):
        for task in opened:
            try:
                done = run_task(
                    task,
                    model,
                    loaded,
                    features,
                    to,
                    trials=trials,
                    dev_trials=dev_trials,
                    labels=labels,
                    conditions=conditions or None,
                    device=place,
                    seed=seed,
                    limit=limit,
                    memory_bytes=memory_bytes,
                    again=again,
                )
            except ProbeError as error:
                if len(models) * len(opened) == 1:
                    raise
                refused.append(f"{model}, {task.name}: {error}")
                continue
            for path in done.paths:
                click.echo(str(path), err=True)
            records += done.records
            if done.left_out:
                left_out[model] = done.left_out
    if records:
        frame = frame_of(records)
        click.echo(to_markdown(summary_rows(frame, all_heads=True), layers=False), nl=False)
        if matrices := domain_matrices(frame):
            click.echo("\n" + matrices, nl=False)
        if show_search:
            click.echo("\n" + search_table(frame), nl=False)
    exit_with_failures(left_out, refused)


@cli.command()
@click.option("--from", "results", multiple=True, required=True, type=click.Path(path_type=Path), help="Folder of records.")
@click.option("--layers", is_flag=True, help="Every layer instead of the one that dev chose.")
@click.option("--all-heads", is_flag=True, help="Every head and backend instead of the headline ones.")
@click.option("--format", "form", type=click.Choice(["md", "csv", "json"]), default="md", show_default=True)
@click.option("--to", type=click.Path(path_type=Path), help="Also write table, layers, domains (md) and curves (png, svg) here.")
@click.option(
    "--axis",
    type=click.Choice(["index", "depth"]),
    default="index",
    show_default=True,
    help="Of the curves: the layer's number, or 0 to 1 in every model.",
)
@click.option("--robust", is_flag=True, help="What is lost under other conditions and across domains (docs/robustness.md).")
@click.option("--baseline", metavar="MODEL", help="That the robustness tables measure against; fbank if it is there.")
def table(
    results: tuple[Path, ...],
    layers: bool,
    all_heads: bool,
    form: str,
    to: Path | None,
    axis: str,
    robust: bool,
    baseline: str | None,
) -> None:
    """Print a comparison table of the records; with --to write all tables and the layer curves."""
    from probe.records import read_records
    from probe.reporting import tables

    records = read_records(*results)
    if robust:
        click.echo(tables.robustness_text(records, form, layers, baseline, all_heads), nl=False)
        if to is not None:
            print_files(tables.write_robustness(records, to, baseline))
        return
    rows = tables.layer_rows(records, all_heads) if layers else tables.summary_rows(records, all_heads)
    printed = {
        "md": lambda: tables.to_markdown(rows, layers),
        "csv": lambda: tables.to_csv(rows),
        "json": lambda: tables.to_json(rows),
    }
    click.echo(printed[form](), nl=False)
    if form == "md" and not layers and (matrices := tables.domain_matrices(records)):
        click.echo("\n" + matrices, nl=False)
    if to is not None:
        print_files(tables.write_tables(records, to, axis, baseline))


@cli.command()
@options("model", "corpus")
@click.option("--from", "features", required=True, type=click.Path(path_type=Path), help="Folder of feature stores.")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Receives similarity/: files, tables, heat maps.")
@click.option("--condition", "conditions", multiple=True, metavar="CONDITION", help="Compare clean with it; several times.")
@click.option("--against", metavar="MODEL", help="Compare with every layer of this model, such as fbank.")
@click.option("--split", default="test", show_default=True, metavar="SPLIT", help="Of the manifest: train, dev, test or all.")
@click.option("--view", metavar="VIEW", default="frames", show_default=True, help="frames, mean, meanstd or segments:n.")
@click.option(
    "--sample", "n_sample", type=click.IntRange(4), default=20_000, show_default=True, metavar="N", help="Rows for CKA and PWCCA."
)
@options("layers", "seed", "limit", "memory")
def similarity(models: tuple[str, ...], corpus: str, features: Path, to: Path, conditions: tuple[str, ...], **how: Any) -> None:
    """How far representations move: a model under conditions, against another model, or its layers among themselves.

    Cosine and relative distance of frames, CKA and PWCCA of layers. With --against, a --condition is that of both models.
    """
    from probe.data.corpus import load_corpus
    from probe.evaluation.similarity import similarity as compare
    from probe.reporting.similarity import read_similarity, similarity_markdown, write_similarity

    loaded = load_corpus(corpus)
    conditions = tuple(dict.fromkeys(conditions))
    written = [
        path for model in dict.fromkeys(models) for path in compare(model, loaded, features, to, conditions=conditions, **how)
    ]
    click.echo(similarity_markdown(read_similarity(*written)), nl=False)
    print_files([*written, *write_similarity(to / "similarity")])


@cli.command()
@options("model")
@click.option("--task", "tasks", multiple=True, required=True, metavar="TASK", help="Ready task or TOML file; several times.")
@options("corpus")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Receives features/, results/, tables and pictures.")
@options(
    "trials", "dev_trials", "labels", "layers", "stride", *HEARD, *HOW, "device", "seed", "limit", "dry_run", "again", "json"
)
def bench(
    models: tuple[str, ...],
    tasks: tuple[str, ...],
    corpus: str,
    to: Path,
    texts: tuple[str, ...],
    declared: Path | None,
    condition_seed: int,
    dry_run: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Models x tasks: extract what is missing, run every task, write the tables and the picture."""
    from probe.pipeline import bench as run_bench

    heard = conditions_of(texts, declared, condition_seed) if texts or declared else None
    done = run_bench(models, tasks, corpus, to, conditions=heard, condition_seed=condition_seed, dry_run=dry_run, **how)
    if dry_run or as_json:
        print_extractions(done.extractions, dry_run, as_json)
    if not dry_run:
        finish_bench(done, to, as_json)
    exit_with_failures(done.unusable, done.refused)


@cli.command()
@click.option("--to", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Receives everything.")
@options("seed")
def demo(to: Path, seed: int) -> None:
    """The whole job on synthetic speech, offline: four kinds of tasks, three models, table and picture."""
    from probe.pipeline import demo as run_demo

    done = run_demo(to, seed)
    finish_bench(done, to, as_json=False)
    exit_with_failures(done.unusable, done.refused)


@cli.command()
@click.argument("corpus", metavar="CORPUS")
@options(*HEARD)
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder for the WAV files and the picture.")
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
    """Write a few utterances of CORPUS, clean and under each condition, to hear and see them; print their levels."""
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
        click.echo(json.dumps({"gain_db": round(done.gain_db, 2), "examples": rows}, indent=2, ensure_ascii=False))
    else:
        head = ["utterance", "condition", "seconds", "level dBFS", "SNR dB"]
        cells = [[item[name] for name in ("utterance", "condition", "seconds", "level_db", "snr_db")] for item in rows]
        print_table(head, [["-" if cell is None else str(cell) for cell in row] for row in cells])
    click.echo(f"gain of all files, so that none clips: {done.gain_db:.1f} dB", err=True)
    print_files(done.files)


@cli.command()
@click.argument("store", type=click.Path(path_type=Path))
@options("json")
def show(store: Path, as_json: bool) -> None:
    """What is inside a feature store, or in every store beneath a folder."""
    from probe.store.folder import describe_store, find_stores

    stores = find_stores(store)
    if not stores:
        raise ProbeError(f"{store}: no feature store here or two folders below; expected a folder that `probe extract` wrote.")
    described = [describe_store(item) for item in stores]
    if as_json:
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join("\n".join(f"{name:<13} {value}" for name, value in item.items()) for item in described))


@cli.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Extract what is damaged again, and nothing else; needs --corpus.")
@click.option("--corpus", metavar="CSV", help="With --repair: the manifest that the store was extracted from.")
@click.option("--model", metavar="MODEL", help="With --repair: the store's model, where its folder has moved.")
@click.option("--condition", metavar="CONDITION", help="With --repair: the store's condition, where its noise files have moved.")
@options("no_check", "device", "json")
def verify(
    store: Path,
    repair: bool,
    corpus: str | None,
    model: str | None,
    condition: str | None,
    check: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Read every byte of a feature store, or of every store beneath a folder, and name what is damaged.

    Exits with 1 where anything is. Notes are no damage: shards planned and not written yet, files of a run that was killed.
    """
    from tqdm import tqdm

    from probe.store.verify import ASIDE, store_folders, verify_store

    if repair != (corpus is not None):
        raise UsageError("--repair and --corpus: each needs the other.")
    folders = store_folders(store)
    n_bytes = sum(path.stat().st_size for folder in folders for path in folder.glob("shard-*.h5"))
    verified, repaired, refused = [], [], []
    with tqdm(total=n_bytes, desc="verify", unit="B", unit_scale=True, leave=False, disable=None) as bar:
        for folder in folders:
            found = verify_store(folder, bar.update)
            if repair and (found.damage or any(item.file.endswith(ASIDE) for item in found.findings)):
                from probe.pipeline import repair as repair_store

                try:
                    done = repair_store(folder, str(corpus), model=model, device=device, check=check, condition=condition)
                except ProbeError as error:
                    refused.append(str(error))
                else:
                    found = done.found
                    repaired += [str(folder / name) for name in done.repaired]
                    for keys in done.kept.values():
                        refused.append(
                            f"{folder}: features of {listed(keys)} that the audio does not give any more are only in the files set "
                            "aside; remove those once they are not missed."
                        )
            verified.append(found)
    if as_json:
        click.echo(json.dumps([item.as_json() for item in verified], indent=2, ensure_ascii=False))
    for line in [] if as_json else [line for item in verified for line in item.lines()]:
        click.echo(line)
    for name in repaired:
        click.echo(f"{name}: written anew", err=True)
    for reason in refused:
        click.echo(reason, err=True)
    if refused or any(item.damage for item in verified):
        sys.exit(EXIT_FAILURE)


@cli.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="A new file; for npy a new folder.")
@click.option(
    "--form",
    type=click.Choice(["hdf5", "npy", "sentences"]),
    default="hdf5",
    show_default=True,
    help="One packed file; an array per layer and index.csv; or (layer, frame, dim) per utterance with sentence_to_index.",
)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@options("layers")
@click.option("--corpus", metavar="CSV", help="Only the utterances of this manifest, in its order and with its columns.")
def export(store: Path, to: Path, form: str, dtype: str, layers: str | None, corpus: str | None) -> None:
    """Write a store's features as plain HDF5 or NumPy files for other programs."""
    from tqdm import tqdm

    from probe.pipeline import export as export_store

    with tqdm(desc="export", unit="B", unit_scale=True, leave=False, disable=None) as bar:

        def tick(n_bytes: int, of: int) -> None:
            bar.total = of
            bar.update(n_bytes)

        missing = export_store(store, to, form, layers=layers, dtype=dtype, corpus=corpus, tick=tick)
    click.echo(str(to))
    exit_with_failures({f"{store}, not extracted": missing} if missing else {})


@cli.command()
@click.argument("model")
@click.option("--quick", is_flag=True, help="Utterances up to a second: the part that `probe extract` runs by itself.")
@options("sha256", "implementation", "precision", "device")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write the certificate beside the recipe of every store of these weights beneath DIR.",
)
@options("json")
def check(
    model: str,
    quick: bool,
    sha256: str | None,
    implementation: str,
    precision: str,
    device: str | None,
    to: Path | None,
    as_json: bool,
) -> None:
    """Prove a model's features on this machine: batches, layers, input, frames, weights.

    Exits with 1 if anything fails. Rows with `skipped` have nothing to compare with, rows with `note` are worth knowing.
    """
    from tqdm import tqdm

    from probe.models.catalogue import open_model
    from probe.models.check import CHECKS, check_model
    from probe.store.folder import find_stores

    encoder = open_model(model, device, sha256, implementation, precision)
    form = (encoder.info.weights_sha256, encoder.implementation, encoder.precision)
    stores = [
        store
        for store in (find_stores(to) if to else [])
        if (store.recipe["model"]["weights_sha256"], store.recipe["implementation"], store.recipe["precision"]) == form
    ]
    if to and not stores:
        raise ProbeError(
            f"{to}: no store of these weights of {model} here or two folders below; extract first, or leave --to out."
        )
    with tqdm(total=len(CHECKS), desc=model, unit="check", leave=False, disable=None) as bar:

        def tick(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        certificate = check_model(encoder, quick, tick)
    if as_json:
        click.echo(json.dumps(certificate.as_json(), indent=2, ensure_ascii=False))
    else:
        print_table(
            ["check", "result", "found", "expected"],
            [[item.check, item.result, item.found, item.expected] for item in certificate.findings],
            widest=42,
        )
        for note in encoder.info.notes:
            click.echo(f"note: {note}")
        click.echo(f"sha256 of the weights: {certificate.weights_sha256 or 'none'}")
        click.echo(f"{model}: {certificate.summary()}")
    for store in stores:
        if quick and store.certificate.get("passed") and not store.certificate["quick"]:
            click.echo(f"{store.path / 'certificate.json'}: kept, it is of the whole form", err=True)
        else:
            store.write_certificate(certificate.as_json())
            click.echo(str(store.path / "certificate.json"), err=True)
    if certificate.failed:
        sys.exit(EXIT_FAILURE)


@cli.command()
@options("json")
def models(as_json: bool) -> None:
    """Every model that is known by name: what it is, its licence, where it is loaded from."""
    from dataclasses import asdict

    from probe.models.catalogue import SPECTRAL, sources_of
    from probe.models.known import known_models

    rows = [{**asdict(row), "loads_from": sources_of(row)} for row in known_models().values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    print_table(
        ["model", "family", "layers", "width", "parameters", "trained on", "licence", "loads from", "certain"],
        [
            [
                row["model"],
                row["family"],
                f"0..{row['layers']}{', final' if row['pre_ln'] else ''}",
                str(row["width"]),
                f"{row['parameters'] / 1e6:,.1f} M".rjust(len("parameters")),
                row["pretrained_on"] + (f"; CTC on {row['fine_tuned_on']}" if row["ctc"] else ""),
                row["licence"],
                ", ".join(row["loads_from"]) or "not yet",
                row["certain"],
            ]
            for row in rows
        ],
    )
    for line in (
        f"\nAlso {' and '.join(SPECTRAL)} (no weights), and any other hub name (org/name@revision) or local folder of a wav2vec2,",
        "data2vec-audio, hubert or wavlm class. random: before a name gives the same architecture with random weights, offline.",
        "LS LibriSpeech, LL Libri-Light; certain: yes = read in a primary source. --json has exact numbers and remarks.",
    ):
        click.echo(line, err=True)


@cli.command()
@options("json")
def tasks(as_json: bool) -> None:
    """Ready tasks."""
    from probe.evaluation.tasks import open_task, ready_tasks

    rows = [{"task": task.name, "kind": task.kind, "description": task.description} for task in map(open_task, ready_tasks())]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['task']:<17}{row['kind']:<12}{row['description']}")


@cli.command()
@click.option(
    "--model", metavar="MODEL", help="Also open this model: org/name@revision, a folder, random:org/name, fbank or mfcc."
)
@click.option(
    "--corpus", metavar="CSV", help="Also look at this corpus: its audio against the model, its transcripts, its labels."
)
@click.option("--to", type=click.Path(path_type=Path), default=Path(), show_default=True, help="Where features would be written.")
@options("device", "json")
def doctor(model: str | None, corpus: str | None, to: Path, device: str | None, as_json: bool) -> None:
    """What this machine can do, and whether a model and a corpus fit: each finding says what to do."""
    from probe.doctor.examine import examine
    from probe.doctor.findings import screen

    findings, again = itertools.tee(examine(model, corpus, to, device))
    if as_json:
        click.echo(json.dumps([vars(item) for item in findings], indent=2, ensure_ascii=False))
    else:
        for block in screen(findings):  # each as soon as it is known
            click.echo(block)
    if any(item.status == "problem" for item in again):
        sys.exit(EXIT_FAILURE)


def conditions_of(texts: Sequence[str], file: Path | None, seed: int) -> "list[Condition]":
    """The conditions that ``--condition`` names, else all that the TOML file declares, else clean audio; each once."""
    from probe.data.conditions.condition import declared_conditions, distinct, parse_condition

    declared = declared_conditions(file, seed) if file else {}
    found = [parse_condition(text, seed=seed, declared=declared) for text in texts or list(declared) or ["clean"]]
    return list(distinct(found).values())


def print_table(head: list[str], rows: list[list[str]], widest: int = 1000) -> None:
    """Prints columns side by side, each as wide as its widest cell; cells wider than ``widest`` go over several lines."""
    table = [[textwrap.wrap(cell, widest, break_on_hyphens=False) or [""] for cell in row] for row in [head, *rows]]
    widths = [max(len(line) for cell in cells for line in cell) for cells in zip(*table, strict=True)]
    for row in table:
        for line in itertools.zip_longest(*row, fillvalue=""):
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_extractions(done: "list[Extraction]", dry_run: bool, as_json: bool) -> None:
    """A line per store: where, and what was done or is to do."""
    for item in done:
        if as_json:
            click.echo(json.dumps(item.summary(), ensure_ascii=False))
        elif dry_run:
            click.echo(f"{item.store}: {item.plan.describe()}")
            for line in item.plan.describe_choices():
                click.echo(f"  {line}")
        else:
            click.echo(str(item.store))
            click.echo(f"{item.extracted} extracted, {item.plan.present} there already, {len(item.failures)} failed", err=True)


def finish_bench(done: Any, to: Path, as_json: bool) -> None:
    """Prints the table of a bench and where everything is."""
    if not as_json and (to / "table.md").exists():
        click.echo((to / "table.md").read_text(encoding="utf-8"), nl=False)
        if (to / "domains.md").exists():
            click.echo("\n" + (to / "domains.md").read_text(encoding="utf-8"), nl=False)
        if (to / "robustness.md").exists():
            click.echo(f"what is lost under which condition: {to / 'robustness.md'}", err=True)
    print_files(done.files)


def print_files(files: list[Path]) -> None:
    """Names the files on stderr, and says why there is no picture where there is none."""
    from probe.reporting.curves import missing_matplotlib

    for path in files:
        click.echo(str(path), err=True)
    if reason := missing_matplotlib():
        click.echo(reason, err=True)


def exit_with_failures(unusable: dict[str, list[str]], refused: list[str] | None = None) -> None:
    """Exits with 1 where something was refused, with 3 where utterances failed; names them."""
    for where, keys in unusable.items():
        click.echo(plain(f"{where}: {len(keys)} utterances failed: {listed(keys, 20)}"), err=True)
    for reason in refused or []:
        click.echo(f"not done: {reason}", err=True)
    if refused:
        sys.exit(EXIT_FAILURE)
    if unusable:
        sys.exit(EXIT_SOME_FAILED)


def stop_on_signals() -> None:
    """Has Ctrl-C, SIGTERM and SIGUSR1 (a job's end is near: schedulers send either) end the program for certain, with its exit code.

    A signal's exception is raised wherever the program is. Inside an import, libraries may catch it and go on half imported; inside
    a callback of the interpreter (when a weak reference dies, say) it is reported as ignored. So it waits for the end of an import,
    and is raised again where it was ignored.
    """
    waiting: list[BaseException] = []

    def in_a_moment() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            waiting[:] = [KeyboardInterrupt()]
        elif number != signal.SIGALRM:
            click.echo("terminated; the same command continues", err=True)
            waiting[:] = [SystemExit(EXIT_TERMINATED)]
        if waiting and any(item.f_code.co_filename.startswith("<frozen importlib") for item, _ in traceback.walk_stack(frame)):
            in_a_moment()
        elif waiting:
            raise waiting.pop()

    def report(item: Any) -> None:
        if isinstance(item.exc_value, SystemExit | KeyboardInterrupt):
            waiting[:] = [item.exc_value]
            in_a_moment()
        else:
            sys.__unraisablehook__(item)

    sys.unraisablehook = report
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
        signal.signal(number, stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell ignores it for what runs in the background
        signal.signal(signal.SIGINT, stop)


class AboveBars(logging.StreamHandler):
    """Messages on lines of their own, above a progress bar that stands on the last one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one message."""
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:
            self.handleError(record)


class Plain(logging.Formatter):
    """Messages without characters that would command a terminal; file names may hold any."""

    def format(self, record: logging.LogRecord) -> str:
        """One message."""
        return plain(super().format(record))


def plain(text: str) -> str:
    """``text`` with control characters written as escapes, but for ends of lines."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def main() -> NoReturn:
    """The console script: exit codes, and one line instead of a traceback for a user's mistake."""
    stop_on_signals()
    try:
        result = cli.main(standalone_mode=False)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):  # all is done: what comes now changes no exit code
            signal.signal(number, signal.SIG_IGN)
        sys.exit(result if isinstance(result, int) else 0)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command continues", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ProbeError as error:
        click.echo(plain(f"probe: {error}"), err=True)
        sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILURE)
    except OSError as error:
        click.echo(plain(f"probe: {error.filename or 'input/output'}: {error.strerror or error}"), err=True)
        sys.exit(EXIT_FAILURE)


if __name__ == "__main__":
    main()
