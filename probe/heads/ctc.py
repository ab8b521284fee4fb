"""Small CTC heads on frozen frames: characters out of a layer (Graves et al. 2006).

``linear``: one projection per frame. ``bilstm``: one or two bidirectional LSTM layers of at most 256 units and a projection.
``join`` neighbouring frames are put side by side first, so that models with 10 ms frames can be read at the 20 ms of the others.
Vocabulary: the characters of the training transcripts, sorted, the space among them; index 0 is the blank; there is no unknown
symbol, a character that training does not have can only be an error. Greedy decoding: best symbol of each frame, repeats merged,
blanks dropped. An LSTM's learning rate is halved when dev stops improving; the rate to start with and the epoch are the ones with the
lowest character error rate on dev.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.heads.context import join_frames
from probe.heads.standardize import Standardizer

# Head -> learning rates that are tried unless a task names its own.
LEARNING_RATES = {"linear": (1e-1, 5e-2), "bilstm": (3e-3,)}
HEADS = tuple(LEARNING_RATES)
BLANK = 0
# The learning rate of an LSTM is halved after so many epochs in which neither dev CER nor dev loss improved. A linear head needs its
# large steps to the end: slowed down, it settles at a worse CER.
HALVE_AFTER = 4
MOST_HIDDEN = 256


@dataclass(frozen=True)
class Vocabulary:
    """Characters in the order of their indices, which start at 1."""

    characters: str

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Vocabulary":
        """The characters that occur in ``texts``."""
        return cls("".join(sorted(set("".join(texts)))))

    def encode(self, text: str) -> list[int]:
        """Indices of the characters of ``text``; unknown ones are left out."""
        return [self.characters.index(character) + 1 for character in text if character in self.characters]

    def decode_greedy(self, best: Sequence[int]) -> str:
        """Text of the best symbol of each frame: repeats merged, then blanks dropped, spaces at the ends stripped."""
        merged = [symbol for position, symbol in enumerate(best) if position == 0 or symbol != best[position - 1]]
        return "".join(self.characters[symbol - 1] for symbol in merged if symbol != BLANK).strip()


def frames_needed(labels: Sequence[int]) -> int:
    """Frames that CTC needs for a label sequence: one each, and a blank between equal neighbours."""
    return len(labels) + sum(first == second for first, second in itertools.pairwise(labels))


class BidirectionalLayer(nn.Module):
    """One bidirectional LSTM layer whose result for an utterance does not depend on the padding after it.

    The backward direction reads each utterance reversed within its own length. Equal to ``nn.LSTM`` on packed sequences and 2.2
    times faster on a CPU, where packing leaves the fused kernel (16 x 80 frames, 128 units: 31 against 67 ms a step).
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(dim, hidden, batch_first=True)
        self.back = nn.LSTM(dim, hidden, batch_first=True)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) -> (batch, frame, 2 * hidden)."""
        position = torch.arange(frames.shape[1], device=frames.device)
        ends = lengths.to(frames.device)[:, None]
        mirrored = torch.where(position < ends, ends - 1 - position, position)[:, :, None]
        back = self.back(frames.gather(1, mirrored.expand_as(frames)))[0]
        return torch.cat([self.ahead(frames)[0], back.gather(1, mirrored.expand_as(back))], dim=2)


class CTCHead(nn.Module):
    """(batch, frame, dim), lengths (batch,) -> (batch, frame, symbol) logits."""

    def __init__(self, head: str, dim: int, n_symbols: int, hidden: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        widths = [dim] + [2 * hidden] * (n_layers if head == "bilstm" else 0)
        self.layers = nn.ModuleList(BidirectionalLayer(width, hidden) for width in widths[:-1])
        self.dropout = nn.Dropout(dropout if head == "bilstm" else 0.0)
        self.projection = nn.Linear(widths[-1], n_symbols)
        if head == "linear":  # from random weights, two of three seeds settle where every symbol is an e (70 instead of 50 % CER)
            nn.init.zeros_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) -> (batch, frame, symbol) logits."""
        for layer in self.layers:
            frames = self.dropout(layer(frames, lengths))
        return self.projection(frames)


