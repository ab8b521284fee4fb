"""Tables and heat maps of comparisons, from the files of `probe.evaluation.similarity` alone.

Values are as the files have them: cosine, CKA and PWCCA up to 1, relative distances in lengths of the clean row. The colours are
those of matplotlib's `cividis`: they differ in lightness, so grey and colour-blind readers see the same order.
"""

import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import ProbeError
from probe.files import file_name, write_atomically
from probe.reporting.curves import STYLE, missing_matplotlib
from probe.reporting.rows import one_line
from probe.reporting.tables import DASH, escaped, to_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
COLOURS = "cividis"
MOST_LABELLED = 200  # cells of a map
CELL_WIDTH, CELL_HEIGHT, CHARACTER_WIDTH = 0.36, 0.24, 0.08  # inches
HEAD = """# Similarity of representations

Intervals are 95 %: of cosine and relative distance by bootstrap over speakers, of CKA and PWCCA by a jackknife over groups of
speakers. `unrelated` is the mean cosine of two clean frames of the layer, `chance` what PWCCA of independent data of this size would
be at most; docs/similarity.md defines them.

"""


def read_similarity(*paths: Path | str) -> pd.DataFrame:
    """Cells of files, or of all files in folders, as a table: one row per pair of layers, columns `COLUMNS`; NaN where undefined.

    Raises:
        ProbeError: no files there, or one that `probe similarity` did not write.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += [path] if path.is_file() else sorted(path.glob("*.json"))
    if not files:
        raise ProbeError(f"{', '.join(map(str, paths))}: no *.json there; expected a folder that `probe similarity` wrote.")
    rows = [row for path in files for row in _rows(path)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    numbers = [name for name in COLUMNS if name.startswith(tuple(MEASURES))]
    return frame.astype(dict.fromkeys(numbers, float))


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ProbeError(f"{path}: format {found['format']}; this version reads {FORMAT}. Run `probe similarity` again.")
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProbeError(f"{path}: not a file that `probe similarity` wrote ({error!r}). Remove it or run that again.") from error
    return rows


def _flat(cell: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: cell[name] for name in ("layer", "other_layer")}
    for measure in MEASURES:
        for part, value in cell.get(measure, {}).items():
            row[measure if part == "value" else f"{measure}_{part}"] = value
    return row


def similarity_markdown(frame: pd.DataFrame) -> str:
    """One Markdown table per comparison of conditions or with a model of one layer, otherwise one matrix per measure.

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
    model, other, condition, other_condition = (first[name] for name in ("model", "other_model", "condition", "other_condition"))
    where = f"{first['corpus']}, {first['split']}, {first['view']}"
    if first["form"] == "conditions":
        return f"{model}: {condition} and {other_condition} ({where})"
    heard = "" if condition == "clean" else f", both {condition}"
    return f"{model}: layers ({where})" if first["form"] == "layers" else f"{model} and {other}{heard} ({where})"


def _by_layer(cells: pd.DataFrame) -> str:
    """A line per layer, measures side by side with their intervals; what has no value at all is left out."""
    columns = {"layer": [escaped(name) for name in cells["layer"]]}
    for measure, name in MEASURES.items():
        ends = zip(*(cells[f"{measure}{part}"] for part in ("", "_low", "_high")), strict=True)
        columns[name] = [_number(value) + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]") for value, low, high in ends]
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
    padded = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in [padded[0], rule, *padded[1:]])


def _number(value: float, digits: int = 3) -> str:
    return DASH if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no "-0.0"


