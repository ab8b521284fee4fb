"""What makes the training of a CTC head stable on little data, where the outcome otherwise hangs on
the order of batches and even on rounding.

* The learning rate falls along a half cosine from its initial value to 0 (Loshchilov & Hutter 2017,
  without restarts), so that the last steps no longer move a head between solutions.
* The head that is scored and kept has the mean of the weights at the end of the last `AVERAGED`
  epochs, as an exponential average (Polyak & Juditsky 1992).
* Dev picks the epoch by the mean error of the last `SMOOTHED` epochs, so that no single utterance
  of a single epoch decides.
* All learning rates start; after `RACE` of the epochs (and no less than `SMOOTHED` of them) only
  the best one on dev goes on (successive halving in one step, Jamieson & Talwalkar 2016), which
  pays for a grid of three.
* Heads of a single linear layer train in float64 on a CPU.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

AVERAGED = 5  # epochs
SMOOTHED = 5  # epochs
RACE = 0.5  # of the epochs; earlier, the errors of large rates are still those of their large steps


@dataclass
class TrainingRun:
    """The training with one learning rate, and its best epoch so far.

    Attributes:
        learning_rate: the initial learning rate.
        epochs_planned: the number of epochs, if training does not stop early.
        patience: number of epochs without an improvement of dev error or dev loss after which it
            stops.
        metric: name of the dev error rate in a record's search.
        error: the lowest dev error rate, as a mean over the last `SMOOTHED` epochs.
        waited: number of epochs since this error or the dev loss last improved.
        lost: whether another learning rate won the race.
        state: weights of the head at the best epoch.
    """

    learning_rate: float
    epochs_planned: int
    patience: int
    metric: str = "dev_cer"
    error: float = math.inf
    epoch: int = 0
    dev_loss: float = math.inf
    waited: int = 0
    lost: bool = False
    diverged: bool = False
    errors: list[float] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The learning rate of the next epoch."""
        share = min(1.0, len(self.errors) / self.epochs_planned)
        return self.learning_rate * (1 + math.cos(math.pi * share)) / 2

    @property
    def has_ended(self) -> bool:
        """Whether it has no further epochs."""
        return self.lost or self.diverged or self.waited >= self.patience

    def add(self, error: float, dev_loss: float, state: Callable[[], dict[str, Tensor]]) -> None:
        """Add an epoch and keep its ``state`` if it is the best."""
        self.errors.append(error)
        last = self.errors[-SMOOTHED:]
        smoothed = math.fsum(last) / len(last)
        improves = smoothed < self.error or dev_loss < self.dev_loss
        self.waited = 0 if improves else self.waited + 1
        self.dev_loss = min(self.dev_loss, dev_loss)
        self.diverged = not math.isfinite(dev_loss)
        if smoothed < self.error:
            self.error, self.epoch, self.state = smoothed, len(self.errors), state()

    @property
    def entry(self) -> dict[str, Any]:
        """The run's entry in a record's search."""
        return {
            "learning_rate": self.learning_rate,
            self.metric: self.error,
            "epoch": self.epoch,
            "epochs": len(self.errors),
        }


def drop_slower(runs: Sequence[TrainingRun], epoch: int, n_epochs: int) -> None:
    """End all runs but the best one when ``epoch`` is that of the race; the first one wins a tie.

    Args:
        runs: those of one layer that are still in training.
    """
    if epoch == max(SMOOTHED, round(RACE * n_epochs)):
        best = min(runs, key=lambda run: (run.diverged, run.error, run.dev_loss))
        for run in runs:
            run.lost = run is not best


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch's dropout, so that each learning rate draws the same."""
    return seed * 1_000_003 + epoch


class Average:
    """The exponential average of weights at the ends of epochs, over about `AVERAGED` of them."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Average into ``weights``, whose values do not count."""
        self.weights, self._n = dict(weights), 0

    @torch.no_grad()
    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Add the weights at the end of an epoch."""
        self._n += 1
        share = 1 / min(self._n, AVERAGED)
        for name, value in self.weights.items():
            value.copy_(
                weights[name].detach() if self._n == 1 else value.lerp(weights[name], share)
            )

    def state(self) -> dict[str, Tensor]:
        """A copy of the averaged weights."""
        return {name: value.detach().clone() for name, value in self.weights.items()}
