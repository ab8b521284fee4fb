"""Claims: which of several runs writes a shard, or plans.

A claim is a small file beside what it stands for, such as ``shard-00003.claim``. The owner creates
it exclusively. Every file system can do that, whereas NFS without a lock daemon and Lustre without
flock have no locks. A run writes one file about itself and claims by hard links to that file, so a
claim is complete as soon as it exists, and one heartbeat renews all claims of a run.

A claim is stale once its owner has ended. On the same machine, the process itself tells: its id is
compared together with its start, and only within one boot and one namespace of processes, since
containers share a host's name. Elsewhere, only time tells: an owner renews its claims every
`HEARTBEAT_S` seconds, and is taken for dead after `SILENT_S` seconds by the clock of the file
system.

On object storage, a claim is created by a request that the server refuses where the object exists.
There are no links, so each claim has its own copy of the owner, and an owner renews only the file
about itself. Where a server does not refuse such a request, this is said, and one run at a time may
work on a store.
"""

import contextlib
import errno
import functools
import getpass
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from probe.errors import ProbeError, listed
from probe.files import files_named, temporary_name, unread, unwritable, write_atomically, write_new
from probe.remote.paths import RemotePath

log = logging.getLogger("probe")

HEARTBEAT_S = 30.0
SILENT_S = 300.0
LONGEST_PAUSE_S = 2.0  # between two looks at a claim of another run
ENDING = ".claim"
PLAN = "plan"  # the claim of the run that plans
RUN_FILES = ".run.claim.*.tmp"
# What file systems without hard links answer.
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
GONE = (errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True)
class Owner:
    """The run behind a claim.

    Attributes:
        machine: the boot and the namespace of processes in which ``pid`` has a meaning.
        start: of the process, in the units of the machine; empty where it is not known.
        since: seconds since 1970 at which the run began.
        token: distinct for each run.
    """

    host: str
    machine: str
    pid: int
    start: str
    user: str
    since: float
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}"

    def end(self, age_s: float, dead_hosts: Collection[str] = ()) -> str:
        """Return why the run counts as ended, as the end of a sentence; empty while it is alive.

        Args:
            age_s: seconds since its last sign of life.
            dead_hosts: names of other hosts whose runs have ended.
        """
        if self.machine == _machine():
            return "" if _is_running(self.pid, self.start) else "has ended"
        if self.host in dead_hosts:
            return "has ended, as --take-over says"
        return f"has given no sign of life for {age_s:.0f} s" if age_s > SILENT_S else ""


# A claim without content: on a file system without hard links, its owner is about to write it, or
# was killed before that.
UNKNOWN = Owner("an unknown host", "", 0, "", "an unknown user", 0.0, "")


