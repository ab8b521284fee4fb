"""The linear probe: equal to scikit-learn, learns what is planted, stays at chance on shuffled
labels.
"""

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exhaustive import mostly_nightly
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from probe.heads.linear import logistic, newton
from probe.heads.linear.linear_probe import LinearProbe, Solving, fit_layers, fit_strengths
from probe.heads.linear.logistic_pass import cross_entropy
from probe.heads.linear.rows import ArrayRows, Standardizer, Whitener
from probe.heads.speaker.lda import DiscriminantProjection


def planted(
    n: int, dim: int, n_classes: int, seed: int = 0, distance: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes around random centres, on features of very different scales."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((n_classes, dim)) * distance
    labels = generator.integers(n_classes, size=n)
    scales = 10.0 ** np.linspace(-3, 3, dim)
    return (centres[labels] + generator.standard_normal((n, dim))) * scales + 5 * scales, labels


@pytest.mark.parametrize(("n", "dim"), [(300, 20), (60, 200)])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_equals_scikit_learn_at_the_same_penalty(n: int, dim: int, n_classes: int) -> None:
    rows, labels = planted(n, dim, n_classes, distance=0.3)
    l2 = 0.01
    reference = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / (l2 * n), tol=1e-8, max_iter=10_000)
    ).fit(rows, labels)
    probe = LinearProbe(l2, tol=1e-8, max_iter=10_000).fit(rows, labels)
    np.testing.assert_allclose(probe.predict_proba(rows), reference.predict_proba(rows), atol=2e-4)


def objective(probe: Any, rows: np.ndarray, labels: np.ndarray, l2: float) -> float:
    """What is minimised, from weights (class, dim) on the rows as they are."""
    weights = (
        np.vstack([-probe.coef_ / 2, probe.coef_ / 2]) if len(probe.coef_) == 1 else probe.coef_
    )
    bias = (
        np.append(-probe.intercept_ / 2, probe.intercept_ / 2)
        if len(probe.coef_) == 1
        else probe.intercept_
    )
    logits = rows @ weights.T + bias
    likelihood = logits[np.arange(len(rows)), np.searchsorted(probe.classes_, labels)] - logsumexp(
        logits, axis=1
    )
    return float(
        -likelihood.mean()
        + 0.5 * (2 * l2 if len(probe.classes_) == 2 else l2) * np.square(weights).sum()
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 7])
@pytest.mark.parametrize(("n", "dim"), [(2000, 40), (150, 400)])
def test_the_objective_and_the_predictions_are_scikit_learns(
    n: int, dim: int, n_classes: int, dtype: type
) -> None:
    rows, labels = planted(n, dim, n_classes, distance=0.15)
    unseen, _ = planted(3000, dim, n_classes, seed=5, distance=0.15)
    scaler = StandardScaler().fit(rows)
    rows, unseen = scaler.transform(rows), scaler.transform(unseen)
    strengths = [1.0, 1e-3, 1e-2]
    ours = fit_strengths(rows.astype(dtype), labels, strengths, standardize=False)
    for l2, probe in zip(strengths, ours, strict=True):
        reference = LogisticRegression(C=1 / (l2 * n), tol=1e-8, max_iter=10_000).fit(rows, labels)
        expected = objective(reference, rows, labels, l2)
        assert probe.objective_ <= expected * (1 + (1e-6 if dtype is np.float64 else 1e-5))
        assert objective(probe, rows, labels, l2) == pytest.approx(probe.objective_, rel=1e-5)
        assert np.mean(probe.predict(unseen) == reference.predict(unseen)) >= 0.999


@pytest.mark.nightly
def test_ill_conditioned_rows_take_few_iterations() -> None:
    rows, labels = planted(3000, 60, 5, distance=0.2)
    mixed = (
        (rows / rows.std(0))
        * np.logspace(0, -3, 60)
        @ np.linalg.qr(np.random.default_rng(3).normal(size=(60, 60)))[0]
    )
    (probe,) = fit_strengths(mixed, labels, [1e-5], standardize=False)
    # Its thousands of small products wait for each other's threads where other processes run.
    with threadpool_limits(1):
        reference = LogisticRegression(C=1 / (1e-5 * 3000), tol=1e-10, max_iter=50_000).fit(
            mixed, labels
        )
    assert probe.objective_ <= objective(reference, mixed, labels, 1e-5) * (1 + 1e-6)
    assert probe.n_iter_ < 60 < reference.n_iter_[0]


