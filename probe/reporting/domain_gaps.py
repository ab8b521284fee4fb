"""What a model loses that was trained on another domain than it is tested on."""

from collections.abc import Callable, Hashable, Mapping

import pandas as pd

from probe.errors import ProbeError
from probe.measures import degradation as measures
from probe.measures.uncertainty import Estimate
from probe.reporting.layer_scores import Row, columns_of, measured_score, with_ends
from probe.reporting.scores import Scores, with_all_labels

DOMAINS = ["task", "corpus", "condition", "train_condition", "metric", "head"]
GAPS = [
    *[*DOMAINS, "train_domain", "test_domain", "model", "layer", "value", "low", "high"],
    *[*with_ends("in_domain", "gap", "relative", "shift"), "higher_is_better", "note"],
]
RECOVERED = ["baseline", *with_ends("recovered_first", "recovered_second")]


def domain_gaps(scores: Scores, baseline: str | None = None) -> pd.DataFrame:
    """Gaps between domains: one row for each train domain, other test domain and model; columns
    `GAPS`, and `RECOVERED` with a baseline.

    On the test rows of a target domain, A is the baseline trained on another domain and C the
    baseline trained on the target; B is the model trained on the other domain. ``gap`` is how
    much worse B is than the model trained on the target (C2). The model recovers (A - B) / (A -
    C) of the baseline's gap, with C in one reading and C2 in the second. ``shift`` compares
    test rows of different domains instead, of one training.

    Args:
        baseline: a model, empty if there are no records of any; None leaves out `RECOVERED`.
    """
    rows = with_all_labels(scores.one_sampling.across_domains.tested)
    is_tested = (rows["split"] == "test") & (rows["train_domain"] != "") & rows["value"].notna()
    rows = rows[is_tested & (rows["layer"] == rows["chosen_layer"])]
    keys = [*DOMAINS, "train_domain", "test_domain", "model"]
    rows = rows.sort_values(keys)
    score_at = {tuple(row[name] for name in keys): row for row in rows.to_dict("records")}
    gaps = [
        _gap_row(place, row, score_at, baseline)
        for place, row in score_at.items()
        if row["train_domain"] != row["test_domain"]
    ]
    return pd.DataFrame(gaps, columns=GAPS if baseline is None else [*GAPS, *RECOVERED])


def _gap_row(
    place: tuple[Hashable, ...],
    row: Row,
    score_at: Mapping[tuple[Hashable, ...], Row],
    baseline: str | None,
) -> Row:
    *question, source, target, model = place
    at = {
        "A": score_at.get((*question, source, target, baseline)),
        "B": row,
        "C": score_at.get((*question, target, target, baseline)),
        "C2": score_at.get((*question, target, target, model)),
        "home": score_at.get((*question, source, source, model)),
    }
    names = {
        "A": f"the baseline trained on {source}",
        "C": f"the baseline trained on {target}",
        "C2": f"the model trained on {target}",
        "home": f"the model on the test rows of {source}",
    }
    higher = bool(row["higher_is_better"])
    degradation = measures.degradation
    recipes: dict[str, tuple[str, Callable[..., Estimate]]] = {
        "gap": ("C2 B", lambda c, b: degradation(c, b, higher).estimate()),
        "relative": ("C2 B", lambda c, b: measures.relative_degradation(c, b, higher)),
        "shift": ("home B", lambda home, away: degradation(home, away, higher).estimate()),
    }
    if baseline and model != baseline:
        for name, letters in (("recovered_first", "A B C"), ("recovered_second", "A B C2")):
            recipes[name] = letters, lambda a, b, c: measures.gap_recovered(a, b, c, higher)
    gap = {name: row[name] for name in GAPS if name in row} | {"baseline": baseline}
    notes = []
    for name, (letters, measure) in recipes.items():
        rows = {names.get(letter, ""): at[letter] for letter in letters.split()}
        estimate = _estimate(rows, measure, pooled=name == "shift")
        gap |= columns_of(name, estimate)
        notes.append(estimate.note)
    if (in_domain := at["C2"]) is not None:
        ends = (in_domain[name] for name in ("value", "low", "high"))
        gap |= dict(zip(with_ends("in_domain"), ends, strict=True))
    note = "; ".join(dict.fromkeys(filter(None, notes)))
    return gap | {"note": note}


def _estimate(
    rows: Mapping[str, Row | None], measure: Callable[..., Estimate], pooled: bool
) -> Estimate:
    """A measure of some scores, or why there is none.

    Args:
        pooled: whether the scores are of different utterances, so that the speakers of both are
            pooled.
    """
    missing = [name for name, row in rows.items() if row is None]
    if missing:
        return Estimate(None, note=f"no score of {', '.join(missing)}")
    known = [row for row in rows.values() if row is not None and row["counts"]]
    if len(known) < len(rows):
        return Estimate(None, note="no counts in the record")
    blocks = sorted({block for row in known for block in row["counts"]["block"]})
    try:
        return measure(*(measured_score(row, blocks if pooled else None) for row in known))
    except ProbeError as error:
        return Estimate(None, note=str(error).partition(":")[0])
