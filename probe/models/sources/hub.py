"""The hub as this machine sees it: whether it answers, and what of it is in the cache."""

import threading
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

LIMIT_S = 2.5


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
    """The hub's address: ``HF_ENDPOINT`` where that is set."""
    return constants.ENDPOINT


def why_unreachable(limit_s: float = LIMIT_S) -> str:
    """Why the hub does not answer, empty where it does; decided within ``limit_s`` seconds."""
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
        try:
            answer[0] = int(
                huggingface_hub.get_session()
                .head(address or constants.ENDPOINT, timeout=limit_s)
                .status_code
            )
        except Exception as error:  # each transport raises its own kind
            answer[0] = (str(error) or type(error).__name__).splitlines()[0]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit_s)
    return answer[0]


def cache() -> Cache:
    """The hub's cache on this machine; empty where the folder does not exist."""
    folder = Path(constants.HF_HUB_CACHE)
    if not folder.is_dir():
        return Cache(folder, 0, (), ())
    found = huggingface_hub.scan_cache_dir(folder)
    models = sorted(item.repo_id for item in found.repos if item.repo_type == "model")
    damaged = tuple(str(warning).splitlines()[0] for warning in found.warnings)
    return Cache(folder, found.size_on_disk, tuple(models), damaged)