@parametrize_with_checks([LinearProbe()])
def test_scikit_learn_takes_it_for_an_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


def test_penalty_strength_means_the_same_for_twice_the_rows() -> None:
    rows, labels = planted(100, 10, 3)
    once = LinearProbe(0.1, tol=1e-8).fit(rows, labels)
    twice = LinearProbe(0.1, tol=1e-8).fit(
        np.vstack([rows, rows]), np.concatenate([labels, labels])
    )
    np.testing.assert_allclose(once.predict_proba(rows), twice.predict_proba(rows), atol=1e-4)


def test_a_path_of_strengths_equals_single_fits() -> None:
    rows, labels = planted(80, 120, 4)
    strengths = [1e-3, 1.0, 1e-1]
    path = fit_strengths(rows, labels, strengths, solving=Solving(tol=1e-8))
    for l2, fitted in zip(strengths, path, strict=True):
        assert fitted.l2 == l2
        alone = LinearProbe(l2, tol=1e-8).fit(rows, labels)
        np.testing.assert_allclose(fitted.predict_proba(rows), alone.predict_proba(rows), atol=2e-3)


def test_learns_a_planted_signal_and_not_shuffled_labels() -> None:
    rows, labels = planted(600, 30, 6)
    unseen, truth = planted(600, 30, 6, seed=1)
    assert LinearProbe(1e-2).fit(rows, labels).score(unseen, truth) > 0.95
    shuffled = np.random.default_rng(0).permutation(labels)
    chance, error = 1 / 6, 3 * np.sqrt(1 / 6 * 5 / 6 / 600)
    assert abs(LinearProbe(1e-2).fit(rows, shuffled).score(unseen, truth) - chance) < 2 * error


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        LinearProbe().fit(np.ones((4, 2)), ["a"] * 4)


def test_raw_features_stay_as_they_are() -> None:
    rows, labels = planted(100, 6, 3)
    probe = LinearProbe(0.1, standardize=False, max_iter=20_000, tol=1e-6).fit(
        rows / rows.std(), labels
    )
    reference = LogisticRegression(C=1 / (0.1 * 100), max_iter=20_000, tol=1e-6).fit(
        rows / rows.std(), labels
    )
    np.testing.assert_allclose(
        probe.predict_proba(rows / rows.std()),
        reference.predict_proba(rows / rows.std()),
        atol=1e-3,
    )


def test_standardizer_uses_float64_statistics_and_keeps_constant_dimensions() -> None:
    rows = np.array([[1e4 + 1, 7.0], [1e4 - 1, 7.0]], np.float32).repeat(5000, axis=0)
    applied = Standardizer.of(rows, chunk_rows=999).apply(rows)
    np.testing.assert_allclose(applied[:, 0].std(), 1.0, rtol=1e-3)
    np.testing.assert_allclose(applied[:, 1], 0.0)


class OddRows:
    """Rows in blocks of sizes that no one would choose; counts how often they are read."""

    def __init__(self, array: np.ndarray, sizes: tuple[int, ...] = (1, 7, 0, 501, 64)) -> None:
        self.array, self.sizes, self.passes = array, sizes, 0
        self.shape = array.shape

    def blocks(self) -> Iterator[np.ndarray]:
        self.passes += 1
        start = 0
        while start < len(self.array):
            for size in self.sizes:
                yield self.array[start : start + size].copy()
                start += size


