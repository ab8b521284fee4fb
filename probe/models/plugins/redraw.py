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
    """Draws the weights of modules anew; the state of torch's generator stays as it was.

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
            f"{name}: the plug-in has no torch parameters among its attributes, so nothing can be drawn anew. Name it without random:."
        )
    before = {key: _state(parameter) for key, parameter in parameters.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in modules.values():
            _reset(module)
    kept = sorted(key for key, parameter in parameters.items() if _state(parameter) == before[key])
    if kept:
        raise ProbeError(
            f"{name}: {len(kept)} of its {len(parameters)} arrays of weights cannot be drawn anew, and would stay trained: "
            f"{listed(kept)}. Give the modules that have them a method reset_parameters."
        )


def _state(parameter: torch.Tensor) -> tuple[int, int]:
    """What is another one after something has written to a parameter, or has given it other memory."""
    return parameter._version, parameter.data_ptr()


def _reset(module: Any) -> None:
    """Draws a module's weights, those of the modules in it first, as what holds them may have rules
    for them.
    """
    if callable(getattr(module, "_init_weights", None)) and callable(
        getattr(module, "initialize_weights", None)
    ):
        for item in filter(parametrize.is_parametrized, module.modules()):
            _reset_parametrized(item)
        held: list[Any] = [*module.modules(), *module.parameters(), *module.buffers()]
        for item in held:
            item._is_hf_initialized = (
                False  # transformers leaves alone what it has initialised once
            )
        module.initialize_weights()
        return
    for child in module.children():
        if not isinstance(child, parametrize.ParametrizationList):
            _reset(child)
    if parametrize.is_parametrized(module):
        _reset_parametrized(module)
    else:
        for name in RESETS:
            if callable(getattr(module, name, None)):
                getattr(module, name)()
                break


def _reset_parametrized(module: Any) -> None:
    """Draws weights that are computed from others (weight norm) by way of a module that has them
    plainly.
    """
    plain_class: Any = type(module).__bases__[
        0
    ]  # torch gives the module a class of its own, derived from this
    plain = plain_class.__new__(plain_class)
    weights = {
        name: torch.nn.Parameter(torch.empty_like(getattr(module, name)))
        for name in module.parametrizations
    }
    plain.__dict__ = {
        **vars(module),
        "_parameters": {**module._parameters, **weights},
        "_modules": {},
    }
    plain.reset_parameters()
    for name, weight in weights.items():
        setattr(module, name, weight.data)
