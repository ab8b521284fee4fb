"""The CTC loss of many heads at once, with its gradient (Graves et al. 2006).

Problems are heads that read the same batch: they share labels and lengths, and only their logits
differ. The forward and backward variables of all problems are probabilities that are divided by
their sum at every frame (Rabiner 1989), so a frame takes a few operations on all problems,
utterances and states; torch's own loss takes a logarithm and three exponentials per state.

Paths that have read few labels can be more likely by any factor than paths that will read all of
them, especially early in training, when nearly every frame is a blank. To keep both within the
range of a float, entering a label has a weight. Every path enters every label once, so the weights
multiply all paths by the same factor and do not change the loss. A weight is the inverse of the
average probability of its label.

Underflow is still possible and is detected: the posteriors do not sum to 1, or a probability was
too small for a float and the loss is so high that paths through it may matter. torch then computes
the loss in the log domain.

The states are a column of zeros, which shifts by one state may read, and then blank, label, blank,
label, ..., blank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BLANK = 0
# Largest deviation from 1 of the sum of a frame's posteriors; rounding alone gives 4e-6 in 6000
# frames.
TOLERANCE = 1e-4
# Factor by which all paths must be more likely than paths through probabilities that underflow.
NEGLIGIBLE = 1e6
# Newton steps towards the weights, which may be inexact.
NEWTON_STEPS = 3
# Bounds that keep every product finite, because an infinite number would become a NaN in the
# neighbouring problem. The check against `TOLERANCE` detects what they cut off.
LEAST_NORM, MOST_BACKWARD = 1e-8, 1e28
# Numbers of one frame that are processed at once. On a CPU, more would leave the cache and make
# torch wake other threads for every operation; a GPU spends its time on launches if there are
# fewer. The value also bounds memory: two float32 arrays of this many numbers times the frames.
AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 22}


@dataclass(frozen=True)
class Targets:
    """Labels of a batch between blanks, and the arrays that follow from them.

    Attributes:
        labels: (label,) int64 each.
        lengths: (batch,) int64, valid frames.
        states: (batch, state) int64, the symbol of each state; 0 in the column of zeros and past
            the last blank.
        exists: (batch, state), 0 in the column of zeros and past the last blank, 1 elsewhere.
        one_hot: (batch, state, symbol), 1 at the symbol of each state that exists.
        is_label: (batch, state), 1 where a state is a label.
        may_skip: (batch, state), 1 where a path may skip the blank before a label.
        last: (batch,) int64, the last blank's state.
        fits: (batch,) bool, whether an utterance has enough frames for its labels.
    """

    labels: list[Tensor]
    lengths: Tensor
    states: Tensor
    exists: Tensor
    one_hot: Tensor
    is_label: Tensor
    may_skip: Tensor
    last: Tensor
    fits: Tensor

    @classmethod
    def of(
        cls, labels: Sequence[Tensor], lengths: Tensor, n_symbols: int, like: Tensor
    ) -> "Targets":
        """Return targets for logits with the dtype and on the device of ``like``.

        Args:
            labels: (label,) int64 each, in 1..n_symbols - 1; may be empty.
            lengths: (batch,) int64, each at least 1.
        """
        matrix = nn.utils.rnn.pad_sequence(
            [item.to("cpu", torch.int64) for item in labels], batch_first=True
        )
        n_labels = torch.tensor([len(item) for item in labels])
        states = torch.zeros(len(labels), 2 * matrix.shape[1] + 2, dtype=torch.int64)
        states[:, 2::2] = matrix
        last = 2 * n_labels + 1
        is_label = states != BLANK
        skips = torch.zeros_like(is_label)
        skips[:, 4:] = is_label[:, 4:] & (states[:, 4:] != states[:, 2:-2])
        column = torch.arange(states.shape[1])
        exists = (column >= 1) & (column <= last[:, None])
        repeats = (is_label[:, 4:] & ~skips[:, 4:]).sum(1)
        return cls(
            labels=[item.to(like.device, torch.int64) for item in labels],
            lengths=lengths.to(like.device),
            states=states.to(like.device),
            exists=exists.to(like),
            one_hot=(nn.functional.one_hot(states, n_symbols) * exists[:, :, None]).to(like),
            is_label=is_label.to(like),
            may_skip=skips.to(like),
            last=last.to(like.device),
            fits=(n_labels + repeats <= lengths.cpu()).to(like.device),
        )


def ctc_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Return negative log-likelihoods that can be differentiated once; see `loss_and_gradient`."""
    return _CTCLoss.apply(logits, targets)