def identical(ours: list[LinearProbe], theirs: list[LinearProbe]) -> bool:
    return all(
        np.array_equal(one.coef_, other.coef_)
        and np.array_equal(one.intercept_, other.intercept_)
        and one.n_iter_ == other.n_iter_
        for one, other in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize(
    "dtype", mostly_nightly([np.float16, np.float32, np.float64], [np.float16])
)
@pytest.mark.parametrize(("n", "dim"), [(5000, 30), (150, 200)])
def test_blocks_of_any_size_give_the_same_bits_as_an_array(n: int, dim: int, dtype: type) -> None:
    rows, labels = planted(n, dim, 4, distance=0.3)
    rows = ((rows - rows.mean(0)) / rows.std(0) + 0.5).astype(dtype)
    expected = fit_strengths(rows, labels, [1e-3, 1e-1])
    logits_bytes = 2 * n * 4 * 8 * 2
    for source in (OddRows(rows), OddRows(rows, (4096,)), ArrayRows(rows, 333), rows):
        assert identical(fit_strengths(source, labels, [1e-3, 1e-1]), expected)
        assert identical(
            fit_strengths(source, labels, [1e-3, 1e-1], memory_bytes=logits_bytes), expected
        )


def test_rows_that_do_not_fit_are_read_once_an_iteration_where_whole_steps_will_do() -> None:
    rows, labels = planted(6000, 20, 4, distance=0.2)
    rows = rows.astype(np.float32)
    kept, streamed = OddRows(rows), OddRows(rows)
    (expected,) = fit_strengths(kept, labels, [1e-1])
    (found,) = fit_strengths(streamed, labels, [1e-1], memory_bytes=2 * 6000 * 4 * 4)
    assert identical([found], [expected])
    assert kept.passes == 3  # precision, statistics, the rows
    # Beside those: classes' means; logits anew in full precision.
    assert found.n_iter_ >= 3
    assert streamed.passes <= found.n_iter_ + 2 + 2 + 1


@pytest.mark.parametrize("shape", [(3000, 20), (60, 200)], ids=["many rows", "few rows"])
def test_a_weak_penalty_starts_from_the_next_stronger_one_and_ends_where_it_would_alone(
    shape: tuple[int, int],
) -> None:
    rows, labels = planted(*shape, 4, distance=0.2)
    strengths = [1e-1, 1e-5, 1e-3]
    path = fit_strengths(rows, labels, strengths)
    for l2, found in zip(strengths, path, strict=True):
        (alone,) = fit_strengths(rows, labels, [l2])
        assert found.l2 == l2 and found.converged_
        assert found.objective_ == pytest.approx(alone.objective_, rel=1e-5)
        assert l2 == max(strengths) or found.n_iter_ < alone.n_iter_
    again = fit_strengths(rows, labels, sorted(strengths))
    assert identical(path, [again[2], again[0], again[1]])


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from probe.heads.linear.linear_probe import Solving, fit_strengths

class Drawn:
    shape = (150_000, 256)
    def blocks(self):
        for number in range(150):
            generator = np.random.default_rng(number)
            yield generator.standard_normal((1000, 256), np.float32).astype(np.float16)

labels = np.random.default_rng(0).integers(4, size=150_000)
class Small(Drawn):
    shape = (3000, 256)
    def blocks(self):
        yield from (block for block, _ in zip(super().blocks(), range(3)))
fit_strengths(Small(), labels[:3000], [1.0])  # libraries and their buffers

def peak():
    # On Linux ru_maxrss remembers the process that started this one.
    if Path("/proc/self/status").exists():
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

before = peak()
fit_strengths(Drawn(), labels, [1.0], solving=Solving(max_iter=2), memory_bytes=int(sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.nightly
@pytest.mark.parametrize(("memory_bytes", "bounded"), [(1 << 30, False), (16 << 20, True)])
def test_memory_stays_bounded_where_rows_do_not_fit(memory_bytes: int, bounded: bool) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PEAK, str(memory_bytes)]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    rows_bytes = 150_000 * 256 * 4
    assert (int(done.stdout) < rows_bytes / 2) == bounded, (
        "with room for all the rows, they are kept; that is seen here"
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_dimensions_change_nothing(dtype: type) -> None:
    rows, labels = planted(800, 10, 3, distance=0.3)
    rows = (rows / rows.std(0)).astype(dtype)
    constant = np.full((800, 2), [0.1, -1e3], dtype)
    (plain,) = fit_strengths(rows, labels, [1e-2])
    (padded,) = fit_strengths(np.hstack([rows, constant]), labels, [1e-2])
    assert padded.objective_ == pytest.approx(plain.objective_, rel=1e-6)
    logs = padded.predict_log_proba(np.hstack([rows, constant]))
    np.testing.assert_allclose(logs, plain.predict_log_proba(rows), atol=1e-2)


def test_given_classes_that_have_no_rows_get_probability_0() -> None:
    rows, labels = planted(400, 8, 3)
    names = np.array(["b", "d", "e"])[labels]
    (plain,) = fit_strengths(rows, names, [1e-2])
    (given,) = fit_strengths(rows, names, [1e-2], classes=["a", "b", "c", "d", "e", "f"])
    assert list(given.classes_) == ["a", "b", "c", "d", "e", "f"]
    logs = given.predict_log_proba(rows)
    assert np.isneginf(logs[:, [0, 2, 5]]).all()
    np.testing.assert_array_equal(logs[:, [1, 3, 4]], plain.predict_log_proba(rows))
    assert list(given.predict(rows)) == list(plain.predict(rows))


def test_two_labels_among_three_given_classes_are_penalised_as_three() -> None:
    rows, labels = planted(300, 6, 2, distance=0.3)
    (given,) = fit_strengths(rows, labels, [0.1], classes=[0, 1, 2])
    # Two classes share one vector of weights, which halves their penalty; here each has its own.
    (half,) = fit_strengths(rows, labels, [0.05])
    np.testing.assert_allclose(
        given.predict_proba(rows)[:, :2], half.predict_proba(rows), atol=1e-4
    )


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 1], "label '2' is not among the 2 classes"),
        ([2, 1, 0], "sorted"),
        ([0, 1, 1, 2], "without repeats"),
    ],
)
def test_wrong_classes_are_refused(classes: list[int], message: str) -> None:
    rows, labels = planted(60, 4, 3)
    with pytest.raises(ValueError, match=message):
        fit_strengths(rows, labels, [1.0], classes=classes)


