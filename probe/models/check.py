"""The certificate of a model: its layers, frames, input and independence of batch mates, measured
on this machine.

Every error is the largest difference of any value, relative to the rms of that layer: |a - b| /
rms(b). A layer's frames are compared with those of the same utterance alone (1e-4 allowed), and
with transformers' own preprocessor and ``hidden_states``, a way that shares no code with the hooks
of `probe.models.reference` or with `probe.models.packed` (3e-5 allowed: two orders of summation in
float32 were seen to differ by half of that at true sizes; more where products are less precise).
Inputs are seeded noise of several levels, so the certificate says nothing of a model's quality; it
says that what is written to a store is what the checkpoint computes.

The quick form uses utterances up to a second, the whole one mixes the shortest legal length with 20
s and goes up to 30 s.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probe.environment import package_versions
from probe.errors import listed
from probe.model_names import RANDOM
from probe.models.certificate import FAIL, NOTE, PASS, SKIPPED, Certificate, Finding
from probe.models.encoder import ASSUMED, CTC, PLUGIN, Encoder, device_name, pieces_of
from probe.models.plugins.adapter import Plugin
from probe.models.sources.known import UNUSED, Known, known_models
from probe.store.layer_names import describe_layers

# Largest relative errors: against transformers, the same of a very quiet utterance, and against the
# utterance alone.
ALONE, NORMALISATION, BATCH = 3e-5, 1e-3, 1e-4
# What products of less precision add to that; for random weights a fifth of it was seen with bf16.
ROUNDED = {"fp32": 0.0, "tf32": 0.05, "bf16": 0.5}
LARGEST_FLOAT16 = 65_504.0
# What an encoder declares of itself that a checkpoint opened afresh must declare too.
DECLARED = (
    *("weights_sha256", "family", "layers", "on_request", "aliases", "rate_hz", "normalize"),
    *("grid", "other_grids", "parameters", "settings", "ctc"),
)
ABSURD_WEIGHT = 1e6
# Buffers of BatchNorm that decide values as weights do.
VARIANCE = "running_var"
STATISTICS = ("running_mean", VARIANCE)
# Some weights (sharp attention) amplify the last bits of a sample a thousandfold. Two sound
# implementations then differ by about as much as one of them from itself when samples change by
# this fraction; of so many changes a multiple of the largest is allowed.
LAST_BITS, CHANGES, DRIFTS = 2**-20, 3, 8
# Samples at 16 kHz: what is compared with transformers, mixed in batches, and counted. The first of
# each is the shortest legal one.
COMPARED_SAMPLES = {True: (0, 16_000), False: (0, 719, 16_037, 320_000)}
MIXED_SAMPLES = {True: (0, 719, 16_000), False: (0, 719, 16_000, 33_333, 320_000)}
LONGEST_SAMPLES = {True: 16_000, False: 480_000}

ByAnotherWay = Callable[[Tensor], Mapping[str, Tensor]]  # (time,) -> layer -> (frame, dim)


def check_model(
    encoder: "str | Encoder | Plugin",
    quick: bool = False,
    tick: Callable[[str], Any] = lambda _: None,
) -> Certificate:
    """Measure everything about ``encoder`` that can be measured without knowing its data.

    An encoder may have, beyond the batch contract, ``again()`` (the same checkpoint opened afresh),
    ``by_transformers(wave)`` (layer -> (frame, dim) by another way) and ``final_of(last)`` (the
    final output that follows from the last block's); without them those checks are skipped.

    Args:
        encoder: one that is open, a model's name, or an object that is a plug-in.
        quick: short utterances only, and no second copy of the model.
        tick: called with the name of each check as it begins.
    """
    if not isinstance(encoder, Encoder):
        from probe.models.catalogue import open_model

        encoder = open_model(encoder)
    began = time.monotonic()
    again = None if quick else getattr(encoder, "again", None)
    twin = again() if again else None
    findings: list[Finding] = []
    for check in CHECKS:
        name = check.__name__.strip("_").replace("_", " ")
        tick(name)
        try:
            findings += check(encoder, twin, quick)
        except Exception as error:  # an encoder that breaks its contract may fail in any way
            reason = (str(error) or type(error).__name__).splitlines()[0]
            expected = "frames of every layer, as the batch contract says"
            findings.append(Finding(name, FAIL, reason, expected))
    info = encoder.info
    return Certificate(
        model=info.id,
        revision=info.revision,
        weights_sha256=info.weights_sha256,
        implementation=encoder.implementation,
        precision=encoder.precision,
        quick=quick,
        findings=tuple(findings),
        packages=package_versions(),
        device=device_name(encoder.device),
        seconds=round(time.monotonic() - began, 2),
    )


def _has_long_windows(encoder: Encoder) -> bool:
    """Whether every utterance, however short, costs as much as one of 30 s: the quick form then
    tries less.
    """
    return hasattr(encoder, "window_s")


def _config(encoder: Encoder) -> Any:
    return getattr(getattr(encoder, "model", None), "config", None)


def _by_name(encoder: Encoder) -> Known | None:
    """The catalogue's row of a model's name."""
    return known_models().get(encoder.info.id.removeprefix(RANDOM))


def _by_shape(encoder: Encoder) -> Known | None:
    """The first row of the same family and configuration."""
    for row in known_models().values():
        if row.family == encoder.info.family and not _differing(row, _config(encoder)):
            return row
    return None


def _differing(row: Known, config: Any) -> dict[str, Any]:
    """The entries of a row's configuration that another configuration has otherwise."""
    return {name: at for name, at in row.config().items() if getattr(config, name, None) != at}


# Each check: (encoder, the same checkpoint opened afresh or None, quick) -> findings


def _reopened(encoder: Encoder, twin: Any, _: bool) -> Iterator[Finding]:
    """What the encoder declares, and every weight in memory, against the checkpoint reopened."""
    if twin is None:
        found, expected = "not compared with the checkpoint opened afresh", "the whole form does"
        yield Finding("reopened", SKIPPED, found, f"{expected} where it can")
        return
    odd = [name for name in DECLARED if getattr(encoder.info, name) != getattr(twin.info, name)]
    weights = encoder.model.state_dict()  # type: ignore[attr-defined]
    others = twin.model.state_dict()
    odd += sorted(weights.keys() ^ others.keys())
    odd += [key for key in weights if key in others and not _same(weights[key], others[key])]
    found = f"{len(weights)} arrays of weights and what is declared are equal"
    found = f"differs in {listed(odd, 3)}" if odd else found
    yield Finding.of("reopened", not odd, found, "equal to the checkpoint opened afresh")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two arrays of weights are equal; a NaN is equal to a NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _weights(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    info = encoder.info
    if not info.weights_sha256:
        yield Finding("weights", SKIPPED, "none")
        return
    yield Finding("weights", PASS, f"{info.weights}, sha256 {info.weights_sha256[:12]}...")
    if info.family == PLUGIN:
        yield Finding("keys", SKIPPED, "a plug-in loads its weights by itself")
    else:
        left_out = f"{len(info.left_out) or 'none'} left out"
        left_out += f": {listed(list(info.left_out), 3)}" if info.left_out else ""
        expected = "none of the encoder missing, none of it left out"
        yield Finding("keys", PASS, f"none missing, {left_out}", expected)
    module = getattr(encoder, "model", None)
    if module is None:
        return
    largest, name, broken = 0.0, "", []
    for key, weight in _weights_of(module):
        if not torch.isfinite(weight).all():
            broken.append(key)
        elif weight.numel() and (size := _magnitude(key, weight)) > largest:
            largest, name = size, key
    found = f"NaN or infinite: {listed(broken, 3)}" if broken else ""
    found = found or f"largest {largest:.3g}, in {name}"
    expected = f"finite, below {ABSURD_WEIGHT:g} (a flipped bit is not)"
    is_sound = not broken and largest < ABSURD_WEIGHT
    yield Finding.of("values of weights", is_sound, found, expected)


def _weights_of(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield everything in a module that multiplies or shifts a frame: parameters, and statistics of
    BatchNorm.

    Other buffers are no weights: counters (``num_batches_tracked``) may be of any size and masks of
    attention hold -inf. A vector that is used in training alone may hold anything.
    """
    for key, parameter in module.named_parameters():
        if key.rpartition(".")[2] not in UNUSED:
            yield key, parameter
    for key, buffer in module.named_buffers():
        if key.rpartition(".")[2] in STATISTICS:
            yield key, buffer


def _magnitude(key: str, weight: Tensor) -> float:
    """The largest absolute value of a weight; of variances the largest deviation, as BatchNorm
    divides by that.
    """
    largest = float(weight.detach().abs().max())
    return largest**0.5 if key.endswith(VARIANCE) else largest


def _parameters(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """The number of parameters against the catalogue's; only a certain row of this very name makes
    a difference a failure.
    """
    n_parameters, named = encoder.info.parameters, _by_name(encoder)
    row = named or _by_shape(encoder)
    if not n_parameters:
        yield Finding("parameters", SKIPPED, "none")
    elif row is None:
        expected = "the catalogue has no model of this shape"
        yield Finding("parameters", SKIPPED, f"{n_parameters:,}", expected)
    else:
        expected = f"{row.parameters:,} as {row.model} ({row.certain})"
        otherwise = FAIL if named and named.certain == "yes" else NOTE
        result = PASS if n_parameters == row.parameters else otherwise
        yield Finding("parameters", result, f"{n_parameters:,}", expected)


def _configuration(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """The configuration against the catalogue's: weights fit another number of heads, or another
    place of the LayerNorms, as well.
    """
    row, config = _by_name(encoder), _config(encoder)
    if row is None or config is None:
        yield Finding("configuration", SKIPPED, "not in the catalogue by this name")
        return
    wrong = _differing(row, config)
    found = ", ".join(f"{name} {getattr(config, name, None)}" for name in wrong)
    expected = ", ".join(f"{name} {at}" for name, at in wrong.items()) or "the same"
    yield Finding(
        "configuration",
        NOTE if wrong else PASS,
        found or f"{len(row.config())} sizes and kinds",
        f"{expected} in the catalogue ({row.certain})",
    )


def _input(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """Rate and normalisation as declared against the preprocessor's, which decides, and the
    catalogue's.
    """
    info, row, extractor = encoder.info, _by_name(encoder), getattr(encoder, "extractor", None)
    found = _input_text(info.rate_hz, info.normalize)
    if extractor is None:
        yield Finding("input", SKIPPED, found, "no preprocessor to compare with")
        return
    normalizes = "input_values" in extractor.model_input_names and bool(extractor.do_normalize)
    said = (extractor.sampling_rate, normalizes)
    result, expected = PASS, f"its preprocessor: {_input_text(*said)}"
    if said != (info.rate_hz, info.normalize):
        result = FAIL
    elif ASSUMED in " ".join(info.notes):
        result, expected = NOTE, "a preprocessor_config.json that says so"
    elif info.rate_hz != 16_000:
        result, expected = NOTE, "16000 Hz"
    elif row and normalizes != row.normalize:
        result = NOTE
        expected += f"; the catalogue ({row.certain}): {_input_text(16_000, row.normalize)}"
    yield Finding("input", result, found, expected)


def _input_text(rate_hz: int, normalize: bool) -> str:
    return f"{rate_hz} Hz, {'waveforms normalised' if normalize else 'waveforms as they are'}"


def _layers(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Names, order and widths as declared against what comes out, and against the model's own
    depth.
    """
    info, names = encoder.info, list(encoder.info.every_layer)
    shortest = info.grid.min_samples
    frames, n_frames = _encode(encoder, [_noise(max(16_000, shortest), 0)])
    shapes = {name: tuple(item.shape) for name, item in zip(names, frames, strict=True)}
    counts = dict(zip(names, n_frames[:, 0].tolist(), strict=True))
    faults = []
    if any(shapes[name] != (1, counts[name], width) for name, width in info.every_layer.items()):
        faults.append(f"shapes {shapes} against the declared widths {info.every_layer}")
    short = _batch(encoder, [_noise(shortest, 1)])
    together = dict(zip(names, encoder.encode(*short, names)[0], strict=True))
    is_brief = quick and _has_long_windows(encoder)
    tried = [names[0], names[len(names) // 2], names[-1]] if is_brief else names
    alone = {name: encoder.encode(*short, [name])[0][0] for name in tried}
    if odd := [name for name in alone if not torch.equal(alone[name], together[name])]:
        faults.append(f"layer {listed(odd, 3)} asked for alone is another one")
    faults += _wrong_names(encoder)
    widths = ", ".join(map(str, sorted(set(info.layers.values()))))
    found = "; ".join(faults) or f"{describe_layers(names, info.aliases)}; width {widths}"
    expected = "0 is the input of block 1, i the output of block i"
    yield Finding.of("layers", not faults, found, expected)


def _wrong_names(encoder: Encoder) -> Iterator[str]:
    """What is wrong with the names of an encoder's layers, and with their number."""
    info, row, names = encoder.info, _by_name(encoder), list(encoder.info.every_layer)
    blocks = [name for name in names if name.isdecimal()]
    depth = getattr(_config(encoder), "num_hidden_layers", None)
    first = 1 if depth is None and blocks[:1] == ["1"] else 0
    if blocks != [str(first + index) for index in range(len(blocks))]:
        yield f"names {', '.join(names)}, expected 0, 1, 2 ... without a gap"
    if depth is not None and len(blocks) != depth + 1:
        what = f"the input of the first of {depth} blocks, and each output"
        yield f"{len(blocks)} numbered layers, expected {depth + 1} ({what})"
    if any(layer not in names for layer in info.aliases.values()):
        yield f"aliases {dict(info.aliases)} of layers that are not there"
    if row and (len(blocks) != row.layers + 1 or info.layers[blocks[-1]] != row.width):
        yield f"{row.model} has {row.layers} blocks of width {row.width}"


def _alone(encoder: Encoder, twin: Any, quick: bool) -> Iterator[Finding]:
    """Every layer of utterances alone; and once more very quiet and with an offset, where a missing
    normalisation shows.

    Both with the preprocessor's formula in float64, as ours: in float32 rounding alone can be
    larger than the bound.
    """
    other = getattr(twin or encoder, "by_transformers", None)
    if other is None:
        yield Finding("alone", SKIPPED, "no second implementation to compare with")
        return
    shortest = encoder.info.grid.min_samples
    waves = [_noise(max(samples, shortest), samples) for samples in COMPARED_SAMPLES[quick]]
    yield _compared("alone", encoder, other, waves, ALONE)
    quiet = 0.01 * _noise(16_000, 5) + 0.003
    yield _compared("normalisation", encoder, other, [quiet], NORMALISATION)


def _compared(
    check: str, encoder: Encoder, other: ByAnotherWay, waves: Sequence[Tensor], bound: float
) -> Finding:
    """The worst layer of ``waves``, each alone, against another way to compute it."""
    aliases = encoder.info.aliases
    names = [*encoder.info.every_layer, *aliases, *([CTC] if encoder.info.ctc else [])]
    worst, where, bound = 0.0, "bitwise equal", bound + ROUNDED[encoder.precision]
    limit = bound
    for wave in waves:
        expected = other(wave.to(encoder.device))
        if missing := [name for name in expected if name not in names and name != CTC]:
            every = "every layer that transformers has"
            return Finding(check, FAIL, f"no layer {listed(missing, 3)}", every)
        layers = [aliases.get(name, name) for name in names]
        frames, _ = encoder.encode(*_batch(encoder, [wave]), layers)
        for name, item in zip(names, frames, strict=True):
            error, allowed = _error(item[0], expected[name]), bound
            if not error <= bound:
                allowed = max(bound, _drift(other, wave.to(encoder.device), name))
            if not error / allowed <= worst / limit:
                worst, limit, where = error, allowed, f"layer {name}, {len(wave)} samples"
    level = f" at rms {float(waves[0].square().mean().sqrt()):.1g}" if len(waves) == 1 else ""
    return _bounded(check, worst, where, limit, f"every layer against transformers{level}")


def _drift(other: ByAnotherWay, wave: Tensor, layer: str) -> float:
    """How far apart two sound implementations may be by how far a layer moves when the last bits of
    the samples do.
    """
    noises = [_noise(len(wave), seed).sign().to(wave.device) for seed in range(CHANGES)]
    expected = other(wave)[layer]
    moved = [_error(other(wave * (1 + LAST_BITS * noise))[layer], expected) for noise in noises]
    return DRIFTS * max(moved) if max(moved) < float("inf") else 0.0


def _final(encoder: Encoder, twin: Any, _: bool) -> Iterator[Finding]:
    """``final`` is the model's last output; where that is not layer N, what follows from it: in
    pre-LN models its LayerNorm.
    """
    info, source = encoder.info, twin or encoder
    other, final_of = (getattr(source, name, None) for name in ("by_transformers", "final_of"))
    if other is None or final_of is None:
        yield Finding("final", SKIPPED, "no second implementation to compare with")
        return
    wave = _noise(16_000, 1)
    last = max((name for name in info.layers if name.isdecimal()), key=int)
    final = info.aliases.get("final", "final")
    (of_last,), (of_final,) = encoder.encode(*_batch(encoder, [wave]), [last, final])[0]
    expected = other(wave.to(encoder.device))
    worst, bound = _error(of_final, expected["final"]), ALONE + ROUNDED[encoder.precision]
    if worst > bound:
        bound = max(bound, _drift(other, wave.to(encoder.device), "final"))
    if final == last:
        yield _bounded("final", worst, f"final is layer {last}", bound, "last_hidden_state")
        return
    normed, apart = _error(final_of(of_last, len(of_final)), of_final), _error(of_last, of_final)
    follows = f"what follows layer {last}"
    # Blocks of Conformer end in a LayerNorm, which another one of fresh weights leaves as it is.
    if apart <= ALONE < _error(expected[last], expected["final"]):
        yield Finding("final", FAIL, f"final and layer {last} are the same", f"final is {follows}")
        return
    found = f"on other frames than layer {last}"
    found = f"apart from layer {last} by {apart:.2g}" if len(of_last) == len(of_final) else found
    yield _bounded("final", max(worst, normed), found, bound, f"last_hidden_state = {follows}")


def _frames(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Frames of every length: 1 + (samples - field) // hop, as declared and as they come out."""
    info, grid = encoder.info, encoder.info.grid
    hop, field, shortest = grid.hop_samples, grid.field_samples, grid.min_samples
    longest = max(LONGEST_SAMPLES[quick], shortest)

    def n_expected(n: int) -> int:
        return 1 + (n - field) // hop if n >= shortest else 0

    steps = range((480_000 - field) // hop + 1)
    lengths = {field + step * hop + more for step in steps for more in (-1, 0)}
    lengths = {n for n in lengths if 0 <= n <= 480_000} | {0, 1, shortest - 1, 480_000}
    wrong = [n for n in sorted(lengths) if info.n_frames(n) != n_expected(n)]
    tried = (shortest, shortest + hop - 1, shortest + hop, shortest + 2 * hop, 16_000, longest)
    for n in dict.fromkeys(n for n in tried if shortest <= n <= longest):
        frames, n_frames = _encode(encoder, [_noise(n, n)])
        promised = [info.n_frames(n, layer) for layer in info.every_layer]
        counted = [n_frames.flatten().tolist(), [item.shape[1] for item in frames]]
        if counted != [promised, promised] or info.n_frames(n) != n_expected(n):
            wrong.append(n)
    formula = f"1 + (samples - {field}) // {hop}"
    for other in dict.fromkeys(info.other_grids.values()):
        layers = [name for name in info.every_layer if info.other_grids.get(name) == other]
        formula += f"; {listed(layers)}: 1 + (samples - {other.field_samples})"
        formula += f" // {other.hop_samples}"
    if wrong:
        n = wrong[0]
        frames, _ = _encode(encoder, [_noise(max(n, shortest), n)])
        n_found = frames[len(info.on_request)].shape[1] if n >= shortest else 0
        found = f"{n} samples: {n_found} frames, n_frames says {info.n_frames(n)}"
        yield Finding("frames", FAIL, f"{found}; {len(wrong)} such lengths", formula)
        return
    few = info.n_frames(shortest)
    found = f"{shortest} samples: {few} frame{'s' if few > 1 else ''}, "
    found += f"{longest}: {info.n_frames(longest)}; {len(lengths)} lengths to 480000 counted"
    yield Finding("frames", PASS, found, formula)


def _batches(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Each utterance alone against the same one in batches of several compositions and orders."""
    layers, shortest = list(encoder.info.every_layer), encoder.info.grid.min_samples
    waves = [_noise(max(n, shortest), index) for index, n in enumerate(MIXED_SAMPLES[quick])]
    alone = [[item[0].clone() for item in _encode(encoder, [wave])[0]] for wave in waves]
    every = list(range(len(waves)))
    orders = [every, every[::-1], [every[-1], 0], [1, 1, 2], [0, 0], [0, 1] * 8]
    orders = orders[:2] if quick and _has_long_windows(encoder) else orders
    worst, where, dirty = 0.0, "bitwise equal", 0
    for order in orders:
        frames, n_frames = _encode(encoder, [waves[i] for i in order])
        mates = [len(waves[i]) for i in order]
        for layer, of_layer in enumerate(frames):
            for i, row, count in zip(order, of_layer, n_frames[layer].tolist(), strict=True):
                dirty += int(row[count:].any())
                error = _error(row[:count], alone[i][layer])
                if not error <= worst:
                    worst = error
                    where = f"layer {layers[layer]}, {len(waves[i])} samples among {mates}"
    lengths = ", ".join(str(len(wave)) for wave in waves)
    bound = BATCH if encoder.device.type == "cpu" else BATCH + ROUNDED[encoder.precision]
    expected = f"alone against {len(orders)} batches of {lengths} samples"
    yield _bounded("batches", worst, where, bound, expected)
    if dirty:
        yield Finding("padding", FAIL, f"frames past the length are not 0 in {dirty} rows", "0")


def _values(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """Noise, silence, a click, full scale, an offset: finite everywhere, and how large."""
    n = max(8_000, encoder.info.grid.min_samples)
    click, silence = torch.zeros(n), torch.zeros(n)
    click[n // 2] = 1.0
    square = torch.where(_noise(n, 2) > 0, 1.0, -1.0)
    inputs = {"noise": _noise(n, 3), "silence": silence, "a click": click}
    inputs |= {"full scale": square, "an offset": silence + 0.25}
    largest, where, broken = 0.0, "", []
    for what, wave in inputs.items():
        for name, item in zip(encoder.info.every_layer, _encode(encoder, [wave])[0], strict=True):
            if not torch.isfinite(item).all():
                broken.append(f"layer {name} of {what}")
            elif (size := float(item.abs().max())) >= largest:
                largest, where = size, f"layer {name} of {what}"
    if broken:
        yield Finding("values", FAIL, f"NaN or infinite: {listed(broken, 3)}", "finite")
        return
    fits = largest <= LARGEST_FLOAT16
    found = f"largest {largest:.3g}, {where}"
    found += "" if fits else "; the store keeps such a layer in float32"
    expected = f"finite, float16 holds {LARGEST_FLOAT16:g}"
    yield Finding("values", PASS if fits else NOTE, found, expected)


def _ctc(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """The checkpoint's own CTC head, where it has one."""
    if not (ctc := encoder.info.ctc):
        return
    (scores,), _counts = encoder.encode(*_batch(encoder, [_noise(16_000, 4)]), [CTC])
    n_symbols, n_written = scores.shape[2], len(ctc["writes"])
    found, expected = f"{n_symbols} symbols, alphabet {ctc['alphabet']!r}", f"{n_written} symbols"
    yield Finding.of("CTC head", n_symbols == n_written, found, f"{expected} in its vocabulary")


def _seams(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Long audio, whose attention is cut: layer 0 as uncut, frames at seams nearer to the uncut
    ones than their neighbours are.
    """
    cut, others = encoder.chunking, getattr(encoder, "chunked", None)
    if quick or cut is None or others is None or _has_long_windows(encoder):
        return
    info, grid = encoder.info, encoder.info.grid
    chunk = max(1, round(cut.chunk_s * info.rate_hz / grid.hop_samples))
    n_samples = grid.min_samples + max(int(2.5 * chunk), 20) * grid.hop_samples
    wave = _noise(n_samples, 7).to(encoder.device)
    names = [name for name in info.layers if name not in info.other_grids]
    whole, pieces = (
        [torch.cat(of_layer) for of_layer in zip(*pieces_of(other, [wave], names), strict=True)]
        for other in (others(None), others(replace(cut, above_s=0.0)))
    )
    seams = [row for seam in range(chunk, len(whole[0]) - 2, chunk) for row in (seam - 1, seam)]
    apart = [_error(cut_[seams], whole_[seams]) for cut_, whole_ in zip(pieces, whole, strict=True)]
    neighbours = [
        min(_error(item[[row + step for row in seams]], item[seams]) for step in (-1, 1))
        for item in whole
    ]
    ratios = [one / other for one, other in zip(apart, neighbours, strict=True)]
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    same = len(pieces[0]) == len(whole[0]) and _error(pieces[0], whole[0]) <= ALONE
    found = f"layer {names[worst]}: {apart[worst]:.2g} from the uncut frame, its neighbour "
    found = f"{found}{neighbours[worst]:.2g}" if same else "layer 0 differs"
    expected = "layer 0 as uncut, frames at seams nearer than their neighbours; "
    expected += f"{cut.chunk_s:g} s, {cut.context_s:g} s around"
    yield Finding.of("seams", same and ratios[worst] < 1, found, expected)


CHECKS: tuple[Callable[[Encoder, Any, bool], Iterator[Finding]], ...] = (
    *(_weights, _reopened, _parameters, _configuration, _input, _layers, _alone, _final),
    *(_frames, _batches, _values, _ctc, _seams),
)


def _noise(n_samples: int, seed: int) -> Tensor:
    """(n_samples,) seeded noise whose level rises and falls as speech does, with a small offset."""
    generator = torch.Generator().manual_seed(1000 + seed)
    time_s = torch.arange(n_samples) / 16_000
    level = 0.1 * (1.1 + torch.sin(2 * torch.pi * 3.0 * time_s))
    return level * torch.randn(n_samples, generator=generator) + 0.01


def _batch(encoder: Encoder, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Waveforms of one batch, loud garbage where nothing may be read, and their lengths."""
    pad = torch.nn.utils.rnn.pad_sequence
    padded = pad(list(waves), batch_first=True, padding_value=77.0)
    return padded.to(encoder.device), torch.tensor([len(wave) for wave in waves])


def _encode(encoder: Encoder, waves: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Every layer of a batch.

    Raises:
        ValueError: what comes back is not of the batch contract's form.
    """
    n_layers, n_waves = len(encoder.info.every_layer), len(waves)
    frames, n_frames = encoder.encode(*_batch(encoder, waves), list(encoder.info.every_layer))
    shapes, found = [tuple(item.shape) for item in frames], ""
    if len(shapes) != n_layers or any(len(shape) != 3 or shape[0] != n_waves for shape in shapes):
        found = f"frames of shapes {listed(list(map(str, shapes)), 3)}"
    elif tuple(n_frames.shape) != (n_layers, n_waves):
        found = f"frame counts of shape {tuple(n_frames.shape)}"
    if found:
        raise ValueError(f"{n_waves} utterances, {n_layers} layers: {found}")
    return frames, n_frames


def _error(found: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the rms of what is expected; infinite where the shapes
    differ or a value is NaN.
    """
    if found.shape != expected.shape:
        return float("inf")
    difference = float((found - expected).abs().max()) if found.numel() else 0.0
    rms = float(expected.square().mean().sqrt()) if found.numel() else 1.0
    error = difference / rms if rms > 0 else difference
    return error if error == error else float("inf")


def _bounded(check: str, worst: float, where: str, bound: float, expected: str) -> Finding:
    return Finding.of(check, worst <= bound, f"{worst:.1e} ({where})", f"{expected}: <= {bound:g}")
