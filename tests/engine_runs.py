"""Extractions in small shards that the workers of any engine do; workers import this file. It is
also the command of a driver, with an encoder that is slow enough to be interrupted:

    python -c "import engine_runs; engine_runs.main()" ENGINE CORPUS TO
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windows import Windows

from probe.data.corpus import load_corpus
from probe.engines.engine import Engine
from probe.extraction import plan
from probe.extraction.engine_jobs import EachCondition, Extractions, Step, extract_on
from probe.extraction.settings import Extracting, Running, Storing
from probe.model_names import ModelName

ENGINES = ("local", "ray", "slurm")
# What the command line of a worker contains.
WORKERS = {"local": "probe.engines.worker", "ray": "ray::_Actor", "slurm": "submitit.core._submit"}
EXTRACTING = Extracting(storing=Storing(view="frames"), running=Running(check=False))
SLOW = ModelName.parse("windows")


def engine_of(name: str, folder: Path) -> Engine:
    """Two workers; those of SLURM are processes of this machine."""
    if name == "local":
        from probe.engines.local import Local

        return Local(2, n_cores=1)
    if name == "ray":
        from probe.engines.ray import Ray

        return Ray(2)
    from probe.engines.slurm import Slurm

    return Slurm(2, folder, cluster="local")


@dataclass(frozen=True)
class SmallShards(EachCondition):
    """The same stores with shards of ``audio_s``, whichever process plans them."""

    audio_s: float = 3.0

    def __call__(self, model: ModelName) -> list[Step]:
        """See `EachCondition`."""
        plan.SHARD_AUDIO_S = self.audio_s
        return super().__call__(model)


@dataclass(frozen=True)
class SlowSteps:
    """The store of an encoder that is slow as long as a file exists, with an utterance a shard."""

    flag: Path

    def __call__(self, model: ModelName) -> list[Step]:
        """See `Extractions.steps`."""
        plan.SHARD_AUDIO_S = 0.1
        return [Step(Slow(self.flag), "clean", EXTRACTING.storing)]


class Slow(Windows):
    """Waits a second before it encodes, as long as a file exists."""

    def __init__(self, flag: Path) -> None:
        super().__init__()
        self.flag = flag

    def encode(self, *arguments: Any) -> Any:
        """See `Windows`."""
        time.sleep(self.flag.exists())
        return super().encode(*arguments)


def extract_slowly(engine: Engine, manifest: Path, to: Path) -> list[str]:
    """Write the store of the slow encoder, whose flag is ``slow`` beside the manifest; return what
    could not be done.
    """
    steps = SlowSteps(manifest.with_name("slow"))
    work = Extractions(steps, load_corpus(manifest), to, EXTRACTING)
    return extract_on(engine, work, [SLOW])[SLOW].problems


def workers_of(driver: int, name: str) -> list[int]:
    """The process ids of a driver's workers."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            lines[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(folder.name)] = int(status[1])
    return [
        pid
        for pid, line in lines.items()
        if WORKERS[name] in line and driver in _above(pid, parents)
    ]


def _above(pid: int, parents: dict[int, int]) -> Sequence[int]:
    chain = []
    while pid := parents.get(pid, 0):
        chain.append(pid)
    return chain


def main() -> None:
    """Extract on the workers of an engine; the exit code is 1 where a job could not be done."""
    name, manifest, to = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with engine_of(name, to) as engine:
        sys.exit(bool(extract_slowly(engine, manifest, to)))
