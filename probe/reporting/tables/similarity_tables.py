"""Tables and heat maps of comparisons, from the files of `probe.evaluation.layer_similarity` alone.

Values are as the files have them: cosine, CKA and PWCCA up to 1, relative distances in lengths of
the clean row.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import ProbeError, listed
from probe.files import file_name, unread, write_atomically
from probe.records import readable
from probe.reporting.figures import style
from probe.reporting.figures.heat_map import HeatMap, maps_figure
from probe.reporting.figures.style import missing_matplotlib, write_figure
from probe.reporting.losses import by_severity
from probe.reporting.tables.score_tables import to_csv
from probe.reporting.text import DASH, escaped

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas.core.groupby import DataFrameGroupBy

FORMAT = 1
MEASURES = {"cosine": "cosine", "distance": "relative distance", "cka": "CKA", "pwcca": "PWCCA"}
ABOUT = ["form", "model", "condition", "other_model", "other_condition", "corpus", "split", "view"]
COLUMNS = [
    *ABOUT,
    *("layer", "other_layer"),
    *(f"{measure}{part}" for measure in MEASURES for part in ("", "_low", "_high")),
    *("cosine_unrelated", "pwcca_chance"),
    *("n_rows", "n_sampled", "n_utterances", "n_blocks", "n_groups", "alignment", "seed", "notes"),
]
SHEET = [*(name for name in ABOUT if name not in ("form", "other_condition")), "other_condition"]
HEAD = """# Similarity of representations

Intervals are 95 %: of cosine and relative distance by bootstrap over speakers, of CKA and PWCCA by a jackknife over groups of
speakers. `unrelated` is the mean cosine of two clean frames of the layer, `chance` what PWCCA of independent data of this size would
be at most; docs/similarity.md defines them.

"""


def read_similarity(*paths: Path | str) -> pd.DataFrame:
    """Cells of files, or of all files in folders, as a table: one row per pair of layers, columns
    `COLUMNS`; NaN where undefined.

    A file that `probe similarity` did not write is left out, with a warning that names it.

    Raises:
        ProbeError: no files there, or none that can be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += [path] if path.is_file() else sorted(path.glob("*.json"))
    if not files:
        raise ProbeError(
            f"{', '.join(map(str, paths))}: no *.json there; expected a folder that `probe similarity` wrote."
        )
    rows = [row for _, of_file in readable(files, _rows) for row in of_file]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    numbers = [name for name in COLUMNS if name.startswith(tuple(MEASURES))]
    return frame.astype(dict.fromkeys(numbers, float))


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ProbeError(
                f"{path}: format {found['format']}; this version reads {FORMAT}. Run `probe similarity` again."
            )
        about = {
            "form": found["form"],
            "model": found["model"]["name"],
            "condition": found["model"]["condition"],
            "other_model": found["other"]["name"],
            "other_condition": found["other"]["condition"],
            "seed": found["settings"]["seed"],
            "notes": "; ".join(found["notes"]),
        }
        about |= {name: found[name] for name in COLUMNS if name in found and name not in about}
        rows = [about | _flat(cell) for cell in found["cells"]]
    except OSError as error:
        raise unread(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProbeError(
            f"{path}: not a file that `probe similarity` wrote ({error!r}). Remove it or run that again."
        ) from error
    return rows


def _flat(cell: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: cell[name] for name in ("layer", "other_layer")}
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


def _sheet(cells: pd.DataFrame) -> str:
    """The tables of one comparison, under a title and what they rest on."""
    first = cells.iloc[0].to_dict()
    counted = (
        f"{first['n_rows']} pairs of rows, {first['n_sampled']} of them for CKA and PWCCA; {first['n_utterances']} utterances, "
        f"{first['n_blocks']} speakers in {first['n_groups']} groups; {first['alignment']}."
    )
    note = f" Note: {escaped(first['notes'])}." if first["notes"] else ""
    if first["form"] == "conditions" or cells["other_layer"].nunique() == 1:
        return f"## {escaped(_title(first))}\n\n{counted}{note}\n\n{_by_layer(cells)}"
    matrices = [
        f"{name}, ± half the interval\n\n{_matrix(cells, measure)}"
        for measure, name in MEASURES.items()
        if cells[measure].notna().any()
    ]
    return f"## {escaped(_title(first))}\n\n{counted}{note}\n\n" + "\n".join(matrices)


def _title(first: Mapping[Any, Any]) -> str:
    """What is compared with what."""
    model, other, condition, other_condition = (
        first[name] for name in ("model", "other_model", "condition", "other_condition")
    )
    where = f"{first['corpus']}, {first['split']}, {first['view']}"
    if first["form"] == "conditions":
        return f"{model}: {condition} and {other_condition} ({where})"
    heard = "" if condition == "clean" else f", both {condition}"
    return (
        f"{model}: layers ({where})"
        if first["form"] == "layers"
        else f"{model} and {other}{heard} ({where})"
    )


def _by_layer(cells: pd.DataFrame) -> str:
    """A line per layer, measures side by side with their intervals; what has no value at all is
    left out.
    """
    columns = {"layer": [escaped(name) for name in cells["layer"]]}
    for measure, name in MEASURES.items():
        ends = zip(*(cells[f"{measure}{part}"] for part in ("", "_low", "_high")), strict=True)
        columns[name] = [
            _number(value) + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]")
            for value, low, high in ends
        ]
        beside = {"cosine": "unrelated", "pwcca": "chance"}.get(measure)
        if beside:
            columns[beside] = [_number(value) for value in cells[f"{measure}_{beside}"]]
    return _table({name: column for name, column in columns.items() if set(column) != {DASH}})


