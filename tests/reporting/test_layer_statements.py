"""Published statements on layers: each shape holds, fails and stays undecided."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scored import frame, record

from probe.reporting.layer_statements import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Point,
    Statement,
    curves_of_records,
    curves_of_similarity,
    statements,
    verdict_of,
    verdicts,
)
from probe.reporting.report.page import content
from probe.reporting.tables.similarity_tables import COLUMNS, statements_markdown

BASE = "facebook/wav2vec2-base"


def curve(values: Sequence[float], half: float = 0.01) -> list[Point]:
    depths = np.linspace(0, 1, len(values))
    return [
        Point(float(depth), value, value - half, value + half)
        for depth, value in zip(depths, values, strict=True)
    ]


def statement(shape: str, **numbers: float) -> Statement:
    about = {"id": "x", "claim": "", "models": ["m"], "source": "", "shape": shape}
    return Statement.model_validate(about | numbers)


MIDDLE = [0.2, 0.4, 0.8, 0.9, 0.8, 0.4, 0.3]
RISING = [0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9]
PEAK = statement("peak", **{"from": 0.3, "to": 0.7})
PLATEAU = statement("plateau", **{"from": 0.6, "to": 1.0, "share": 0.9})
CASES = [
    (PEAK, MIDDLE, RISING),
    (statement("drop", share=0.8), MIDDLE, RISING),
    (PLATEAU, [0.2, 0.4, 0.6, 0.89, 0.88, 0.9, 0.87], MIDDLE),
    (statement("dip"), [0.9, 0.8, 0.5, 0.4, 0.5, 0.6, 0.7], RISING),
    (statement("rise"), RISING, RISING[::-1]),
]


@pytest.mark.parametrize(("made", "good", "bad"), CASES, ids=[case[0].shape for case in CASES])
def test_a_shape_holds_fails_and_stays_undecided(
    made: Statement, good: Sequence[float], bad: Sequence[float]
) -> None:
    assert verdict_of(made, curve(good))[0] == HOLDS
    assert verdict_of(made, curve(bad))[0] == FAILS
    for values in (good, bad):
        assert verdict_of(made, curve(values, half=0.8))[0] == UNDECIDED
        assert verdict_of(made, curve(values, half=np.nan)) == (
            UNDECIDED,
            "some layers have no interval",
        )
    verdict, why = verdict_of(made, curve(good)[:5])
    assert verdict == UNDECIDED and why.startswith("5 layers; expected 6 or more, from the first")
    assert verdict_of(made, curve(good)[1:])[0] == UNDECIDED


def test_a_tied_best_layer_outside_the_part_decides_nothing() -> None:
    assert verdict_of(PEAK, curve([0.2, 0.4, 0.8, 0.9, 0.9, 0.895, 0.3]))[0] == UNDECIDED
    assert verdict_of(PEAK, curve([0.2, 0.4, 0.8, 0.9, 0.9, 0.885, 0.3]))[0] == HOLDS


def test_the_data_file_has_every_statement_once_with_its_source() -> None:
    made = statements()
    assert len({item.id for item in made}) == len(made) == 14
    for item in made:
        assert item.source and item.claim.endswith(".") and (item.tasks or item.compared)
        assert item.from_depth <= item.to_depth
        assert (item.shape in ("drop", "plateau")) == ("share" in item.model_fields_set)


def layered(values: Sequence[float], **changed: Any) -> pd.DataFrame:
    """Rows of `Scores.layers` of one curve."""
    depths = np.linspace(0, 1, len(values))
    rows = [
        {"model": "mine", "task": "phone-intervals", "corpus": "c", "head": "linear"}
        | {"metric": "accuracy", "select_by": "accuracy", "condition": "clean"}
        | {"train_condition": "clean", "train_domain": "", "headline": True, "chosen": i == 3}
        | {"layer": str(i), "value": value, "low": value - 0.01, "high": value + 0.01}
        | {"depth": depth, "higher_is_better": True}
        | changed
        for i, (value, depth) in enumerate(zip(values, depths, strict=True))
    ]
    return pd.DataFrame(rows)


def test_curves_of_tasks_are_those_of_clean_main_scores_of_the_checkpoint() -> None:
    specs = {"mine": f"{BASE}@main", "other": "random:facebook/wav2vec2-base"}
    rows = verdicts(curves_of_records(layered(MIDDLE), specs))
    assert dict(zip(rows["claim"].str[:30], rows["verdict"], strict=True)) == {
        "Phones are best in the middle ": HOLDS,
        "Phones are worse in the last l": HOLDS,
    }
    assert set(rows["of"]) == {"phone-intervals (c, linear, accuracy)"}
    for changed in ({"model": "other"}, {"condition": "noise"}, {"task": "word-id"}):
        assert verdicts(curves_of_records(layered(MIDDLE, **changed), specs)).empty
    errors = layered([1 - value for value in MIDDLE], higher_is_better=False, metric="per")
    assert (
        verdicts(curves_of_records(errors.assign(select_by="per"), specs))["verdict"]
        .eq(HOLDS)
        .all()
    )


def test_models_are_compared_in_their_published_order() -> None:
    names = ["facebook/hubert-base-ls960", BASE, "fbank"]
    for scores, expected in (
        ([0.9, 0.8, 0.5], HOLDS),
        ([0.8, 0.9, 0.5], FAILS),
        ([0.9, 0.895, 0.5], UNDECIDED),
    ):
        rows = pd.concat(
            [
                layered([score], model=name, task="phones-ctc", layer="weighted")
                for name, score in zip(names, scores, strict=True)
            ]
        )
        found = verdicts(curves_of_records(rows, {name: name for name in names}))
        assert found["verdict"].tolist() == [expected]
        assert found["model"].tolist() == [" > ".join(names)]
    assert verdicts(curves_of_records(rows[rows["model"] == BASE], {BASE: BASE})).empty


def compared(values: Sequence[float], other: str = "fbank", **changed: Any) -> pd.DataFrame:
    """Rows of `read_similarity` of one curve."""
    about = {"form": "models", "model": "mine", "condition": "clean", "other_model": other}
    about |= {"other_condition": "clean", "corpus": "c", "split": "test", "view": "frames"}
    rows = [
        {**about, "spec": BASE, "layer": str(i), "other_layer": "0", "depth": i / 6}
        | {"cca": value, "cca_low": value - 0.01, "cca_high": value + 0.01}
        | changed
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_curves_of_similarity_are_checked_and_shown() -> None:
    dipped = [0.95, 0.9, 0.5, 0.4, 0.5, 0.6, 0.7]
    text = statements_markdown(compared(dipped))
    assert "## Published statements" in text and " holds " in text
    assert "falls with depth and rises again" in text and "2107.04734" in text
    [curve] = curves_of_similarity(compared(dipped))
    assert curve.of == "CCA with fbank (c, frames, test)"
    assert statements_markdown(compared(dipped, spec="random:x")) == ""
    unknown = verdicts(curves_of_similarity(compared(dipped, depth=np.nan)))
    assert unknown["why"].tolist() == ["the number of blocks of the model is unknown"]
    several = pd.concat([compared(dipped), compared(dipped, other_layer="1")])
    assert curves_of_similarity(several) == []


def test_the_report_shows_statements_about_its_models_alone() -> None:
    def layers_of(model: str) -> pd.DataFrame:
        about = {"model": model, "task": "speaker-id", "low": 0.0, "high": 1.0}
        return frame(
            *(
                record(**about, layer=str(i), layer_index=i, depth=i / 6, split=split, value=0.5)
                for i in range(7)
                for split in ("dev", "test")
            )
        )

    found = content(layers_of(BASE))["statements"]
    assert found["claim"] == ["Speakers are best in the lower half of the layers."]
    assert found["verdict"] == [UNDECIDED]
    assert content(layers_of("org/a"))["statements"] == {}