class _CTCLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Targets) -> Tensor:
        loss, gradient = loss_and_gradient(logits, targets)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[:, None, :, None], None


class Scratch:
    """Memory that successive calls reuse: on a CPU, new pages from the operating system cost more
    than the arithmetic.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._within: dict[str, Scratch] = {}

    def within(self, name: str) -> "Scratch":
        """Return separate memory, which is the same for a name."""
        return self._within.setdefault(name, Scratch())

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialised tensor; the next call with this name overwrites it."""
        n = math.prod(shape)
        buffer = self._held.get(name)
        if (
            buffer is None
            or len(buffer) < n
            or buffer.dtype != like.dtype
            or buffer.device != like.device
        ):
            buffer = self._held[name] = like.new_empty(n)
        return buffer[:n].view(*shape)


@torch.no_grad()
def loss_and_gradient(
    logits: Tensor, targets: Targets, scratch: Scratch | None = None
) -> tuple[Tensor, Tensor]:
    """Return negative log-likelihoods and the gradient of their sum.

    Args:
        logits: (batch, frame, problem, symbol) float32 or float64; frames past an utterance's
            length are ignored.
        scratch: holds the gradient until the next call.

    Returns:
        (batch, problem) and (batch, frame, problem, symbol), of the logits' dtype. If an utterance
        is too short for its labels, its loss is infinite and its gradient 0. The gradient is also 0
        in frames past a length.
    """
    scratch = scratch or Scratch()
    n_batch, _, n_problems, _ = logits.shape
    loss = logits.new_empty(n_batch, n_problems)
    gradient = torch.softmax(logits, dim=3, out=scratch.take("gradient", logits.shape, logits))
    lengths = targets.lengths.tolist()
    least = torch.stack([gradient[i, :length].amin(0) for i, length in enumerate(lengths)])
    least = least.gather(2, targets.states[:, None].expand(-1, n_problems, -1)).amin(2)
    for i, length in enumerate(lengths):
        gradient[i, length:] = 0
    trusted = torch.empty(loss.shape, dtype=torch.bool, device=loss.device)
    kind = "cpu" if logits.device.type == "cpu" else "cuda"
    n_at_once = max(1, AT_ONCE[kind] // targets.states.numel())
    for first in range(0, n_problems, n_at_once):
        part = slice(first, first + n_at_once)
        loss[:, part], posteriors = _forward_backward(gradient[:, :, part], targets, scratch)
        trusted[:, part] = ((posteriors.sum(3) - 1).abs() < TOLERANCE).all(1)
        gradient[:, :, part] -= posteriors
    for i, length in enumerate(lengths):
        gradient[i, length:] = 0
    if not targets.fits.all():
        loss[~targets.fits] = torch.inf
        gradient[~targets.fits] = 0
    # Paths through smaller probabilities have at most this probability for each frame and state.
    tiny = torch.finfo(logits.dtype).tiny
    n_cells = logits.shape[1] * targets.states.shape[1]
    trusted &= (least >= tiny) | (loss < -math.log(NEGLIGIBLE * tiny * n_cells))
    doubtful = (~(trusted & loss.isfinite()) & targets.fits[:, None]).nonzero()
    if len(doubtful):
        batch, problem = doubtful.unbind(1)
        loss[batch, problem], gradient[batch, :, problem] = _in_log_domain(
            logits[batch, :, problem], targets, batch.tolist()
        )
    return loss, gradient


def _forward_backward(
    probabilities: Tensor, targets: Targets, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Return (batch, problem) losses and (batch, frame, problem, symbol) posteriors of the symbols.

    Args:
        probabilities: (batch, frame, problem, symbol), 0 past an utterance's length.

    a[t, s]: probability of symbols 0..t on paths that are in state s at t; b[t, s]: of symbols t +
    1.. on paths from there; y[t, s] that of the state's symbol; w[s] the weight of entering it,
    v[s] the same where the blank before may be left out and 0 elsewhere:

        a[t, s] = y[t, s] (a[t-1, s] + w[s] a[t-1, s-1] + v[s] a[t-1, s-2]) / norm[t]
        b[t, s] = yb[s] + w[s+1] yb[s+1] + v[s+2] yb[s+2],  yb = y[t+1] b[t+1] / norm[t+1]

    with norm[t] such that a[t] sums to 1, and b scaled so that a[t] b[t], the posteriors of the
    states, do. Problems and states of an utterance are one axis, so that a shift by a state is a
    shift in memory; it reads the next problem's column of zeros at an end.
    """
    n_batch, n_frames, n_problems, _ = probabilities.shape
    n_states = targets.states.shape[1]
    shape, frame = (n_batch, n_frames, n_problems, n_states), (n_batch, n_problems, n_states)
    index = targets.states[:, None, None].expand(shape)
    y = torch.gather(probabilities, 3, index, out=scratch.take("y", shape, probabilities))
    y[..., 0] = 0
    last = targets.last[:, None, None].expand(n_batch, n_problems, 1)
    ends = zip(targets.lengths.tolist(), targets.last.tolist(), strict=True)
    for i, (length, state) in enumerate(ends):
        y[i, length:, :, state] = 1  # past its end, an utterance stays in its last blank

    weight = _entry_weights(probabilities, targets)
    loss = (weight.double().log() * targets.is_label[:, None]).sum(2)
    enter = weight * targets.exists[:, None]
    w = enter.view(n_batch, -1)[:, 1:]
    v = (weight * targets.may_skip[:, None]).view(n_batch, -1)[:, 2:]

    a = scratch.take("a", shape, y)
    a[:, 0] = 0
    a[:, 0, :, 1:3] = y[:, 0, :, 1:3] * enter[:, :, 1:3]
    norm = y.new_empty(n_frames, n_batch, n_problems, 1)
    a_of, y_of, norm_of = a.unbind(1), y.unbind(1), norm.unbind(0)
    flat = a.view(n_batch, n_frames, -1)
    from_0, from_1, from_2 = flat.unbind(1), flat[:, :, 1:].unbind(1), flat[:, :, 2:].unbind(1)
    to_1, to_2 = flat[:, :, :-1].unbind(1), flat[:, :, :-2].unbind(1)
    for t in range(n_frames):
        if t:
            torch.addcmul(from_1[t - 1], w, to_1[t - 1], out=from_1[t])
            from_0[t][:, 0] = 0
            from_2[t].addcmul_(v, to_2[t - 1])
            a_of[t].mul_(y_of[t])
        torch.sum(a_of[t], 2, keepdim=True, out=norm_of[t])
        a_of[t].div_(norm_of[t].clamp_(min=LEAST_NORM))
    end = (a_of[-1].gather(2, last) + a_of[-1].gather(2, last - 1)).clamp_(min=1 / MOST_BACKWARD)
    loss -= (norm.double().log().sum(0) + end.double().log())[..., 0]

    b = torch.zeros(frame, dtype=y.dtype, device=y.device)
    b.scatter_(2, last, 1).scatter_(2, last - 1, 1).div_(end)
    yb = torch.empty_like(b)
    flat_b, flat_yb = b.view(n_batch, -1), yb.view(n_batch, -1)
    b_1, b_2 = flat_b[:, :-1], flat_b[:, :-2]
    yb_0, yb_1, yb_2 = flat_yb[:, :-1], flat_yb[:, 1:], flat_yb[:, 2:]
    a_of[-1].mul_(b)
    for t in range(n_frames - 2, -1, -1):
        torch.mul(b, y_of[t + 1], out=yb)
        yb.div_(norm_of[t + 1])
        torch.addcmul(yb_0, w, yb_1, out=b_1)
        flat_b[:, -1] = flat_yb[:, -1]
        b_2.addcmul_(v, yb_2)
        b.clamp_(max=MOST_BACKWARD)
        a_of[t].mul_(b)
    posteriors = scratch.take("posteriors", probabilities.shape, y)
    of_symbols = posteriors.view(n_batch, -1, probabilities.shape[3])
    torch.bmm(a.view(n_batch, -1, n_states), targets.one_hot, out=of_symbols)
    return loss.to(y.dtype), posteriors


def _entry_weights(probabilities: Tensor, targets: Targets) -> Tensor:
    """Return (batch, problem, state) weights of entering each state, 1 for blanks.

    Were the probabilities the same in all frames, o[s] those of label s divided by those of a
    blank, and each frame divided by r, a label and the blank that may follow it would weigh w[s]
    o[s] / (r - o[s]) r / (r - 1) over all their durations, and last r / (r - o[s]) + 1 / (r - 1)
    frames on average. The r for which the labels last as long as the utterance, and the w[s] for
    which each weighs 1, make those paths the likeliest that end at the last label in the last
    frame.
    """
    mean = probabilities.mean(1)
    states = targets.states[:, None].expand(-1, mean.shape[1], -1)
    mean = mean.gather(2, states).clamp(min=1e-20).double()
    is_label = targets.is_label[:, None].double()
    o = mean / mean[:, :, 1:2] * is_label
    n_labels = is_label.sum(2, keepdim=True).clamp(min=1)
    n_frames = torch.maximum(targets.lengths[:, None, None], n_labels + 1)
    pace, mean_o = n_labels / n_frames, o.sum(2, keepdim=True) / n_labels
    most = o.amax(2, keepdim=True)
    n_most = ((o == most) * is_label).sum(2, keepdim=True)
    # Newton's steps start from the left, where the durations, which are convex in r, are too long:
    # with the blanks alone, with the likeliest label alone, or with all labels equal.
    root = ((1 + mean_o) + ((1 - mean_o) ** 2 + 4 * pace**2 * mean_o).sqrt()) / (2 * (1 - pace))
    r = torch.maximum(torch.maximum(1 + pace, most * n_frames / (n_frames - n_most)), root)
    for _ in range(NEWTON_STEPS):
        excess = (r / (r - o) * is_label).sum(2, keepdim=True) + n_labels / (r - 1) - n_frames
        slope = (o / (r - o).square()).sum(2, keepdim=True) + n_labels / (r - 1).square()
        r = r + excess / slope
    weight = (r - 1) * (r - o) / (r * o)
    return torch.where(is_label > 0, weight, 1.0).to(probabilities.dtype).contiguous()


def _in_log_domain(
    logits: Tensor, targets: Targets, utterances: list[int]
) -> tuple[Tensor, Tensor]:
    """Return torch's losses and gradients of (sequence, frame, symbol) logits in float64; in
    float32 its gradients have errors of 1e-3.

    Args:
        utterances: the utterance in ``targets`` of each sequence.
    """
    lengths = targets.lengths[utterances]
    past = torch.arange(logits.shape[1], device=logits.device) >= lengths[:, None]
    with torch.enable_grad():
        values = logits.double().masked_fill(past[:, :, None], 0).requires_grad_()
        loss = nn.functional.ctc_loss(
            values.log_softmax(2).transpose(0, 1),
            torch.cat([targets.labels[i] for i in utterances]),
            lengths,
            torch.tensor([len(targets.labels[i]) for i in utterances], device=logits.device),
            blank=BLANK,
            reduction="none",
        )
        (gradient,) = torch.autograd.grad(loss.sum(), values)
    return loss.detach().to(logits.dtype), gradient.to(logits.dtype)
