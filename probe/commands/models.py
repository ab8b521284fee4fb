"""Models and machines: what there is, and whether it is sound."""

import itertools
import json
import sys
import textwrap
from pathlib import Path

import click

from probe.commands.options import MODEL, options
from probe.commands.printing import print_table
from probe.errors import EXIT_FAILURE, ProbeError, UsageError


@click.command()
@click.argument("model")
@click.option(
    "--quick",
    is_flag=True,
    help="Utterances up to a second: the part that `probe extract` runs by itself.",
)
@options("hook", "sha256", "implementation", "precision", "chunk_s", "context_s", "device")
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
    hooks: tuple[str, ...],
    sha256: str | None,
    implementation: str,
    precision: str,
    chunk_s: float,
    context_s: float,
    device: str | None,
    to: Path | None,
    as_json: bool,
) -> None:
    """Prove a model's features on this machine: batches, layers, input, frames, weights.

    Exits with 1 if anything fails. Rows with `skipped` have nothing to compare with, rows with
    `note` are worth knowing.
    """
    from tqdm import tqdm

    from probe.models.catalogue import open_model
    from probe.models.check import CHECKS, check_model
    from probe.models.plugins.loader import with_hooks
    from probe.store.stores import find_stores

    [named] = with_hooks([model], hooks)
    encoder = open_model(named, device, sha256, implementation, precision, chunk_s, context_s)
    form = (encoder.info.weights_sha256, encoder.implementation, encoder.precision)
    stores = [
        store
        for store in (find_stores(to) if to else [])
        if (
            store.recipe["model"]["weights_sha256"],
            store.recipe["implementation"],
            store.recipe["precision"],
        )
        == form
    ]
    if to and not stores:
        raise ProbeError(
            f"{to}: no store of these weights of {named.name} here or two folders below; extract first, or leave --to out."
        )
    with tqdm(total=len(CHECKS), desc=named.name, unit="check", leave=False, disable=None) as bar:

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
        click.echo(f"{named.name}: {certificate.summary()}")
    for store in stores:
        if quick and store.certificate.get("passed") and not store.certificate["quick"]:
            click.echo(
                f"{store.path / 'certificate.json'}: kept, it is of the whole form", err=True
            )
        else:
            store.write_certificate(certificate.as_json())
            click.echo(str(store.path / "certificate.json"), err=True)
    if certificate.failed:
        sys.exit(EXIT_FAILURE)


@click.command()
@options("json")
def models(as_json: bool) -> None:
    """Every model that is known by name: what it is, its licence, where it is loaded from."""
    from dataclasses import asdict

    from probe.models.catalogue import SPECTRAL, sources_of
    from probe.models.plugins.loader import installed
    from probe.models.sources.bundles import bundles
    from probe.models.sources.known import FAMILIES, TORCHAUDIO, known_models

    rows = known_models().values()
    if as_json:
        click.echo(
            json.dumps([{**asdict(row), "loads_from": sources_of(row)} for row in rows], indent=2)
        )
        return
    print_table(
        [
            "model",
            "family",
            "layers",
            "width",
            "parameters",
            "trained on",
            "licence",
            "loads from",
            "certain",
        ],
        [
            [
                row.model,
                row.family,
                row.layer_names,
                str(row.width),
                f"{row.parameters / 1e6:,.1f} M".rjust(len("parameters")),
                row.pretrained_on + (f"; CTC on {row.fine_tuned_on}" if row.ctc else ""),
                row.licence,
                ", ".join(sources_of(row)),
                row.certain,
            ]
            for row in rows
        ],
    )
    for line in (
        f"\nAlso {' and '.join(SPECTRAL)} (no weights), and any other hub name (org/name@revision) or local folder of a",
        f"{', '.join(FAMILIES[:-1])} or {FAMILIES[-1]} class.",
        "random: before a name gives the same architecture with random weights, offline.",
        textwrap.fill(
            f"file.pt is a checkpoint as fairseq writes it, {TORCHAUDIO}NAME a bundle: {', '.join(bundles())}.",
            130,
        ),
        f"plugin:package.module:factory is a model of your own; installed here: {', '.join(installed()) or 'none'}.",
        "LS LibriSpeech, LL Libri-Light; certain: yes = read in a primary source. --json has exact numbers and remarks.",
    ):
        click.echo(line, err=True)


@click.command()
@click.option("--model", metavar="MODEL", help=f"Also open this model: {MODEL}.")
@options("hook")
@click.option(
    "--corpus",
    metavar="CSV",
    help="Also look at this corpus: its audio against the model, its transcripts, its labels.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=Path(),
    show_default=True,
    help="Where features would be written.",
)
@options("device", "json")
def doctor(
    model: str | None,
    hooks: tuple[str, ...],
    corpus: str | None,
    to: Path,
    device: str | None,
    as_json: bool,
) -> None:
    """What this machine can do, and whether a model and a corpus fit: each finding says what to do."""
    from probe.doctor.examine import examine
    from probe.doctor.findings import screen
    from probe.model_names import ModelName

    named = ModelName.parse(model) if model else None
    if hooks:
        from probe.models.plugins.loader import with_hooks

        if named is None:
            raise UsageError("--hook: belongs to a model; name it with --model.")
        [named] = with_hooks([named], hooks)
    findings, again = itertools.tee(examine(named, corpus, to, device))
    if as_json:
        click.echo(json.dumps([vars(item) for item in findings], indent=2, ensure_ascii=False))
    else:
        for block in screen(findings):  # each as soon as it is known
            click.echo(block)
    if any(item.status == "problem" for item in again):
        sys.exit(EXIT_FAILURE)
