"""Options that several commands share, as decorators; each is defined once."""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.commands.help import option
from probe.errors import UsageError
from probe.remote.paths import as_path, is_url

if TYPE_CHECKING:
    from probe.data.conditions.condition import Condition
    from probe.engines.settings import EngineSettings
    from probe.engines.share import Share
    from probe.evaluation.run import Training
    from probe.evaluation.tasks import Task
    from probe.evaluation.trial_lists import Scope
    from probe.extraction.settings import Extracting, Running
    from probe.model_names import ModelName

Decorator = Callable[[Callable], Callable]


class PlacePath(click.Path):
    """A path on a disk or, where a command can use it, a URL."""

    def __init__(self, takes_url: bool = False) -> None:
        super().__init__(path_type=Path)
        self.takes_url = takes_url

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if not isinstance(value, str) or not is_url(value):
            return super().convert(value, param, ctx)
        if not self.takes_url:
            self.fail(
                f"{value} is a URL; name a local path here (docs/object-storage.md).", param, ctx
            )
        return as_path(value)


PATH = PlacePath()
PLACE = PlacePath(takes_url=True)
MODEL = (
    "org/name@revision, a folder, file.pt, torchaudio:NAME, random:org/name, fbank, mfcc or "
    "plugin:module:factory"
)
CONDITION_KEYS = ("texts", "condition_file", "condition_seed")
ENGINE = "Engine"
AUDIO, STORAGE, COMPUTING, DECODING = "Conditions", "Storage", "Computing", "Decoding"
TASKS, TRAINING = "Tasks", "Training"


def together(*decorators: Decorator) -> Decorator:
    """Return one decorator that applies several; help shows the options in this order."""

    def decorate(function: Callable) -> Callable:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def built(name: str, build: Callable[..., Any], *decorators: Decorator) -> Decorator:
    """Options that reach the command as one argument ``name``, which ``build`` makes of them."""
    options = together(*decorators)

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            own = {key: values.pop(key) for key in keys}
            return function(**{name: build(**own)}, **values)

        return options(command)

    def declared() -> None: ...

    keys = [item.name for item in options(declared).__click_params__]  # type: ignore[attr-defined]
    return decorate


