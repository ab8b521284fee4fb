"""Models behind the HEAR benchmark's interface (https://hearbenchmark.com/hear-api.html) as
plug-ins.

Layer ``0`` is ``get_timestamp_embeddings``. Layer ``scene`` is ``get_scene_embeddings``, one vector
for an utterance, repeated for each of its frames: every pooled view gives it as it is (``meanstd``
with a deviation of 0), at the price of a second pass. Utterances go one at a time. Timestamps,
which HEAR has in ms, must be as far apart as frames come.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from probe.brief import brief
from probe.errors import ProbeError
from probe.models.frames import FrameGrid, measured_grid
from probe.models.plugins.adapter import batched, counter, noise

INTERFACE = ("load_model", "get_timestamp_embeddings", "get_scene_embeddings")
SIZES = ("sample_rate", "timestamp_embedding_size", "scene_embedding_size")
# Timestamps and lengths at which frames come are both rounded by the models.
MOST_APART = 0.01


class HearModel:
    """A module of HEAR's interface as a `probe.models.plugins.adapter.Plugin`."""

    def __init__(self, module: Any, *weights: str) -> None:
        """Load the model.

        Args:
            module: has the functions of `INTERFACE`.
            weights: the path for ``load_model``, or nothing.

        Raises:
            ProbeError: a function or an attribute of the interface is missing.
        """
        self._name = f"hear:{getattr(module, '__name__', type(module).__name__)}"
        if absent_names := [
            item for item in INTERFACE if not callable(getattr(module, item, None))
        ]:
            raise ProbeError(
                f"{self._name}: has no {', '.join(absent_names)}; expected the functions "
                f"{', '.join(INTERFACE)}."
            )
        self.model = module.load_model(*weights)
        if absent_names := [item for item in SIZES if not hasattr(self.model, item)]:
            raise ProbeError(
                f"{self._name}: load_model gives a model without {', '.join(absent_names)}; HEAR's "
                "interface asks for them."
            )
        self._api, self._device = module, torch.device("cpu")
        self.sample_rate, frames_dim, scene_dim = (getattr(self.model, item) for item in SIZES)
        self.layer_widths: Mapping[str, int] = {"0": frames_dim, "scene": scene_dim}
        self.notes = ["layer scene is one vector for an utterance, repeated for its frames"]

    def __repr__(self) -> str:
        return brief(self, self._name.removeprefix("hear:"), f"{self.sample_rate} Hz")

    def to(self, device: torch.device) -> None:
        """Move the model."""
        if isinstance(self.model, torch.nn.Module):
            self.model.to(device)
            self._device = device

    @functools.cached_property
    def frame_grid(self) -> FrameGrid:
        """The grid of the frames as they come out.

        Raises:
            ProbeError: timestamps that say something else.
        """
        count = counter(lambda wave: self._timestamps(wave)[0].shape[1], self.sample_rate)
        grid = measured_grid(count, self.sample_rate)
        hop = grid.hop_samples
        _, stamps_ms = self._timestamps(noise(max(self.sample_rate, grid.min_samples + 3 * hop)))
        apart = float(stamps_ms[0].double().diff().median()) * self.sample_rate / 1000
        if not abs(apart - hop) <= max(1.0, MOST_APART * hop):
            raise ProbeError(
                f"{self._name}: timestamps {apart:.6g} samples apart, where a frame comes every "
                f"{hop}; expected the same, timestamps in ms."
            )
        return grid

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.frame_grid.hop_samples

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """See `probe.models.plugins.adapter.Plugin.encode`."""
        return batched(waveforms, lengths, self._layers)

    def _layers(self, wave: Tensor) -> list[Tensor]:
        frames = self._timestamps(wave)[0][0]
        scene = self._api.get_scene_embeddings(wave[None].to(self._device), self.model)
        return [frames, scene.expand(len(frames), -1)]

    @torch.inference_mode()
    def _timestamps(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """(time,) -> (1, frame, dim) and their (1, frame) times in ms."""
        embeddings, stamps_ms = self._api.get_timestamp_embeddings(
            wave[None].to(self._device), self.model
        )
        return embeddings, stamps_ms
