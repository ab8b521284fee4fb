"""The text of a condition -> its steps: ``reverb:rt60=0.6+noise:babble,talkers=4@10dB+telephone``.

Steps are joined by ``+`` and done in this order. A step is the name of an effect, then ``:`` and
settings, then for noise ``@`` and the signal-to-noise ratio. Settings are joined by ``,``:
``key=value``, a word, or for the first one the bare value. Numbers may carry their unit. The
canonical text names each setting that is not at its default, in the effect's own order.
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.data.conditions.effects import DIGITS, EFFECTS, Effect, File, Number, Word
from probe.data.conditions.severities import PRESETS, SRB
from probe.errors import UsageError

CLEAN = "clean"
MOST_STEPS = 20
LONGEST = 1000  # characters
NUMBER = re.compile(r"(-?\d+(?:\.\d*)?(?:e-?\d+)?)\s*([a-z%]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """One effect with its settings.

    Attributes:
        name: of the effect, a key of `EFFECTS`.
        settings: every parameter's value; files as paths.
    """

    name: str
    settings: Mapping[str, Any]

    @property
    def effect(self) -> Effect:
        """What it does."""
        return EFFECTS[self.name]

    @property
    def text(self) -> str:
        """The canonical text."""
        level = self.effect.level
        return self.without_level + (
            f"@{self.effect.parameters[level].show(self.settings[level])}" if level else ""
        )

    @property
    def without_level(self) -> str:
        """The canonical text up to ``@``. Random draws depend on it: one noise serves every
        signal-to-noise ratio.
        """
        name, _, word = self.name.partition(":")
        parts = [word] if word and word not in self.effect.parameters else []
        for position, (key, parameter) in enumerate(self.effect.parameters.items()):
            value = self.settings[key]
            if key == self.effect.level or (value == parameter.default and key != word):
                continue
            shown = parameter.show(value)
            bare = (position == 0 and not word) or isinstance(parameter, Word)
            parts.append(shown if bare else f"{key}={shown}")
        return ":".join(filter(None, [name, ",".join(parts)]))

    @property
    def files(self) -> Path | None:
        """The manifest or sound file it needs."""
        return next(
            (
                self.settings[key]
                for key, item in self.effect.parameters.items()
                if isinstance(item, File)
            ),
            None,
        )


def parse_steps(text: str, folder: Path) -> tuple[Step, ...]:
    """The steps of a condition's text; none for ``clean``.

    Args:
        folder: that relative paths of files start from.

    Raises:
        UsageError: naming the step, what was found and what was expected.
    """
    if len(text) > LONGEST or not text.strip():
        raise UsageError(
            f"--condition {text[:50]!r}: {len(text)} characters; expected such as clean or noise:white@10dB."
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
    """The one text of all that mean the same; presets stay presets."""
    parts = [part.strip() for part in text.split("+")]
    shown = [
        part.lower()
        if part.lower().startswith(SRB)
        else "+".join(step.text for step in parse_steps(part, folder))
        for part in parts
    ]
    return "+".join(filter(None, shown)) or CLEAN


def _expanded(part: str, whole: str) -> list[str]:
    """The steps that a preset stands for; another step as it is."""
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
            f"--condition {whole}: severity {severity!r} in {part}; expected {SRB}{name}:1 to {SRB}{name}:4."
        )
    return PRESETS[name][int(severity) - 1].split("+")


def _step(text: str, folder: Path, whole: str) -> Step:
    where = f"--condition {whole}"
    body, at, level = text.partition("@")
    name, _, rest = body.partition(":")
    name = name.strip().lower()
    words = [word.strip() for word in rest.split(",")] if rest else []
    if "" in words or not text:
        raise UsageError(
            f"{where}: nothing between two signs in {text!r}; expected effect:setting,setting. See docs/conditions.md."
        )
    first = words[0].partition("=")[0].strip().lower() if words else ""
    chosen = f"{name}:{first}" if f"{name}:{first}" in EFFECTS else name
    if chosen not in EFFECTS:
        if forms := [item for item in EFFECTS if item.startswith(f"{name}:")]:
            raise _unknown(f"{where}: {text!r} is no kind of {name}", f"{name}:{first}", forms)
        raise _unknown(
            f"{where}: no effect {name!r}",
            name,
            sorted({item.partition(":")[0] for item in EFFECTS} | {CLEAN, "srb"}),
        )
    effect = EFFECTS[chosen]
    if ":" in chosen and "=" not in words[0]:
        words = words[1:]
        if first in effect.parameters:
            raise UsageError(
                f"{where}: {first} without a value in {text!r}; expected {chosen}=VALUE."
            )
    settings: dict[str, Any] = {}
    for position, word in enumerate(words):
        key, equals, value = (part.strip() for part in word.partition("="))
        key = key.lower()
        if not equals:
            key, value = _bare(effect, position, key, word)
        if key == effect.level or key not in effect.parameters:
            raise _unknown(
                f"{where}: {chosen} has no setting {key!r}",
                key,
                [item for item in effect.parameters if item != effect.level],
            )
        if key in settings:
            raise UsageError(f"{where}: {key} stands twice in {text!r}. Leave one out.")
        settings[key] = _value(effect.parameters[key], value, f"{where}: {key} of {chosen}", folder)
    if at and not effect.level:
        raise UsageError(
            f"{where}: {chosen} has no level after @. Write {chosen} and its settings alone."
        )
    if at:
        settings[effect.level] = _value(
            effect.parameters[effect.level],
            level.strip(),
            f"{where}: {effect.level} of {chosen}",
            folder,
        )
    for key, parameter in effect.parameters.items():
        if key not in settings and parameter.default is None:
            raise UsageError(f"{where}: {text!r} lacks {key}; expected such as {effect.example}.")
    whole_settings = {
        key: settings.get(key, parameter.default) for key, parameter in effect.parameters.items()
    }
    if effect.check and (reason := effect.check(whole_settings)):
        raise UsageError(f"{where}: {text!r}: {reason}.")
    return Step(chosen, whole_settings)


def _bare(effect: Effect, position: int, key: str, word: str) -> tuple[str, str]:
    """Setting and value of a word without ``=``."""
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
    wrong_unit = match and match[2].lower() not in ("", parameter.unit.lower())
    whole = not parameter.whole or value == round(value) if math.isfinite(value) else False
    if wrong_unit or not whole or not parameter.lowest <= value <= parameter.highest:
        raise UsageError(
            f"{where} is {text!r}; expected {'a whole number' if parameter.whole else 'a number'} from "
            f"{parameter.show(parameter.lowest)} to {parameter.show(parameter.highest)}"
            f"{f' ({parameter.unit})' if parameter.unit else ''}."
        )
    return (
        int(value) if parameter.whole else float(f"{value:.{DIGITS}g}") + 0.0
    )  # what the name shows, and no -0


def _unknown(what: str, found: str, known: list[str]) -> UsageError:
    """An error with the closest of what is known."""
    close = difflib.get_close_matches(found.lower(), known, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UsageError(f"{what}.{hint} Known: {', '.join(known) or 'none'}.")
