"""A checkpoint's own CTC head beside the heads that a ``transcribe`` task trains: a reference, on
layer `CTC`, in which nothing is trained.

Head ``own-ctc`` has the greedy transcripts that were stored at extraction. If the task decodes by
beam search, head ``own-ctc-beam`` has those of the same search, with the task's words, n-gram model
and grid of weights, of which dev picks one: the weights of the head lie in the store, and its
scores are computed from the stored frames of the final output.

Both sides have the normaliser of the task, or are case-folded without one: fine-tuned checkpoints
write capitals.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.data.text_normalisers import NONE
from probe.errors import listed
from probe.evaluation.dataset import Features, Score
from probe.evaluation.kinds.error_rates import error_rates
from probe.evaluation.kinds.transcript_decoding import Decoding
from probe.evaluation.kinds.transcripts import Part, Transcripts
from probe.evaluation.tasks import Task
from probe.heads.ctc.vocabulary import Vocabulary
from probe.measures.metrics import CER
from probe.measures.transcription import case_folded
from probe.models.encoder import CTC
from probe.records import OWN_HEAD, OWN_HEAD_BEAM

log = logging.getLogger("probe")

FINAL = "final"


def own_head_rates(
    task: Task[Any],
    features: Features,
    parts: Sequence[Part],
    transcripts: Transcripts,
    excluded: dict[str, int],
) -> Iterator[Score]:
    """Error rates of the checkpoint's own head on dev and on each test set, greedy and, if the task
    searches, by beam search.

    Args:
        parts: dev, then the test sets.
    """
    normaliser = transcripts.normaliser
    is_none = normaliser is NONE
    normalised = case_folded if is_none else normaliser.apply
    name = "case-folded" if is_none else normaliser.source
    how = name if is_none else f"normalised ({name})"
    common = {"layer": CTC, "select_by": CER.name, "higher_is_better": False, "excluded": excluded}
    greedy = common | {"head": OWN_HEAD, "chosen": {"decoding": "greedy", "normaliser": name}}
    for part in filter(lambda part: part.rows, parts):
        references = [normalised(item.text) for item in part.rows]
        note = f"its own head, greedy, both sides {how}"
        if is_none:  # a normaliser writes characters of its own
            note += _unwritten(references, features.ctc["alphabet"])
        texts = [normalised(features.of(item).ctc_text or "") for item in part.rows]
        as_scored = Part(part.split, part.domain, part.rows, references, [note])
        yield from error_rates(greedy, as_scored, texts)
    if task.settings.decoding == "greedy":
        return
    if not (head := _head_of(features)):
        return
    dev = parts[0]
    decoding = Decoding(task, head.vocabulary, case_folded)
    reading = decoding.of(head, head.frames(dev), [case_folded(item.text) for item in dev.rows])
    by_beam = common | {
        "head": OWN_HEAD_BEAM,
        "chosen": {**reading.chosen, "normaliser": name},
        "search": reading.search,
    }
    for part in filter(lambda part: part.rows, parts):
        note = f"its own head, beam search, both sides {how}"
        references = [normalised(item.text) for item in part.rows]
        texts = list(map(normalised, reading.transcribe(head.frames(part))))
        as_scored = Part(part.split, part.domain, part.rows, references, [note])
        yield from error_rates(by_beam, as_scored, texts)


def _unwritten(references: Sequence[str], alphabet: str) -> str:
    """A note on characters of the references that the head does not have."""
    known = set(alphabet.casefold())
    unknown = Counter(item for text in references for item in text if item not in known)
    names = listed([repr(item) for item in sorted(unknown)])
    return f"; {unknown.total()} characters that it cannot write: {names}" if unknown else ""


class OwnHead:
    """The head as a beam search takes it, with case-folded symbols.

    Attributes:
        vocabulary: the distinct texts of its symbols; what writes nothing is the blank.
    """

    separator = ""
    metric = f"dev_{CER.name}"

    def __init__(self, features: Features, layer: str, head: np.ndarray) -> None:
        """Takes (symbol, dim + 1) weights over the frames of a layer."""
        self._features, self._layer = features, layer
        self._head = torch.from_numpy(head.copy())
        writes = [text.casefold() for text in features.ctc["writes"]]
        self.vocabulary = Vocabulary(tuple(sorted({*writes} - {""})))
        place = {text: number for number, text in enumerate(("", *self.vocabulary.symbols))}
        self._places = torch.tensor([place[text] for text in writes])
        self.search_: list[dict[str, Any]] = []
        self.chosen_: dict[str, Any] = {}

    def frames(self, part: Part) -> list[np.ndarray]:
        """(frame, dim) of the final output for each utterance."""
        return self._features.whole_rows(self._layer, part.rows)

    def log_probabilities(self, frames: Sequence[np.ndarray]) -> list[Tensor]:
        """(frame, symbol) float32 of each utterance; symbols of one text are added up."""
        weights, bias = self._head[:, :-1], self._head[:, -1]
        scored = []
        for rows in frames:
            logits = torch.from_numpy(rows.astype(np.float32)) @ weights.T + bias
            merged = torch.zeros(len(rows), self.vocabulary.size)
            merged.index_add_(1, self._places, logits.softmax(dim=1))
            scored.append(merged.clamp_min(1e-30).log())
        return scored

    def transcribe(self, frames: Sequence[np.ndarray]) -> list[str]:
        """The greedy text of each utterance."""
        scored = self.log_probabilities(frames)
        return [self.vocabulary.decode_greedy(rows.argmax(dim=1).tolist()) for rows in scored]


def _head_of(features: Features) -> OwnHead | None:
    """The checkpoint's own head; None where the store does not allow it, and the log says why."""
    store = features.store
    head = store.ctc_head
    layer = store.recipe["model"]["aliases"].get(FINAL, FINAL)
    why = ""
    if head is None:
        why = "the store does not hold the head; run `probe extract --ctc` again, which adds it"
    elif layer not in store.layers:
        why = f"the store does not have layer {layer}; extract it"
    elif store.recipe["view"] != "frames":
        why = f"the store has the view {store.recipe['view']}; extract frames"
    elif (width := store.layers[layer]) + 1 != head.shape[1]:
        why = f"the head reads {head.shape[1] - 1} dimensions, and layer {layer} has {width}"
    if why or head is None:
        log.warning("%s: no beam search of the checkpoint's own head: %s", store.path, why)
        return None
    return OwnHead(features, layer, head)
