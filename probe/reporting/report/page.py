"""One HTML file that holds a whole comparison: the answer in words, tables, layer curves,
conditions, domains, errors, provenance.

The page needs no network and no other file. Python puts the numbers, rounded as they are shown,
into one JSON block; ``report.js`` draws them. Whatever comes from records or outcomes is text to
the page: the JSON escapes ``<``, ``>`` and ``&``, the script sets text content only, and the
Content-Security-Policy allows only the script and the style in the file, by their hashes.
"""

import base64
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.errors import listed
from probe.files import write_atomically
from probe.measures.metrics import CODELENGTH, metric_of
from probe.records import ACROSS_CONDITIONS, PER_FOLD, QUESTION
from probe.reporting.layer_choices import how_sure
from probe.reporting.layer_statements import curves_of_records, curves_of_similarity, verdicts
from probe.reporting.losses import Losses
from probe.reporting.report.confusions import confusions
from probe.reporting.report.repeat_commands import commands, in_order
from probe.reporting.report.summary import answers, baselines, headline, near_chance
from probe.reporting.report.utterances import error_rows, outcome_faults
from probe.reporting.scores import BASELINES, Scores, with_all_labels
from probe.reporting.tables.similarity_tables import read_similarity
from probe.reporting.text import one_line, trained_on
from probe.version import __version__

log = logging.getLogger("probe")

HERE = Path(__file__).parent
TITLE = "layerprobe report"
PLACE = [*QUESTION, "metric"]
# Names of columns in the page -> in rows.
ENDS = {"value": "value", "low": "low", "high": "high"}
CURVE = ENDS | {"dev": "dev_value"}
LOSSES = ENDS | {"loss": "loss", "loss_low": "loss_low", "loss_high": "loss_high"}
SCORES = ENDS | {"last": "last_value", "final": "final_value", "weighted": "weighted_value"}
SCORES |= {name: name for name in BASELINES}
Columns = dict[str, list[Any]]


def write_report(
    records: pd.DataFrame,
    to: str | Path,
    folders: Sequence[str | Path] = (),
    outcomes: bool = True,
    title: str = TITLE,
) -> Path:
    """Write the page.

    Args:
        records: see `probe.records.read_records`.
        to: the file; its folder is made.
        folders: the folders of the records, for the outcomes beside them.
        outcomes: whether to show errors, which hold keys, names and transcripts of the corpus.
        title: of the page.

    Raises:
        ProbeError: see `probe.reporting.scores.Scores.of`.
        OSError: the file cannot be written.
    """
    to = Path(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    data = content(records, [Path(folder) for folder in folders], outcomes)
    for line in data["errors_left_out"]:
        log.warning("%s", line)
    write_atomically(to, page(data, title).encode())
    return to


def page(data: Mapping[str, Any], title: str = TITLE) -> str:
    """The HTML of what `content` returns."""
    script, style = (
        (HERE / f"report.{ending}").read_text(encoding="utf-8") for ending in ("js", "css")
    )
    text = json.dumps({"title": one_line(title), **data}, separators=(",", ":"), allow_nan=False)
    parts = {
        "policy": f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "data": re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text),
    }
    template = (HERE / "report.html").read_text(encoding="utf-8")
    # One pass, so that placeholders in data are never replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def content(
    records: pd.DataFrame, folders: Sequence[Path] = (), outcomes: bool = True
) -> dict[str, Any]:
    """What the page shows, as JSON values; tables are objects of columns, scores are in the unit
    that their metric is printed in.

    ``scores`` and ``curves`` refer to ``questions`` by position; rows of other tables that belong
    together have equal texts in ``question``. Scores are of the headline heads; data and provenance
    are of all records.
    """
    records = Scores.of(records, all_heads=True).records
    scores = Scores(records[records["headline"]])
    rows = scores.chosen()
    conditions = Losses(scores).chosen
    is_main = conditions[["task", "metric"]].apply(tuple, axis=1).isin(_main_metrics(records))
    conditions = conditions[is_main]
    errors, faults = pd.DataFrame(), []
    if outcomes:
        errors = pd.DataFrame(error_rows(folders, set(records["file"]) - {""} or None))
        faults = [one_line(line) for line in outcome_faults(folders)]
    questions, layers = _questions(rows), scores.layers(marked=False)
    entries = answers(rows)
    return {
        "version": __version__,
        "n_records": len(records),
        "models": _distinct(records["model"]),
        "tasks": _distinct(records["task"]),
        "n_conditions": len(in_order(records["condition"])),
        "baselines": baselines(_distinct(scores.specs.values())),
        "questions": _objects(questions),
        "headline": headline(entries),
        "answers": entries,
        "scores": _scores(rows, questions),
        "curves": _curves(layers, questions),
        "statements": _statements(layers, scores.specs, folders),
        "conditions": _conditions(conditions),
        "sampling": _sampling(scores),
        "domains": _domains(scores.domains()),
        "confusions": _confusions(scores, rows),
        "errors": _errors(errors),
        "errors_left_out": faults,
        "corpora": _corpora(records),
        "recipes": _recipes(records),
        "code": _code(records),
        "commands": commands(records),
    }


