"""The command that shows how far extraction and training have come."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.commands.help import command, option
from probe.commands.options import PLACE, format_option
from probe.commands.printing import print_facts, print_json
from probe.errors import ProbeError, listed

if TYPE_CHECKING:
    from probe.store.status import Status, Worker

WATCH_S = 5.0
HEAD = "recipe.json"


@command()
@click.argument("folder", metavar="FOLDER", type=PLACE)
@option(
    "--watch", is_flag=True, help="Show it again every 5 seconds until no run works there any more."
)
@format_option("text", "json")
def status(folder: Path, watch: bool, form: str) -> None:
    """Show what is done, running, failed and missing.

    FOLDER is a feature store, a folder of stores, a folder of records, or what `probe bench`
    writes. Runs on other machines are shown as well; one that gives no sign of life for 5 minutes
    counts as ended.

    \b
    Examples:
      probe status features/
      probe status out/ --watch
    """
    while True:
        statuses = _statuses(folder)
        if form == "json":
            print_json([item.as_json() for item in statuses])
        else:
            if watch and statuses:
                click.clear()
            for number, item in enumerate(statuses):
                if number:
                    click.echo()
                print_facts(dict(_facts(item)))
        if not watch or not any(item.running for item in statuses):
            return
        time.sleep(WATCH_S)


def _statuses(folder: Path) -> "list[Status]":
    """The statuses of all stores and records in a folder.

    Raises:
        ProbeError: there are none, or a store cannot be read.
    """
    from probe.evaluation.results_status import holds_results, status_of_results
    from probe.store.status import status_of_store

    places = [folder, folder / "features", folder / "results"]
    heads = [
        head
        for place in places
        for depth in ("", "*/", "*/*/")
        for head in place.glob(depth + HEAD)
    ]
    stores = sorted({head.parent for head in heads})
    statuses = [status_of_store(store) for store in stores]
    for place in places:
        if place not in stores and holds_results(place):
            statuses += status_of_results(place)
    if not statuses:
        raise ProbeError(
            f"{folder}: no feature store and no records here; expected a folder that "
            "`probe extract`, `probe run` or `probe bench` writes."
        )
    return statuses


def _facts(item: "Status") -> Iterator[tuple[str, Any]]:
    """A status for people: one line per entry."""
    is_store = item.planned is not None
    yield "store" if is_store else "records", item.place
    if is_store:
        done, planned = item.items
        yield (
            "shards",
            f"{item.done} of {item.planned} complete, {len(item.running)} being written, "
            f"{item.missing} missing",
        )
        yield "utterances", f"{done} of {planned}, {len(item.failures)} failed"
    else:
        yield "files", f"{item.done} complete, {len(item.running)} in training"
    for number, worker in enumerate(item.workers, start=1):
        yield f"run {number}", _worker(worker)
    if item.begun:
        yield "interrupted", f"{listed(list(item.begun))}; the same command continues"
    if item.left_s is not None and item.per_hour is not None:
        yield "rate", f"{item.per_hour:,.0f} utterances an hour; {_time(item.left_s)} left"
    for key, reason in item.failures.items():
        yield f"  {key}", reason


def _worker(worker: "Worker") -> str:
    if worker.end:
        return f"{worker.owner} {worker.end}; the next run takes over {listed([*worker.claims])}"
    since = _time(max(0.0, time.time() - worker.owner.since))
    return f"{worker.owner}, since {since}: {listed([*worker.claims])}"


def _time(seconds: float) -> str:
    """A duration in the unit that suits."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"
