"""Rebuilds what is made of the records in this folder: tables, figures and the demo's report.
`make tables` runs it.

Inputs are ``*.jsonl`` (records, and outcomes of the demo) and ``similarity/*.json``. Equal inputs
give byte-identical texts, and pictures that show the same.
"""

import contextlib
from pathlib import Path

from probe.demo import TITLE
from probe.records import read_records
from probe.reporting.figures.plot import plot
from probe.reporting.report.page import write_report
from probe.reporting.tables.files import write_tables
from probe.reporting.tables.similarity_tables import write_similarity

DEMO = "demo"
BASE, LARGE = "random:facebook/wav2vec2-base", "random:facebook/wav2vec2-large-robust"
# Kind of `probe plot` -> what of the records is legible in one picture. The pictures curves.png and
# det.png are of the kinds layers and det.
FIGURES: dict[str, dict[str, list[str]]] = {
    "budgets": {"task": ["speaker-id", "word-id"], "metric": ["accuracy"]},
    "conditions": {"task": ["speaker-id", "word-id"], "metric": ["accuracy"]},
    "domains": {"task": ["domain-shift"]},
    "search": {"task": ["word-id"], "model": ["fbank", "mfcc", BASE, LARGE]},
    "similarity": {"model": ["random:facebook/data2vec-audio-large", LARGE], "metric": ["cka"]},
}


def rebuild(results: Path) -> None:
    """Writes all of it into the folder that holds the inputs."""
    write_tables(read_records(results), results)
    write_similarity(results / "similarity")
    (results / "figures").mkdir(exist_ok=True)
    for kind, only in FIGURES.items():
        files = [
            path
            for task in only.get("task", [])
            for path in sorted(results.glob(f"*__{task}__*.jsonl"))
        ]
        plot(kind, files or [results], results / "figures" / f"{kind}.svg", only)
    demo = read_records(results / DEMO)
    write_tables(demo, results / DEMO)
    with contextlib.chdir(results.parent):  # the page shows where its records lie
        place = Path(results.name) / DEMO
        write_report(demo, place / "report.html", [place], title=TITLE)


if __name__ == "__main__":
    rebuild(Path(__file__).resolve().parent)
