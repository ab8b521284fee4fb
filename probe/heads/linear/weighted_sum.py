"""A linear probe on a learned sum of all layers, as SUPERB reads a model (Yang et al. 2021).

The weights of the sum are a softmax over layers; they start equal and are trained with the head.
Each layer is standardised first, because otherwise the layer with the largest values would
dominate. The sum is scaled to the rms of 1 that a single layer has: different layers cancel in a
sum, and the penalty on the head's weights would punish that. The objective is the loss of the head
on the sum, as a function of weights and head; the head is `probe.heads.linear.linear_probe`, or
`probe.heads.linear.ridge` for numbers. For given weights the head's problem is convex and is solved
completely, which leaves a smooth function of one number per layer (variable projection, Golub &
Pereyra 1973), whose gradient costs one product per layer. This function is not convex: another
start may lead to another minimum.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from probe.heads.linear.linear_probe import (
    SOLVING,
    LinearProbe,
    Solving,
    balanced_weights,
    fit_strengths,
)
from probe.heads.linear.ridge import fit_ridge
from probe.heads.linear.rows import Standardizer

MOST_STEPS = 20  # steps of the search for the sum's weights
FLAT = 1e-4  # a gradient below it ends the search


@dataclass(frozen=True)
class Head:
    """What is trained on a sum of layers.

    Attributes:
        fit: (row, dim) rows, labels, strength, and the probe of similar rows that the solver may
            start from, or None -> a probe with ``l2``, ``coef_`` and ``predict``, and the loss that
            it ends at.
        errors: probe, rows, labels -> (row, output) gradient of the loss by the outputs.
    """

    fit: Callable[[np.ndarray, np.ndarray, float, Any], tuple[Any, float]]
    errors: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]


def logistic_head(solving: Solving = SOLVING) -> Head:
    """Multinomial logistic regression, see `probe.heads.linear.linear_probe`."""

    def fit(
        rows: np.ndarray, labels: np.ndarray, l2: float, start: LinearProbe | None
    ) -> tuple[LinearProbe, float]:
        (probe,) = fit_strengths(rows, labels, [l2], False, replace(solving, start=start))
        return probe, probe.objective_

    def errors(probe: LinearProbe, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        gradient = _errors(probe, rows, labels)
        if solving.class_weight == "balanced":
            gradient *= balanced_weights(labels)[:, None]
        return gradient

    return Head(fit, errors)


def ridge_head(labels: np.ndarray) -> Head:
    """Ridge regression on (row,) numbers, see `probe.heads.linear.ridge`. The loss is a share of
    the labels' variance, so that it does not depend on their unit.
    """
    variance = float(np.var(labels)) or 1.0

    def fit(rows: np.ndarray, labels: np.ndarray, l2: float, _: Any) -> tuple[Any, float]:
        probe = fit_ridge(rows, labels, l2)
        fitted = np.mean(np.square(probe.predict(rows) - labels)) + l2 * probe.coef_ @ probe.coef_
        return probe, float(fitted) / 2 / variance

    def errors(probe: Any, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (probe.predict(rows) - labels)[:, None] / len(labels) / variance

    return Head(fit, errors)


@dataclass(frozen=True)
class WeightedProbe:
    """A probe behind a sum of layers.

    Attributes:
        scalers: standardisation of each layer.
        shares: (layer,) weight of each layer in the sum; they add up to 1.
        rms: root mean square of the sum of the training rows.
        probe: the head, which reads the sum divided by its rms.
    """

    scalers: Sequence[Standardizer]
    shares: np.ndarray
    rms: float
    probe: Any

    @property
    def l2(self) -> float:
        """Strength of the head's penalty."""
        return float(self.probe.l2)

    @property
    def n_iter_(self) -> int:
        """Iterations of a logistic head's last solution."""
        return int(self.probe.n_iter_)

    @property
    def converged_(self) -> bool:
        """Whether a logistic head's last solution converged."""
        return bool(self.probe.converged_)

    @property
    def classes_(self) -> np.ndarray:
        """(class,) labels of a logistic head, sorted."""
        return np.asarray(self.probe.classes_)

    def predict_log_proba(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """Return (row, class) log-probabilities of a logistic head for one (row, dim) array per
        layer.
        """
        return np.asarray(self.probe.predict_log_proba(self._rows(layers)))

    def predict(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """Return the most probable label, or the number, of each row."""
        return np.asarray(self.probe.predict(self._rows(layers)))

    def _rows(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """Return the (row, dim) sum divided by its rms."""
        rows = [scaler.apply(values) for scaler, values in zip(self.scalers, layers, strict=True)]
        return _sum(self.shares, rows) / np.float32(self.rms)


def fit_weighted(
    layers: Sequence[np.ndarray],
    labels: Sequence[Any] | np.ndarray,
    strengths: Sequence[float],
    head: Head | None = None,
    tick: Callable[[], Any] = lambda: None,
) -> list[WeightedProbe]:
    """Return one `WeightedProbe` per l2 strength for layers (row, dim) of one width.

    Each strength starts from the weights and the head of the next larger one; the largest starts
    from equal weights. Each solution of the head starts from the one before.

    Args:
        head: the head that is trained on the sum; None means `logistic_head`.
        tick: called after each step of the search for the sum's weights.
    """
    head = head or logistic_head()
    scalers = [Standardizer.of(rows) for rows in layers]
    rows = [scaler.apply(values) for scaler, values in zip(scalers, layers, strict=True)]
    truth = np.asarray(labels)
    start = np.zeros(len(layers))
    best_probes: dict[float, WeightedProbe] = {}
    begin: Any = None
    for l2 in sorted(strengths, reverse=True):
        probes: dict[bytes, WeightedProbe] = {}

        def loss(
            logits: np.ndarray,
            l2: float = l2,
            probes: dict[bytes, WeightedProbe] = probes,
            begin: Any = begin,
        ) -> tuple[float, np.ndarray]:
            """Return the objective at the head's solution and its gradient with respect to the
            softmax's logits.
            """
            shares = _softmax(logits)
            mixture = _sum(shares, rows)
            rms = float(np.sqrt(np.mean(np.square(mixture), dtype=np.float64))) or 1.0
            mixture /= np.float32(rms)
            latest = list(probes.values())[-1].probe if probes else begin
            probe, objective = head.fit(mixture, truth, l2, latest)
            probes[logits.tobytes()] = WeightedProbe(scalers, shares, rms, probe)
            tick()
            # The gradient, (row, dim).
            by_sum = head.errors(probe, mixture, truth) @ np.atleast_2d(probe.coef_)
            # The division by the rms removes the component along the sum.
            along = np.vdot(mixture, by_sum) / mixture.size
            by_share = [
                np.vdot(values, by_sum) - along * np.vdot(values, mixture) for values in rows
            ]
            # shares @ by_share is 0, because the sum has no scale.
            return objective, shares * (np.array(by_share) / rms)

        options = {"maxiter": MOST_STEPS, "gtol": FLAT}
        start = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
        best_probes[l2] = probes[start.tobytes()]
        begin = best_probes[l2].probe
    return [best_probes[l2] for l2 in strengths]


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


def _sum(shares: np.ndarray, layers: Sequence[np.ndarray]) -> np.ndarray:
    """Return the weighted sum, (row, dim) float32."""
    total = np.zeros_like(layers[0])
    for share, rows in zip(shares.astype(np.float32), layers, strict=True):
        total += share * rows
    return total


def _errors(probe: LinearProbe, rows: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return (row, class) probabilities minus the truth, divided by the number of rows: the
    gradient of the mean cross-entropy with respect to the logits.
    """
    errors = probe.predict_proba(rows)
    errors[np.arange(len(truth)), np.searchsorted(probe.classes_, truth)] -= 1
    return errors / len(truth)
