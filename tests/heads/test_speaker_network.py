"""Trained speaker embeddings: the loss, the x-vector's shape, learning what is planted, repeating
exactly.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from probe.heads.speaker.network import FIELD, AMSoftmax, LinearEmbedding, Training, XVector, train
from probe.measures.detection import eer

SHORT = Training(
    learning_rates=[1e-2], epochs=20, batch_size=16, scale=15.0, margin=0.2, checkpoints=2
)


def planted(
    n_speakers: int, n_each: int, seed: int, dim: int = 12
) -> tuple[list[np.ndarray], list[str]]:
    """Speakers differ in four dimensions; the others are noise as loud."""
    generator = np.random.default_rng(seed)
    voices = np.repeat(generator.normal(size=(n_speakers, 4)), n_each, axis=0)
    rows = np.concatenate(
        [
            voices + 0.3 * generator.normal(size=voices.shape),
            generator.normal(size=(len(voices), dim - 4)),
        ],
        1,
    )
    return list(rows.astype(np.float32)), [f"s{i // n_each}" for i in range(len(rows))]


def eer_of(vectors: np.ndarray, speakers: list[str]) -> float:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    one, two = np.triu_indices(len(unit), 1)
    return eer(
        np.array(speakers)[one] == np.array(speakers)[two],
        np.einsum("td,td->t", unit[one], unit[two]),
    )


def test_am_softmax_is_cross_entropy_of_scaled_cosines_less_the_margin() -> None:
    torch.manual_seed(0)
    loss, vectors, speakers = (
        AMSoftmax(5, 3, 30.0, 0.4),
        torch.randn(4, 5),
        torch.tensor([0, 2, 1, 2]),
    )
    total = 0.0
    for vector, speaker in zip(vectors, speakers.tolist(), strict=True):
        cosines = [
            float(F.cosine_similarity(vector, direction, dim=0))
            for direction in loss.directions.detach()
        ]
        cosines[speaker] -= 0.4
        logits = 30 * np.array(cosines)
        total -= logits[speaker] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert loss(vectors, speakers).item() == pytest.approx(total / 4, rel=1e-5)


def test_the_x_vector_has_superb_s_sizes() -> None:
    network = XVector(768)
    shapes = {
        tuple(weight.shape)
        for name, weight in network.named_parameters()
        if name.endswith("weight")
    }
    delays = {(512, 512, 5), (512, 512, 3), (512, 512, 1), (1500, 512, 1)}
    assert shapes == {(512, 768), *delays, (512, 3000), (512, 512)}
    assert [delay.dilation for delay in network.delays] == [(1,), (2,), (3,), (1,), (1,)]
    assert FIELD == 15
    assert network.embed(torch.zeros(2, FIELD, 768)).shape == (2, 512)


def test_a_projection_learns_planted_speakers_and_transfers_to_others() -> None:
    rows, speakers = planted(40, 6, seed=1)
    others, of_others = planted(20, 4, seed=2)
    found = [
        (setting, embed(others))
        for setting, embed in train(lambda: LinearEmbedding(12, 8), _read(rows), speakers, SHORT, 0)
    ]
    assert [setting for setting, _ in found] == [
        {"learning_rate": 1e-2, "epochs": 10},
        {"learning_rate": 1e-2, "epochs": 20},
    ]
    raw, last = (eer_of(vectors, of_others) for vectors in (np.stack(others), found[1][1]))
    assert raw > 0.2
    assert last < raw - 0.1


def _read(rows: list[np.ndarray]):  # type: ignore[no-untyped-def]
    return lambda positions: [rows[i] for i in positions]


def in_time(rows: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Frames around each row, of different numbers; some shorter than what the network sees."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(8, 40, size=len(rows))
    return [
        (row + generator.normal(size=(n, len(row)))).astype(np.float32)
        for row, n in zip(rows, lengths, strict=True)
    ]


def loud(n_speakers: int, n_each: int, seed: int) -> tuple[list[np.ndarray], list[str]]:
    """Speakers differ in how loud each dimension is; the mean over time says nothing."""
    generator = np.random.default_rng(seed)
    voices = np.repeat(np.exp(generator.normal(size=(n_speakers, 6))), n_each, axis=0)
    frames = [
        generator.normal(size=(int(generator.integers(10, 40)), 6)) * voice for voice in voices
    ]
    return frames, [f"s{i // n_each}" for i in range(len(frames))]


@pytest.mark.nightly
def test_an_x_vector_hears_what_means_do_not() -> None:
    frames, speakers = loud(40, 5, seed=1)
    others, of_others = loud(15, 4, seed=2)
    training = Training(
        learning_rates=[1e-3],
        epochs=12,
        batch_size=20,
        scale=15.0,
        margin=0.1,
        crop_frames=16,
        checkpoints=1,
    )
    ((setting, vectors),) = (
        (s, e(others))
        for s, e in train(lambda: XVector(6, 64), _read(frames), speakers, training, 0)
    )
    assert setting == {"learning_rate": 1e-3, "epochs": 12}
    assert eer_of(np.stack([item.mean(0) for item in others]), of_others) > 0.4
    assert eer_of(vectors, of_others) < 0.25


def test_equal_seeds_give_equal_embeddings_and_leave_torch_s_generator_alone() -> None:
    rows, speakers = planted(12, 3, seed=7)
    runs = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + number)  # whatever was drawn before
        before = torch.random.get_rng_state()
        runs.append(
            [
                embed(rows)
                for _, embed in train(
                    lambda: LinearEmbedding(12, 4), _read(rows), speakers, SHORT, seed
                )
            ]
        )
        assert torch.equal(before, torch.random.get_rng_state())
    first, again, other = runs
    assert all(map(np.array_equal, first, again))
    assert not np.allclose(first[-1], other[-1])


def test_an_embedding_does_not_depend_on_its_neighbours() -> None:
    rows, speakers = planted(12, 3, seed=8, dim=8)
    frames = in_time(rows, 9)
    training = Training(
        learning_rates=[1e-3], epochs=1, batch_size=16, scale=15.0, margin=0.1, crop_frames=20
    )
    for _, embed in train(lambda: XVector(8, 16), _read(frames), speakers, training, 0):
        together, alone = embed(frames), np.concatenate([embed([item]) for item in frames])
        assert np.array_equal(together, alone)
