"""How far the runs that write into a folder of records have come."""

from pathlib import Path

from probe.evaluation.unfinished import FOLDER
from probe.records import GZIP, SEED_FOLDER
from probe.store.claims import ENDING
from probe.store.status import Status, claimed_names, workers_in

RECORDS = ("*.jsonl", f"*.jsonl{GZIP}")


def holds_results(folder: Path) -> bool:
    """Whether runs have written records, parts of them or claims into a folder."""
    patterns = (*RECORDS, f"{FOLDER}/*/", f"*{ENDING}")
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def status_of_results(folder: Path) -> list[Status]:
    """The status of a folder of records and of those of further seeds in it.

    Which trainings are planned is known only to the runs: no file of the folder says it.

    Raises:
        UnreadError: a claim cannot be read.
    """
    seeds = sorted(path for path in folder.glob(f"{SEED_FOLDER}[0-9]*/") if holds_results(path))
    return [_status(item) for item in (folder, *seeds)]


def _status(folder: Path) -> Status:
    workers = workers_in(folder)
    running = claimed_names(workers)
    begun = sorted({path.name.rpartition("-")[0] for path in folder.glob(f"{FOLDER}/*/")})
    done = sum(1 for pattern in RECORDS for _ in folder.glob(pattern))
    left = [name for name in begun if name not in running]
    return Status(folder, None, done, running, left, workers)
