"""Options that several commands of the command line share, each said once."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.errors import UsageError

if TYPE_CHECKING:
    from probe.extraction.settings import Decoding, Running, Storing


def options(*names: str) -> Callable[[Callable], Callable]:
    """The shared options of these names, in this order."""

    def decorate(function: Callable) -> Callable:
        for name in reversed(names):
            function = SHARED[name](function)
        return function

    return decorate


def parsed_bytes(text: str) -> int:
    """``4G``, ``1500M`` or bytes.

    Raises:
        UsageError: no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text)
    if not match:
        raise UsageError(f"--memory {text}: expected a size such as 4G or 1500M (k, M, G, T).")
    return int(float(match[1]) * 1000 ** "_kMGT".index(match[2] or "_"))


MODEL = "org/name@revision, a folder, file.pt, torchaudio:NAME, random:org/name, fbank, mfcc or plugin:module:factory"
SHARED: dict[str, Callable[[Callable], Callable]] = {
    "model": click.option(
        "--model",
        "models",
        multiple=True,
        required=True,
        metavar="[NAME=]MODEL",
        help=f"{MODEL}; NAME= before it is what tables call it; may be given several times.",
    ),
    "hook": click.option(
        "--hook",
        "hooks",
        multiple=True,
        metavar="MODULES",
        help="Of a plug-in that is a torch module: whose outputs are layers, such as 'encoder.layers.*'; several times.",
    ),
    "corpus": click.option(
        "--corpus",
        required=True,
        metavar="CSV",
        help="Manifest, or librispeech:ROOT#dev-clean,test-clean.",
    ),
    "layers": click.option(
        "--layers", metavar="LIST", help="Such as conv,0-12,final. All but conv where left out."
    ),
    "trials": click.option(
        "--trials",
        type=click.Path(path_type=Path),
        help="Trial list for verification: CSV enroll,test,label or lines `label path path`.",
    ),
    "dev_trials": click.option(
        "--dev-trials",
        type=click.Path(path_type=Path),
        help="Trials that choose the layer; drawn if left out.",
    ),
    "labels": click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Labels over time, for frames: CSV path,start,end,label (seconds), or a folder of TextGrids.",
    ),
    "label": click.option(
        "--label", metavar="COLUMN", help="Predict this column of the manifest (classify)."
    ),
    "head": click.option(
        "--head",
        type=click.Choice(["linear", "mlp", "bilstm"]),
        help="Train this CTC head (transcribe).",
    ),
    "project": click.option(
        "--project",
        type=click.IntRange(0),
        metavar="N",
        help="First project every layer to N dimensions; 0 does not project.",
    ),
    "projection": click.option(
        "--projection",
        type=click.Choice(["pca", "random"]),
        help="Fit the projection on the training rows (pca), or draw it at random.",
    ),
    "show_search": click.option(
        "--show-search",
        is_flag=True,
        help="Also print every setting that was tried, with its dev scores.",
    ),
    "device": click.option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1. The GPU where there is one."
    ),
    "implementation": click.option(
        "--implementation",
        type=click.Choice(["packed", "reference"]),
        default="packed",
        show_default=True,
        help="packed: many utterances at once, without padding. reference: transformers' own forward.",
    ),
    "precision": click.option(
        "--precision",
        type=click.Choice(["fp32", "tf32", "bf16"]),
        default="fp32",
        show_default=True,
        help="Of the packed products; bf16 is 2 times as fast and 1 % off, tf32 is for GPUs.",
    ),
    "chunk_s": click.option(
        "--chunk-s",
        type=click.FloatRange(0),
        default=20,
        show_default=True,
        metavar="SECONDS",
        help="Attention over audio above 120 s (40 s without a packed form, 30 s in Whisper) sees so much at a time; 0: all of it.",
    ),
    "context_s": click.option(
        "--context-s",
        type=click.FloatRange(0),
        default=5,
        show_default=True,
        metavar="SECONDS",
        help="... and so much more on both sides.",
    ),
    "workers": click.option(
        "--workers",
        type=click.IntRange(1, 64),
        metavar="N",
        help="Threads that decode audio; as many as it takes if left out.",
    ),
    "threads": click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        metavar="N",
        help="Threads that a model on the CPU takes; the fastest if left out.",
    ),
    "memory": click.option(
        "--memory",
        "memory_bytes",
        default="4G",
        show_default=True,
        metavar="SIZE",
        callback=lambda _context, _option, text: parsed_bytes(text),
        help="For audio, frames and shards, beyond the model; for features in training.",
    ),
    "seed": click.option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Of training, drawing and the bootstrap.",
    ),
    "limit": click.option(
        "--limit",
        type=click.IntRange(1),
        metavar="N",
        help="At most N utterances of each split, always the same.",
    ),
    "again": click.option(
        "--again", is_flag=True, help="Train anew even where the same records are there already."
    ),
    "dry_run": click.option(
        "--dry-run",
        is_flag=True,
        help="Print the plan (utterances, hours, bytes, free disk) and stop.",
    ),
    "stride": click.option(
        "--stride",
        type=click.IntRange(1, 1000),
        default=1,
        metavar="K",
        help="Keep every K-th frame.",
    ),
    "dtype": click.option(
        "--dtype",
        type=click.Choice(["float16", "float32", "int8"]),
        default="float16",
        show_default=True,
        help="On disk.",
    ),
    "compression": click.option(
        "--compression", type=click.Choice(["none", "gzip"]), default="none", show_default=True
    ),
    "ctc": click.option(
        "--ctc",
        is_flag=True,
        help="Also run the checkpoint's own CTC head; its WER stands beside the probes'.",
    ),
    "no_check": click.option(
        "--no-check",
        "check",
        is_flag=True,
        callback=lambda _context, _option, given: not given,
        help="Extract without the short form of `probe check` before.",
    ),
    "sha256": click.option(
        "--sha256", metavar="HEX", help="What the weights must have, as `probe check` prints it."
    ),
    "audio_root": click.option(
        "--audio-root",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Refuse audio outside DIR, whatever symbolic links say.",
    ),
    "isolate_decode": click.option(
        "--isolate-decode",
        "isolate",
        is_flag=True,
        help="Decode in a child process: a crash of the decoder costs one utterance.",
    ),
    "decode_timeout": click.option(
        "--decode-timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=60,
        show_default=True,
        metavar="SECONDS",
        help="For one file; what takes longer has failed.",
    ),
    "condition": click.option(
        "--condition",
        "texts",
        multiple=True,
        metavar="CONDITION",
        help="What is done to the audio: clean, noise:babble@10dB, reverb:rt60=0.6+telephone, srb:bass:2 ...; several times.",
    ),
    "conditions": click.option(
        "--conditions",
        "declared",
        type=click.Path(path_type=Path),
        metavar="TOML",
        help="Names for --condition, from a table [conditions]; all of them where --condition is left out.",
    ),
    "condition_seed": click.option(
        "--condition-seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        metavar="N",
        help="Of what conditions draw.",
    ),
    "disturb": click.option(
        "--disturb",
        type=click.Choice(["test", "train", "both", "mixed"]),
        help="Which rows' audio the conditions are of; test: trained clean, once, and tested under each.",
    ),
    "json": click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    "records": click.option(
        "--from",
        "results",
        multiple=True,
        required=True,
        type=click.Path(path_type=Path),
        help="Folder of records.",
    ),
    "every_layer": click.option(
        "--layers", is_flag=True, help="Every layer instead of the one that dev chose."
    ),
    "all_heads": click.option(
        "--all-heads", is_flag=True, help="Every head and backend instead of the headline ones."
    ),
    "axis": click.option(
        "--axis",
        type=click.Choice(["index", "depth"]),
        default="index",
        show_default=True,
        help="Of curves over layers: the layer's number, or 0 to 1 in every model.",
    ),
}


def storing_of(values: dict[str, Any], **further: Any) -> "Storing":
    """The group `Storing` of the values of options, which are taken out of ``values``."""
    from probe.extraction.settings import Storing

    return Storing(**_taken(values, Storing), **further)


def running_of(values: dict[str, Any]) -> "Running":
    """The group `Running` of the values of options, which are taken out of ``values``."""
    from probe.extraction.settings import Running

    return Running(**_taken(values, Running))


def decoding_of(values: dict[str, Any]) -> "Decoding":
    """The group `Decoding` of the values of options, which are taken out of ``values``."""
    from probe.extraction.settings import Decoding

    return Decoding(**_taken(values, Decoding))


def _taken(values: dict[str, Any], group: type) -> dict[str, Any]:
    return {item.name: values.pop(item.name) for item in fields(group) if item.name in values}


# What is done to the audio that is heard.
HEARD = ("condition", "conditions", "condition_seed")
# What changes a task.
CHANGED = ("label", "head", "disturb", "project", "projection")
# How features are extracted, by every command that does.
HOW = (
    *("dtype", "compression", "ctc", "no_check", "audio_root", "isolate_decode", "decode_timeout"),
    *("implementation", "precision", "chunk_s", "context_s", "workers", "threads", "memory"),
)
