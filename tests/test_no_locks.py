"""Nothing needs locks of the file system: NFS without a lock daemon, Lustre without flock."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Every lock is refused, as those file systems do.
NO_LOCKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>
static int refused(void) { errno = ENOLCK; return -1; }
int flock(int descriptor, int operation) { return refused(); }
int lockf(int descriptor, int command, off_t size) { return refused(); }
int lockf64(int descriptor, int command, off64_t size) { return refused(); }
#define LOCKER(name)                                                               \\
    int name(int descriptor, int command, ...) {                                   \\
        va_list more;                                                              \\
        va_start(more, command);                                                   \\
        void *argument = va_arg(more, void *);                                     \\
        va_end(more);                                                              \\
        if (command == F_SETLK || command == F_SETLKW || command == F_GETLK) return refused(); \\
        return ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(descriptor, command, argument);    \\
    }
LOCKER(fcntl)
LOCKER(fcntl64)
"""
COMMANDS = """
import fcntl, sys
from pathlib import Path
from probe.cli import run
folder = Path(sys.argv[1])
with open(folder / "corpus.csv") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError as error:
        print(error.strerror)
corpus, features, results = folder / "corpus.csv", folder / "features", folder / "results"
model, to = ["--model", "fbank", "--corpus", str(corpus)], "--to"
for line in (
    ["extract", *model, "--view", "mean", "--no-check", to, str(features)],
    ["run", str(folder / "task.toml"), *model, "--from", str(features), to, str(results)],
    ["verify", str(features)],
):
    print(line[0], run(line))
"""
TASK = """
kind = "classify"
version = 1
description = "Which word is spoken?"
label = "text"
view = "mean"
l2 = [0.1]
weighted = false
"""


@pytest.mark.skipif(
    not shutil.which("cc") or sys.platform != "linux",
    reason="refusing locks needs a C compiler and Linux",
)
def test_extracting_training_and_verifying_take_no_locks(
    tones: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "shim.c").write_text(NO_LOCKS, encoding="utf-8")
    (tmp_path / "task.toml").write_text(TASK, encoding="utf-8")
    line = ["cc", "-shared", "-fPIC", "-o", tmp_path / "shim.so", tmp_path / "shim.c", "-ldl"]
    subprocess.run(line, check=True)
    tones().rename(tmp_path / "corpus.csv")
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(tmp_path)],
        env=os.environ | {"LD_PRELOAD": str(tmp_path / "shim.so")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "No locks available", "the shim does not work"
    codes = [line for line in lines if line.startswith(("extract", "run", "verify"))]
    assert codes == ["extract 0", "run 0", "verify 0"], done.stderr
    assert "sound" in done.stdout
    assert "locks" not in done.stderr
