"""What stands in a file instead of what its name promises.

It is asked once a file could not be read, so that the message names the true cause.
"""

import re
from pathlib import Path

from probe.errors import ProbeError

START_BYTES = 1024
LFS, LFS_SIZE = b"version https://git-lfs.github.com/spec/", re.compile(rb"\nsize (\d+)")
PAGE = re.compile(rb"\s*(<!doctype html|<html|<\?xml)", re.IGNORECASE)
# First bytes -> the program that packed a file, and the one that unpacks it.
PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}


def foreign_content(file: Path) -> str:
    """What a file is instead, with what to do, as the end of a sentence; empty where nothing is known of it."""
    try:
        with file.open("rb") as opened:
            start = opened.read(START_BYTES)
    except OSError:
        return ""
    if start.startswith(LFS):
        size = LFS_SIZE.search(start)
        stands = f" that stands for a file of {int(size[1]):,} bytes" if size else ""
        return f"a pointer of Git LFS{stands}, not the file itself. Run `git lfs pull` in its folder, or fetch the file again."
    if PAGE.match(start):
        return (
            "a web page (HTML or XML), not the file itself. Fetch the file from the address of its download, and log in first where "
            "the server asks for it."
        )
    for beginning, (packer, unpacker) in PACKED.items():
        if start.startswith(beginning):
            return f"compressed with {packer}. Unpack it with {unpacker} and give the result this name."
    return ""


def refuse_foreign(file: Path, error: Exception | None = None) -> None:
    """Raises a `ProbeError` that names the cause where a file is known to be something else than its name says."""
    if content := foreign_content(file):
        raise ProbeError(f"{file}: {content}") from error