class Lying(OddRows):
    """Says another shape than its blocks have."""

    def __init__(self, array: np.ndarray, shape: tuple[int, int]) -> None:
        super().__init__(array)
        self.shape = shape


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((90, 4), "more than 90"),
        ((110, 4), "only 100"),
        ((100, 5), r"a block of shape \(1, 4\)"),
        ((0, 4), "one row"),
    ],
)
def test_rows_that_are_not_what_they_say_are_refused(shape: tuple[int, int], message: str) -> None:
    rows, _ = planted(100, 4, 3)
    with pytest.raises(ValueError, match=message):
        fit_strengths(Lying(rows, shape), np.zeros(shape[0]) + np.arange(shape[0]) % 2, [1.0])


def test_labels_and_rows_must_be_as_many() -> None:
    rows, labels = planted(100, 4, 3)
    with pytest.raises(ValueError, match=r"each of 100 rows\. Found 99 labels"):
        fit_strengths(rows, labels[:-1], [1.0])
    with pytest.raises(ValueError, match="Found int64"):
        fit_strengths(rows.astype(int), labels, [1.0])


def test_a_tick_may_end_the_solver_and_is_called_in_each_iteration() -> None:
    rows, labels = planted(500, 6, 3, distance=0.2)
    ticks: list[int] = []
    (probe,) = fit_strengths(rows, labels, [1e-2], tick=lambda: ticks.append(1))
    assert len(ticks) >= probe.n_iter_

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_strengths(rows, labels, [1e-2], tick=stop)


def test_layers_as_an_array_a_generator_or_by_name_are_the_single_fits() -> None:
    layers = np.stack([planted(300, 8, 3, distance=distance)[0] for distance in (0.1, 0.3)]).astype(
        np.float32
    )
    _, labels = planted(300, 8, 3)
    expected = [fit_strengths(rows, labels, [1e-2, 1.0]) for rows in layers]
    seen: list[Any] = []
    by_name = fit_layers(
        {f"l{i}": OddRows(rows) for i, rows in enumerate(layers)},
        labels,
        [1e-2, 1.0],
        on_layer=seen.append,
    )
    assert list(by_name) == seen == ["l0", "l1"]
    for found in (
        fit_layers(layers, labels, [1e-2, 1.0]),
        fit_layers(iter(layers), labels, [1e-2, 1.0]),
        by_name,
    ):
        assert all(
            identical(one, other) for one, other in zip(found.values(), expected, strict=True)
        )
    once = fit_layers(layers[:1], labels, [1e-3], solving=Solving(max_iter=1))[0]
    assert once[0].n_iter_ <= 1


