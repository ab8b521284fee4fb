"""Trained speaker embeddings: a linear projection of pooled vectors, or SUPERB's x-vector on
frames, both with AM-softmax.

AM-softmax (Wang et al. 2018, "Additive margin softmax for face verification"): the cross-entropy
over training speakers of ``scale * (cosine - margin of the true speaker)``, with one learned
direction per speaker. After training, the cosine of two embeddings is their score, and the
directions are no longer used.

Source of the x-vector's sizes: Snyder et al. 2018, "X-vectors", in the form that SUPERB trains
(Yang et al. 2021).
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TDNN = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))  # kernel and dilation of the time-delay layers
FIELD = 1 + sum(
    (kernel - 1) * dilation for kernel, dilation in TDNN
)  # number of frames that one output depends on
POOLED = 1500 / 512  # channels of the last layer, as a multiple of the others'
CLIP = 1000.0  # largest norm of the gradient

Read = Callable[[Sequence[int]], list[np.ndarray]]
Embed = Callable[[Iterable[np.ndarray]], np.ndarray]


class XVector(nn.Module):
    """SUPERB's x-vector: linear, five time-delay layers, mean and standard deviation over time, two
    linear layers.

    Args:
        dim: dimensions of the frames.
        width: channels of all layers except the last time-delay layer, which has 1500 / 512 times
            as many; SUPERB uses 512.
    """

    def __init__(self, dim: int, width: int = 512) -> None:
        super().__init__()
        channels = [*[width] * len(TDNN), round(POOLED * width)]
        self.projection = nn.Linear(dim, width)
        self.delays = nn.ModuleList(
            nn.Conv1d(before, after, kernel, dilation=dilation)
            for (kernel, dilation), before, after in zip(
                TDNN, channels[:-1], channels[1:], strict=True
            )
        )
        self.embedding = nn.Linear(2 * channels[-1], width)
        self.last = nn.Linear(width, width)

    def embed(self, frames: Tensor) -> Tensor:
        """Return the embedding (batch, width), the rectified output of the first linear layer after
        pooling.

        Args:
            frames: (batch, frame, dim), at least `FIELD` frames, all of them valid.
        """
        hidden = self.projection(frames).transpose(1, 2)
        for delay in self.delays:
            hidden = F.relu(delay(hidden))
        pooled = torch.cat(
            [hidden.mean(2), hidden.var(2, correction=0).clamp(min=1e-8).sqrt()], dim=1
        )
        return F.relu(self.embedding(pooled))

    def forward(self, frames: Tensor) -> Tensor:
        """Return the input (batch, width) of the loss."""
        return F.relu(self.last(self.embed(frames)))


class LinearEmbedding(nn.Module):
    """A linear map of pooled vectors, whose output is both the embedding and the input of the
    loss.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, width)

    def embed(self, rows: Tensor) -> Tensor:
        """Map (batch, dim) to (batch, width)."""
        return self.linear(rows)

    forward = embed


class AMSoftmax(nn.Module):
    """Additive margin softmax over ``n_speakers``."""

    def __init__(self, width: int, n_speakers: int, scale: float, margin: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.empty(n_speakers, width))
        nn.init.xavier_normal_(self.directions)
        self.scale, self.margin = scale, margin

    def forward(self, vectors: Tensor, speakers: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            vectors: (batch, width).
            speakers: (batch,) int64.
        """
        cosines = F.linear(F.normalize(vectors), F.normalize(self.directions))
        true = F.one_hot(speakers, cosines.shape[1])
        return F.cross_entropy(self.scale * (cosines - self.margin * true), speakers)


@dataclass(frozen=True)
class Training:
    """How a speaker network is trained.

    Attributes:
        learning_rates: learning rates; each training starts from the same weights.
        epochs: number of epochs of the longest training.
        checkpoints: number of checkpoints, at equal distances up to the last epoch.
        batch_size: utterances per step.
        crop_frames: number of frames that a step takes from a random place of each utterance; 0 for
            pooled rows.
        scale, margin: parameters of AM-softmax.
    """

    learning_rates: Sequence[float]
    epochs: int
    batch_size: int
    scale: float
    margin: float
    crop_frames: int = 0
    checkpoints: int = 5


def train(
    new_network: Callable[[], nn.Module],
    read: Read,
    speakers: Sequence[str],
    training: Training,
    seed: int,
    device: str = "cpu",
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[dict[str, float], Embed]]:
    """Yield the learning rate, epochs and embedding function of every checkpoint of every learning
    rate.

    An embedding function is valid until the next one is requested. The optimiser is AdamW. Equal
    seeds give equal networks on one machine.

    Args:
        new_network: returns an `XVector` or `LinearEmbedding`. Its weights come from torch's global
            generator, which is seeded with ``seed`` and restored afterwards.
        read: returns the (frame, dim) frames or (dim,) rows at positions in ``speakers``.
        speakers: the speaker of each training utterance.
        tick: called after each step.
    """
    names, speaker = np.unique(np.array(speakers), return_inverse=True)
    n_parts = training.checkpoints
    ends = {-(-training.epochs * part // n_parts) for part in range(1, n_parts + 1)}
    for rate in training.learning_rates:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = new_network().to(device)
            width = list(network.parameters())[-1].shape[0]
            loss = AMSoftmax(width, len(names), training.scale, training.margin).to(device)
        parameters = [*network.parameters(), *loss.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=rate)
        generator = np.random.default_rng([seed, len(speaker)])
        for epoch in range(1, training.epochs + 1):
            network.train()
            order = generator.permutation(len(speaker))
            for start in range(0, len(order), training.batch_size):
                chosen = order[start : start + training.batch_size].tolist()
                inputs = _batch(read(chosen), training.crop_frames, generator).to(device)
                optimiser.zero_grad()
                loss(network(inputs), torch.from_numpy(speaker[chosen]).to(device)).backward()
                nn.utils.clip_grad_norm_(parameters, CLIP)
                optimiser.step()
                tick()
            if epoch in ends:
                yield (
                    {"learning_rate": rate, "epochs": epoch},
                    functools.partial(_embedded, network, device),
                )


def _batch(rows: Sequence[np.ndarray], crop_frames: int, generator: np.random.Generator) -> Tensor:
    """Stack rows, or for frames a random stretch of each utterance, limited by the longest
    utterance.
    """
    if crop_frames:
        n_frames = max(FIELD, min(crop_frames, max(map(len, rows))))
        rows = [
            _stretch(item, n_frames, int(generator.integers(max(1, len(item) - n_frames + 1))))
            for item in rows
        ]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def _stretch(frames: np.ndarray, n_frames: int, first: int = 0) -> np.ndarray:
    """Return (n_frames, dim) frames from ``first`` on; a shorter utterance is repeated from its
    start.
    """
    return frames[(first + np.arange(n_frames)) % len(frames)]


@torch.no_grad()
def _embedded(network: nn.Module, device: str, rows: Iterable[np.ndarray]) -> np.ndarray:
    """Return (utterance, width) float32 embeddings, one utterance at a time, so that they are
    independent.
    """
    network.eval()
    embed: Callable[[Tensor], Tensor] = network.embed  # type: ignore[assignment]  # torch types attributes as tensors or modules
    whole = (_stretch(item, max(FIELD, len(item))) if item.ndim == 2 else item for item in rows)
    return torch.cat(
        [embed(torch.from_numpy(item.astype(np.float32))[None].to(device)).cpu() for item in whole]
    ).numpy()
