"""A linear probe on a learned sum of all layers, as SUPERB reads a model (Yang et al. 2021).

The sum's weights are a softmax over layers, trained with the head, from equal weights on. Each
layer is standardised first, or the one with the largest values would dominate, and the sum is
brought to the rms of 1 that a single layer has: layers that differ cancel in a sum, which a penalty
on the head's weights would punish. Minimised is the loss of `probe.heads.linear.linear_probe` at
the sum, over weights and head; for given weights the head's problem is convex and is solved to its
end, so what is left is a smooth function of one number a layer (variable projection, Golub &
Pereyra 1973), whose gradient costs one product a layer. It is not convex in them: another start may
end elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from probe.heads.linear.linear_probe import LinearProbe, Solving, fit_strengths
from probe.heads.linear.rows import Standardizer

MOST_STEPS = 20  # of the search for the sum's weights
FLAT = 1e-4  # a gradient below it ends the search


@dataclass(frozen=True)
class WeightedProbe:
    """A `LinearProbe` behind a sum of layers.

    Attributes:
        scalers: of each layer.
        shares: (layer,) what each layer has in the sum; they add up to 1.
        rms: of the training rows' sum.
        probe: reads the sum over its rms.
    """

    scalers: Sequence[Standardizer]
    shares: np.ndarray
    rms: float
    probe: LinearProbe

    @property
    def l2(self) -> float:
        """Strength of the head's penalty."""
        return self.probe.l2

    @property
    def n_iter_(self) -> int:
        """Iterations of the head's last solution."""
        return self.probe.n_iter_

    @property
    def converged_(self) -> bool:
        """Whether the head's last solution converged."""
        return self.probe.converged_

    @property
    def classes_(self) -> np.ndarray:
        """(class,) labels, sorted."""
        return self.probe.classes_

    def predict_log_proba(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """(row, class) from one (row, dim) per layer."""
        rows = [scaler.apply(values) for scaler, values in zip(self.scalers, layers, strict=True)]
        return self.probe.predict_log_proba(_sum(self.shares, rows) / np.float32(self.rms))

    def predict(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """(row,) the most probable label."""
        return self.classes_[self.predict_log_proba(layers).argmax(axis=1)]


def fit_weighted(
    layers: Sequence[np.ndarray],
    labels: Sequence[Any] | np.ndarray,
    strengths: Sequence[float],
    device: str = "cpu",
    tick: Callable[[], Any] = lambda: None,
) -> list[WeightedProbe]:
    """One `WeightedProbe` per l2 strength on the layers' (row, dim), all of one width.

    Each strength starts from the weights of the next larger one, the largest from equal weights.
    """
    scalers = [Standardizer.of(rows) for rows in layers]
    rows = [scaler.apply(values) for scaler, values in zip(scalers, layers, strict=True)]
    truth = np.asarray(labels)
    start = np.zeros(len(layers))
    best_probes: dict[float, WeightedProbe] = {}
    for l2 in sorted(strengths, reverse=True):
        probes: dict[bytes, WeightedProbe] = {}

        def loss(
            logits: np.ndarray, l2: float = l2, probes: dict[bytes, WeightedProbe] = probes
        ) -> tuple[float, np.ndarray]:
            """The objective at the head's solution, and its gradient by the softmax's logits."""
            shares = _softmax(logits)
            mixture = _sum(shares, rows)
            rms = float(np.sqrt(np.mean(np.square(mixture), dtype=np.float64))) or 1.0
            mixture /= np.float32(rms)
            (probe,) = fit_strengths(mixture, truth, [l2], False, Solving(device=device))
            probes[logits.tobytes()] = WeightedProbe(scalers, shares, rms, probe)
            tick()
            by_sum = _errors(probe, mixture, truth) @ probe.coef_  # gradient, (row, dim)
            # The division by the rms takes away the part along the sum itself.
            along = np.vdot(mixture, by_sum) / mixture.size
            by_share = [
                np.vdot(values, by_sum) - along * np.vdot(values, mixture) for values in rows
            ]
            # shares @ by_share is 0, for the sum has no scale.
            return probe.objective_, shares * (np.array(by_share) / rms)

        options = {"maxiter": MOST_STEPS, "gtol": FLAT}
        start = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
        best_probes[l2] = probes[start.tobytes()]
    return [best_probes[l2] for l2 in strengths]


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


def _sum(shares: np.ndarray, layers: Sequence[np.ndarray]) -> np.ndarray:
    """(row, dim) float32."""
    total = np.zeros_like(layers[0])
    for share, rows in zip(shares.astype(np.float32), layers, strict=True):
        total += share * rows
    return total


def _errors(probe: LinearProbe, rows: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(row, class) probabilities less the truth, over the number of rows: the gradient of the mean
    cross-entropy by the logits.
    """
    errors = probe.predict_proba(rows)
    errors[np.arange(len(truth)), np.searchsorted(probe.classes_, truth)] -= 1
    return errors / len(truth)