def _questions(rows: pd.DataFrame) -> pd.DataFrame:
    """The distinct places of scores; metrics that choose layers first, codelengths last."""
    is_main = rows["metric"] == rows["select_by"]
    rows = rows.assign(main=is_main, higher=rows["higher_is_better"].astype(bool))
    rows = rows.assign(**_printed(rows))
    order = (~is_main).astype(int) + (rows["metric"] == CODELENGTH.name)
    rows = rows.iloc[np.argsort(order.to_numpy(), kind="stable")].drop_duplicates(PLACE)
    rows = rows.assign(setting=_settings(rows), label=_labels(rows, PLACE))
    return rows[[*PLACE, "setting", "label", "digits", "unit", "main", "higher"]].reset_index(
        drop=True
    )


def _printed(rows: pd.DataFrame) -> Columns:
    """How the numbers of each row's metric are printed: ``digits`` after the point, 0 for all that
    `probe.measures.metrics.Metric.rounded` leaves, and ``unit``.
    """
    metrics = [metric_of(name) for name in rows["metric"]]
    units = {"bits per label": "bits", "unit of the label": "in the label's unit"}
    digits = [0 if one.unit == "unit of the label" else one.decimals(0) for one in metrics]
    printed = [one.printed_unit for one in metrics]
    return {"digits": digits, "unit": [units.get(unit, unit) for unit in printed]}


def _settings(rows: pd.DataFrame) -> list[str]:
    """What is special about the audio and the domains of each row; empty for clean audio."""
    texts = []
    empty = pd.Series("", rows.index)
    columns = [rows.get(name, empty) for name in PLACE[2:6]]
    for condition, trained, source, target in zip(*columns, strict=True):
        parts = ["" if condition == CLEAN else condition, trained_on(trained)]
        parts += [f"{source} → {target}"] if source else []
        texts.append(", ".join(filter(None, parts)))
    return texts


