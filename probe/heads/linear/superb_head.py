"""SUPERB's head for whole utterances (Yang et al. 2021; s3prl 0.4.18): a learned sum of layers, two
linear layers, and softmaxes, trained by Adam with each of several learning rates.

SUPERB projects every frame, takes the mean over time and classifies it. Nothing between the three
is non-linear, so the same head reads the means over time of the layers: for the same weights its
logits differ by rounding only. What it is not: crops of the audio that are drawn anew for each
step.

The weights of the sum are a softmax over layers that starts equal. Layers are not standardised. The
rows of a step are drawn without replacement until all have been seen, or, ``balanced``, with
replacement and with equal shares of all classes. Every learning rate starts from the same weights
and sees the same rows.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLIP = 1.0  # largest norm of the gradient
BLOCK = 4096  # rows that are classified at a time


@dataclass(frozen=True)
class SuperbTraining:
    """How the head is trained.

    Attributes:
        learning_rates: of Adam, each for a head of its own.
        steps: of each head.
        evaluate_every: steps between two looks at dev.
        batch_size: rows of a step.
        hidden: dimensions between the two linear layers.
        balanced: whether rows are drawn so that all classes are equally frequent.
    """

    learning_rates: Sequence[float]
    steps: int = 200_000
    evaluate_every: int = 4_000
    batch_size: int = 32
    hidden: int = 256
    balanced: bool = False


class SuperbHead(nn.Module):
    """The head.

    Args:
        n_layers, dim: of the rows.
        hidden: dimensions between the two linear layers.
        n_classes: of each softmax; there is one for each label.
    """

    def __init__(self, n_layers: int, dim: int, hidden: int, n_classes: Sequence[int]) -> None:
        super().__init__()
        self.mixture = nn.Parameter(torch.zeros(n_layers))
        self.projection = nn.Linear(dim, hidden)
        self.output = nn.Linear(hidden, sum(n_classes))
        self.n_classes = list(n_classes)

    def forward(self, rows: Tensor) -> list[Tensor]:
        """Return the logits (row, class) of each label for (layer, row, dim) means over time."""
        n_layers, n_rows, dim = rows.shape
        mixed = (self.mixture.softmax(0) @ rows.reshape(n_layers, -1)).view(n_rows, dim)
        return list(self.output(self.projection(mixed)).split(self.n_classes, dim=1))

    @property
    def shares(self) -> np.ndarray:
        """(layer,) weight of each layer in the sum; they add up to 1."""
        return np.asarray(self.mixture.detach().softmax(0).cpu().numpy(), dtype=np.float64)

    @torch.no_grad()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return (row, label) int64 classes for (row, layer, dim) means over time."""
        device = self.mixture.device
        blocks = [
            torch.stack([part.argmax(1) for part in self(_by_layer(block).to(device))], dim=1).cpu()
            for block in torch.from_numpy(rows).split(BLOCK)
        ]
        return np.asarray(torch.cat(blocks).numpy())


@dataclass(frozen=True)
class FittedHead:
    """The head with the best dev value.

    Attributes:
        head: in the state of that step.
        chosen: its learning rate and step.
        search: each learning rate with its best step and dev value.
    """

    head: SuperbHead
    chosen: dict[str, float | int]
    search: list[dict[str, float | int]]


def fit_superb(
    rows: np.ndarray,
    targets: np.ndarray,
    dev_value: Callable[[SuperbHead], float],
    training: SuperbTraining,
    seed: int = 0,
    device: str = "cpu",
    tick: Callable[[], object] = lambda: None,
) -> FittedHead:
    """Train one head for each learning rate and return the one with the best dev value.

    The first of equal values counts, of earlier steps and then of earlier learning rates.

    Args:
        rows: (row, layer, dim) float32.
        targets: (row, label) int64, classes from 0.
        dev_value: of a head; higher is better.
        tick: called after each step of each head.
    """
    classes = torch.from_numpy(targets)
    n_classes = [int(column.max()) + 1 for column in classes.T]
    values = torch.from_numpy(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = SuperbHead(rows.shape[1], rows.shape[2], training.hidden, n_classes)
    heads = [copy.deepcopy(first).to(device) for _ in training.learning_rates]
    adam = torch.optim.Adam(
        [
            {"params": list(head.parameters()), "lr": rate}
            for head, rate in zip(heads, training.learning_rates, strict=True)
        ],
        fused=True,
    )
    best: list[tuple[float, int, dict[str, Tensor]]] = [(-np.inf, 0, {}) for _ in heads]
    batches = _Batches(targets, training, seed)
    for step in range(1, training.steps + 1):
        chosen = torch.from_numpy(batches.draw())
        batch, truth = _by_layer(values[chosen]).to(device), classes[chosen].to(device)
        adam.zero_grad()
        for head in heads:
            parts = zip(head(batch), truth.T, strict=True)
            sum(F.cross_entropy(logits, label) for logits, label in parts).backward()  # type: ignore[union-attr]  # sum() may be the number 0 for the type checker
            nn.utils.clip_grad_norm_(head.parameters(), CLIP)
            tick()
        adam.step()
        if step % training.evaluate_every == 0 or step == training.steps:
            for number, head in enumerate(heads):
                value = dev_value(head)
                if value > best[number][0]:
                    state = {name: item.clone() for name, item in head.state_dict().items()}
                    best[number] = value, step, state
    search: list[dict[str, float | int]] = [
        {"learning_rate": rate, "steps": step, "dev_value": value}
        for rate, (value, step, _) in zip(training.learning_rates, best, strict=True)
    ]
    winner = max(range(len(heads)), key=lambda number: best[number][0])
    heads[winner].load_state_dict(best[winner][2])
    chosen_setting = {name: search[winner][name] for name in ("learning_rate", "steps")}
    return FittedHead(heads[winner], chosen_setting, search)


def _by_layer(rows: Tensor) -> Tensor:
    """Return (layer, row, dim) for (row, layer, dim)."""
    return rows.transpose(0, 1).contiguous()


class _Batches:
    """Draws the rows of each step."""

    def __init__(self, targets: np.ndarray, training: SuperbTraining, seed: int) -> None:
        self._generator = np.random.default_rng([seed, len(targets)])
        self._size = min(training.batch_size, len(targets))
        self._n_rows = len(targets)
        self._order = np.empty(0, dtype=np.int64)
        self._weights: np.ndarray | None = None
        if training.balanced:
            _, classes, counts = np.unique(targets, axis=0, return_inverse=True, return_counts=True)
            weights = 1 / counts[classes.reshape(-1)]
            self._weights = np.cumsum(weights / weights.sum())

    def draw(self) -> np.ndarray:
        """Return the positions of the next rows."""
        if self._weights is not None:
            places = np.searchsorted(self._weights, self._generator.random(self._size))
            return np.minimum(places, self._n_rows - 1)
        if len(self._order) < self._size:
            self._order = self._generator.permutation(self._n_rows)
        chosen, self._order = self._order[: self._size], self._order[self._size :]
        return chosen
