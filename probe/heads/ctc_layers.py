"""Linear CTC heads of many layers, with all their learning rates, trained together.

A problem is a layer with a learning rate. All problems see the same utterances in the same order, so labels and lengths are shared:
one CTC loss serves them all (`probe.heads.ctc_loss`), and one product the learning rates of a layer. The rest is each problem's own:
gradient norm, Adam's moments, best epoch, the epoch it stops after. What comes out is what `CTCProbe` finds for each layer alone, up
to rounding.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.heads.ctc import CTCProbe, Examples, Run, batch_order, character_error_rates
from probe.heads.ctc_loss import Scratch, Targets, loss_and_gradient

# Frames of layers that are trained together; a layer that is larger is trained alone.
MEMORY_BYTES = 4 << 30
# Adam's, as torch has them.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

Frames = Sequence[np.ndarray]


def fit_linear_layers(
    new_probe: Callable[[], CTCProbe],
    layers: Iterable[tuple[str, Frames, Frames]],
    texts: Sequence[str],
    dev_texts: Sequence[str],
    on_epoch: Callable[[], Any] = lambda: None,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[tuple[str, CTCProbe]]:
    """(layer, its fitted probe), in order.

    Args:
        new_probe: a probe that is not fitted, with head ``linear``; the same settings every time.
        layers: (name, frames of the training utterances, of the dev ones), (frame, dim) each; read when their turn comes.
        on_epoch: called after each epoch of a group of layers.
        memory_bytes: of the frames held at once, float32. A group of layers ends where another like its last would not fit; also
            where layers do not have the same numbers of frames.

    Raises:
        ProbeError: no transcript has a character, or no utterance is long enough for its labels.
    """
    group: list[_Layer] = []
    for name, frames, dev_frames in layers:
        probe = new_probe()
        layer = _Layer(name, probe, *probe.prepare(frames, texts, dev_frames))
        if group and layer.lengths != group[0].lengths:  # their batches would not be the same
            yield from _fit(group, dev_texts, on_epoch)
            group = []
        group.append(layer)
        if sum(item.n_bytes for item in group) + layer.n_bytes > memory_bytes:
            yield from _fit(group, dev_texts, on_epoch)
            group = []
    if group:
        yield from _fit(group, dev_texts, on_epoch)


class _Layer:
    """One layer's frames, and its heads that are still in training.

    Attributes:
        runs: one per learning rate.
        active: positions in ``runs`` of the heads in training: the rates below.
        weights: (dim + 1, rate, symbol) float32, the bias last; zeros at first. ``mean``, ``square``: Adam's moments, same shape.
    """

    def __init__(self, name: str, probe: CTCProbe, train: Examples, dev: list[Tensor]) -> None:
        self.name, self.probe, self.train, self.dev = name, probe, train, dev
        self.runs = [Run(rate) for rate in probe.learning_rates]
        self.active = list(range(len(self.runs)))
        shape = (train.frames[0].shape[1] + 1, len(self.runs), len(probe.vocabulary_.characters) + 1)
        self.weights, self.mean, self.square = (train.frames[0].new_zeros(shape) for _ in range(3))
        self.steps = 0

    @property
    def lengths(self) -> tuple[list[int], list[int], list[int]]:
        """Frames of every utterance, train and dev; which training utterances were too short to be among them."""
        return [len(rows) for rows in self.train.frames], [len(rows) for rows in self.dev], self.probe.too_short_

    @property
    def n_bytes(self) -> int:
        return sum(rows.nbytes for rows in (*self.train.frames, *self.dev))

    def write_logits(self, frames: Sequence[Tensor], logits: Tensor) -> None:
        """Into (batch, frame, rate * symbol), for utterances of (frame, dim)."""
        weights = self.weights.flatten(1)
        for rows, into in zip(frames, logits, strict=True):
            torch.addmm(weights[-1], rows, weights[:-1], out=into[: len(rows)])

    def step(self, frames: Sequence[Tensor], gradient: Tensor, shares: Sequence[float], clip: float) -> None:
        """Adam, each head's gradient clipped to the norm ``clip``.

        Args:
            gradient: (batch, frame, rate * symbol), of each utterance's loss by its logits.
            shares: (batch,) of each utterance in the loss.
        """
        total = torch.zeros_like(self.weights)
        flat = total.flatten(1)
        for rows, by_logits, share in zip(frames, gradient, shares, strict=True):
            flat[:-1].addmm_(rows.T, by_logits[: len(rows)], alpha=share)
            flat[-1].add_(by_logits[: len(rows)].sum(0), alpha=share)
        norm = torch.linalg.vector_norm(total, dim=(0, 2), keepdim=True)
        total *= (clip / (norm + 1e-6)).clamp(max=1)
        self.steps += 1
        self.mean.lerp_(total, 1 - BETA_1)
        self.square.mul_(BETA_2).addcmul_(total, total, value=1 - BETA_2)
        sizes = [self.runs[i].learning_rate / (1 - BETA_1**self.steps) for i in self.active]
        root = self.square.sqrt().div_(math.sqrt(1 - BETA_2**self.steps)).add_(EPSILON)
        self.weights.addcmul_(self.mean / root, self.weights.new_tensor(sizes)[:, None], value=-1)

    def state(self, rate: int) -> dict[str, Tensor]:
        """Of a `probe.heads.ctc.CTCHead`."""
        weights = self.weights[:, rate].clone()
        return {"projection.weight": weights[:-1].T.contiguous(), "projection.bias": weights[-1]}

    def drop_finished(self, patience: int) -> None:
        """Ends the heads whose dev score has not improved for so long, or is not a number."""
        rates = [k for k, i in enumerate(self.active) if self.runs[i].waited < patience and not self.runs[i].over]
        if len(rates) < len(self.active):
            self.active = [self.active[k] for k in rates]
            self.weights, self.mean, self.square = (x[:, rates].contiguous() for x in (self.weights, self.mean, self.square))


@torch.no_grad()
def _fit(group: list[_Layer], dev_texts: Sequence[str], on_epoch: Callable[[], Any]) -> list[tuple[str, CTCProbe]]:
    """Trains a group of layers with equal numbers of frames."""
    first = group[0]
    probe, order, scratch = first.probe, np.random.default_rng(first.probe.seed), Scratch()
    lengths, labels = first.lengths[0], first.train.labels
    dev_labels = [torch.tensor(probe.vocabulary_.encode(text)) for text in dev_texts]
    training = group
    for _ in range(probe.epochs):
        for chosen in batch_order(lengths, probe.batch_size, order):
            frames = [[layer.train.frames[i] for i in chosen] for layer in training]
            gradient = _forward(training, frames, [labels[i] for i in chosen], scratch)[2]
            shares = [1 / len(labels[i]) / len(chosen) for i in chosen]
            for layer, rows, part in zip(training, frames, _by_layer(training, gradient), strict=True):
                layer.step(rows, part, shares, probe.clip)
        _score(training, dev_labels, dev_texts, scratch)
        on_epoch()
        for layer in training:
            layer.drop_finished(probe.patience)
        training = [layer for layer in training if layer.active]
        if not training:
            break
    return [(layer.name, layer.probe.conclude(layer.runs)) for layer in group]


def _forward(
    layers: list[_Layer], frames: list[list[Tensor]], labels: list[Tensor], scratch: Scratch
) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, frame, problem, symbol) logits, (batch, problem) losses and the gradient of their sum by the logits.

    Args:
        frames: layer -> utterance -> (frame, dim).
        labels: utterance -> (label,).
    """
    lengths = torch.tensor([len(rows) for rows in frames[0]])
    n_problems, n_symbols = sum(len(layer.active) for layer in layers), layers[0].weights.shape[2]
    shape = (len(lengths), int(lengths.max()), n_problems, n_symbols)
    logits = scratch.take("logits", shape, layers[0].weights)
    for utterance, length in zip(logits, lengths.tolist(), strict=True):
        utterance[length:] = 0
    for layer, rows, part in zip(layers, frames, _by_layer(layers, logits), strict=True):
        layer.write_logits(rows, part)
    return logits, *loss_and_gradient(logits, Targets.of(labels, lengths, n_symbols, logits), scratch)


