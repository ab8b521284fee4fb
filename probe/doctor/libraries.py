"""Versions, and whether they fit together: the declared ranges, and whether each library loads at
all.
"""

import platform
import re
from collections.abc import Callable, Iterator
from importlib import import_module, metadata

from probe.doctor.findings import Finding
from probe.environment import package_versions
from probe.version import __version__

PACKAGE = "layerprobe"
TOPIC = "versions"
# Importing is the test, each library through its door in the house; torch first, the others need
# it.
IMPORTS: dict[str, Callable[[], object]] = {
    "torch": lambda: import_module("torch"),
    "torchaudio": lambda: import_module("probe.models.spectral"),
    "transformers": lambda: import_module("probe.models.sources.checkpoints"),
    "soundfile, soxr": lambda: import_module("probe.data.audio"),
    "h5py": lambda: import_module("probe.store.shards"),
    "scikit-learn": lambda: import_module("probe.heads.linear.linear_probe"),
    "pandas": lambda: import_module("probe.reporting.scores"),
    "jiwer": lambda: import_module("probe.measures.transcription"),
}


def versions() -> Iterator[Finding]:
    """What is installed, what is outside its range, what does not load."""
    declared, python, missing = _declared()
    problems = [*missing, *_misfits(declared, python), *_failures(declared)]
    here = package_versions()
    text = ", ".join(f"{name} {version}" for name, version in here.items() if name != "python")
    fits = "" if problems else f": all {len(declared)} requirements are met and load"
    yield Finding(
        TOPIC, "ok", f"layerprobe {__version__}, Python {platform.python_version()}; {text}{fits}"
    )
    yield from problems


def fits(version: str, wanted: str) -> bool:
    """Whether a version such as ``2.14.1+cu130`` is in a range such as ``>=2.11,<2.15``; what is
    not understood fits.
    """
    found = _numbers(version)
    for operator, bound_text in re.findall(r"(>=|<=|==|!=|<|>)\s*([\d.]+)", wanted):
        bound = _numbers(bound_text)
        width = max(len(found), len(bound))
        left, right = (numbers + (0,) * (width - len(numbers)) for numbers in (found, bound))
        passed = {
            ">=": left >= right,
            "<=": left <= right,
            "==": left == right,
            "!=": left != right,
            "<": left < right,
            ">": left > right,
        }
        if not passed[operator]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 14, 1) of ``2.14.1+cu130`` or ``2.14.1rc2``."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _declared() -> tuple[dict[str, str], str, list[Finding]]:
    """(package -> range, range of Python, a note where there is none), as the installed package
    says.
    """
    try:
        lines = metadata.requires(PACKAGE) or []
        python = metadata.metadata(PACKAGE)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        text = "layerprobe runs from a folder that is not installed: which versions it supports is unknown."
        return {}, "", [Finding(TOPIC, "note", text, "In its checkout: pip install -e .")]
    declared = {}
    for line in lines:
        match = re.fullmatch(r"([\w.-]+)([^;]*)", line)
        if match:  # what has a marker after a semicolon belongs to an extra
            declared[match[1]] = ",".join(
                sorted(match[2].split(","), reverse=True)
            )  # the lower bound first
    return declared, python, []


def _misfits(declared: dict[str, str], python: str) -> Iterator[Finding]:
    if not fits(platform.python_version(), python):
        text = f"Python {platform.python_version()}; layerprobe needs {python}."
        yield Finding(
            TOPIC,
            "problem",
            text,
            "Make a virtual environment with a newer Python and install layerprobe there.",
        )
    for name, wanted in declared.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(
                TOPIC, "problem", f"{name} is not installed.", f'pip install "{name}{wanted}"'
            )
            continue
        if not fits(version, wanted):
            yield Finding(
                TOPIC,
                "problem",
                f"{name} {version} is outside {wanted}.",
                f'pip install "{name}{wanted}"',
            )


def _failures(declared: dict[str, str]) -> Iterator[Finding]:
    """A problem for each library that does not load."""
    for library, load in IMPORTS.items():
        try:
            load()
        except (
            Exception
        ) as error:  # ImportError, OSError of a shared library, RuntimeError of torchaudio
            reason = (str(error) or type(error).__name__).splitlines()[0]
            yield Finding(
                TOPIC,
                "problem",
                f"{library} cannot be imported: {reason}",
                _mend(library, declared),
            )
            if library == "torch":
                return


def _mend(library: str, declared: dict[str, str]) -> str:
    packages = ["torch", "torchaudio"] if library == "torchaudio" else library.split(", ")
    command = "pip install --force-reinstall " + " ".join(
        f'"{name}{declared.get(name, "")}"' for name in packages
    )
    if library != "torchaudio":
        return command
    return f"torch and torchaudio must be built for the same CUDA version. Install both at once, from one index: {command}"
