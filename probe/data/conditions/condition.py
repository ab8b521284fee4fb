"""A condition: a change of every utterance before a model hears it, given by a name, a text and a
seed.

`parse_condition` reads a text and opens no sound. `open_condition` reads the sounds that the
condition needs, at a model's rate, and returns a `Disturbance`, which changes samples.

Random draws depend only on the seed, the step (except its level), its position and the utterance's
key, and not on order, batch, threads or machine. Effects compute in float64; the result is float32
and may exceed full scale.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from probe.data.conditions.effects import EFFECTS
from probe.data.conditions.grammar import CLEAN, Step, canonical, parse_steps
from probe.data.conditions.noise_sources import Scene, Sounds, open_pool, open_sounds
from probe.data.corpus import Corpus
from probe.errors import ProbeError, UsageError, UtteranceError

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")


@dataclass(frozen=True)
class Condition:
    """The steps of a condition, with a name and a seed.

    Attributes:
        name: the canonical text or the declared name; ``clean`` if there are no steps.
        text: the canonical text, with only the names of files.
        steps: steps in order.
        seed: seed of random draws.
    """

    name: str
    text: str
    steps: tuple[Step, ...]
    seed: int = 0

    @property
    def stretch(self) -> float:
        """Length after the steps relative to the length before."""
        factors = [step.effect.stretch(step.settings) for step in self.steps]
        return float(np.prod(factors, initial=1.0))

    @property
    def draws(self) -> bool:
        """Whether a step draws random numbers."""
        return any(step.effect.draws for step in self.steps)


@dataclass(frozen=True)
class Disturbance:
    """A condition with its sounds, at one rate.

    Attributes:
        sounds: sounds of each step; None for a step without sounds.
    """

    condition: Condition
    rate_hz: int
    sounds: tuple[Sounds | None, ...]

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the samples except the speech; ``seed`` is None without random
        draws.
        """
        return {
            "text": self.condition.text,
            "seed": self.condition.seed if self.condition.draws else None,
            "stretch": self.condition.stretch,
            "steps": [
                _recipe_of(step, sounds)
                for step, sounds in zip(self.condition.steps, self.sounds, strict=True)
            ],
        }

    def apply(self, samples: np.ndarray, key: str) -> np.ndarray:
        """Return an utterance under the condition.

        Args:
            samples: (time,) float32 at ``rate_hz``, which are not modified.
            key: key of the utterance.

        Returns:
            (time,) float32, ``stretch`` times as long, with rounding in each step.

        Raises:
            UtteranceError: the utterance is silent although a level is needed, no samples are left,
                or a sample is not finite.
        """
        changed = np.asarray(samples, np.float64)
        for _, after in self.stages(samples, key):
            changed = after
        with np.errstate(over="ignore"):
            changed = changed.astype(np.float32)
        name = self.condition.name
        if not len(changed):
            raise UtteranceError(f"nothing is left of its {len(samples)} samples under {name}")
        if not changed.any() and np.any(samples):
            raise UtteranceError(f"nothing but silence is left of it under {name}")
        if not np.isfinite(changed).all():
            raise UtteranceError(f"samples that are no finite numbers under {name}")
        return changed

    def stages(self, samples: np.ndarray, key: str) -> Iterator[tuple[Step, np.ndarray]]:
        """Yield each step with the (time,) float64 samples after it."""
        changed = np.asarray(samples, np.float64)
        seed, steps = self.condition.seed, zip(self.condition.steps, self.sounds, strict=True)
        for position, (step, sounds) in enumerate(steps):
            if not len(changed):
                raise UtteranceError(f"no samples are left before {step.text}")
            scene = Scene(self.rate_hz, _generator(seed, step, position, key), key, sounds)
            changed = step.effect.apply(changed, step.settings, scene)
            yield step, changed


def parse_condition(
    text: str,
    folder: Path | str = ".",
    seed: int = 0,
    declared: Mapping[str, Condition] | None = None,
) -> Condition:
    """Return the condition that a text describes.

    Args:
        text: ``clean``, steps joined by ``+`` (`probe.data.conditions.grammar`), or a name in
            ``declared``.
        folder: base of relative paths.
        declared: see `declared_conditions`.

    Raises:
        UsageError: the text is invalid.
    """
    if declared and text.strip() in declared:
        return declared[text.strip()]
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"--condition-seed {seed}: expected a whole number from 0 on.")
    try:
        steps = parse_steps(text, Path(folder))
    except UsageError as error:
        if not declared:
            raise
        raise UsageError(f"{error} Declared names: {', '.join(declared)}.") from error
    name = canonical(text, Path(folder))
    return Condition(name, name, steps, seed)


