"""Access to the hub: whether it answers, the content of the cache, and fetching a checkpoint."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from probe.errors import ProbeError
from probe.models.sources.known import close_names, known_models

LIMIT_S = 2.5
TIMEOUT_S = 4  # timeout of a fetch


@dataclass(frozen=True)
class Cache:
    """The hub's cache on this machine.

    Attributes:
        folder: folder of the cache; it need not exist.
        n_bytes: size of all repositories.
        models: sorted names of the models.
        damaged: a line for each entry that cannot be read.
    """

    folder: Path
    n_bytes: int
    models: tuple[str, ...]
    damaged: tuple[str, ...]


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids every request."""
    return bool(constants.HF_HUB_OFFLINE)


def endpoint() -> str:
    """Return the hub's address, which is ``HF_ENDPOINT`` if that is set."""
    return constants.ENDPOINT


def why_unreachable(limit_s: float = LIMIT_S) -> str:
    """Return why the hub does not answer within ``limit_s`` seconds; empty if it does."""
    answer = _answer(limit_s)
    if isinstance(answer, str):
        return answer
    return f"HTTP status {answer}" if answer >= 400 else ""


def answers(limit_s: float = LIMIT_S, address: str | None = None) -> bool:
    """Return whether the hub or ``address`` answers within ``limit_s`` seconds. Any answer counts,
    because a mirror may refuse its first page.
    """
    return isinstance(_answer(limit_s, address), int)


def _answer(limit_s: float, address: str | None = None) -> int | str:
    """Return the HTTP status of the hub's first page or of ``address``, or the reason for its
    absence.

    A name lookup can hang regardless of the connection's timeout, so a separate thread asks and is
    abandoned if it hangs.
    """
    answer: list[int | str] = [f"no answer within {limit_s:g} s"]

    def ask() -> None:
        session = huggingface_hub.get_session()
        try:
            response = session.head(address or constants.ENDPOINT, timeout=limit_s)
            answer[0] = int(response.status_code)
        except Exception as error:  # transports raise many kinds
            answer[0] = (str(error) or type(error).__name__).splitlines()[0]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit_s)
    return answer[0]


def cache() -> Cache:
    """Return the content of the hub's cache on this machine; empty if it does not exist."""
    folder = Path(constants.HF_HUB_CACHE)
    if not folder.is_dir():
        return Cache(folder, 0, (), ())
    scan = huggingface_hub.scan_cache_dir(folder)
    models = sorted(item.repo_id for item in scan.repos if item.repo_type == "model")
    damaged = tuple(str(warning).splitlines()[0] for warning in scan.warnings)
    return Cache(folder, scan.size_on_disk, tuple(models), damaged)


class Repository:
    """A model on the hub, or in the cache if the hub does not answer."""

    def __init__(self, identifier: str, revision: str | None) -> None:
        self.identifier, self.revision = identifier, revision
        self.name = f"{identifier}@{revision}" if revision else identifier
        # snapshot_download waits forever for a hub that accepts the connection without answering.
        self.is_local = is_offline() or not answers(TIMEOUT_S)

    def fetch(self, patterns: Sequence[str]) -> Path:
        """Fetch the files with these names into the cache and return its folder.

        Raises:
            ProbeError: the repository or revision does not exist or is not accessible, or the
                machine is offline and the files are not cached.
        """
        known = {name.lower() for name in known_models()}
        close = [] if self.identifier.lower() in known else close_names(self.identifier)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        try:
            return Path(
                huggingface_hub.snapshot_download(
                    self.identifier,
                    revision=self.revision,
                    allow_patterns=list(patterns),
                    etag_timeout=TIMEOUT_S,
                    local_files_only=self.is_local,
                )
            )
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            raise ProbeError(
                f"{self.name}: not on the hub, or it needs a login.{hint} Check the name and the "
                "revision."
            ) from error
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise ProbeError(
                f"{self.name}: no such folder here, not in the cache, and the hub cannot be "
                f"reached.{hint} Connect once, or copy the checkpoint here and name its folder; "
                "`probe models` lists what is known, random: works without a network."
            ) from error
