"""Names of plug-ins -> encoders, and what identifies code.

``plugin:package.module:factory`` calls the factory; ``@text`` after it is given to it. Names of the
entry-point group ``probe.models`` stand for factories of installed packages.
``hear:package.module`` is a module of HEAR's interface. ``#pattern,pattern`` at the end hooks
modules by name. ``random:`` before a name opens the same plug-in with weights that are drawn anew,
from the seed after ``@@`` (0 where there is none). The folder one is in comes first in the search
for modules, as with ``python -m``.
"""

import functools
import hashlib
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from probe.errors import ProbeError, UsageError, listed
from probe.files import sha256_of_file
from probe.model_names import CODE, RANDOM, ModelName
from probe.models.plugins.adapter import PAGE, PluginEncoder, modules_of, refuse_incomplete, running
from probe.models.plugins.hear import HearModel
from probe.models.plugins.hooks import HookedModule
from probe.models.plugins.redraw import redraw
from probe.models.sources.known import GROUP, installed_plugins

PREFIX, HEAR = CODE
SEED = re.compile(r"@@(\d+)$")
FACTORY = f"{PREFIX}package.module:factory"
FORM = f"{FACTORY}, {FACTORY}@argument or {HEAR}package.module"
DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"


def is_plugin(model: str | ModelName) -> bool:
    """Whether opening a model runs code that is not ours."""
    name = ModelName.parse(model).spec.removeprefix(RANDOM)
    if name.startswith(CODE):
        return True
    plain = re.split("[@#]", name)[0]
    return "/" not in plain and ":" not in plain and plain in installed_plugins()


def with_hooks(models: Sequence[str | ModelName], hooks: Sequence[str]) -> list[ModelName]:
    """Return the models of a command, those of plug-ins with ``hooks`` at the end of their specs.

    Raises:
        UsageError: there are hooks and no plug-in, or see `probe.model_names.ModelName.parse`.
    """
    names = [ModelName.parse(model) for model in models]
    if hooks and not any(map(is_plugin, names)):
        specs = ", ".join(model.spec for model in names)
        raise UsageError(
            f"--hook {hooks[0]}: {specs} has layers of its own; hooks are for {PREFIX}... (see "
            f"{PAGE})."
        )
    return [model.hooked(hooks) if hooks and is_plugin(model) else model for model in names]


def open_plugin(name: str, device: torch.device) -> PluginEncoder:
    """Return the encoder of a plug-in.

    Raises:
        UsageError: the name has another form, or the factory takes no argument, or needs one.
        ProbeError: it cannot be imported, raises, or is none.
    """
    whole, _, patterns = name.partition("#")
    is_random = whole.startswith(RANDOM)
    seed = SEED.search(whole) if is_random else None
    whole = SEED.sub("", whole) if is_random else whole
    target, at, argument = whole.removeprefix(RANDOM).partition("@")
    value = _value_of(target, name)
    factory = _factory(value, target.startswith(HEAR), name)
    arguments = (argument,) if at else ()
    _refuse_other_arguments(factory, arguments, name)
    with running(name, value, argument=argument), torch.random.fork_rng(devices=[]):
        # Weights that it draws are always the same, and change nobody else's draws.
        torch.default_generator.manual_seed(0)
        plugin = factory(*arguments)
    number = int(seed[1]) if seed else 0
    if is_random:
        with running(name, "drawing its weights anew"):
            redraw(modules_of(plugin), number, name)
    is_file = argument and Path(argument).is_file()
    encoder = encoder_of(
        plugin,
        device,
        whole,
        module=value.partition(":")[0],
        hooks=tuple(filter(None, patterns.split(","))),
        settings={"argument_sha256": sha256_of_file(Path(argument))} if is_file else {},
        drawn=f"seed {number}" if is_random else "",
    )
    encoder.again = functools.partial(open_plugin, name, device)
    return encoder


