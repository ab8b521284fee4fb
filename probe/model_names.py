"""How models are named: ``SPEC``, or ``NAME=SPEC`` with a name of the user's own.

SPEC is what opens a model (`probe.models.catalogue`); NAME is what records, tables, figures and
folders of features call it. Without NAME a model is called by its SPEC; a folder or a file by the
last part of its path, with symbolic links resolved, so that every spelling of one path is one
model. The hash of its weights stands where a commit of the hub does.
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
CODE = ("plugin:", "hear:")  # somebody else's code; what follows @ is its argument


@dataclass(frozen=True)
class ModelName:
    """A model as it is named.

    Attributes:
        name: what it is called in records, tables, figures and names of files.
        spec: what opens it, with ``~`` expanded.
    """

    name: str
    spec: str

    @classmethod
    def parse(cls, text: "str | ModelName") -> "ModelName":
        """``NAME=SPEC`` or ``SPEC``.

        ``=`` also occurs in paths and in arguments of plug-ins. What stands before the first one is
        a name where it holds nothing but letters, digits, ``.``, ``_`` and ``-``, and no file or
        folder has the whole text for its path.

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
        """Return the same model with modules of it for its layers."""
        spec = f"{self.spec}#{','.join(hooks)}"
        return ModelName(self.name if self.is_alias else spec, spec)

    @property
    def text(self) -> str:
        """As it is written: ``NAME=SPEC``, or the spec where the model is called by it."""
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
        """The checkpoint's folder or file with symbolic links resolved; empty where the spec is
        none, or of random weights.
        """
        place = None if self.spec.startswith(RANDOM) else _local(self.spec)
        return os.path.realpath(place[1]) if place else ""

    @property
    def argument(self) -> str:
        """What is given to somebody else's code; empty where nothing is, or where the model is no
        such code.
        """
        return self.spec.partition("#")[0].partition("@")[2] if self.spec.startswith(CODE) else ""

    @property
    def revision(self) -> str:
        """What follows ``@``; empty for code, whose argument that is, and for random weights, which
        have seeds.
        """
        if self.spec.startswith((RANDOM, *CODE)):
            return ""
        place = _local(self.spec)
        return self.spec.rpartition("@")[2] if "@" in (place[2] if place else self.spec) else ""

    @property
    def resolved(self) -> str:
        """The spec in the one form that all its spellings share: no seed 0, and the path of a
        folder or file resolved.
        """
        spec = _without_seed_0(self.spec)
        place = _local(spec)
        return f"{place[0]}{os.path.realpath(place[1])}{place[2]}" if place else spec

    @property
    def as_path(self) -> str:
        """What `resolved` was if the spec is a folder or a file that is gone."""
        prefix = RANDOM if self.spec.startswith(RANDOM) else ""
        return prefix + os.path.realpath(self.spec.removeprefix(RANDOM))


def own_name(spec: str) -> str:
    """Return what a model is called that the user gave no name."""
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
    """Return a spec of the hub without its revision; any other as it is."""
    return spec if ":" in spec else spec.partition("@")[0]


def distinct_models(texts: Iterable[str | ModelName]) -> list[ModelName]:
    """Return the models of one command in their order; one that is named twice stands there once.

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
    """The spec of random weights without the seed that is meant where none is named."""
    if not spec.startswith(RANDOM) or spec.removeprefix(RANDOM).startswith(CODE):
        return spec
    return spec if _is_checkpoint(spec.removeprefix(RANDOM)) else re.sub("@0*$", "", spec)


def _local(spec: str) -> tuple[str, str, str] | None:
    """What stands before the path of a checkpoint on this machine, the path, and what follows it: a
    seed, a revision.
    """
    if spec in SPECTRAL:
        return None
    prefix = RANDOM if spec.startswith(RANDOM) else ""
    whole = spec.removeprefix(RANDOM)
    path, at, rest = whole.rpartition("@")
    places = [(whole, ""), *([(path, at + rest)] if at else [])]
    return next(((prefix, place, after) for place, after in places if _is_checkpoint(place)), None)


def _is_checkpoint(path: str) -> bool:
    """Whether a folder or a file of this name is one that a model can be opened from."""
    is_file = path.endswith(ENDING) and os.path.lexists(path)
    return is_file or os.path.lexists(f"{path}/config.json")