def _labels(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """A text for what each row has in these columns, without what is the same everywhere."""
    places = rows.reindex(columns=[name for name in PLACE if name in names])
    several = {name: rows[name].nunique() > 1 for name in ("corpus", "head") if name in names}
    labels = []
    for row, setting in zip(rows.to_dict("records"), _settings(places), strict=True):
        parts = [row["task"], row["corpus"] if several["corpus"] else "", row.get("metric", "")]
        parts += [setting, row["head"] if several.get("head") else ""]
        labels.append(" · ".join(one_line(part) for part in parts if part))
    return labels


def _positions(rows: pd.DataFrame, questions: pd.DataFrame) -> "pd.Series[float]":
    """The position of each row's question; NaN where there is none."""
    numbered = questions[PLACE].assign(q=range(len(questions)))
    return rows[PLACE].merge(numbered, on=PLACE, how="left")["q"].set_axis(rows.index)


def _scores(rows: pd.DataFrame, questions: pd.DataFrame) -> Columns:
    """One row per score at the layer that dev chose; columns without a value are left out."""
    columns = _texts(rows, ["model", "head", "layer", "mark", "last_layer", "note"])
    columns["choice"] = [how_sure(row) for row in rows.to_dict("records")]
    columns |= {"q": _positions(rows, questions).astype(int).tolist()} | _percents(rows, SCORES)
    columns |= {"n": rows["n"].tolist(), "blocks": rows["n_blocks"].tolist()}
    columns["shared"] = [int(n) if n > 0 else None for n in rows["shared_speakers"]]
    columns["chance"] = [
        bool(row["value"] == row["value"] and near_chance(row)) for row in rows.to_dict("records")
    ]
    return {name: values for name, values in columns.items() if set(values) - {None, "", False}}


def _curves(rows: pd.DataFrame, questions: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per model, head and question: columns over its layers, the position of the chosen
    one, and where it is known how sure the choice is, the share of resamples that choose each layer
    in percent and the positions of the smallest set that most of them choose from.
    """
    rows = rows[rows["layer"] != PER_FOLD]
    rows = rows.assign(q=_positions(rows, questions))
    curves = []
    for _, group in rows.groupby(["q", "model", "head"], sort=False):
        if group["value"].notna().any():
            first = group.iloc[0]
            chosen = np.flatnonzero(group["chosen"]).tolist()
            about: dict[str, Any] = {"q": int(first["q"])}
            about |= {name: one_line(first[name]) for name in ("model", "head")}
            about["layers"] = [one_line(str(layer)) for layer in group["layer"]]
            about |= _percents(group, CURVE) | {"chosen": chosen[0] if chosen else None}
            if group["layer_share"].notna().any():
                about["shares"] = _rounded(100 * group["layer_share"], 1)
                about["likely"] = np.flatnonzero(group["in_layer_set"]).tolist()
            curves.append(about)
    return curves


def _statements(layers: pd.DataFrame, specs: Mapping[str, str], folders: Sequence[Path]) -> Columns:
    """What publications say of these layers, and whether it holds."""
    curves = curves_of_records(layers, specs)
    compared = [
        folder / "similarity" for folder in folders if any(folder.glob("similarity/*.json"))
    ]
    if compared:
        curves += curves_of_similarity(read_similarity(*compared))
    rows = verdicts(curves)
    return _texts(rows, list(map(str, rows))) if len(rows) else {}


def _main_metrics(records: pd.DataFrame) -> list[tuple[str, str]]:
    """Each task with the metric that chooses its layers."""
    pairs = records[["task", "select_by"]].drop_duplicates()
    return list(pairs.itertuples(index=False, name=None))


def _conditions(rows: pd.DataFrame) -> Columns:
    """What each model loses under each condition, the mildest first."""
    columns = _texts(rows, [*ACROSS_CONDITIONS, "model", "layer", "condition", "chance"])
    return _of_questions(rows, ACROSS_CONDITIONS, columns | _percents(rows, LOSSES))


def _domains(rows: pd.DataFrame) -> Columns:
    """Scores of models that were trained on one domain in another, at the layer that dev chose."""
    by = ["task", "corpus", "condition", "metric", "head"]
    columns = _texts(rows, [*by, "model", "layer", "train_domain", "test_domain", "note"])
    return _of_questions(rows, by, columns | _percents(rows, ENDS))


def _confusions(scores: Scores, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """See `probe.reporting.report.confusions.confusions`; ``question`` says what each is of."""
    entries = confusions(scores.records, rows)
    if not entries:
        return []
    by = ["task", "corpus", "condition", "train_condition", "train_domain", "test_domain", "head"]
    labels = _labels(pd.DataFrame(entries), by)
    shown = ("model", "layer", "classes", "counts")
    return [
        {"question": label, **{name: entry[name] for name in shown}}
        for label, entry in zip(labels, entries, strict=True)
    ]


def _of_questions(rows: pd.DataFrame, by: Sequence[str], columns: Columns) -> Columns:
    higher = rows["higher_is_better"].astype(bool).tolist()
    about: Columns = {"question": _labels(rows, by), "higher": higher, **_printed(rows)}
    return columns | about if len(rows) else {}


def _sampling(scores: Scores) -> str:
    """Which seed the conditions have, where several were run."""
    if scores.records.groupby(["task", "corpus"])["seed"].nunique().max() == 1:
        return ""
    seeds = listed(list(map(str, sorted(set(scores.one_sampling.records["seed"])))))
    return (
        "Several seeds were run, and other scores on this page are their means. This section shows "
        f"the first seed that all models and conditions of a task have ({seeds}), so values and "
        "layers may differ from those above."
    )


def _errors(rows: pd.DataFrame) -> Columns:
    """See `probe.reporting.report.utterances.error_rows`."""
    if rows.empty:
        return {}
    by = [*PLACE[:-1], "head"]
    texts = ["model", "layer", "seed", "key", "reference", "hypothesis", "speaker"]
    columns = _texts(rows, [*by, *texts])
    columns["wrong"] = _rounded(100 * rows["badness"], 1)
    columns["duration_s"] = _rounded(rows["duration_s"], 2)
    counts = {name: rows[name].tolist() for name in ("models_wrong", "models")}
    return columns | counts | {"question": _labels(rows, by)}


def _corpora(records: pd.DataFrame) -> Columns:
    """Utterances, trials or frames of every corpus, task and split."""
    by = ["corpus", "task", "split"]
    table = (
        with_all_labels(records)
        .groupby(by)
        .agg(
            n=("n", "max"),
            blocks=("n_blocks", "max"),
            n_train=("n_train", "max"),
            manifest=("manifest_sha256", lambda hashes: hashes.iloc[0][:8]),
            conditions=("condition", lambda names: ", ".join(in_order(names))),
            left_out=("excluded", _left_out),
        )
    )
    table = table.reset_index()
    numbers = {name: table[name].astype(int).tolist() for name in ("n", "blocks", "n_train")}
    return _texts(table, [*by, "conditions", "left_out", "manifest"]) | numbers


def _left_out(excluded: Iterable[Mapping[str, int]]) -> str:
    """The reasons for which utterances were left out, each with the largest number."""
    most = pd.DataFrame(list(excluded)).max()
    return ", ".join(f"{n:.0f} {reason}" for reason, n in most.sort_index().items())


def _recipes(records: pd.DataFrame) -> Columns:
    """Revision of every model, hashes of the recipes of its features, and the tasks that read
    them.
    """
    by = ["model", "revision", "corpus", "condition", "train_condition", "recipe"]
    tasks = records.groupby(by)["task"].agg(lambda names: ", ".join(_distinct(names)))
    table = tasks.reset_index()
    return _texts(table.assign(recipe=table["recipe"].str[:8]), [*by, "task"])


def _code(records: pd.DataFrame) -> Columns:
    """Code, libraries, device and seed of the records, and how many records have them."""
    codes = records["code"].map(
        lambda code: " ".join(code[name] for name in ("version", "commit") if code.get(name))
    )
    packages = records["packages"].map(
        lambda versions: ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))
    )
    columns = {"code": codes, "packages": packages, "device": records["device"]}
    columns["seed"] = records["seed"].astype(str)
    table = pd.DataFrame(columns).groupby(list(columns)).size().reset_index(name="records")
    return _texts(table, list(columns)) | {"records": table["records"].tolist()}


def _distinct(names: Iterable[str]) -> list[str]:
    return [one_line(name) for name in sorted(set(names))]


def _texts(rows: pd.DataFrame, names: Sequence[str]) -> Columns:
    """Columns of texts on one line each, empty where there is nothing."""
    return {
        name: ["" if pd.isna(value) else one_line(str(value)) for value in rows[name].tolist()]
        for name in names
    }


def _objects(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as objects, with texts on one line."""
    return [
        {str(key): one_line(item) if isinstance(item, str) else item for key, item in row.items()}
        for row in rows.to_dict("records")
    ]


def _percents(rows: pd.DataFrame, names: Mapping[str, str]) -> Columns:
    """Columns of values as the page shows them, see `probe.measures.metrics.Metric.rounded`."""
    metrics = [metric_of(name) for name in rows["metric"]]
    return {
        name: [
            metric.rounded(value) if np.isfinite(value) else None
            for metric, value in zip(metrics, rows[column].astype(float), strict=True)
        ]
        for name, column in names.items()
    }


def _rounded(values: "pd.Series[Any]", digits: int) -> list[float | None]:
    """Rounded numbers, None where there is no finite one."""
    return [round(value, digits) if np.isfinite(value) else None for value in values.astype(float)]


def _hash(text: str) -> str:
    """The name of a script or a style in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
