"""Kind ``transcribe``: characters from frames by a CTC head on every layer.

Frames that come faster than every ``frame_ms`` are joined, so that a head sees 10 ms features at the rate of 20 ms models.

Linear heads of several layers are trained together (`probe.heads.ctc_layers`), others one layer at a time.

Metrics: WER and CER, sums of errors over sums of reference words or characters (lower is better), on the transcripts as the
manifest has them. Learning rate, epoch and layer are chosen by dev CER. SUPERB's ASR differs: one learned sum of layers, a
2 x 1024 BiLSTM, SpecAugment, LibriSpeech.

Where the features were extracted with the checkpoint's own CTC head, its greedy transcripts are scored too (head ``own-ctc``, layer
``ctc``), on transcripts case-folded on both sides: fine-tuned checkpoints write capitals. That is a reference, not a probe.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from probe.data.corpus import Utterance
from probe.data.texts import described, unseen
from probe.errors import ProbeError, listed
from probe.evaluation.problem import Features, Problem, Score, block_of, labelled, refuse_empty, shuffled
from probe.evaluation.tasks import Task
from probe.heads.ctc import CTCProbe
from probe.heads.ctc_layers import fit_layers
from probe.heads.vocabulary import Vocabulary, frames_needed
from probe.measures.counts import ratio_counts
from probe.measures.transcription import case_folded, character_errors, word_errors
from probe.records import OWN_HEAD

log = logging.getLogger("probe")

CTC_LAYER = "ctc"
METRICS = {"wer": word_errors, "cer": character_errors}


def run(task: Task, problem: Problem, features: Features) -> Iterator[Score]:
    """WER and CER of every layer on dev and on each test set.

    Raises:
        ProbeError: no rows with text in a split, or training text that never fits its audio.
    """
    excluded: Counter[str] = Counter()
    train, dev = (labelled(rows, "text", excluded) for rows in (problem.train, problem.dev))
    tests = {name: labelled(rows, "text", excluded) for name, rows in problem.tests.items()}
    refuse_empty(task.name, train, dev, "text")
    if problem.strict and not any(tests.values()):
        raise ProbeError(f"{task.name}: no test rows with text. Give some rows split test in the manifest.")
    train_texts, dev_texts = ([item.text for item in rows] for rows in (train, dev))
    notes = _coverage(
        task.name, Vocabulary.of(train_texts), {"dev": dev, **{name or "test": rows for name, rows in tests.items()}}
    )
    if task.settings["control"]:
        train_texts, dev_texts = shuffled(train_texts, problem.seed), shuffled(dev_texts, problem.seed)
    elif features.ctc and problem.strict:
        yield from _own_head(features, dev, tests, excluded)
    for layer, probe in _fitted(task, problem, features, (train, train_texts), (dev, dev_texts)):
        left_out = dict(excluded)
        if probe.too_short_:
            names = listed([train[i].key for i in probe.too_short_])
            reason = "fewer frames than labels need"
            left_out[reason] = len(probe.too_short_)
            log.warning("%s layer %s: %d training utterances with %s: %s", task.name, layer, len(probe.too_short_), reason, names)
        common: dict[str, Any] = {
            "layer": layer,
            "head": f"ctc-{task.settings['head']}",
            "select_by": "cer",
            "higher_is_better": False,
            "search": probe.search_,
            "chosen": probe.chosen_,
            "excluded": left_out,
        }
        yield from _scores({**common, "note": notes["dev"]}, "dev", dev, dev_texts, probe, list(features.read(layer, dev)))
        for name, rows in tests.items():
            if not rows:
                yield from (
                    Score(**common, metric=metric, split="test", test_domain=name, counts=None, n=0, note="no rows with text")
                    for metric in METRICS
                )
                continue
            frames = list(features.read(layer, rows))
            note = notes[name or "test"]
            yield from _scores(
                {**common, "test_domain": name, "note": note}, "test", rows, [item.text for item in rows], probe, frames
            )


Texts = tuple[Sequence[Utterance], Sequence[str]]


def _fitted(task: Task, problem: Problem, features: Features, train: Texts, dev: Texts) -> Iterator[tuple[str, CTCProbe]]:
    """(layer, its probe), in the layers' order; linear heads of several layers are trained together."""

    def layers() -> Iterator[tuple[str, list[np.ndarray], list[np.ndarray]]]:
        for layer in features.layers:
            problem.tick(f"layer {layer}")
            yield layer, list(features.read(layer, train[0])), list(features.read(layer, dev[0]))

    def alive() -> None:
        problem.tick("")

    if task.settings["head"] == "linear":
        yield from fit_layers(lambda: _probe(task, problem, features.hop_s), layers(), train[1], dev[1], on_epoch=alive)
        return
    for layer, frames, dev_frames in layers():
        yield layer, _probe(task, problem, features.hop_s).fit(frames, train[1], dev_frames, dev[1], alive)


