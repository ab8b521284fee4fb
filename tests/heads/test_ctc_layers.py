"""CTC heads of many layers trained together are those that each layer gets alone."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from exhaustive import mostly_nightly
from test_ctc_modules import planted

from probe.errors import ProbeError
from probe.heads.ctc import all_layers
from probe.heads.ctc.all_layers import fit_layers
from probe.heads.ctc.ctc_probe import CTCProbe, CTCTraining
from probe.heads.ctc.modules import HeadSettings
from probe.heads.ctc.stacked import kept_bytes
from probe.heads.ctc.training_run import Average, TrainingRun, drop_slower

Layer = tuple[str, list[np.ndarray], list[np.ndarray]]
RATES = (1e-1, 2e-2, 1e-3)
LSTM: dict[str, Any] = {
    "head": "bilstm",
    "hidden": 6,
    "dropout": 0.3,
    "learning_rates": (3e-2, 1e-4),
    "epochs": 8,
}


def probe_of(head: str = "linear", **settings: Any) -> CTCProbe:
    """A probe with settings of its head, of its training, and its seed."""
    training: dict[str, Any] = {
        "learning_rates": RATES,
        "epochs": 12,
        "patience": 3,
        "batch_size": 8,
    }
    seed = settings.pop("seed", 0)
    for name in {field.name for field in fields(CTCTraining)} & settings.keys():
        training[name] = settings.pop(name)
    return CTCProbe(HeadSettings(head, **settings), CTCTraining(**training), seed=seed)


def layers_of(widths: Sequence[int], n: int = 60) -> tuple[list[Layer], list[str], list[str]]:
    """Random projections of planted frames, noisier layer by layer, and the transcripts of train
    and dev.
    """
    (train, texts), (dev, dev_texts) = planted(n, 0), planted(15, 1)
    generator = np.random.default_rng(0)
    layers = []
    for layer, width in enumerate(widths):
        projection = generator.standard_normal((train[0].shape[1], width))
        parts = [
            [
                (
                    rows @ projection
                    + (1 + 2 * layer) * generator.standard_normal((len(rows), width))
                ).astype(np.float32)
                for rows in part
            ]
            for part in (train, dev)
        ]
        layers.append((str(layer), *parts))
    return layers, texts, dev_texts


def assert_equal(found: CTCProbe, expected: CTCProbe) -> None:
    """Equal choices, and weights up to rounding."""
    assert found.search_ == expected.search_
    assert found.chosen_ == expected.chosen_
    assert found.vocabulary_ == expected.vocabulary_
    for a, b in zip(found.model_.parameters(), expected.model_.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.detach().abs().max()))


@pytest.mark.parametrize(
    "settings",
    mostly_nightly(
        [
            {"join": 1},
            {"join": 2},
            {"context": 1, "spec_augment": True},
            # At rates that make a head end early, rectified units multiply rounding.
            {"head": "mlp", "hidden_sizes": [9], "learning_rates": (2e-2, 1e-2, 1e-4)},
            {
                "head": "mlp",
                "hidden_sizes": [9, 7],
                "activation": "none",
                "join": 2,
                "context": 1,
                "spec_augment": True,
            },
            LSTM,
            {**LSTM, "dropout": 0.0, "join": 2, "context": 1, "spec_augment": True},
            {**LSTM, "n_layers": 2, "epochs": 6},
        ],
        [{"join": 2}, {"context": 1, "spec_augment": True}],
    ),
)
def test_each_layer_and_rate_is_what_it_is_alone(settings: dict[str, Any]) -> None:
    layers, texts, dev_texts = layers_of([8, 8, 11])
    ended = set()
    for (name, probe), (layer, frames, dev) in zip(
        fit_layers(lambda: probe_of(**settings), layers, texts, dev_texts), layers, strict=True
    ):
        alone = probe_of(**settings).fit(frames, texts, dev, dev_texts)
        assert name == layer
        assert_equal(probe, alone)
        assert probe.transcribe(dev) == alone.transcribe(dev)
        ended |= {entry["epochs"] for entry in probe.search_}
    assert len(ended) > 1 or "learning_rates" in settings, (
        "problems should stop at different epochs, or dropping them is not tested"
    )


def test_every_batch_is_counted_and_what_heads_do_not_read_is_taken_back() -> None:
    layers, texts, dev_texts = layers_of([8, 8])
    calls: list[tuple[int, int]] = []
    fitted = fit_layers(
        probe_of, layers, texts, dev_texts, on_progress=lambda *counts: calls.append(counts)
    )
    n_epochs = sum(entry["epochs"] for _, probe in fitted for entry in probe.search_)
    read, spared = (sum(numbers) for numbers in zip(*calls, strict=True))
    assert 0 < calls[0][0] <= 2 * len(RATES) * 8, "a batch has 8 utterances at most"
    assert read == n_epochs * len(texts)
    assert read + spared == 2 * len(RATES) * 12 * len(texts)


@pytest.mark.nightly
def test_groups_do_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, texts, dev_texts = layers_of([8, 8, 8])
    sizes: list[int] = []
    fit = all_layers._fit
    monkeypatch.setattr(
        all_layers, "_fit", lambda group, *rest: (sizes.append(len(group)), fit(group, *rest))[1]
    )
    n_bytes = 2 * sum(rows.nbytes for part in layers[0][1:] for rows in part)  # float64 in training
    groups = [
        list(fit_layers(probe_of, layers, texts, dev_texts, memory_bytes=cap))
        for cap in (1 << 30, 2 * n_bytes, 1)
    ]
    assert sizes == [3, 2, 1, 1, 1, 1]
    for others in groups[1:]:
        for (name, probe), (other_name, other) in zip(groups[0], others, strict=True):
            assert name == other_name
            assert_equal(other, probe)


@pytest.mark.parametrize(
    ("most_hidden", "n_at_once", "sizes"),
    mostly_nightly(
        [(256, 100, [3]), (256, 2, [2, 1]), (256, 0.5, []), (5, 100, [])], [(256, 2, [2, 1])]
    ),
)
def test_groups_of_lstms_do_not_change_results(
    most_hidden: int, n_at_once: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, texts, dev_texts = layers_of([8, 8, 8], n=30)
    rows = [rows for part in layers[0][1:] for rows in part]
    settings: dict[str, Any] = {**LSTM, "epochs": 3}
    kept = 2 * kept_bytes(probe_of(**settings).settings, 8 * max(map(len, rows)))
    found: list[int] = []
    fit = all_layers._fit
    monkeypatch.setattr(
        all_layers, "_fit", lambda group, *rest: (found.append(len(group)), fit(group, *rest))[1]
    )
    monkeypatch.setattr(all_layers, "MOST_HIDDEN_TOGETHER", most_hidden)
    n_bytes = int(n_at_once * (kept + sum(item.nbytes for item in rows)))
    for (name, probe), (layer, frames, dev) in zip(
        fit_layers(lambda: probe_of(**settings), layers, texts, dev_texts, memory_bytes=n_bytes),
        layers,
        strict=True,
    ):
        assert name == layer
        assert_equal(probe, probe_of(**settings).fit(frames, texts, dev, dev_texts))
    assert found == sizes


def test_the_learning_rate_falls_along_a_half_cosine() -> None:
    run = TrainingRun(0.8, epochs_planned=4, patience=9)
    rates = [run.rate]
    for _ in range(4):
        run.add(0.5, 1.0, dict)
        rates.append(run.rate)
    expected = [0.8, 0.8 * (1 + 0.5**0.5) / 2, 0.4, 0.8 * (1 - 0.5**0.5) / 2, 0]
    assert rates == pytest.approx(expected)


def test_dev_picks_the_epoch_by_the_mean_error_of_several() -> None:
    run = TrainingRun(0.1, epochs_planned=40, patience=3)
    lucky = [0.5] * 5 + [0.1] + [0.5] * 5  # one epoch alone
    steady = [0.4] * 5
    for error in (*lucky, *steady):
        run.add(error, 1.0, dict)
    assert run.epoch == len(lucky + steady) and run.error == pytest.approx(0.4)
    assert not run.has_ended
    for _ in range(3):
        run.add(0.6, 1.0, dict)
    assert run.has_ended  # neither error nor loss improved for three epochs


def test_after_half_of_the_epochs_only_the_best_rate_goes_on() -> None:
    runs = [TrainingRun(rate, 40, 40) for rate in (0.3, 0.1, 0.03)]
    for run, error in zip(runs, (0.5, 0.2, 0.9), strict=True):
        run.add(error, 1.0, dict)
    drop_slower(runs, 19, 40)
    assert not any(run.has_ended for run in runs)
    drop_slower(runs, 20, 40)
    assert [run.has_ended for run in runs] == [True, False, True]


def test_the_average_of_weights_covers_the_last_epochs() -> None:
    average = Average({"weight": torch.full((1,), torch.nan)})
    for value in (1.0, 3.0):
        average.add({"weight": torch.tensor([value])})
    assert average.state()["weight"].item() == 2.0
    for _ in range(60):
        average.add({"weight": torch.tensor([7.0])})
    assert average.state()["weight"].item() == pytest.approx(7.0, abs=1e-4)


@pytest.mark.parametrize("settings", [{}, LSTM])
def test_equal_seeds_give_equal_bits_and_leave_global_state_alone(settings: dict[str, Any]) -> None:
    layers, texts, dev_texts = layers_of([8, 8], n=30)
    before = torch.random.get_rng_state()
    first, again, other = (
        [
            probe
            for _, probe in fit_layers(
                lambda seed=seed: probe_of(**{**settings, "seed": seed, "epochs": 3}),
                layers,
                texts,
                dev_texts,
            )
        ]
        for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b, c in zip(first, again, other, strict=True):
        assert a.search_ == b.search_
        assert torch.equal(a.model_.projection.weight, b.model_.projection.weight)
        assert not torch.equal(a.model_.projection.weight, c.model_.projection.weight)


def test_layers_with_other_numbers_of_frames_are_trained_apart() -> None:
    layers, texts, dev_texts = layers_of([8, 8])
    layers[1] = ("1", [rows[:-1] for rows in layers[1][1]], layers[1][2])
    found = dict(fit_layers(probe_of, layers, texts, dev_texts))
    assert_equal(found["1"], probe_of().fit(layers[1][1], texts, layers[1][2], dev_texts))


@pytest.mark.parametrize("head", mostly_nightly(["linear", "bilstm"], ["linear"]))
def test_short_utterances_are_left_out_and_a_head_that_diverges_ends_alone(head: str) -> None:
    layers, texts, dev_texts = layers_of([8, 8])
    layers = [
        (name, [rows[:2] if i == 3 else rows for i, rows in enumerate(frames)], dev)
        for name, frames, dev in layers
    ]
    dev_texts[0] = "ab" * 100

    def new() -> CTCProbe:
        return probe_of(
            head, learning_rates=[1e300 if head == "linear" else 3e37, 1e-1], hidden=6, epochs=6
        )

    for (_, probe), (_, frames, dev) in zip(
        fit_layers(new, layers, texts, dev_texts), layers, strict=True
    ):
        alone = new().fit(frames, texts, dev, dev_texts)
        assert probe.too_short_ == [3]
        assert probe.search_[0]["epochs"] == 1
        assert probe.search_ == alone.search_


def test_texts_that_cannot_be_used_are_refused() -> None:
    layers, texts, dev_texts = layers_of([8])
    with pytest.raises(ProbeError, match="all training transcripts are empty"):
        list(fit_layers(probe_of, layers, ["" for _ in texts], dev_texts))


@pytest.mark.parametrize("join", [1, 2])
def test_linear_ctc_heads_read_whitened_frames_and_others_standardised_ones(join: int) -> None:
    generator = np.random.default_rng(0)
    frames = [generator.normal(size=(40, 4)).cumsum(1).astype(np.float32) for _ in range(8)]

    def condition(head: str) -> float:
        probe = CTCProbe(HeadSettings(head, join=join))
        train, dev = probe.prepare(frames, ["ab"] * 8, frames[:2])
        assert all(torch.equal(train.frames[i], dev[i]) for i in range(2))
        rows = np.concatenate([rows.numpy() for rows in train.frames])
        return float(np.linalg.cond(np.cov(rows.T)))

    assert condition("linear") < 4
    assert condition("bilstm") > 15
