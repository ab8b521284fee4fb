"""The severities 1 to 4 of Speech Robust Bench (arXiv 2403.07937) that need no other data set or
model, as ``srb:<name>:<1-4>``.

Values are those of ``corruptions.py`` in github.com/ahmedshah1494/speech_robust_bench (0751091),
severity 0 left out. There, torchaudio and SoX do the work, and SoX cuts off at full scale; here, it
is done anew from their descriptions, so samples differ. What is left out, and why, stands in
``docs/conditions.md``.
"""

SRB = "srb:"


def _each(step: str, *values: object) -> tuple[str, ...]:
    """The step with each value at its ``*``."""
    return tuple(step.replace("*", str(value)) for value in values)


# Name -> the steps of severities 1 to 4.
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
