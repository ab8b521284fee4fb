"""The house: who may import whom, which library has which door, and what loads when."""

import ast
import configparser
import functools
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "probe").rglob("*.py"))
MODULES = {
    path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
}

# Each may import what stands further down; rooms that share a floor do not know each other.
FLOORS = (
    ("cli",),
    ("commands",),
    ("demo",),
    ("pipeline", "doctor"),
    ("extraction", "evaluation", "reporting", "record_check"),
    ("models", "heads", "measures", "engines"),
    ("store", "records", "data"),
    ("files", "foreign_files", "model_names", "protocols", "environment"),
    ("schema", "remote"),
    ("errors", "version", "brief", "garbage"),
)
FLOOR_OF = {room: len(FLOORS) - number for number, floor in enumerate(FLOORS) for room in floor}
# Names handed out lazily, and the entry point.
EXEMPT = ("probe", "probe.__main__")
FINDERS = (
    "probe.evaluation.kinds.registry",
    "probe.data.readers.registry",
)  # import what lies in their own folder, by its name

# Library -> rooms that are its doors; the other libraries in setup.cfg are free.
DOORS = {
    "av": {"data"},
    "datasets": {"data"},
    "fsspec": {"data", "remote"},
    "h5py": {"store"},
    "huggingface_hub": {"models"},
    "jiwer": {"measures"},
    "lhotse": {"data"},
    "matplotlib": {"reporting"},
    "pandas": {"data", "records", "reporting"},
    "plotly": {"reporting"},
    "ray": {"engines"},
    "scipy": {"measures", "data", "heads"},
    "sklearn": {"heads", "measures"},
    "soundfile": {"data"},
    "soxr": {"data"},
    "submitit": {"engines"},
    "torchaudio": {"models", "data", "heads"},
    "transformers": {"models", "data"},
}
HEAVY = (
    "torch",
    "torchaudio",
    "transformers",
    "sklearn",
    "pandas",
    "h5py",
    "scipy",
    "matplotlib",
    "soundfile",
    "jiwer",
    "pydantic",
)


@functools.cache
def imported(source: str, module: str) -> tuple[str, ...]:
    """The names of `_imported`; each source is parsed once for all tests."""
    return tuple(_imported(source, module))


def _imported(source: str, module: str) -> Iterator[str]:
    """Dotted names that a module's source imports, in functions too; not those under ``if
    TYPE_CHECKING``.

    ``from probe import heads`` gives ``probe.heads``; a relative import is resolved against
    ``module``.
    """
    tree = ast.parse(source)
    for_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            for_types.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(module.split(".")[: -node.level]) if node.level else ""
            whole = ".".join(filter(None, [above, node.module]))
            yield from (
                (f"{whole}.{alias.name}" for alias in node.names) if whole == "probe" else [whole]
            )
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            yield (
                node.args[0].value
                if isinstance(node.args[0], ast.Constant)
                else "a name made at run time"
            )


def violations(source: str, module: str) -> list[str]:
    """What a module imports although the house forbids it."""
    room = module.split(".")[1]
    if room not in FLOOR_OF:
        return [f"{module}: {room} has no floor in the house"]
    found = []
    for name in imported(source, module):
        first, *rest = name.split(".")
        if first != "probe":
            if room not in DOORS.get(first, {room}):
                found.append(
                    f"{module} imports {name}; its door is {', '.join(sorted(DOORS[first]))}"
                )
        elif not rest or rest[0] not in FLOOR_OF:
            found.append(f"{module} imports {name}, which has no floor in the house")
        elif rest[0] != room and FLOOR_OF[rest[0]] >= FLOOR_OF[room]:
            found.append(f"{module} imports {name}, which is not further down")
        if name == "a name made at run time" and module not in FINDERS:
            found.append(f"{module} imports {name}")
    return found


