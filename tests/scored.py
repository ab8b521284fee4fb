"""Records whose values and intervals are those of their counts, and names that would break what is
printed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from probe.measures.counts import ratio_counts, trial_counts, value_of
from probe.measures.uncertainty import interval
from probe.records import Record, frame_of
from probe.reporting.losses import Losses
from probe.reporting.scores import Scores
from probe.reporting.tables import files, grid, pivot, score_tables
from probe.reporting.tables.grid import Grid

SEARCH = [{"l2": 0.01, "dev_accuracy": 0.5}, {"l2": 0.1, "dev_accuracy": 0.6}]
USUAL: dict[str, Any] = {
    "model": "org/a",
    "revision": "1" * 40,
    "layer": "0",
    "layer_index": 0,
    "head": "linear",
    "task": "digits",
    "task_version": 1,
    "kind": "classify",
    "corpus": "spoken",
    "split": "test",
    "seed": 0,
    "metric": "accuracy",
    "higher_is_better": True,
    "select_by": "accuracy",
    "recipe": "c" * 64,
    "task_sha256": "a" * 64,
    "manifest_sha256": "b" * 64,
    "code": {"version": "0.1.0", "commit": "0123456789ab"},
    "packages": {"torch": "2.14.1"},
}
OF_TRIALS: dict[str, Any] = {
    "task": "verify",
    "kind": "verify",
    "metric": "eer",
    "select_by": "eer",
    "higher_is_better": False,
}


def record(**changed: Any) -> Record:
    """A test accuracy without counts; ``changed`` says what is special about it."""
    return Record(
        **(USUAL | {"corpus": "spoken-digits", "value": 0.5, "n": 200, "n_blocks": 40} | changed)
    )


def frame(*records: Record) -> pd.DataFrame:
    """The records as `probe.records.read_records` gives them."""
    return frame_of(records)


def summary_rows(records: pd.DataFrame, all_heads: bool = False) -> pd.DataFrame:
    """The scores at the chosen layers."""
    return Scores.of(records, all_heads).chosen()


def layer_rows(records: pd.DataFrame, all_heads: bool = False, marked: bool = True) -> pd.DataFrame:
    """The scores of every layer."""
    return Scores.of(records, all_heads).layers(marked)


def budget_rows(records: pd.DataFrame) -> pd.DataFrame:
    """The scores of every budget."""
    return Scores.of(records).budgets()


def domain_matrices(records: pd.DataFrame, layers: bool = False) -> str:
    """The domain matrices, in Markdown."""
    return grid.to_markdown(score_tables.domain_grids(Scores.of(records), layers))


def prepared(records: pd.DataFrame | Scores) -> Scores:
    """The scores of records; scores are prepared already."""
    return records if isinstance(records, Scores) else Scores.of(records)


def printed(
    records: pd.DataFrame | Scores, form: str, layers: bool = False, published: bool = False
) -> str:
    """The table of scores in one format."""
    return files.scores(prepared(records), form, layers, published)


def robustness_text(
    records: pd.DataFrame | Scores, form: str, layers: bool = False, all_measures: bool = False
) -> str:
    """The robustness tables in one format."""
    return files.robustness(Losses(prepared(records), all_measures), form, layers)


def arranged(records: pd.DataFrame | Scores, by: str, *options: Any, **named: Any) -> list[Grid]:
    """An arrangement of the scores; further arguments as of `pivot.arranged`."""
    return pivot.arranged(prepared(records), by, *options, **named)


def pivoted(
    records: pd.DataFrame, *options: Any, all_heads: bool = False, **named: Any
) -> list[Grid]:
    """A pivot of the scores; further arguments as of `pivot.pivoted`."""
    return pivot.pivoted(Scores.of(records, all_heads), *options, **named)


def with_counts(counts: dict[str, Any], **changed: Any) -> Record:
    """A record of these counts."""
    about = USUAL | changed
    ends = interval(counts, about["metric"]) or (None, None)
    usual = {
        "value": value_of(counts, about["metric"]),
        "low": ends[0],
        "high": ends[1],
        "n_blocks": len(counts["block"]),
    }
    usual["n"] = len(counts["target"]) if "target" in counts else sum(counts["denominator"])
    return Record(**(usual | about), counts=counts)


def scored(hits: Sequence[int], n: int = 10, **changed: Any) -> Record:
    """An accuracy: ``hits`` of ``n`` utterances of each speaker."""
    return with_counts(
        ratio_counts([f"speaker {i}" for i in range(len(hits))], hits, [n] * len(hits)), **changed
    )


def layers(
    test: Sequence[int], dev: Sequence[int], n_speakers: int = 12, **changed: Any
) -> list[Record]:
    """Dev and test accuracies of layers 0, 1 ...: ``test[i]`` and ``dev[i]`` of 10 utterances in
    the mean of speakers.
    """
    records = []
    for index, hits in enumerate(zip(dev, test, strict=True)):
        for split, mean in zip(("dev", "test"), hits, strict=True):
            spread = [min(10, max(0, mean + 3 * (i % 3) - 3)) for i in range(n_speakers)]
            of_layer = {
                "layer": str(index),
                "layer_index": index,
                "search": SEARCH,
                "chosen": {"l2": 0.1},
            }
            records.append(scored(spread, split=split, **(of_layer | changed)))
    return records


def verified(seed: int = 0, **changed: Any) -> list[Record]:
    """Dev and test EERs of 60 trials of 6 speakers, scores drawn."""
    generator = np.random.default_rng(seed)
    pairs = generator.integers(6, size=(60, 2))
    pairs[:20, 1] = pairs[:20, 0]
    target = pairs[:, 0] == pairs[:, 1]
    scores = target + generator.normal(size=60)
    counts = trial_counts(
        [f"speaker {i}" for i in pairs[:, 0]], [f"speaker {i}" for i in pairs[:, 1]], target, scores
    )
    return [
        with_counts(counts, split=split, head="cosine", **(OF_TRIALS | changed))
        for split in ("dev", "test")
    ]


HOSTILE = [
    "a|b",
    "a\nb",
    "a\r\nb",
    "a\rb",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "\x00nul",
    "\x7fdel",
    "\u2028line",
    "\u2029paragraph",
    "\u202eright to left",
    "\ufeffmark",
    "\U000e0041tag",
    "`code`",
    "**bold**",
    "<script>alert(1)</script>",
    "<!-- comment",
    "a,b",
    'a"b',
    "'; drop",
    "=1+1",
    "---",
    "- item",
    "# heading",
    "key: value",
    "!!python/object:os.system",
    "*alias",
    "%TAG",
    "{flow: [x",
    "no",
    "1e-5",
    "~",
    "\\",
    "\\u001b",
    "../../etc/passwd",
    " space ",
    "😀é日本",
]