def _matrix(cells: pd.DataFrame, measure: str) -> str:
    """Layers of the model down, of the other across."""
    half = (cells[f"{measure}_high"] - cells[f"{measure}_low"]) / 2
    texts = [
        _number(value, 2) + ("" if math.isnan(around) else f" ±{around:.2f}")
        for value, around in zip(cells[measure], half, strict=True)
    ]
    shown = cells.assign(text=texts)
    layers = list(dict.fromkeys(cells["layer"]))
    columns = {"": [escaped(name) for name in layers]}
    for other, column in shown.groupby("other_layer", sort=False):
        columns[escaped(str(other))] = list(column["text"])
    return _table(columns)


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    """Aligned Markdown, all to the right."""
    lines = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    widths = [max(3, *map(len, cells)) for cells in zip(*lines, strict=True)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    padded = [
        [cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in [padded[0], rule, *padded[1:]])


def _number(value: float, digits: int = 3) -> str:
    return (
        DASH if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"
    )  # + 0.0: no "-0.0"


def write_similarity(folder: Path) -> list[Path]:
    """Writes ``similarity.md``, ``similarity.csv`` and heat maps beside the files in ``folder``,
    from all of them.

    Pictures, ``map-*.png`` and ``.svg``, are drawn where matplotlib is installed; those of earlier
    runs are removed.

    Returns:
        The files written.

    Raises:
        ProbeError: see `read_similarity`.
        OSError: a file cannot be written.
    """
    frame = read_similarity(folder)
    written = [folder / "similarity.md", folder / "similarity.csv"]
    for path, text in zip(written, (HEAD + similarity_markdown(frame), to_csv(frame)), strict=True):
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
    """File name without its ending -> what is drawn: a matrix, or all conditions of a model."""
    pictures = {}
    for _, cells in _comparisons(frame[frame[list(MEASURES)].notna().any(axis=1)]):
        first = cells.iloc[0]
        other = first["other_model"] if first["form"] == "models" else ""
        heard = first["other_condition"] if first["form"] != "conditions" else ""
        parts = [
            first["form"],
            first["model"],
            other,
            heard,
            first["corpus"],
            first["view"],
            first["split"],
        ]
        pictures["map-" + "__".join(file_name(part) for part in parts if part)] = cells
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
        raise ProbeError(f"no measure {listed(unknown)}. There are: {', '.join(MEASURES)}.")
    flat = (frame["form"] == "conditions") & (
        frame.groupby(ABOUT)["layer"].transform("nunique") == 1
    )
    frame = frame.assign(
        row=frame["layer"].where(~flat, frame["model"]), group=frame["model"].where(~flat, "")
    )
    found = [cells for _, cells in _comparisons(frame, "group")]
    alone = len(found) == 1 and not flat.all()
    maps = [
        _map(
            cells,
            measure,
            MEASURES[measure] if alone else _panel_title(cells, frame, measure),
            float(frame[measure].max()),
        )
        for cells in found
        for measure in measures or MEASURES
        if cells[measure].notna().any()
    ]
    if not maps:
        raise ProbeError(
            "no similarity to draw: every value is missing. The notes in similarity.md say why."
        )
    several = {"other_condition": "…"} if frame["other_condition"].nunique() > 1 else {}
    return maps_figure(maps, width, _title(frame.iloc[0].to_dict() | several) if alone else "")


def _panel_title(cells: pd.DataFrame, frame: pd.DataFrame, measure: str) -> str:
    """What is compared, as far as it does not stand beside the map and maps differ in it."""
    first = cells.iloc[0].to_dict()
    parts = [first["group"]]
    parts += [f"and {first['other_model']}"] if first["form"] == "models" else []
    parts += (
        [first["other_condition"]]
        if first["form"] != "conditions" and first["other_condition"] != "clean"
        else []
    )
    parts += [
        MEASURES[measure],
        *(first[name] for name in ("corpus", "split", "view") if frame[name].nunique() > 1),
    ]
    return ", ".join(filter(None, parts))


def _map(cells: pd.DataFrame, measure: str, title: str, highest: float) -> HeatMap:
    """The map of one measure: its colours begin at 0 and end at 1, or at the largest distance that
    is drawn.
    """
    of_conditions = cells["form"].iloc[0] == "conditions"
    across = "other_condition" if of_conditions else "other_layer"
    columns = by_severity(cells[across]) if of_conditions else list(dict.fromkeys(cells[across]))
    values = cells.pivot(index="row", columns=across, values=measure)
    values = values.reindex(index=list(dict.fromkeys(cells["row"])), columns=columns)
    texts = values.map(_number, digits=2)
    across_name = (
        "" if of_conditions else style.shortened(f"layer of {cells['other_model'].iloc[0]}", 40)
    )
    axes = (across_name, "layer" if cells["group"].iloc[0] else "")
    return HeatMap(
        title,
        values,
        texts,
        min(0.0, float(cells[measure].min())),
        highest if measure == "distance" else 1.0,
        axes,
    )
