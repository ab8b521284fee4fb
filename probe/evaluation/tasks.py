"""Task files: a question in a few lines of TOML.

A task names a kind (a function of this package) and sets what that kind leaves open; every key has
a default but ``kind``. An unknown key is an error. A corrected task gets a new ``version``.
"""

import difflib
import logging
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probe.brief import brief
from probe.data.corpus import Corpus
from probe.errors import ProbeError, UsageError, listed
from probe.evaluation.label_budgets import check_budget
from probe.files import sha256_of_file, sha256_of_json
from probe.heads.ctc.modules import ACTIVATIONS, HEADS, LEARNING_RATES, MOST_CONTEXT, MOST_HIDDEN
from probe.heads.ctc.vocabulary import UNITS
from probe.heads.linear.projection import PROJECTIONS

log = logging.getLogger("probe")

COMMON: dict[str, Any] = {"name": "", "version": 1, "description": ""}
CONTROLS = ("majority", "shuffled")
BACKENDS = ("cosine", "cosine-standardised", "lda", "plda", "am-softmax", "xvector")
TRAINED_BACKENDS = ("am-softmax", "xvector")  # by gradient, with learning rates
ON_FRAMES = ("xvector",)
HEADLINE_BACKEND = "cosine-standardised"
EER = {"interpolated": "eer", "convex-hull": "eer_hull"}  # definition -> metric
NORMALISATIONS = ("none", "s-norm", "as-norm")
VIEWS = ("mean", "meanstd")
UNKNOWN = ("refuse", "symbol", "leave-out")
DECODINGS = ("greedy", "beam")
# Keys whose values are files; their content decides a score, their names do not.
FILES = ("lexicon", "words", "lm")
FRAME_CONTROLS = ("majority", "shuffled", "types")

EMPTY = ("budgets", "controls", "ignore")  # lists of text that may be empty
# Of every kind that trains or compares on one layer: how many dimensions it is projected to first
# (0: none), and how.
PROJECTION: dict[str, Any] = {"project": 0, "projection": "pca"}
# Of every kind: under which conditions it is asked, and of which rows the audio is disturbed
# (`probe.evaluation.condition_plan`).
DISTURBED = ("test", "train", "both", "mixed")
ENROLLED = ("clean", "same")
HEARD: dict[str, Any] = {"conditions": ["clean"], "disturb": "test"}

# kind -> key -> default; a value of another type than its default is refused. No learning rates:
# the head's own.
KINDS: dict[str, dict[str, Any]] = {
    "classify": {
        "label": "speaker",
        "view": "meanstd",
        "l2": [1e-4, 1e-3, 1e-2, 1e-1, 1.0],
        "standardize": True,
        "weighted": True,
        "controls": list(CONTROLS),
        "types": "",
        "online_code": False,
        "budgets": [],
        **PROJECTION,
        **HEARD,
    },
    "transcribe": {
        "head": "linear",
        "learning_rates": [],
        "frame_ms": 20.0,
        "context": 0,
        "epochs": 80,
        "patience": 40,
        "batch_size": 16,
        "hidden": 128,
        "layers": 1,
        "dropout": 0.1,
        "hidden_sizes": [256],
        "activation": "relu",
        "spec_augment": False,
        "weighted": True,
        "units": "characters",
        "lexicon": "",
        "unknown": "refuse",
        "decoding": "greedy",
        "words": "",
        "lm": "",
        "beam": 50,
        "lm_weight": [1.0, 2.0, 4.0],
        "word_score": [-1.0, 0.0, 1.0],
        "controls": ["shuffled"],
        "budgets": [],
        **PROJECTION,
        **HEARD,
    },
    "verify": {
        "view": "meanstd",
        "backends": ["cosine", "cosine-standardised", "lda", "plda"],
        "headline": "",
        "dev_trials": 300,
        "enroll": "clean",
        "eer": "interpolated",
        "normalise": "none",
        "cohort_top": 200,
        "plda_input": "lda",
        "learning_rates": [1e-2, 1e-3],
        "epochs": 50,
        "batch_size": 50,
        "embedding": 256,
        "scale": 30.0,
        "margin": 0.4,
        "crop_s": 8.0,
        "controls": ["shuffled"],
        **PROJECTION,
        **HEARD,
    },
    "frames": {
        "labels": "",
        "tier": "phones",
        "ignore": [""],
        "l2": [1e-4, 1e-3, 1e-2, 1e-1],
        "standardize": True,
        "context": 0,
        "max_frames": 0,
        "grid_ms": 20.0,
        "weighted": True,
        "controls": ["majority"],
        "types": "",
        "budgets": [],
        **PROJECTION,
        **HEARD,
    },
    "shift": {"of": "word-id", "across": "domain", **HEARD},
}


