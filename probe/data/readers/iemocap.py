"""IEMOCAP as it is unpacked (Busso et al. 2008).

``Session1`` to ``Session5`` hold ``dialog/EmoEvaluation`` (emotion, valence, activation and
dominance of each turn), ``dialog/transcriptions`` and ``sentences/wav``. Nothing says a split: the
column ``session`` is for ``--folds session``.

Columns beside text and speaker: ``emotion``, as the annotators' majority has it (``xxx`` where they
disagree); ``emotion4``, the four classes of most papers (``neu``, ``hap`` with ``exc``, ``ang``,
``sad``; 5,531 turns), empty for other turns; ``valence``, ``activation``, ``dominance`` from 1 to
5; ``style`` (``impro`` or ``script``); ``sex``; ``dialog``. A speaker is one of a session's two:
``Ses01F`` or ``Ses01M``, by the turn and not by the name of the dialog, which says who wore the
markers.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from probe.data.readers.lists import lines_of, values_sha256
from probe.data.readers.reading import COLUMNS, Reader, Reading, Row, Source
from probe.errors import ProbeError, refuse_problems

EVALUATIONS, TEXTS, AUDIO = "dialog/EmoEvaluation", "dialog/transcriptions", "sentences/wav"
FOUR = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
TURN = re.compile(
    r"\[[\d.]+ - [\d.]+\]\s+(?P<turn>(?P<session>Ses\d\d)\S+_(?P<sex>[FM])[^_\s]+)\s+"
    r"(?P<emotion>\w+)\s+\[(?P<valence>[\d.]+), *(?P<activation>[\d.]+), *(?P<dominance>[\d.]+)\]"
)
COLUMNS_HERE = (
    *(*COLUMNS, "id", "session", "dialog", "style", "sex", "emotion", "emotion4"),
    *("valence", "activation", "dominance"),
)


def read_iemocap(source: Source) -> Reading:
    """The turns of all sessions of ``iemocap:ROOT``, or of those that are named
    (``iemocap:ROOT#Session1,Session2``).

    Raises:
        ProbeError: no such session, no turns, a line of another form; up to eight problems are
            named with their lines.
    """
    root = source.path
    found = sorted(path.name for path in root.glob("Session[1-5]") if (path / EVALUATIONS).is_dir())
    sessions = [name for _, name in source.parts] or found
    lacking = [name for name in sessions if name not in found]
    if lacking or not sessions:
        raise ProbeError(
            f"{source.text}: {', '.join(lacking) or 'no sessions'} in {root} with {EVALUATIONS}; "
            f"found {', '.join(found) or 'none'}; expected Session1 to Session5 of IEMOCAP."
        )
    problems: list[str] = []
    rows = [
        row
        for name in sessions
        for path in sorted((root / name / EVALUATIONS).glob("Ses*.txt"))
        for row in _turns(root, root / name, path, problems)
    ]
    refuse_problems(problems)
    name = "iemocap" + "".join(f"-{name}" for name in sessions if len(sessions) < len(found))
    return Reading(name, values_sha256(rows, COLUMNS_HERE), root, COLUMNS_HERE, rows)


def _turns(root: Path, session: Path, path: Path, problems: list[str]) -> Iterator[Row]:
    """The turns of one dialog."""
    texts = _texts(session / TEXTS / path.name)
    for where, line in lines_of(path):
        if not line.startswith("[") or line.startswith("% "):
            continue
        if not (turn := TURN.match(line)):
            if not line.startswith("[START"):
                problems.append(
                    f"{where}: {line[:60]!r}; expected `[start - end] turn emotion [valence, "
                    "activation, dominance]`. Unpack IEMOCAP's archive again."
                )
            continue
        fields = turn.groupdict()
        name, emotion = fields["turn"], fields["emotion"]
        audio = session / AUDIO / path.stem / f"{name}.wav"
        values = {
            "id": name,
            "path": audio.relative_to(root).as_posix(),
            "text": texts.get(name, ""),
            "speaker": fields["session"] + fields["sex"],
            "session": session.name,
            "dialog": path.stem,
            "style": "script" if "script" in path.stem else "impro",
            "sex": fields["sex"],
            "emotion": emotion,
            "emotion4": FOUR.get(emotion, ""),
            **{key: fields[key] for key in ("valence", "activation", "dominance")},
        }
        yield Row(where, dict.fromkeys(COLUMNS, "") | values)


def _texts(path: Path) -> dict[str, str]:
    """Turn -> what was said; none where the file is not there."""
    if not path.is_file():
        return {}
    parts = (line.partition(":") for _, line in lines_of(path))
    return {head.split()[0]: text.strip() for head, colon, text in parts if colon and head.split()}


READERS = (
    Reader(
        "iemocap",
        "IEMOCAP, for --folds session",
        read_iemocap,
        lambda path: (path / "Session1" / EVALUATIONS).is_dir(),
    ),
)
