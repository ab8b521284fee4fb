"""The codelength of a task's training labels given a layer (`probe.heads.linear.codelength`).

The labels are sent in several orders, since the length depends on which labels come first. Its
value is the mean over orders; ``chosen`` says how much it varies between them, what all labels cost
together, and the compression: how many times longer the uniform code is (Voita & Titov 2020).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from probe.data.label_budgets import in_drawn_order
from probe.evaluation.dataset import Problem, Score, block_of
from probe.evaluation.kinds.class_rows import ClassRows
from probe.evaluation.linear_search import best_for_codes, on_dev
from probe.evaluation.questions import draw_seeds
from probe.evaluation.tasks import Task
from probe.heads.linear.codelength import Portion, online_code
from probe.heads.linear.linear_probe import LinearProbe, Solving, fit_strengths
from probe.heads.linear.rows import Standardizer
from probe.measures.counts import amount_counts
from probe.measures.metrics import CODELENGTH

HEAD = "linear"


def codelength(
    task: Task[Any], problem: Problem, rows: ClassRows, values: np.ndarray, layer: str
) -> Score:
    """What the training labels cost in bits, sent in drawn orders, from (row, dim) of all rows."""
    train, truth = rows.utterances[rows.train], rows.labels[rows.train]
    settings = task.settings
    if settings.standardize:
        scaler = Standardizer.of(values[rows.train])
        values = (values - scaler.mean) / scaler.scale  # in float64, as they are
    sender = _Sender(problem, values[rows.train], truth, settings.l2)
    dev = (values[rows.dev], rows.labels[rows.dev])
    orders = [
        np.array(in_drawn_order([item.key for item in train], seed))
        for seed in draw_seeds(problem.seed)
    ]
    codes = [sender.send(order, dev) for order in orders]
    bits = np.zeros(len(train))
    for order, portions in zip(orders, codes, strict=True):
        bits[order] += np.concatenate([portion.bits for portion in portions]) / len(orders)
    totals = [sum(float(portion.bits.sum()) for portion in portions) for portions in codes]
    n_classes = len(set(truth.tolist()))
    about = _about(totals, len(bits), n_classes)
    return Score(
        metric=CODELENGTH.name,
        higher_is_better=False,
        select_by=settings.metric,
        head=HEAD,
        layer=layer,
        split="train",
        counts=amount_counts([block_of(item) for item in train], bits),
        n=len(bits),
        n_train=len(bits),
        chosen=about,
        curve=_mean_curve(codes),
        excluded=rows.excluded,
        note=f"{n_classes} classes: {np.log2(n_classes):.2f} bits by the uniform code, compression "
        f"{about['compression']:.2f}; {about['total_kbit']:.3g} kbit in total; standard deviation "
        f"over {len(orders)} orders {about['order_sd']:.2f} bits",
    )


def _about(totals: list[float], n: int, n_classes: int) -> dict[str, float]:
    """The total in kbit, the compression, and the standard deviation over orders in bits per label,
    from the bits of all labels in each order.
    """
    mean = float(np.mean(totals))
    return {
        "total_kbit": mean / 1000,
        "compression": n * float(np.log2(n_classes)) / mean,
        "order_sd": float(np.std(np.array(totals) / n, ddof=1)),
    }


def _mean_curve(codes: list[list[Portion]]) -> list[Mapping[str, Any]]:
    """The portions of all orders, which have equal numbers of labels, with their mean bits. An
    order whose first labels are of one class trains its first probe later.
    """
    return [
        {
            "n_train": max(portion.n_train for portion in portions),
            "n": len(portions[0].bits),
            "bits": float(np.mean([portion.bits.sum() for portion in portions])),
        }
        for portions in zip(*codes, strict=True)
    ]


class _Sender:
    """Sends (row,) labels of (row, dim) training rows in one order after the other.

    Dev picks the strength for each portion of the first order; the others take the same, since
    their probes learn from as many labels.
    """

    def __init__(
        self, problem: Problem, rows: np.ndarray, labels: np.ndarray, strengths: tuple[float, ...]
    ) -> None:
        self.problem, self.rows, self.labels, self.strengths = problem, rows, labels, strengths
        self._picked: dict[int, float] = {}  # number of labels learnt from -> strength

    def send(self, order: np.ndarray, dev: tuple[np.ndarray, np.ndarray]) -> list[Portion]:
        """The portions of the labels in an order."""
        rows, labels = self.rows[order], self.labels[order]

        def learn(known: np.ndarray, sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            probe = self._probe(rows[known], labels[known], dev)
            return probe.classes_, probe.predict_log_proba(rows[sent])

        return online_code(labels.tolist(), learn)

    def _probe(
        self, rows: np.ndarray, labels: np.ndarray, dev: tuple[np.ndarray, np.ndarray]
    ) -> LinearProbe:
        picked = self._picked.get(len(labels))
        probes = fit_strengths(
            *(rows, labels, self.strengths if picked is None else [picked]),
            standardize=False,
            solving=Solving(device=self.problem.device),
            tick=lambda: self.problem.progress.step(0),
        )
        if picked is not None:
            return probes[0]
        best = probes[best_for_codes([on_dev(probe, *dev)[0] for probe in probes])]
        self._picked[len(labels)] = best.l2
        self.problem.progress.step(len(self.strengths))
        return best
