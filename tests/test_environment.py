"""What a record says of the code that made it."""

import subprocess
from pathlib import Path

import pytest

from probe.environment import commit_of


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package of a checkout with one commit; beside it lies another committed file."""
    package = tmp_path / "package"
    package.mkdir()
    for path in (package / "module.py", tmp_path / "results.txt"):
        path.write_text("one\n")
    for command in (
        "init --quiet",
        "add .",
        "-c user.name=a -c user.email=a@b commit --quiet --message=m",
    ):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return package


def test_the_commit_is_marked_where_the_package_was_changed_and_only_there(package: Path) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=package, capture_output=True, text=True, check=True
    ).stdout
    assert commit_of(package) == head[:12]
    (package.parent / "results.txt").write_text("two\n")
    assert commit_of(package) == head[:12]
    (package / "new.py").write_text("")
    assert commit_of(package) == head[:12] + "+"
    (package / "new.py").unlink()
    (package / "module.py").write_text("two\n")
    assert commit_of(package) == head[:12] + "+"


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == ""
