"""What a record says of the code that made it."""

import ast
import subprocess
from pathlib import Path

import pytest

from probe.environment import commit_of

ROOT = Path(__file__).resolve().parent.parent
POSIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "syslog"}


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


def test_no_module_needs_a_library_of_posix_when_it_is_imported() -> None:
    for path in sorted((ROOT / "probe").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.names[0].name for node in tree.body if isinstance(node, ast.Import)]
        names += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert not POSIX_ONLY & set(names), path


def test_only_one_place_asks_for_the_affinity_that_macos_lacks() -> None:
    paths = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "probe").rglob("*.py"))
        if "os.sched_getaffinity(" in path.read_text(encoding="utf-8")
    ]
    assert paths == ["probe/environment.py"]