@dataclass(frozen=True)
class Task:
    """A question.

    Attributes:
        name: the file's ``name`` or stem, with what the command line overrode
            (``speaker-id:label=sex``).
        settings: every key of the kind with its value.
        of: the task that a ``shift`` wraps.
        folder: of the task's file.
        spec: how it was named: a ready task's name, or a file.
        overrides: the keys that were set beside it.
    """

    name: str
    version: int
    kind: str
    description: str
    settings: Mapping[str, Any]
    of: "Task | None" = None
    folder: Path = Path()
    spec: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return brief(self, self.name, self.kind, f"version {self.version}", self.description)

    @property
    def sha256(self) -> str:
        """Of everything that decides a score; the file's layout, name and description do not, nor
        which conditions are asked for where each has a training or a test of its own, nor a
        projection that is off.
        """
        inner = self.of.sha256 if self.of else ""
        contents: dict[str, Any] = {
            key: sha256_of_file(path) for key in FILES if (path := self.file(key))
        }
        contents |= (
            {"conditions": sorted(self.settings["conditions"])} if self.trains_across else {}
        )
        off = {"conditions", *(PROJECTION if not self.settings.get("project") else ())}
        off |= {
            key
            for key, usual in (("disturb", "test"), ("across", "domain"), ("enroll", "clean"))
            if self.settings.get(key) == usual
        }
        settings = {key: value for key, value in self.settings.items() if key not in off} | contents
        return sha256_of_json(
            {"version": self.version, "kind": self.kind, "settings": settings, "of": inner}
        )

    def file(self, key: str) -> Path | None:
        """The file that a key of `FILES` names: beside the task's own file, or seen from the
        working folder; None for no name.

        Raises:
            ProbeError: there is no such file.
        """
        name = self.settings.get(key)
        if not name:
            return None
        places = [self.folder / name, Path(name)]
        for path in places:
            if path.is_file():
                return path
        raise ProbeError(
            f"{self.name}: {key} = {name!r}: no such file; looked for {' and '.join(dict.fromkeys(map(str, places)))}. "
            "Put it there, or copy the task's file and name yours in it."
        )

    @property
    def trains_across(self) -> bool:
        """Whether one training or score is of all conditions together, so that their set decides
        it.
        """
        return self.settings.get("disturb") == "mixed" or self.settings.get("across") == "condition"

    @property
    def view(self) -> str:
        """The view of the features that it reads."""
        if self.of:
            return self.of.view
        return "frames" if self.kind in ("transcribe", "frames") else self.settings["view"]