@pytest.mark.parametrize("factor", ["bfloat16", "float32"])
def test_rounded_products_at_the_start_do_not_show_at_the_end(
    factor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On every processor, also one that has no fast bfloat16.
    monkeypatch.setattr(logistic, "_rounded", lambda inputs: getattr(torch, factor))
    rows, labels = planted(3000, 30, 5, distance=0.2)
    rows = StandardScaler().fit_transform(rows).astype(np.float32)
    for l2, found in zip(
        [1e-3, 1e-1], fit_strengths(rows, labels, [1e-3, 1e-1], standardize=False), strict=True
    ):
        reference = LogisticRegression(C=1 / (l2 * 3000), tol=1e-8, max_iter=10_000).fit(
            rows.astype(np.float64), labels
        )
        assert objective(found, rows, labels, l2) <= objective(reference, rows, labels, l2) * (
            1 + 1e-5
        )
        assert np.mean(found.predict(rows) == reference.predict(rows)) >= 0.999


def test_a_sure_mistake_has_its_whole_loss_in_float32() -> None:
    logits = torch.tensor([[0.0, 200.0, 1.0], [3.0, 1.0, 2.0]])
    targets = torch.tensor([0, 1])
    loss, errors = cross_entropy(logits, targets)
    rows = logits.double()
    assert loss == pytest.approx(float((rows.logsumexp(1) - rows[[0, 1], targets]).sum()), rel=1e-6)
    torch.testing.assert_close(
        errors.double(),
        rows.softmax(1) - torch.nn.functional.one_hot(targets, 3),
        atol=1e-6,
        rtol=0,
    )


def test_the_standardizer_reads_blocks_once_and_far_means_cost_no_digits() -> None:
    rows = (np.random.default_rng(0).normal(size=(7001, 3)) * [1, 1e-3, 10] + [1e4, 5, -3]).astype(
        np.float32
    )
    source = OddRows(rows)
    found = Standardizer.of(source)
    assert source.passes == 1
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), rtol=1e-7)
    np.testing.assert_allclose(found.scale, rows.astype(np.float64).std(0), rtol=1e-7)
    whole = Standardizer.of(rows)
    assert np.array_equal(found.mean, whole.mean) and np.array_equal(found.scale, whole.scale)


def test_whitened_rows_have_directions_of_like_variance_and_keep_their_dimensions() -> None:
    generator = np.random.default_rng(0)
    common = generator.normal(size=(4000, 1))
    rows = (common + 0.3 * generator.normal(size=(4000, 6))) * [1, 1e3, 1e-3, 1, 1, 1] + 50
    white = Whitener.of(OddRows(rows)).apply(rows)
    standard = Standardizer.of(rows).apply(rows)
    np.testing.assert_allclose(white.mean(0), 0, atol=0.01)
    assert np.linalg.cond(np.cov(standard.T)) > 50 and np.linalg.cond(np.cov(white.T)) < 3
    own = [np.corrcoef(white[:, i], standard[:, i])[0, 1] for i in range(6)]
    others = [np.corrcoef(white[:, i], standard[:, i - 1])[0, 1] for i in range(6)]
    assert min(own) > max(others) + 0.2


def test_a_direction_without_variance_is_not_amplified() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 4))
    rows[:, 3] = rows[:, 0]  # their difference is always 0 in training
    unseen = np.array([[0.1, 0.0, 0.0, -0.1]])
    white = Whitener.of(rows)
    assert np.abs(white.apply(rows)).max() < 6
    assert np.abs(white.apply(unseen)).max() < 10


def test_lda_finds_the_speaker_directions_under_loud_nuisance() -> None:
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(20), 8)
    identity = np.random.default_rng(1).standard_normal((20, 5))[speakers]
    nuisance = 20 * generator.standard_normal((len(speakers), 5))
    rows = np.hstack([identity + 0.3 * generator.standard_normal(identity.shape), nuisance])
    projected = DiscriminantProjection.fit(rows, [f"s{speaker}" for speaker in speakers]).apply(
        rows
    )[:, :5]
    within = np.mean([projected[speakers == speaker].var(axis=0).sum() for speaker in range(20)])
    assert within < 0.2 * projected.var(axis=0).sum()