def test_imports_go_down_and_heavy_libraries_have_one_door() -> None:
    found = [
        text
        for path, module in MODULES.items()
        if module not in EXEMPT
        for text in violations(path.read_text(), module)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("probe.store.stores", "from probe.extraction.extract import extract", "not further down"),
        ("probe.store.stores", "import probe.cli", "not further down"),
        ("probe.store.stores", "from probe import records", "not further down"),
        ("probe.store.stores", "from ..records import Record", "not further down"),
        ("probe.evaluation.run", "from probe.extraction.plan import make_plan", "not further down"),
        (
            "probe.heads.linear.linear_probe",
            "def fit():\n    from probe.models.catalogue import open_model",
            "not further down",
        ),
        ("probe.errors", "from probe.files import file_name", "not further down"),
        ("probe.store.stores", "import probe", "has no floor"),
        ("probe.store.stores", "from probe import open_store", "has no floor"),
        ("probe.helpers.misc", "", "helpers has no floor"),
        ("probe.evaluation.run", "import h5py", "its door is store"),
        ("probe.cli", "def show():\n    import h5py._hl.files", "its door is store"),
        (
            "probe.heads.ctc.ctc_probe",
            "try:\n    from transformers import AutoModel\nexcept ImportError:\n    pass",
            "its door is data, models",
        ),
        ("probe.models.spectral", "from sklearn.svm import SVC", "its door is heads, measures"),
        (
            "probe.models.spectral",
            "import importlib\nimportlib.import_module('soundfile')",
            "its door is data",
        ),
        ("probe.models.spectral", "name = 'h5' + 'py'\n__import__(name)", "made at run time"),
    ],
)
def test_a_forbidden_import_is_caught(module: str, source: str, message: str) -> None:
    assert any(message in text for text in violations(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("probe.cli", "from probe.store.stores import find_stores\nimport click"),
        (
            "probe.store.stores",
            "from probe.store.shards import FORMAT\nfrom . import views\nimport h5py",
        ),
        (
            "probe.extraction.plan",
            "from probe.data.corpus import Corpus\nfrom probe import environment",
        ),
        ("probe.records", "import pandas as pd\nimport torch, numpy, tqdm"),
        ("probe.cli", "if TYPE_CHECKING:\n    import pandas as pd"),
        ("probe.data.audio", "if TYPE_CHECKING:\n    from probe.store.stores import FeatureStore"),
    ],
)
def test_an_allowed_import_is_let_through(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_an_import_in_the_else_of_type_checking_is_seen() -> None:
    assert violations("if TYPE_CHECKING:\n    pass\nelse:\n    import h5py", "probe.cli")


def test_every_imported_library_is_declared() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = [text for name, text in setup["options.extras_require"].items() if name != "dev"]
    text = "\n".join([setup["options"]["install_requires"], *extras])
    declared = {
        re.split(r"[^\w-]", line)[0].replace("-", "_") for line in text.split("\n") if line.strip()
    }
    declared = {"sklearn" if name == "scikit_learn" else name for name in declared}
    names = {
        name.split(".")[0]
        for path, module in MODULES.items()
        for name in imported(path.read_text(), module)
    }
    foreign = names - set(sys.stdlib_module_names) - {"probe", "a name made at run time"}
    assert foreign <= declared, "imported but not in setup.cfg's install_requires or extras"


def test_the_package_list_is_the_list_of_folders() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    mapped = dict(
        line.split(" = ") for line in setup["options"]["package_dir"].strip().splitlines()
    )
    folders = [
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "probe").rglob("__init__.py")
    ]
    assert sorted(listed) == sorted([*folders, *mapped])
    assert mapped["probe.tasks"] == "tasks"
    for name, folder in mapped.items():
        assert (ROOT / folder).is_dir()
        assert not (ROOT / Path(*name.split("."))).exists(), (
            "a mapped folder must not stand beneath probe/ too"
        )


def test_every_data_file_of_the_package_is_shipped() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = {
        package: re.split(r"[,\s]+", text.strip())
        for package, text in setup["options.package_data"].items()
    }
    for path in (ROOT / "probe").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            folders = [folder for folder in path.parents if folder.is_relative_to(ROOT / "probe")]
            of_folders = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
            assert any(
                path in folder.glob(pattern)
                for folder, package in zip(folders, of_folders, strict=True)
                for pattern in patterns.get(package, [])
            ), f"{path} is not in package_data"
    assert list((ROOT / "tasks").glob("*.toml"))
    assert patterns["probe.tasks"] == ["*.toml"]


