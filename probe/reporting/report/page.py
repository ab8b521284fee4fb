"""One HTML file that holds a whole comparison: the answer in words, tables, layer curves,
conditions, domains, errors, provenance.

The page needs no network and no other file. Python puts the numbers, rounded as they are shown,
into one JSON block; ``report.js`` draws them. Whatever comes from records or outcomes is text to
the page: in the JSON ``<``, ``>`` and ``&`` are escapes, the script sets text content only, and the
Content-Security-Policy allows no script and no style but the two in the file, by their hashes.
"""

import base64
import hashlib
import json
import logging
import math
import re
import shlex
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import listed
from probe.files import write_atomically
from probe.records import CHOICE, NO_LAYER, SEVERAL, chosen_layers
from probe.reporting.domain_gaps import crossed
from probe.reporting.filters import comparable
from probe.reporting.losses import CLEAN, WORST, by_severity, condition_rows, first_sampling
from probe.reporting.report.repeat_commands import PLACEHOLDERS, exact_commands
from probe.reporting.report.summary import answers, baselines, headline, near_chance
from probe.reporting.report.utterances import error_rows, outcome_faults
from probe.reporting.rows import layer_rows, one_line, specs_of, summary_rows
from probe.reporting.ties import BITS
from probe.version import __version__

log = logging.getLogger("probe")

HERE = Path(__file__).parent
TITLE = "layerprobe report"
PLACE = ["task", "corpus", "condition", "train_condition", "train_domain", "test_domain", "metric"]
SCORES = {
    "value": "value",
    "low": "low",
    "high": "high",
    "last": "last_value",
    "final": "final_value",
}
SCORES |= {name: name for name in ("majority", "shuffled", "fbank", "random")} | {
    "weighted": "weighted_value"
}
CURVE = {"value": "value", "low": "low", "high": "high", "dev": "dev_value"}
LOST = ["value", "low", "high", "loss", "loss_low", "loss_high"]
Columns = dict[str, list[Any]]


def write_report(
    records: pd.DataFrame,
    to: Path,
    folders: Sequence[Path] = (),
    outcomes: bool = True,
    title: str = TITLE,
) -> Path:
    """Writes the page.

    Args:
        records: see `probe.records.read_records`.
        to: the file; its folder is made.
        folders: where the records lie, for the outcomes beside them.
        outcomes: whether to show errors, which hold keys, names and transcripts of the corpus.
        title: of the page.

    Raises:
        ProbeError: see `probe.reporting.comparable_files.comparable`.
        OSError: the file cannot be written.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    shown = content(records, folders, outcomes)
    for line in shown["errors_left_out"]:
        log.warning("%s", line)
    write_atomically(to, page(shown, title).encode())
    return to


def page(data: Mapping[str, Any], title: str = TITLE) -> str:
    """The HTML of what `content` returns."""
    script, style = (
        (HERE / f"report.{ending}").read_text(encoding="utf-8") for ending in ("js", "css")
    )
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'"
    text = json.dumps({"title": one_line(title), **data}, separators=(",", ":"), allow_nan=False)
    escaped = re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)
    parts = {"policy": policy, "style": style, "script": script, "data": escaped}
    template = (HERE / "report.html").read_text(encoding="utf-8")
    return re.sub(
        r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template
    )  # one pass: data are never searched


def content(
    records: pd.DataFrame, folders: Sequence[Path] = (), outcomes: bool = True
) -> dict[str, Any]:
    """What the page shows, as JSON values; tables are objects of columns, scores in percent
    (codelengths in bits).

    ``scores``, ``curves``, ``domains`` name their question by its number in ``questions``.
    """
    records = comparable(records)
    rows, layers = summary_rows(records), layer_rows(records, marked=False)
    moved = crossed(records)
    across = rows if moved is records else summary_rows(moved)
    across = across[(across["train_domain"] != "") & (across["metric"] != BITS)]
    sampled = first_sampling(records)
    lost = condition_rows(_at_chosen_layers(sampled))
    lost = lost[lost["chosen"].astype(bool) & (lost["condition"] != WORST)]
    questions = _questions(rows)
    number = {tuple(question[name] for name in PLACE): at for at, question in enumerate(questions)}
    told = answers(rows)
    return {
        "version": __version__,
        "n_records": len(records),
        "models": _ordered(records["model"]),
        "baselines": baselines(_ordered(records["model"].map(specs_of(records)))),
        "questions": [_texts(question) for question in questions],
        "headline": headline(told),
        "answers": told,
        "scores": _scores(rows, number),
        "curves": _curves(layers, number),
        "conditions": _conditions(lost),
        "sampling": _sampling(records, sampled),
        "domains": _domains(across),
        "errors": _errors(
            error_rows(folders, set(records["file"]) - {""} or None) if outcomes else []
        ),
        "errors_left_out": [one_line(line) for line in outcome_faults(folders)] if outcomes else [],
        "corpora": _corpora(records),
        "recipes": _recipes(records),
        "code": _code(records),
        "commands": _commands(records),
    }


def _questions(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The distinct places of scores; those that choose layers first, codelengths last."""
    first = rows.assign(
        rank=(rows["metric"] != rows["select_by"]).astype(int) + (rows["metric"] == BITS)
    ).sort_values("rank", kind="stable")
    found = first.drop_duplicates(PLACE)
    return [
        {name: row[name] for name in PLACE}
        | {
            "higher": bool(row["higher_is_better"]),
            "bits": row["metric"] == BITS,
            "main": row["metric"] == row["select_by"],
        }
        for row in found.to_dict("records")
    ]


