"""The command line as a user meets it: output, exit codes, one line for a mistake, signals."""

import contextlib
import functools
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from exhaustive import mostly_nightly
from tones import write_tones

from probe import pipeline
from probe.cli import cli, run
from probe.commands.printing import plain
from probe.data.conditions.audition import listen
from probe.demo import demo, story
from probe.errors import ProbeError
from probe.evaluation import run as evaluation_run
from probe.evaluation.layer_similarity import similarity
from probe.evaluation.run import Training
from probe.evaluation.similarity_sides import Comparing
from probe.evaluation.trial_lists import Scope
from probe.extraction.extract import extract
from probe.extraction.settings import Decoding, Running, Storing
from probe.models.catalogue import open_model
from probe.models.check import check_model
from probe.models.sources.known import NANO, known_models
from probe.records import read_records
from probe.reporting.report.page import write_report
from probe.reporting.scores import Scores
from probe.reporting.tables.files import write_tables
from probe.store.export import export

Command = Callable[..., subprocess.CompletedProcess]


Bench = tuple[Path, subprocess.CompletedProcess]


def quick_task(path: Path, label: str) -> Path:
    """The file of a classification that takes little time."""
    path.write_text(f'kind = "classify"\nlabel = "{label}"\nl2 = [1e-2]\ncontrols = []\n')
    return path


