"""The untrained twin of a plug-in: the same modules, their weights drawn anew from a seed.

A module of torch draws its own weights with ``reset_parameters``; a model of transformers has rules
of its own for all that is in it. Every parameter is watched: one that nothing has written to would
stay trained, so it is refused by name.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.utils import parametrize

from probe.errors import ProbeError, listed
from probe.models.sources.known import UNUSED

RESETS = ("reset_parameters", "_reset_parameters")


@torch.no_grad()
def redraw(modules: Mapping[str, torch.nn.Module], seed: int, name: str) -> None:
    """Draw the weights of modules anew; the state of torch's generator stays as it was.

    Args:
        modules: see `probe.models.plugins.adapter.modules_of`.
        name: the model's, for messages.

    Raises:
        ProbeError: there is no parameter, or one that nothing here can draw.
    """
    parameters = {
        f"{attribute}.{key}".strip("."): parameter
        for attribute, module in modules.items()
        for key, parameter in module.named_parameters()
        if key.rpartition(".")[2] not in UNUSED
    }
    if not parameters:
        raise ProbeError(
            f"{name}: the plug-in has no torch parameters among its attributes, so nothing can be "
            "drawn anew. Name it without random:."
        )
    before = {key: _state(parameter) for key, parameter in parameters.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in modules.values():
            _reset(module)
    unchanged_names = sorted(
        key for key, parameter in parameters.items() if _state(parameter) == before[key]
    )
    if unchanged_names:
        raise ProbeError(
            f"{name}: {len(unchanged_names)} of its {len(parameters)} arrays of weights cannot be "
            f"drawn anew, and would stay trained: {listed(unchanged_names)}. Give the modules that "
            "have them a method reset_parameters."
        )


def _state(parameter: torch.Tensor) -> tuple[int, int]:
    """Return what changes when something writes to a parameter, or gives it other memory."""
    return parameter._version, parameter.data_ptr()


def _reset(module: Any) -> None:
    """Draw a module's weights after those of the modules in it, for which it may have rules."""
    methods = ("_init_weights", "initialize_weights")
    if all(callable(getattr(module, method, None)) for method in methods):  # of transformers
        for item in filter(parametrize.is_parametrized, module.modules()):
            _reset_parametrized(item)
        objects: list[Any] = [*module.modules(), *module.parameters(), *module.buffers()]
        for item in objects:
            item._is_hf_initialized = False  # transformers draws nothing twice
        module.initialize_weights()
        return
    for child in module.children():
        if not isinstance(child, parametrize.ParametrizationList):
            _reset(child)
    if parametrize.is_parametrized(module):
        _reset_parametrized(module)
        return
    resets = [reset for name in RESETS if callable(reset := getattr(module, name, None))]
    for reset in resets[:1]:
        reset()


def _reset_parametrized(module: Any) -> None:
    """Draw weights that are computed from others (weight norm) by way of a module that has them
    plainly.
    """
    # torch gives the module a class of its own, derived from the plain one.
    plain_class: Any = type(module).__bases__[0]
    plain = plain_class.__new__(plain_class)
    names = module.parametrizations
    weights = {name: torch.nn.Parameter(torch.empty_like(getattr(module, name))) for name in names}
    own = {"_parameters": {**module._parameters, **weights}, "_modules": {}}
    plain.__dict__ = {**vars(module), **own}
    plain.reset_parameters()
    for name, weight in weights.items():
        setattr(module, name, weight.data)