def write_similarity(folder: Path) -> list[Path]:
    """Writes ``similarity.md``, ``similarity.csv`` and heat maps beside the files in ``folder``, from all of them.

    Pictures, ``map-*.png`` and ``.svg``, are drawn where matplotlib is installed; those of earlier runs are removed.

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
    pictures = {} if missing_matplotlib() else _pictures(frame)
    for name, data in pictures.items():
        write_atomically(folder / name, data)
    for path in folder.glob("map-*"):
        if path.suffix in (".png", ".svg") and path.name not in pictures:
            path.unlink()
    return [*written, *(folder / name for name in pictures)]


def _pictures(frame: pd.DataFrame) -> dict[str, bytes]:
    """File name -> picture: one per matrix, and one per model for all its conditions."""
    from matplotlib import style

    pictures = {}
    of_picture = [name for name in ABOUT if name != "other_condition"]
    frame = frame.assign(drawn_with=frame["other_condition"].where(frame["form"] != "conditions", ""))
    for _, cells in frame.groupby([*of_picture, "drawn_with"], sort=False):
        first = cells.iloc[0]
        parts = [
            first["form"],
            first["model"],
            first["other_model"],
            first["drawn_with"],
            first["corpus"],
            first["view"],
            first["split"],
        ]
        if first["form"] != "models":
            del parts[2]
        stem = "map-" + "__".join(file_name(part) for part in parts if part)
        with style.context(["default", STYLE | {"axes.grid": False}]):
            figure = heat_maps(cells)
            if figure is None:
                continue
            for ending, options in (("png", {"dpi": 200}), ("svg", {"metadata": {"Date": None}})):
                picture = io.BytesIO()
                figure.savefig(picture, format=ending, **options)
                pictures[f"{stem}.{ending}"] = picture.getvalue()
    return pictures


def heat_maps(cells: pd.DataFrame) -> "Figure | None":
    """A map per measure: layers down, and across the other's layers, or the conditions; None where nothing has a value.

    Args:
        cells: rows of `read_similarity` of one model and one other model, or of one model and several conditions.
    """
    from matplotlib.figure import Figure

    first = cells.iloc[0].to_dict()
    across = "other_condition" if first["form"] == "conditions" else "other_layer"
    measures = [measure for measure in MEASURES if cells[measure].notna().any()]
    if not measures:
        return None
    rows, columns = (list(dict.fromkeys(cells[name])) for name in ("layer", across))
    longest = max(len(name) for name in columns) if across == "other_condition" else 0
    width = max(1.9, CELL_WIDTH * len(columns) + 1.3)
    height = max(1.5, CELL_HEIGHT * len(rows)) + 0.9 + 0.05 * longest
    figure = Figure(figsize=(width * len(measures), height), layout="constrained")
    for position, measure in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), position)
        values = cells.pivot(index="layer", columns=across, values=measure).reindex(index=rows, columns=columns)
        _draw(figure, axes, values, measure)
        axes.set_xlabel("" if across == "other_condition" else one_line(f"layer of {first['other_model']}"))
        if position == 1:
            axes.set_ylabel("layer")
    title = one_line(_title(first | {"other_condition": "…"} if len(columns) > 1 else first))
    figure.suptitle(textwrap.fill(title, int(figure.get_figwidth() / CHARACTER_WIDTH)), fontsize=8.5)
    return figure


def _draw(figure: "Figure", axes: "Axes", values: pd.DataFrame, measure: str) -> None:
    """One map, the first layer at the bottom."""
    grid = values.to_numpy(float)
    most = 1.0 if measure != "distance" else max(1e-9, float(pd.Series(grid.ravel()).max()))
    least = min(0.0, float(pd.Series(grid.ravel()).min()))
    image = axes.imshow(grid, origin="lower", aspect="auto", cmap=COLOURS, vmin=least, vmax=most)
    longest = max(len(str(name)) for name in values.columns)
    axes.set_xticks(range(values.shape[1]), [one_line(str(name)) for name in values.columns], rotation=90 * (longest > 3))
    axes.set_yticks(range(values.shape[0]), [one_line(str(name)) for name in values.index])
    axes.set_title(MEASURES[measure])
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8)
    if grid.size <= MOST_LABELLED:
        for row, line in enumerate(grid):
            for column, value in enumerate(line):
                if not math.isnan(value):
                    dark = (value - least) / (most - least) < 0.55
                    axes.text(
                        column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color="white" if dark else "black"
                    )
