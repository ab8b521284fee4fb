"""Hooks of the documentation site: pages that lie outside `docs/`, and pages made of the code.

In the repository every link leads to a file. On the site, links to files that are pages lead to the
pages, and links to other files of the repository become plain text.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from click.testing import CliRunner
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

import probe
from probe.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "tasks/README.md": "tasks.md",
    "results/README.md": "results.md",
    "examples/own_model.ipynb": "own_model.md",
    "examples/robustness.ipynb": "robustness_figure.md",
    "examples/own_labels.ipynb": "own_labels.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "README.md": "index.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside `docs/`, their pictures, and the reference."""
    for source, page in PAGES.items():
        if page == "index.md":
            continue
        text, drawn = page_of(source)
        files.append(File.generated(config, page, content=text))
        for name, picture in drawn.items():
            files.append(File.generated(config, name, content=picture))
        for target in pictures(source, text):
            if files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    names = sorted(name for name in probe.__all__ if not name.startswith("__"))
    entries = [f"::: {getattr(probe, name).__module__}.{name}" for name in names]
    api = "# Python reference\n\n" + "\n\n".join(entries) + "\n"
    files.append(File.generated(config, "api.md", content=api))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def page_of(source: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a page or a notebook, and the pictures in the outputs of a notebook."""
    path = ROOT / source
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8"), {}
    resources = {"unique_key": path.stem, "output_files_dir": ""}
    text, made = MarkdownExporter().from_filename(str(path), resources=resources)
    return text, {f"{path.parent.name}/{name}": data for name, data in made["outputs"].items()}


def commands() -> str:
    """The help of every command, as a terminal shows it."""
    parts = ["# Commands"]
    for name in ["", *sorted(cli.commands)]:
        arguments = [name, "--help"] if name else ["--help"]
        text = CliRunner().invoke(cli, arguments, prog_name="probe", env={"COLUMNS": "88"}).stdout
        parts += [f"## probe {name}".rstrip(), f"```text\n{text.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Rewrite the links of a page for the site."""
    sources = {name: source for source, name in PAGES.items() if name != "index.md"}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewritten(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = resolved(source, target)
        name = PAGES.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(name) is None:
            return text
        return f"{mark}[{text}]({name}{anchor or ''})"

    return LINK.sub(rewritten, markdown)


def pictures(source: str, text: str) -> list[str]:
    """Paths, from the root, of the pictures of a page."""
    targets = (match[3] for match in LINK.finditer(text) if match[1])
    return [resolved(source, target) for target in targets if "://" not in target]


def resolved(source: str, target: str) -> str:
    """The path from the root of what a page of the repository links to."""
    parts: list[str] = []
    for part in (PurePosixPath(source).parent / target).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)
