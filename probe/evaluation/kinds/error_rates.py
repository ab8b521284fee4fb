"""Error rates of transcripts: those of trained heads, and of a checkpoint's own CTC head."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from probe.data.text_normalisers import NONE, Normaliser
from probe.errors import listed
from probe.evaluation.dataset import Features, Score, block_of
from probe.evaluation.kinds.transcripts import Part
from probe.measures.counts import ratio_counts
from probe.measures.metrics import CER, PER, WER
from probe.measures.transcription import case_folded, character_errors, word_errors
from probe.models.encoder import CTC
from probe.records import OWN_HEAD

Metrics = dict[str, Callable[[str, str], tuple[int, int]]]
TEXT_METRICS: Metrics = {WER.name: word_errors, CER.name: character_errors}
PHONE_METRICS: Metrics = {PER.name: word_errors}  # phones stand in a text as words do


def error_rates(
    common: dict[str, Any], part: Part, texts: Sequence[str], note: str = ""
) -> Iterator[Score]:
    """Error rates of transcripts; scores without value where there are no utterances."""
    metrics = PHONE_METRICS if common["select_by"] == PER.name else TEXT_METRICS
    common = {**common, "split": part.split, "test_domain": part.domain, "n": len(part.rows)}
    if not part.rows:
        yield from (
            Score(**common, metric=metric, counts=None, note="no rows with text")
            for metric in metrics
        )
        return
    blocks = [block_of(item) for item in part.rows]
    outcomes = [
        {"key": item.key, "reference": reference, "hypothesis": text}
        for item, reference, text in zip(part.rows, part.texts, texts, strict=True)
    ]
    notes = "; ".join(filter(None, [*part.notes, note]))
    for metric, count in metrics.items():
        errors, units = zip(
            *(count(reference, text) for reference, text in zip(part.texts, texts, strict=True)),
            strict=True,
        )
        yield Score(
            **common,
            metric=metric,
            counts=ratio_counts(blocks, errors, units),
            note=notes,
            outcomes=outcomes,
        )


def own_head_rates(
    features: Features, parts: Sequence[Part], normaliser: Normaliser, excluded: dict[str, int]
) -> Iterator[Score]:
    """The greedy transcripts that the checkpoint's own CTC head gave at extraction: a reference,
    nothing is trained here. Without a normaliser both sides are case-folded.
    """
    is_none = normaliser is NONE
    normalised = case_folded if is_none else normaliser.apply
    name = "case-folded" if is_none else normaliser.source
    how = name if is_none else f"normalised ({name})"
    alphabet = set(features.ctc["alphabet"].casefold())
    common = {
        "layer": CTC,
        "head": OWN_HEAD,
        "select_by": CER.name,
        "higher_is_better": False,
        "chosen": {"decoding": "greedy", "normaliser": name},
        "excluded": excluded,
    }
    for part in parts:
        if not part.rows:
            continue
        references = [normalised(item.text) for item in part.rows]
        unknown = Counter(
            character for text in references for character in text if character not in alphabet
        )
        note = f"its own head, greedy, both sides {how}"
        if unknown and is_none:  # a normaliser writes characters of its own
            note += (
                f"; {sum(unknown.values())} characters that it cannot write: "
                f"{listed([repr(item) for item in sorted(unknown)])}"
            )
        texts = [normalised(features.of(item).ctc_text or "") for item in part.rows]
        yield from error_rates(
            common, Part(part.split, part.domain, part.rows, references, [note]), texts
        )
