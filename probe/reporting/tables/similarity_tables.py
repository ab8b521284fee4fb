"""Tables and heat maps of comparisons, from the files of `probe.evaluation.layer_similarity` alone.

Values are as the files have them: cosine, CKA and PWCCA up to 1, relative distances in lengths of
the clean row.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.data.conditions.grammar import CLEAN
from probe.data.conditions.severity import by_severity
from probe.errors import ProbeError, listed
from probe.files import file_name, json_value, unread, write_atomically
from probe.records import readable
from probe.reporting.figures import style
from probe.reporting.figures.heat_map import HeatMap, maps_figure
from probe.reporting.figures.style import missing_matplotlib, write_figure
from probe.reporting.layer_statements import curves_of_similarity, verdicts
from probe.reporting.tables.grid import markdown
from probe.reporting.tables.score_tables import to_csv
from probe.reporting.text import DASH, escaped

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas.core.groupby import DataFrameGroupBy

FORMAT = 1
MEASURES = {
    "cosine": "cosine",
    "distance": "relative distance",
    "cka": "CKA",
    "cca": "CCA",
    "pwcca": "PWCCA",
    "mi": "MI",
}
LABELLED = ("labels", "vectors")  # forms with labels on the other side
FLOORS = {"cosine": "unrelated", "cca": "chance", "pwcca": "chance", "mi": "chance"}
ABOUT = ["form", "model", "condition", "other_model", "other_condition", "corpus", "split", "view"]
COLUMNS = [
    *ABOUT,
    *("layer", "other_layer"),
    *(f"{measure}{part}" for measure in MEASURES for part in ("", "_low", "_high")),
    *(f"{measure}_{floor}" for measure, floor in FLOORS.items()),
    *("n_rows", "n_sampled", "n_utterances", "n_blocks", "n_groups", "alignment", "seed", "notes"),
    *("spec", "depth"),
]
SHEET = [*(name for name in ABOUT if name not in ("form", "other_condition")), "other_condition"]
HEAD = """# Similarity of representations

Intervals are 95 % and about other speakers: those of cosine and relative distance as of every mean
(docs/statistics.md), the others by a jackknife over groups of speakers. `unrelated` is the mean
cosine of two clean frames of the layer. CCA is PWCCA of held-out rows, and `CCA chance` the highest
of 19 random orders of vectors over labels; PWCCA is of the rows that it is fitted to, and its
`chance` an upper bound for independent data of this size. MI is a share of the entropy of the
labels, and `MI chance` that of shuffled labels. docs/similarity.md defines them.

