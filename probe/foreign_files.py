"""What a file is whose content is not what its name says: a pointer, a web page, an archive, a
format that libsndfile lacks.
"""

import re
from pathlib import Path

from probe.errors import ProbeError

CONVERT = "Convert it (ffmpeg -i in -ar 16000 -ac 1 out.wav)"
FETCH = "Fetch the file itself"
# (offset, first bytes, what begins like that, what to do).
BEGINNINGS: tuple[tuple[int, bytes, str, str], ...] = (
    (
        0,
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer",
        "Run `git lfs pull` where it comes from",
    ),
    (0, b"/annex/objects/", "a git-annex pointer", "Run `git annex get` where it comes from"),
    (0, b"\x1f\x8b", "compressed by gzip", "Unpack it with gunzip"),
    (0, b"BZh", "compressed by bzip2", "Unpack it with bunzip2"),
    (0, b"\xfd7zXZ\0", "compressed by xz", "Unpack it with unxz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", "Unpack it with unzstd"),
    (
        0,
        b"PK\x03\x04",
        "a ZIP archive or an Excel workbook",
        "Unpack the archive, or save the sheet as CSV in UTF-8",
    ),
    (0, b"7z\xbc\xaf", "a 7z archive", "Unpack it"),
    (257, b"ustar", "a tar archive", "Unpack it with tar"),
    (4, b"ftyp", "MP4 or M4A, which libsndfile does not read", CONVERT),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska, which libsndfile does not read", CONVERT),
    (0, b"\x30\x26\xb2\x75", "WMA, which libsndfile does not read", CONVERT),
    (0, b"#!AMR", "AMR, which libsndfile does not read", CONVERT),
    (0, b"\xff\xf1", "AAC, which libsndfile does not read", CONVERT),
    (0, b"\xff\xf9", "AAC, which libsndfile does not read", CONVERT),
    (0, b"wvpk", "WavPack, which libsndfile does not read", CONVERT),
    (0, b"MAC ", "Monkey's Audio, which libsndfile does not read", CONVERT),
    (0, b"ajkg", "Shorten, which libsndfile does not read", CONVERT),
    (0, b"%PDF", "a PDF document", FETCH),
    (0, b"\x89PNG", "a PNG picture", FETCH),
    (0, b"\xff\xd8\xff", "a JPEG picture", FETCH),
    (0, b"PAR1", "a Parquet table", "Save it as CSV in UTF-8"),
    (0, b"SQLite format 3", "an SQLite database", "Save the table as CSV in UTF-8"),
    (0, b"\x89HDF", "an HDF5 file", FETCH),
)
HEAD_BYTES = 1024


def true_form(head: bytes) -> tuple[str, str]:
    """(what a file is, what to do about it) by its first `HEAD_BYTES` bytes; empty texts where
    nothing is known about it.
    """
    for offset, beginning, what, remedy in BEGINNINGS:
        if head.startswith(beginning, offset):
            return what, remedy
    if head.startswith(b"NIST_1A") and b"shorten" in head:
        return (
            "a SPHERE file compressed by Shorten, which libsndfile does not read",
            "Convert it with sph2pipe -f wav",
        )
    if head and not head.strip(b"\0"):
        return "nothing but zero bytes, as an interrupted copy leaves", "Fetch the file again"
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if re.match(r"<(!doctype\s+html|html|head|body)\b", text, re.IGNORECASE):
        return (
            "a web page (HTML)",
            f"{FETCH}: the server sent a page in its place, often one that asks for a login",
        )
    if text.startswith("<?xml"):
        return "an XML document", f"{FETCH}: servers send an error as such a document"
    if text.startswith(("{", "[{")):
        return "JSON", FETCH
    return "", ""


def foreign_content(file: Path) -> str:
    """What stands in a file of a checkpoint instead of weights or settings, and what to do, as the
    end of a sentence.

    Empty where the file may be what its name says (JSON, or the ZIP archive that torch writes) or
    cannot be read.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
    except OSError:
        return ""
    content, remedy = true_form(head)
    if not content or content == "JSON" or "ZIP" in content:
        return ""
    return f"{content}, not the file itself. {remedy}."


def refuse_foreign(file: Path, error: Exception | None = None) -> None:
    """Raises a `ProbeError` that names the cause where a file is known to be something else than
    its name says.
    """
    if content := foreign_content(file):
        raise ProbeError(f"{file}: {content}") from error