def _scores(rows: pd.DataFrame, number: Mapping[tuple[Hashable, ...], int]) -> Columns:
    """One row per score at the layer that dev chose."""
    found = _columns(rows, ["model", "head", "layer", "mark", "last_layer", "note"])
    found |= {
        "q": _places(rows, number),
        "n": rows["n"].tolist(),
        "blocks": rows["n_blocks"].tolist(),
    }
    found |= {name: _shown(rows[column], rows["metric"]) for name, column in SCORES.items()}
    found["shared"] = [int(n) if n > 0 else None for n in rows["shared_speakers"]]
    found["chance"] = [
        bool(row["value"] == row["value"] and near_chance(row)) for row in rows.to_dict("records")
    ]
    return {
        name: column
        for name, column in found.items()
        if any(value not in (None, "", False) for value in column)
    }


def _curves(rows: pd.DataFrame, number: Mapping[tuple[Hashable, ...], int]) -> list[dict[str, Any]]:
    """One entry per model, head and question: columns over its layers, and the position of the
    chosen one.
    """
    shown = rows.assign(
        **{
            name: np.array(_shown(rows[column], rows["metric"]), float)
            for name, column in CURVE.items()
        }
    )
    curves = []
    for names, group in shown.groupby([*PLACE, "model", "head"], sort=False):
        *place, model, head = map(str, names)
        if tuple(place) in number and group["value"].notna().any():
            values: dict[str, Any] = {name: _none(group[name].tolist()) for name in CURVE}
            layers = [one_line(str(layer)) for layer in group["layer"].tolist()]
            chosen = [at for at, is_chosen in enumerate(group["chosen"]) if is_chosen]
            about = {
                "q": number[tuple(place)],
                "model": one_line(model),
                "head": one_line(head),
                "layers": layers,
            }
            curves.append(about | values | {"chosen": chosen[0] if chosen else None})
    return curves


def _at_chosen_layers(records: pd.DataFrame) -> pd.DataFrame:
    """The records of the layers that dev chose, and of no layer: robustness of every layer is
    another table's.
    """
    chosen = (
        records[CHOICE]
        .merge(chosen_layers(records), on=CHOICE, how="left")["chosen_layer"]
        .to_numpy()
    )
    main = (records["metric"] == records["select_by"]).to_numpy()
    kept = (records["layer"].to_numpy() == chosen) | (records["layer"] == NO_LAYER).to_numpy()
    return records[kept & main]


def _conditions(rows: pd.DataFrame) -> Columns:
    """What each model loses under each condition, the milder first."""
    found = _columns(
        rows,
        [
            "task",
            "corpus",
            "train_condition",
            "metric",
            "head",
            "model",
            "layer",
            "condition",
            "chance",
        ],
    )
    found |= {name: _shown(rows[name], rows["metric"]) for name in LOST}
    return found | {"higher": rows["higher_is_better"].astype(bool).tolist()} if len(rows) else {}


