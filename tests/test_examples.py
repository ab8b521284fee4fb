"""The notebooks in examples/ open with a picture, hold the outputs of a full run, and run."""

import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.ipynb"))
OPENING = re.compile(r"# .+\n\n!\[.{20,}\]\((\w+\.png)\)\n")
LARGEST_BYTES = 300_000
each_notebook = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_there_are_three_notebooks_and_the_index_links_each() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) == 3
    assert all(f"(../examples/{path.name})" in index for path in EXAMPLES)


@each_notebook
def test_a_notebook_opens_with_a_title_and_a_picture(path: Path) -> None:
    opening = OPENING.match("".join(cells_of(path)[0]["source"]))
    assert opening
    assert (path.parent / opening[1]).stat().st_size < LARGEST_BYTES


@each_notebook
def test_a_notebook_holds_the_outputs_of_one_run_from_the_top(path: Path) -> None:
    assert path.stat().st_size < LARGEST_BYTES
    code = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} & {"display_data", "execute_result"}
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not re.search(r"/(home|root|tmp|work|Users)/", json.dumps(outputs))


@each_notebook
def test_the_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    texts = ["".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "markdown"]
    for target in re.findall(r"\]\(([^)#]+)", "\n".join(texts)):
        assert "://" in target or (path.parent / target).exists(), target


@pytest.mark.nightly
@each_notebook
def test_a_notebook_runs_and_draws_the_picture_that_it_opens_with(
    path: Path, tmp_path: Path
) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(shutil.copy(path, tmp_path), as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1800, resources=place).execute()
    opening = OPENING.match(notebook.cells[0].source)
    assert opening
    assert (tmp_path / opening[1]).stat().st_size > 10_000