def task_folder() -> Path:
    """Where the ready tasks lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "tasks"
    return installed if installed.is_dir() else package.parent / "tasks"


def ready_tasks() -> dict[str, Path]:
    """Name -> file of every ready task."""
    return {path.stem: path for path in sorted(task_folder().glob("*.toml"))}


def open_task(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Task:
    """A ready task by its name, or the task in a TOML file.

    Args:
        overrides: keys set on the command line; where they change the task they become part of its
            name. A ``shift`` passes them to what it wraps.

    Raises:
        ProbeError: no such task, not TOML, an unknown key, or a value that its kind cannot use.
    """
    text = str(name)
    path = Path(text) if text.endswith(".toml") or "/" in text else ready_tasks().get(text)
    if path is None or not path.is_file():
        close = difflib.get_close_matches(text, ready_tasks(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(
            f"task {text!r}: no ready task and no TOML file.{hint} Ready: {', '.join(ready_tasks())}."
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProbeError(f"{path}: not TOML ({error}).") from error
    changes = {key: value for key, value in (overrides or {}).items() if value is not None}
    return replace(_task(path, content, changes), spec=text)


def _task(path: Path, content: dict[str, Any], overrides: Mapping[str, Any]) -> Task:
    kind = content.pop("kind", None)
    if kind not in KINDS:
        raise ProbeError(f"{path}: kind {kind!r}; expected one of {', '.join(KINDS)}.")
    known = COMMON | KINDS[kind]
    for key, value in content.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ProbeError(f"{path}: unknown key {key!r}.{hint} Known: kind, {', '.join(known)}.")
        content[key] = _checked(path, key, value, known[key])
    settings = {key: content.get(key, default) for key, default in KINDS[kind].items()}
    inner = None
    if kind == "shift":
        inner = _wrapped(
            path,
            settings["of"],
            {key: value for key, value in overrides.items() if key not in settings},
        )
    elif unknown := [key for key in overrides if key not in settings]:
        raise UsageError(
            f"--{unknown[0]}: task {path.stem} is of kind {kind}, which has no {unknown[0]}."
        )
    own = {
        key: value for key, value in overrides.items() if key in settings and value != settings[key]
    }
    changes = own | (dict(inner.overrides) if inner else {})
    name = (content.get("name") or path.stem) + "".join(
        f":{key}={changes[key]}" for key in overrides if key in changes
    )
    settings |= own
    _complete(path, settings)
    about = content.get("description", "")
    return Task(
        name,
        content.get("version", 1),
        kind,
        about,
        settings,
        inner,
        path.parent,
        overrides=changes,
    )


def same_question(task: Task) -> str:
    """The ready task that asks the same under another name; empty where there is none."""
    known = {} if task.name in ready_tasks() else ready_tasks()
    for name, path in known.items():
        try:
            ready = open_task(path)
        except ProbeError:  # a file that it names is not there
            continue
        if ready.kind == task.kind and ready.name != task.name and _hash(ready) == task.sha256:
            return name
    return ""


def _hash(task: Task) -> str:
    """The task's hash; empty where a file that it names is not there."""
    try:
        return task.sha256
    except ProbeError:
        return ""


def _wrapped(path: Path, name: str, overrides: Mapping[str, Any]) -> Task:
    beside = path.parent / name
    task = open_task(beside if name.endswith(".toml") and beside.is_file() else name, overrides)
    if task.kind not in ("classify", "transcribe", "frames"):
        raise ProbeError(
            f"{path}: of = {name!r} is of kind {task.kind}; domain shift wraps classify, transcribe and frames tasks."
        )
    return task


def _checked(path: Path, key: str, value: Any, default: Any) -> Any:
    """``value`` if it is of its default's type (a whole number may stand for a decimal one)."""
    if isinstance(default, list):
        element = str if key in EMPTY else type(default[0]) if default else float
        items = value if isinstance(value, list) else [value]
        if not items and default and key not in EMPTY:
            raise ProbeError(
                f"{path}: {key} is an empty list; expected at least one value such as {default[0]!r}."
            )
        return [_checked(path, key, item, element()) for item in items]
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise ProbeError(f"{path}: {key} = {value!r}; expected a value such as {default!r}.")
    return value