"""


def read_similarity(*paths: Path | str) -> pd.DataFrame:
    """Cells of files, or of all files in folders, as a table: one row per pair of layers, columns
    `COLUMNS`; NaN where undefined.

    A file that `probe similarity` did not write is left out, with a warning that names it.

    Raises:
        ProbeError: there are no files, or none can be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += [path] if path.is_file() else sorted(path.glob("*.json"))
    if not files:
        raise ProbeError(
            f"{', '.join(map(str, paths))}: no *.json there; expected a folder that "
            "`probe similarity` wrote."
        )
    rows = [row for _, of_file in readable(files, _rows) for row in of_file]
    numbers = [name for name in COLUMNS if name.startswith((*MEASURES, "depth"))]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(numbers, float))


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one file."""
    try:
        content = json_value(path.read_bytes())
        if content["format"] != FORMAT:
            raise ProbeError(
                f"{path}: format {content['format']}; this version reads {FORMAT}. Run "
                "`probe similarity` again."
            )
        about = {name: content[name] for name in COLUMNS if name in content}
        about |= {"seed": content["settings"]["seed"], "notes": "; ".join(content["notes"])}
        for side, prefix in (("model", ""), ("other", "other_")):
            about[f"{prefix}model"] = content[side]["name"]
            about[f"{prefix}condition"] = content[side]["condition"]
        about["spec"] = content["model"].get("spec", about["model"])
        blocks = content["model"].get("blocks") or math.nan
        return [about | _flat(cell, blocks) for cell in content["cells"]]
    except OSError as error:
        raise unread(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProbeError(
            f"{path}: not a file that `probe similarity` wrote ({error!r}). Remove it or run that "
            "again."
        ) from error


def _flat(cell: Mapping[str, Any], blocks: float) -> dict[str, Any]:
    """A cell as a row; the depth is relative, 1 the last block."""
    row = {name: cell[name] for name in ("layer", "other_layer")}
    row["depth"] = int(row["layer"]) / blocks if row["layer"].isdecimal() else math.nan
    for measure in MEASURES:
        for part, value in cell.get(measure, {}).items():
            row[measure if part == "value" else f"{measure}_{part}"] = value
    return row


def similarity_markdown(frame: pd.DataFrame) -> str:
    """One Markdown table per comparison of conditions or with a model of one layer, otherwise one
    matrix per measure.

    Args:
        frame: of `read_similarity`.
    """
    return "\n".join(_sheet(cells) for _, cells in frame.groupby(SHEET, sort=False))


def statements_markdown(frame: pd.DataFrame) -> str:
    """What publications say of these layers, and whether it holds; empty where they say nothing.

    Args:
        frame: of `read_similarity`.
    """
    rows = verdicts(curves_of_similarity(frame))
    if rows.empty:
        return ""
    columns = {str(name): [escaped(text) for text in rows[name]] for name in rows}
    return f"\n## Published statements\n\n{markdown(columns, columns)}"


def _sheet(cells: pd.DataFrame) -> str:
    """The tables of one comparison, under a title and the numbers of rows and speakers."""
    first = cells.iloc[0].to_dict()
    lines = [
        f"{first['n_utterances']} utterances, {first['n_blocks']} speakers in {first['n_groups']} "
        f"groups; {first['alignment']}."
    ]
    if first["form"] in LABELLED:
        lines.insert(0, f"{first['n_rows']} labelled intervals;")
    else:
        n_sampled = f"{first['n_sampled']} of them for CKA and CCA;"
        lines.insert(0, f"{first['n_rows']} pairs of rows, {n_sampled}")
    if first["notes"]:
        lines.append(f"Note: {escaped(first['notes'])}.")
    head = f"## {escaped(_title(first))}\n\n{' '.join(lines)}\n\n"
    if first["form"] == "conditions" or cells["other_layer"].nunique() == 1:
        return head + _by_layer(cells)
    return head + "\n".join(
        f"{name}, ± half the interval\n\n{_matrix(cells, measure)}"
        for measure, name in MEASURES.items()
        if cells[measure].notna().any()
    )


def _title(first: Mapping[Any, Any]) -> str:
    """What is compared with what."""
    model, condition = first["model"], first["condition"]
    where = f"({first['corpus']}, {first['split']}, {first['view']})"
    if first["form"] == "conditions":
        return f"{model}: {condition} and {first['other_condition']} {where}"
    if first["form"] == "layers":
        return f"{model}: layers {where}"
    if first["form"] in LABELLED:
        return f"{model} and {first['other_model']} {where}"
    both = "" if condition == CLEAN else f", both {condition}"
    return f"{model} and {first['other_model']}{both} {where}"


def _by_layer(cells: pd.DataFrame) -> str:
    """A line per layer, measures side by side with their intervals, without empty columns."""
    columns = {"layer": [escaped(name) for name in cells["layer"]]}
    for measure, name in MEASURES.items():
        ends = zip(*(cells[f"{measure}{part}"] for part in ("", "_low", "_high")), strict=True)
        columns[name] = [
            _number(value) + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]")
            for value, low, high in ends
        ]
        if floor := FLOORS.get(measure):
            head = f"{name} {floor}" if measure in ("cca", "mi") else floor
            columns[head] = list(map(_number, cells[f"{measure}_{floor}"]))
    columns = {name: column for name, column in columns.items() if set(column) != {DASH}}
    return markdown(columns, columns)


def _matrix(cells: pd.DataFrame, measure: str) -> str:
    """Layers of the model down, of the other across."""
    half = (cells[f"{measure}_high"] - cells[f"{measure}_low"]) / 2
    texts = [
        _number(value, 2) + ("" if math.isnan(around) else f" ±{around:.2f}")
        for value, around in zip(cells[measure], half, strict=True)
    ]
    columns = {"": [escaped(name) for name in dict.fromkeys(cells["layer"])]}
    for other, column in cells.assign(text=texts).groupby("other_layer", sort=False):
        columns[escaped(str(other))] = list(column["text"])
    return markdown(columns, columns)


def _number(value: float, digits: int = 3) -> str:
    """A rounded number, never -0; a dash for NaN."""
    return DASH if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def write_similarity(folder: Path) -> list[Path]:
    """Write ``similarity.md``, ``similarity.csv`` and heat maps of all files in ``folder``.

    The maps, ``map-*.png`` and ``.svg``, are drawn where matplotlib is installed; those of earlier
    runs are removed.

    Returns:
        The files written.

    Raises:
        ProbeError: see `read_similarity`.
        OSError: a file cannot be written.
    """
    frame = read_similarity(folder)
    written = [folder / "similarity.md", folder / "similarity.csv"]
    texts = (HEAD + similarity_markdown(frame) + statements_markdown(frame), to_csv(frame))
    for path, text in zip(written, texts, strict=True):
        write_atomically(path, text.encode())
    for stem, cells in {} if missing_matplotlib() else _pictures(frame).items():
        paths = [folder / f"{stem}.{ending}" for ending in ("png", "svg")]
        write_figure(partial(similarity_figure, cells), *paths)
        written += paths
    for path in folder.glob("map-*"):
        if path.suffix in (".png", ".svg") and path not in written:
            path.unlink()
    return written


def _pictures(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """File name without its ending -> the cells of a matrix, or of all conditions of a model."""
    pictures = {}
    for _, cells in _comparisons(frame[frame[list(MEASURES)].notna().any(axis=1)]):
        first = cells.iloc[0]
        names = [first["form"], first["model"]]
        names += [first["other_model"]] if first["form"] == "models" else []
        names += [first["other_condition"]] if first["form"] != "conditions" else []
        names += [first["corpus"], first["view"], first["split"]]
        pictures["map-" + "__".join(map(file_name, names))] = cells
    return pictures


def _comparisons(frame: pd.DataFrame, model: str = "model") -> "DataFrameGroupBy":
    """The cells of each map: of a matrix, or of all conditions of what is equal in the column
    ``model``.
    """
    of_conditions = frame["form"] == "conditions"
    names = [name for name in ABOUT if name not in ("model", "other_model", "other_condition")]
    others = [frame[name].where(~of_conditions, "") for name in ("other_model", "other_condition")]
    return frame.groupby([*(frame[name] for name in names), frame[model], *others], sort=False)


def similarity_figure(
    frame: pd.DataFrame, width: str = "double", measures: Sequence[str] = ()
) -> "Figure":
    """A map per comparison and measure: layers up, and across the other's layers, or the
    conditions.

    Args:
        frame: of `read_similarity`.
        width: one of `probe.reporting.figures.style.WIDTHS`.
        measures: of `MEASURES`; all that have a value where empty.

    Raises:
        ProbeError: a measure is unknown, or nothing has a value.
    """
    if unknown := sorted(set(measures) - set(MEASURES)):
        raise ProbeError(f"no measure {listed(unknown)}. Available: {', '.join(MEASURES)}.")
    flat = (frame["form"] == "conditions") & (
        frame.groupby(ABOUT)["layer"].transform("nunique") == 1
    )
    frame = frame.assign(
        row=frame["layer"].where(~flat, frame["model"]), group=frame["model"].where(~flat, "")
    )
    groups = [cells for _, cells in _comparisons(frame, "group")]
    alone = len(groups) == 1 and not flat.all()
    maps = []
    for cells in groups:
        for measure in measures or MEASURES:
            if cells[measure].notna().any():
                title = MEASURES[measure] if alone else _panel_title(cells, frame, measure)
                maps.append(_map(cells, measure, title, float(frame[measure].max())))
    if not maps:
        raise ProbeError(
            "no similarity to draw: every value is missing. The notes in similarity.md say why."
        )
    several = {"other_condition": "…"} if frame["other_condition"].nunique() > 1 else {}
    return maps_figure(maps, width, _title(frame.iloc[0].to_dict() | several) if alone else "")


def _panel_title(cells: pd.DataFrame, frame: pd.DataFrame, measure: str) -> str:
    """What is compared, without what stands beside the map or is the same in all maps."""
    first = cells.iloc[0].to_dict()
    parts = [first["group"]] if first["group"] else []
    if first["form"] == "models":
        parts.append(f"and {first['other_model']}")
    if first["form"] != "conditions" and first["other_condition"] != CLEAN:
        parts.append(first["other_condition"])
    parts.append(MEASURES[measure])
    parts += [first[name] for name in ("corpus", "split", "view") if frame[name].nunique() > 1]
    return ", ".join(parts)


def _map(cells: pd.DataFrame, measure: str, title: str, highest: float) -> HeatMap:
    """The map of one measure: its colours run from 0 to 1, or to the largest distance."""
    first = cells.iloc[0]
    if first["form"] == "conditions":
        across, label, columns = "other_condition", "", by_severity(cells["other_condition"])
    else:
        other = first["other_model"]
        name = other if first["form"] in LABELLED else f"layer of {other}"
        across, label = "other_layer", style.shortened(name, 40)
        columns = list(dict.fromkeys(cells[across]))
    values = cells.pivot(index="row", columns=across, values=measure)
    values = values.reindex(index=list(dict.fromkeys(cells["row"])), columns=columns)
    texts = values.map(_number, digits=2)
    ends = min(0.0, float(cells[measure].min())), highest if measure == "distance" else 1.0
    return HeatMap(title, values, texts, *ends, (label, "layer" if first["group"] else ""))
