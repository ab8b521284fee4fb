"""The documentation is true: commands exist, examples run, links lead somewhere."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import probe
from probe.cli import cli
from probe.evaluation.kinds.registry import kinds
from probe.protocols import ready_tasks

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = (ROOT / "PACKAGE.md").read_text(encoding="utf-8")
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
DECISIONS = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
PYTHON = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    ROOT / "tasks" / "README.md",
    ROOT / "results" / "README.md",
]


def test_every_command_is_in_the_index() -> None:
    for name in cli.commands:
        assert f"probe {name}" in INDEX


def test_the_index_links_every_page() -> None:
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"index.md"}
    assert pages <= set(re.findall(r"\]\(([\w-]+\.md)", INDEX + DECISIONS))


def test_every_decision_has_a_number_a_date_and_a_row_in_the_index() -> None:
    listed = re.findall(
        r"^\| (\d+) \| 20\d\d-\d\d-\d\d \| \[(.+)\]\((.+)\) \|$", DECISIONS, re.MULTILINE
    )
    assert [int(number) for number, *_ in listed] == [*range(1, len(listed) + 1)]
    written = set()
    for page in ROOT.glob("docs/decisions-*.md"):
        for number, title in re.findall(
            r"^## (\d+)\. (.+)$", page.read_text("utf-8"), re.MULTILINE
        ):
            written.add((number, title, page.name))
    assert written == set(listed)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_the_page_of_the_package_index_has_no_links_to_files_and_shows_what_the_readme_shows() -> (
    None
):
    assert "long_description = file: PACKAGE.md" in (ROOT / "setup.cfg").read_text("utf-8")
    assert not [target for target in re.findall(r"\]\(([^)]+)\)", PACKAGE) if "://" not in target]
    shown = re.findall(r"^```\w*\n(.*?)^```", PACKAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(shown) == 5
    install, demo, *others = shown
    assert all(f"```\n{block}" in README or f"```sh\n{block}" in README for block in others)
    assert install.strip() in README
    assert demo.strip() in README


# Pages that may be longer, and why (decision 110).
LONG_PAGES = {
    "docs/decisions.md": "an index with a row for each decision",
    "results/README.md": "a report, most of it tables that `make tables` writes",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_at_most_1500_words(page: Path) -> None:
    n_words = len(page.read_text(encoding="utf-8").split())
    assert n_words <= 1500 or str(page.relative_to(ROOT)) in LONG_PAGES


def test_the_python_page_names_every_public_function_that_exists() -> None:
    for name in re.findall(r"`probe\.(\w+)", PYTHON):
        assert name in dir(probe)


def test_every_ready_task_and_every_key_is_documented() -> None:
    tasks = "".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("tasks/README.md", "docs/presets.md")
    )
    assert all(f"`{name}`" in tasks for name in ready_tasks())
    page = (ROOT / "docs" / "task-keys.md").read_text(encoding="utf-8")
    keys = {key for kind in kinds().values() for key in kind.settings.model_fields}
    assert {key for key in keys if not re.search(rf"`{key}\b", page)} == set()


def test_the_page_of_keys_shows_the_defaults_of_every_kind() -> None:
    page = (ROOT / "docs" / "task-keys.md").read_text(encoding="utf-8")
    checked = set()
    for section in page.split("\n## ")[1:]:
        for name in set(re.findall(r"`(\w+)`", section.splitlines()[0])) & kinds().keys():
            fields = kinds()[name].settings.model_fields
            for key, shown in re.findall(r"`(\w+) =\s([^`.]+(?:\.\d[^`.]*)*)`", section):
                if key in fields:
                    value = tomllib.loads(f"value = {shown}")["value"]
                    value = tuple(value) if isinstance(value, list) else value
                    assert fields[key].get_default() in (value, (value,)), (name, key)
                    checked.add(name)
    assert checked == set(kinds())


def test_the_python_example_runs(
    tones: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PYTHON, flags=re.DOTALL)
    tones().rename(tmp_path / "corpus.csv")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(
        example.replace("facebook/data2vec-audio-base", "mfcc").replace('layer("6"', 'layer("0"'),
        names,
    )
    assert set(names["table"]["control"]) == {"", "majority", "shuffled"}
    assert len(names["classifier"].classes_) == 3


def test_the_script_of_the_tutorial_makes_a_manifest_from_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for name in ("anna_seven_1", "ben_two_1"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "clips" / f"{name}.wav", np.zeros(1600), 16_000)
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    rows = [
        (row.speaker, row.text, row.split) for row in probe.load_corpus("corpus.csv").utterances
    ]
    assert rows == [("anna", "seven", ""), ("ben", "two", "")]


def command_lines(page: Path) -> list[str]:
    """The lines of a page's code blocks, fenced or indented, that call `probe`."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("probe ")]


def test_pages_hold_command_lines() -> None:
    assert sum(len(command_lines(page)) for page in PAGES) > 40
    assert all(len(command_lines(ROOT / page)) >= 3 for page in ("README.md", "docs/tutorial.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_of_a_page_is_understood(page: Path) -> None:
    for line in command_lines(page):
        command = re.split(r" [>|#] ?", line)[0]
        name, *arguments = shlex.split(command)[1:]
        cli.commands[name].make_context(name, list(arguments))


@pytest.mark.nightly
def test_the_commands_of_the_tutorial_run_one_after_the_other(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    install, *middle, _hub = blocks
    commands = [install.splitlines()[-1], *middle]
    script = f'probe() {{ "{sys.executable}" -m probe "$@"; }}\nset -e\n' + "\n".join(commands)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = {"layers.pdf", "table.tex", "report.html", "demo", "results", "out"}
    assert made <= {path.name for path in tmp_path.iterdir()}
    assert "word-id" in done.stdout


def test_the_tables_of_the_documentation_are_what_their_commands_print(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = [ROOT / "docs" / name for name in ("tables.md", "published.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    examples = re.findall(r"```sh\nprobe (table .*?)```\n\n```\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) >= 2
    monkeypatch.chdir(ROOT)
    for command, shown in examples:
        printed = CliRunner().invoke(cli, shlex.split(command.replace("\\\n", " "))).stdout
        rows = [line for line in shown.splitlines() if line.startswith("|")]
        assert rows == [line for line in printed.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_rows_of_a_table_have_as_many_cells_as_its_head(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        rows = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(rows) > 2, table
        assert set(rows) == {rows[0]}, table


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
