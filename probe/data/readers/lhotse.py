"""Lhotse's manifests, read by the library itself: recordings, supervisions, cuts, Shar folders.

An utterance is a supervision, or a cut or recording without any. Its time and channel (counted from
0 there) become an excerpt of the recording's file. Audio that a Shar folder holds is written into
the cache once (`probe.data.readers.audio_cache`). What would change the sound is refused. Source:
https://lhotse.readthedocs.io.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from probe.data.readers.audio_cache import cached_rows, write_audio
from probe.data.readers.lists import split_of, split_of_part, values_sha256
from probe.data.readers.pipes import MEAN, sound_of
from probe.data.readers.reading import COLUMNS, Reader, Reading, Row, Source
from probe.errors import ProbeError, listed

ENDINGS = (".jsonl", ".jsonl.gz")
KINDS = ("recordings", "supervisions", "cuts")
EXCERPTS = ("id", "start", "end", "channel")
LABELS = ("language", "gender")
# Times are rounded to milliseconds and less.
ROUNDING_S = 1e-3
SAVE = (
    "Save the audio (cuts.save_audios), and name the manifest that lhotse returns for it "
    "(cuts.to_file)"
)

Rows = Iterator[dict[str, str]]


def read_lhotse(source: Source) -> Reading:
    """The utterances of ``lhotse:FOLDER#train,dev=PART``, of one manifest, or of a Shar folder.

    A part is what the recipes put behind ``recordings_`` and ``supervisions_`` (or ``cuts_``) in
    the names of their manifests, or such a name, or a Shar folder.

    Raises:
        ProbeError: the library is not installed, no such part, a manifest that cannot be read,
            recordings that are not files, cuts that change the sound.
    """
    root = source.path
    if not root.exists():
        raise ProbeError(f"{source.text}: {root} does not exist; expected manifests of lhotse.")
    if root.is_file() or _is_shar(root):
        places = [(split_of(_part(root) or root.name.partition(".")[0]), "", root)]
    else:
        parts = source.parts or [("", part) for part in _parts(root)]
        places = [
            (split_of_part(source, split, _part(root / part) or part), part, root / part)
            for split, part in parts
        ]
    if not places:
        raise ProbeError(
            f"{source.text}: no manifests in {root}; expected names such as "
            "timit_recordings_TRAIN.jsonl.gz, as `lhotse prepare` writes them."
        )
    library = _library(source)
    rows: list[Row] = []
    for split, part, place in places:
        for number, values in enumerate(_values(library, source, place), start=1):
            same = {**dict.fromkeys(COLUMNS, ""), "split": split}
            rows.append(
                Row(f"{place} entry {number}", same | values | ({"part": part} if part else {}))
            )
    names = dict.fromkeys(name for row in rows for name in row.values)
    columns = (*COLUMNS, *(name for name in names if name not in COLUMNS))
    stem = root.name.partition(".")[0] if root.is_file() else root.resolve().name
    named = "+".join(re.sub(r"[^\w-]+", "-", part) for _, part in source.parts)
    folder = root if root.is_dir() else root.parent
    name = f"{stem}-{named}" if named else stem
    return Reading(name, values_sha256(rows, columns), folder, columns, rows)


def _library(source: Source) -> Any:
    try:
        import lhotse
    except ImportError as error:
        raise ProbeError(
            f"{source.text}: read with the library lhotse, which is not installed "
            f"({error}). Run `pip install layerprobe[lhotse]`."
        ) from error
    return lhotse


def _is_shar(path: Path) -> bool:
    return any(path.glob("cuts.*.jsonl*")) if path.is_dir() else False


def _part(path: Path) -> str:
    """What a manifest's name has behind ``recordings_`` or its like; empty for another name."""
    match = re.search(rf"(?:^|[_-])(?:{'|'.join(KINDS)})_(.+?)\.jsonl(\.gz)?$", path.name)
    return match[1] if match else ""


def _parts(root: Path) -> list[str]:
    files = [path for ending in ENDINGS for path in root.glob(f"*{ending}")]
    return sorted({part for path in files if (part := _part(path))})