RUN = """
def run(words):
    import runpy, sys
    sys.argv = words
    runpy.run_module('probe', run_name='__main__')
run"""


@pytest.mark.parametrize(
    "statement",
    [
        "import probe",
        "from probe import ProbeError, __version__; dir(probe) if 'probe' in globals() else None",
        f"{RUN}(['probe', '--help'])",
        f"{RUN}(['probe', 'extract', '--help'])",
        f"{RUN}(['probe', 'doctor', '--help'])",
        f"{RUN}(['probe', '--version'])",
    ],
)
def test_asking_for_help_loads_no_heavy_library(statement: str) -> None:
    assert loaded(statement, HEAVY) == []


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["tasks"], {*HEAVY} - {"pydantic"}),
        (["models"], {*HEAVY} - {"pydantic"}),
        (
            ["table", "--from", "results/demo"],
            {"torch", "transformers", "sklearn", "scipy.stats", "scipy.signal", "h5py"},
        ),
        (["status", "results/demo"], {"torch", "transformers", "sklearn", "scipy.stats"}),
    ],
)
def test_a_quick_command_loads_nothing_that_takes_seconds(
    words: list[str], heavy: set[str]
) -> None:
    assert loaded(f"{RUN}({['probe', *words]})", heavy) == []


def loaded(statement: str, libraries: Collection[str]) -> list[str]:
    """Which of the libraries a process has loaded after the statement."""
    script = f"""
import atexit, sys
names = {sorted(libraries)}
atexit.register(lambda: print('loaded', *(set(sys.modules) & set(names)), file=sys.stderr))
"""
    done = subprocess.run(
        [sys.executable, "-c", script + statement],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    first, *names = done.stderr.splitlines()[-1].split()
    assert first == "loaded"
    return names


def test_what_probe_hands_out_is_there_and_its_list_is_whole() -> None:
    import probe

    assert sorted(probe.__all__) == sorted(["__version__", *probe._HOMES])
    for name in probe.__all__:
        assert getattr(probe, name) is not None
    assert set(probe.__all__) <= set(dir(probe))
    with pytest.raises(AttributeError, match="module 'probe' has no attribute 'upstream'"):
        _ = probe.upstream


def documented(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """(name, docstring) of a module, its public classes and functions, and their public methods."""
    yield "the module", ast.get_docstring(tree)
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        yield node.name, ast.get_docstring(node)
        for inner in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                yield f"{node.name}.{inner.name}", ast.get_docstring(inner)


def test_everything_public_has_a_docstring() -> None:
    bare = [
        f"{module}: {name}"
        for path, module in MODULES.items()
        if module != "probe.__main__"
        for name, text in documented(ast.parse(path.read_text()))
        if not text
    ]
    assert not bare, "\n".join(bare)


def test_a_missing_docstring_is_caught() -> None:
    source = "class A:\n    'Doc.'\n    def f(self): pass\n    def _g(self): pass\ndef h(): pass"
    assert [name for name, text in documented(ast.parse(source)) if not text] == [
        "the module",
        "A.f",
        "h",
    ]


def test_no_file_in_git_names_a_home_folder() -> None:
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    # Not within a longer path or an address; \x2f is the slash, so that this line is no finding.
    home = re.compile(rb"(?<![\w.])\x2f(?:home\x2f\w|Users\x2f\w|root\x2f\w)|[A-Z]:\\Users")
    assert home.search(b"see \x2fhome\x2fann") and home.search(b'"\x2froot\x2fx"')
    names = [name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    found = {name for name in names if home.search((ROOT / name).read_bytes())}
    assert not found


def test_no_source_has_a_blanket_silencer() -> None:
    for path in [*SOURCES, *sorted(Path(__file__).parent.rglob("*.py"))]:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            silencers = re.findall(r"#\s*(?:noqa|type:\s*ignore)(?![:\[]\s*\w)", line)
            assert not silencers, f"{path} line {number}: say which rule is silenced, and why"
