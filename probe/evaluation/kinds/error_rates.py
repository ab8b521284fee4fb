"""Error rates of transcripts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from probe.evaluation.dataset import Score, block_of
from probe.evaluation.kinds.transcripts import Part
from probe.measures.counts import ratio_counts
from probe.measures.metrics import CER, PER, WER
from probe.measures.transcription import character_errors, word_errors

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
