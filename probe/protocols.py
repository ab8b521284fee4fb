"""The ready tasks on disk, and the published protocols that some of them follow.

A task file may have a table ``[protocol]``: whose protocol it is, the corpus, and in what its
scores differ from the published ones. The table decides no score. `probe.evaluation.tasks` opens
tasks; this module is for all that shows them.
"""

import functools
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from probe.schema import Schema, checked

TABLE = "protocol"
# Tasks of SUPERB without a task file, and why.
NOT_OFFERED = {
    "superb-sf": "slot filling needs slot F1 and slot CER, and text with marks of slots",
    "superb-sd": "speaker diarization needs two speakers at a time and the DER",
    "superb-qbe": "query by example needs search in recordings by time warping and the MTWV",
}

Sentences = Annotated[tuple[str, ...], BeforeValidator(tuple)]


class Protocol(Schema):
    """A published protocol, and how a task differs from it.

    Attributes:
        of: whose it is.
        corpus: what ``--corpus`` takes, with ROOT for the folder of the download.
        options: further options of ``probe run`` and ``probe bench``, with ROOT likewise.
        download: where the corpus comes from.
        audio: how much of it there is, as it was published.
        hours: hours of audio of all splits; 0 where nobody published them.
        utterances: of all splits; 0 likewise.
        deviations: one sentence each, in what the scores differ from the published ones.
        clean: the ready task that asks the same with statistics that hold, with its options.
    """

    of: str
    corpus: str
    options: str = ""
    download: str
    audio: str
    hours: float = 0.0
    utterances: int = 0
    deviations: Sentences = ()
    clean: str = ""

    def command(self, task: str) -> str:
        """The command that runs the task on its corpus, for a model M."""
        options = f" {self.options}" if self.options else ""
        return f"probe bench --model M --task {task} --corpus '{self.corpus}'{options} --to out/"


def task_folder() -> Path:
    """Where the ready tasks lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "tasks"
    return installed if installed.is_dir() else package.parent / "tasks"


def ready_tasks() -> dict[str, Path]:
    """Name -> file of every ready task."""
    return {path.stem: path for path in sorted(task_folder().glob("*.toml"))}


def ready_summaries() -> list[dict[str, str]]:
    """The ``task``, ``kind`` and ``description`` of every ready task, as its file says them. No
    kind is imported: all of them together take seconds.
    """
    files = {name: tomllib.loads(path.read_text("utf-8")) for name, path in ready_tasks().items()}
    return [
        {
            "task": file.get("name") or name,
            "kind": file["kind"],
            "description": file.get("description", ""),
        }
        for name, file in files.items()
    ]


@functools.cache
def protocols() -> dict[str, Protocol]:
    """Name of a ready task -> its protocol, of those that have one."""
    tables = {
        name: tomllib.loads(path.read_text(encoding="utf-8")).get(TABLE)
        for name, path in ready_tasks().items()
    }
    return {
        name: checked(Protocol, table, f"{name}.toml: {TABLE}")
        for name, table in tables.items()
        if table
    }
