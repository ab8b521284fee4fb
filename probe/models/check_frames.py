"""Checks of the frames that a model computes: layers, counts, values, and batch independence.

Every error is the largest difference of any value, relative to the rms of that layer: |a - b| /
rms(b). A layer's frames are compared with those of the same utterance alone (1e-4 allowed), and
with transformers' own preprocessor and ``hidden_states``, a way that shares no code with the hooks
of `probe.models.reference` or with `probe.models.packed` (3e-5 allowed: two orders of summation in
float32 were seen to differ by half of that at true sizes; more where products are less precise).

Each check takes the encoder, the same checkpoint opened afresh (None: there is none), and whether
it is the quick form.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probe.errors import listed
from probe.models.certificate import FAIL, NOTE, PASS, SKIPPED, Finding
from probe.models.check_declared import config_of, row_of
from probe.models.encoder import CTC, Encoder, pieces_of
from probe.store.layer_names import describe_layers

# Largest relative errors: against transformers, the same of a very quiet utterance, and against the
# utterance alone.
ALONE, NORMALISATION, BATCH = 3e-5, 1e-3, 1e-4
# What products of less precision add to that; for random weights a fifth of it was seen with bf16.
ROUNDED = {"fp32": 0.0, "tf32": 0.05, "bf16": 0.5}
LARGEST_FLOAT16 = 65_504.0
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


def _has_long_windows(encoder: Encoder) -> bool:
    """Whether every utterance, however short, costs as much as one of 30 s: the quick form then
    tries less.
    """
    return hasattr(encoder, "window_s")


def check_layers(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Names, order and widths as declared against what comes out, and against the model's own
    depth.
    """
    info, names = encoder.info, list(encoder.info.every_layer)
    shortest = info.grid.min_samples
    frames, n_frames = encode(encoder, [noise(max(16_000, shortest), 0)])
    shapes = {name: tuple(item.shape) for name, item in zip(names, frames, strict=True)}
    counts = dict(zip(names, n_frames[:, 0].tolist(), strict=True))
    faults = []
    if any(shapes[name] != (1, counts[name], width) for name, width in info.every_layer.items()):
        faults.append(f"shapes {shapes} against the declared widths {info.every_layer}")
    short = batch_of(encoder, [noise(shortest, 1)])
    together = dict(zip(names, encoder.encode(*short, names)[0], strict=True))
    is_brief = quick and _has_long_windows(encoder)
    sample = [names[0], names[len(names) // 2], names[-1]] if is_brief else names
    alone = {name: encoder.encode(*short, [name])[0][0] for name in sample}
    if others := [name for name in alone if not torch.equal(alone[name], together[name])]:
        faults.append(f"layer {listed(others, 3)} differs when it is the only layer requested")
    faults += _wrong_names(encoder)
    widths = ", ".join(map(str, sorted(set(info.layers.values()))))
    text = "; ".join(faults) or f"{describe_layers(names, info.aliases)}; width {widths}"
    expected = "0 is the input of block 1, i the output of block i"
    yield Finding.of("layers", not faults, text, expected)


def _wrong_names(encoder: Encoder) -> Iterator[str]:
    """What is wrong with the names of an encoder's layers, and with their number."""
    info, row, names = encoder.info, row_of(encoder), list(encoder.info.every_layer)
    blocks = [name for name in names if name.isdecimal()]
    depth = getattr(config_of(encoder), "num_hidden_layers", None)
    first = 1 if depth is None and blocks[:1] == ["1"] else 0
    if blocks != [str(first + index) for index in range(len(blocks))]:
        yield f"names {', '.join(names)}, expected 0, 1, 2 ... without a gap"
    if depth is not None and len(blocks) != depth + 1:
        what = f"the input of the first of {depth} blocks, and each output"
        yield f"{len(blocks)} numbered layers, expected {depth + 1} ({what})"
    if any(layer not in names for layer in info.aliases.values()):
        yield f"aliases {dict(info.aliases)} of layers that do not exist"
    if row and (len(blocks) != row.layers + 1 or info.layers[blocks[-1]] != row.width):
        yield f"{row.model} has {row.layers} blocks of width {row.width}"


def check_alone(encoder: Encoder, twin: Any, quick: bool) -> Iterator[Finding]:
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
    waves = [noise(max(samples, shortest), samples) for samples in COMPARED_SAMPLES[quick]]
    yield compare("alone", encoder, other, waves, ALONE)
    quiet = 0.01 * noise(16_000, 5) + 0.003
    yield compare("normalisation", encoder, other, [quiet], NORMALISATION)


def compare(
    check: str, encoder: Encoder, other: ByAnotherWay, waves: Sequence[Tensor], bound: float
) -> Finding:
    """The worst layer of ``waves``, each alone, against another way to compute it."""
    aliases = encoder.info.aliases
    names = [*encoder.info.every_layer, *aliases, *([CTC] if encoder.info.ctc else [])]
    worst, where, bound = 0.0, "bitwise equal", bound + ROUNDED[encoder.precision]
    limit = bound
    for wave in waves:
        expected = other(wave.to(encoder.device))
        if absentees := [name for name in expected if name not in names and name != CTC]:
            every = "every layer that transformers has"
            return Finding(check, FAIL, f"no layer {listed(absentees, 3)}", every)
        layers = [aliases.get(name, name) for name in names]
        frames, _ = encoder.encode(*batch_of(encoder, [wave]), layers)
        for name, item in zip(names, frames, strict=True):
            error, allowed = error_of(item[0], expected[name]), bound
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
    noises = [noise(len(wave), seed).sign().to(wave.device) for seed in range(CHANGES)]
    expected = other(wave)[layer]
    moved = [error_of(other(wave * (1 + LAST_BITS * noise))[layer], expected) for noise in noises]
    return DRIFTS * max(moved) if max(moved) < float("inf") else 0.0


def check_final(encoder: Encoder, twin: Any, _: bool) -> Iterator[Finding]:
    """``final`` is the model's last output; where that is not layer N, what follows from it: in
    pre-LN models its LayerNorm.
    """
    info, source = encoder.info, twin or encoder
    other, final_of = (getattr(source, name, None) for name in ("by_transformers", "final_of"))
    if other is None or final_of is None:
        yield Finding("final", SKIPPED, "no second implementation to compare with")
        return
    wave = noise(16_000, 1)
    last = max((name for name in info.layers if name.isdecimal()), key=int)
    final = info.aliases.get("final", "final")
    (of_last,), (of_final,) = encoder.encode(*batch_of(encoder, [wave]), [last, final])[0]
    expected = other(wave.to(encoder.device))
    worst, bound = error_of(of_final, expected["final"]), ALONE + ROUNDED[encoder.precision]
    if worst > bound:
        bound = max(bound, _drift(other, wave.to(encoder.device), "final"))
    if final == last:
        yield _bounded("final", worst, f"final is layer {last}", bound, "last_hidden_state")
        return
    normed, apart = (
        error_of(final_of(of_last, len(of_final)), of_final),
        error_of(of_last, of_final),
    )
    follows = f"what follows layer {last}"
    # Blocks of Conformer end in a LayerNorm, which another one of fresh weights leaves as it is.
    if apart <= ALONE < error_of(expected[last], expected["final"]):
        yield Finding("final", FAIL, f"final and layer {last} are the same", f"final is {follows}")
        return
    text = f"on other frames than layer {last}"
    if len(of_last) == len(of_final):
        text = f"apart from layer {last} by {apart:.2g}"
    yield _bounded("final", max(worst, normed), text, bound, f"last_hidden_state = {follows}")


def check_frames(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
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
    trials = (shortest, shortest + hop - 1, shortest + hop, shortest + 2 * hop, 16_000, longest)
    for n in dict.fromkeys(n for n in trials if shortest <= n <= longest):
        frames, counts = encode(encoder, [noise(n, n)])
        expected = [info.n_frames(n, layer) for layer in info.every_layer]
        lengths_of_layers = [item.shape[1] for item in frames]
        is_right = counts.flatten().tolist() == lengths_of_layers == expected
        if not is_right or info.n_frames(n) != n_expected(n):
            wrong.append(n)
    formula = f"1 + (samples - {field}) // {hop}"
    for other in dict.fromkeys(info.other_grids.values()):
        layers = [name for name in info.every_layer if info.other_grids.get(name) == other]
        formula += f"; {listed(layers)}: 1 + (samples - {other.field_samples})"
        formula += f" // {other.hop_samples}"
    if wrong:
        n = wrong[0]
        frames, _ = encode(encoder, [noise(max(n, shortest), n)])
        n_frames = frames[len(info.on_request)].shape[1] if n >= shortest else 0
        text = f"{n} samples: {n_frames} frames, n_frames says {info.n_frames(n)}"
        yield Finding("frames", FAIL, f"{text}; {len(wrong)} such lengths", formula)
        return
    few = info.n_frames(shortest)
    text = f"{shortest} samples: {few} frame{'s' if few > 1 else ''}, "
    text += f"{longest}: {info.n_frames(longest)}; {len(lengths)} lengths to 480000 counted"
    yield Finding("frames", PASS, text, formula)


def check_batches(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Each utterance alone against the same one in batches of several compositions and orders."""
    layers, shortest = list(encoder.info.every_layer), encoder.info.grid.min_samples
    waves = [noise(max(n, shortest), index) for index, n in enumerate(MIXED_SAMPLES[quick])]
    alone = [[item[0].clone() for item in encode(encoder, [wave])[0]] for wave in waves]
    every = list(range(len(waves)))
    orders = [every, every[::-1], [every[-1], 0], [1, 1, 2], [0, 0], [0, 1] * 8]
    orders = orders[:2] if quick and _has_long_windows(encoder) else orders
    worst, where, dirty = 0.0, "bitwise equal", 0
    for order in orders:
        frames, n_frames = encode(encoder, [waves[i] for i in order])
        mates = [len(waves[i]) for i in order]
        for layer, of_layer in enumerate(frames):
            for i, row, count in zip(order, of_layer, n_frames[layer].tolist(), strict=True):
                dirty += int(row[count:].any())
                error = error_of(row[:count], alone[i][layer])
                if not error <= worst:
                    worst = error
                    where = f"layer {layers[layer]}, {len(waves[i])} samples among {mates}"
    lengths = ", ".join(str(len(wave)) for wave in waves)
    bound = BATCH if encoder.device.type == "cpu" else BATCH + ROUNDED[encoder.precision]
    expected = f"alone against {len(orders)} batches of {lengths} samples"
    yield _bounded("batches", worst, where, bound, expected)
    if dirty:
        yield Finding("padding", FAIL, f"frames past the length are not 0 in {dirty} rows", "0")


def check_values(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """Noise, silence, a click, full scale, an offset: finite everywhere, and how large."""
    n = max(8_000, encoder.info.grid.min_samples)
    click, silence = torch.zeros(n), torch.zeros(n)
    click[n // 2] = 1.0
    square = torch.where(noise(n, 2) > 0, 1.0, -1.0)
    inputs = {"noise": noise(n, 3), "silence": silence, "a click": click}
    inputs |= {"full scale": square, "an offset": silence + 0.25}
    largest, where, faults = 0.0, "", []
    for what, wave in inputs.items():
        for name, item in zip(encoder.info.every_layer, encode(encoder, [wave])[0], strict=True):
            if not torch.isfinite(item).all():
                faults.append(f"layer {name} of {what}")
            elif (size := float(item.abs().max())) >= largest:
                largest, where = size, f"layer {name} of {what}"
    if faults:
        yield Finding("values", FAIL, f"NaN or infinite: {listed(faults, 3)}", "finite")
        return
    fits = largest <= LARGEST_FLOAT16
    text = f"largest {largest:.3g}, {where}"
    text += "" if fits else "; the store keeps such a layer in float32"
    expected = f"finite, float16 holds {LARGEST_FLOAT16:g}"
    yield Finding("values", PASS if fits else NOTE, text, expected)


def check_ctc(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """The checkpoint's own CTC head, where it has one."""
    if not (ctc := encoder.info.ctc):
        return
    (scores,), _counts = encoder.encode(*batch_of(encoder, [noise(16_000, 4)]), [CTC])
    n_symbols, n_expected = scores.shape[2], len(ctc["writes"])
    text = f"{n_symbols} symbols, alphabet {ctc['alphabet']!r}"
    expected = f"{n_expected} symbols in its vocabulary"
    yield Finding.of("CTC head", n_symbols == n_expected, text, expected)


def check_seams(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Long audio, whose attention is cut: layer 0 as uncut, frames at seams nearer to the uncut
    ones than their neighbours are.
    """
    cut, others = encoder.chunking, getattr(encoder, "chunked", None)
    if quick or cut is None or others is None or _has_long_windows(encoder):
        return
    info, grid = encoder.info, encoder.info.grid
    chunk = max(1, round(cut.chunk_s * info.rate_hz / grid.hop_samples))
    n_samples = grid.min_samples + max(int(2.5 * chunk), 20) * grid.hop_samples
    wave = noise(n_samples, 7).to(encoder.device)
    names = [name for name in info.layers if name not in info.other_grids]
    whole, pieces = (
        [torch.cat(of_layer) for of_layer in zip(*pieces_of(other, [wave], names), strict=True)]
        for other in (others(None), others(replace(cut, above_s=0.0)))
    )
    seams = [row for seam in range(chunk, len(whole[0]) - 2, chunk) for row in (seam - 1, seam)]
    errors = [
        error_of(piece[seams], item[seams]) for piece, item in zip(pieces, whole, strict=True)
    ]
    neighbours = [
        min(error_of(item[[row + step for row in seams]], item[seams]) for step in (-1, 1))
        for item in whole
    ]
    ratios = [error / distance for error, distance in zip(errors, neighbours, strict=True)]
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    same = len(pieces[0]) == len(whole[0]) and error_of(pieces[0], whole[0]) <= ALONE
    text = "layer 0 differs"
    if same:
        text = f"layer {names[worst]}: {errors[worst]:.2g} from the uncut frame, its neighbour "
        text += f"{neighbours[worst]:.2g}"
    expected = "layer 0 as uncut, frames at seams nearer than their neighbours; "
    expected += f"{cut.chunk_s:g} s, {cut.context_s:g} s around"
    yield Finding.of("seams", same and ratios[worst] < 1, text, expected)


def noise(n_samples: int, seed: int) -> Tensor:
    """(n_samples,) seeded noise whose level rises and falls as speech does, with a small offset."""
    generator = torch.Generator().manual_seed(1000 + seed)
    time_s = torch.arange(n_samples) / 16_000
    level = 0.1 * (1.1 + torch.sin(2 * torch.pi * 3.0 * time_s))
    return level * torch.randn(n_samples, generator=generator) + 0.01


def batch_of(encoder: Encoder, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Waveforms of one batch, loud garbage where nothing may be read, and their lengths."""
    pad = torch.nn.utils.rnn.pad_sequence
    batch = pad(list(waves), batch_first=True, padding_value=77.0)
    return batch.to(encoder.device), torch.tensor([len(wave) for wave in waves])


def encode(encoder: Encoder, waves: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Every layer of a batch.

    Raises:
        ValueError: what comes back is not of the batch contract's form.
    """
    n_layers, n_waves = len(encoder.info.every_layer), len(waves)
    frames, n_frames = encoder.encode(*batch_of(encoder, waves), list(encoder.info.every_layer))
    shapes, fault = [tuple(item.shape) for item in frames], ""
    if len(shapes) != n_layers or any(len(shape) != 3 or shape[0] != n_waves for shape in shapes):
        fault = f"frames of shapes {listed(list(map(str, shapes)), 3)}"
    elif tuple(n_frames.shape) != (n_layers, n_waves):
        fault = f"frame counts of shape {tuple(n_frames.shape)}"
    if fault:
        raise ValueError(f"{n_waves} utterances, {n_layers} layers: {fault}")
    return frames, n_frames


def error_of(frames: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the rms of the expected frames; infinite where the shapes
    differ or a value is NaN.
    """
    if frames.shape != expected.shape:
        return float("inf")
    difference = float((frames - expected).abs().max()) if frames.numel() else 0.0
    rms = float(expected.square().mean().sqrt()) if frames.numel() else 1.0
    error = difference / rms if rms > 0 else difference
    return error if error == error else float("inf")


def _bounded(check: str, worst: float, where: str, bound: float, expected: str) -> Finding:
    return Finding.of(check, worst <= bound, f"{worst:.1e} ({where})", f"{expected}: <= {bound:g}")
