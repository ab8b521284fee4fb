"""The packed form of Whisper's encoder.

Attention has no mask: every frame of the audio sees all frames of the padding, so blocks need the
rows of all 30 s. What can be left out without changing a value is left out:

* Log-mel energies of the padding are one number, a spectrum of zeros cut at 80 dB below the loudest
  value of the input. So the front-end runs over the audio and some padding. Its output over padding
  is the same row everywhere but at the very end.
* The last block that is needed computes, on a CPU, only the frames that are kept; keys and values
  still come from all.
* Blocks above the highest layer that is requested are not run, and the decoder is not loaded.

Rows of the padding differ in every block by their positions and from input to input by the level of
the cut, so nothing more can be shared.

The convolutions are transformers' own, in float32: products over overlapping rows would be seven
times as exact (5e-6 of the rms instead of 3.3e-5, the largest error), but trained weights amplify
any difference from transformers a hundredfold.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from probe.models.encoder import CONV
from probe.models.families import MEL_HOP, MEL_STRIDE, MEL_WINDOW, WhisperEncoder
from probe.models.packed.packed_encoder import Block, Network, PackedForm
from probe.models.packed.products import Norm, exactly
from probe.models.windows import Window

# Queries that are computed together: a CPU's attention is as fast as over all 1500 (80 ms, with 256
# it takes 89), and a short utterance needs one tile of them in the last block.
TILE = 768
# Mel frames of padding, at least, that the front-end reads: a row of its output sees five, and the
# last row is not like the others. Convolutions of fewer frames than `FEWEST_FRAMES` take other
# code, which rounds in another way than transformers' 3000 do (below 308 at 512 dimensions).
SILENT_FRAMES, FEWEST_FRAMES = 6, 512


class WhisperNetwork(Network):
    """One encoder's weights, ready for packed execution."""

    def __init__(self, model: Any, _head: Any, dtype: torch.dtype) -> None:
        """``model`` is transformers' encoder."""
        self.convolutions = [model.conv1, model.conv2]
        self.positions = model.embed_positions.weight.detach()
        self.pre_ln, self.position_bias, self.head = True, None, None
        self.norm = Norm(model.layer_norm)
        self.blocks = [Block(block, True, dtype, TILE) for block in model.layers]
        # On a GPU products of fewer rows may round differently, and a layer's bits must not depend
        # on whether later layers are requested.
        self.skips_rows = self.positions.device.type == "cpu"

    def rows(self, energies: Tensor) -> Tensor:
        """(band, mel frame) of the audio and some padding -> the front-end's output for a whole
        input, (frame, dim) float32.
        """
        for convolution in self.convolutions:
            energies = F.gelu(convolution(energies))
        frames = energies.T
        padding = frames[-2:-1].expand(len(self.positions) - len(frames), -1)
        return torch.cat([frames[:-1], padding, frames[-1:]])

    def inputs(self, energies: Sequence[Tensor]) -> dict[str, Tensor]:
        """`CONV` and layer 0 of several inputs, one after the other, (row, dim) float32 each."""
        rows = torch.cat([self.rows(item) for item in energies])
        return {CONV: rows, "0": rows + self.positions.repeat(len(energies), 1)}


class PackedWhisper(PackedForm, WhisperEncoder):
    """Whisper's encoder with the packed forward."""

    network_class = WhisperNetwork

    def _first_energies(self, samples: Tensor) -> Tensor:
        """(time,) of a window -> (band, mel frame) of the audio and of as much padding as the
        front-end has to read.
        """
        n_audio = -(-(len(samples) + MEL_WINDOW // 2) // MEL_HOP)  # frames whose window sees audio
        n_frames = max(n_audio + SILENT_FRAMES, FEWEST_FRAMES)
        n_frames += n_frames % MEL_STRIDE
        n_samples = min(n_frames * MEL_HOP, self.extractor.n_samples)
        settings = {"max_length": n_samples, "device": str(self.device)}
        energies: Tensor = self._preprocessed(samples, **settings).input_features[0]
        return energies.to(self.device)

    @torch.inference_mode()
    def pieces(self, waveforms: Sequence[Tensor], layers: Sequence[str]) -> Iterator[list[Tensor]]:
        """See `probe.models.encoder.pieces_of`; a piece is what is kept of as many inputs as have
        `rows` frames.
        """
        network = self.network
        assert isinstance(network, WhisperNetwork)
        length = len(network.positions)
        inputs = itertools.chain.from_iterable(map(self._inputs, waveforms))
        while group := list(itertools.islice(inputs, max(1, self.rows // length))):
            windows = [
                Window(start, start + length, start + kept.start, start + kept.stop)
                for start, (_, kept) in zip(itertools.count(0, length), group, strict=False)
            ]
            with exactly(self.precision):
                begun = network.inputs([self._first_energies(samples) for samples, _ in group])
                piece = network.run(begun, windows, layers)
            yield piece
