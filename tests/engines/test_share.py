"""Shares of a list of jobs: each job belongs to one of them, whatever the other jobs are."""

import itertools
from collections.abc import Callable

import pytest

from probe.engines.share import WHOLE, Share
from probe.errors import EXIT_USAGE, UsageError

JOBS = [f"job {number}" for number in range(1000)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_every_job_belongs_to_one_share_of_about_equal_size(count: int) -> None:
    shares = [Share(index, count) for index in range(1, count + 1)]
    of_shares = [[job for job in JOBS if share.has(job)] for share in shares]
    assert sorted(itertools.chain(*of_shares)) == sorted(JOBS)
    mean = len(JOBS) / count
    assert all(abs(len(jobs) - mean) <= 5 * mean**0.5 for jobs in of_shares)


def test_the_share_of_a_job_never_changes() -> None:
    """Runs of different versions and machines share the work."""
    assert [index for index in range(1, 8) if Share(index, 7).has("job 0")] == [6]
    assert [index for index in range(1, 4) if Share(index, 3).has("job 0")] == [2]


def test_a_share_is_read_as_it_is_written() -> None:
    assert str(Share.parse("2/7")) == "2/7"
    assert Share.parse("1/1") == WHOLE
    assert WHOLE.is_whole
    assert not Share(1, 2).is_whole


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "x/y", "1", "1/0", "1/2/3", "-1/3", "1.0/3", "", "１/3"]
)
def test_a_share_that_does_not_exist_is_one_clear_line(
    text: str, command: Callable[..., object]
) -> None:
    with pytest.raises(UsageError, match=r"--shard .*: expected I/N with I from 1 to N, such as"):
        Share.parse(text)
    line = ("--model", "fbank", "--corpus", "c.csv", "--to", "f", f"--shard={text}")
    done = command("extract", *line)
    assert done.returncode == EXIT_USAGE
    assert done.stderr.count("\n") == 1
    assert f"--shard {text}: expected I/N" in done.stderr
