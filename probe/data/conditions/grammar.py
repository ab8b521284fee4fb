"""Parse the text of a condition into steps:
``reverb:rt60=0.6+noise:babble,talkers=4@10dB+telephone``.

``+`` joins steps, which are applied in this order. A step is the name of an effect, then ``:`` and
settings, then for noise ``@`` and the signal-to-noise ratio. ``,`` joins settings, each
``key=value`` or a word; the first one may be a bare value. Numbers may carry their unit. The
canonical text names each setting that differs from its default, in the order of the effect.
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.data.conditions.effects import DIGITS, EFFECTS, Effect, File, Number, Word
from probe.errors import UsageError

CLEAN = "clean"
MOST_STEPS = 20
LONGEST = 1000  # characters
SRB = "srb:"
NUMBER = re.compile(r"(-?\d+(?:\.\d*)?(?:e-?\d+)?)\s*([a-z%]*)", re.IGNORECASE)


def _each(step: str, *values: object) -> tuple[str, ...]:
    """Return the step once for each value, in place of ``*``."""
    return tuple(step.replace("*", str(value)) for value in values)


# The severities 1 to 4 of Speech Robust Bench (arXiv 2403.07937) that need no other data set or
# model, as ``srb:<name>:<1-4>``: values of ``corruptions.py`` in
# github.com/ahmedshah1494/speech_robust_bench (0751091), severity 0 left out. The original uses
# torchaudio and SoX; this module implements their descriptions, so samples differ.
# docs/effects.md lists what is left out, and why.
PRESETS: dict[str, tuple[str, ...]] = {
    "gnoise": _each("noise:white@*dB", 30, 20, 10, 0),
    "speedup": _each("speed:*", 1.25, 1.5, 1.75, 2),
    "slowdown": _each("speed:*", 0.875, 0.75, 0.625, 0.5),
    "tempo_up": _each("tempo:*", 1.25, 1.5, 1.75, 2),
    "tempo_down": _each("tempo:*", 0.875, 0.75, 0.625, 0.5),
    "pitch_up": _each("pitch:*", 3, 6, 9, 12),
    "pitch_down": _each("pitch:*", -3, -6, -9, -12),
    "resample": _each("resample:*", 12000, 8000, 4000, 2000),
    "gain": _each("gain:factor=*+clip", 10, 20, 30, 40),
    # SoX's 0.9 (0.8 x + 0.3 x'), with x' the speech of a delay ago, is 0.72 (x + 0.375 x').
    "echo": _each("echo:*,decay=0.375+gain:factor=0.72+clip", 125, 250, 500, 1000),
    "phaser": _each("phaser:*+clip", 0.3, 0.5, 0.7, 0.9),
    "lowpass": _each("lowpass:*", 4000, 2833, 1666, 500),
    "highpass": _each("highpass:*", 500, 1333, 2166, 3000),
    "tremolo": _each("tremolo:*,rate=20", 50, 66, 83, 100),
    "treble": _each("treble:*+clip", 10, 23, 36, 50),
    "bass": _each("bass:*+clip", 20, 30, 40, 50),
    "chorus": _each("chorus:*+clip", 30, 50, 70, 90),
}


@dataclass(frozen=True)
class Step:
    """One effect with its settings.

    Attributes:
        name: name of the effect, a key of `EFFECTS`.
        settings: value of every parameter; files are paths.
    """

    name: str
    settings: Mapping[str, Any]

    @property
    def effect(self) -> Effect:
        """The effect of this name."""
        return EFFECTS[self.name]

    @property
    def text(self) -> str:
        """The canonical text."""
        level = self.effect.level
        if not level:
            return self.without_level
        return f"{self.without_level}@{self.effect.parameters[level].show(self.settings[level])}"

    @property
    def without_level(self) -> str:
        """The canonical text up to ``@``. Random draws depend on it, so one noise serves every
        ratio.
        """
        name, _, word = self.name.partition(":")
        parts = [word] if word and word not in self.effect.parameters else []
        for position, (key, parameter) in enumerate(self.effect.parameters.items()):
            value = self.settings[key]
            if key == self.effect.level or (value == parameter.default and key != word):
                continue
            is_bare = (position == 0 and not word) or isinstance(parameter, Word)
            parts.append(parameter.show(value) if is_bare else f"{key}={parameter.show(value)}")
        return ":".join(filter(None, [name, ",".join(parts)]))

    @property
    def files(self) -> Path | None:
        """The manifest or sound file that the step needs."""
        parameters = self.effect.parameters.items()
        files = (self.settings[key] for key, item in parameters if isinstance(item, File))
        return next(files, None)


def parse_steps(text: str, folder: Path) -> tuple[Step, ...]:
    """Return the steps in the text of a condition; none for ``clean``.

    Args:
        folder: base of relative paths.

    Raises:
        UsageError: the text is invalid; the message names the step, its content and the expected
            form.
    """
    if len(text) > LONGEST or not text.strip():
        raise UsageError(
            f"--condition {text[:50]!r}: {len(text)} characters; "
            "expected such as clean or noise:white@10dB."
        )
    parts = [part.strip() for part in text.split("+")]
    if CLEAN in parts:
        if len(parts) > 1:
            raise UsageError(
                f"--condition {text}: {CLEAN} stands alone; leave it out beside other steps."
            )
        return ()
    steps: list[Step] = []
    for part in parts:
        steps += [_step(item, folder, text) for item in _expanded(part, text)]
    if len(steps) > MOST_STEPS:
        raise UsageError(
            f"--condition {text[:50]}...: {len(steps)} steps; expected at most {MOST_STEPS}."
        )
    return tuple(steps)


def canonical(text: str, folder: Path) -> str:
    """Return the canonical text, which is equal for all texts of one meaning; presets remain
    presets.
    """
    texts: list[str] = []
    for part in (part.strip() for part in text.split("+")):
        if part.lower().startswith(SRB):
            texts.append(part.lower())
        else:
            texts += [step.text for step in parse_steps(part, folder)]
    return "+".join(texts) or CLEAN


def _expanded(part: str, whole: str) -> list[str]:
    """Return the steps of a preset; other steps are unchanged."""
    if not part.lower().startswith(SRB):
        return [part]
    _, name, severity = [*part.lower().split(":"), "", ""][:3]
    if name not in PRESETS:
        raise _unknown(
            f"--condition {whole}: no preset {name!r} that needs no other data or model",
            name,
            list(PRESETS),
        )
    if part.count(":") != 2 or severity not in ("1", "2", "3", "4"):
        raise UsageError(
            f"--condition {whole}: severity {severity!r} in {part}; "
            f"expected {SRB}{name}:1 to {SRB}{name}:4."
        )
    return PRESETS[name][int(severity) - 1].split("+")


def _step(text: str, folder: Path, whole: str) -> Step:
    where = f"--condition {whole}"
    body, at, level = text.partition("@")
    name, words = _effect_name(body, text, where)
    effect = EFFECTS[name]
    settings: dict[str, Any] = {}
    for position, word in enumerate(words):
        key, value = _setting(effect, position, word)
        if key == effect.level or key not in effect.parameters:
            names = [item for item in effect.parameters if item != effect.level]
            raise _unknown(f"{where}: {name} has no setting {key!r}", key, names)
        if key in settings:
            raise UsageError(f"{where}: {key} occurs twice in {text!r}. Leave one out.")
        settings[key] = _value(effect.parameters[key], value, f"{where}: {key} of {name}", folder)
    if at and not effect.level:
        raise UsageError(
            f"{where}: {name} has no level after @. Write {name} and its settings alone."
        )
    if at:
        key = effect.level
        settings[key] = _value(
            effect.parameters[key], level.strip(), f"{where}: {key} of {name}", folder
        )
    for key, parameter in effect.parameters.items():
        if settings.setdefault(key, parameter.default) is None:
            raise UsageError(f"{where}: {text!r} lacks {key}; expected such as {effect.example}.")
    settings = {key: settings[key] for key in effect.parameters}
    if effect.check and (reason := effect.check(settings)):
        raise UsageError(f"{where}: {text!r}: {reason}.")
    return Step(name, settings)


def _effect_name(body: str, text: str, where: str) -> tuple[str, list[str]]:
    """Return the key of `EFFECTS` and the words of the settings of a step without its level."""
    name, _, rest = body.partition(":")
    name = name.strip().lower()
    words = [word.strip() for word in rest.split(",")] if rest else []
    if "" in words or not text:
        raise UsageError(
            f"{where}: nothing between two signs in {text!r}; expected effect:setting,setting. "
            "See docs/conditions.md."
        )
    first = words[0].partition("=")[0].strip().lower() if words else ""
    kind = f"{name}:{first}"
    if kind in EFFECTS:
        if "=" in words[0]:
            return kind, words
        if first in EFFECTS[kind].parameters:
            raise UsageError(
                f"{where}: {first} without a value in {text!r}; expected {kind}=VALUE."
            )
        return kind, words[1:]
    if name in EFFECTS:
        return name, words
    if kinds := [item for item in EFFECTS if item.startswith(f"{name}:")]:
        raise _unknown(f"{where}: {text!r} is no kind of {name}", kind, kinds)
    known = sorted({item.partition(":")[0] for item in EFFECTS} | {CLEAN, "srb"})
    raise _unknown(f"{where}: no effect {name!r}", name, known)


def _setting(effect: Effect, position: int, word: str) -> tuple[str, str]:
    """Return the setting and the value in a word; the first word may be a bare value."""
    key, equals, value = (part.strip() for part in word.partition("="))
    key = key.lower()
    if equals:
        return key, value
    for name, parameter in effect.parameters.items():
        if isinstance(parameter, Word) and key in parameter.choices:
            return name, key
    if position == 0 and effect.parameters:
        return next(iter(effect.parameters)), word
    return key, ""


def _value(parameter: Number | Word | File, text: str, where: str, folder: Path) -> Any:
    if isinstance(parameter, File):
        if not text:
            raise UsageError(f"{where}: no file; expected a sound file or a CSV manifest.")
        return folder / text
    if isinstance(parameter, Word):
        if text.lower() not in parameter.choices:
            raise _unknown(f"{where} is {text!r}", text, list(parameter.choices))
        return text.lower()
    match = NUMBER.fullmatch(text)
    value = float(match[1]) if match else math.nan
    has_unit = match is None or match[2].lower() in ("", parameter.unit.lower())
    is_whole = not parameter.whole or (math.isfinite(value) and value == round(value))
    if not (has_unit and is_whole and parameter.lowest <= value <= parameter.highest):
        form = "a whole number" if parameter.whole else "a number"
        lowest, highest = parameter.show(parameter.lowest), parameter.show(parameter.highest)
        unit = f" ({parameter.unit})" if parameter.unit else ""
        raise UsageError(f"{where} is {text!r}; expected {form} from {lowest} to {highest}{unit}.")
    # The value as the name shows it, without -0.
    return int(value) if parameter.whole else float(f"{value:.{DIGITS}g}") + 0.0


def _unknown(what: str, name: str, known: list[str]) -> UsageError:
    """Return an error with the closest known name."""
    close = difflib.get_close_matches(name.lower(), known, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UsageError(f"{what}.{hint} Known: {', '.join(known) or 'none'}.")