def made(n: int, dim: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(n_classes, size=n)
    return generator.standard_normal((n_classes, dim))[labels] * 0.5 + generator.standard_normal(
        (n, dim)
    ), labels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weak_directions_are_not_lost_where_rows_are_fewer_than_dimensions(dtype: type) -> None:
    rows, labels = made(200, 300, 3)
    rows *= 0.01
    rows[:, 0] = 1000 * np.random.default_rng(1).standard_normal(200)
    for probe in fit_strengths(rows.astype(dtype), labels, [1e-6, 1e-5], standardize=False):
        theirs = LogisticRegression(
            C=1 / (probe.l2 * 200), tol=1e-10, max_iter=1000, solver="newton-cg"
        ).fit(rows - rows.mean(0), labels)
        logits = (rows - rows.mean(0)) @ theirs.coef_.T + theirs.intercept_
        logits -= logits.max(1, keepdims=True)
        loss = (
            np.log(np.exp(logits).sum(1)) - logits[np.arange(200), labels]
        ).mean() + probe.l2 / 2 * np.square(theirs.coef_).sum()
        assert probe.objective_ < loss * (1 + 1e-4)
        assert probe.n_iter_ < 100


@pytest.mark.parametrize("scale", [1e-4, 1e3, 1e5])
def test_rows_that_are_not_standardised_are_solved_at_any_scale(scale: float) -> None:
    rows, labels = made(500, 10, 3)
    (small,) = fit_strengths(rows, labels, [1e-8], standardize=False)
    (large,) = fit_strengths(
        (rows * scale).astype(np.float32), labels, [1e-8 * scale**2], standardize=False
    )
    assert large.objective_ == pytest.approx(small.objective_, rel=1e-4)
    assert large.converged_


@pytest.mark.parametrize("shape", [(5, 20), (20, 5)])
def test_rows_that_are_all_equal_leave_the_shares_of_the_classes(shape: tuple[int, int]) -> None:
    labels = np.arange(shape[0]) % 5 // 2
    (probe,) = fit_strengths(np.full(shape, 3.0, np.float32), labels, [1e-2])
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(
        probe.predict_proba(np.full((1, shape[1]), 3.0))[0], shares, atol=1e-4
    )


def test_what_cannot_be_solved_is_refused_and_what_was_not_is_said() -> None:
    rows, labels = made(40, 5, 3)
    for strengths in ([], [0.0], [-1.0], [float("nan")]):
        with pytest.raises(ValueError, match="above 0"):
            fit_strengths(rows, labels, strengths)
    rows[3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        fit_strengths(rows, labels, [1.0])
    rows[3, 2] = 0
    with pytest.warns(ConvergenceWarning, match="2 iterations"):
        assert not LinearProbe(1e-6, max_iter=2).fit(rows, labels).converged_


def test_strengths_in_groups_are_those_together_where_rows_are_fewer_than_dimensions() -> None:
    rows, labels = made(60, 90, 3)
    together = fit_strengths(rows, labels, [1e-3, 1e-2, 1e-1])
    for probe, other in zip(
        together, fit_strengths(rows, labels, [1e-3, 1e-2, 1e-1], memory_bytes=1), strict=True
    ):
        np.testing.assert_allclose(other.predict_proba(rows), probe.predict_proba(rows), atol=1e-4)


@pytest.mark.parametrize("shape", [(300, 20), (30, 60)], ids=["many rows", "few rows"])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_solver_that_starts_from_its_solution_stays_there(
    shape: tuple[int, int], standardize: bool
) -> None:
    generator = np.random.default_rng(3)
    rows = 3 * generator.standard_normal(shape) + 1
    labels = (rows[:, :4] + generator.standard_normal((shape[0], 4))).argmax(1)
    (cold,) = fit_strengths(rows, labels, [1e-3], standardize)
    (warm,) = fit_strengths(rows, labels, [1e-3], standardize, Solving(start=cold))
    assert cold.n_iter_ > 5 and warm.n_iter_ <= 2
    assert warm.objective_ == pytest.approx(cold.objective_, rel=1e-7)
    np.testing.assert_allclose(
        warm.predict_proba(rows), cold.predict_proba(rows), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize("shape", [(300, 20), (30, 60)], ids=["many rows", "few rows"])
def test_both_solvers_have_the_same_optimum(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], class_weight: Any
) -> None:
    generator = np.random.default_rng(5)
    rows = generator.standard_normal(shape)
    labels = (rows[:, :3] + generator.standard_normal((shape[0], 3))).argmax(1)
    strengths, solving = [1e-4, 1e-2, 1.0], Solving(class_weight=class_weight)
    small = fit_strengths(rows, labels, strengths, solving=solving)
    monkeypatch.setattr(newton, "MOST_WEIGHTS", 0)
    large = fit_strengths(rows, labels, strengths, solving=solving)
    for one, other in zip(small, large, strict=True):
        assert one.converged_ and other.converged_ and one.n_iter_ < other.n_iter_
        assert one.objective_ == pytest.approx(other.objective_, rel=1e-6)
        assert one.objective_ <= other.objective_ * (1 + 1e-9)
        assert np.abs(one.coef_ - other.coef_).max() < 2e-3 * np.abs(one.coef_).max()


def test_a_small_problem_leaves_a_start_at_which_all_rows_are_certain() -> None:
    generator = np.random.default_rng(5)
    rows = generator.standard_normal((40, 4))
    labels = (rows[:, :3] + generator.standard_normal((40, 3))).argmax(1)
    (cold,) = fit_strengths(rows, labels, [1e-2])
    certain = copy.copy(cold)
    certain.coef_ = -1e6 * cold.coef_
    (warm,) = fit_strengths(rows, labels, [1e-2], solving=Solving(start=certain))
    assert warm.converged_ and warm.objective_ == pytest.approx(cold.objective_, rel=1e-6)
