"""SUPERB's head for whole utterances."""

import numpy as np
import pytest
import torch

from probe.heads.linear.superb_head import SuperbHead, SuperbTraining, _Batches, fit_superb


def planted(n: int = 240, layers: int = 3, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose layer 1 holds one of three classes, and another label of two."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((n, layers, dim)).astype(np.float32)
    targets = np.stack([np.arange(n) % 3, np.arange(n) // 3 % 2], axis=1)
    rows[np.arange(n), 1, targets[:, 0]] += 4
    rows[:, 1, 3] += 4 * targets[:, 1]
    return rows, targets


def test_the_head_on_means_is_superbs_head_on_frames() -> None:
    """SUPERB mixes layers, projects each frame, takes the mean over time, then classifies."""
    torch.manual_seed(0)
    head = SuperbHead(n_layers=4, dim=8, hidden=5, n_classes=[3, 2])
    torch.nn.init.normal_(head.mixture)
    frames = torch.randn(4, 50, 8)  # (layer, frame, dim) of one utterance
    mixed = (head.mixture.softmax(0)[:, None, None] * frames).sum(0)
    expected = head.output(head.projection(mixed).mean(0))
    found = torch.cat(head(frames.mean(1)[:, None]), dim=1)[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_it_learns_several_labels_and_the_layer_that_holds_them() -> None:
    rows, targets = planted()
    train, dev = slice(0, 160), slice(160, 240)
    fitted = fit_superb(
        rows[train],
        targets[train],
        lambda head: float((head.predict(rows[dev]) == targets[dev]).all(axis=1).mean()),
        SuperbTraining(learning_rates=(1e-2, 1e-7), steps=300, evaluate_every=50, hidden=16),
    )
    assert (fitted.head.predict(rows[dev]) == targets[dev]).all(axis=1).mean() > 0.9
    assert fitted.head.shares.argmax() == 1 and fitted.head.shares.sum() == pytest.approx(1)
    assert fitted.chosen["learning_rate"] == 1e-2 and fitted.chosen["steps"] % 50 == 0
    assert fitted.search[0]["dev_value"] > fitted.search[1]["dev_value"] + 0.3


def test_the_state_is_that_of_the_best_step() -> None:
    rows, targets = planted()
    values = iter([0.1, 0.9, 0.5, 0.5])
    seen: list[np.ndarray] = []

    def dev_value(head: SuperbHead) -> float:
        seen.append(head.output.weight.detach().numpy().copy())
        return next(values)

    training = SuperbTraining(learning_rates=(1e-2,), steps=40, evaluate_every=10, hidden=4)
    fitted = fit_superb(rows, targets, dev_value, training)
    assert fitted.chosen["steps"] == 20
    np.testing.assert_array_equal(fitted.head.output.weight.detach().numpy(), seen[1])


def test_equal_seeds_give_equal_heads_and_leave_the_global_generator_alone() -> None:
    rows, targets = planted()
    training = SuperbTraining(learning_rates=(1e-2,), steps=20, evaluate_every=20, hidden=4)
    before = torch.random.get_rng_state()
    one, other = (fit_superb(rows, targets, lambda _: 0.0, training, seed=3) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.head.output.weight, other.head.output.weight)


def test_balanced_rows_come_from_all_classes_alike() -> None:
    targets = np.array([0] * 90 + [1] * 10)[:, None]
    training = SuperbTraining(learning_rates=(1e-2,), balanced=True)
    batches = _Batches(targets, training, seed=0)
    drawn = np.concatenate([batches.draw() for _ in range(100)])
    assert 0.46 < (targets[drawn] == 1).mean() < 0.54
    plain = _Batches(targets, SuperbTraining(learning_rates=(1e-2,), batch_size=50), seed=0)
    assert sorted(np.concatenate([plain.draw(), plain.draw()])) == list(range(100))
