"""The command that looks at a corpus before anything runs."""

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from probe.brief import counted
from probe.commands.help import command, option
from probe.commands.options import PATH, audio_root_option, format_option, split_corpus_argument
from probe.commands.printing import plain, print_files, print_json, print_table, terminal_width
from probe.errors import EXIT_SOME_FAILED, UsageError

if TYPE_CHECKING:
    from probe.data.overview import Overview
    from probe.data.sound_overview import Sound

WIDEST = 100
MOST_CLASSES = 6  # that are named on the screen


@command()
@split_corpus_argument
@option(
    "--most-files",
    type=click.IntRange(0),
    default=2000,
    show_default=True,
    metavar="N",
    help="Decode at most N utterances, spread over the corpus; 0 looks at no audio.",
)
@option(
    "--write",
    "manifest",
    type=PATH,
    metavar="CSV",
    help="Also write the corpus as a manifest, whatever form it was read from.",
)
@option("--to", type=PATH, metavar="FILE.png", help="Also draw the overview (png, svg or pdf).")
@audio_root_option
@format_option("text", "json")
def data(
    corpus: str,
    most_files: int,
    manifest: Path | None,
    to: Path | None,
    audio_root: Path | None,
    form: str,
) -> None:
    """Show what a corpus holds, and what is wrong with it.

    Hours, speakers and labels by split and domain; rates, levels and damage of the audio; what the
    splits share. Nothing is extracted, and nothing is changed.

    \b
    Examples:
      probe data corpus.csv
      probe data librispeech:LibriSpeech#dev-clean,test-clean --to dev.png
      probe data all.csv --split speaker:80/10/10 --write split.csv
    """
    from tqdm import tqdm

    from probe.data.corpus import read_corpus
    from probe.data.manifest import write_manifest
    from probe.data.overview import overview

    if manifest is not None:
        _refuse_target(manifest)
    loaded = read_corpus(corpus, audio_root)
    n = min(most_files, len(loaded.utterances) + len(loaded.noise))
    with tqdm(total=n, desc="decoding", unit="file", leave=False, disable=None) as bar:
        shown = overview(loaded, most_files, audio_root, bar.update)
    if form == "json":
        print_json(shown.summary())
    else:
        _print(shown)
    if manifest is not None:
        write_manifest(loaded, manifest)
        click.echo(str(manifest), err=True)
    if to is not None:
        from probe.reporting.figures.corpus import draw_corpus

        draw_corpus(shown, to)
        print_files([to])
    if shown.sound is not None and shown.sound.unusable:
        sys.exit(EXIT_SOME_FAILED)


def _refuse_target(manifest: Path) -> None:
    """Refuse a manifest that would replace a file, or that has no folder to lie in."""
    if manifest.suffix != ".csv":
        raise UsageError(f"--write {manifest}: expected a name that ends in .csv.")
    if manifest.exists():
        raise UsageError(f"--write {manifest}: exists already; remove it, or name another file.")
    if not manifest.parent.is_dir():
        raise UsageError(f"--write {manifest}: the folder {manifest.parent} does not exist.")


def _print(shown: "Overview") -> None:
    groups = shown.groups
    n, hours = int(groups["utterances"].sum()), float(groups["hours"].sum(skipna=False))
    length = "hours are known of a part only" if hours != hours else _hours(hours)
    click.echo(plain(f"{shown.corpus}: {counted(n, 'utterance')}, {length}\n"))
    print_table(
        ["split", "domain", "utterances", "duration", "speakers", "texts"],
        [
            [
                str(row["split"]) or "–",
                str(row["domain"]) or "–",
                f"{row['utterances']:,}",
                "–" if row["hours"] != row["hours"] else _hours(row["hours"]),
                f"{row['speakers']:,}",
                f"{row['texts']:,}",
            ]
            for row in groups.to_dict("records")
        ],
    )
    if len(shown.shared):
        click.echo("\nShared by")
        print_table(
            ["splits", "speakers", "texts", "audio files"],
            [[str(value) for value in row] for row in shown.shared.itertuples(index=False)],
        )
    click.echo()
    facts = {"seconds": ", ".join(f"{name} {s:.3g}" for name, s in shown.durations_s.items())}
    facts |= {} if shown.sound is None else _sound_facts(shown.sound)
    if shown.text["transcripts"]:
        counts = shown.text
        facts["text"] = (
            f"{counted(counts['transcripts'], 'transcript')}, {counts['different']:,} different; "
            f"{counted(counts['words'], 'word')}, {counts['vocabulary']:,} different; "
            f"{counted(counts['characters'], 'character')}"
        )
    facts |= {name: _classes(values) for name, values in shown.labels.items()}
    indent = max(map(len, facts)) + 2
    for name, fact in facts.items():
        if fact:
            _fill(f"{name:<{indent}}{fact}", " " * indent)
    for note in shown.notes:
        click.echo()
        head, *more = note.fact.splitlines()
        _fill(f"{note.topic}: {head}", "  ")
        for line in more:
            _fill(f"  {line}", "    ")
        if note.advice:
            _fill(f"  → {note.advice}", "    ")


def _sound_facts(sound: "Sound") -> dict[str, str]:
    def levels(name: str) -> str:
        return ", ".join(f"{key} {value:.0f}" for key, value in sound.quantiles(name).items())

    decoded = f"{len(sound.files):,} of {sound.n_utterances:,} utterances decoded"
    rates = ", ".join(f"{rate} Hz ({n:,})" for rate, n in sorted(sound.rates_hz.items()))
    channels = ", ".join(f"{number} ({n:,})" for number, n in sorted(sound.channels.items()))
    if not sound.files:
        return {"audio": decoded}
    return {
        "audio": f"{decoded}; {rates}; channels {channels}",
        "level": f"{levels('level_db')} dBFS; noise floor {levels('floor_db')} dBFS",
    }


def _classes(values: dict[str, dict[str, int]]) -> str:
    counts = {value: sum(of_split.values()) for value, of_split in values.items()}
    named = ", ".join(f"{value} ({n:,})" for value, n in list(counts.items())[:MOST_CLASSES])
    rest = f", …; smallest {min(counts.values()):,}" if len(counts) > MOST_CLASSES else ""
    return f"{counted(len(counts), 'value')}: {named}{rest}"


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"


def _fill(text: str, indent: str) -> None:
    width = min(terminal_width() or shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    click.echo(
        textwrap.fill(
            plain(text),
            width,
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
    )
