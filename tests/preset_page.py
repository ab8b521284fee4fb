"""The sections of docs/presets.md, made of the task files and the published figures."""

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
            f"{row['model']} {row['value']}"
            for row in published.figures()[entry["file"]]
            if (row["task"], row["metric"], row["lm"])
            == (entry["task"], entry["figure"], entry.get("lm", ""))
            and row["split"] in entry.get("splits", [row["split"]])
            and row["hub_id"] in SHOWN
            and row["certain"].startswith("yes")
        ]
        if known:
            unit = entry["figure"].replace("_%", " in %")
            lines.append(f"{entry['name']}, {unit}: {', '.join(dict.fromkeys(known))}")
    return lines


def section(name: str) -> str:
    """What the page says of one preset."""
    protocol, task = protocols()[name], open_task(name)
    view = task.view
    size = disk_gb(name, protocol)
    disk = f"{size:,.1f} GB" if size and size >= 0.1 else f"{(size or 0) * 1000:,.0f} MB"
    lines = [
        f"### `{name}`",
        "",
        f"{task.description} After {protocol.of}.",
        "",
        f"* Download: {protocol.download}",
        f"* Audio: {protocol.audio}",
        f"* Command: `{protocol.command(name)}`",
        f"* Features (view `{view}`): {f'about {disk} (estimate)' if size else 'see --dry-run'}",
    ]
    of_frames = getattr(task.settings, "weighted", None) == "only"
    if of_frames or task.kind.name == "superb":
        rows = protocol.hours * 3600 * FRAMES_HZ if of_frames else protocol.utterances
        memory = rows * LAYERS * WIDTH * 4 / 1e9
        lines.append(f"* `--memory` for the sum of layers: {memory:,.1f} GB or more (estimate)")
    lines += [f"* Published: {line}" for line in figures(name)] or ["* Published: no figure"]
    if protocol.clean:
        lines.append(f"* With statistics that hold: `{protocol.clean}`")
    return "\n".join(lines) + "\n"


def sections() -> str:
    """All sections, in the order of names."""
    return "\n".join(section(name) for name in sorted(protocols()))
