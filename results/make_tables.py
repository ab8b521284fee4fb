"""Rebuilds what is made of the records in this folder: tables, figures and the demo's report. `make tables` runs it.

Inputs are ``*.jsonl`` (records, and outcomes of the demo) and ``similarity/*.json``; of equal inputs texts are byte-identical, and so
is what pictures show.
"""

import contextlib
from pathlib import Path
from typing import Any

from probe.records import read_records
from probe.reporting.figures.plot import plot
from probe.reporting.report.page import write_report
from probe.reporting.tables.files import write_tables
from probe.reporting.tables.similarity_tables import write_similarity

DEMO = "demo"
README_CURVES: dict[str, Any] = {
    "tasks": ["speaker-id", "word-id", "asr-ctc"],
    "metrics": ["accuracy", "wer"],
}
BASE, LARGE = "random:facebook/wav2vec2-base", "random:facebook/wav2vec2-large-robust"
# Kind of `probe plot` -> what of the records is legible in one picture. curves.png and det.png are the kinds layers and det.
FIGURES: dict[str, dict[str, Any]] = {
    "budgets": {"tasks": ["speaker-id", "word-id"], "metrics": ["accuracy"]},
    "conditions": {"tasks": ["speaker-id", "word-id"], "metrics": ["accuracy"]},
    "domains": {"tasks": ["domain-shift"]},
    "search": {"tasks": ["word-id"], "models": ["fbank", "mfcc", BASE, LARGE]},
    "similarity": {"models": ["random:facebook/data2vec-audio-large", LARGE], "metrics": ["cka"]},
}


def rebuild(results: Path) -> None:
    """Writes all of it into the folder that holds the inputs."""
    write_tables(read_records(results), results)
    write_similarity(results / "similarity")
    (results / "figures").mkdir(exist_ok=True)
    for kind, chosen in FIGURES.items():
        files = [
            path
            for task in chosen.get("tasks", [])
            for path in sorted(results.glob(f"*__{task}__*.jsonl"))
        ]
        plot(kind, files or [results], results / "figures" / f"{kind}.svg", **chosen)
    demo = read_records(results / DEMO)
    write_tables(demo, results / DEMO)
    plot("layers", [results / DEMO], results / DEMO / "layers.svg", **README_CURVES)
    with contextlib.chdir(results.parent):  # the page shows where its records lie
        place = Path(results.name) / DEMO
        write_report(
            demo, place / "report.html", [place], title="layerprobe demo: synthetic speech"
        )


if __name__ == "__main__":
    rebuild(Path(__file__).resolve().parent)
