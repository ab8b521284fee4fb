"""One picture of a corpus: hours by split and domain, durations, levels, utterances per speaker."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from probe.data.overview import Overview
from probe.reporting.figures.style import COLOURS, PanelSize, panels, shortened, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 40
SIZE = PanelSize(narrowest=3.2)
LONGEST = 24  # characters of a name
MOST_GROUPS = 12


def draw_corpus(shown: Overview, to: Path) -> None:
    """Draws what `probe.data.overview.overview` returned.

    Raises:
        ProbeError: see `probe.reporting.figures.style.write_figure`.
        OSError: the file cannot be written.
    """
    write_figure(lambda: _figure(shown), to)


def _figure(shown: Overview) -> "Figure":
    drawings = {"Utterances": _groups, "Utterances per speaker": _speakers}
    if shown.sound is not None and shown.sound.files:
        drawings |= {"Duration (s)": _durations, "Level and noise floor (dBFS)": _levels}
    figure, axes = panels(list(drawings), "double", heading=shown.corpus, size=SIZE)
    for place, draw in zip(axes, drawings.values(), strict=True):
        draw(shown, place)
    return figure


def _groups(shown: Overview, axes: "Axes") -> None:
    rows = shown.groups.sort_values("utterances", ascending=False).head(MOST_GROUPS)
    names = [
        shortened(" ".join(filter(None, [row["split"], row["domain"]])) or "all", LONGEST)
        for row in rows.to_dict("records")
    ]
    axes.barh(range(len(names)), rows["utterances"], color=COLOURS[0])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def _speakers(shown: Overview, axes: "Axes") -> None:
    counts = [sum(of_split.values()) for of_split in shown.labels.get("speaker", {}).values()]
    axes.hist(counts, BINS, color=COLOURS[0])
    axes.set(ylabel="speakers")


def _durations(shown: Overview, axes: "Axes") -> None:
    assert shown.sound is not None
    seconds = [item.seconds for item in shown.sound.files.values()]
    axes.hist(seconds, BINS, color=COLOURS[0])
    axes.set(ylabel="utterances")


def _levels(shown: Overview, axes: "Axes") -> None:
    assert shown.sound is not None
    files = shown.sound.files.values()
    values = {
        "level": [item.level_db for item in files],
        "noise floor": [item.floor_db for item in files],
    }
    edges = np.histogram_bin_edges([*values["level"], *values["noise floor"]], BINS).tolist()
    for (name, decibels), colour in zip(values.items(), COLOURS, strict=False):
        axes.hist(decibels, edges, color=colour, alpha=0.7, label=name)
    axes.legend(frameon=False)
    axes.set(ylabel="utterances")
