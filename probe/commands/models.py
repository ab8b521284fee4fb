"""Commands about models and this machine."""

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from probe.commands.help import command, option
from probe.commands.options import (
    MODEL,
    PATH,
    device_option,
    format_option,
    hook_option,
    running_options,
)
from probe.commands.printing import print_json, print_table, terminal_width
from probe.errors import EXIT_FAILURE, ProbeError, UsageError

if TYPE_CHECKING:
    from probe.extraction.settings import Running
    from probe.models.encoder import Encoder
    from probe.store.feature_store import FeatureStore


@command()
@click.argument("model")
@option(
    "--quick",
    is_flag=True,
    help="Check utterances up to one second only, as `probe extract` does by itself.",
)
@hook_option
@running_options
@option(
    "--to",
    type=PATH,
    metavar="DIR",
    help="Also write the certificate into every store of these weights beneath DIR.",
)
@format_option("text", "json")
def check(
    model: str, quick: bool, hooks: tuple[str, ...], running: "Running", to: Path | None, form: str
) -> None:
    """Check that a model's features are correct on this machine.

    The checks compare batched with single utterances, layers with the original implementation, and
    input, frame counts and weights with what the model declares. `skipped` means
    that there is nothing to compare with; `note` marks a remark to read. The exit code is 1 if a
    check fails.

    \b
    Examples:
      probe check facebook/wav2vec2-base
      probe check random:wavlm-base --quick --format json
    """
    from tqdm import tqdm

    from probe.extraction.extract import open_encoder
    from probe.models.check import CHECKS, check_model
    from probe.models.plugins.loader import with_hooks

    [named] = with_hooks([model], hooks)
    encoder = open_encoder(named, running)
    stores = _stores_of(to, encoder) if to else []
    if to and not stores:
        raise ProbeError(
            f"{to}: no store of these weights of {named.name} here or two folders below; extract "
            "first, or leave --to out."
        )
    with tqdm(total=len(CHECKS), desc=named.name, unit="check", leave=False, disable=None) as bar:

        def tick(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        certificate = check_model(encoder, quick, tick)
    if form == "json":
        print_json(certificate.as_json())
    else:
        print_table(
            ["check", "result", "found", "expected"],
            [[item.check, item.result, item.found, item.expected] for item in certificate.findings],
        )
        for note in encoder.info.notes:
            click.echo(f"note: {note}")
        click.echo(f"sha256 of the weights: {certificate.weights_sha256 or 'none'}")
        click.echo(f"{named.name}: {certificate.summary()}")
    for store in stores:
        path = store.path / "certificate.json"
        if quick and store.certificate.get("passed") and not store.certificate["quick"]:
            click.echo(f"{path}: kept, because it holds the whole check", err=True)
        else:
            store.write_certificate(certificate.as_json())
            click.echo(str(path), err=True)
    if certificate.failed:
        sys.exit(EXIT_FAILURE)


def _stores_of(folder: Path, encoder: "Encoder") -> "list[FeatureStore]":
    """Return the stores extracted from these weights with this implementation and precision."""
    from probe.store.stores import find_stores

    form = (encoder.info.weights_sha256, encoder.implementation, encoder.precision)
    keys = ("implementation", "precision")
    return [
        store
        for store in find_stores(folder)
        if (store.recipe["model"]["weights_sha256"], *(store.recipe[key] for key in keys)) == form
    ]


@command()
@format_option("text", "json")
def models(form: str) -> None:
    """List the pretrained models in the catalogue.

    JSON adds exact parameter counts and remarks; `certain` says whether the data of a row come from
    a primary source.

    \b
    Example:
      probe models --format json
    """
    from dataclasses import asdict

    from probe.model_names import SPECTRAL
    from probe.models.sources.known import (
        FAMILIES,
        TORCHAUDIO,
        installed_plugins,
        known_models,
        sources_of,
    )

    rows = known_models().values()
    if form == "json":
        print_json([{**asdict(row), "loads_from": sources_of(row)} for row in rows])
        return
    print_table(
        [
            *("model", "family", "layers", "width", "parameters"),
            *("trained on", "licence", "loads from", "certain"),
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
        optional=["licence", "family", "loads from", "width", "certain", "trained on"],
    )
    click.echo(
        click.wrap_text(
            f"Also {' and '.join(SPECTRAL)} (no weights), any other hub name (org/name@revision), "
            f"and a local folder of a {', '.join(FAMILIES[:-1])} or {FAMILIES[-1]} model.\n\n"
            "random:MODEL: the same architecture with random weights, offline. file.pt: a fairseq "
            f"checkpoint. {TORCHAUDIO}NAME: a bundle of torchaudio.pipelines, such as "
            f"{TORCHAUDIO}WAV2VEC2_BASE; an unknown NAME lists them.\n\n"
            "plugin:package.module:factory: a model of your own; installed here: "
            f"{', '.join(installed_plugins()) or 'none'}.\n\n"
            "LS = LibriSpeech, LL = Libri-Light. More columns: --format json.",
            width=terminal_width() or 100,
            preserve_paragraphs=True,
        ),
        err=True,
    )


@command()
@option("--model", metavar="MODEL", help=f"Also open this model: {MODEL}.")
@hook_option
@option(
    "--to",
    type=PATH,
    default=Path(),
    show_default=True,
    metavar="DIR",
    help="Folder for features, whose disk is examined.",
)
@device_option
@format_option("text", "json")
def doctor(
    model: str | None, hooks: tuple[str, ...], to: Path, device: str | None, form: str
) -> None:
    """Check this machine, and a model if given.

    Every finding that is a problem says how to fix it. The exit code is 1 if there is a problem.
    `probe data` looks at a corpus.

    \b
    Examples:
      probe doctor
      probe doctor --model facebook/wav2vec2-base --to features/
    """
    from probe.doctor.examine import examine
    from probe.doctor.findings import screen
    from probe.model_names import ModelName

    named = ModelName.parse(model) if model else None
    if hooks:
        from probe.models.plugins.loader import with_hooks

        if named is None:
            raise UsageError("--hook: belongs to a model; name it with --model.")
        [named] = with_hooks([named], hooks)
    findings, again = itertools.tee(examine(named, to, device))
    if form == "json":
        print_json([vars(item) for item in findings])
    else:
        for block in screen(findings):  # each as soon as it is known
            click.echo(block)
    if any(item.status == "problem" for item in again):
        sys.exit(EXIT_FAILURE)
