"""What is written for the Hugging Face Hub, read back with a YAML reader and with the Hub's own
library.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml as reader
from click.testing import CliRunner
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from scored import HOSTILE, USUAL, frame, layers, verified

from probe.cli import cli
from probe.errors import ProbeError
from probe.records import OWN_HEAD, Record, write_records
from probe.reporting.tables.model_card import write_cards, yaml

DATASETS = {"spoken": "org/spoken-digits"}


def pretrained(**changed: Any) -> list[Record]:
    return layers([5, 7], [5, 7], **changed)


def entries(path: Path) -> list[Any]:
    return parse_eval_result_entries(reader.safe_load(path.read_text(encoding="utf-8")))


def test_evaluation_results_are_what_the_hub_reads(tmp_path: Path) -> None:
    records = [
        *pretrained(),
        *pretrained(condition="telephone"),
        *layers([3], [3], model="fbank", revision="1"),
    ]
    written, left_out = write_cards(frame(*records), tmp_path, DATASETS)
    assert written == [
        tmp_path / "org--a" / "model-card.md",
        tmp_path / "org--a" / ".eval_results" / "digits.yaml",
    ]
    assert left_out == ["fbank: a baseline, no model of the Hub"]
    plain, telephone = entries(written[1])
    assert (plain.dataset_id, plain.task_id, plain.value) == (
        "org/spoken-digits",
        "digits/accuracy",
        0.7,
    )
    assert telephone.task_id == "digits/accuracy/clean to telephone"
    test = records[3]
    assert f"95 % interval {test.low:.4f} to {test.high:.4f}, n 120, 12 speakers" in plain.notes
    assert (
        "accuracy, a fraction, higher is better; head linear on layer 1, chosen on dev"
        in plain.notes
    )


def test_the_card_is_one_that_the_hub_reads(tmp_path: Path) -> None:
    records = [*pretrained(), *verified(), *layers([3], [3], model="fbank", revision="1")]
    card = ModelCard.load(write_cards(frame(*records), tmp_path, DATASETS)[0][0])
    assert card.data.model_name == "org/a"
    digits, verify = card.data.eval_results
    assert (digits.task_type, digits.dataset_type, digits.dataset_name) == (
        "audio-classification",
        "org/spoken-digits",
        "spoken",
    )
    assert (digits.metric_type, digits.metric_value, digits.dataset_split) == (
        "accuracy",
        0.7,
        "test",
    )
    assert digits.metric_args["low"] == pytest.approx(records[3].low, abs=1e-6)
    assert (verify.metric_type, verify.metric_value) == (
        "eer",
        pytest.approx(records[5].value, abs=1e-6),
    )
    table = [line for line in card.text.splitlines() if line.startswith("|")]
    assert (
        len(table) == 4
        and "70.0 [" in card.text
        and "| fbank |" in table[0]
        and "30.0" in card.text
    )


def test_transcription_is_recognition_and_a_domain_is_a_config(tmp_path: Path) -> None:
    crossed: dict[str, Any] = {
        "kind": "transcribe",
        "metric": "wer",
        "select_by": "wer",
        "higher_is_better": False,
    }
    crossed |= {"train_domain": "read", "test_domain": "read"}
    (path,) = write_cards(frame(*pretrained(**crossed)), tmp_path, {})[0]
    (result,) = model_index_to_eval_results(
        reader.safe_load(path.read_text(encoding="utf-8").split("---")[1])["model-index"]
    )[1]
    assert (result.task_type, result.dataset_config, result.dataset_type) == (
        "automatic-speech-recognition",
        "read to read",
        "spoken",
    )


def test_no_two_entries_of_a_file_have_one_task(tmp_path: Path) -> None:
    own = [
        record
        for record in pretrained(head=OWN_HEAD, layer="ctc", layer_index=9)
        if record.value == 0.7
    ]
    other = pretrained(corpus="strings", condition="telephone", train_condition="telephone")
    write_cards(frame(*pretrained(), *own, *other), tmp_path, DATASETS | {"strings": "org/strings"})
    found = [
        (entry.dataset_id, entry.task_id)
        for entry in entries(tmp_path / "org--a" / ".eval_results" / "digits.yaml")
    ]
    assert len(found) == 3 and len(set(found)) == 3


@pytest.mark.parametrize(
    ("model", "revision", "reason"),
    [
        ("fbank", "1", "a baseline, no model of the Hub"),
        ("mfcc", "1", "a baseline, no model of the Hub"),
        ("random:org/a", "seed 0", "random weights are a baseline"),
        ("./checkpoints/mine", "local", "of revision 'local', no commit of the Hub"),
        ("folder/mine", "local", "of revision 'local', no commit of the Hub"),
        ("/data/mine", "1" * 40, "of revision '1111111111111111111111111111111111111111'"),
    ],
)
def test_what_is_not_on_the_hub_is_left_out_and_said(
    tmp_path: Path, model: str, revision: str, reason: str
) -> None:
    odd = layers([5], [5], model=model, revision=revision)
    with pytest.raises(ProbeError, match="none of these models is on the Hub") as caught:
        write_cards(frame(*odd), tmp_path, DATASETS)
    assert reason in str(caught.value) and not list(tmp_path.iterdir())
    assert any(
        reason in line
        for line in write_cards(frame(*odd, *pretrained(model="org/b@main")), tmp_path, DATASETS)[1]
    )
    assert {path.parent.name for path in tmp_path.rglob("model-card.md")} == {"org--b@main"}


def test_a_corpus_without_a_dataset_is_in_the_card_alone(tmp_path: Path) -> None:
    written, left_out = write_cards(frame(*pretrained()), tmp_path, {})
    assert [path.name for path in written] == ["model-card.md"]
    assert left_out == [
        "spoken: no .eval_results, which need its dataset on the Hub (--dataset spoken=org/name)"
    ]
    with pytest.raises(ProbeError, match="corpus 'words': no record has it; there are spoken"):
        write_cards(frame(*pretrained()), tmp_path, {"words": "org/words"})


def test_the_command_writes_and_says_what_it_left_out(tmp_path: Path) -> None:
    write_records(tmp_path / "results" / "a.jsonl", pretrained())
    line = ["records", str(tmp_path / "results"), "--export", "hf", "--to", str(tmp_path / "hub")]
    done = CliRunner().invoke(cli, [*line, "--dataset", "spoken=org/spoken-digits"])
    assert done.exit_code == 0 and "digits.yaml" in done.stderr
    assert (tmp_path / "hub" / "org--a" / ".eval_results" / "digits.yaml").exists()
    assert "expected CORPUS=ORG/NAME" in str(
        CliRunner().invoke(cli, [*line, "--dataset", "spoken"]).exception
    )


def test_yaml_is_read_back_as_it_was() -> None:
    odd = [
        {"text": text, "list": [1, 0.00001, 2.5, text], "inside": {"text": text}}
        for text in HOSTILE
    ]
    assert reader.safe_load(yaml(odd)) == odd
    assert all(char.isprintable() or char == "\n" for char in yaml(odd))


def test_names_cannot_break_a_file(tmp_path: Path) -> None:
    records = []
    for name in HOSTILE:
        named: dict[str, Any] = {
            "task": name,
            "corpus": name,
            "condition": name,
            "head": name,
            "note": name,
        }
        records += pretrained(**named, code={**USUAL["code"], "version": name})
    written, _ = write_cards(frame(*records), tmp_path, dict.fromkeys(HOSTILE, "org/spoken"))
    card, *results = written
    assert {path.parent for path in results} == {tmp_path / "org--a" / ".eval_results"}
    assert len({path.name for path in results}) == len(HOSTILE)
    assert {entry.task_id for path in results for entry in entries(path)} == {
        f"{name}/accuracy/clean to {name}" for name in HOSTILE
    }
    read = ModelCard.load(card)
    assert {(result.task_name, result.dataset_name) for result in read.data.eval_results} == {
        (name, name) for name in HOSTILE
    }
    table = [line for line in read.text.split("\n") if line.startswith("|")]
    assert len(table) == 2 + len(HOSTILE)
    bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in table]
    assert bars == [bars[0]] * len(table)
    for path in written:
        assert all(char.isprintable() or char == "\n" for char in path.read_text(encoding="utf-8"))
