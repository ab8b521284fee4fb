"""How jobs are divided and tried again, with workers that are simulated in this process."""

from pathlib import Path
from typing import Any

import pytest
from toy_jobs import Simulated, Toy

from probe.errors import ProbeError, UsageError


def numbers(n: int) -> list[str]:
    return [str(number) for number in range(n)]


def outcomes(
    engine: Simulated, jobs: list[str], work: Any = None, most: int = 16
) -> dict[str, Any]:
    done = list(engine.run(work or Toy(), jobs, most, "test"))
    assert sorted(item.job for item in done) == sorted(jobs), "each job has one outcome"
    return {item.job: item for item in done}


def test_each_job_is_done_once_in_batches_that_become_smaller() -> None:
    engine = Simulated(2)
    outcomes(engine, numbers(100))
    sizes = [len(batch.jobs) for batch in engine.given]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 16
    assert sizes[-2:] == [1, 1]


def test_only_the_job_that_ends_its_workers_is_given_up_after_three_attempts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Simulated(2, deadly=("77",))
    done = outcomes(engine, numbers(100))
    assert [name for name, item in done.items() if item.error] == ["77"]
    assert str(done["77"].error) == (
        "3 workers ended while they did this job; the last one was killed"
    )
    assert not done["77"].is_refusal
    assert [batch.jobs for batch in engine.given].count(("77",)) == 3
    assert "77: worker 1 was killed; attempt 3 of 3 follows" in caplog.text.replace("r 2", "r 1")
    assert "both halves are tried again" in caplog.text


def test_a_job_that_raises_an_error_does_not_cost_its_neighbours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = outcomes(Simulated(1), ["refused", *numbers(20), "wrong"])
    assert {name for name, item in done.items() if item.error} == {"refused", "wrong"}
    assert done["refused"].is_refusal
    assert str(done["refused"].error) == "a fault of the data"
    assert "the last one ended with ValueError: a fault of the code" in str(done["wrong"].error)
    assert "Traceback" in capsys.readouterr().err


def test_work_that_cannot_be_opened_is_refused_at_once() -> None:
    engine = Simulated(2)
    for _ in range(2):  # the second run does not find anything open
        with pytest.raises(ProbeError, match="no such model"):
            outcomes(engine, numbers(100), Toy(refusal="no such model"))
    assert len(engine.given) == 4


def test_workers_that_all_end_stop_the_run() -> None:
    with pytest.raises(ProbeError, match=r"10 workers in a row ended .* the last one was killed"):
        outcomes(Simulated(2, deadly=("",)), numbers(100))


def test_a_worker_that_takes_too_long_is_ended_and_its_job_given_up() -> None:
    engine = Simulated(2, limit_s=1e-9)
    done = outcomes(engine, ["1", "2", "hung"], most=1)
    assert "took longer than the 1e-09 s that --job-limit allows" in str(done["hung"].error)
    assert [name for name, item in done.items() if item.error] == ["hung"]
    assert len(engine.ended) == 3


def test_a_worker_that_takes_far_longer_than_all_before_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("probe.engines.engine.SLOW_S", 0.05)
    outcomes(Simulated(2, limit_s=0.1), [*numbers(4), "hung"], most=1)
    text = "hung: worker 1 has taken 0 s, and a job before took 0 s at most. If it hangs, stop"
    assert caplog.text.replace("worker 2", "worker 1").count(text) == 3, "one for each attempt"


def test_workers_of_a_run_that_is_left_are_ended() -> None:
    engine = Simulated(2)
    for _ in engine.run(Toy(), [*numbers(3), "hung"], 1, "test"):
        break
    assert engine.ended


def test_batches_of_an_engine_that_divides_once_hold_all_jobs() -> None:
    class Once(Simulated):
        divides_once = True

    engine = Once(3)
    outcomes(engine, numbers(10), most=1)
    assert [len(batch.jobs) for batch in engine.given] == [4, 3, 3]


def test_a_worker_opens_its_work_once(tmp_path: Path) -> None:
    engine = Simulated(2)
    for _ in range(2):
        outcomes(engine, numbers(50), Toy(opened=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_usage_error_in_a_worker_is_one_in_the_driver() -> None:
    with pytest.raises(UsageError, match="no such option"):
        outcomes(Simulated(1), numbers(2), Toy(refusal="no such option", usage=True))
