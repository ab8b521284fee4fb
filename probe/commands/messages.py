"""Messages on stderr: above progress bars, without control characters, each written once."""

import logging
import shutil
import textwrap

from probe.commands.printing import plain
from probe.errors import listed

OF_ONE_RUN = "%s, %s: "  # how a warning about one task and one model begins


class Messages(logging.StreamHandler):
    """Writes each message on a line of its own, above a progress bar on the last line.

    A note or warning that was written before is left out. Warnings about one task and one model are
    held back until `say_held`, which writes one line for each kind of warning.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: set[str] = set()
        self.held: dict[str, list[logging.LogRecord]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write or hold back one message."""
        is_warning = record.levelno == logging.WARNING
        if is_warning and str(record.msg).startswith(OF_ONE_RUN):
            self.held.setdefault(str(record.msg), []).append(record)
        elif record.levelno > logging.WARNING or record.getMessage() not in self.written:
            self.written.add(record.getMessage())
            self._write(self.format(record))

    def say_held(self) -> None:
        """Write the first warning of each kind and name the other runs that it concerns."""
        for records in self.held.values():
            first, *others = (" of ".join(map(str, tuple(item.args or ())[:2])) for item in records)
            others = [name for name in dict.fromkeys(others) if name != first]
            text = self.format(records[0])
            if others:
                text += f" (The same kind of warning holds for {listed(others, 4)}.)"
            self._write(text)
        self.held.clear()

    def close(self) -> None:
        """Write what is held back."""
        self.say_held()
        super().close()

    def _write(self, text: str) -> None:
        from tqdm import tqdm

        try:
            if self.stream.isatty():
                width = shutil.get_terminal_size().columns
                text = "\n".join(wrapped(line, width) for line in text.splitlines())
            tqdm.write(plain(text), file=self.stream)
        except Exception:
            self.handleError(logging.makeLogRecord({"msg": text}))


def wrapped(text: str, width: int) -> str:
    """A message on lines that end between words; the second and further lines are indented."""
    return textwrap.fill(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def say_held_warnings() -> None:
    """Write the warnings that were held back, before results are printed."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Messages):
            handler.say_held()