def _by_layer(layers: list[_Layer], values: Tensor) -> Sequence[Tensor]:
    """(batch, frame, problem, symbol) -> layer -> (batch, frame, rate * symbol), views."""
    return values.flatten(2).split([len(layer.active) * values.shape[3] for layer in layers], dim=2)


def _score(layers: list[_Layer], labels: list[Tensor], texts: Sequence[str], scratch: Scratch) -> None:
    """Adds an epoch to every run in training: CER and mean loss on dev."""
    vocabulary, batch_size, lengths = layers[0].probe.vocabulary_, layers[0].probe.batch_size, layers[0].lengths[1]
    runs = [(layer, rate) for layer in layers for rate in range(len(layer.active))]
    written = [[""] * len(texts) for _ in runs]
    losses: list[Tensor] = []
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(by_length), batch_size):
        chosen = by_length[start : start + batch_size]
        frames = [[layer.dev[i] for i in chosen] for layer in layers]
        logits, loss, _ = _forward(layers, frames, [labels[i] for i in chosen], scratch)
        losses.append(loss)
        for i, best in zip(chosen, logits.argmax(3).transpose(1, 2).tolist(), strict=True):
            for problem, symbols in enumerate(best):
                written[problem][i] = vocabulary.decode_greedy(symbols[: lengths[i]])
    rates = character_error_rates(texts, written)
    for (layer, rate), cer, values in zip(runs, rates, torch.cat(losses).T.tolist(), strict=True):
        finite = [value for value in values if math.isfinite(value)]
        dev_loss = sum(finite) / len(finite) if finite else math.nan
        layer.runs[layer.active[rate]].add(cer, dev_loss, partial(layer.state, rate))
