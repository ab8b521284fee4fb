"""Task files: a question in a few lines of TOML.

A task names a kind (`probe.evaluation.kinds`) and sets what that kind leaves open; every key has a
default but ``kind``. An unknown key is an error. A corrected task gets a new ``version``.
"""

import difflib
import functools
import logging
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic

from pydantic import create_model

from probe.brief import brief
from probe.data.corpus import Corpus
from probe.errors import ProbeError, UsageError, listed
from probe.evaluation.blocks import incomplete_sessions, session_column
from probe.evaluation.kind import Kind, S
from probe.evaluation.kinds.registry import kinds
from probe.files import sha256_of_file, sha256_of_json
from probe.protocols import NOT_OFFERED, Protocol, protocols, ready_tasks
from probe.schema import Schema, checked

log = logging.getLogger("probe")

RENAMED = {"asr-ctc-superb": "superb-asr", "speaker-verify-superb": "superb-asv"}


class About(Schema):
    """What a task file says beside the settings of its kind."""

    name: str = ""
    version: int = 1
    description: str = ""
    protocol: Protocol | None = None


@dataclass(frozen=True)
class Task(Generic[S]):
    """A question.

    Attributes:
        name: the file's ``name`` or stem, with what the command line overrode
            (``speaker-id:label=sex``).
        settings: of the kind's own class.
        of: the task that this one wraps.
        folder: of the task's file.
        protocol: the published one that it follows, if any.
        spec: how it was named: a ready task's name, or a file.
        overrides: the keys that were set beside it.
    """

    name: str
    version: int
    kind: Kind[S]
    description: str
    settings: S
    of: "Task[Any] | None" = None
    folder: Path = Path()
    protocol: Protocol | None = None
    spec: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return brief(self, self.name, self.kind.name, f"version {self.version}", self.description)

    @property
    def sha256(self) -> str:
        """Of everything that decides a score; the file's layout, name and description do not."""
        contents = {
            key: sha256_of_file(path)
            for key in self.settings.FILES
            if (path := self.file(key)) is not None
        }
        return sha256_of_json(
            {
                "version": self.version,
                "kind": self.kind.name,
                "settings": self.settings.hashed() | contents,
                "of": self.of.sha256 if self.of else "",
            }
        )

    def file(self, key: str) -> Path | None:
        """The file that a setting names: beside the task's own file, or seen from the working
        folder; None for no name.

        Raises:
            ProbeError: there is no such file.
        """
        name = getattr(self.settings, key)
        if not name:
            return None
        places = [self.folder / name, Path(name)]
        for path in places:
            if path.is_file():
                return path
        raise ProbeError(
            f"{self.name}: {key} = {name!r}: no such file; looked for "
            f"{' and '.join(dict.fromkeys(map(str, places)))}. "
            "Put it there, or copy the task's file and name yours in it."
        )

    @property
    def inner(self) -> "Task[Any]":
        """The task that heads are trained for: the wrapped one, or this one."""
        return self.of or self

    @property
    def view(self) -> str:
        """The view of the features that it reads; intervals are made of frames."""
        return "frames" if self.has_intervals else str(self.inner.settings.view)

    @property
    def has_intervals(self) -> bool:
        """Whether its rows are labelled intervals (`probe.evaluation.interval_rows`)."""
        return str(self.inner.settings.view) == "interval"

    @property
    def needs(self) -> frozenset[str]:
        """The lists that it reads, see `probe.evaluation.kind.Kind`."""
        return self.inner.kind.needs | self.inner.settings.needs


