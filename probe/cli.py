"""The command line: the commands, logging, signals and exit codes. stdout is data, stderr is
progress.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

import click

from probe.commands import corpora, evaluation, features, models, reports, status
from probe.commands.help import Workflow
from probe.commands.messages import Messages, say_held_warnings
from probe.commands.printing import plain
from probe.environment import require_posix
from probe.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SOME_FAILED,
    EXIT_TERMINATED,
    EXIT_USAGE,
    ProbeError,
    UsageError,
)
from probe.version import __version__

EXIT_CODES = (
    "Exit codes: 0 success; 1 failure; 2 usage error; 3 finished, but some utterances failed or "
    "some files were left out; 130 Ctrl-C; 143 SIGTERM or SIGUSR1."
)
STEPS = {
    "Extract features": (features.extract, models.check, features.listen, features.export),
    "Evaluate": (evaluation.bench, evaluation.run, evaluation.similarity, evaluation.demo),
    "Report": (reports.table, reports.report, reports.plot, reports.compare),
    "Inspect": (
        *(corpora.data, models.models, evaluation.tasks, features.show),
        *(status.status, features.verify, reports.records, models.doctor),
    ),
}


@click.group(
    cls=Workflow,
    steps=STEPS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="probe")
@click.option("-q", "--quiet", is_flag=True, help="Print only warnings on stderr.")
def cli(quiet: bool) -> None:
    """Compare the layers of pretrained speech models on your data.

    Extract the features of every layer, train probes on every layer, and print tables with
    confidence intervals.

    \b
    Examples:
      probe demo
      probe bench --model facebook/wav2vec2-base --model fbank --task word-id \\
          --corpus corpus.csv --to out/
    """
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, Messages):  # of an earlier command line in this process
            root.removeHandler(handler)
    root.addHandler(Messages())
    logging.getLogger("probe").setLevel(logging.WARNING if quiet else logging.INFO)
    # Our notes already say what transformers reports about keys.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for noisy in ("huggingface_hub", "transformers", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def stop_on_signals() -> None:
    """Has Ctrl-C, SIGTERM and SIGUSR1 (a job's end is near: schedulers send either) end the program
    for certain, with its exit code.

    A signal's exception is raised wherever the program is. Inside an import, libraries may catch it
    and go on half imported; inside a callback of the interpreter (when a weak reference dies, say)
    it is reported as ignored. So it waits for the end of an import, and is raised again where it
    was ignored.
    """
    waiting: list[BaseException] = []

    def in_a_moment() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            waiting[:] = [KeyboardInterrupt()]
        elif number != signal.SIGALRM:
            click.echo("terminated; the same command continues", err=True)
            waiting[:] = [SystemExit(EXIT_TERMINATED)]
        if waiting and any(
            item.f_code.co_filename.startswith("<frozen importlib")
            for item, _ in traceback.walk_stack(frame)
        ):
            in_a_moment()
        elif waiting:
            raise waiting.pop()

    def report(item: Any) -> None:
        if isinstance(item.exc_value, SystemExit | KeyboardInterrupt):
            waiting[:] = [item.exc_value]
            in_a_moment()
        else:
            sys.__unraisablehook__(item)

    sys.unraisablehook = report
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
        signal.signal(number, stop)
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # a shell ignores it for what runs in the background
        signal.signal(signal.SIGINT, stop)


class Unread:
    """stderr, which falls silent where nobody reads it any more: a closed terminal ends no work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` where that is possible."""
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is held back where that is possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def secure_streams() -> None:
    """Open the standard streams that the caller closed, and let no error of stderr end the work.

    A closed stream's number would go to the next file that is opened, say a shard, and what a
    library prints would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = cast(
        TextIO, Unread(sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False))
    )


class OnlyOnce(logging.Filter):
    """Lets each message through once and keeps it: the tables of one command leave out the same
    files.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is new."""
        is_new = record.getMessage() not in self.messages
        self.messages.add(record.getMessage())
        return is_new


def run(arguments: Sequence[str] | None = None, prepare: Callable[[], object] = bool) -> int:
    """Run one command line and return its exit code; a user's mistake prints one line.

    Args:
        arguments: those of the process where None.
        prepare: called once the system is known to be supported.
    """
    left_out, logger = OnlyOnce(), logging.getLogger("probe.left_out")
    logger.addFilter(left_out)
    try:
        require_posix()
        prepare()
        result = cli.main(args=arguments, prog_name="probe", standalone_mode=False)
        code = result if isinstance(result, int) else EXIT_OK
        return code or (EXIT_SOME_FAILED if left_out.messages else EXIT_OK)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_FAILURE
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command continues", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ProbeError as error:
        click.echo(plain(f"probe: {error}"), err=True)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILURE
    except OSError as error:
        place = error.filename or "input/output"
        click.echo(plain(f"probe: {place}: {error.strerror or error}"), err=True)
        return EXIT_FAILURE
    finally:
        logger.removeFilter(left_out)
        say_held_warnings()


def say_loading() -> None:
    """Say on a terminal that PyTorch is being loaded, if that takes more than a second."""

    def say() -> None:
        for _ in range(10):
            spec = getattr(sys.modules.get("torch"), "__spec__", None)
            is_loading = getattr(spec, "_initializing", False)
            if is_loading and logging.getLogger("probe").isEnabledFor(logging.INFO):
                click.echo("loading PyTorch ...", err=True)
                return
            time.sleep(0.2)

    if sys.stderr.isatty():
        timer = threading.Timer(1.0, say)
        timer.daemon = True
        timer.start()


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    secure_streams()
    say_loading()
    # OpenMP threads that spin while they wait make short operations a hundred times slower as soon
    # as another process wants the same cores. torch reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.pop("MPLBACKEND", None)  # a notebook's may be missing here; pictures are only saved
    code = run(prepare=stop_on_signals)
    if code in (EXIT_OK, EXIT_SOME_FAILED):  # all is done: a late signal changes no exit code
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


if __name__ == "__main__":
    main()
