"""Mending a damaged store with the commands that `probe verify` prints."""

import contextlib
import shlex
from pathlib import Path

from probe.cli import cli
from probe.store.integrity import verify_store


def remove_damaged(store: Path) -> str:
    """Do what the ``rm`` among the commands says; returns the command after it."""
    *removals, extraction = verify_store(store).commands()
    for removal in removals:
        name, *files = shlex.split(removal)
        assert name == "rm"
        for file in files:
            Path(file).unlink()
    return extraction


def mend(store: Path, manifest: Path) -> None:
    """Run the commands, with the manifest in its place."""
    _, *words = shlex.split(remove_damaged(store))
    with contextlib.suppress(SystemExit):
        cli([str(manifest) if word == "CSV" else word for word in words], standalone_mode=False)
