"""CTC heads of single frames (``linear``, ``mlp``) of many layers, with all their learning rates, trained together.

A problem is a layer with a learning rate. All problems see the same utterances in the same order, so labels and lengths are shared:
one CTC loss serves them all (`probe.heads.ctc_loss`), and one product with the frames the learning rates of a layer. The rest is
each problem's own: gradient norm, Adam's moments, best epoch, the epoch it stops after. What comes out is what `CTCProbe` finds for
each layer alone, up to rounding.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from probe.heads.ctc import CTCProbe, Examples, Run, batch_order, pad
from probe.heads.ctc_head import ACTIVATIONS, as_read
from probe.heads.ctc_loss import Scratch, Targets, loss_and_gradient
from probe.heads.vocabulary import symbol_error_rates

# Heads that can be trained together. Recurrent ones cannot: see `benchmarks/ctc.py --head bilstm`.
GROUPED = ("linear", "mlp")
# Frames of layers that are trained together; a layer that is larger is trained alone.
MEMORY_BYTES = 4 << 30
# Adam's, as torch has them.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

Frames = Sequence[np.ndarray]


def fit_layers(
    new_probe: Callable[[], CTCProbe],
    layers: Iterable[tuple[str, Frames, Frames]],
    texts: Sequence[str],
    dev_texts: Sequence[str],
    on_epoch: Callable[[], Any] = lambda: None,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[tuple[str, CTCProbe]]:
    """(layer, its fitted probe), in order.

    Args:
        new_probe: a probe that is not fitted, with a head of `GROUPED` and no weighted sum; the same settings every time.
        layers: (name, frames of the training utterances, of the dev ones), (frame, dim) each; read when their turn comes.
        on_epoch: called after each epoch of a group of layers.
        memory_bytes: of the frames held at once, float32. A group of layers ends where another like its last would not fit; also
            where layers do not have the same numbers of frames.

    Raises:
        ProbeError: no transcript has a symbol, or no utterance is long enough for its labels.
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
        weights: parameter of a `probe.heads.ctc_head.CTCHead` -> (rate, ...) float32; a weight before its bias, first layer first.
        mean, square: Adam's moments, same shapes.
    """

    def __init__(self, name: str, probe: CTCProbe, train: Examples, dev: list[Tensor]) -> None:
        self.name, self.probe, self.train, self.dev = name, probe, train, dev
        self.runs = [Run(rate, probe.metric) for rate in probe.learning_rates]
        self.active = list(range(len(self.runs)))
        start = probe.new_head().named_parameters()
        self.weights = {key: torch.stack([value.detach()] * len(self.runs)).requires_grad_() for key, value in start}
        self.mean, self.square = ({key: torch.zeros_like(value) for key, value in self.weights.items()} for _ in range(2))
        self.steps = 0

    @property
    def lengths(self) -> tuple[list[int], list[int], list[int]]:
        """Frames of every utterance, train and dev; which training utterances were too short to be among them."""
        return self.train.lengths, [len(rows) for rows in self.dev], self.probe.too_short_

    @property
    def n_bytes(self) -> int:
        return sum(rows.nbytes for rows in (*self.train.frames, *self.dev))

    def logits(self, rows: list[Tensor], epoch: int | None, chosen: Sequence[int]) -> Tensor:
        """(batch, frame, rate, symbol) for utterances of (frame, dim).

        Args:
            epoch: of training, for what SpecAugment hides of the ``chosen`` utterances; None where nothing is hidden.
        """
        frames, lengths = pad(rows)
        masks = None if epoch is None else self.probe.masks(epoch, chosen, lengths.tolist(), frames.shape[2])
        frames = as_read(frames, lengths, masks, self.probe.settings)
        values = list(self.weights.values())
        first, *others = zip(values[::2], values[1::2], strict=True)
        outputs = F.linear(frames, first[0].flatten(0, 1), first[1].flatten()).unflatten(2, (len(self.active), -1))
        for weight, bias in others:
            outputs = torch.einsum("btri,roi->btro", ACTIVATIONS[self.probe.settings.activation](outputs), weight) + bias
        return outputs

    @torch.no_grad()
    def step(self) -> None:
        """Adam with the gradients in ``weights``, each head's clipped to its norm."""
        gradients = {key: value.grad for key, value in self.weights.items() if value.grad is not None}
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
        factor = (self.probe.clip / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1)
        self.steps += 1
        sizes = [self.runs[i].learning_rate / (1 - BETA_1**self.steps) for i in self.active]
        for key, gradient in gradients.items():
            shape = (-1, *[1] * (gradient.dim() - 1))  # of what differs from rate to rate
            gradient *= factor.view(shape)
            self.mean[key].lerp_(gradient, 1 - BETA_1)
            self.square[key].mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            root = self.square[key].sqrt().div_(math.sqrt(1 - BETA_2**self.steps)).add_(EPSILON)
            self.weights[key].addcmul_(self.mean[key] / root, gradient.new_tensor(sizes).view(shape), value=-1)
            self.weights[key].grad = None

    def state(self, rate: int) -> dict[str, Tensor]:
        """Of a `probe.heads.ctc_head.CTCHead`."""
        return {key: value.detach()[rate].clone() for key, value in self.weights.items()}

    def drop_finished(self, patience: int) -> None:
        """Ends the heads whose dev score has not improved for so long, or is not a number."""
        rates = [k for k, i in enumerate(self.active) if self.runs[i].waited < patience and not self.runs[i].over]
        if len(rates) < len(self.active):
            self.active = [self.active[k] for k in rates]
            self.weights = {key: value.detach()[rates].requires_grad_() for key, value in self.weights.items()}
            self.mean, self.square = ({key: value[rates] for key, value in x.items()} for x in (self.mean, self.square))


