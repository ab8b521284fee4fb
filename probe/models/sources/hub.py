"""The hub as this machine sees it: whether it answers, what of it is in the cache, and how a
checkpoint is fetched.
"""

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
TIMEOUT_S = 4  # of a fetch


@dataclass(frozen=True)
class Cache:
    """What has been fetched from the hub.

    Attributes:
        folder: where it lies; it need not exist yet.
        n_bytes: size of all repositories in it.
        models: names of the models in it, sorted.
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
    """Return the hub's address: ``HF_ENDPOINT`` where that is set."""
    return constants.ENDPOINT


def why_unreachable(limit_s: float = LIMIT_S) -> str:
    """Return why the hub does not answer within ``limit_s`` seconds, empty where it does."""
    answer = _answer(limit_s)
    if isinstance(answer, str):
        return answer
    return f"HTTP status {answer}" if answer >= 400 else ""


def answers(limit_s: float = LIMIT_S, address: str | None = None) -> bool:
    """Whether the hub, or ``address``, answers within ``limit_s`` seconds, whatever it says; a
    mirror may refuse its first page.
    """
    return isinstance(_answer(limit_s, address), int)


def _answer(limit_s: float, address: str | None = None) -> int | str:
    """The HTTP status of the hub's first page, or of ``address``, or why there is none.

    Looking up a name can hang whatever timeout a connection has, so a thread asks and is left
    behind where it hangs.
    """
    answer: list[int | str] = [f"no answer within {limit_s:g} s"]

    def ask() -> None:
        session = huggingface_hub.get_session()
        try:
            response = session.head(address or constants.ENDPOINT, timeout=limit_s)
            answer[0] = int(response.status_code)
        except Exception as error:  # each transport raises its own kind
            answer[0] = (str(error) or type(error).__name__).splitlines()[0]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit_s)
    return answer[0]


def cache() -> Cache:
    """Return what the hub's cache on this machine holds; nothing where it does not exist."""
    folder = Path(constants.HF_HUB_CACHE)
    if not folder.is_dir():
        return Cache(folder, 0, (), ())
    scan = huggingface_hub.scan_cache_dir(folder)
    models = sorted(item.repo_id for item in scan.repos if item.repo_type == "model")
    damaged = tuple(str(warning).splitlines()[0] for warning in scan.warnings)
    return Cache(folder, scan.size_on_disk, tuple(models), damaged)


class Repository:
    """A model on the hub, or what of it is in the cache where the hub does not answer."""

    def __init__(self, identifier: str, revision: str | None) -> None:
        self.identifier, self.revision = identifier, revision
        self.name = f"{identifier}@{revision}" if revision else identifier
        # snapshot_download waits without end for a hub that takes the call and says nothing.
        self.is_local = is_offline() or not answers(TIMEOUT_S)

    def fetch(self, patterns: Sequence[str]) -> Path:
        """Bring the files of these names into the cache; returns the folder with all that is there.

        Raises:
            ProbeError: no such repository or revision, no access, or offline and not cached.
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