def _sampling(records: pd.DataFrame, sampled: pd.DataFrame) -> str:
    """Which seed stands under the conditions, where several were run."""
    if records.groupby(["task", "corpus"])["seed"].nunique().max() == 1:
        return ""
    shown = listed([str(seed) for seed in sorted(set(sampled["seed"]))])
    return (
        "Several seeds were run, and scores elsewhere on this page are their means. Here stands one alone, the first that all models "
        f"and conditions of a task have ({shown}): values and layers may differ from those above."
    )


def _domains(rows: pd.DataFrame) -> Columns:
    """Scores of trainings on one domain in another, at the layer that dev chose in the first."""
    found = _columns(
        rows,
        [
            "task",
            "corpus",
            "condition",
            "metric",
            "head",
            "model",
            "layer",
            "train_domain",
            "test_domain",
            "note",
        ],
    )
    found |= {name: _shown(rows[name], rows["metric"]) for name in ("value", "low", "high")}
    return found | {"higher": rows["higher_is_better"].astype(bool).tolist()} if len(rows) else {}


def _errors(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """See `probe.reporting.report.utterances.error_rows`."""
    names = [
        *["task", "corpus", "condition", "train_condition", "train_domain", "test_domain"],
        *["head", "model", "layer", "seed", "key"],
    ]
    found: Columns = {
        name: [one_line(str(row[name])) for row in rows]
        for name in [*names, "reference", "hypothesis", "speaker"]
    }
    found["wrong"] = [_number(100 * row["badness"]) for row in rows]
    found["duration_s"] = [_number(row["duration_s"], 2) for row in rows]
    found |= {name: [row[name] for row in rows] for name in ("models_wrong", "models")}
    return found if rows else {}


def _corpora(records: pd.DataFrame) -> Columns:
    """Utterances, trials or frames of every corpus, task and split."""
    by = ["corpus", "task", "split"]
    asked = records[(records["control"] == "") & (records["budget"] == "")]
    found = asked.groupby(by, sort=True).agg(
        n=("n", "max"),
        blocks=("n_blocks", "max"),
        n_train=("n_train", "max"),
        manifest=("manifest_sha256", "first"),
    )
    heard = asked.groupby(by)["condition"].agg(lambda names: ", ".join(_in_order(names)))
    left_out = asked.groupby(by)["excluded"].agg(_left_out)
    table = found.assign(conditions=heard, left_out=left_out).reset_index()
    table["manifest"] = table["manifest"].str[:8]
    numbers = {name: table[name].astype(int).tolist() for name in ("n", "blocks", "n_train")}
    return _columns(table, [*by, "conditions", "left_out", "manifest"]) | numbers


def _left_out(excluded: Iterable[Mapping[str, int]]) -> str:
    most: dict[str, int] = {}
    for item in excluded:
        most |= {reason: max(n, most.get(reason, 0)) for reason, n in item.items()}
    return ", ".join(f"{n} {reason}" for reason, n in sorted(most.items()))


def _recipes(records: pd.DataFrame) -> Columns:
    """What decided the features of every model: its revision, and the hashes of their recipes; and
    the tasks that read them.
    """
    by = ["model", "revision", "corpus", "condition", "train_condition", "recipe"]
    table = (
        records.groupby(by, sort=True)["task"]
        .agg(lambda names: ", ".join(_ordered(names)))
        .reset_index()
    )
    table["recipe"] = table["recipe"].str[:8]
    return _columns(table, [*by, "task"])


def _code(records: pd.DataFrame) -> Columns:
    """What the records were computed with, and how many each time."""
    packages = records["packages"].map(
        lambda found: ", ".join(f"{name} {value}" for name, value in sorted(found.items()))
    )
    codes = records["code"].map(
        lambda found: " ".join(found[name] for name in ("version", "commit") if found.get(name))
    )
    table = pd.DataFrame(
        {
            "code": codes,
            "packages": packages,
            "device": records["device"],
            "seed": records["seed"].astype(str),
        }
    )
    names = [str(name) for name in table]
    counted = table.groupby(names, sort=True).size().reset_index(name="records")
    return _columns(counted, names) | {"records": counted["records"].tolist()}


def _commands(records: pd.DataFrame) -> list[str]:
    """Commands that ask the same questions again; what records do not hold stands in capitals or as
    a bare name.

    Records of several seeds have the same names, so each seed has a folder.
    """
    seeds = sorted(set(records["seed"]))
    folder_of = {
        str(seed): f"results/seed{seed}/" if len(seeds) > 1 else "results/" for seed in seeds
    }
    whole = records["arguments"].map(lambda arguments: bool(arguments.get("corpus")))
    lines = exact_commands(records[whole], folder_of)
    if not whole.all():
        lines += [PLACEHOLDERS, *_named_commands(records[~whole], folder_of)]
    places = _options("--from", folder_of.values())
    return [
        *dict.fromkeys(lines),
        f"probe table{places} --to tables/",
        f"probe report{places} --to report.html",
    ]


def _named_commands(records: pd.DataFrame, folder_of: Mapping[str, str]) -> list[str]:
    """The commands as far as the names in records tell them."""
    lines = []
    for names, group in records.groupby(["task", "corpus", "kind", "seed"], sort=True):
        task, corpus, kind, seed = map(str, names)
        name, *changes = one_line(task).split(":")
        conditions = _in_order([*group["condition"], *group["train_condition"]])
        drawn = sorted({int(value) for value in group["condition_seed"].dropna()})
        asked = _options("--model", _ordered(group["model"])) + _options(
            "--corpus", [f"{one_line(corpus)}.csv"]
        )
        heard = _options("--condition", conditions) if conditions != [CLEAN] else ""
        changed = "".join(
            _options(f"--{key}", [value])
            for key, _, value in (change.partition("=") for change in changes)
        )
        lists = {"verify": " --trials TRIALS.csv", "frames": " --labels LABELS.csv"}.get(kind, "")
        drew = _options("--condition-seed", drawn[:1]) if any(drawn) else ""
        seeded = _options("--seed", [seed]) if seed != "0" else ""
        lines.append(f"probe extract{asked} --to features/ --view VIEW{heard}{drew}")
        lines.append(
            f"probe run {shlex.quote(name)}{asked}{lists}{heard}{changed}{seeded} --from features/ --to {folder_of[seed]}"
        )
    return lines


def _options(name: str, values: Iterable[object]) -> str:
    """An option as often as there are values, as a shell reads it."""
    return "".join(f" {name} {shlex.quote(one_line(str(value)))}" for value in values)


def _in_order(conditions: Iterable[str]) -> list[str]:
    """Distinct conditions, clean audio first, then the milder."""
    names = set(conditions) - {"", SEVERAL}
    return [*([CLEAN] if CLEAN in names else []), *by_severity(names - {CLEAN})]


def _ordered(names: Iterable[str]) -> list[str]:
    return [one_line(name) for name in sorted(set(names))]


def _places(rows: pd.DataFrame, number: Mapping[tuple[Hashable, ...], int]) -> list[int]:
    return [number[place] for place in rows[PLACE].itertuples(index=False, name=None)]


def _columns(rows: pd.DataFrame, names: Sequence[str]) -> Columns:
    """Columns of texts on one line each, empty where there is nothing."""
    return {
        name: ["" if pd.isna(value) else one_line(str(value)) for value in rows[name].tolist()]
        for name in names
    }


def _texts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: one_line(value) if isinstance(value, str) else value for name, value in values.items()
    }


def _shown(values: "pd.Series[float]", metrics: "pd.Series[str]") -> list[float | None]:
    """Values as the page shows them: percent with one decimal, bits with two, None where there is
    nothing.
    """
    numbers = values.to_numpy(float)
    return _none(np.where(metrics == BITS, numbers.round(2), (100 * numbers).round(1)))


def _none(values: Iterable[float]) -> list[float | None]:
    return [
        float(value) + 0.0 if math.isfinite(value) else None for value in values
    ]  # + 0.0: no "-0.0"


def _number(value: float | None, digits: int = 1) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits) + 0.0


def _hash(text: str) -> str:
    """As Content-Security-Policy names what may stand in a page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
