"""Rebuild what results/ and the README show of records: tables, figures and the demo's report.
`make tables` runs it.

Inputs are ``records/*.jsonl.gz``, ``similarity/*.json``, and ``demo/*.jsonl.gz`` with its
outcomes. A table stands in a page between two comments, `BEGIN` and `END`. Equal inputs give
byte-identical texts, and pictures that show the same.
"""

import contextlib
from pathlib import Path

import pandas as pd

from probe.demo import TITLE
from probe.records import read_records
from probe.reporting.figures.layers import curves_figure, usual_rows
from probe.reporting.figures.style import write_figure
from probe.reporting.filters import kept, parse_term
from probe.reporting.report.page import write_report
from probe.reporting.scores import Scores
from probe.reporting.tables.files import LAYERS_HEAD, write_tables
from probe.reporting.tables.grid import markdown, to_markdown
from probe.reporting.tables.pivot import arranged, pivoted
from probe.reporting.tables.score_tables import layers_by_question
from probe.reporting.tables.similarity_tables import read_similarity
from probe.reporting.text import DASH

RECORDS, SIMILARITY, DEMO = "records", "similarity", "demo"
BEGIN, END = "<!-- table: {} (make tables) -->\n", "<!-- end of table -->\n"
CLEAN = parse_term("condition=clean")
# What the README shows, of the tables and curves of results/README.md.
MODELS = parse_term("model!=Silero-VAD,GE2E-random,Distill-MOS,Distill-MOS-random")
SHORT_TABLE = [parse_term("task=phone-frames,speaker-id,speaker-verify"), MODELS]
CURVES = [
    parse_term("task=phone-frames,speaker-id,asr-ctc"),
    parse_term("metric=accuracy,cer"),
    MODELS,
]


def tables(records: pd.DataFrame, similarity: pd.DataFrame) -> dict[str, str]:
    """Return the Markdown of each table of the two pages, by its name.

    Args:
        similarity: of `read_similarity`, of every layer with the labels of phones.
    """
    clean = Scores.of(kept(records, [CLEAN]))
    of_conditions = [parse_term("task=speaker-id"), parse_term("metric=accuracy")]
    conditions = Scores.of(kept(records, of_conditions[:1]))
    return {
        "all tasks": to_markdown(arranged(clean, "models")),
        "encoders": to_markdown(arranged(clean, "models", terms=SHORT_TABLE)),
        "conditions": to_markdown(
            pivoted(conditions, ["model"], ["condition"], terms=of_conditions), "###"
        ),
        "similarity": phone_similarity(similarity),
    }


def phone_similarity(cells: pd.DataFrame) -> str:
    """Return a table of CCA with half of its interval, models down and layers across."""
    layers = sorted(set(cells["layer"]), key=lambda name: (name != "conv", name == "final", name))
    columns: dict[str, list[str]] = {"model": []} | {layer: [] for layer in layers}
    for model, rows in cells.groupby("model"):
        of_layer = rows.set_index("layer")
        columns["model"].append(str(model))
        for layer in layers:
            text = DASH
            if layer in of_layer.index:
                row = of_layer.loc[layer]
                text = f"{row['cca']:.2f} ±{(row['cca_high'] - row['cca_low']) / 2:.2f}"
            columns[layer].append(text)
    return markdown(columns, columns.keys() - {"model"})


def filled(page: str, texts: dict[str, str]) -> str:
    """Return a page with the tables that it names in place of those that stand there."""
    for name, text in texts.items():
        before, begin, rest = page.partition(BEGIN.format(name))
        if begin:
            page = f"{before}{begin}\n{text}\n{END}{rest.partition(END)[2]}"
    return page


def write_pages(results: Path, records: pd.DataFrame) -> None:
    """Write the tables into results/README.md and the README, and every layer into layers.md."""
    texts = tables(records, read_similarity(results / SIMILARITY))
    for path in (results / "README.md", results.parent / "README.md"):
        path.write_text(filled(path.read_text(encoding="utf-8"), texts), encoding="utf-8")
    layers = Scores.of(records).layers()
    text = LAYERS_HEAD + layers_by_question(layers)
    (results / "layers.md").write_text(text, encoding="utf-8")


def rebuild(results: Path) -> None:
    """Write all of it into the folder that holds the inputs."""
    records = read_records(results / RECORDS)
    write_pages(results, records)
    curves = kept(usual_rows(Scores.of(records).layers(marked=False)), CURVES)
    pictures = (results / "curves.png", results / "curves.svg")
    write_figure(lambda: curves_figure(curves), *pictures)
    demo = read_records(results / DEMO)
    write_tables(demo, results / DEMO)
    with contextlib.chdir(results.parent):  # the page shows where its records lie
        place = Path(results.name) / DEMO
        write_report(demo, place / "report.html", [place], title=TITLE)


if __name__ == "__main__":
    rebuild(Path(__file__).resolve().parent)