def this_run() -> Owner:
    """Return the owner of claims that this process makes."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user has no name
        user = f"user {os.getuid()}"
    process = (os.getpid(), _state_and_start(os.getpid())[1])
    return Owner(
        socket.gethostname(), _machine(), *process, user, round(time.time()), secrets.token_hex(8)
    )


class Claims:
    """The claims of one run in a folder. A context manager: leaving it releases all of them.

    Attributes:
        holders: name -> the living owner of each claim that was refused to this run.
    """

    def __init__(self, folder: Path, dead_hosts: Collection[str] = ()) -> None:
        """Make no file; the first claim does.

        Args:
            folder: where the claims lie; it is made where it is missing.
            dead_hosts: see `Owner.end`.
        """
        self.folder, self.dead_hosts = folder, frozenset(dead_hosts)
        self.holders: dict[str, Owner] = {}
        self._owner = this_run()
        self._file: Path | None = None  # about this run
        self._held: set[str] = set()
        self._beating: set[Path] = set()
        self._said: set[str] = set()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for name in list(self._held):
            self.release(name)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def take(self, name: str) -> bool:
        """Claim a name; returns False while a living run holds it, which `holders` then names.

        Raises:
            ProbeError: the folder cannot be written to.
            UnreadError: the claim of another run cannot be read.
        """
        path = self._path(name)
        self._held.add(name)  # first, since a signal may come while it is made
        while not self._create(path):
            owner = read_claim(path)
            if owner is None:  # it was released meanwhile
                time.sleep(0.01)
                continue
            if owner == self._owner:  # the answer to an earlier request was lost
                break
            reason = owner.end(self._age_s(path, owner), self.dead_hosts)
            if not reason or not self._take_over(name, owner):
                self._held.discard(name)
                self.holders[name] = owner
                return False
            self._say(owner, f"takes over the work of {owner}, which {reason}", log.warning)
            break
        self.holders.pop(name, None)
        return True

    def wait_for(self, name: str) -> None:
        """Claim a name as soon as no living run holds it; see `take`."""
        for pause_s in pauses_s():
            if self.take(name):
                return
            owner = self.holders[name]
            self._say(owner, f"waits for {owner}, which works here", log.info)
            time.sleep(pause_s)

    def say_waiting(self) -> None:
        """Log for whom this run waits, once for each of them."""
        for owner in dict.fromkeys(self.holders.values()):
            names = sorted(name for name, other in self.holders.items() if other == owner)
            self._say(owner, f"waits for {owner}, which writes {listed(names, 3)}", log.info)

    def require(self, name: str) -> None:
        """Refuse to write what another run has taken over.

        Raises:
            ProbeError: the claim is not of this run any more.
        """
        owner = read_claim(self._path(name))
        if owner != self._owner:
            reason = f"was taken over by {owner}" if owner else "was removed"
            raise ProbeError(
                f"{self._path(name)}: the claim of this run {reason}, because this run gave no "
                "sign of life for a long time. Nothing is lost; the same command continues."
            )

    def release(self, name: str) -> None:
        """Give up a claim; nothing happens where another run has taken it over."""
        path = self._path(name)
        self._held.discard(name)
        self._beating.discard(path)
        with contextlib.suppress(OSError, ProbeError):  # it counts until this process ends
            if read_claim(path) == self._owner:
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove stale claims, which runs have left that were killed.

        Raises:
            ProbeError: see `take`.
        """
        for path in files_named(self.folder, f"*{ENDING}") if self.folder.exists() else []:
            name = path.name.removesuffix(ENDING)
            owner = read_claim(path)
            silent_s = self._age_s(path, owner) if owner else 0.0
            if owner and owner.end(silent_s, self.dead_hosts) and self.take(name):
                self.release(name)
        for path in self.folder.glob(RUN_FILES):
            owner = read_claim(path)
            if owner and owner.end(self._age_s(path, owner), self.dead_hosts):
                path.unlink(missing_ok=True)
        self.holders.clear()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{ENDING}"

    def _own_file(self) -> Path:
        """The file about this run, which is made when it is first needed."""
        if self._file is None:
            path = _run_file(self.folder, self._owner)
            self._file = path
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_new(path, self._content)
                if isinstance(path, RemotePath):
                    self._try_to_create_again(path)
            except OSError as error:
                raise unwritable(self.folder, error) from error
            self._beating.add(path)
            self._heart.start()
        return self._file

    def _try_to_create_again(self, path: RemotePath) -> None:
        """Warn where the server creates what exists."""
        try:
            if path.is_conditional:
                write_new(path, self._content)
            log.warning(
                "%s: this object storage creates objects that exist already, so two runs may write "
                "the same shard. Let one run at a time work here.",
                self.folder,
            )
        except FileExistsError:
            pass

    @property
    def _content(self) -> bytes:
        return json.dumps(asdict(self._owner)).encode()

    def _create(self, path: Path) -> bool:
        """Whether this run has created a claim; False where there is one."""
        own = self._own_file()
        try:
            if isinstance(path, RemotePath):
                write_new(path, self._content)
                return True
            try:
                os.link(own, path)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                write_new(path, own.read_bytes())
                self._beating.add(path)
        except FileExistsError:
            return False
        except OSError as error:
            raise unwritable(self.folder, error) from error
        return True

    def _take_over(self, name: str, owner: Owner) -> bool:
        """Put a claim of this run in the place of a stale one.

        Of several runs that try, only the one that holds a second claim may replace the first, and
        only if it still finds the stale owner there. A run that is late therefore never replaces
        the claim of a run that was faster.
        """
        right = f"{name}.takeover"
        if not self.take(right):
            return False
        path = self._path(name)
        replacement = temporary_name(path)
        try:
            if read_claim(path) != owner:
                return False
            if isinstance(path, RemotePath):
                write_atomically(path, self._content)
                return True
            self._create(replacement)
            replacement.replace(path)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        finally:
            with contextlib.suppress(OSError):
                replacement.unlink(missing_ok=True)
            if replacement in self._beating:
                self._beating.remove(replacement)
                self._beating.add(path)
            self.release(right)
        return True

    def _age_s(self, path: Path, owner: Owner) -> float:
        """Seconds since a claim was renewed, by the clock of the file system."""
        try:
            own = self._own_file()
            self._renew(own)
            return own.stat().st_mtime - renewed_at(path, owner)
        except OSError:  # it was released meanwhile, or cannot be read now
            return 0.0

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            for path in list(self._beating):
                with contextlib.suppress(OSError):
                    self._renew(path)

    def _renew(self, path: Path) -> None:
        if isinstance(path, RemotePath):
            path.write(self._content)
        else:
            os.utime(path)

    def _say(self, owner: Owner, text: str, write: Callable[..., None]) -> None:
        """Log a text of an owner once."""
        said = f"{text.split()[0]} {owner.token}"
        if said not in self._said:
            self._said.add(said)
            write("%s: %s", self.folder, text)


def _run_file(folder: Path, owner: Owner) -> Path:
    """The file of a run about itself; among objects, its name follows from the owner."""
    if isinstance(folder, RemotePath):
        return folder / f".run{ENDING}.{owner.token}.tmp"
    return temporary_name(folder / f"run{ENDING}")


def renewed_at(path: Path, owner: Owner) -> float:
    """Seconds since 1970 at which a claim of this owner was renewed, by the clock of the file
    system.

    Raises:
        OSError: it was released meanwhile, or cannot be read.
    """
    if isinstance(path, RemotePath):
        with contextlib.suppress(FileNotFoundError):
            return _run_file(path.parent, owner).stat().st_mtime
    return path.stat().st_mtime


def pauses_s() -> Iterator[float]:
    """Seconds to wait before each further look at another run's work, longer each time."""
    pause_s = 0.05
    while True:
        yield pause_s
        pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)


def read_claim(path: Path) -> Owner | None:
    """Return the owner of a claim; None where there is none.

    Raises:
        UnreadError: the operating system does not let it be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        if error.errno in GONE:
            return None
        raise unread(path, error) from error
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        return UNKNOWN


@functools.cache
def _machine() -> str:
    """What distinguishes this boot of this machine, and this namespace of processes, from others;
    the name of the host where the system does not say it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _is_running(pid: int, start: str) -> bool:
    """Whether a process of this machine is alive; one that waits to be reaped is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    state, start_now = _state_and_start(pid)
    return state not in ("Z", "X") and (not start or not start_now or start == start_now)


def _state_and_start(pid: int) -> tuple[str, str]:
    """State and start of a process; empty where the system does not say them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return (fields[0], fields[19]) if len(fields) > 19 else ("", "")
