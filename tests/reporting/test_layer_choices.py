"""How sure the chosen layer is, in tables of scores."""

from dataclasses import replace
from typing import Any

import pytest
from scored import frame, layer_rows, printed, scored, summary_rows

from probe.records import Record


def sure(layer: str, hits: list[int], **changed: Any) -> list[Record]:
    """Dev and test accuracies of one layer: hits of 10 utterances of each speaker."""
    place = {"layer": layer, "layer_index": int(layer), **changed}
    return [scored(hits, split=split, **place) for split in ("dev", "test")]


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [("speaker", "speakers"), ("utterance", "utterances"), ("", "blocks (such as speakers)")],
)
def test_the_layer_stands_with_the_layers_and_the_share_of_resamples_of_dev(
    kind: str, blocks: str
) -> None:
    rows = [*sure("0", [1] * 8), *sure("1", [8, 4] * 4), *sure("2", [4, 8] * 4)]
    rows = [replace(record, block_kind=kind) for record in rows]
    [row] = summary_rows(frame(*rows)).to_dict("records")
    assert (row["layer"], row["layer_set"]) == ("1", "1-2")
    assert row["layer_share"] == pytest.approx(0.5 + 35 / 256, abs=0.05)
    text = printed(frame(*rows), "md")
    assert f"1 (1-2; {100 * row['layer_share']:.0f} %)" in text
    share = f"{100 * row['layer_share']:.0f} %"
    assert (
        f"* layer 1 (1-2; {share}): 90 % of 1,000 resamples of the dev {blocks} choose one of 1-2, "
        f"and {share} choose 1\n" in text
    )
    every = layer_rows(frame(*rows))
    assert every["layer_share"].sum() == pytest.approx(1)
    assert every["in_layer_set"].tolist() == [False, True, True]


def test_how_sure_the_layer_is_is_unknown_with_five_speakers_and_empty_with_one_layer() -> None:
    few = frame(
        *sure("0", [5] * 5, block_kind="recording"), *sure("1", [6] * 5, block_kind="recording")
    )
    assert summary_rows(few)["layer_set"].tolist() == ["unknown"]
    assert summary_rows(few)["layer_share"].isna().all()
    assert "* layer 1 (?): dev has fewer than 6 recordings, or" in printed(few, "md")
    assert "| 1 (?) |" in printed(few, "md") and "%)" not in printed(few, "md")
    assert summary_rows(frame(*sure("0", [5] * 8)))["layer_set"].tolist() == [""]


def test_dev_cross_entropy_decides_between_layers_of_equal_dev_scores() -> None:
    entropies = {"0": 0.7, "1": 0.5, "2": 0.6}
    rows = [
        record
        for layer, entropy in entropies.items()
        for record in sure(layer, [5] * 8, chosen={"dev_cross_entropy": entropy})
    ]
    [row] = summary_rows(frame(*rows)).to_dict("records")
    assert (row["layer"], row["layer_set"], row["layer_share"]) == ("1", "1", 1.0)
    without = frame(*(record for layer in "012" for record in sure(layer, [5] * 8)))
    assert summary_rows(without)["layer"].tolist() == ["0"]
