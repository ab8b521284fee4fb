"""Small CTC heads that read characters or phones from the frozen frames of a layer (Graves et al.
2006).

`probe.heads.ctc.modules` defines the heads and `probe.heads.ctc.vocabulary` their symbols. The
probe first concatenates ``join`` neighbouring frames, so that models with 10 ms frames are read at
the 20 ms of the others. Greedy decoding takes the best symbol of each frame, merges repeats and
drops blanks; `probe.heads.ctc.beam_search` is the alternative.

On little data the outcome of such a training hangs on the order of batches and even on rounding.
`probe.heads.ctc.training_run` says what makes it stable. The probe keeps the learning rate and the
epoch with the lowest symbol error rate on dev.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probe.brief import brief
from probe.errors import ProbeError
from probe.heads.ctc.modules import LEARNING_RATES, CTCHead, HeadSettings
from probe.heads.ctc.spec_augment import Masks, draw_masks
from probe.heads.ctc.training_run import Average, TrainingRun, drop_slower, epoch_seed
from probe.heads.ctc.vocabulary import BLANK, UNITS, Vocabulary, frames_needed, symbol_error_rates
from probe.heads.linear.context import join_frames
from probe.heads.linear.rows import Standardizer, Whitener


@dataclass(frozen=True)
class CTCTraining:
    """How a `CTCProbe` trains its head.

    Attributes:
        learning_rates: initial learning rates, from which dev picks. Empty means `LEARNING_RATES`
            of the head.
        epochs: the largest number of epochs.
        patience: training stops after this many epochs without an improvement of the dev error rate
            or the dev loss.
        batch_size: utterances per step.
        clip: largest norm of the gradient.
        spec_augment: whether training masks spans of time and of dimensions
            (`probe.heads.ctc.spec_augment`).
    """

    learning_rates: Sequence[float] = ()
    epochs: int = 80
    patience: int = 40
    batch_size: int = 16
    clip: float = 1.0
    spec_augment: bool = False


DEFAULT_TRAINING = CTCTraining()


class CTCProbe:
    """A CTC head trained on one layer's frames, or on a weighted sum of layers.

    Args:
        head: architecture of the head; a name (``linear``, ``mlp`` or ``bilstm``) stands for
            `probe.heads.ctc.modules.HeadSettings` with its defaults.
        training: how the head is trained.
        units: symbols of a transcript: ``characters``, ``phones``, or ``letters``, which are
            characters of a transcript that the caller has normalised.
        seed: random seed for initialisation, batch order and masks; equal seeds give equal results
            on one machine.
        device: where to train.

    Attributes:
        vocabulary_: symbols of the training transcripts.
        search_: one entry per learning rate: ``learning_rate``, ``dev_cer`` (``dev_per`` for
            phones), ``epoch`` (the best one), ``epochs`` (the number that ran); see
            `probe.heads.ctc.training_run.TrainingRun`.
        chosen_: the entry with the lowest dev error.
        too_short_: positions of training utterances with fewer frames than their labels need;
            training leaves them out.
    """

    def __init__(
        self,
        head: HeadSettings | str = "linear",
        training: CTCTraining = DEFAULT_TRAINING,
        *,
        units: str = "characters",
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.settings = HeadSettings(head) if isinstance(head, str) else head
        self.training, self.seed, self.device = training, seed, device
        self.learning_rates = tuple(training.learning_rates or LEARNING_RATES[self.settings.head])
        self.separator = UNITS[units]
        self.metric = "dev_per" if units == "phones" else "dev_cer"
        # Products of single frames cost little beside the loss, so float64 is affordable.
        is_cheap = self.settings.head == "linear" and torch.device(device).type == "cpu"
        self.dtype = torch.float64 if is_cheap else torch.float32

    def __repr__(self) -> str:
        state = (
            f"fitted, {len(self.vocabulary_.symbols)} symbols"
            if hasattr(self, "vocabulary_")
            else "not fitted"
        )
        return brief(self, self.settings.head, state)

    def fit(
        self,
        frames: Sequence[np.ndarray],
        texts: Sequence[str],
        dev_frames: Sequence[np.ndarray],
        dev_texts: Sequence[str],
        on_progress: Callable[[int, int], Any] = lambda _n, _spared: None,
    ) -> "CTCProbe":
        """Train on utterances of (frame, dim) and their transcripts; choose the best epoch on the
        dev set.

        Args:
            on_progress: see `probe.heads.ctc.all_layers.fit_groups`.

        Raises:
            ProbeError: no transcript has a symbol, or no utterance is long enough for its labels.
        """
        return self.fit_prepared(*self.prepare(frames, texts, dev_frames), dev_texts, on_progress)

    def fit_prepared(
        self,
        train: "Examples",
        dev: list[Tensor],
        dev_texts: Sequence[str],
        on_progress: Callable[[int, int], Any] = lambda _n, _spared: None,
    ) -> "CTCProbe":
        """Train with all learning rates on the result of `prepare`, one after the other in each
        epoch.
        """
        n_epochs = self.training.epochs
        runs = self.new_runs()
        trainings = [(run, self._epochs(run, train, dev, dev_texts)) for run in runs]
        for epoch in range(n_epochs):
            active = [run for run in runs if not run.has_ended]
            if not active:
                break
            for run, training in trainings:
                if not run.has_ended:
                    next(training)
            drop_slower(active, epoch + 1, n_epochs)
            n_ended = sum(run.has_ended for run in active)
            n_train = len(train.frames)
            on_progress(len(active) * n_train, n_ended * (n_epochs - epoch - 1) * n_train)
        return self.conclude(runs)

    def prepare(
        self, frames: Sequence[np.ndarray], texts: Sequence[str], dev_frames: Sequence[np.ndarray]
    ) -> "tuple[Examples, list[Tensor]]":
        """Return training examples and dev frames joined, scaled and on the device. The method
        also sets the vocabulary and the scaling.

        Raises:
            ProbeError: no transcript has a symbol, or no utterance is long enough for its labels.
        """
        frames, dev_frames = (
            [join_frames(rows, self.settings.join) for rows in part]
            for part in (frames, dev_frames)
        )
        self.vocabulary_ = Vocabulary.of(texts, self.separator)
        if not "".join(self.vocabulary_.symbols).strip():
            raise ProbeError(
                "transcribe: all training transcripts are empty; expected text in the manifest's "
                "column text."
            )
        labels = [self.vocabulary_.encode(text) for text in texts]
        pairs = list(zip(labels, frames, strict=True))
        usable = [i for i, (item, rows) in enumerate(pairs) if 0 < frames_needed(item) <= len(rows)]
        self.too_short_ = [
            i for i, item in enumerate(labels) if frames_needed(item) > len(frames[i])
        ]
        if not usable:
            raise ProbeError(
                "transcribe: every training utterance has fewer frames than its labels need; is "
                "the text the audio's?"
            )
        # Hidden layers find a scale of their own.
        scaling = Whitener if self.settings.head == "linear" else Standardizer
        together = np.concatenate(list(frames))
        self.scalings_ = [scaling.of(rows) for rows in self._layers_apart(together)]
        self.width_ = frames[0].shape[1]
        train = Examples(
            [self._tensor(frames[i]) for i in usable], [torch.tensor(labels[i]) for i in usable]
        )
        return train, [self._tensor(rows) for rows in dev_frames]

    def new_runs(self) -> list[TrainingRun]:
        """Return a training run for each learning rate."""
        return [
            TrainingRun(rate, self.training.epochs, self.training.patience, self.metric)
            for rate in self.learning_rates
        ]

    def conclude(self, runs: Sequence[TrainingRun]) -> "CTCProbe":
        """Keep the run with the lowest dev error, the first one in a tie."""
        best = min(runs, key=lambda run: run.error)
        self.search_ = [run.entry for run in runs]
        self.chosen_ = best.entry
        self.model_ = self.new_head()
        self.model_.load_state_dict(best.state)
        return self

    def transcribe(self, frames: Sequence[np.ndarray]) -> list[str]:
        """Greedy transcripts of utterances of (frame, dim)."""
        return self._decode(self.model_, self._joined(frames))[0]

    def log_probabilities(self, frames: Sequence[np.ndarray]) -> list[Tensor]:
        """Return (frame, symbol) float32 log-probabilities on the CPU for each utterance of (frame,
        dim).
        """
        of_utterance: dict[int, Tensor] = {}
        for positions, logits in self._logits(self.model_, self._joined(frames)):
            for i, values in zip(positions, logits, strict=True):
                of_utterance[i] = values.log_softmax(1).float().cpu()
        return [of_utterance[i] for i in range(len(frames))]

    @property
    def shares_(self) -> list[float]:
        """The weight of each layer in the weighted sum, summing to 1; empty for a head without a
        sum.
        """
        return (
            [] if self.model_.mix is None else self.model_.mix.scores.detach().softmax(0).tolist()
        )

    def new_head(self) -> CTCHead:
        """Return an untrained head, which is always the same for a seed."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            head = CTCHead(self.settings, self.width_, self.vocabulary_.size)
        return head.to(self.device, self.dtype)

    def masks(
        self, epoch: int, utterances: Sequence[int], lengths: Sequence[int], dim: int
    ) -> Masks | None:
        """Return SpecAugment's masks for training utterances in an epoch, or None without
        SpecAugment.
        """
        if not self.training.spec_augment:
            return None
        return draw_masks(
            self.seed,
            epoch,
            utterances,
            lengths,
            dim // (self.settings.n_mixed * self.settings.join),
        )

    def _joined(self, frames: Sequence[np.ndarray]) -> list[Tensor]:
        return [self._tensor(join_frames(rows, self.settings.join)) for rows in frames]

    def _tensor(self, rows: np.ndarray) -> Tensor:
        """Scale joined frames, each layer of a weighted sum on its own."""
        pairs = zip(self.scalings_, self._layers_apart(rows), strict=True)
        layers = [scaling.apply(part) for scaling, part in pairs]
        dim = layers[0].shape[1] // self.settings.join
        by_layer = [part.reshape(len(rows), self.settings.join, dim) for part in layers]
        scaled = np.stack(by_layer, axis=2).reshape(rows.shape)
        return torch.from_numpy(scaled).to(self.device, self.dtype)

    def _layers_apart(self, rows: np.ndarray) -> list[np.ndarray]:
        """Divide (frame, join * layer * dim) into (frame, join * dim) for each layer."""
        join, n_layers = self.settings.join, self.settings.n_mixed
        dim = rows.shape[1] // (join * n_layers)
        by_layer = rows.reshape(len(rows), join, n_layers, dim)
        return [by_layer[:, :, layer].reshape(len(rows), join * dim) for layer in range(n_layers)]

    def _epochs(
        self, run: TrainingRun, train: "Examples", dev: list[Tensor], dev_texts: Sequence[str]
    ) -> Iterator[None]:
        """Train an epoch of one learning rate each time, with Adam on the mean CTC loss per
        utterance and gradient clipping, and score the averaged weights on dev.
        """
        model, averaged = self.new_head(), self.new_head()
        average = Average(dict(averaged.named_parameters()))
        optimizer = torch.optim.Adam(model.parameters(), lr=run.rate)
        order = np.random.default_rng(self.seed)
        dev_labels = [torch.tensor(self.vocabulary_.encode(text)) for text in dev_texts]
        for epoch in range(self.training.epochs):
            for group in optimizer.param_groups:
                group["lr"] = run.rate
            model.train()
            with torch.random.fork_rng():
                torch.manual_seed(epoch_seed(self.seed, epoch))  # for dropout
                for chosen in batch_order(train.lengths, self.training.batch_size, order):
                    self._step(model, optimizer, train, chosen, epoch)
            average.add(dict(model.named_parameters()))
            texts, dev_loss = self._decode(averaged, dev, dev_labels)
            (error,) = symbol_error_rates(dev_texts, [texts], self.separator)
            run.add(error, dev_loss, lambda: average.state())
            yield

    def _step(
        self,
        model: CTCHead,
        optimizer: torch.optim.Optimizer,
        train: "Examples",
        chosen: Sequence[int],
        epoch: int,
    ) -> None:
        """Train on one batch."""
        frames, lengths = pad([train.frames[i] for i in chosen])
        masks = self.masks(epoch, chosen, lengths.tolist(), frames.shape[2])
        labels = [train.labels[i] for i in chosen]
        losses = _losses(model(frames, lengths, masks), lengths, labels)
        n_labels = torch.tensor([len(item) for item in labels], device=losses.device)
        optimizer.zero_grad()
        (losses / n_labels).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), self.training.clip)
        optimizer.step()

    @torch.inference_mode()
    def _decode(
        self, model: CTCHead, frames: list[Tensor], labels: list[Tensor] | None = None
    ) -> tuple[list[str], float]:
        """Return the greedy text of each utterance and the mean CTC loss of the utterances that are
        long enough for their labels.
        """
        texts: list[str] = [""] * len(frames)
        losses: list[float] = []
        for chosen, logits in self._logits(model, frames):
            for i, values in zip(chosen, logits, strict=True):
                texts[i] = self.vocabulary_.decode_greedy(values.argmax(dim=1).tolist())
            if labels is not None:
                padded, lengths = pad(logits)
                losses += _losses(padded, lengths, [labels[i] for i in chosen]).tolist()
        finite = [loss for loss in losses if math.isfinite(loss)]
        return texts, sum(finite) / len(finite) if finite else math.nan

    @torch.inference_mode()
    def _logits(
        self, model: CTCHead, frames: list[Tensor]
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Yield batches of positions in ``frames`` and the (frame, symbol) logits of each."""
        model.eval()
        by_length = sorted(range(len(frames)), key=lambda i: len(frames[i]))
        for start in range(0, len(frames), self.training.batch_size):
            chosen = by_length[start : start + self.training.batch_size]
            padded, lengths = pad([frames[i] for i in chosen])
            pairs = zip(model(padded, lengths), lengths.tolist(), strict=True)
            yield chosen, [values[:length] for values, length in pairs]


@dataclass(frozen=True)
class Examples:
    """Training utterances, (frame, dim) each, and their labels."""

    frames: list[Tensor]
    labels: list[Tensor]

    @property
    def lengths(self) -> list[int]:
        """Number of frames of each utterance."""
        return [len(rows) for rows in self.frames]


def batch_order(
    lengths: Sequence[int], batch_size: int, order: np.random.Generator
) -> Iterator[list[int]]:
    """Yield the batches of one epoch: positions of utterances of similar length, in random
    order.
    """
    by_length = np.argsort(np.array(lengths) * order.uniform(0.8, 1.25, len(lengths)))
    starts = range(0, len(by_length), batch_size)
    for position in order.permutation(len(starts)):
        yield by_length[starts[position] : starts[position] + batch_size].tolist()


def pad(frames: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return padded frames (batch, frame, dim) and their lengths (batch,)."""
    lengths = torch.tensor([len(rows) for rows in frames])
    return nn.utils.rnn.pad_sequence(frames, batch_first=True), lengths


def _losses(logits: Tensor, lengths: Tensor, labels: list[Tensor]) -> Tensor:
    """Return (batch,) negative log-likelihoods, infinite for an utterance that is too short."""
    return nn.functional.ctc_loss(
        logits.log_softmax(dim=2).transpose(0, 1),
        torch.cat(labels).to(logits.device),
        lengths,
        torch.tensor([len(item) for item in labels], device=lengths.device),
        blank=BLANK,
        reduction="none",
    )
