"""Extraction on the workers of an engine.

A job plans the stores of a model, and then there is a job for each shard. A worker keeps its model
open. It writes its shards with `probe.extraction.extract`, as a run with ``--shard`` does, so the
stores are the same.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probe.data.conditions.condition import Condition, Disturbance
from probe.data.corpus import Corpus
from probe.engines.engine import Engine
from probe.engines.share import Part, Share
from probe.extraction.extract import Extraction, extract, open_encoder
from probe.extraction.settings import Extracting, Storing
from probe.model_names import ModelName
from probe.models.encoder import Encoder

log = logging.getLogger("probe")

# A worker plans anew for each batch, so batches are large; what a worker had finished of its batch
# is not done again when it ends.
MOST_SHARDS = 16


@dataclass(frozen=True)
class Step:
    """One store that a command writes; it takes no settings from a store of another model."""

    encoder: Encoder
    condition: Condition | Disturbance | str
    storing: Storing


@dataclass(frozen=True)
class EachCondition:
    """The stores of a model under several conditions, as `Extractions.steps`."""

    conditions: Sequence[Condition | str]
    extracting: Extracting

    def __call__(self, model: ModelName) -> list[Step]:
        """Open the model, and list the stores to write."""
        encoder = open_encoder(model, self.extracting.running)
        return [Step(encoder, item, self.extracting.storing) for item in self.conditions]


@dataclass(frozen=True)
class Plans:
    """The job that plans all stores of a model."""

    model: ModelName

    def __str__(self) -> str:
        return f"{self.model.name}: plan"


@dataclass(frozen=True)
class Shard:
    """The job that writes a shard of the store that is made by step ``number`` of a model."""

    model: ModelName
    number: int
    store: Path
    name: str

    def __str__(self) -> str:
        return f"{self.store}/{self.name}"


@dataclass(frozen=True)
class Extractions:
    """The stores of several models, as `probe.engines.engine.Work`.

    Attributes:
        steps: opens a model, and lists the stores to write; raises `ProbeError` if that cannot be.
        to: the folder of all stores.
    """

    steps: Callable[[ModelName], Sequence[Step]]
    corpus: Corpus
    to: Path
    extracting: Extracting

    def open(self) -> "_Extractor":
        """Return what does several jobs."""
        return _Extractor(self)

    def extract(self, step: Step, dry_run: bool = False) -> Extraction:
        """Write one store."""
        return extract(
            step.encoder,
            self.corpus,
            self.to,
            condition=step.condition,
            storing=step.storing,
            running=self.extracting.running,
            decoding=self.extracting.decoding,
            dry_run=dry_run,
        )


class _Extractor:
    """Does jobs, and keeps the model of the last one open."""

    def __init__(self, work: Extractions) -> None:
        self._work = work
        self._model: ModelName | None = None
        self._steps: Sequence[Step] = ()

    def __call__(self, jobs: Sequence[Plans | Shard]) -> list[Any]:
        """Return the results in order: of plans, one `Extraction` for each store; of shards, the
        `Extraction` of all shards of a store with the first of them, and None with the others.
        """
        results: dict[Plans | Shard, Any] = dict.fromkeys(jobs)
        shards: dict[tuple[ModelName, int], list[Shard]] = {}
        for job in jobs:
            if isinstance(job, Shard):
                shards.setdefault((job.model, job.number), []).append(job)
            else:
                share = self._work.extracting.storing.share
                assert isinstance(share, Share)
                planned = Part(names=None, share=share)
                results[job] = [self._extract(step, planned) for step in self._of(job.model)]
        for (model, number), of_store in shards.items():
            part = Part(frozenset(job.name for job in of_store))
            results[of_store[0]] = self._extract(self._of(model)[number], part)
        return [results[job] for job in jobs]

    def _of(self, model: ModelName) -> Sequence[Step]:
        if model != self._model:
            self._model, self._steps = None, ()  # frees the model before
            self._steps = self._work.steps(model)
            self._model = model
        return self._steps

    def _extract(self, step: Step, part: Part) -> Extraction:
        return self._work.extract(replace(step, storing=replace(step.storing, share=part)))


@dataclass
class OfModel:
    """What came of a model: its stores, and what could not be done."""

    extractions: list[Extraction] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def extract_on(
    engine: Engine, work: Extractions, models: Sequence[ModelName], stop: bool = False
) -> dict[ModelName, OfModel]:
    """Write the stores of several models on the workers of an engine.

    Args:
        stop: whether to raise the first error that a job raises, not to list it.

    Raises:
        ProbeError: see ``stop`` and `probe.engines.engine.Engine.run`.
    """
    started = time.monotonic()
    done = {model: OfModel() for model in models}

    def results(jobs: Sequence[Plans | Shard], most: int, title: str) -> Iterator[tuple[Any, Any]]:
        for outcome in engine.run(work, jobs, most, title):
            if outcome.error is None:
                yield outcome.job, outcome.result
            elif stop and outcome.is_refusal:
                raise outcome.error
            else:
                done[outcome.job.model].problems.append(f"{outcome.job}: {outcome.error}")

    shards: list[Plans | Shard] = []
    for job, extractions in results([Plans(model) for model in models], 1, "plan"):
        done[job.model].extractions = extractions
        for number, item in enumerate(extractions):
            log.info("%s: %s", item.store, item.plan.describe())
            shards += [Shard(job.model, number, item.store, name) for name in item.shards]
    for job, extraction in results(shards, MOST_SHARDS, "extract"):
        if extraction is not None:
            extractions = done[job.model].extractions
            extractions[job.number] = _sum(extractions[job.number], extraction, started)
    for of_model in done.values():
        for extraction in of_model.extractions:
            extraction.log_sound()
    return done


def _sum(first: Extraction, second: Extraction, started: float) -> Extraction:
    """Both extractions of a store, with the plan of the first."""
    failures = {failure.key: failure for failure in (*first.failures, *second.failures)}
    return replace(
        first,
        failures=list(failures.values()),
        extracted=first.extracted + second.extracted,
        resampled=Counter(first.resampled) + Counter(second.resampled),
        flagged=Counter(first.flagged) + Counter(second.flagged),
        rate_hz=second.rate_hz,
        seconds=time.monotonic() - started,
    )
