"""Names of models: ``SPEC``, or ``NAME=SPEC`` with a name that the user chooses.

SPEC opens the model (`probe.models.catalogue`). Records, tables, figures and folders of features
use NAME. Without NAME they use SPEC, or the last part of the path of a folder or a file. Symbolic
links are resolved, so every spelling of one path means the same model. The hash of the weights
takes the place of a commit of the hub.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.errors import UsageError

SPECTRAL = ("fbank", "mfcc")
RANDOM = "random:"
ENDING = ".pt"  # of a checkpoint in one file
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
CODE = ("plugin:", "hear:")  # code of another party; the text after @ is its argument


@dataclass(frozen=True)
class ModelName:
    """The name of a model.

    Attributes:
        name: the name in records, tables, figures and names of files.
        spec: the text that opens the model, with ``~`` expanded.
    """

    name: str
    spec: str

    @classmethod
    def parse(cls, text: "str | ModelName") -> "ModelName":
        """Parse ``NAME=SPEC`` or ``SPEC``.

        Paths and arguments of plug-ins may contain ``=`` too. The text before the first one is a
        name if it holds only letters, digits, ``.``, ``_`` and ``-``, and if the whole text is not
        the path of a file or folder.

        Raises:
            UsageError: the name holds another character or means a spectral front-end, or there is
                nothing after it.
        """
        if isinstance(text, ModelName):
            return text
        alias, equals, spec = text.partition("=")
        if not equals or re.search("[:@/~]", alias) or os.path.lexists(text):
            spec = _expanded(text)
            name = own_name(spec)
            if name in SPECTRAL and spec != name:
                raise UsageError(
                    f"model {text}: it would be called {name}, as the spectral front-end is. Give "
                    f"it a name of its own: --model NAME={text}."
                )
            return cls(name, spec)
        if not re.fullmatch(NAME, alias) or not spec:
            raise UsageError(
                f"model {text!r}: expected NAME=SPEC, with a NAME of letters, digits, '.', '_' and "
                "'-', and a SPEC such as org/name or a folder."
            )
        if alias in SPECTRAL and spec != alias:
            raise UsageError(
                f"model {text}: {alias} is the name of a spectral front-end. Choose another NAME."
            )
        return cls(alias, _expanded(spec))

    def hooked(self, hooks: Sequence[str]) -> "ModelName":
        """Return the same model, with the outputs of some of its modules as layers."""
        spec = f"{self.spec}#{','.join(hooks)}"
        return ModelName(self.name if self.is_alias else spec, spec)

    @property
    def text(self) -> str:
        """``NAME=SPEC``, or the spec alone if the user chose no name."""
        return f"{self.name}={self.spec}" if self.is_alias else self.spec

    @property
    def is_alias(self) -> bool:
        """Whether the user chose the name."""
        return self.name != own_name(self.spec)

    @property
    def is_here(self) -> bool:
        """Whether the spec is a folder or a file on this machine, or random weights of one."""
        return _local(self.spec) is not None

    @property
    def path(self) -> str:
        """The checkpoint's folder or file with symbolic links resolved; empty if the spec is
        neither, or names random weights.
        """
        place = None if self.spec.startswith(RANDOM) else _local(self.spec)
        return os.path.realpath(place[1]) if place else ""

    @property
    def argument(self) -> str:
        """The argument of the code of another party; empty if the spec has none, or names no such
        code.
        """
        return self.spec.partition("#")[0].partition("@")[2] if self.spec.startswith(CODE) else ""

    @property
    def revision(self) -> str:
        """The text after ``@``; empty for code (there it is an argument) and for random weights
        (there it is a seed).
        """
        if self.spec.startswith((RANDOM, *CODE)):
            return ""
        place = _local(self.spec)
        return self.spec.rpartition("@")[2] if "@" in (place[2] if place else self.spec) else ""

    @property
    def resolved(self) -> str:
        """The canonical form of the spec: without seed 0, and with the path of a folder or file
        resolved.
        """
        spec = _without_seed_0(self.spec)
        place = _local(spec)
        return f"{place[0]}{os.path.realpath(place[1])}{place[2]}" if place else spec

    @property
    def as_path(self) -> str:
        """The value that `resolved` had if the spec is a folder or a file that no longer exists."""
        prefix = RANDOM if self.spec.startswith(RANDOM) else ""
        return prefix + os.path.realpath(self.spec.removeprefix(RANDOM))


def own_name(spec: str) -> str:
    """Return the name of a model if the user chooses none."""
    spec = _without_seed_0(spec)
    place = _local(spec)
    if place is None:
        return spec
    prefix, path, rest = place
    named, target = Path(path), Path(os.path.realpath(path))
    # A file in the hub's cache is a link to one that is called by its hash.
    is_link = named.suffix == ENDING != target.suffix and not target.is_dir()
    return f"{prefix}{named.name if is_link else target.name}{rest}"


def unrevised(spec: str) -> str:
    """Return a spec of the hub without its revision, and any other spec unchanged."""
    return spec if ":" in spec else spec.partition("@")[0]


def distinct_models(texts: Iterable[str | ModelName]) -> list[ModelName]:
    """Return the models of one command in their order, without duplicates.

    Raises:
        UsageError: two different models would have one name, or see `ModelName.parse`.
    """
    chosen: dict[str, ModelName] = {}
    for model in map(ModelName.parse, texts):
        other = chosen.setdefault(model.name, model)
        if other.resolved != model.resolved:
            short = re.split("[/:]", model.name)[-1]
            raise UsageError(
                f"models {other.spec} and {model.spec}: both would be called {model.name}. Give "
                f"one of them a name of its own, such as {short}-2={model.spec}."
            )
    return list(chosen.values())


def _expanded(spec: str) -> str:
    """The spec with the home folder for ``~``, which a shell does not expand behind ``NAME=``."""
    prefix = RANDOM if spec.startswith(RANDOM) else ""
    return prefix + re.sub("^~(?=/|$)", lambda _: str(Path.home()), spec.removeprefix(RANDOM))


def _without_seed_0(spec: str) -> str:
    """The spec of random weights without the default seed."""
    if not spec.startswith(RANDOM) or spec.removeprefix(RANDOM).startswith(CODE):
        return spec
    return spec if _is_checkpoint(spec.removeprefix(RANDOM)) else re.sub("@0*$", "", spec)


def _local(spec: str) -> tuple[str, str, str] | None:
    """The prefix, the path and the suffix (a seed or a revision) of a spec that names a checkpoint
    on this machine; None for any other spec.
    """
    if spec in SPECTRAL:
        return None
    prefix = RANDOM if spec.startswith(RANDOM) else ""
    whole = spec.removeprefix(RANDOM)
    path, at, rest = whole.rpartition("@")
    places = [(whole, ""), *([(path, at + rest)] if at else [])]
    return next(((prefix, place, after) for place, after in places if _is_checkpoint(place)), None)


def _is_checkpoint(path: str) -> bool:
    """Whether the path is a folder or a file that a model can be opened from."""
    is_file = path.endswith(ENDING) and os.path.lexists(path)
    return is_file or os.path.lexists(f"{path}/config.json")
