"""Scores in the forms of the Hugging Face Hub: evaluation results, and a snippet for a model card.

Each model of the Hub gets a folder:

* ``.eval_results/<task>.yaml``, for the model's repository
  (https://huggingface.co/docs/hub/eval-results): a list of entries with a dataset that is a
  benchmark on the Hub, a ``task_id`` that the dataset's ``eval.yaml`` names, and a value;
* ``model-card.md``: ``model-index`` metadata
  (https://github.com/huggingface/hub-docs/blob/main/modelcard.md) and a table with intervals, to be
  copied into the model's README.md.

The rows are test scores at the layer that dev chose; values are fractions (bits for codelengths).
Filter banks, random weights and local folders are not on the Hub and have no files. A few lines of
our own write YAML: every text stands between double quotes on one line, so that no name can be
anything but a text.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import ProbeError
from probe.files import file_name, write_atomically
from probe.measures.metrics import metric_of
from probe.model_names import RANDOM, SPECTRAL, unrevised
from probe.records import OWN_HEADS, PER_FOLD, WEIGHTED
from probe.reporting.scores import Scores
from probe.reporting.tables.score_tables import to_markdown

Row = Mapping[Hashable, Any]
REPOSITORY = r"[A-Za-z0-9][\w.-]*/[\w.-]+"  # org/name, the only form of a name on the Hub
# Tasks of the Hub, which has none of verification.
TRANSCRIPTION, CLASSIFICATION = "automatic-speech-recognition", "audio-classification"
ABOUT_PROBES = """# Layers

Scores of probes on the frozen model, measured with layerprobe: test scores at the layer that is
best on dev, with 95 % intervals over speakers. They say what a layer makes easy to read, not
what the model does when it is fine-tuned.

"""


def write_cards(
    records: pd.DataFrame, to: Path, datasets: Mapping[str, str]
) -> tuple[list[Path], list[str]]:
    """Write the files of each model of the Hub.

    Args:
        records: see `probe.records.read_records`.
        datasets: corpus -> its dataset on the Hub; the scores of other corpora stand in the card
            only.

    Returns:
        The files, and what was left out and why.

    Raises:
        ProbeError: no model is on the Hub, a corpus has no record, or see
            `probe.reporting.scores.Scores.of`.
        OSError: a file cannot be written.
    """
    corpora = sorted(set(records["corpus"]))
    if unknown := sorted(datasets.keys() - set(corpora)):
        raise ProbeError(
            f"corpus {unknown[0]!r}: no record has it; there are {', '.join(corpora)}."
        )
    scores = Scores.of(records)
    # The best of several models says nothing in the card of one.
    rows = scores.chosen().assign(mark="")
    rows = rows[rows["value"].notna()]
    written, left_out = [], []
    for name, of_model in records.groupby("model"):
        model, about, spec = str(name), of_model.iloc[0].to_dict(), scores.specs[str(name)]
        if reason := _not_on_hub(spec, str(about["revision"])):
            left_out.append(f"{model}: {reason}")
            continue
        of_card = rows[rows["model"] == model]
        texts = {"model-card.md": _card(spec, of_card, datasets)}
        for task, group in of_card[of_card["corpus"].isin(list(datasets))].groupby("task"):
            entries = [_entry(row, about, datasets) for row in group.to_dict("records")]
            texts[f".eval_results/{file_name(str(task))}.yaml"] = yaml(entries)
        for file, text in texts.items():
            path = to / file_name(model) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())
            written.append(path)
    if not written:
        raise ProbeError(f"none of these models is on the Hub. {'; '.join(left_out)}.")
    left_out += [
        f"{corpus}: no .eval_results, which need its dataset on the Hub "
        f"(--dataset {corpus}=org/name)"
        for corpus in sorted(set(rows["corpus"]) - datasets.keys())
    ]
    return written, left_out


def _not_on_hub(spec: str, revision: str) -> str:
    """Why a model has no repository on the Hub; empty where it has one."""
    if re.fullmatch(f"{REPOSITORY}(@.+)?", spec) and re.fullmatch("[0-9a-f]{40}", revision):
        return ""
    if spec.startswith(RANDOM):
        return "random weights are a baseline"
    if spec in SPECTRAL:
        return "a baseline, no model of the Hub"
    return f"of revision {revision!r}, no commit of the Hub"


def _entry(row: Row, about: Row, datasets: Mapping[str, str]) -> dict[str, Any]:
    """An evaluation result; no other has its ``task_id``."""
    versions = [f"model {about['revision']}", f"layerprobe {about['code'].get('version', '')}"]
    task_id = "/".join([row["task"], row["metric"], *_variant(row)])
    return {
        "dataset": {"id": datasets[row["corpus"]], "task_id": task_id},
        "value": row["value"],
        "notes": "; ".join([*_notes(row), *versions]),
    }


def _variant(row: Row) -> list[str]:
    """How a score of a task differs from the plain one: own head, conditions, domains."""
    parts = [row["head"]] if row["head"] in OWN_HEADS else []
    if not row["condition"] == row["train_condition"] == CLEAN:
        parts.append(f"{row['train_condition']} to {row['condition']}")
    if row["train_domain"]:
        parts.append(f"{row['train_domain']} to {row['test_domain']}")
    return parts


def _notes(row: Row) -> list[str]:
    """A value in words."""
    of_metric = metric_of(row["metric"]).unit
    unit = of_metric if of_metric.startswith("bits") else "a fraction"
    layer = f"layer {row['layer']}, chosen on dev"
    if row["layer"] == PER_FOLD:
        layer = "the layer that each fold chose on its dev set"
    if row["layer"] == WEIGHTED:
        layer = "a learned sum of all layers"
    interval: str = ""
    if not pd.isna(row["low"]):
        interval = f"95 % interval {row['low']:.4f} to {row['high']:.4f}, "
    better = "higher" if row["higher_is_better"] else "lower"
    return [
        f"{row['metric']}, {unit}, {better} is better",
        f"head {row['head']} on {layer}",
        f"{interval}n {row['n']}, {row['n_blocks']} speakers or other blocks",
        *_variant(row),
    ]


def _card(spec: str, rows: pd.DataFrame, datasets: Mapping[str, str]) -> str:
    """The card's snippet: metadata and a table."""
    results = [_result(row, datasets) for row in rows.to_dict("records")]
    index = yaml([{"name": unrevised(spec), "results": results}])
    return f"---\nmodel-index:\n{index}---\n{ABOUT_PROBES}{to_markdown(rows, layers=False)}"


def _result(row: Row, datasets: Mapping[str, str]) -> dict[str, Any]:
    corpus, metric, variant = row["corpus"], row["metric"], ", ".join(_variant(row))
    dataset = {"type": datasets.get(corpus, corpus), "name": corpus}
    dataset |= {"config": variant} if variant else {}
    dataset["split"] = "train" if metric_of(metric).in_bits else "test"
    interval: dict[str, float] = (
        {} if pd.isna(row["low"]) else {"low": row["low"], "high": row["high"]}
    )
    value = {
        "type": metric,
        "value": row["value"],
        "name": f"{metric} ({row['head']}, layer {row['layer']})",
        "args": {**interval, "n": row["n"], "n_blocks": row["n_blocks"]},
    }
    of_transcripts = metric_of(metric).of_transcripts
    task = TRANSCRIPTION if of_transcripts else CLASSIFICATION
    return {"task": {"type": task, "name": row["task"]}, "dataset": dataset, "metrics": [value]}


def yaml(value: list[Any] | Mapping[str, Any], indent: str = "") -> str:
    """Lists and objects as YAML in block style; keys must be plain words."""
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
