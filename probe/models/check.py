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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from probe.brief import brief
from probe.environment import package_versions
from probe.errors import listed
from probe.model_names import RANDOM
from probe.models.encoder import ASSUMED, CTC, PLUGIN, Encoder, device_name, pieces_of
from probe.models.plugins.adapter import Plugin
from probe.models.sources.known import UNUSED, Known, known_models
from probe.store.layer_names import describe_layers

PASS, FAIL, NOTE, SKIPPED = "pass", "FAIL", "note", "skipped"
# Largest relative errors: against transformers, the same of a very quiet utterance, and against the
# utterance alone.
ALONE, NORMALISATION, BATCH = 3e-5, 1e-3, 1e-4
# What products of less precision add to that; for random weights a fifth of it was seen with bf16.
ROUNDED = {"fp32": 0.0, "tf32": 0.05, "bf16": 0.5}
LARGEST_FLOAT16 = 65_504.0
# What an encoder declares of itself that a checkpoint opened afresh must declare too.
ENCODED = (
    *(
        "weights_sha256",
        "family",
        "layers",
        "on_request",
        "aliases",
        "rate_hz",
        "normalize",
        "grid",
    ),
    *("other_grids", "parameters", "settings", "ctc"),
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


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        result: ``pass``, ``FAIL``, ``note`` (worth knowing, no fault) or ``skipped`` (nothing to
            compare with).
        found, expected: in words and figures.
    """

    check: str
    result: str
    found: str
    expected: str = ""


@dataclass(frozen=True)
class Certificate:
    """What `check_model` found about one model on one machine.

    Attributes:
        model, revision, weights_sha256, implementation, precision: what was checked.
        quick: whether it is the short form.
        findings: one per check.
        packages, device: what it was computed with.
        seconds: wall time.
    """

    model: str
    revision: str
    weights_sha256: str
    implementation: str
    precision: str
    quick: bool
    findings: tuple[Finding, ...]
    packages: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    seconds: float = 0.0

    def __repr__(self) -> str:
        return brief(self, self.model, self.summary())

    @property
    def failed(self) -> list[Finding]:
        """The checks that failed."""
        return [finding for finding in self.findings if finding.result == FAIL]

    def summary(self) -> str:
        """One line for people."""
        counts = Counter(finding.result for finding in self.findings)
        words = {FAIL: "FAILED", PASS: "passed", NOTE: "noted", SKIPPED: "skipped"}
        outcome = ", ".join(
            f"{counts[result]} {word}" for result, word in words.items() if counts[result]
        )
        return f"{'quick check' if self.quick else 'check'}: {outcome}, in {self.seconds:.1f} s on {self.device}"

    def as_json(self) -> dict[str, Any]:
        """Plain values, as they stand beside a store's recipe; without the time it took, so that
        equal outcomes are equal bytes.
        """
        return {name: value for name, value in asdict(self).items() if name != "seconds"} | {
            "passed": not self.failed
        }


def check_model(
    encoder: "str | Encoder | Plugin",
    quick: bool = False,
    tick: Callable[[str], Any] = lambda _: None,
) -> Certificate:
    """Everything about ``encoder`` that can be measured without knowing its data.

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
        tick(check.__name__.strip("_").replace("_", " "))
        try:
            findings += check(encoder, twin, quick)
        except Exception as error:  # an encoder that breaks its contract may fail in any way; that is a finding, not a crash
            name = check.__name__.strip("_").replace("_", " ")
            reason = (str(error) or type(error).__name__).splitlines()[0]
            findings.append(
                Finding(name, FAIL, reason, "frames of every layer, as the batch contract says")
            )
    info = encoder.info
    return Certificate(
        info.id,
        info.revision,
        info.weights_sha256,
        encoder.implementation,
        encoder.precision,
        quick,
        tuple(findings),
        package_versions(),
        device_name(encoder.device),
        round(time.monotonic() - began, 2),
    )


def _hears_windows(encoder: Encoder) -> bool:
    """Whether every utterance, however short, costs as much as one of 30 s: the quick form then
    tries less.
    """
    return hasattr(encoder, "window_s")


def _by_name(encoder: Encoder) -> Known | None:
    """The catalogue's row of a model's name."""
    return known_models().get(encoder.info.id.removeprefix(RANDOM))


def _by_shape(encoder: Encoder) -> Known | None:
    """The first row of the same family and configuration."""
    config = getattr(getattr(encoder, "model", None), "config", None)
    alike = (row for row in known_models().values() if row.family == encoder.info.family)
    return next(
        (
            row
            for row in alike
            if all(getattr(config, name, None) == at for name, at in row.config().items())
        ),
        None,
    )


# Each check: (encoder, the same checkpoint opened afresh or None, quick) -> findings


def _reopened(encoder: Encoder, twin: Any, _: bool) -> Iterator[Finding]:
    """What the encoder declares, and every weight in memory, against the checkpoint opened afresh."""
    if twin is None:
        yield Finding(
            "reopened",
            SKIPPED,
            "not compared with the checkpoint opened afresh",
            "the whole form does where it can",
        )
        return
    fields = [name for name in ENCODED if getattr(encoder.info, name) != getattr(twin.info, name)]
    here, there = encoder.model.state_dict(), twin.model.state_dict()  # type: ignore[attr-defined]
    fields += sorted(
        name for name in here.keys() | there.keys() if name not in here or name not in there
    )
    fields += [name for name in here.keys() & there.keys() if not _same(here[name], there[name])]
    found = (
        f"differs in {listed(fields, 3)}"
        if fields
        else f"{len(here)} arrays of weights and what is declared are equal"
    )
    yield Finding(
        "reopened", FAIL if fields else PASS, found, "equal to the checkpoint opened afresh"
    )


def _weights(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    info = encoder.info
    if not info.weights_sha256:
        yield Finding("weights", SKIPPED, "none")
        return
    yield Finding("weights", PASS, f"{info.weights}, sha256 {info.weights_sha256[:12]}...")
    left_out = (
        f"{len(info.left_out)} left out: {listed(list(info.left_out), 3)}"
        if info.left_out
        else "none left out"
    )
    if info.family == PLUGIN:
        yield Finding("keys", SKIPPED, "a plug-in loads its weights by itself")
    else:
        yield Finding(
            "keys",
            PASS,
            f"none missing, {left_out}",
            "none of the encoder missing, none of it left out",
        )
    module = getattr(encoder, "model", None)
    if module is None:
        return
    largest, name, broken = 0.0, "", []
    for key, weight in _weights_of(module):
        if not torch.isfinite(weight).all():
            broken.append(key)
        elif weight.numel() and (size := _magnitude(key, weight)) > largest:
            largest, name = size, key
    found = (
        f"NaN or infinite: {listed(list(broken), 3)}"
        if broken
        else f"largest {largest:.3g}, in {name}"
    )
    sound = not broken and largest < ABSURD_WEIGHT
    yield Finding(
        "values of weights",
        PASS if sound else FAIL,
        found,
        f"finite, below {ABSURD_WEIGHT:g} (a flipped bit is not)",
    )


def _weights_of(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and values of everything in a module that multiplies or shifts a frame: parameters, and
    statistics of BatchNorm.

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


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two arrays of weights are equal; a NaN is equal to a NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _parameters(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """The number of parameters against the catalogue's; only a certain row of this very name makes
    a difference a failure.
    """
    info, named = encoder.info, _by_name(encoder)
    row = named or _by_shape(encoder)
    if not info.parameters:
        yield Finding("parameters", SKIPPED, "none")
    elif row is None:
        yield Finding(
            "parameters",
            SKIPPED,
            f"{info.parameters:,}",
            "the catalogue has no model of this shape",
        )
    else:
        as_said = info.parameters == row.parameters
        result = PASS if as_said else FAIL if named and named.certain == "yes" else NOTE
        yield Finding(
            "parameters",
            result,
            f"{info.parameters:,}",
            f"{row.parameters:,} as {row.model} ({row.certain})",
        )


def _configuration(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """The configuration against the catalogue's: weights fit another number of heads, or another
    place of the LayerNorms, as well.
    """
    row, config = _by_name(encoder), getattr(getattr(encoder, "model", None), "config", None)
    if row is None or config is None:
        yield Finding("configuration", SKIPPED, "not in the catalogue by this name")
        return
    there = {name: getattr(config, name, None) for name in row.config()}
    wrong = {name: at for name, at in row.config().items() if there[name] != at}
    found = ", ".join(f"{name} {there[name]}" for name in wrong) or f"{len(there)} sizes and kinds"
    expected = ", ".join(f"{name} {at}" for name, at in wrong.items()) or "the same"
    yield Finding(
        "configuration",
        NOTE if wrong else PASS,
        found,
        f"{expected} in the catalogue ({row.certain})",
    )


def _input(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """Rate and normalisation as declared against the preprocessor's, which decides, and the
    catalogue's.
    """
    info, row, extractor = encoder.info, _by_name(encoder), getattr(encoder, "extractor", None)
    found = f"{info.rate_hz} Hz, {_normalised(info.normalize)}"
    if extractor is None:
        yield Finding("input", SKIPPED, found, "no preprocessor to compare with")
        return
    normalizes = "input_values" in extractor.model_input_names and bool(extractor.do_normalize)
    said = (extractor.sampling_rate, normalizes)
    result, expected = PASS, f"its preprocessor: {said[0]} Hz, {_normalised(said[1])}"
    if said != (info.rate_hz, info.normalize):
        result = FAIL
    elif ASSUMED in " ".join(info.notes) or info.rate_hz != 16_000:
        result, expected = (
            NOTE,
            "a preprocessor_config.json that says so"
            if ASSUMED in " ".join(info.notes)
            else "16000 Hz",
        )
    elif row and said != (16_000, row.normalize):
        result, expected = (
            NOTE,
            f"{expected}; the catalogue ({row.certain}): 16000 Hz, {_normalised(row.normalize)}",
        )
    yield Finding("input", result, found, expected)


def _layers(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Names, order and widths as declared against what comes out, and against the model's own
    depth.
    """
    info = encoder.info
    names = list(info.every_layer)
    frames, n_frames = _encode(encoder, [_noise(max(16_000, info.grid.min_samples), 0)])
    shapes = {name: tuple(item.shape) for name, item in zip(names, frames, strict=True)}
    right = all(
        shapes[name] == (1, int(n_frames[i, 0]), info.every_layer[name])
        for i, name in enumerate(names)
    )
    faults = [] if right else [f"shapes {shapes} against the declared widths {info.every_layer}"]
    short = _batch(encoder, [_noise(info.grid.min_samples, 1)])
    together = dict(zip(names, encoder.encode(*short, names)[0], strict=True))
    asked = (
        [names[0], names[len(names) // 2], names[-1]]
        if quick and _hears_windows(encoder)
        else names
    )
    single = [
        name
        for name in asked
        if not torch.equal(encoder.encode(*short, [name])[0][0], together[name])
    ]
    if single:
        faults.append(f"layer {listed(single, 3)} asked for alone is another one")
    blocks = [name for name in names if name.isdecimal()]
    depth = getattr(
        getattr(getattr(encoder, "model", None), "config", None), "num_hidden_layers", None
    )
    first = 1 if depth is None and blocks[:1] == ["1"] else 0
    if blocks != [str(first + index) for index in range(len(blocks))]:
        faults.append(f"names {', '.join(names)}, expected 0, 1, 2 ... without a gap")
    if depth is not None and len(blocks) != depth + 1:
        faults.append(
            f"{len(blocks)} numbered layers, expected {depth + 1} (the input of the first of {depth} blocks, and each output)"
        )
    if any(layer not in names for layer in info.aliases.values()):
        faults.append(f"aliases {dict(info.aliases)} of layers that are not there")
    row = _by_name(encoder)
    if row and (len(blocks) != row.layers + 1 or info.layers[blocks[-1]] != row.width):
        faults.append(f"{row.model} has {row.layers} blocks of width {row.width}")
    widths = ", ".join(map(str, sorted(set(info.layers.values()))))
    found = "; ".join(faults) or f"{describe_layers(names, info.aliases)}; width {widths}"
    yield Finding(
        "layers",
        FAIL if faults else PASS,
        found,
        "0 is the input of block 1, i the output of block i",
    )


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
    check: str,
    encoder: Encoder,
    other: Callable[[Tensor], Mapping[str, Tensor]],
    waves: Sequence[Tensor],
    bound: float,
) -> Finding:
    """The worst layer of ``waves``, each alone, against another way to compute it."""
    aliases = encoder.info.aliases
    names = [*encoder.info.every_layer, *aliases, *([CTC] if encoder.info.ctc else [])]
    worst, where, bound = 0.0, "bitwise equal", bound + ROUNDED[encoder.precision]
    limit = bound
    for wave in waves:
        expected = other(wave.to(encoder.device))
        if missing := [name for name in expected if name not in names and name != CTC]:
            return Finding(
                check, FAIL, f"no layer {listed(missing, 3)}", "every layer that transformers has"
            )
        frames, _ = encoder.encode(
            *_batch(encoder, [wave]), [aliases.get(name, name) for name in names]
        )
        for name, item in zip(names, frames, strict=True):
            error = _error(item[0], expected[name])
            allowed = (
                bound
                if error <= bound
                else max(bound, _drift(other, wave.to(encoder.device), name))
            )
            if not error / allowed <= worst / limit:
                worst, limit, where = error, allowed, f"layer {name}, {len(wave)} samples"
    level = f" at rms {float(waves[0].square().mean().sqrt()):.1g}" if len(waves) == 1 else ""
    return _bounded(check, worst, where, limit, f"every layer against transformers{level}")


def _drift(other: Callable[[Tensor], Mapping[str, Tensor]], wave: Tensor, layer: str) -> float:
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
    info = encoder.info
    other, final_of = (
        getattr(twin or encoder, "by_transformers", None),
        getattr(twin or encoder, "final_of", None),
    )
    if other is None or final_of is None:
        yield Finding("final", SKIPPED, "no second implementation to compare with")
        return
    wave = _noise(16_000, 1)
    last = max((name for name in info.layers if name.isdecimal()), key=int)
    final = info.aliases.get("final", "final")
    (of_last,), (of_final,) = encoder.encode(*_batch(encoder, [wave]), [last, final])[0]
    there = other(wave.to(encoder.device))
    worst, bound = _error(of_final, there["final"]), ALONE + ROUNDED[encoder.precision]
    if worst > bound:
        bound = max(bound, _drift(other, wave.to(encoder.device), "final"))
    if final == last:
        yield _bounded("final", worst, f"final is layer {last}", bound, "last_hidden_state")
        return
    normed, apart = _error(final_of(of_last, len(of_final)), of_final), _error(of_last, of_final)
    # Blocks of Conformer end in a LayerNorm, which another one of fresh weights leaves as it is.
    if apart <= ALONE < _error(there[last], there["final"]):
        yield Finding(
            "final",
            FAIL,
            f"final and layer {last} are the same",
            f"final is what follows layer {last}",
        )
        return
    found = (
        f"apart from layer {last} by {apart:.2g}"
        if len(of_last) == len(of_final)
        else f"on other frames than layer {last}"
    )
    expected = f"last_hidden_state = what follows layer {last}"
    yield _bounded("final", max(worst, normed), found, bound, expected)


def _frames(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Frames of every length: 1 + (samples - field) // hop, as declared and as they come out."""
    info = encoder.info
    shortest, longest = info.grid.min_samples, max(LONGEST_SAMPLES[quick], info.grid.min_samples)
    hop, field = info.grid.hop_samples, info.grid.field_samples
    lengths = {
        field + k * hop + step for k in range((480_000 - field) // hop + 1) for step in (-1, 0)
    }
    lengths = {n for n in lengths if 0 <= n <= 480_000} | {0, 1, shortest - 1, 480_000}
    wrong = [
        n
        for n in sorted(lengths)
        if info.n_frames(n) != (1 + (n - field) // hop if n >= shortest else 0)
    ]
    run = [
        n
        for n in (shortest, shortest + hop - 1, shortest + hop, shortest + 2 * hop, 16_000, longest)
        if shortest <= n <= longest
    ]
    for n in dict.fromkeys(run):
        frames, n_frames = _encode(encoder, [_noise(n, n)])
        promised = [info.n_frames(n, layer) for layer in info.every_layer]
        counted = [n_frames.flatten().tolist(), [item.shape[1] for item in frames]]
        if counted != [promised, promised] or info.n_frames(n) != 1 + (n - field) // hop:
            wrong.append(n)
    formula = f"1 + (samples - {field}) // {hop}"
    for grid in dict.fromkeys(info.other_grids.values()):
        layers = [name for name in info.every_layer if info.other_grids.get(name) == grid]
        formula += f"; {listed(layers)}: 1 + (samples - {grid.field_samples}) // {grid.hop_samples}"
    if wrong:
        n = wrong[0]
        frames, _ = _encode(encoder, [_noise(max(n, shortest), n)])
        n_found = frames[len(info.on_request)].shape[1] if n >= shortest else 0
        found = f"{n} samples: {n_found} frames, n_frames says {info.n_frames(n)}"
        yield Finding("frames", FAIL, f"{found}; {len(wrong)} such lengths", formula)
    else:
        few = info.n_frames(shortest)
        ends = f"{shortest} samples: {few} frame{'s' if few > 1 else ''}, {longest}: {info.n_frames(longest)}"
        yield Finding("frames", PASS, f"{ends}; {len(lengths)} lengths to 480000 counted", formula)


def _batches(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Each utterance alone against the same one in batches of several compositions and orders."""
    waves = [
        _noise(max(n, encoder.info.grid.min_samples), index)
        for index, n in enumerate(MIXED_SAMPLES[quick])
    ]
    alone = [[item[0].clone() for item in _encode(encoder, [wave])[0]] for wave in waves]
    every = list(range(len(waves)))
    orders = [every, every[::-1], [every[-1], 0], [1, 1, 2], [0, 0], [0, 1] * 8]
    orders = orders[:2] if quick and _hears_windows(encoder) else orders
    worst, where, dirty = 0.0, "bitwise equal", 0
    for order in orders:
        frames, n_frames = _encode(encoder, [waves[i] for i in order])
        for name, of_layer, counts in zip(
            encoder.info.every_layer, frames, n_frames.tolist(), strict=True
        ):
            for i, row, count in zip(order, of_layer, counts, strict=True):
                reference = alone[i][list(encoder.info.every_layer).index(name)]
                dirty += int(row[count:].any())
                error = _error(row[:count], reference)
                if not error <= worst:
                    worst, where = (
                        error,
                        f"layer {name}, {len(waves[i])} samples among {[len(waves[j]) for j in order]}",
                    )
    lengths = ", ".join(str(len(wave)) for wave in waves)
    bound = BATCH if encoder.device.type == "cpu" else BATCH + ROUNDED[encoder.precision]
    yield _bounded(
        "batches", worst, where, bound, f"alone against {len(orders)} batches of {lengths} samples"
    )
    if dirty:
        yield Finding("padding", FAIL, f"frames past the length are not 0 in {dirty} rows", "0")


def _values(encoder: Encoder, _twin: Any, _: bool) -> Iterator[Finding]:
    """Noise, silence, a click, full scale, an offset: finite everywhere, and how large."""
    n = max(8_000, encoder.info.grid.min_samples)
    click, silence = torch.zeros(n), torch.zeros(n)
    click[n // 2] = 1.0
    square = torch.where(_noise(n, 2) > 0, 1.0, -1.0)
    inputs = {
        "noise": _noise(n, 3),
        "silence": silence,
        "a click": click,
        "full scale": square,
        "an offset": silence + 0.25,
    }
    largest, where, broken = 0.0, "", []
    for what, wave in inputs.items():
        for name, item in zip(encoder.info.every_layer, _encode(encoder, [wave])[0], strict=True):
            if not torch.isfinite(item).all():
                broken.append(f"layer {name} of {what}")
            elif (size := float(item.abs().max())) >= largest:
                largest, where = size, f"layer {name} of {what}"
    if broken:
        yield Finding("values", FAIL, f"NaN or infinite: {listed(list(broken), 3)}", "finite")
        return
    fits: bool = largest <= LARGEST_FLOAT16
    expected = f"finite, float16 holds {LARGEST_FLOAT16:g}"
    kept = "" if fits else "; the store keeps such a layer in float32"
    yield Finding(
        "values", PASS if fits else NOTE, f"largest {largest:.3g}, {where}{kept}", expected
    )


def _ctc(encoder: Encoder, twin: Any, _: bool) -> Iterator[Finding]:
    """The checkpoint's own CTC head, where it has one."""
    ctc = encoder.info.ctc
    if not ctc:
        return
    frames, _counts = encoder.encode(*_batch(encoder, [_noise(16_000, 4)]), [CTC])
    n_symbols, n_written = frames[0].shape[2], len(ctc["writes"])
    found = f"{n_symbols} symbols, alphabet {ctc['alphabet']!r}"
    yield Finding(
        "CTC head",
        PASS if n_symbols == n_written else FAIL,
        found,
        f"{n_written} symbols in its vocabulary",
    )


def _seams(encoder: Encoder, _twin: Any, quick: bool) -> Iterator[Finding]:
    """Long audio, whose attention is cut: layer 0 as uncut, frames at seams nearer to the uncut
    ones than their neighbours are.
    """
    cut, others = encoder.chunking, getattr(encoder, "chunked", None)
    if quick or cut is None or others is None or _hears_windows(encoder):
        return
    info = encoder.info
    chunk = max(1, round(cut.chunk_s * info.rate_hz / info.grid.hop_samples))
    wave = _noise(info.grid.min_samples + max(int(2.5 * chunk), 20) * info.grid.hop_samples, 7).to(
        encoder.device
    )
    names = [name for name in info.layers if name not in info.other_grids]
    whole, pieces = (
        [torch.cat(of_layer) for of_layer in zip(*pieces_of(other, [wave], names), strict=True)]
        for other in (others(None), others(replace(cut, above_s=0.0)))
    )
    seams = [row for seam in range(chunk, len(whole[0]) - 2, chunk) for row in (seam - 1, seam)]
    apart = [_error(cut_[seams], whole_[seams]) for cut_, whole_ in zip(pieces, whole, strict=True)]
    beside = [
        min(_error(item[[row + step for row in seams]], item[seams]) for step in (-1, 1))
        for item in whole
    ]
    ratios = [one / other for one, other in zip(apart, beside, strict=True)]
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    same = len(pieces[0]) == len(whole[0]) and _error(pieces[0], whole[0]) <= ALONE
    found = f"layer {names[worst]}: {apart[worst]:.2g} from the uncut frame, its neighbour {beside[worst]:.2g}"
    text = f"layer 0 as uncut, frames at seams nearer than their neighbours; {cut.chunk_s:g} s, {cut.context_s:g} s around"
    yield Finding(
        "seams",
        PASS if same and ratios[worst] < 1 else FAIL,
        found if same else "layer 0 differs",
        text,
    )


CHECKS: tuple[Callable[[Encoder, Any, bool], Iterator[Finding]], ...] = (
    *(_weights, _reopened, _parameters, _configuration, _input, _layers, _alone, _final),
    *(_frames, _batches, _values, _ctc, _seams),
)


def _noise(n_samples: int, seed: int) -> Tensor:
    """(n_samples,) seeded noise whose level rises and falls as speech does, with a small offset."""
    generator = torch.Generator().manual_seed(1000 + seed)
    time_s = torch.arange(n_samples) / 16_000
    return (
        0.1
        * (1.1 + torch.sin(2 * torch.pi * 3.0 * time_s))
        * torch.randn(n_samples, generator=generator)
        + 0.01
    )


def _batch(encoder: Encoder, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Waveforms of one batch, loud garbage where nothing may be read, and their lengths."""
    longest = max(len(wave) for wave in waves)
    padded = torch.full((len(waves), longest), 77.0)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    return padded.to(encoder.device), torch.tensor([len(wave) for wave in waves])


def _encode(encoder: Encoder, waves: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Every layer of a batch.

    Raises:
        ValueError: what comes back is not of the batch contract's form.
    """
    frames, n_frames = encoder.encode(*_batch(encoder, waves), list(encoder.info.every_layer))
    n_layers, n_waves = len(encoder.info.every_layer), len(waves)
    shapes = [tuple(item.shape) for item in frames]
    if len(shapes) != n_layers or any(len(shape) != 3 or shape[0] != n_waves for shape in shapes):
        raise ValueError(
            f"{n_waves} utterances, {n_layers} layers: frames of shapes {listed([str(item) for item in shapes], 3)}"
        )
    if tuple(n_frames.shape) != (n_layers, n_waves):
        raise ValueError(
            f"{n_waves} utterances, {n_layers} layers: frame counts of shape {tuple(n_frames.shape)}"
        )
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
    return Finding(
        check,
        PASS if worst <= bound else FAIL,
        f"{worst:.1e} ({where})",
        f"{expected}: <= {bound:g}",
    )


def _normalised(normalize: bool) -> str:
    return "waveforms normalised" if normalize else "waveforms as they are"
