"""Keeps the finished parts of a task that is interrupted, so that the same command goes on where it
stopped.

The parts of one training lie in ``results/.unfinished/<records' name>-<hash of the question>/``:
one JSON file with a checksum for each layer, or for each group of layers that are trained together.
The question is everything that decides a score, the code's version included; parts of another
question are never read. The folder is removed once the records are written.
"""

import base64
import contextlib
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from probe.errors import ProbeError
from probe.evaluation.dataset import Problem, Score
from probe.files import read_json, sha256_of_json, write_json
from probe.remote.paths import RemotePath

log = logging.getLogger("probe")

FOLDER = ".unfinished"
ARRAY = "array"  # the key under which an array's dtype and bytes stand
FIELDS = [item.name for item in fields(Score)]


class Unfinished:
    """The finished parts of one training.

    Attributes:
        folder: where they lie; None keeps nothing.
        n_kept: parts that an earlier run has finished.
        seconds: what those parts took.
    """

    def __init__(
        self, folder: Path | None = None, question: Mapping[str, Any] | None = None
    ) -> None:
        """Finds what is there.

        Args:
            folder: of this training, see `unfinished_folder`.
            question: everything that decides a score, as JSON values.
        """
        self.folder, self.question = folder, sha256_of_json(question or {})
        self.n_kept, self.seconds = 0, 0.0

    def scores(self, part: str) -> list[Score] | None:
        """The scores of a part that is finished; None where it is not, or where its file is damaged
        or of another question.
        """
        path = self._path(part)
        if path is None or not path.exists():
            return None
        try:
            content = read_json(path)
        except ProbeError:
            return None
        if (content.get("question"), content.get("part")) != (self.question, part):
            return None
        if not self.n_kept:
            log.info(
                "%s: an interrupted run has finished a part of this task; this one goes on from "
                "there",
                self.folder,
            )
        self.n_kept += 1
        self.seconds += content["seconds"]
        return [Score(**_decoded(item)) for item in content["scores"]]

    def keep(self, part: str, scores: Iterable[Score], seconds: float) -> None:
        """Writes the scores of a part that is finished, whole or not at all."""
        path = self._path(part)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{name: _encoded(getattr(score, name)) for name in FIELDS} for score in scores]
        write_json(
            path,
            {"question": self.question, "part": part, "seconds": round(seconds, 2), "scores": rows},
        )

    def remove(self) -> None:
        """Removes all parts: the records are written."""
        if isinstance(self.folder, RemotePath):
            for path in self.folder.glob("*.json"):
                path.unlink(missing_ok=True)
        elif self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another task's parts are in there
                self.folder.parent.rmdir()

    def _path(self, part: str) -> Path | None:
        return (
            None
            if self.folder is None
            else self.folder / f"{hashlib.sha256(part.encode()).hexdigest()[:16]}.json"
        )


def unfinished_folder(results: Path, stem: str, question: Mapping[str, Any]) -> Path:
    """Where the finished parts of a training lie."""
    return results / FOLDER / f"{short_name(stem)}-{sha256_of_json(question)[:16]}"


def short_name(stem: str) -> str:
    """The name of records as a part of another name, which may have 255 bytes."""
    return stem[:200]


def part_of(
    problem: Problem, name: str, n_steps: int, make: Callable[[], Iterable[Score]]
) -> list[Score]:
    """The scores of one part of a task: those that an interrupted run has kept, or what ``make``
    gives, which are kept.

    Args:
        name: of the part, unique in its training.
        n_steps: that were announced for each of its layers; those that it does not take are taken
            back.
    """
    start, mark, name = time.monotonic(), problem.progress.mark, problem.place + name
    kept = problem.unfinished.scores(name) if problem.unfinished else None
    scores = list(make()) if kept is None else kept
    n_layers = max(1, len({score.layer for score in scores}))
    problem.progress.settle(mark, n_steps * n_layers)
    if problem.unfinished and kept is None:
        problem.unfinished.keep(name, scores, time.monotonic() - start)
    return scores


def _encoded(value: Any) -> Any:
    """JSON values, arrays as base64."""
    if isinstance(value, np.ndarray):
        return {
            ARRAY: [
                value.dtype.str,
                list(value.shape),
                base64.b64encode(np.ascontiguousarray(value).tobytes()).decode(),
            ]
        }
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {ARRAY}:
        dtype, shape, text = value[ARRAY]
        return np.frombuffer(base64.b64decode(text), np.dtype(dtype)).reshape(shape).copy()
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value