def _values(library: Any, source: Source, place: Path) -> Rows:
    """The values of each utterance of a manifest, a Shar folder or a part."""
    try:
        if _is_shar(place):
            yield from _shar(library, source, place)
            return
        files = {place.name: place} if place.is_file() else _files(source, place)
        opened = {name: library.load_manifest(path) for name, path in files.items()}
        kinds = {type(item).__name__: item for item in opened.values()}
        if "RecordingSet" in kinds:
            supervisions = kinds.get("SupervisionSet")
            yield from _recordings(kinds["RecordingSet"], supervisions, place, _file_of(place))
        elif "CutSet" in kinds:
            yield from _cuts(library, kinds["CutSet"], place, _file_of(place))
        else:
            raise ProbeError(
                f"{place}: {', '.join(kinds)} alone; expected recordings beside supervisions, or "
                "cuts. Name the part that both have, as in lhotse:FOLDER#train."
            )
    except (OSError, ValueError, KeyError, AssertionError, TypeError) as error:
        raise ProbeError(
            f"{place}: lhotse cannot read it ({type(error).__name__}: {error}). Make the manifest "
            "again, and check it with `lhotse validate`."
        ) from error


def _files(source: Source, place: Path) -> dict[str, Path]:
    """The manifests of a part: recordings with supervisions, or else cuts."""
    part, root = place.name, place.parent
    files: dict[str, Path] = {}
    for kind in KINDS:
        names = [
            path
            for ending in ENDINGS
            for path in sorted(root.glob(f"*{ending}"))
            if re.search(rf"(^|[_-]){kind}_", path.name) and _part(path) == part
        ]
        if len(names) > 1:
            raise ProbeError(
                f"{source.text}: the part {part} may be {listed([path.name for path in names])}. "
                "Put the corpus that is meant into a folder of its own, or name the file of cuts."
            )
        if names:
            files[kind] = names[0]
    if "recordings" in files:
        files.pop("cuts", None)
    elif not files:
        raise ProbeError(
            f"{source.text}: no manifests of the part {part} in {root}; found "
            f"{listed(_parts(root), 10) or 'none'}."
        )
    return files


def _shar(library: Any, source: Source, place: Path) -> Rows:
    """The utterances of a Shar folder, whose audio is written into the cache."""
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in place.iterdir()]
    text = json.dumps([str(place.resolve()), sorted(state)])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]

    def rows(folder: Path) -> Rows:
        counts: dict[str, str] = {}

        def file_of(audio: Any, where: str) -> tuple[str, str]:
            if audio.type != "memory":
                return _file_of(place)(audio, where)
            if where not in counts:
                counts[where] = write_audio(folder, len(counts), audio.source)
            return counts[where], ""

        yield from _cuts(library, library.CutSet.from_shar(in_dir=place), place, file_of)

    folder, items = cached_rows(fingerprint, source.text, rows)
    for item in items:
        yield item | {"path": str(folder / item["path"])}


def _file_of(place: Path) -> Callable[[Any, str], tuple[str, str]]:
    """A function that returns the path and channel of a source of audio."""
    folder = (place if place.is_dir() else place.parent).resolve()

    def file_of(audio: Any, where: str) -> tuple[str, str]:
        channel = ""
        if audio.type == "command":
            try:
                path, channel = sound_of(str(audio.source))
            except ValueError as error:
                raise ProbeError(
                    f"{where}: its audio is the command {audio.source!r}, which {error}; "
                    f"layerprobe runs no commands. {SAVE}."
                ) from error
            channel = "" if channel == MEAN else channel
        elif audio.type == "file":
            path = str(audio.source)
        else:
            raise ProbeError(
                f"{where}: its audio is of type {audio.type} ({str(audio.source)[:60]}); expected "
                f"a file. {SAVE}."
            )
        bases = [folder, *folder.parents[:4]]
        files = [base / path for base in bases if (base / path).is_file()]
        return str(files[0]) if files else path, channel

    return file_of