def distinct(conditions: Iterable[Condition]) -> dict[str, Condition]:
    """Return the distinct conditions by name.

    Raises:
        UsageError: two different conditions have one name, for example files of one name in
            different folders.
    """
    by_name: dict[str, Condition] = {}
    for condition in conditions:
        if by_name.setdefault(condition.name, condition) != condition:
            raise UsageError(
                f"--condition {condition.name}: means different files or seeds; it contains only "
                "the names of files. Give each a name of its own in a TOML file (--condition-file)."
            )
    return by_name


def declared_conditions(path: Path | str, seed: int = 0) -> dict[str, Condition]:
    """Return the conditions in the table ``conditions`` of a TOML file by name; relative paths
    start from the file's folder.

    Raises:
        ProbeError: the file cannot be read.
        UsageError: the file has other content, or a condition is invalid.
    """
    file = Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProbeError(
            f"{file}: cannot be read as TOML ({error}). "
            "Expected a table [conditions] of names and texts."
        ) from error
    table = content.get("conditions")
    if list(content) != ["conditions"] or not isinstance(table, dict) or not table:
        raise UsageError(
            f"{file}: found {', '.join(content) or 'nothing'}; expected only a table [conditions] "
            'that has lines such as kitchen = "noise:white@10dB".'
        )
    return {name: _declared(file, name, text, seed) for name, text in table.items()}


def _declared(file: Path, name: str, text: Any, seed: int) -> Condition:
    effect_names = {item.partition(":")[0] for item in EFFECTS}
    if not NAME.fullmatch(name) or name in {CLEAN, *effect_names}:
        raise UsageError(
            f"{file}: {name!r} is no name; expected up to 40 of a-z, 0-9, _ and -, and no effect's "
            "name."
        )
    if not isinstance(text, str):
        raise UsageError(
            f"{file}: {name} is {text!r}; "
            'expected a text such as "reverb:rt60=0.6+noise:white@10dB".'
        )
    try:
        return replace(parse_condition(text, file.parent, seed), name=name)
    except UsageError as error:
        raise UsageError(f"{file}, {name}: {error}") from error


def open_condition(
    condition: Condition, rate_hz: int, corpus: Corpus | None = None, audio_root: Path | None = None
) -> Disturbance | None:
    """Read the sounds of a condition and return it as a `Disturbance`; None for ``clean``.

    Args:
        rate_hz: sampling rate of the model.
        corpus: the whole corpus, for babble.
        audio_root: folder that must contain all sounds.

    Raises:
        ProbeError: a sound is missing, unreadable or silent, or there is no corpus for babble.
    """
    if not condition.steps:
        return None
    sounds: list[Sounds | None] = []
    for step in condition.steps:
        if step.files is not None:
            sounds.append(open_sounds(step.files, rate_hz, audio_root, step.effect.shortest_s))
        elif step.effect.needs == "corpus":
            if corpus is None:
                raise ProbeError(f"{condition.name}: babble needs a corpus. Name one.")
            sounds.append(open_pool(corpus, rate_hz, condition.seed, audio_root))
        else:
            sounds.append(None)
    return Disturbance(condition, rate_hz, tuple(sounds))


def _recipe_of(step: Step, sounds: Sounds | None) -> dict[str, Any]:
    """Return everything that decides the samples of a step."""
    settings = {
        key: value.name if isinstance(value, Path) else value
        for key, value in step.settings.items()
    }
    recipe = {"effect": step.name, "version": step.effect.version, "settings": settings}
    if sounds:
        recipe["sounds"] = list(sounds.sha256s)
    if step.effect.library:
        recipe["libsndfile"] = soundfile.__libsndfile_version__
    return recipe


def _generator(seed: int, step: Step, position: int, key: str) -> np.random.Generator:
    """Return the random generator of one step for one utterance."""
    text = json.dumps([seed, step.without_level, position, key])
    return np.random.Generator(
        np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()))
    )
