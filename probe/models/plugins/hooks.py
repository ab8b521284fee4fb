"""Layers of any torch module by forward hooks: ``encoder.layers.*`` taps every block of a stack.

The module is called with (1, time) float32, one utterance at a time; it may return anything. As
everywhere in the house layer ``i`` is what the i-th hooked module returns, in the order of the
model's own modules, and ``0`` what the first of them is given, where that has frames as the others
do. Which axis of a tensor is time is seen from one utterance and another twice as long; the others
become dim.
"""

import contextlib
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from probe.brief import brief
from probe.errors import ProbeError, listed
from probe.models.frames import FrameGrid, measured_grid
from probe.models.plugins.adapter import PAGE, batched, counter, noise

ASSUMED_RATE_HZ = 16_000
FIXED = (
    "Either this module gives one result for an utterance: then hook one whose output is frames. "
    "Or the model pads or cuts its input to one length, as Whisper does: then hooks cannot tell "
    "which frames are the audio's, and a class whose encode keeps those alone is needed; see "
    f"{PAGE}."
)


class HookedModule:
    """A torch module as a plug-in; satisfies `probe.models.plugins.adapter.Plugin`."""

    def __init__(
        self, module: torch.nn.Module, hooks: Sequence[str], sample_rate: int | None = None
    ) -> None:
        """Name the modules that are tapped; the module is run when something is asked of it first.

        Args:
            hooks: names of modules as ``named_modules`` has them; ``*`` stands for any one name
                between dots.
            sample_rate: in Hz; the module's attribute of that name where None, and 16 kHz where it
                has none.

        Raises:
            ProbeError: a hook that no module is named by.
        """
        names = [name for name, _ in module.named_modules() if name]
        for hook in hooks:
            if not any(_matches(name, hook) for name in names):
                raise ProbeError(
                    f"--hook {hook}: no module of this name in {type(module).__name__}; there are "
                    f"{_close_names(hook, names)}."
                )
        self.module = module.eval()
        self.hooks = tuple(hooks)
        self._tapped = [name for name in names if any(_matches(name, hook) for hook in hooks)]
        rate = sample_rate or getattr(module, "sample_rate", None)
        self.sample_rate = ASSUMED_RATE_HZ if rate is None else rate
        self.notes = [f"layers from 1 on are {listed(self._tapped, 3)}"]
        if rate is None:
            self.notes.insert(0, f"the module has no sample_rate; {ASSUMED_RATE_HZ} Hz are assumed")
        self.version = getattr(module, "version", None)

    def __repr__(self) -> str:
        return brief(self, type(self.module).__name__, *self.hooks)

    def to(self, device: torch.device) -> None:
        """Move the module."""
        self.module.to(device)

    @functools.cached_property
    def _axes(self) -> dict[str, int]:
        """Layer -> the axis that is time, of the layers that are there."""
        short, long = (self._run(noise(seconds * self.sample_rate)) for seconds in (1, 2))
        axes = {
            layer: axis
            for layer in short
            if (axis := _growing(short[layer], long[layer])) is not None
        }
        for name, layer in self.aliases.items():
            if layer not in axes:
                one, two = tuple(short[layer].shape), tuple(long[layer].shape)
                advice = FIXED if one == two else "Hook a module whose output is frames."
                raise ProbeError(
                    f"--hook {name}: gives shapes {one} and {two} of 1 s and 2 s; expected one "
                    f"axis that grows with time. {advice}"
                )
        frames = {layer: short[layer].shape[axis] for layer, axis in axes.items()}
        if len({frames[layer] for layer in self.aliases.values()}) > 1:
            counts = [f"{name} {frames[layer]}" for name, layer in self.aliases.items()]
            raise ProbeError(
                f"--hook: different numbers of frames of 1 s: {listed(counts)}. Hook those of one "
                "rate at a time."
            )
        return {layer: axis for layer, axis in axes.items() if frames[layer] == frames["1"]}

    @functools.cached_property
    def layer_widths(self) -> Mapping[str, int]:
        """Layer -> dim, as it comes out."""
        frames = self._frames(noise(self.sample_rate))
        return {layer: item.shape[1] for layer, item in frames.items()}

    @functools.cached_property
    def frame_grid(self) -> FrameGrid:
        """The grid of the frames as they come out."""
        count = counter(lambda wave: len(self._frames(wave)["1"]), self.sample_rate)
        return measured_grid(count, self.sample_rate)

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.frame_grid.hop_samples

    @property
    def aliases(self) -> dict[str, str]:
        """Name of a module -> layer that it returns."""
        return {name: str(number) for number, name in enumerate(self._tapped, start=1)}

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """See `probe.models.plugins.adapter.Plugin.encode`."""
        return batched(waveforms, lengths, lambda wave: list(self._frames(wave).values()))

    def _frames(self, wave: Tensor) -> dict[str, Tensor]:
        """(time,) -> layer -> (frame, dim)."""
        tensors = self._run(wave)
        moved = {layer: tensors[layer].movedim(axis, 0) for layer, axis in self._axes.items()}
        return {layer: item.reshape(len(item), -1) for layer, item in moved.items()}

    @torch.inference_mode()
    def _run(self, wave: Tensor) -> dict[str, Tensor]:
        """(time,) -> layer -> what the hooked module was given (``0``) or returned.

        Raises:
            ProbeError: a module that is not run, or several times, or returns no tensor.
        """
        inputs: list[Any] = []
        outputs: dict[str, list[Any]] = {name: [] for name in self._tapped}
        first = self.module.get_submodule(self._tapped[0])
        with contextlib.ExitStack() as hooks:
            hooks.enter_context(
                first.register_forward_pre_hook(
                    lambda _, positional, named: inputs.append((*positional, *named.values())),
                    with_kwargs=True,
                )
            )
            for name, values in outputs.items():
                keep = functools.partial(_keep, values)
                hooks.enter_context(self.module.get_submodule(name).register_forward_hook(keep))
            self.module(wave[None].to(next(self.module.parameters(), wave).device))
        tensors = {"0": _first_tensor(inputs[0]) if inputs else None}
        for name, layer in self.aliases.items():
            if len(outputs[name]) != 1:
                raise ProbeError(
                    f"--hook {name}: runs {len(outputs[name])} times in one pass; expected once. "
                    "Hook another."
                )
            tensors[layer] = _first_tensor(outputs[name][0])
            if tensors[layer] is None:
                raise ProbeError(
                    f"--hook {name}: returns no tensor but a {type(outputs[name][0]).__name__}. "
                    "Hook a module whose output is frames."
                )
        return {layer: item for layer, item in tensors.items() if item is not None}


def _keep(values: list[Any], _module: Any, _inputs: Any, output: Any) -> None:
    values.append(output)


def _matches(name: str, hook: str) -> bool:
    """Whether each part of a module's name is that of the hook; ``*`` does not go beyond a dot."""
    parts, patterns = name.split("."), hook.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _close_names(hook: str, names: Sequence[str]) -> str:
    general = list(dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names))
    return listed(difflib.get_close_matches(hook, general, n=5) or general, 8)


def _first_tensor(value: Any) -> Tensor | None:
    """Return the tensor, or the first one in a tuple, a list or a mapping."""
    if isinstance(value, Tensor):
        return value
    items = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | tuple | list):
        return None
    return next((tensor for tensor in map(_first_tensor, items) if tensor is not None), None)


def _growing(short: Tensor, long: Tensor) -> int | None:
    """Return the one axis that grows with the audio; None where there is none, or several."""
    if short.ndim != long.ndim or not short.is_floating_point():
        return None
    axes = [axis for axis in range(short.ndim) if short.shape[axis] != long.shape[axis]]
    return axes[0] if len(axes) == 1 else None
