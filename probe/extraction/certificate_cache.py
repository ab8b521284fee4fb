"""Certificates of models that passed their check on this machine, kept for later runs.

They are in the user's cache (``$PROBE_CACHE``, else ``$XDG_CACHE_HOME/layerprobe``, else
``~/.cache/layerprobe``), one file each, named by the hash of everything that decides the outcome:
the model, its form, the libraries, the device and the code of this package. Files are replaced
atomically, so concurrent runs do not disturb each other. Without a usable cache a model is checked
again.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probe.errors import ProbeError
from probe.files import read_json, sha256_of_json, write_json
from probe.models.plugins.loader import code_sha256

log = logging.getLogger("probe")


def cache_folder() -> Path | None:
    """The folder of certificates; None if ``PROBE_CACHE`` is empty or there is no home folder."""
    named = os.environ.get("PROBE_CACHE")
    if named is not None:
        return Path(named) / "certificates" if named else None
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        folder = folder.expanduser()
    except RuntimeError:
        return None
    return folder / "layerprobe" / "certificates" if folder.is_absolute() else None


def kept_certificate(decides: Mapping[str, Any]) -> dict[str, Any] | None:
    """The certificate of a model that passed its check before, or None.

    Args:
        decides: everything that decides the outcome, except this package's code.
    """
    file = _file_of(decides)
    if file is None or not file.is_file():
        return None
    try:
        certificate = read_json(file)
    except ProbeError:  # damaged, or the disk fails: it is made again
        return None
    log.info("it passed this check here before; the certificate is in %s", file)
    return certificate


def keep_certificate(decides: Mapping[str, Any], certificate: Mapping[str, Any]) -> None:
    """Keep the certificate of a model that passed; logs a failure to do so."""
    file = _file_of(decides)
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, certificate)
    except (OSError, ProbeError) as error:
        log.info(
            "the certificate cannot be kept for later runs (%s); PROBE_CACHE names another folder",
            error,
        )


def _file_of(decides: Mapping[str, Any]) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    everything = {**decides, "code": code_sha256("probe.models", "probe")}
    return folder / f"{sha256_of_json(everything)}.json"
