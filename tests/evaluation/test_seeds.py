"""How many seeds a task is trained with, and where the records of each stand."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from probe.cli import cli
from probe.evaluation.run import Training
from probe.evaluation.tasks import open_task
from probe.records import BY_GRADIENT, files_of


@pytest.mark.parametrize(
    ("task", "seeds"),
    [
        ("asr-ctc", 3),
        ("speaker-verify-amsoftmax", 3),
        ("speaker-verify", 1),
        ("superb-ks", 1),
        ("word-id", 1),
        ("domain-shift", 1),
    ],
)
def test_ctc_and_speaker_heads_get_three_seeds_and_others_one_as_the_help_says(
    task: str, seeds: int
) -> None:
    trainings = Training(seed=4, seeds=None).of_seeds(open_task(task), Path("out"))
    folders = [Path("out"), Path("out/seed5"), Path("out/seed6")]
    assert list(trainings) == folders[:seeds]
    assert [training.seed for training in trainings.values()] == [4, 5, 6][:seeds]
    assert {training.seeds for training in trainings.values()} == {1}
    words = " ".join(CliRunner().invoke(cli, ["bench", "--help"]).output.split())
    assert "3 for CTC heads, AM-softmax and x-vectors; 1 for kind superb" in words


def test_the_number_of_seeds_can_be_chosen() -> None:
    assert len(Training(seeds=2).of_seeds(open_task("word-id"), Path("out"))) == 2
    assert len(Training().of_seeds(open_task("asr-ctc"), Path("out"))) == 1


def test_every_ready_task_that_has_several_seeds_has_a_head_that_is_marked_with_one() -> None:
    for name in ("asr-ctc", "asr-ctc-mlp", "asr-ctc-bilstm", "speaker-verify-amsoftmax"):
        task = open_task(name)
        assert task.kind.main(task.settings).head in BY_GRADIENT


def test_a_folder_of_records_holds_those_of_further_seeds(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "seed1/a.jsonl", "demo/c.jsonl", "seedling/d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    found = [path.relative_to(tmp_path).as_posix() for path in files_of(tmp_path)]
    assert found == ["a.jsonl", "b.jsonl", "seed1/a.jsonl"]