def _fit(group: list[_Layer], dev_texts: Sequence[str], on_epoch: Callable[[], Any]) -> list[tuple[str, CTCProbe]]:
    """Trains a group of layers with equal numbers of frames."""
    first = group[0]
    probe, order, scratch = first.probe, np.random.default_rng(first.probe.seed), Scratch()
    lengths, labels = first.lengths[0], first.train.labels
    dev_labels = [torch.tensor(probe.vocabulary_.encode(text)) for text in dev_texts]
    training = group
    for epoch in range(probe.epochs):
        for chosen in batch_order(lengths, probe.batch_size, order):
            parts = [layer.logits([layer.train.frames[i] for i in chosen], epoch, chosen) for layer in training]
            gradient = _losses(parts, [lengths[i] for i in chosen], [labels[i] for i in chosen], scratch)[2]
            shares = [1 / len(labels[i]) / len(chosen) for i in chosen]
            gradient *= gradient.new_tensor(shares)[:, None, None, None]
            torch.autograd.backward(parts, list(gradient.split([part.shape[2] for part in parts], dim=2)))
            for layer in training:
                layer.step()
        _score(training, dev_labels, dev_texts, scratch)
        on_epoch()
        for layer in training:
            layer.drop_finished(probe.patience)
        training = [layer for layer in training if layer.active]
        if not training:
            break
    return [(layer.name, layer.probe.conclude(layer.runs)) for layer in group]


@torch.no_grad()
def _losses(parts: list[Tensor], lengths: Sequence[int], labels: list[Tensor], scratch: Scratch) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, frame, problem, symbol) logits, (batch, problem) losses and the gradient of their sum by the logits.

    Args:
        parts: layer -> (batch, frame, rate, symbol) logits.
        lengths: of each utterance.
        labels: utterance -> (label,).
    """
    batch, frame, _, symbol = parts[0].shape
    logits = scratch.take("logits", (batch, frame, sum(part.shape[2] for part in parts), symbol), parts[0])
    torch.cat(parts, dim=2, out=logits)
    return logits, *loss_and_gradient(logits, Targets.of(labels, torch.tensor(lengths), symbol, logits), scratch)


@torch.no_grad()
def _score(layers: list[_Layer], labels: list[Tensor], texts: Sequence[str], scratch: Scratch) -> None:
    """Adds an epoch to every run in training: symbol error rate and mean loss on dev."""
    probe, lengths = layers[0].probe, layers[0].lengths[1]
    runs = [(layer, rate) for layer in layers for rate in range(len(layer.active))]
    written = [[""] * len(texts) for _ in runs]
    losses: list[Tensor] = []
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(by_length), probe.batch_size):
        chosen = by_length[start : start + probe.batch_size]
        parts = [layer.logits([layer.dev[i] for i in chosen], None, chosen) for layer in layers]
        logits, loss, _ = _losses(parts, [lengths[i] for i in chosen], [labels[i] for i in chosen], scratch)
        losses.append(loss)
        for i, best in zip(chosen, logits.argmax(3).transpose(1, 2).tolist(), strict=True):
            for problem, symbols in enumerate(best):
                written[problem][i] = probe.vocabulary_.decode_greedy(symbols[: lengths[i]])
    rates = symbol_error_rates(texts, written, probe.separator)
    for (layer, rate), error, values in zip(runs, rates, torch.cat(losses).T.tolist(), strict=True):
        finite = [value for value in values if math.isfinite(value)]
        dev_loss = sum(finite) / len(finite) if finite else math.nan
        layer.runs[layer.active[rate]].add(error, dev_loss, partial(layer.state, rate))
