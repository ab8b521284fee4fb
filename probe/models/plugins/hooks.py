"""Layers of any torch module by forward hooks: ``encoder.layers.*`` taps every block of a stack.

The module is called with (1, time) float32, one utterance at a time; it may return anything. As
everywhere in the house layer ``i`` is what the i-th hooked module returns, in the order of the
model's own modules, and ``0`` what the first of them is given, where that has frames as the others
do. Which axis of a tensor is time is seen from one utterance and another twice as long; the others
become dim.
"""

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
from probe.models.plugins.adapter import PAGE, counter, noise, padded

ASSUMED_RATE_HZ = 16_000
FIXED = (
    "Either this module gives one result for an utterance: then hook one whose output is frames. Or the "
    "model pads or cuts its input to one length, as Whisper does: then hooks cannot tell which frames are "
    f"the audio's, and a class whose encode keeps those alone is needed; see {PAGE}."
)


class HookedModule:
    """A torch module as a plug-in; satisfies `probe.models.plugins.adapter.Plugin`."""

    def __init__(
        self, module: torch.nn.Module, hooks: Sequence[str], sample_rate: int | None = None
    ) -> None:
        """Names the modules that are tapped; the module is run when something is asked of it first.

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
            if not any(_named_by(name, hook) for name in names):
                raise ProbeError(
                    f"--hook {hook}: no module of this name in {type(module).__name__}; {_hint(hook, names)}."
                )
        self.module = module.eval()
        self.hooks = tuple(hooks)
        self._tapped = [name for name in names if any(_named_by(name, hook) for hook in hooks)]
        rate = sample_rate or getattr(module, "sample_rate", None)
        self.sample_rate = ASSUMED_RATE_HZ if rate is None else rate
        self.notes = (
            []
            if rate is not None
            else [f"the module has no sample_rate; {ASSUMED_RATE_HZ} Hz are assumed"]
        )
        self.notes.append("layers from 1 on are " + listed(self._tapped, 3))
        self.version = getattr(module, "version", None)

    def __repr__(self) -> str:
        return brief(self, type(self.module).__name__, *self.hooks)

    def to(self, device: torch.device) -> None:
        """Moves the module."""
        self.module.to(device)

    @functools.cached_property
    def _axes(self) -> dict[str, int]:
        """Layer -> the axis that is time, of the layers that are there."""
        short, long = (self._run(self._noise(seconds)) for seconds in (1, 2))
        axes = {name: _growing(short[name], long[name]) for name in short}
        for number, name in enumerate(self._tapped, start=1):
            if axes[str(number)] is None:
                shapes = [tuple(item[str(number)].shape) for item in (short, long)]
                raise ProbeError(
                    f"--hook {name}: gives shapes {shapes[0]} and {shapes[1]} of 1 s and 2 s; expected one axis that grows with "
                    f"time. {FIXED if shapes[0] == shapes[1] else 'Hook a module whose output is frames.'}"
                )
        frames = {name: short[name].shape[axis] for name, axis in axes.items() if axis is not None}
        if len({count for name, count in frames.items() if name != "0"}) > 1:
            counts = [
                f"{name} {frames[str(number)]}" for number, name in enumerate(self._tapped, start=1)
            ]
            raise ProbeError(
                f"--hook: different numbers of frames of 1 s: {listed(counts)}. Hook those of one rate at a time."
            )
        if frames.get("0") != frames["1"]:
            del axes["0"]
        return {name: axis for name, axis in axes.items() if axis is not None}

    @functools.cached_property
    def layer_widths(self) -> Mapping[str, int]:
        """Layer -> dim, as it comes out."""
        return {name: item.shape[1] for name, item in self._frames(self._noise(1)).items()}

    @functools.cached_property
    def frame_grid(self) -> FrameGrid:
        """Frames of a length, as they come out."""
        return measured_grid(
            counter(lambda wave: len(self._frames(wave)["1"]), self.sample_rate), self.sample_rate
        )

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
        waves = [wave[:length] for wave, length in zip(waveforms, lengths.tolist(), strict=True)]
        return padded([list(self._frames(wave).values()) for wave in waves])

    def _noise(self, seconds: int) -> Tensor:
        return noise(seconds * self.sample_rate)

    def _frames(self, wave: Tensor) -> dict[str, Tensor]:
        """(time,) -> layer -> (frame, dim)."""
        found = self._run(wave)
        return {
            name: found[name].movedim(axis, 0).reshape(found[name].shape[axis], -1)
            for name, axis in self._axes.items()
        }

    @torch.inference_mode()
    def _run(self, wave: Tensor) -> dict[str, Tensor]:
        """(time,) -> layer -> what the hooked module was given (``0``) or returned.

        Raises:
            ProbeError: a module that is not run, or several times, or returns no tensor.
        """
        found: dict[str, list[Any]] = {str(number): [] for number in range(len(self._tapped) + 1)}
        modules = [self.module.get_submodule(name) for name in self._tapped]
        handles = [
            modules[0].register_forward_pre_hook(
                lambda _module, positional, named: found["0"].append(
                    (*positional, *named.values())
                ),
                with_kwargs=True,
            )
        ]
        for number, module in enumerate(modules, start=1):
            handles.append(module.register_forward_hook(_keep_in(found[str(number)])))
        try:
            self.module(wave[None].to(next(self.module.parameters(), wave).device))
        finally:
            for handle in handles:
                handle.remove()
        for number, name in enumerate(self._tapped, start=1):
            if len(found[str(number)]) != 1:
                raise ProbeError(
                    f"--hook {name}: runs {len(found[str(number)])} times in one pass; expected once. Hook another."
                )
            if _first_tensor(found[str(number)][0]) is None:
                kind = type(found[str(number)][0]).__name__
                raise ProbeError(
                    f"--hook {name}: returns no tensor but a {kind}. Hook a module whose output is frames."
                )
        tensors = {name: _first_tensor(values[0]) for name, values in found.items()}
        return {name: item for name, item in tensors.items() if item is not None}


def _keep_in(values: list[Any]) -> Any:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        values.append(output)

    return hook


def _named_by(name: str, hook: str) -> bool:
    """Whether each part of a module's name is that of the hook; ``*`` does not go beyond a dot."""
    parts, wanted = name.split("."), hook.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _hint(hook: str, names: Sequence[str]) -> str:
    """What may have been meant."""
    general = list(dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names))
    return f"there are {listed(difflib.get_close_matches(hook, general, n=5) or general, 8)}"


def _first_tensor(value: Any) -> Tensor | None:
    """The tensor, or the first one in a tuple, a list or a mapping."""
    if isinstance(value, Tensor):
        return value
    inner = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, tuple | list)
        else ()
    )
    return next((tensor for tensor in map(_first_tensor, inner) if tensor is not None), None)


def _growing(short: Tensor, long: Tensor) -> int | None:
    """The one axis that is longer of twice the audio; None where there is none, or several."""
    if short.ndim != long.ndim or not short.is_floating_point():
        return None
    axes = [axis for axis in range(short.ndim) if short.shape[axis] != long.shape[axis]]
    return axes[0] if len(axes) == 1 else None
