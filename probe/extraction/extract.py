"""Audio -> features of every layer, one forward pass an utterance, shard after shard."""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from probe.data import audio
from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.data.decoder import TIMEOUT_S, Decoder
from probe.environment import code_version, package_versions
from probe.errors import ProbeError, UsageError, UtteranceError, listed
from probe.extraction.plan import VALUE_BYTES, Plan, human_bytes, make_plan
from probe.files import file_name, read_json
from probe.models.catalogue import open_model
from probe.models.check import check_model
from probe.models.encoder import CTC, Encoder, device_name, greedy_text
from probe.store.features import Failure, FeatureStore, Job
from probe.store.folder import create_store, store_path
from probe.store.layers import choose_layers
from probe.store.shards import ShardContent
from probe.store.views import parse_view, pool

log = logging.getLogger("probe")

DECODED_AHEAD = 8
COMPRESSIONS = ("none", "gzip")


@dataclass(frozen=True)
class Extraction:
    """What a run did.

    Attributes:
        store: folder of the store, which may not exist after a dry run.
        plan: what there was to do.
        failures: every utterance of the corpus without features, of this run and of earlier ones.
        extracted: utterances extracted by this run.
        resampled: rate in Hz -> utterances of this run whose audio had that rate and not the model's.
        seconds: wall time of the extraction itself.
    """

    store: Path
    plan: Plan
    failures: list[Failure]
    extracted: int
    seconds: float
    resampled: Mapping[int, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The store and the plan in plain values, for JSON."""
        return {
            "store": str(self.store),
            "utterances": len(self.plan.todo),
            "present": self.plan.present,
            "failed_before": len(self.plan.failed),
            "hours": round(self.plan.audio_s / 3600, 4),
            "frames": self.plan.n_frames,
            "bytes": self.plan.n_bytes,
            "free_bytes": self.plan.free_bytes,
            "extracted": self.extracted,
            "resampled": {str(rate_hz): n for rate_hz, n in self.resampled.items()},
            "failures": {failure.key: failure.reason for failure in self.failures},
        }


def extract(
    model: str | Encoder,
    corpus: str | Path | Corpus,
    to: str | Path,
    *,
    layers: str | None = None,
    view: str = "frames",
    dtype: str = "float16",
    compression: str = "none",
    device: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    requested: str | None = None,
    ctc: bool = False,
    check: bool = True,
    sha256: str | None = None,
    audio_root: str | Path | None = None,
    isolate_decode: bool = False,
    decode_timeout_s: float = TIMEOUT_S,
    implementation: str = "packed",
    precision: str = "fp32",
) -> Extraction:
    """Writes what is missing of a corpus' features into the store of this model, view and recipe beneath ``to``.

    Args:
        model: a name (see `probe.models.catalogue`) or an encoder that is open.
        corpus: a manifest, ``librispeech:ROOT#subsets``, or a corpus that is loaded.
        to: the folder of all stores.
        layers: such as ``0-12,final``; all where None.
        view: ``frames``, ``frames:k``, ``segments:n``, ``mean`` or ``meanstd`` (`probe.store.views`).
        dtype: ``float16`` (float32 for a layer that it would bend), ``float32``, ``int8`` (with a scale per row: an error of at
            most a 254th of the row's largest value).
        compression: ``none``, or ``gzip`` with shuffling: smaller and slower.
        limit: at most so many utterances of each split.
        dry_run: only the plan.
        requested: the name under which an open encoder was asked for; its own where None.
        ctc: also runs the checkpoint's own CTC head and keeps its greedy transcript of every utterance.
        check: runs the short form of `probe.models.check` before the first utterance, unless these weights passed it here before.
        sha256: what the weights must have; only together with a name.
        audio_root: the folder that all audio must lie in, with symbolic links resolved.
        isolate_decode: decodes in a child process, so that a crash of the decoder costs one utterance.
        decode_timeout_s: for decoding one file; an utterance that takes longer has failed.
        implementation, precision: see `probe.models.catalogue.open_model`; only together with a name.

    Returns:
        What was done; its ``failures`` name the utterances that could not be used.

    Raises:
        ProbeError: the corpus, the model or the disk will not do, the model fails its check or has no CTC head, or another run
            writes into the store.
    """
    parse_view(view)
    if dtype not in VALUE_BYTES or compression not in COMPRESSIONS:
        raise UsageError(
            f"dtype {dtype!r}, compression {compression!r}: expected one of {', '.join(VALUE_BYTES)}, and of "
            f"{', '.join(COMPRESSIONS)}."
        )
    corpus = (corpus if isinstance(corpus, Corpus) else load_corpus(corpus, audio_root)).limited(limit)
    encoder = open_model(model, device, sha256, implementation, precision) if isinstance(model, str) else model
    requested = requested or (model if isinstance(model, str) else encoder.info.id)
    for note in encoder.info.notes:
        log.info("%s: %s", requested, note)
    names = choose_layers(layers, list(encoder.info.layers), encoder.info.aliases, encoder.info.id)
    if ctc and not encoder.info.ctc:
        why = next((note for note in encoder.info.notes if "CTC head" in note), "its class has none")
        raise ProbeError(
            f"{requested}: no CTC head can be run ({why}). Leave --ctc out, or name a fine-tuned checkpoint, such as those of "
            "`probe models` with CTC under what they were trained on."
        )
    recipe = recipe_of(encoder, names, view, ctc, dtype, compression)
    root = Path(to)
    decoder = Decoder(None if audio_root is None else Path(audio_root), isolate_decode, decode_timeout_s)
    if dry_run:
        path = store_path(root, recipe)
        store = FeatureStore(path) if (path / "recipe.json").exists() else None
        with decoder:
            plan = make_plan(corpus, encoder, names, view, dtype, store, root, decoder.header_duration_s)
        return Extraction(path, plan, [], 0, 0.0)
    if check:
        certificate = _certified(root, encoder)
    store = create_store(root, requested, recipe, environment_of(encoder))
    if check and store.certificate != certificate:
        store.write_certificate(certificate)
    with decoder:
        return _run(store, corpus, encoder, names, view, root, decoder)


def recipe_of(
    encoder: Encoder, layers: Sequence[str], view: str, ctc: bool = False, dtype: str = "float16", compression: str = "none"
) -> dict[str, Any]:
    """Everything that decides a stored value, as it is hashed."""
    info = encoder.info
    model = {
        "id": info.id,
        "revision": info.revision,
        "weights_sha256": info.weights_sha256,
        "family": info.family,
        "aliases": dict(info.aliases),
        "rate_hz": info.rate_hz,
        "hop_samples": info.hop_samples,
        "normalize": info.normalize,
        "settings": dict(info.settings),
    }
    recipe = {
        "model": model,
        "layers": [[name, info.layers[name]] for name in layers],
        "view": view,
        "condition": "clean",
        "audio": dict(audio.SETTINGS),
        "implementation": encoder.implementation,
        "precision": encoder.precision,
        "dtype": dtype,
        "chunking": None,
    }
    recipe |= {"ctc": dict(info.ctc)} if ctc else {}
    return recipe | ({"compression": compression} if compression != "none" else {})


def _certified(root: Path, encoder: Encoder) -> dict[str, Any]:
    """The certificate of an encoder: one that a store of it beneath ``root`` has from the same libraries and device, or a new one.

    Raises:
        ProbeError: the model fails its check.
    """
    now = {
        "weights_sha256": encoder.info.weights_sha256,
        "implementation": encoder.implementation,
        "precision": encoder.precision,
        "packages": package_versions(),
        "device": device_name(encoder.device),
    }
    before = [read_json(path) for path in sorted((root / file_name(encoder.info.id)).glob("*/certificate.json"))]
    for there in sorted(before, key=lambda item: item["quick"]):
        if there["passed"] and all(there.get(name) == value for name, value in now.items()):
            return there
    certificate = check_model(encoder, quick=True)
    log.info("%s: %s", encoder.info.id, certificate.summary())
    if certificate.failed:
        failures = "".join(f"\n  {item.check}: {item.found}; expected {item.expected}" for item in certificate.failed)
        raise ProbeError(
            f"{encoder.info.id}: its features cannot be trusted, {len(certificate.failed)} checks failed:{failures}\n"
            "`probe check` shows all of them; --no-check extracts nevertheless."
        )
    return certificate.as_json()


def environment_of(encoder: Encoder) -> dict[str, Any]:
    """What a store is computed with besides its recipe; a difference warns and extracts nothing again."""
    return {
        "packages": package_versions(),
        "code": code_version()["version"],
        "device": device_name(encoder.device),
        "threads": torch.get_num_threads(),
    }


def _run(
    store: FeatureStore, corpus: Corpus, encoder: Encoder, layers: Sequence[str], view: str, root: Path, decoder: Decoder
) -> Extraction:
    with store.writing():
        store.refresh()
        plan = make_plan(corpus, encoder, layers, view, store.recipe["dtype"], store, root, decoder.header_duration_s)
        if plan.n_bytes > plan.free_bytes:
            fitting = plan.describe_choices(plan.free_bytes)
            raise ProbeError(
                f"{store.path}: about {human_bytes(plan.n_bytes)} to write, {human_bytes(plan.free_bytes)} free. "
                f"{'What would fit: ' + listed(fitting, 4) if fitting else 'No view of it would fit; name another disk'}."
            )
        _warn_of_other_environment(store, encoder)
        log.info("%s: %s", store.path, plan.describe())
        started = time.monotonic()
        jobs = plan.pending + (store.add_plan(plan.fresh) if plan.fresh else [])
        failures = list(plan.failed)
        utterances = {item.key: item for item in plan.todo}
        resampled: Counter[int] = Counter()
        flagged: Counter[str] = Counter()
        audio_of = _decode_ahead([utterances[key] for job in jobs for key in job.keys], encoder.info.rate_hz, decoder)
        with tqdm(total=round(plan.audio_s, 1), unit="audio-s", desc=encoder.info.id, disable=None if plan.todo else True) as bar:
            for job in jobs:
                failures += _extract_job(store, job, audio_of, encoder, layers, view, corpus, bar, resampled, flagged)
                bar.set_postfix(failed=len(failures))
        extracted = len(plan.todo) - (len(failures) - len(plan.failed))
        for rate_hz, n in sorted(resampled.items()):
            lost = f"; nothing above {rate_hz // 2} Hz is in them" if rate_hz < encoder.info.rate_hz else ""
            log.info("%d utterances resampled from %d to %d Hz%s", n, rate_hz, encoder.info.rate_hz, lost)
        if flagged:
            counts = ", ".join(f"{flag} {n}" for flag, n in sorted(flagged.items()))
            log.info("%s: unusual sound, extracted nevertheless: %s (`probe show` names them)", store.path, counts)
        return Extraction(store.path, plan, failures, extracted, time.monotonic() - started, resampled)


def _extract_job(
    store: FeatureStore,
    job: Job,
    audio_of: Iterator[tuple[Utterance, audio.Audio | Failure]],
    encoder: Encoder,
    layers: Sequence[str],
    view: str,
    corpus: Corpus,
    bar: tqdm,
    resampled: Counter[int],
    flagged: Counter[str],
) -> list[Failure]:
    """Extracts one job's utterances and writes its shards; returns its failures and counts what was resampled or sounds unusual."""
    ctc = "ctc" in store.recipe
    done: list[tuple[Utterance, audio.Audio, int, list[np.ndarray]]] = []
    texts: list[str] = []
    failures: list[Failure] = []
    for _ in job.keys:
        utterance, sound = next(audio_of)
        if isinstance(sound, audio.Audio):
            try:
                frames, text = _frames(encoder, sound.samples, layers, ctc)
                done.append((utterance, sound, len(frames[0]), [pool(item, view) for item in frames]))
                texts.append(text)
                flagged.update(sound.flags)
                if sound.native_rate_hz != encoder.info.rate_hz:
                    resampled[sound.native_rate_hz] += 1
            except UtteranceError as error:
                failures.append(Failure(utterance.key, str(error), sound.file_bytes, sound.mtime_ns, utterance.duration_s))
            bar.update(min(sound.duration_s, max(0.0, bar.total - bar.n)))
        else:
            failures.append(sound)
    for failure in failures:
        log.warning("%s: %s", failure.key, failure.reason)
    names = job.shard_names()
    for part, name in enumerate(names):
        rows = [_part(arrays[0], part, job.parts) for _, _, _, arrays in done]
        content = ShardContent(
            keys=[utterance.key for utterance, *_ in done],
            audio_sha256=[sound.sha256 for _, sound, *_ in done],
            frames={
                layer: [arrays[i][span] for (*_, arrays), span in zip(done, rows, strict=True)] for i, layer in enumerate(layers)
            },
            columns={column: [utterance.label(column) for utterance, *_ in done] for column in corpus.columns},
            recipe=store.recipe,
            environment=environment_of(encoder),
            part=(part, job.parts),
            ctc_texts=texts if ctc else None,
        )
        index = [
            {
                "key": utterance.key,
                "audio_sha256": sound.sha256,
                "audio_bytes": sound.file_bytes,
                "audio_mtime_ns": sound.mtime_ns,
                "duration_s": sound.duration_s,
                "native_rate_hz": sound.native_rate_hz,
                "flags": list(sound.flags),
                "n_frames": n_frames,
                "rows": span.stop - span.start,
            }
            | ({"ctc_text": text} if ctc else {})
            for (utterance, sound, n_frames, _), span, text in zip(done, rows, texts, strict=True)
        ]
        store.write_shard(name, content, index, failures)
    return failures


def _part(rows: np.ndarray, part: int, parts: int) -> slice:
    """The range of rows that belongs to one of ``parts`` equal parts."""
    return slice(part * len(rows) // parts, (part + 1) * len(rows) // parts)


def _frames(encoder: Encoder, samples: np.ndarray, layers: Sequence[str], ctc: bool) -> tuple[list[np.ndarray], str]:
    """One (frame, dim) float32 array per layer, and what the CTC head reads (nothing where it is not run).

    Raises:
        UtteranceError: too short for a frame, or non-finite features.
    """
    info = encoder.info
    if len(samples) < info.min_samples:
        raise UtteranceError(
            f"too short: {len(samples)} samples at {info.rate_hz} Hz ({len(samples) / info.rate_hz:.4f} s); "
            f"{info.id} needs at least {info.min_samples}"
        )
    waveforms = torch.from_numpy(samples)[None].to(encoder.device)
    frames, _ = encoder.encode(waveforms, torch.tensor([len(samples)]), [*layers, CTC] if ctc else layers)
    text = greedy_text(frames.pop()[0], encoder.info.ctc["writes"]) if ctc else ""
    arrays = [item[0].cpu().numpy() for item in frames]
    for name, array in zip(layers, arrays, strict=True):
        if not np.isfinite(array).all():
            raise UtteranceError(f"layer {name} of {info.id} gives NaN or infinite values")
    return arrays, text


def _decode_ahead(
    utterances: Sequence[Utterance], rate_hz: int, decoder: Decoder
) -> Iterator[tuple[Utterance, audio.Audio | Failure]]:
    """Each utterance's audio, or why there is none, in order, decoded by a thread a few files ahead."""

    def decode(utterance: Utterance) -> audio.Audio | Failure:
        try:
            return decoder.load(utterance.path, rate_hz, utterance.duration_s)
        except UtteranceError as error:
            n_bytes, mtime_ns = _seen(utterance.path)
            unreadable = isinstance(error.__cause__, OSError) and mtime_ns != -1
            return Failure(utterance.key, str(error), n_bytes, mtime_ns, utterance.duration_s, unreadable)

    with ThreadPoolExecutor(max_workers=1) as pool_of_one:
        ahead: deque[tuple[Utterance, Future]] = deque()
        for utterance in utterances:
            ahead.append((utterance, pool_of_one.submit(decode, utterance)))
            if len(ahead) > DECODED_AHEAD:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()


def _seen(path: Path) -> tuple[int, int]:
    """A file's size and time of change; -1 each where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _warn_of_other_environment(store: FeatureStore, encoder: Encoder) -> None:
    """Says what differs from the environment the store was begun in."""
    before, now = store.environment, environment_of(encoder)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            log.warning("%s was begun with %s %s; now it is %s", store.path, name, before.get(name), now.get(name))
