"""Train the CTC heads of many layers with all their learning rates together.

A problem is a layer with a learning rate. All problems see the same utterances in the same order
and share labels and lengths, so one CTC loss serves all of them (`probe.heads.ctc.loss`), one
product with the frames serves all learning rates of a layer, and one loop over time serves all
LSTMs (`probe.heads.ctc.stacked`). Each problem has its own gradient norm, Adam moments, average of
weights, best epoch, learning rate and last epoch. The result equals that of `CTCProbe` on each
layer alone, up to rounding.

Memory bounds the number of problems that are trained together. LSTMs that are too large to gain
from it (`MOST_HIDDEN_TOGETHER`), or too large to fit, are trained one at a time.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.heads.ctc.ctc_probe import CTCProbe, Examples, batch_order, pad
from probe.heads.ctc.loss import Scratch, Targets, loss_and_gradient
from probe.heads.ctc.modules import as_read
from probe.heads.ctc.stacked import kept_bytes, stacked_logits
from probe.heads.ctc.training_run import Average, drop_slower, epoch_seed
from probe.heads.ctc.vocabulary import symbol_error_rates

# Memory for layers that are trained together; a larger layer is trained alone.
MEMORY_BYTES = 4 << 30
# LSTMs with more units are trained one at a time, which takes less memory and no more time: see
# `benchmarks/ctc.py --step`.
MOST_HIDDEN_TOGETHER = 256
# Adam's parameters, with torch's defaults.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

Frames = Sequence[np.ndarray]


def fit_layers(
    new_probe: Callable[[], CTCProbe],
    layers: Iterable[tuple[str, Frames, Frames]],
    texts: Sequence[str],
    dev_texts: Sequence[str],
    on_progress: Callable[[int, int], Any] = lambda _n, _spared: None,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[tuple[str, CTCProbe]]:
    """Yield each layer with its fitted probe, in order; see `fit_groups`."""
    for group in fit_groups(new_probe, layers, texts, dev_texts, on_progress, memory_bytes):
        yield from group


def fit_groups(
    new_probe: Callable[[], CTCProbe],
    layers: Iterable[tuple[str, Frames, Frames]],
    texts: Sequence[str],
    dev_texts: Sequence[str],
    on_progress: Callable[[int, int], Any] = lambda _n, _spared: None,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[list[tuple[str, CTCProbe]]]:
    """Yield groups of layers that are trained together, each as a list of (layer, fitted probe), in
    order.

    A group does not depend on the groups before it: a call that starts at the group's first layer
    groups and trains the layers in the same way.

    Args:
        new_probe: returns an unfitted probe without a weighted sum, with the same settings each
            time.
        layers: (name, training frames, dev frames), with (frame, dim) for each utterance; they are
            read one layer at a time.
        on_progress: called after each batch, and after each epoch, with the number of utterances
            that heads have read since the last call (each head counts) and with the number that
            the heads which stopped will not read.
        memory_bytes: bound on the frames in memory and on the state that LSTMs keep for
            their gradients. A group ends when another layer like its last one would not fit, or
            when the next layer has other numbers of frames.

    Raises:
        ProbeError: no transcript has a symbol, or no utterance is long enough for its labels.
    """
    group: list[_Layer] = []
    for name, frames, dev_frames in layers:
        probe = new_probe()
        layer = _Layer(name, probe, *probe.prepare(frames, texts, dev_frames))
        alone = layer.n_lstm_bytes and (
            layer.n_bytes > memory_bytes or probe.settings.hidden > MOST_HIDDEN_TOGETHER
        )
        # With other lengths, the batches would differ.
        if group and (alone or layer.lengths != group[0].lengths):
            yield _fit(group, dev_texts, on_progress)
            group = []
        if alone:
            yield [(name, probe.fit_prepared(layer.train, layer.dev, dev_texts, on_progress))]
            continue
        group.append(layer)
        if sum(item.n_bytes for item in group) + layer.n_bytes > memory_bytes:
            yield _fit(group, dev_texts, on_progress)
            group = []
    if group:
        yield _fit(group, dev_texts, on_progress)


class _Layer:
    """One layer's frames, and its heads that are still in training.

    Attributes:
        runs: one per learning rate.
        active: positions in ``runs`` of the heads that are still in training (the axis ``rate``).
        weights: name of a parameter of `probe.heads.ctc.modules.CTCHead` -> (rate, ...) of the
            probe's dtype; a weight comes before its bias, and the first layer comes first.
        average: of the weights over the last epochs, which is scored and kept.
        mean, square: Adam's moments, of the same shapes.
    """

    def __init__(self, name: str, probe: CTCProbe, train: Examples, dev: list[Tensor]) -> None:
        self.name, self.probe, self.train, self.dev = name, probe, train, dev
        self.runs = probe.new_runs()
        self.active = list(range(len(self.runs)))
        self.steps = 0

    def begin(self) -> None:
        """Set the weights and moments to their values before training."""
        start = self.probe.new_head().named_parameters()
        self.weights = {
            key: torch.stack([value.detach()] * len(self.runs)).requires_grad_()
            for key, value in start
        }
        self.mean, self.square = (
            {key: torch.zeros_like(value) for key, value in self.weights.items()} for _ in range(2)
        )
        self.average = Average({key: value.detach().clone() for key, value in self.weights.items()})

    @property
    def lengths(self) -> tuple[list[int], list[int], list[int]]:
        """Frames of every utterance, train and dev; which training utterances were too short to be
        among them.
        """
        return self.train.lengths, [len(rows) for rows in self.dev], self.probe.too_short_

    @property
    def n_lstm_bytes(self) -> int:
        """Bytes that the LSTMs keep for the gradients of the longest batch."""
        batch = self.probe.training.batch_size * max(map(len, [*self.train.frames, *self.dev]))
        return len(self.runs) * kept_bytes(self.probe.settings, batch)

    @property
    def n_bytes(self) -> int:
        """Bytes of the frames and of the LSTMs' state."""
        return sum(rows.nbytes for rows in (*self.train.frames, *self.dev)) + self.n_lstm_bytes

    def read(self, rows: list[Tensor], epoch: int | None, chosen: Sequence[int]) -> Tensor:
        """Return the heads' input (batch, frame, dim) for utterances of (frame, dim).

        Args:
            epoch: epoch of training, which decides SpecAugment's masks of the ``chosen``
                utterances; None masks nothing.
        """
        frames, lengths = pad(rows)
        masks = None
        if epoch is not None:
            masks = self.probe.masks(epoch, chosen, lengths.tolist(), frames.shape[2])
        return as_read(frames, lengths, masks, self.probe.settings)

    @torch.no_grad()
    def step(self) -> None:
        """Take a step of Adam with the gradients in ``weights``, clipped for each head
        separately.
        """
        gradients = {
            key: value.grad for key, value in self.weights.items() if value.grad is not None
        }
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
        factor = (self.probe.training.clip / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(
            max=1
        )
        self.steps += 1
        sizes = [self.runs[i].rate / (1 - BETA_1**self.steps) for i in self.active]
        for key, gradient in gradients.items():
            shape = (-1, *[1] * (gradient.dim() - 1))  # broadcasts a value per rate
            gradient *= factor.view(shape)
            self.mean[key].lerp_(gradient, 1 - BETA_1)
            self.square[key].mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            root = self.square[key].sqrt().div_(math.sqrt(1 - BETA_2**self.steps)).add_(EPSILON)
            self.weights[key].addcmul_(
                self.mean[key] / root, gradient.new_tensor(sizes).view(shape), value=-1
            )
            self.weights[key].grad = None

    def state(self, rate: int) -> dict[str, Tensor]:
        """Return the state of a `probe.heads.ctc.modules.CTCHead` for a rate."""
        return {key: value[rate].clone() for key, value in self.average.weights.items()}

    def drop_finished(self) -> None:
        """Stop the heads whose runs have ended."""
        rates = [k for k, i in enumerate(self.active) if not self.runs[i].has_ended]
        if len(rates) < len(self.active):
            self.active = [self.active[k] for k in rates]
            self.weights = {
                key: value.detach()[rates].requires_grad_() for key, value in self.weights.items()
            }
            self.mean, self.square = (
                {key: value[rates] for key, value in x.items()} for x in (self.mean, self.square)
            )
            self.average.weights = {
                key: value[rates] for key, value in self.average.weights.items()
            }


def _fit(
    group: list[_Layer], dev_texts: Sequence[str], on_progress: Callable[[int, int], Any]
) -> list[tuple[str, CTCProbe]]:
    """Train a group of layers with equal numbers of frames."""
    for layer in group:
        layer.begin()
    first = group[0]
    probe, order, scratch = first.probe, np.random.default_rng(first.probe.seed), Scratch()
    dev_labels = [torch.tensor(probe.vocabulary_.encode(text)) for text in dev_texts]
    training, n_epochs, n_train = group, probe.training.epochs, len(first.train.frames)
    for epoch in range(n_epochs):
        n_heads = sum(len(layer.active) for layer in training)
        with torch.random.fork_rng():
            torch.manual_seed(epoch_seed(probe.seed, epoch))  # for dropout
            for chosen in batch_order(first.train.lengths, probe.training.batch_size, order):
                _step(training, epoch, chosen, scratch)
                on_progress(n_heads * len(chosen), 0)
        for layer in training:
            layer.average.add(layer.weights)
        _score(training, dev_labels, dev_texts, scratch)
        for layer in training:
            drop_slower([layer.runs[i] for i in layer.active], epoch + 1, n_epochs)
            layer.drop_finished()
        n_ended = n_heads - sum(len(layer.active) for layer in training)
        on_progress(0, n_ended * (n_epochs - epoch - 1) * n_train)
        training = [layer for layer in training if layer.active]
        if not training:
            break
    return [(layer.name, layer.probe.conclude(layer.runs)) for layer in group]


def _step(layers: list[_Layer], epoch: int, chosen: Sequence[int], scratch: Scratch) -> None:
    """Train on one batch."""
    rows = [[layer.train.frames[i] for i in chosen] for layer in layers]
    parts = _logits(layers, rows, epoch, chosen, scratch)
    train = layers[0].train
    labels = [train.labels[i] for i in chosen]
    gradient = _losses(parts, [len(train.frames[i]) for i in chosen], labels, scratch)[2]
    scale = gradient.new_tensor([1 / len(item) / len(chosen) for item in labels])
    gradient *= scale[:, None, None, None]
    torch.autograd.backward(parts, list(gradient.split([part.shape[2] for part in parts], dim=2)))
    for layer in layers:
        layer.step()


def _logits(
    layers: list[_Layer],
    rows: list[list[Tensor]],
    epoch: int | None,
    chosen: Sequence[int],
    scratch: Scratch,
) -> list[Tensor]:
    """Return (batch, frame, rate, symbol) logits for each layer, of the averaged weights outside
    training; see `_Layer.read`.
    """
    is_training = epoch is not None
    return stacked_logits(
        layers[0].probe.settings,
        [layer.weights if is_training else layer.average.weights for layer in layers],
        [layer.read(own, epoch, chosen) for layer, own in zip(layers, rows, strict=True)],
        torch.tensor([len(item) for item in rows[0]]),
        is_training,
        scratch,
    )


@torch.no_grad()
def _losses(
    parts: list[Tensor], lengths: Sequence[int], labels: list[Tensor], scratch: Scratch
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (batch, frame, problem, symbol) logits, (batch, problem) losses and the gradient of
    the summed losses with respect to the logits.

    Args:
        parts: (batch, frame, rate, symbol) logits of each layer.
        lengths: number of frames of each utterance.
        labels: (label,) of each utterance.
    """
    batch, frame, _, symbol = parts[0].shape
    n_problems = sum(part.shape[2] for part in parts)
    logits = scratch.take("logits", (batch, frame, n_problems, symbol), parts[0])
    torch.cat(parts, dim=2, out=logits)
    targets = Targets.of(labels, torch.tensor(lengths), symbol, logits)
    return logits, *loss_and_gradient(logits, targets, scratch)


@torch.no_grad()
def _score(
    layers: list[_Layer], labels: list[Tensor], texts: Sequence[str], scratch: Scratch
) -> None:
    """Add an epoch with the dev symbol error rate and mean loss to every run in training."""
    probe, lengths = layers[0].probe, layers[0].lengths[1]
    runs = [(layer, rate) for layer in layers for rate in range(len(layer.active))]
    hypotheses = [[""] * len(texts) for _ in runs]
    losses: list[Tensor] = []
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(by_length), probe.training.batch_size):
        chosen = by_length[start : start + probe.training.batch_size]
        rows = [[layer.dev[i] for i in chosen] for layer in layers]
        parts = _logits(layers, rows, None, chosen, scratch)
        of_chosen = [labels[i] for i in chosen]
        logits, loss, _ = _losses(parts, [lengths[i] for i in chosen], of_chosen, scratch)
        losses.append(loss)
        for i, best in zip(chosen, logits.argmax(3).transpose(1, 2).tolist(), strict=True):
            for problem, symbols in enumerate(best):
                hypotheses[problem][i] = probe.vocabulary_.decode_greedy(symbols[: lengths[i]])
    rates = symbol_error_rates(texts, hypotheses, probe.separator)
    for (layer, rate), error, values in zip(runs, rates, torch.cat(losses).T.tolist(), strict=True):
        finite = [value for value in values if math.isfinite(value)]
        dev_loss = sum(finite) / len(finite) if finite else math.nan
        layer.runs[layer.active[rate]].add(error, dev_loss, partial(layer.state, rate))