@dataclass
class Run:
    """One learning rate's best epoch so far.

    Attributes:
        waited: epochs since dev CER or dev loss improved.
        over: dev loss is not a number any more.
        state: of the head at the best epoch.
    """

    learning_rate: float
    dev_cer: float = math.inf
    epoch: int = 0
    epochs: int = 0
    dev_loss: float = math.inf
    waited: int = 0
    over: bool = False
    state: dict[str, Tensor] = field(default_factory=dict)

    def add(self, cer: float, dev_loss: float, state: Callable[[], dict[str, Tensor]]) -> None:
        """Another epoch, whose ``state`` is kept if it is the best."""
        self.epochs += 1
        self.waited = 0 if cer < self.dev_cer or dev_loss < self.dev_loss else self.waited + 1
        self.dev_loss = min(self.dev_loss, dev_loss)
        self.over = not math.isfinite(dev_loss)
        if cer < self.dev_cer:
            self.dev_cer, self.epoch, self.state = cer, self.epochs, state()

    @property
    def entry(self) -> dict[str, Any]:
        """What a record's search says of it."""
        return {"learning_rate": self.learning_rate, "dev_cer": self.dev_cer, "epoch": self.epoch, "epochs": self.epochs}


class CTCProbe:
    """A CTC head trained on one layer's frames.

    Args:
        head: ``linear`` or ``bilstm``.
        learning_rates: to start with, each is tried; dev picks. `LEARNING_RATES` where None.
        join: neighbouring frames that become one.
        epochs: at most so many.
        patience: a run ends after so many epochs in which neither dev CER nor dev loss improved.
        batch_size: utterances per step.
        hidden, n_layers, dropout: of the LSTM; dropout comes after each of its layers.
        clip: largest gradient norm.
        seed: of initialisation and order; equal seeds give equal results on one machine.
        device: where to train.

    Attributes:
        vocabulary_: characters of the training transcripts.
        search_: one entry per learning rate: ``learning_rate``, ``dev_cer``, ``epoch`` (the best), ``epochs`` (run).
        chosen_: the entry that dev picked.
        too_short_: positions of training utterances with fewer frames than their labels need; they are left out.
    """

    def __init__(
        self,
        head: str = "linear",
        learning_rates: Sequence[float] | None = None,
        join: int = 1,
        epochs: int = 80,
        patience: int = 40,
        batch_size: int = 16,
        hidden: int = 128,
        n_layers: int = 1,
        dropout: float = 0.1,
        clip: float = 1.0,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if head not in HEADS:
            raise ProbeError(f"CTC head {head!r}: expected one of {', '.join(HEADS)}.")
        if not (1 <= hidden <= MOST_HIDDEN and 1 <= n_layers <= 2):
            raise ProbeError(f"CTC head: hidden {hidden}, layers {n_layers}; expected 1..{MOST_HIDDEN} units in 1 or 2 layers.")
        self.head, self.hidden, self.n_layers, self.dropout = head, hidden, n_layers, dropout
        self.learning_rates = tuple(learning_rates or LEARNING_RATES[head])
        self.join, self.epochs, self.patience = join, epochs, patience
        self.batch_size, self.clip, self.seed, self.device = batch_size, clip, seed, device

    def fit(
        self,
        frames: Sequence[np.ndarray],
        texts: Sequence[str],
        dev_frames: Sequence[np.ndarray],
        dev_texts: Sequence[str],
        on_epoch: Callable[[], Any] = lambda: None,
    ) -> "CTCProbe":
        """Trains on utterances of (frame, dim) and their transcripts, choosing on the dev ones.

        Raises:
            ProbeError: no transcript has a character, or no utterance is long enough for its labels.
        """
        train, dev = self.prepare(frames, texts, dev_frames)
        runs = [self._train(learning_rate, train, dev, dev_texts, on_epoch) for learning_rate in self.learning_rates]
        return self.conclude(runs)

    def prepare(
        self, frames: Sequence[np.ndarray], texts: Sequence[str], dev_frames: Sequence[np.ndarray]
    ) -> "tuple[Examples, list[Tensor]]":
        """Training examples and dev frames as heads read them: joined, standardised, on the device. Sets what follows from them.

        Raises:
            ProbeError: no transcript has a character, or no utterance is long enough for its labels.
        """
        frames, dev_frames = ([join_frames(rows, self.join) for rows in part] for part in (frames, dev_frames))
        self.vocabulary_ = Vocabulary.of(texts)
        if not self.vocabulary_.characters.strip():
            raise ProbeError("transcribe: all training transcripts are empty; expected text in the manifest's column text.")
        labels = [self.vocabulary_.encode(text) for text in texts]
        fits = [0 < frames_needed(item) <= len(rows) for item, rows in zip(labels, frames, strict=True)]
        self.too_short_ = [i for i, (item, fit) in enumerate(zip(labels, fits, strict=True)) if item and not fit]
        if not any(fits):
            raise ProbeError(
                "transcribe: every training utterance has fewer frames than its labels need; is the text the audio's?"
            )
        self.standardizer_ = Standardizer.of(np.concatenate(list(frames)))
        kept = [i for i, fit in enumerate(fits) if fit]
        train = Examples([self._tensor(frames[i]) for i in kept], [torch.tensor(labels[i]) for i in kept])
        return train, [self._tensor(rows) for rows in dev_frames]

    def conclude(self, runs: Sequence[Run]) -> "CTCProbe":
        """Takes the run that is best on dev, the first of equals."""
        best = min(runs, key=lambda run: run.dev_cer)
        self.search_ = [run.entry for run in runs]
        self.chosen_ = best.entry
        self.model_ = self._new_head()
        self.model_.load_state_dict(best.state)
        return self

    def transcribe(self, frames: Sequence[np.ndarray]) -> list[str]:
        """Greedy transcripts of utterances of (frame, dim)."""
        return self._decode(self.model_, [self._tensor(join_frames(rows, self.join)) for rows in frames])[0]

    def _tensor(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.standardizer_.apply(rows)).to(self.device)

    def _new_head(self) -> CTCHead:
        dim, n_symbols = len(self.standardizer_.mean), len(self.vocabulary_.characters) + 1
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return CTCHead(self.head, dim, n_symbols, self.hidden, self.n_layers, self.dropout).to(self.device)

    def _train(
        self, learning_rate: float, train: "Examples", dev: list[Tensor], dev_texts: Sequence[str], on_epoch: Callable[[], Any]
    ) -> Run:
        """One learning rate: Adam, mean CTC loss per utterance, gradient clipping, halving and early stopping on dev."""
        model = self._new_head()
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        order, run = np.random.default_rng(self.seed), Run(learning_rate)
        dev_labels = [torch.tensor(self.vocabulary_.encode(text)) for text in dev_texts]
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for _ in range(self.epochs):
                model.train()
                for batch in train.batches(self.batch_size, order):
                    loss = ctc_loss(model, *batch)
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), self.clip)
                    optimizer.step()
                texts, dev_loss = self._decode(model, dev, dev_labels)
                run.add(character_error_rates(dev_texts, [texts])[0], dev_loss, lambda: copy.deepcopy(model.state_dict()))
                on_epoch()
                if self.head != "linear" and run.waited and run.waited % HALVE_AFTER == 0:
                    for group in optimizer.param_groups:
                        group["lr"] /= 2
                if run.waited >= self.patience or run.over:
                    break
        return run

    @torch.inference_mode()
    def _decode(self, model: CTCHead, frames: list[Tensor], labels: list[Tensor] | None = None) -> tuple[list[str], float]:
        """(greedy text of each utterance, mean CTC loss of those with labels that fit)."""
        model.eval()
        texts: list[str] = [""] * len(frames)
        losses: list[float] = []
        by_length = sorted(range(len(frames)), key=lambda i: len(frames[i]))
        for start in range(0, len(frames), self.batch_size):
            chosen = by_length[start : start + self.batch_size]
            padded, lengths = _pad([frames[i] for i in chosen])
            logits = model(padded, lengths)
            for i, best, length in zip(chosen, logits.argmax(dim=2).tolist(), lengths.tolist(), strict=True):
                texts[i] = self.vocabulary_.decode_greedy(best[:length])
            if labels is not None:
                losses += _losses(logits, lengths, [labels[i] for i in chosen]).tolist()
        finite = [loss for loss in losses if math.isfinite(loss)]
        return texts, sum(finite) / len(finite) if finite else math.nan


