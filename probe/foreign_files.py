"""Files whose content is not what the name says: a pointer, a web page, an archive, a format that
libsndfile lacks.
"""

import re
from pathlib import Path

from probe.errors import ProbeError

CONVERT = "Convert it (ffmpeg -i in -ar 16000 -ac 1 out.wav)"
FFMPEG = (
    "Install its decoder (pip install layerprobe[ffmpeg]), or convert it (ffmpeg -i in out.wav)"
)
FETCH = "Fetch the file itself"
SAVE = "Save the table as CSV in UTF-8"
UNPACK = "Unpack the archive, or save the sheet as CSV in UTF-8"
UNREAD = "which libsndfile does not read"
# (offset, first bytes) -> (what begins like that, what to do).
BEGINNINGS: dict[tuple[int, bytes], tuple[str, str]] = {
    (0, b"version https://git-lfs.github.com/"): (
        "a Git LFS pointer",
        "Run `git lfs pull` where it comes from",
    ),
    (0, b"/annex/objects/"): ("a git-annex pointer", "Run `git annex get` where it comes from"),
    (0, b"\x1f\x8b"): ("compressed by gzip", "Unpack it with gunzip"),
    (0, b"BZh"): ("compressed by bzip2", "Unpack it with bunzip2"),
    (0, b"\xfd7zXZ\0"): ("compressed by xz", "Unpack it with unxz"),
    (0, b"\x28\xb5\x2f\xfd"): ("compressed by zstd", "Unpack it with unzstd"),
    (0, b"PK\x03\x04"): ("a ZIP archive or an Excel workbook", UNPACK),
    (0, b"7z\xbc\xaf"): ("a 7z archive", "Unpack it"),
    (257, b"ustar"): ("a tar archive", "Unpack it with tar"),
    (4, b"ftyp"): (f"MP4 or M4A, {UNREAD}", FFMPEG),
    (0, b"\x1a\x45\xdf\xa3"): (f"WebM or Matroska, {UNREAD}", FFMPEG),
    (0, b"\x30\x26\xb2\x75"): (f"WMA, {UNREAD}", FFMPEG),
    (0, b"#!AMR"): (f"AMR, {UNREAD}", CONVERT),
    (0, b"\xff\xf1"): (f"AAC, {UNREAD}", FFMPEG),
    (0, b"\xff\xf9"): (f"AAC, {UNREAD}", FFMPEG),
    (0, b"wvpk"): (f"WavPack, {UNREAD}", CONVERT),
    (0, b"MAC "): (f"Monkey's Audio, {UNREAD}", CONVERT),
    (0, b"ajkg"): (f"Shorten, {UNREAD}", CONVERT),
    (0, b"%PDF"): ("a PDF document", FETCH),
    (0, b"\x89PNG"): ("a PNG picture", FETCH),
    (0, b"\xff\xd8\xff"): ("a JPEG picture", FETCH),
    (0, b"PAR1"): ("a Parquet table", SAVE),
    (0, b"SQLite format 3"): ("an SQLite database", SAVE),
    (0, b"\x89HDF"): ("an HDF5 file", FETCH),
}
HEAD_BYTES = 1024


def true_form(head: bytes) -> tuple[str, str]:
    """(what a file is, what to do about it) by its first `HEAD_BYTES` bytes; empty if unknown."""
    for (offset, beginning), form in BEGINNINGS.items():
        if head.startswith(beginning, offset):
            return form
    if head.startswith(b"NIST_1A") and b"shorten" in head:
        return f"a SPHERE file compressed by Shorten, {UNREAD}", "Convert it with sph2pipe -f wav"
    if head and not head.strip(b"\0"):
        return "nothing but zero bytes, as an interrupted copy leaves", "Fetch the file again"
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if re.match(r"<(!doctype\s+html|html|head|body)\b", text, re.IGNORECASE):
        remedy = f"{FETCH}: the server sent a page in its place, often one that asks for a login"
        return "a web page (HTML)", remedy
    if text.startswith("<?xml"):
        return "an XML document", f"{FETCH}: servers send an error as such a document"
    if text.startswith(("{", "[{")):
        return "JSON", FETCH
    return "", ""


def foreign_content(file: Path) -> str:
    """What a file of a checkpoint is instead of weights or settings, and what to do, as the end of
    a sentence.

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
    """Raise a `ProbeError` where a file is known to be something else than its name says."""
    if content := foreign_content(file):
        raise ProbeError(f"{file}: {content}") from error