def encoder_of(
    plugin: Any,
    device: torch.device,
    name: str | None = None,
    module: str | None = None,
    hooks: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    drawn: str = "",
) -> PluginEncoder:
    """Return the encoder of an object that is a plug-in, or with ``hooks`` a torch module.

    Args:
        name: its own, or that of its class where None.
        module: name of the module whose code decides what it computes; that of its class where
            None.
        settings: whatever else decides values.
        drawn: what its weights were drawn anew from; empty where they are its own.

    Raises:
        ProbeError: it is none, or raises.
    """
    if hooks:
        if not isinstance(plugin, torch.nn.Module):
            raise ProbeError(
                f"{name}: a {type(plugin).__name__}; only a torch module has modules for --hook "
                f"{','.join(hooks)}."
            )
        plugin = HookedModule(plugin, hooks)
    kind = type(plugin.module if isinstance(plugin, HookedModule) else plugin)
    name = name or getattr(plugin, "name", None) or f"{PREFIX}{kind.__module__}:{kind.__qualname__}"
    if not isinstance(plugin, HookedModule | HearModel):
        refuse_incomplete(plugin, name)
    revision = str(getattr(plugin, "version", None) or "")
    revision = revision or f"code {code_sha256(module or kind.__module__, name)[:12]}"
    if isinstance(plugin, HookedModule):
        revision += f", hooks {','.join(plugin.hooks)}"
    revision += f", {drawn}" if drawn else ""
    return PluginEncoder(plugin, name, revision, device, dict(settings or {}))


def code_sha256(module: str, name: str) -> str:
    """Return the hash of every Python file of the top-level package that ``module`` belongs to, or
    of the one file that it is.

    Raises:
        ProbeError: it has no file, as in a notebook.
    """
    top = sys.modules[module.partition(".")[0]]
    files = [
        (str(path.relative_to(folder)), path)
        for folder in map(Path, getattr(top, "__path__", ()))
        for path in sorted(folder.rglob("*.py"))
    ]
    if not hasattr(top, "__path__") and getattr(top, "__file__", None):
        files = [(Path(str(top.__file__)).name, Path(str(top.__file__)))]
    if not files:
        raise ProbeError(
            f"{name}: its code is in no file, so nothing would tell a changed one apart. Write it "
            "into a module, or give it a version of its own."
        )
    digest = hashlib.sha256()
    for relative, path in files:
        digest.update(f"{relative} {sha256_of_file(path)}\n".encode())
    return digest.hexdigest()


def _value_of(target: str, name: str) -> str:
    """Return ``module:factory``, or HEAR's ``module``, of a name without argument and hooks."""
    if target.startswith(CODE):
        value = target.partition(":")[2]
        if not re.fullmatch(DOTTED if target.startswith(HEAR) else f"{DOTTED}:{DOTTED}", value):
            raise UsageError(f"model {name}: expected {FORM}; see {PAGE}.")
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return value
    value, *others = installed_plugins()[target]
    if others:
        raise ProbeError(
            f"{name}: installed packages give this name to {value} and to {listed(others)}. "
            f"Uninstall one, or name the other {PREFIX}{others[0]}."
        )
    return value


def _factory(value: str, is_hear: bool, name: str) -> Any:
    factory = _imported(value, name)
    if is_hear:
        return functools.partial(HearModel, factory)
    if not callable(factory) or isinstance(factory, torch.nn.Module):
        raise ProbeError(
            f"{name}: {value} is a {type(factory).__name__}; expected a function or a class that "
            f"gives the plug-in. See {PAGE}."
        )
    return factory


def _imported(value: str, name: str) -> Any:
    """Return the module, or the thing in a module, that ``package.module:thing`` names."""
    module, _, thing = value.partition(":")
    try:
        with running(name, f"importing {module}"):
            return importlib.metadata.EntryPoint(name, value, GROUP).load()
    except ProbeError as error:
        cause, imported = error.__cause__, sys.modules.get(module)
        if isinstance(cause, ModuleNotFoundError) and f"{module}.".startswith(f"{cause.name}."):
            raise ProbeError(
                f"{name}: no module {cause.name!r}, neither in {Path.cwd()} nor installed. Change "
                "to the folder that has it, or install its package."
            ) from cause
        is_missing = imported is not None and not hasattr(imported, thing.split(".")[0])
        if isinstance(cause, AttributeError) and is_missing:
            names = [key for key, item in vars(imported).items() if callable(item)]
            public = [key for key in names if not key.startswith("_")]
            raise ProbeError(
                f"{name}: no {thing!r} in {getattr(imported, '__file__', module)}; there are "
                f"{listed(public) or 'no functions'}."
            ) from cause
        raise


def _refuse_other_arguments(factory: Any, arguments: tuple[str, ...], name: str) -> None:
    try:
        takes = inspect.signature(factory)
    except (TypeError, ValueError):  # of some classes written in C
        return
    try:
        takes.bind(*arguments)
    except TypeError as error:
        arguments_text = "no argument; text after @ would be one"
        arguments_text = "one argument, the text after @" if arguments else arguments_text
        raise UsageError(
            f"{name}: its factory takes {takes}, and is given {arguments_text}."
        ) from error