@dataclass(frozen=True)
class Examples:
    """Training utterances: (frame, dim) each, and their labels."""

    frames: list[Tensor]
    labels: list[Tensor]

    def batches(self, batch_size: int, order: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """Shuffled batches of utterances of similar length: (padded frames, lengths, labels)."""
        for chosen in batch_order([len(rows) for rows in self.frames], batch_size, order):
            padded, lengths = _pad([self.frames[i] for i in chosen])
            yield padded, lengths, [self.labels[i] for i in chosen]


def batch_order(lengths: Sequence[int], batch_size: int, order: np.random.Generator) -> Iterator[list[int]]:
    """Positions of utterances in shuffled batches of similar length, one epoch."""
    by_length = np.argsort(np.array(lengths) * order.uniform(0.8, 1.25, len(lengths)))
    starts = range(0, len(by_length), batch_size)
    for position in order.permutation(len(starts)):
        yield by_length[starts[position] : starts[position] + batch_size].tolist()


def ctc_loss(model: CTCHead, padded: Tensor, lengths: Tensor, labels: list[Tensor]) -> Tensor:
    """Mean over utterances of the negative log-likelihood per label."""
    losses = _losses(model(padded, lengths), lengths, labels)
    return (losses / torch.tensor([len(item) for item in labels], device=losses.device)).mean()


def _losses(logits: Tensor, lengths: Tensor, labels: list[Tensor]) -> Tensor:
    """(batch,) negative log-likelihoods; infinite where an utterance is too short for its labels."""
    return nn.functional.ctc_loss(
        logits.log_softmax(dim=2).transpose(0, 1),
        torch.cat(labels).to(logits.device),
        lengths,
        torch.tensor([len(item) for item in labels], device=lengths.device),
        blank=BLANK,
        reduction="none",
    )


def _pad(frames: list[Tensor]) -> tuple[Tensor, Tensor]:
    """((batch, frame, dim), (batch,) lengths)."""
    return nn.utils.rnn.pad_sequence(frames, batch_first=True), torch.tensor([len(rows) for rows in frames])


def character_error_rates(references: Sequence[str], hypotheses: Sequence[Sequence[str]]) -> list[float]:
    """Corpus CER of each set of hypotheses, for choosing an epoch; the reported one is counted by `probe.measures.transcription`."""
    errors = np.zeros(len(hypotheses), dtype=np.int64)
    for reference, *readings in zip(references, *hypotheses, strict=True):
        errors += edit_distances(reference, readings)
    return (errors / max(1, sum(map(len, references)))).tolist()


def edit_distances(reference: str, hypotheses: Sequence[str]) -> np.ndarray:
    """(hypothesis,) int64: the fewest insertions, deletions and substitutions of characters that make each the reference.

    All hypotheses go through the table (Wagner and Fischer 1974) together, a character of the reference at a time. What is kept for
    the first j characters of a hypothesis is the distance less j, so that a run of insertions is a running minimum.
    """
    lengths = np.array([len(text) for text in hypotheses])
    characters = np.zeros((max(lengths, default=0), len(hypotheses)), dtype=np.int32)
    for column, text in enumerate(hypotheses):
        characters[: len(text), column] = [ord(character) for character in text]
    row = np.zeros((len(characters) + 1, len(hypotheses)), dtype=np.int32)
    for position, character in enumerate(reference, 1):
        above = row[1:] + 1
        row[1:] = np.minimum(above, row[:-1] - (characters == ord(character)))
        row[0] = position
        np.minimum.accumulate(row, axis=0, out=row)
    return row[lengths, np.arange(len(hypotheses))] + lengths
