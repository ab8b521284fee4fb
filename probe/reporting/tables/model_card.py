"""Scores in the forms that the Hugging Face Hub reads: evaluation results beside a model, and a
snippet for its card.

Of each model of the Hub, into a folder of its own:

* ``.eval_results/<task>.yaml``, for the model's repository
  (https://huggingface.co/docs/hub/eval-results): a list of entries with a dataset that is a
  benchmark on the Hub, a ``task_id`` that the dataset's ``eval.yaml`` names, and a value;
* ``model-card.md``: ``model-index`` metadata
  (https://github.com/huggingface/hub-docs/blob/main/modelcard.md) and a table with intervals, to be
  taken over into the model's README.md.

Conventions: the rows are those of `probe.reporting.rows.summary_rows`, test scores at the layer
that dev chose. Values are fractions (bits for codelengths). Filter banks, random weights and local
folders are not on the Hub: they have no files. YAML is written by a few lines of our own: every
text between double quotes on one line, so that no name can be anything but a text.
"""

import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from probe.errors import ProbeError
from probe.files import file_name, write_atomically
from probe.model_names import RANDOM, SPECTRAL, unrevised
from probe.records import OWN_HEAD, WEIGHTED
from probe.reporting.rows import specs_of, summary_rows
from probe.reporting.tables.score_tables import to_markdown
from probe.reporting.ties import BITS

Row = Mapping[Hashable, Any]
REPOSITORY = r"[A-Za-z0-9][\w.-]*/[\w.-]+"  # org/name, the only form of a name on the Hub
TASK_TYPES = {
    "transcribe": "automatic-speech-recognition"
}  # kind -> task of the Hub, which has none of verification
ELSE = "audio-classification"
ABOUT_PROBES = """# Layers

Scores of probes on the frozen model, measured with layerprobe: test scores at the layer that is best on dev, with 95 % intervals
resampled by speaker. They say what a layer makes easy to read, not what the model does when it is fine-tuned.

"""


def write_cards(
    records: pd.DataFrame, to: Path, datasets: Mapping[str, str]
) -> tuple[list[Path], list[str]]:
    """The files written for each model of the Hub, and what was left out and why.

    Args:
        records: see `probe.records.read_records`.
        datasets: corpus -> its dataset on the Hub, without which a corpus' scores stand in the card
            alone.

    Raises:
        ProbeError: no model of the Hub, a corpus that no record has, or see
            `probe.reporting.comparable_files.comparable`.
        OSError: a file cannot be written.
    """
    if unknown := sorted(datasets.keys() - set(records["corpus"])):
        raise ProbeError(
            f"corpus {unknown[0]!r}: no record is of it; there are {', '.join(sorted(set(records['corpus'])))}."
        )
    rows = summary_rows(records).assign(
        mark=""
    )  # best of several models says nothing in the card of one
    of_model = {str(name): group.iloc[0].to_dict() for name, group in records.groupby("model")}
    specs = specs_of(records)
    kinds = dict(zip(records["task"], records["kind"], strict=True))
    written, left_out = [], []
    for model, about in of_model.items():
        if reason := _not_on_hub(specs[model], str(about["revision"])):
            left_out.append(f"{model}: {reason}")
            continue
        folder = to / file_name(model)
        scores = rows[(rows["model"] == model) & rows["value"].notna()]
        texts = {"model-card.md": _card(specs[model], scores, kinds, datasets)}
        for task, group in scores[scores["corpus"].isin(list(datasets))].groupby("task"):
            texts[f".eval_results/{file_name(str(task))}.yaml"] = yaml(
                list(_entries(group, about, datasets))
            )
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, text.encode())
            written.append(folder / name)
    if not written:
        raise ProbeError(f"no model of the Hub among these records. {'; '.join(left_out)}.")
    left_out += [
        f"{corpus}: no .eval_results, which need its dataset on the Hub (--dataset {corpus}=org/name)"
        for corpus in sorted(set(rows["corpus"]) - datasets.keys())
    ]
    return written, left_out


def _not_on_hub(spec: str, revision: str) -> str:
    """Why the model of a spec has no repository on the Hub; empty where it has one."""
    if re.fullmatch(f"{REPOSITORY}(@.+)?", spec) and re.fullmatch("[0-9a-f]{40}", revision):
        return ""
    if spec.startswith(RANDOM):
        return "random weights are a baseline"
    if spec in SPECTRAL:
        return "a baseline, no model of the Hub"
    return f"of revision {revision!r}, no commit of the Hub"