def parsed_bytes(text: str) -> int:
    """Return the number of bytes of ``4G``, ``1500M`` or ``1000000``.

    Raises:
        UsageError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text)
    if not match:
        raise UsageError(f"--memory {text}: expected a size such as 4G or 1500M (k, M, G, T).")
    return int(float(match[1]) * 1000 ** "_kMGT".index(match[2] or "_"))


def conditions_of(
    texts: Sequence[str], condition_file: Path | None, condition_seed: int
) -> "list[Condition]":
    """Return the conditions that ``--condition`` names, or all that the TOML file declares, each
    once; none where neither is given.
    """
    from probe.data.conditions.condition import declared_conditions, distinct, parse_condition

    declared = declared_conditions(condition_file, condition_seed) if condition_file else {}
    parsed = [
        parse_condition(text, seed=condition_seed, declared=declared) for text in texts or declared
    ]
    return list(distinct(parsed).values())


def _extracting(**values: Any) -> "Extracting":
    from probe.extraction.settings import Decoding, Extracting, Running, Storing

    groups = {"storing": Storing, "running": Running, "decoding": Decoding}
    return Extracting(
        **{
            name: group(**{i.name: values[i.name] for i in fields(group) if i.name in values})
            for name, group in groups.items()
        }
    )


def _models(models: tuple[str, ...], hooks: tuple[str, ...]) -> "list[ModelName]":
    from probe.models.plugins.loader import with_hooks

    return with_hooks(models, hooks)


def _tasks(tasks: tuple[str, ...], **changes: Any) -> "list[Task]":
    """The tasks with the changes of the command line, each once."""
    from probe.evaluation.tasks import open_task

    opened = [open_task(name, changes) for name in tasks]
    return list({task.name: task for task in opened}.values())


def format_option(*forms: str, default: str | None = "text") -> Decorator:
    """Return the option ``--format``, which reaches the command as ``form``."""
    return option(
        "--format",
        "form",
        type=click.Choice(forms),
        default=default,
        show_default=default is not None,
        help=f"Output format{'' if default else '; text on a terminal, otherwise md'}.",
    )


model_option = option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="[NAME=]MODEL",
    help=f"Model: {MODEL}. Tables call it NAME (repeatable).",
)
hook_option = option(
    "--hook",
    "hooks",
    multiple=True,
    metavar="MODULES",
    help="For torch modules: submodules whose outputs become layers, e.g. 'encoder.layers.*' "
    "(repeatable).",
)
models_options = built("models", _models, model_option, hook_option)
corpus_option = option(
    "--corpus",
    required=True,
    metavar="CORPUS",
    help="A table or folder, or FORM:ROOT#PART,PART such as kaldi:data#train,dev (docs/data.md).",
)


def _source(corpus: str, split: str | None) -> str:
    """The source of a corpus with its split; a split that cannot be read is refused at once."""
    from probe.data.splits import parse_split

    return f"{corpus} split={parse_split(split)}" if split else corpus


_split_option = option(
    "--split",
    metavar="RULE",
    help="Make a seeded split in place of the manifest's: COLUMN:TRAIN/DEV/TEST in percent, "
    "such as speaker:80/10/10 (docs/splits.md).",
)
split_corpus_options = built("corpus", _source, corpus_option, _split_option)
split_corpus_argument = built("corpus", _source, click.argument("corpus"), _split_option)
layers_option = option(
    "--layers",
    metavar="LIST",
    group=STORAGE,
    help="Layers, e.g. conv,0-12,final (default: all but conv).",
)
every_layer_option = option(
    "--every-layer", is_flag=True, help="Show every layer instead of the one chosen on dev."
)
all_heads_option = option(
    "--all-heads", is_flag=True, help="Show every head and backend, not only the headline ones."
)
records_option = option(
    "--from",
    "results",
    multiple=True,
    required=True,
    type=PLACE,
    metavar="DIR",
    help="Folder of records, or its URL (repeatable).",
)
features_option = option(
    "--from",
    "features",
    required=True,
    type=PLACE,
    metavar="DIR",
    help="Folder of feature stores, or its URL.",
)
axis_option = option(
    "--axis",
    type=click.Choice(["index", "depth"]),
    default="index",
    show_default=True,
    help="Axis of layer curves: the layer's number, or relative depth from 0 to 1.",
)
_task_option = option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="TASK",
    help="Built-in task or TOML file (repeatable).",
)
device_option = option(
    "--device",
    metavar="DEVICE",
    group=COMPUTING,
    help="cpu, cuda or cuda:1 (default: a GPU if available).",
)
memory_option = option(
    "--memory",
    "memory_bytes",
    default="4G",
    show_default=True,
    metavar="SIZE",
    group=COMPUTING,
    callback=lambda _context, _option, text: parsed_bytes(text),
    help="Memory for audio, features and shards, beyond what the model takes.",
)
seed_option = option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    group=TRAINING,
    help="Random seed for training, sampling and the bootstrap.",
)
seeds_option = option(
    "--seeds",
    type=click.IntRange(1, 1000),
    metavar="N",
    group=TRAINING,
    help="Train with N seeds from --seed on; tables show the mean and the spread. Default: 3 for "
    "CTC heads, AM-softmax and x-vectors; 1 for kind superb, as in SUPERB's protocol, and for all "
    "other heads, whose solution is unique.",
)
limit_option = option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Use at most N utterances of each split, always the same ones.",
)
again_option = option(
    "--again", is_flag=True, group=TRAINING, help="Train again even if up-to-date records exist."
)
show_search_option = option(
    "--show-search",
    is_flag=True,
    group=TRAINING,
    help="Also print every setting that was tried, with its dev score.",
)


def _share(_context: click.Context, _option: click.Parameter, text: str) -> "Share":
    from probe.engines.share import Share

    return Share.parse(text)


shard_option = option(
    "--shard",
    "share",
    default="1/1",
    metavar="I/N",
    callback=_share,
    help="Do only share I of N of the work, for N runs that a scheduler starts (docs/cluster.md).",
)


def _engine(**values: Any) -> "EngineSettings":
    from probe.engines.settings import EngineSettings

    return EngineSettings(**values)


engine_options = built(
    "engine",
    _engine,
    option(
        "--engine",
        type=click.Choice(["local", "ray", "slurm"]),
        default="local",
        show_default=True,
        group=ENGINE,
        help="Where workers run: on this machine, on a Ray cluster, or as jobs of SLURM "
        "(docs/cluster.md).",
    ),
    option(
        "--jobs",
        "n_workers",
        type=click.IntRange(1, 10_000),
        default=1,
        show_default=True,
        metavar="N",
        group=ENGINE,
        help="Number of workers. One local worker is this process; several share the GPUs.",
    ),
    option(
        "--cpus",
        "n_cores",
        type=click.IntRange(1, 1024),
        metavar="N",
        group=ENGINE,
        help="Cores of each worker (default: an equal part of this machine's; 1 on clusters).",
    ),
    option(
        "--ray-address",
        metavar="HOST:PORT",
        group=ENGINE,
        help="Ray cluster to use (default: RAY_ADDRESS, or a new one on this machine).",
    ),
    option(
        "--slurm",
        multiple=True,
        metavar="NAME=VALUE",
        group=ENGINE,
        help="Option of sbatch for each worker: partition=gpu, time=4:00:00, mem=16G ... "
        "(repeatable).",
    ),
    option(
        "--job-limit",
        "limit_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        group=ENGINE,
        help="End a worker that takes longer for a job (a shard, or a task of a model), and try "
        "the job again (default: no limit).",
    ),
)
dry_run_option = option(
    "--dry-run", is_flag=True, help="Print the plan (utterances, hours, bytes, free disk) and stop."
)
sha256_option = option(
    "--sha256",
    metavar="HEX",
    group=COMPUTING,
    help="Expected SHA-256 of the weights, as `probe check` prints it.",
)
audio_root_option = option(
    "--audio-root",
    type=PATH,
    metavar="DIR",
    group=DECODING,
    help="Refuse audio outside DIR; symbolic links are resolved first.",
)
_condition_option = option(
    "--condition",
    "texts",
    multiple=True,
    metavar="CONDITION",
    group=AUDIO,
    help="Change the audio: clean, noise:babble@10dB, reverb:rt60=0.6+telephone, srb:bass:2 ... "
    "(repeatable).",
)
_condition_file_option = option(
    "--condition-file",
    type=PATH,
    metavar="TOML",
    group=AUDIO,
    help="File whose table [conditions] declares names for --condition; without --condition all "
    "of them are used.",
)
_condition_seed_option = option(
    "--condition-seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    group=AUDIO,
    help="Random seed for conditions.",
)
_condition_options = together(_condition_option, _condition_file_option, _condition_seed_option)
condition_options = built("conditions", conditions_of, _condition_options)
_changes_options = together(
    option(
        "--label",
        metavar="COLUMN",
        group=TASKS,
        help="Manifest column to predict (classify, regress, superb, tag, shift).",
    ),
    option(
        "--folds",
        metavar="RULE",
        group=TASKS,
        help="Cross-validate: the column that names the folds, or COLUMN:N such as speaker:5 "
        "(docs/splits.md).",
    ),
    option(
        "--head",
        type=click.Choice(["linear", "mlp", "bilstm"]),
        group=TASKS,
        help="CTC head to train (transcribe).",
    ),
    option(
        "--disturb",
        type=click.Choice(["test", "train", "both", "mixed"]),
        group=TASKS,
        help="Which splits to degrade; test: train once on clean audio, test under each condition.",
    ),
    option(
        "--project",
        type=click.IntRange(0),
        metavar="N",
        group=TASKS,
        help="Project every layer to N dimensions first; 0 = no projection.",
    ),
    option(
        "--projection",
        type=click.Choice(["pca", "random"]),
        group=TASKS,
        help="Fit the projection on the training rows (pca) or draw it at random.",
    ),
)
task_argument = built(
    "tasks",
    _tasks,
    click.argument("tasks", nargs=-1, required=True, metavar="TASK..."),
    _changes_options,
)
task_options = built("tasks", _tasks, _task_option, _changes_options)
_lists_options = together(
    option(
        "--trials",
        type=PATH,
        metavar="FILE",
        group=TASKS,
        help="Verification trials: CSV enroll,test,label or lines `label path path`.",
    ),
    option(
        "--dev-trials",
        type=PATH,
        metavar="FILE",
        group=TASKS,
        help="Trials that choose the layer (default: drawn from dev).",
    ),
    option(
        "--labels",
        type=PATH,
        metavar="PATH",
        group=TASKS,
        help="Labels over time: CSV path,start,end,label (seconds), TextGrids, CTM or RTTM.",
    ),
)


def _scope(**values: Any) -> "Scope":
    from probe.evaluation.trial_lists import Scope

    conditions = conditions_of(*(values.pop(key) for key in CONDITION_KEYS))
    return Scope(conditions=conditions or None, **values)


def _stored_scope(texts: tuple[str, ...], condition_file: Path | None, **values: Any) -> "Scope":
    """The scope of features that are stored: their conditions are known by name."""
    from probe.evaluation.trial_lists import Scope

    conditions = list(texts) or conditions_of((), condition_file, 0)
    return Scope(conditions=conditions or None, **values)


scope_options = built("scope", _scope, _lists_options, _condition_options)
stored_scope_options = built(
    "scope", _stored_scope, _lists_options, _condition_option, _condition_file_option, limit_option
)


def _training(**values: Any) -> "Training":
    from probe.evaluation.run import Training

    return Training(**values)


def _running(**values: Any) -> "Running":
    from probe.extraction.settings import Running

    return Running(**values)


seed_and_again_options = built("training", _training, seed_option, seeds_option, again_option)
training_options = built(
    *("training", _training, seed_option, seeds_option),
    *(again_option, device_option, memory_option),
)
_model_form_options = together(
    option(
        "--implementation",
        type=click.Choice(["packed", "reference"]),
        default="packed",
        show_default=True,
        group=COMPUTING,
        help="packed: many utterances at once without padding; reference: transformers' forward.",
    ),
    option(
        "--precision",
        type=click.Choice(["fp32", "tf32", "bf16"]),
        default="fp32",
        show_default=True,
        group=COMPUTING,
        help="Matrix-product precision. bf16 is about twice as fast with about 1 % error; tf32 "
        "needs a GPU.",
    ),
    option(
        "--chunk-s",
        type=click.FloatRange(0),
        default=20,
        show_default=True,
        metavar="SECONDS",
        group=COMPUTING,
        help="Attention window for long audio (above 120 s; 40 s without a packed form; 30 s in "
        "Whisper); 0 disables chunking.",
    ),
    option(
        "--context-s",
        type=click.FloatRange(0),
        default=5,
        show_default=True,
        metavar="SECONDS",
        group=COMPUTING,
        help="Extra context on each side of a window.",
    ),
)
_extraction_options = together(
    option(
        "--stride",
        type=click.IntRange(1, 1000),
        default=1,
        metavar="K",
        group=STORAGE,
        help="Keep every K-th frame.",
    ),
    layers_option,
    option(
        "--dtype",
        type=click.Choice(["float16", "float32", "int8"]),
        default="float16",
        show_default=True,
        group=STORAGE,
        help="Data type of stored features.",
    ),
    option(
        "--compression",
        type=click.Choice(["none", "gzip"]),
        default="none",
        show_default=True,
        group=STORAGE,
        help="Compression of stored features.",
    ),
    option(
        "--ctc",
        is_flag=True,
        group=COMPUTING,
        help="Also run the checkpoint's own CTC head and report its WER.",
    ),
    option(
        "--no-check",
        "check",
        is_flag=True,
        group=COMPUTING,
        callback=lambda _context, _option, given: not given,
        help="Skip the short form of `probe check` before extraction.",
    ),
    audio_root_option,
    option(
        "--isolate-decode",
        "isolate",
        is_flag=True,
        group=DECODING,
        help="Decode in a child process: a decoder crash loses one utterance, not the run.",
    ),
    option(
        "--decode-timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=60,
        show_default=True,
        metavar="SECONDS",
        group=DECODING,
        help="Time limit for one file; a slower file counts as failed.",
    ),
    option(
        "--workers",
        type=click.IntRange(1, 64),
        metavar="N",
        group=DECODING,
        help="Threads that decode audio (default: as many as needed).",
    ),
    _model_form_options,
    option(
        "--threads",
        type=click.IntRange(1, 1024),
        metavar="N",
        group=COMPUTING,
        help="CPU threads of the model (default: the fastest number).",
    ),
    memory_option,
    device_option,
    limit_option,
    option(
        "--take-over",
        "dead_hosts",
        multiple=True,
        metavar="HOST",
        group=STORAGE,
        help="Extract at once what a run on HOST had begun, because that host is dead "
        "(repeatable; without it after 5 minutes).",
    ),
)
running_options = built("running", _running, sha256_option, _model_form_options, device_option)


def extraction_options(*more: Decorator) -> Decorator:
    """Options of extraction and ``more`` of them, which reach the command as ``extracting``."""
    return built("extracting", _extracting, _extraction_options, *more)