def _probe(task: Task, problem: Problem, hop_s: float) -> CTCProbe:
    settings = task.settings
    return CTCProbe(
        head=settings["head"],
        learning_rates=settings["learning_rates"],
        join=max(1, round(settings["frame_ms"] / 1000 / hop_s)),
        epochs=settings["epochs"],
        patience=settings["patience"],
        batch_size=settings["batch_size"],
        hidden=settings["hidden"],
        n_layers=settings["layers"],
        dropout=settings["dropout"],
        seed=problem.seed,
        device=problem.device,
    )


def _coverage(task: str, vocabulary: Vocabulary, sets: dict[str, list[Utterance]]) -> dict[str, str]:
    """Set -> a note on the characters that training does not have, which can only be errors."""
    notes: dict[str, str] = {}
    for name, rows in sets.items():
        strange = unseen(((item.key, item.text) for item in rows), set(vocabulary.symbols))
        n = sum(item.count for item in strange)
        notes[name] = (
            f"{n} characters not in training: {listed([repr(c) for c in sorted(item.what for item in strange)])}" if n else ""
        )
        if strange:
            log.warning("%s: %s: characters not in training: %s", task, name, described(strange))
    return notes


def _own_head(
    features: Features, dev: Sequence[Utterance], tests: Mapping[str, Sequence[Utterance]], excluded: Counter[str]
) -> Iterator[Score]:
    """The greedy transcripts that the checkpoint's own CTC head gave at extraction: a reference, nothing is trained here."""
    alphabet = set(features.ctc["alphabet"].casefold())
    common = {
        "layer": CTC_LAYER,
        "head": OWN_HEAD,
        "select_by": "cer",
        "higher_is_better": False,
        "chosen": {"decoding": "greedy", "normaliser": "case-folded"},
        "excluded": dict(excluded),
    }
    for split, name, rows in [("dev", "", dev), *(("test", name, rows) for name, rows in tests.items())]:
        if not rows:
            continue
        references = [case_folded(item.text) for item in rows]
        unknown = Counter(character for text in references for character in text if character not in alphabet)
        note = "its own head, greedy, both sides case-folded"
        if unknown:
            note += (
                f"; {sum(unknown.values())} characters that it cannot write: {listed([repr(item) for item in sorted(unknown)])}"
            )
        texts = [case_folded(features.stored[item.key].ctc_text or "") for item in rows]
        yield from _counted({**common, "note": note, "test_domain": name}, split, rows, references, texts)


def _scores(
    common: dict,
    split: str,
    utterances: Sequence[Utterance],
    references: Sequence[str],
    probe: CTCProbe,
    frames: list[np.ndarray],
) -> Iterator[Score]:
    texts = probe.transcribe(frames)
    short = [
        item.key
        for item, text, rows in zip(utterances, references, frames, strict=True)
        if frames_needed(probe.vocabulary_.encode(text)) > -(-len(rows) // probe.join)
    ]
    if short:
        common = {
            **common,
            "note": "; ".join(filter(None, [common["note"], f"{len(short)} utterances with fewer frames than labels"])),
        }
        log.warning(
            "layer %s: %s: %d utterances with fewer frames than labels need: %s",
            common["layer"],
            split,
            len(short),
            listed(short),
        )
    yield from _counted(common, split, utterances, references, texts)


def _counted(
    common: dict, split: str, utterances: Sequence[Utterance], references: Sequence[str], texts: Sequence[str]
) -> Iterator[Score]:
    """WER and CER of transcripts."""
    blocks = [block_of(item) for item in utterances]
    outcomes = [
        {"key": item.key, "reference": reference, "hypothesis": text}
        for item, reference, text in zip(utterances, references, texts, strict=True)
    ]
    for metric, count in METRICS.items():
        errors, units = zip(*(count(reference, text) for reference, text in zip(references, texts, strict=True)), strict=True)
        yield Score(
            **common, split=split, metric=metric, counts=ratio_counts(blocks, errors, units), n=len(utterances), outcomes=outcomes
        )