def _entries(
    rows: pd.DataFrame, about: Row, datasets: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Evaluation results of one task: an entry a score, none with the ``task_id`` of another."""
    for row in rows.to_dict("records"):
        yield {
            "dataset": {
                "id": datasets[row["corpus"]],
                "task_id": "/".join([row["task"], row["metric"], *_variant(row)]),
            },
            "value": row["value"],
            "notes": "; ".join(
                [
                    *_told(row),
                    f"model {about['revision']}",
                    f"layerprobe {about['code'].get('version', '')}",
                ]
            ),
        }


def _variant(row: Row) -> list[str]:
    """What tells a score of a task from the task's others, shortest where it is the plain one."""
    clean = row["condition"] == row["train_condition"] == "clean"
    heard = [] if clean else [f"{row['train_condition']} to {row['condition']}"]
    own = [OWN_HEAD] if row["head"] == OWN_HEAD else []
    return (
        own
        + heard
        + ([f"{row['train_domain']} to {row['test_domain']}"] if row["train_domain"] else [])
    )


def _told(row: Row) -> list[str]:
    """What a value is, in words."""
    unit = "bits per label" if row["metric"] == BITS else "a fraction"
    layer = (
        "a learned sum of all layers"
        if row["layer"] == WEIGHTED
        else f"layer {row['layer']}, chosen on dev"
    )
    ends: str = (
        "" if pd.isna(row["low"]) else f"95 % interval {row['low']:.4f} to {row['high']:.4f}, "
    )
    better = "higher" if row["higher_is_better"] else "lower"
    return [
        f"{row['metric']}, {unit}, {better} is better",
        f"head {row['head']} on {layer}",
        f"{ends}n {row['n']}, {row['n_blocks']} speakers or utterances resampled",
        *_variant(row),
    ]


def _card(
    spec: str, rows: pd.DataFrame, kinds: Mapping[str, str], datasets: Mapping[str, str]
) -> str:
    """The card's snippet: metadata and a table."""
    index = [
        {
            "name": unrevised(spec),
            "results": [_result(row, kinds, datasets) for row in rows.to_dict("records")],
        }
    ]
    return f"---\nmodel-index:\n{yaml(index)}---\n{ABOUT_PROBES}{to_markdown(rows, layers=False)}"


def _result(row: Row, kinds: Mapping[str, str], datasets: Mapping[str, str]) -> dict[str, Any]:
    interval: dict[str, float] = (
        {} if pd.isna(row["low"]) else {"low": row["low"], "high": row["high"]}
    )
    split = "train" if row["metric"] == BITS else "test"
    variant = {"config": ", ".join(_variant(row))} if _variant(row) else {}
    return {
        "task": {"type": TASK_TYPES.get(kinds[row["task"]], ELSE), "name": row["task"]},
        "dataset": {
            "type": datasets.get(row["corpus"], row["corpus"]),
            "name": row["corpus"],
            **variant,
            "split": split,
        },
        "metrics": [
            {
                "type": row["metric"],
                "value": row["value"],
                "name": f"{row['metric']} ({row['head']}, layer {row['layer']})",
                "args": {**interval, "n": row["n"], "n_blocks": row["n_blocks"]},
            }
        ],
    }


def yaml(value: list[Any] | Mapping[str, Any], indent: str = "") -> str:
    """Lists and objects as YAML in block style, a line for each text or number; keys are plain
    words of ours.
    """
    items = value.items() if isinstance(value, Mapping) else (("-", item) for item in value)
    return "".join(_item(key, item, indent) for key, item in items)


def _item(key: str, item: Any, indent: str) -> str:
    head = f"{indent}-" if key == "-" else f"{indent}{key}:"
    if not isinstance(item, Mapping | list):
        return f"{head} {_scalar(item)}\n"
    block = yaml(item, f"{indent}  ")
    return f"{head} {block.lstrip()}" if key == "-" else f"{head}\n{block}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return '"' + "".join(map(_quoted, value)) + '"'
    # Six digits and never an exponent: 1e-05 is a text in YAML 1.1.
    return f"{value:.6f}" if isinstance(value, float) else str(int(value))


def _quoted(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"