def _recordings(
    recordings: Any, supervisions: Any, place: Path, file_of: Callable[[Any, str], tuple[str, str]]
) -> Rows:
    """An utterance for each supervision, or for each recording where there are none."""
    known = {item.id: item for item in recordings}
    if supervisions is None:
        for item in known.values():
            yield _excerpt(item, 0, item.duration, None, place, file_of) | {"id": item.id}
        return
    for item in supervisions:
        if item.recording_id not in known:
            raise ProbeError(
                f"{place}: the supervision {item.id} is of the recording {item.recording_id}, "
                "which is not there. Run `lhotse fix`, which removes such supervisions."
            )
        recording = known[item.recording_id]
        yield _supervision(item) | _excerpt(
            recording, item.start, item.end, item.channel, place, file_of
        )


def _cuts(
    library: Any, cuts: Iterable[Any], place: Path, file_of: Callable[[Any, str], tuple[str, str]]
) -> Rows:
    """An utterance for each supervision of the cuts, or for each cut without any."""
    for cut in cuts:
        if not isinstance(cut, library.MonoCut | library.MultiCut) or cut.recording is None:
            raise ProbeError(
                f"{place}: the cut {cut.id} is a {type(cut).__name__}; expected a MonoCut or "
                f"MultiCut of a recording. {SAVE}."
            )
        if not cut.supervisions:
            channel = cut.channel
            excerpt = _excerpt(cut.recording, cut.start, cut.end, channel, place, file_of)
            yield {"id": cut.id} | excerpt
        for item in cut.supervisions:
            start, end = cut.start + max(0, item.start), cut.start + min(cut.duration, item.end)
            excerpt = _excerpt(cut.recording, start, end, item.channel, place, file_of)
            yield _supervision(item) | excerpt


def _supervision(item: Any) -> dict[str, str]:
    values = {"id": item.id, "text": item.text or "", "speaker": item.speaker or ""}
    values |= {name: str(value) for name in LABELS if (value := getattr(item, name)) is not None}
    for name, value in (item.custom or {}).items():
        if isinstance(value, str | int | float) and name not in (*COLUMNS, *EXCERPTS):
            values[name] = str(value)
    return values


def _excerpt(
    recording: Any,
    start_s: float,
    end_s: float,
    channels: int | list[int] | None,
    place: Path,
    file_of: Callable[[Any, str], tuple[str, str]],
) -> dict[str, str]:
    """The columns of path, time and channel of a part of a recording."""
    where = f"{place}: the recording {recording.id}"
    if recording.transforms:
        names = [
            str(item.get("name") if isinstance(item, dict) else type(item).__name__)
            for item in recording.transforms
        ]
        raise ProbeError(
            f"{where} is changed as it is loaded ({listed(names)}); layerprobe reads files as they "
            f"are. {SAVE}, or name a condition with --condition (docs/conditions.md)."
        )
    wanted = set(
        recording.channel_ids
        if channels is None
        else [channels]
        if isinstance(channels, int)
        else channels
    )
    is_whole = wanted == set(recording.channel_ids)
    files = [item for item in recording.sources if wanted & set(item.channels)]
    if len(files) != 1 or (len(wanted) > 1 and not is_whole):
        raise ProbeError(
            f"{where}: channels {sorted(wanted)} of {recording.channel_ids} in {len(files)} files; "
            "expected one channel, or all channels of one file. Choose one: "
            "supervisions.map with channel = 0."
        )
    (audio,) = files
    path, channel = file_of(audio, where)
    if len(audio.channels) > 1 and not is_whole:
        channel = str(sorted(audio.channels).index(next(iter(wanted))) + 1)
    values = {"path": path, "channel": channel, "start": "", "end": "", "duration_s": ""}
    if start_s > ROUNDING_S or end_s < recording.duration - ROUNDING_S:
        values |= {
            "start": repr(float(start_s)),
            "end": repr(float(min(end_s, recording.duration))),
        }
    return values


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return _is_shar(path) or bool(_parts(path))
    return path.name.endswith(ENDINGS) and (bool(_part(path)) or path.name.startswith(KINDS))


READERS = (
    Reader(
        "lhotse", "manifests of lhotse: a folder with #part, a file, Shar", read_lhotse, _recognises
    ),
)