@pytest.fixture(scope="module")
def bench(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One small bench, shared by the tests that look at what it wrote."""
    folder = tmp_path_factory.mktemp("bench")
    manifest = write_tones(folder)
    line = ["bench", "--no-check", "--corpus", manifest, "--to", folder / "out"]
    for name, label in (("words", "text"), ("speakers", "speaker")):
        line += ["--task", quick_task(folder / f"{name}.toml", label)]
    for model in ("mfcc", "fbank", "random:data2vec-audio-tiny"):
        line += ["--model", model]
    done = command(*line)
    return folder / "out", done


def test_a_bench_writes_features_records_tables_and_pictures(bench: Bench) -> None:
    folder, done = bench
    assert done.returncode == 0, done.stderr
    for name in ("speakers", "words", "mfcc", "random:data2vec-audio-tiny"):
        assert name in done.stdout
    files = {path.name for path in folder.iterdir()}
    assert files >= {"features", "results", "table.md", "table.csv", "curves.png", "curves.svg"}
    assert (folder / "curves.png").stat().st_size > 20_000
    assert len(list((folder / "results").glob("*.jsonl"))) == 6
    assert f"tables and figures are in {folder}" in done.stderr
    results = folder / "results"
    assert f"probe table --from {results} --by layers" in done.stderr
    assert f"probe report --from {results}\n" in done.stderr


def test_a_warning_is_said_once_for_all_tasks_and_models(bench: Bench) -> None:
    (line,) = [line for line in bench[1].stderr.splitlines() if "are in training too" in line]
    assert "The same kind of warning holds for" in line


@pytest.mark.nightly
def test_the_demo_tells_what_its_records_hold_and_learns_what_is_planted(
    command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    done = command("demo", "--to", folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[: len(lines) - 2] == story(Scores.of(read_records(folder / "results")))
    assert lines[-1].endswith(f": {folder / 'report.html'}")
    assert len(lines) <= 13 and max(map(len, lines[:-1])) <= 80
    steps = [line.split()[0] for line in done.stderr.splitlines()]
    assert steps == ["Generating", *4 * ["Extracting"], *2 * ["Training"]], done.stderr
    assert len(list((folder / "results").glob("*.jsonl"))) == 8
    table = json.loads(command("table", "--from", folder / "results", "--format", "json").stdout)
    assert not any(row["few"] for row in table if row["metric"] == "accuracy")
    values = {
        (row["task"], row["model"]): row["value"]
        for row in table
        if {row["train_domain"], row["test_domain"]} <= {"", "clean"}
        and row["metric"] == "accuracy"
    }
    assert values["sounds-shift", NANO] > values["sounds-shift", f"random:{NANO}"] + 0.1
    assert values["sounds-shift", "fbank"] > 0.3
    assert values["voices", "fbank"] > 0.3


def test_one_bad_file_does_not_take_the_table_of_a_folder(
    bench: Bench, command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(bench[0] / "results", folder)
    name = "mfcc__words__tones__clean.jsonl"
    text = (folder / name).read_text(encoding="utf-8")
    sha256 = json.loads(text.partition("\n")[0])["manifest_sha256"]
    (folder / name).write_text(
        text.replace(sha256, "0" * 64), encoding="utf-8"
    )  # of another manifest
    (folder / "cut.jsonl").write_text(text[:1000], encoding="utf-8")
    (folder / "older.jsonl").write_text(json.dumps({"format": 1}) + "\n", encoding="utf-8")
    (folder / "foreign.jsonl").write_text('{"audio": "a.wav"}\n', encoding="utf-8")
    done = command("table", "--from", folder, "--format", "json", "--to", tmp_path / "tables")
    assert done.returncode == 3, done.stderr
    for file in (name, "cut.jsonl", "older.jsonl", "foreign.jsonl"):
        assert done.stderr.count(str(folder / file)) == 1, done.stderr
    rows = {(row["task"], row["model"]) for row in json.loads(done.stdout)}
    assert (
        ("words", "random:data2vec-audio-tiny") in rows
        and ("words", "mfcc") not in rows
        and ("speakers", "mfcc") in rows
    )
    listed = command("records", folder, "--format", "json")
    assert (
        listed.returncode == 3
        and len(json.loads(listed.stdout)) == len(list(folder.glob("*.jsonl"))) - 3
    )
    page = command("report", "--from", folder, "--to", tmp_path / "report.html")
    assert page.returncode == 3 and name in page.stderr


def test_a_bench_again_extracts_nothing(bench: Bench, command: Command) -> None:
    before = {path: path.read_bytes() for path in (bench[0] / "features").rglob("*.h5")}
    plan = command(
        "bench",
        "--model",
        "mfcc",
        "--task",
        bench[0].parent / "words.toml",
        "--corpus",
        bench[0].parent / "tones.csv",
        "--to",
        bench[0],
        "--dry-run",
    )
    assert plan.returncode == 0
    assert before == {path: path.read_bytes() for path in (bench[0] / "features").rglob("*.h5")}


def test_table_formats(bench: Bench, command: Command) -> None:
    results = bench[0] / "results"
    rows = json.loads(command("table", "--from", results, "--format", "json").stdout)
    assert all({"model", "task", "layer", "metric", "value", "n"} <= row.keys() for row in rows)
    layers = json.loads(
        command("table", "--from", results, "--every-layer", "--format", "json").stdout
    )
    mine = [
        row
        for row in layers
        if (row["model"], row["task"]) == ("random:data2vec-audio-tiny", "words")
    ]
    mine = [row for row in mine if row["metric"] == "accuracy"]
    assert [row["layer"] for row in mine] == ["0", "1", "2", "3", "weighted"]
    chosen = next(
        row
        for row in rows
        if (row["model"], row["task"]) == ("random:data2vec-audio-tiny", "words")
    )
    assert [row["layer"] for row in mine if row["chosen"]] == [chosen["layer"]]
    assert command("table", "--from", results, "--format", "csv").stdout.startswith("model,task,")


def test_show_says_what_is_inside(bench: Bench, command: Command) -> None:
    store = next((bench[0] / "features" / "random--data2vec-audio-tiny").glob("meanstd-*"))
    shown = command("show", store).stdout
    for word in (
        "random:data2vec-audio-tiny",
        "seed 0",
        "0, 1, 2, 3 (final is 3)",
        "72",
        "float16",
        "failures    0",
        "torch 2.",
    ):
        assert word in shown
    assert len(json.loads(command("show", bench[0] / "features", "--format", "json").stdout)) == 3


def test_python_interface_of_the_readme(bench: Bench) -> None:
    import probe

    store = next((bench[0] / "features" / "mfcc").glob("meanstd-*"))
    layer = probe.open_store(store, layer="0")
    assert layer.values.shape == (72, 40)
    assert len(layer.keys) == len(layer.offsets) - 1 == 72
    assert set(probe.read_records(bench[0] / "results")["task"]) == {"speakers", "words"}
    assert set(probe.__all__) <= set(dir(probe))
    assert all(getattr(probe, name) is not None for name in probe.__all__)


def test_models_and_tasks_are_listed(command: Command) -> None:
    listed = command("models").stdout
    assert len(listed.splitlines()) == 1 + len(known_models())
    assert re.search(
        r"facebook/wav2vec2-large-robust +wav2vec2 +0\.\.24, final +1024 +315\.4 M "
        r".*apache-2\.0 +hub",
        listed,
    )
    rows = {row["model"]: row for row in json.loads(command("models", "--format", "json").stdout)}
    assert rows["facebook/data2vec-audio-large-960h"]["parameters"] == 313_276_416
    assert rows["openai/whisper-tiny"]["loads_from"] == ["hub", "random"]
    assert {row["task"] for row in json.loads(command("tasks", "--format", "json").stdout)} >= {
        "speaker-id",
        "asr-ctc",
        "domain-shift",
    }


def test_a_bench_stores_features_as_it_is_told(
    command: Command, tones: Callable[..., Path], tmp_path: Path
) -> None:
    line = [
        "bench",
        "--model",
        "mfcc",
        "--corpus",
        tones(),
        "--to",
        tmp_path / "out",
        "--dtype",
        "int8",
        "--compression",
        "gzip",
    ]
    planned = command(*line, "--task", "word-id", "--task", "asr-ctc", "--stride", 3, "--dry-run")
    assert [
        Path(row.split(":")[0]).name[:8] for row in planned.stdout.splitlines() if row[0] != " "
    ] == ["frames--", "meanstd-"]
    task = quick_task(tmp_path / "words.toml", "text")
    assert command(*line, "--task", task).returncode == 0
    (recipe,) = [
        json.loads(path.read_text())["recipe"]
        for path in tmp_path.glob("out/features/mfcc/*/recipe.json")
    ]
    assert (recipe["dtype"], recipe["compression"], recipe["view"]) == ("int8", "gzip", "meanstd")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["extract"], 2, "Missing option '--model'"),
        (
            ["extract", "--model", "mfcc", "--corpus", "none.csv", "--to", "f"],
            1,
            "probe: none.csv: does not exist",
        ),
        (
            ["extract", "--model", "mfc", "--corpus", "{tones}", "--to", "f"],
            1,
            "Did you mean 'mfcc'",
        ),
        (
            ["extract", "--model", "mfcc", "--corpus", "{tones}", "--to", "f", "--layers", "0-3"],
            2,
            "mfcc has no layer '1'; it has 0",
        ),
        (
            ["extract", "--model", "mfcc", "--corpus", "{tones}", "--to", "f", "--view", "max"],
            2,
            "view 'max': expected frames, frames:k",
        ),
        (
            [
                "extract",
                "--model",
                "mfcc",
                "--corpus",
                "{tones}",
                "--to",
                "f",
                "--device",
                "cuda:9",
            ],
            2,
            "--device cuda:9: cannot be used",
        ),
        (["extract", "--model", "mfcc", "--corpus", "{tones}", "--to", "{tones}"], 1, "tones.csv"),
        (
            [
                "run",
                "speaker",
                "--model",
                "mfcc",
                "--corpus",
                "{tones}",
                "--from",
                "f",
                "--to",
                "r",
            ],
            2,
            "Did you mean 'speaker-id'",
        ),
        (
            [
                "run",
                "word-id",
                "--model",
                "mfcc",
                "--corpus",
                "{tones}",
                "--from",
                "f",
                "--to",
                "r",
            ],
            1,
            "Run `probe extract",
        ),
        (
            [
                "run",
                "word-id",
                "--head",
                "linear",
                "--model",
                "mfcc",
                "--corpus",
                "{tones}",
                "--from",
                "f",
                "--to",
                "r",
            ],
            2,
            "has no head",
        ),
        (["table", "--from", "nowhere"], 1, "nowhere: does not exist"),
        (["show", "nowhere"], 1, "nowhere: no feature store"),
        (
            [
                "bench",
                "--model",
                "mfcc",
                "--task",
                "speaker-verify",
                "--corpus",
                "{tones}",
                "--to",
                "b",
            ],
            2,
            "needs --trials",
        ),
    ],
)
def test_a_mistake_ends_in_one_clear_line(
    command: Command,
    tones: Callable[..., Path],
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    manifest = tones(words=2, speakers=1, repetitions=3)
    done = command(*(item.replace("{tones}", str(manifest)) for item in arguments), cwd=tmp_path)
    assert message in done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert not done.stdout


WRITING = (
    "extract --model mfcc --corpus {manifest} --to {to}",
    "run word-id --model mfcc --corpus {manifest} --from {features} --to {to}",
    "bench --model mfcc --task word-id --corpus {manifest} --to {to}",
    "demo --to {to}",
    "similarity --model mfcc --corpus {manifest} --from {features} --to {to}",
    "listen {manifest} --condition noise:white@10dB --to {to}",
    "export {store} --to {to}/features.h5",
    "table --from nowhere --to {to}",
    "report --from nowhere --to {to}/report.html",
    "plot layers --from nowhere --to {to}/layers.png",
    "records nowhere --export hf --to {to}",
)


def test_a_folder_that_takes_no_file_is_refused_before_the_work(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest, features, to = (
        tones(words=2, speakers=2),
        tmp_path / "features",
        tmp_path / "file" / "to",
    )
    store = extract(
        "mfcc", manifest, features, storing=Storing(view="frames"), running=Running(check=False)
    ).store
    (tmp_path / "file").write_text("no folder")
    for arguments in WRITING:
        words = arguments.format(manifest=manifest, features=features, store=store, to=to).split()
        done = CliRunner().invoke(cli, words)
        assert isinstance(done.exception, ProbeError), arguments
        assert re.fullmatch(
            rf"{to}.*: nothing can be written here \(Not a directory\)\. .*", str(done.exception)
        ), arguments
    assert (tmp_path / "file").read_text() == "no folder"


def test_failed_utterances_end_in_code_3_with_their_names(
    command: Command, tones: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = tones()
    (tmp_path / "near-0-0-0.wav").write_bytes(b"RIFF")
    lines = (
        "extract",
        "--model",
        "mfcc",
        "--corpus",
        manifest,
        "--to",
        tmp_path / "f",
        "--view",
        "meanstd",
    )
    first, again = command(*lines), command(*lines)
    assert (first.returncode, again.returncode) == (3, 3)
    assert "near-0-0-0.wav" in first.stderr
    assert "near-0-0-0.wav" in again.stderr
    assert "0 extracted, 71 there already, 1 failed" in again.stderr
    scored = command(
        "run",
        quick_task(tmp_path / "words.toml", "text"),
        "--model",
        "mfcc",
        "--corpus",
        manifest,
        "--from",
        tmp_path / "f",
        "--to",
        tmp_path / "r",
    )
    assert scored.returncode == 3
    assert "words" in scored.stdout


def test_dry_run_prints_the_plan_and_writes_nothing(
    command: Command, tones: Callable[..., Path], tmp_path: Path
) -> None:
    done = command(
        "extract",
        "--model",
        "mfcc",
        "--corpus",
        tones(),
        "--to",
        tmp_path / "f",
        "--dry-run",
        "--format",
        "json",
    )
    plan = json.loads(done.stdout)
    assert plan["utterances"] == 72
    assert (
        0 < plan["bytes"] - 72 * 28 * 20 * 2 < 72 * 1000 + 20_000
    )  # values, and what is said of them
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    mostly_nightly(
        [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)],
        [(signal.SIGTERM, 143)],
    ),
)
def test_signals_end_with_their_code_and_a_store_that_continues(
    command: Command, tones: Callable[..., Path], tmp_path: Path, number: int, code: int
) -> None:
    manifest = tones(words=4, speakers=4, repetitions=6)
    arguments = [
        "extract",
        "--model",
        "random:data2vec-audio-tiny",
        "--corpus",
        str(manifest),
        "--no-check",
        "--to",
        str(tmp_path / "f"),
    ]
    # A shell that starts the tests in the background has them ignore Ctrl-C; the command must not
    # inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    line = [sys.executable, "-m", "probe", *arguments]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        while not list(tmp_path.glob("f/*/*/plan-*.json")):
            time.sleep(0.02)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert not list((tmp_path / "f").rglob("*.tmp"))
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert "96 extracted" in done.stderr or "there already" in done.stderr


ELSEWHERE = """
import signal, sys
for name in ("SIGUSR1", "SIGALRM", "setitimer"):
    delattr(signal, name)
import probe
probe.open_store, probe.read_records
from probe.cli import main
sys.argv[1:] = ["--version"]
main()
"""


def test_a_system_that_is_not_supported_is_told_so_in_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert (
        "is not supported: layerprobe runs on Linux and macOS, and on Windows through WSL"
        in done.stderr
    )


SWALLOWED = """
import os, signal, sys, time, weakref
from pathlib import Path
from probe import cli

NAME, WHERE, FOLDER = sys.argv[1:]
number = getattr(signal, NAME)
GREEDY = '''
import os, time
try:
    os.kill(os.getpid(), int(os.environ["NUMBER"]))
    time.sleep(0.1)
except BaseException:
    raise ImportError
'''

class Thing:
    pass

@cli.cli.command()
def work():
    if WHERE == "callback":
        thing = Thing()
        reference = weakref.ref(thing, lambda _: [os.kill(os.getpid(), number), time.sleep(0)])
        del thing
    else:  # a library that catches everything while it is imported
        os.environ["NUMBER"] = str(int(number))
        Path(FOLDER, "greedy.py").write_text(GREEDY)
        sys.path.append(FOLDER)
        import greedy
    time.sleep(20)
    print("went on")

sys.argv[1:] = ["work"]
cli.main()
"""


@pytest.mark.parametrize(
    ("name", "code", "where"),
    mostly_nightly(
        [
            (name, code, where)
            for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143))
            for where in ("callback", "import")
        ],
        [("SIGINT", 130, "import")],
    ),
)
def test_a_signal_ends_the_program_wherever_it_comes(
    name: str, code: int, where: str, tmp_path: Path
) -> None:
    line = [sys.executable, "-c", SWALLOWED, name, where, str(tmp_path)]
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == code, done.stderr
    assert "the same command continues" in done.stderr
    assert "ImportError" not in done.stderr
    assert "went on" not in done.stdout
    assert "Traceback" not in done.stderr


def test_what_is_printed_commands_no_terminal() -> None:
    assert plain("clips/\x1b[31mä\x07.wav\nnext") == "clips/\\x1b[31mä\\x07.wav\nnext"


@pytest.mark.nightly
def test_a_stream_that_is_closed_or_that_nobody_reads_ends_no_work(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    line = [
        sys.executable,
        "-m",
        "probe",
        "extract",
        "--model",
        "fbank",
        "--corpus",
        tones(),
        "--to",
    ]
    closed = subprocess.run(
        [*line, tmp_path / "closed"], check=False, preexec_fn=lambda: (os.close(0), os.close(2))
    )
    assert closed.returncode == 0
    reader, writer = os.pipe()
    os.close(reader)
    unread = subprocess.run(
        [*line, tmp_path / "unread"], check=False, stderr=writer, stdout=subprocess.PIPE
    )
    os.close(writer)
    assert unread.returncode == 0 and unread.stdout
    assert len(list(tmp_path.glob("*/fbank/*/shard-*.h5"))) == 2


@pytest.mark.nightly
def test_a_notebook_s_backend_of_matplotlib_does_not_matter(bench: Bench, command: Command) -> None:
    folder, _ = bench
    environment = {**os.environ, "MPLBACKEND": "module://a_notebook_that_is_not_installed"}
    done = command(
        "plot", "layers", "--from", folder / "results", "--to", folder / "p.svg", env=environment
    )
    assert done.returncode == 0 and (folder / "p.svg").exists(), done.stderr


def click_defaults(name: str) -> dict[str, object]:
    """Parameter -> its value where it is left out on the command line."""
    command = cli.commands[name]
    context = click.Context(command)
    values = {
        item.name: item.process_value(context, item.get_default(context))
        for item in command.params
        if not item.required and item.name
    }
    return {
        name: None if repr(value) == "Sentinel.UNSET" else value for name, value in values.items()
    }


def python_defaults(*functions: Callable) -> dict[str, object]:
    """Parameter -> its value where it is left out in Python, of the first function that has it."""
    known: dict[str, object] = {}
    for function in functions:
        for name, item in inspect.signature(function).parameters.items():
            if item.default is not inspect.Parameter.empty:
                known.setdefault(name, item.default)
    return known


PUBLIC = {
    "extract": [extract, Storing, Running, Decoding],
    "run": [evaluation_run.run, Scope, Training],
    "bench": [pipeline.bench, Scope, Training, Storing, Running, Decoding],
    "table": [write_tables],
    "report": [write_report],
    "check": [check_model, open_model, Running],
    "similarity": [similarity, Comparing],
    "listen": [listen],
    "export": [export],
    "demo": [demo],
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_python_and_the_command_line_leave_out_the_same(name: str) -> None:
    shown, called = click_defaults(name), python_defaults(*PUBLIC[name])
    # From Python, one training is the default whatever the head.
    common = (shown.keys() & called.keys()) - {"seeds"}
    assert len(common) >= {
        "table": 2,
        "demo": 1,
        "report": 2,
        "listen": 1,
        "check": 4,
        "export": 4,
    }.get(name, 8)
    assert {key: shown[key] or None for key in common} == {
        key: called[key] or None for key in common
    }


def test_run_and_bench_take_the_same_options() -> None:
    def options(name: str) -> set[str]:
        return {
            text
            for item in cli.commands[name].params
            for text in item.opts
            if text.startswith("--")
        }

    assert options("run") - options("bench") == {"--from", "--shard"}, (
        "a bench extracts what it reads, all of it"
    )
    of_extraction = options("extract") - {"--view", "--sha256", "--only"}
    assert options("bench") - options("run") - of_extraction == {"--task"}


def help_of(*words: str) -> str:
    """The help text in a terminal of 80 columns."""
    return CliRunner().invoke(cli, [*words, "--help"], env={"COLUMNS": "80"}).stdout


def test_help_lists_every_command_once_by_workflow_with_a_whole_sentence() -> None:
    text = help_of()
    headings = ["Extract features:", "Evaluate:", "Report:", "Inspect:"]
    assert [line for line in text.splitlines() if line in headings] == headings
    assert "..." not in text.partition("Extract features:")[2]
    assert max(map(len, text.splitlines())) <= 80
    for name in cli.commands:
        assert len(re.findall(rf"^  {name} ", text, flags=re.MULTILINE)) == 1


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_help_of_a_command_begins_with_a_verb_and_shows_a_valid_example(name: str) -> None:
    command = cli.commands[name]
    text = str(command.help)
    summary = text.split("\n")[0]
    assert re.fullmatch(r"[A-Z][a-z]+ .*\.|[A-Z][a-z]+, .*\.", summary)
    examples = re.findall(r"^ *probe (?:.*\\\n)*.*", text, flags=re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(example.replace("\\\n", " "))
        assert words[:2] == ["probe", name]
        command.make_context(name, words[2:])


def test_a_flag_means_the_same_in_every_command() -> None:
    kinds: dict[str, set[str]] = {}
    for command in cli.commands.values():
        for item in command.params:
            if isinstance(item, click.Option):
                kind = "flag" if item.is_flag else "value"
                for text in item.opts:
                    kinds.setdefault(text, set()).add(kind)
    assert {text: found for text, found in kinds.items() if len(found) > 1} == {}
    assert not kinds.keys() & {"--json", "--form", "--conditions"}


class Terminal(io.StringIO):
    """What is printed to a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("line", ["models", "tasks", "table", "show"])
def test_what_is_printed_fits_the_terminal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, line: str, width: int
) -> None:
    folders = {"table": ["--from", str(bench[0] / "results")], "show": [str(bench[0] / "features")]}
    monkeypatch.setenv("COLUMNS", str(width))
    with contextlib.redirect_stdout(Terminal()) as terminal:
        assert run([line, *folders.get(line, [])]) == 0
    lines = terminal.getvalue().splitlines()
    assert lines
    long = [text for text in lines if len(text) > width and " " in text.strip()]
    assert not long, "\n".join(long)


def test_import_probe_changes_nothing_in_the_process() -> None:
    script = (
        "import os, sys, signal; before = dict(os.environ), sys.excepthook, list(sys.path)\n"
        "import probe, probe.cli\n"
        "assert before == (dict(os.environ), sys.excepthook, list(sys.path))\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_terminal_says_that_pytorch_is_being_loaded(tmp_path: Path) -> None:
    torch = tmp_path / "torch.py"
    torch.write_text("import time\ntime.sleep(3)\nraise ImportError('too slow')\n")
    command = [sys.executable, "-m", "probe.cli", "check", "fbank"]
    for quiet, said in ((["-q"], False), ([], True)):
        ours, theirs = os.openpty()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        subprocess.run(
            [*command[:3], *quiet, *command[3:]], stderr=theirs, env=environment, check=False
        )
        os.close(theirs)
        assert ("loading PyTorch" in os.read(ours, 100_000).decode()) == said
        os.close(ours)