def _complete(path: Path, settings: dict[str, Any]) -> None:
    """Fills in what follows from other settings.

    Raises:
        ProbeError: a value is of the right type but outside what its kind can use.
    """
    # Types are a column in classify and need no control; frames have some without one.
    controls = FRAME_CONTROLS if "ignore" in settings else CONTROLS
    choices: dict[str, Iterable[str]] = {
        "head": HEADS,
        "controls": controls,
        "projection": PROJECTIONS,
        "view": (*VIEWS, "frames") if "backends" in settings else VIEWS,
        "backends": BACKENDS,
        "eer": EER,
        "normalise": NORMALISATIONS,
        "plda_input": ("lda", "whitening"),
        "activation": ACTIVATIONS,
        "units": UNITS,
        "unknown": UNKNOWN,
        "decoding": DECODINGS,
        "disturb": DISTURBED,
        "enroll": ENROLLED,
    }
    for key, allowed in choices.items():
        values = settings.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if value not in allowed:
                raise ProbeError(
                    f"{path}: {key} = {value!r}; expected {' or '.join(repr(item) for item in allowed)}."
                )
    for key, values in settings.items():
        if isinstance(values, list) and len(set(values)) < len(values):
            raise ProbeError(f"{path}: {key} = {values} names something twice; expected each once.")
    for budget in settings.get("budgets", []):
        try:
            check_budget(budget, per_class="label" in settings)
        except ProbeError as error:
            raise ProbeError(f"{path}: {error}") from None
    bounds: dict[str, tuple[float, float]] = {
        "hidden": (1, MOST_HIDDEN),
        "layers": (1, 2),
        "dropout": (0, 0.9),
        "frame_ms": (1, 1000),
        "grid_ms": (1, 1000),
        "context": (0, MOST_CONTEXT),
        "project": (0, 10**6),
        "max_frames": (0, 10**10),
        "hidden_sizes": (1, 1 << 14),
        "beam": (1, 10**5),
        "lm_weight": (0, 100),
        "word_score": (-100, 100),
        "cohort_top": (2, 10**6),
        "embedding": (1, 1 << 14),
        "scale": (1e-3, 1e6),
        "margin": (0, 2),
        "crop_s": (0.1, 3600),
    }
    bounds |= dict.fromkeys(("l2", "learning_rates"), (1e-12, 1e6)) | dict.fromkeys(
        ("epochs", "patience", "batch_size", "dev_trials"), (1, 10**6)
    )
    for key, (low, high) in bounds.items():
        values = settings.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if not low <= value <= high:
                raise ProbeError(f"{path}: {key} = {value}; expected {low} to {high}.")
    if settings.get("learning_rates") == []:
        settings["learning_rates"] = list(LEARNING_RATES[settings["head"]])
    if "units" in settings:
        _agree(path, settings)
    if "backends" in settings:
        _agree_on_backends(path, settings)


def _agree(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuses settings of a ``transcribe`` task that need or exclude each other."""
    phones, beam = settings["units"] == "phones", settings["decoding"] == "beam"
    if phones != bool(settings["lexicon"]):
        raise ProbeError(
            f"{path}: units = {settings['units']!r}, lexicon = {settings['lexicon']!r}; phones need a lexicon file."
        )
    if phones and beam:
        raise ProbeError(
            f"{path}: decoding = 'beam' writes words letter by letter; expected units = 'characters' or 'letters'."
        )
    if beam != bool(settings["words"] or settings["lm"]):
        raise ProbeError(
            f"{path}: decoding = {settings['decoding']!r} with words = {settings['words']!r} and lm = {settings['lm']!r}; "
            "expected decoding = 'beam' with one of the two, or 'greedy' with none."
        )


def _agree_on_backends(path: Path, settings: dict[str, Any]) -> None:
    """Names the headline of a ``verify`` task; refuses backends that do not read its view."""
    backends, on_frames = settings["backends"], settings["view"] == "frames"
    if wrong := [name for name in backends if (name in ON_FRAMES) != on_frames]:
        raise ProbeError(
            f"{path}: backends = {wrong} with view = {settings['view']!r}; {', '.join(ON_FRAMES)} needs view = 'frames', the other "
            "backends need 'mean' or 'meanstd'. Make it two tasks."
        )
    settings["headline"] = settings["headline"] or (
        HEADLINE_BACKEND if HEADLINE_BACKEND in backends else backends[0]
    )
    if settings["headline"] not in backends:
        raise ProbeError(
            f"{path}: headline = {settings['headline']!r}; expected one of its backends: {', '.join(backends)}."
        )


def unread_columns(tasks: Iterable[Task], columns: Iterable[str]) -> list[str]:
    """Those of a manifest's columns that no setting of the tasks names."""
    values = [
        value
        for task in tasks
        for one in (task, task.of or task)
        for value in one.settings.values()
    ]
    named = {
        text
        for value in values
        for text in (value if isinstance(value, (list, tuple)) else [value])
        if isinstance(text, str)
    }
    return [name for name in columns if name not in named]


def log_columns(corpus: Corpus, tasks: Sequence[Task] = ()) -> None:
    """Says which columns of a manifest nothing reads: a name that is misspelled, or that promises
    something, shows here.
    """
    columns = unread_columns(tasks, corpus.further_columns)
    if columns and tasks:
        log.info("%s: columns that no task asks for: %s", corpus.name, listed(columns, 20))
    elif columns:
        log.info(
            "%s: further columns, which tasks can ask for as labels: %s",
            corpus.name,
            listed(columns, 20),
        )