def open_task(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Task[Any]:
    """A ready task by its name, or the task in a TOML file.

    Args:
        overrides: keys set on the command line; where they change the task they become part of its
            name. A ``shift`` passes them to what it wraps.

    Raises:
        ProbeError: no such task, not TOML, an unknown key, or a value that its kind cannot use.
    """
    text, given = _twin(str(name))
    path = Path(text) if text.endswith(".toml") or "/" in text else ready_tasks().get(text)
    if text in NOT_OFFERED:
        raise UsageError(f"task {text}: not offered: {NOT_OFFERED[text]}.")
    if path is None or not path.is_file():
        close = (
            [RENAMED[text]]
            if text in RENAMED
            else difflib.get_close_matches(text, ready_tasks(), 1)
        )
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(
            f"task {text!r}: no ready task and no TOML file.{hint} Ready: "
            f"{', '.join(ready_tasks())}."
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProbeError(f"{path}: not TOML ({error}).") from error
    changes = {key: value for key, value in (overrides or {}).items() if value is not None}
    return replace(_task(path, content, given | changes), spec=str(name))


def _twin(name: str) -> tuple[str, dict[str, str]]:
    """The ready task and the overrides that a name stands for: ``clean-ks`` is what ``superb-ks``
    names as the same question with statistics that hold; another name is itself.
    """
    protocol = protocols().get(name.replace("clean-", "superb-", 1))
    if not (name.startswith("clean-") and protocol and protocol.clean):
        return name, {}
    task, _, label = protocol.clean.partition(" --label ")
    return task, {"label": label} if label else {}


def _task(path: Path, content: dict[str, Any], overrides: Mapping[str, Any]) -> Task[Any]:
    name = content.pop("kind", None)
    if name not in kinds():
        raise ProbeError(f"{path}: kind {name!r}; expected one of {', '.join(kinds())}.")
    kind = kinds()[name]
    keys = kind.settings.model_fields.keys()
    own = {key: value for key, value in overrides.items() if key in keys}
    others = {key: value for key, value in overrides.items() if key not in keys}
    if others and not kind.wraps:
        key = next(iter(others))
        raise UsageError(f"--{key}: task {path.stem} is of kind {kind.name}, which has no {key}.")
    entries, usual = (checked(_form(kind), content | more, path) for more in (own, {}))
    settings = kind.settings(
        **{key: getattr(entries, key) for key in keys & entries.model_fields_set}
    )
    inner = _wrapped(path, getattr(settings, kind.wraps), others) if kind.wraps else None
    changes = {
        key: value for key, value in own.items() if getattr(entries, key) != getattr(usual, key)
    } | dict(inner.overrides if inner else {})
    changed = "".join(f":{key}={changes[key]}" for key in overrides if key in changes)
    return Task(
        (entries.name or path.stem) + changed,
        entries.version,
        kind,
        entries.description,
        settings,
        inner,
        path.parent,
        entries.protocol,
        overrides=changes,
    )


@functools.cache
def _form(kind: Kind[Any]) -> Any:
    """The form of a whole file of this kind but for the key ``kind``."""
    return create_model(kind.name, __base__=(kind.settings, About))


def same_question(task: Task[Any]) -> str:
    """The ready task that asks the same under another name; empty where there is none."""
    known = {} if task.name in ready_tasks() else ready_tasks()
    for name, path in known.items():
        try:
            ready = open_task(path)
        except ProbeError:  # a file that it names is not there
            continue
        if ready.kind is task.kind and ready.name != task.name and _hash(ready) == task.sha256:
            return name
    return ""


def _hash(task: Task[Any]) -> str:
    """The task's hash; empty where a file that it names is not there."""
    try:
        return task.sha256
    except ProbeError:
        return ""


def _wrapped(path: Path, name: str, overrides: Mapping[str, Any]) -> Task[Any]:
    neighbour = path.parent / name
    is_file = name.endswith(".toml") and neighbour.is_file()
    task = open_task(neighbour if is_file else name, overrides)
    if not task.kind.by_domain:
        possible = [kind.name for kind in kinds().values() if kind.by_domain]
        raise ProbeError(
            f"{path}: of = {name!r} is of kind {task.kind.name}; domain shift wraps tasks of kind "
            f"{', '.join(possible)}."
        )
    if task.settings.folds:
        raise ProbeError(
            f"{path}: of = {name!r} has folds = {task.settings.folds!r}, but "
            f"{kinds()['shift'].settings.NO_FOLDS}. Wrap a task without folds."
        )
    return task


def unread_columns(tasks: Iterable[Task[Any]], columns: Iterable[str]) -> list[str]:
    """Those of a manifest's columns that no setting of the tasks names."""
    values = [
        value
        for task in tasks
        for one in (task, task.inner)
        for value in one.settings.model_dump().values()
    ]
    names = {text for value in values for text in (value if isinstance(value, tuple) else [value])}
    return [name for name in columns if name not in names]


def log_columns(corpus: Corpus, tasks: Sequence[Task[Any]] = ()) -> None:
    """Says which columns of a manifest nothing reads: a name that is misspelled, or that promises
    something, shows here. Warns of empty cells that keep sessions from being blocks.
    """
    columns = unread_columns(tasks, corpus.further_columns)
    if any(task.inner.settings.predicted_column == "speaker" for task in tasks):
        columns = [name for name in columns if name != session_column(corpus.utterances)]
        for sentence in incomplete_sessions(corpus.utterances):
            log.warning("%s", sentence)
    if columns and tasks:
        log.info("%s: these tasks do not use the columns %s", corpus.name, listed(columns, 20))
    elif columns:
        log.info(
            "%s: further columns, which tasks can ask for as labels: %s",
            corpus.name,
            listed(columns, 20),
        )
