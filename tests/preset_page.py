"""The table of docs/presets.md, made of the task files and the published figures."""

from pathlib import Path

from probe.evaluation.tasks import open_task
from probe.protocols import Protocol, protocols
from probe.reporting.tables import published

PAGE = Path(__file__).resolve().parent.parent / "docs" / "presets.md"
MARK = "<!-- presets -->"
# wav2vec 2.0 base: layers 0 to 12 of 768 numbers, 50 frames a second, two bytes a number.
LAYERS, WIDTH, FRAMES_HZ, BYTES = 13, 768, 50, 2
SHOWN = ("facebook/wav2vec2-base", "facebook/hubert-base-ls960")  # whose figures the page names


def disk_gb(name: str, protocol: Protocol) -> float | None:
    """Gigabytes of features of wav2vec 2.0 base, as `probe extract --dry-run` estimates them; None
    where nobody published how much audio there is.
    """
    view = open_task(name).view
    rows = {"mean": 1, "meanstd": 2}
    if view in rows:
        n = protocol.utterances * rows[view]
    else:
        n = round(protocol.hours * 3600 * FRAMES_HZ)
    return n * LAYERS * WIDTH * BYTES / 1e9 if n else None


def figures(name: str) -> list[str]:
    """Published figures of the models in `SHOWN` that stand beside the task's scores."""
    lines = []
    for entry in published.published_map()["entry"]:
        if name not in entry["tasks"] or "head" in entry:
            continue
        known = [
            (row["model"], row["value"])
            for row in published.figures()[entry["file"]]
            if (row["task"], row["metric"], row["lm"])
            == (entry["task"], entry["figure"], entry.get("lm", ""))
            and row["split"] in entry.get("splits", [row["split"]])
            and row["hub_id"] in SHOWN
            and row["certain"].startswith("yes")
        ]
        if known:
            unit = entry["figure"].replace("_%", " in %")
            values = ", ".join(str(value) for _, value in dict.fromkeys(known))
            lines.append(f"{unit}: {values}")
    return lines


def row(name: str) -> str:
    """What the page says of one preset."""
    protocol, task = protocols()[name], open_task(name)
    size = disk_gb(name, protocol)
    needs = f"`{task.view}`, " + (f"{size:,.1f} GB" if size else "see `--dry-run`")
    of_frames = getattr(task.settings, "weighted", None) == "only"
    if of_frames or task.kind.name == "superb":
        rows = protocol.hours * 3600 * FRAMES_HZ if of_frames else protocol.utterances
        needs += f"; memory {rows * LAYERS * WIDTH * 4 / 1e9:,.1f} GB"
    question = f"{task.description} Protocol: {protocol.of}."
    if protocol.clean:
        question += f" Alternative: `{protocol.clean}`."
    return f"| {' | '.join((f'`{name}`', question, needs, '; '.join(figures(name))))} |"


def table() -> str:
    """A row for each preset, in the order of names."""
    names = ("preset", "question and protocol", "features", "published")
    rows = map(row, sorted(protocols()))
    return "\n".join([f"| {' | '.join(names)} |", "|---|---|---|---|", *rows]) + "\n"
