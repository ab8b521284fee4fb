"""Finds the kinds of tasks: every module of this folder that has a ``KIND``."""

import functools
import importlib
import pkgutil
from typing import Any

from probe.evaluation.kind import Kind


@functools.cache
def kinds() -> dict[str, Kind[Any]]:
    """Name -> kind."""
    names = [item.name for item in pkgutil.iter_modules([__file__.rpartition("/")[0]])]
    modules = [
        importlib.import_module(f"{__package__}.{name}") for name in names if name != "registry"
    ]
    of_modules = [module.KIND for module in modules if hasattr(module, "KIND")]
    return {kind.name: kind for kind in of_modules}


def kind_of(name: str) -> Kind[Any]:
    """Return the kind with a name."""
    return kinds()[name]
