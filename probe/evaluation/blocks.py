"""What is resampled together, and therefore what an interval is about.

Blocks are speakers, and intervals are about other speakers. Where each of them was recorded in one
session only, the interval cannot say what their other sessions would give. A task that names the
speakers themselves cannot be about others, so its blocks are sessions or recordings of one speaker.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from probe.data.corpus import Utterance
from probe.data.intervals import LabelledInterval
from probe.records import ONE_SESSION, RECORDING, SESSION, SPEAKER, UTTERANCE

# Columns that name what was recorded at one time, the first that every row has; readers of
# VoxCeleb and LibriSpeech give the last two.
SESSION_COLUMNS = ("session", "recording", "video", "chapter")


@dataclass(frozen=True)
class Blocks:
    """The blocks of a task.

    Attributes:
        kind: what a block is, see `probe.records.Record.block_kind`.
        names: key of an utterance -> its block, where that is no speaker.
    """

    kind: str = SPEAKER
    names: Mapping[str, str] = field(default_factory=dict)

    def of(self, utterance: Utterance) -> str:
        """The block of an utterance, or of an interval of it: the speaker unless ``names`` has
        another; the utterance alone where no speaker is known.
        """
        source = utterance.source if isinstance(utterance, LabelledInterval) else None
        key = (source or utterance).key
        return self.names.get(key) or utterance.speaker or f"utterance {key}"


BY_SPEAKER = Blocks()


def session_column(utterances: Sequence[Utterance]) -> str:
    """The first of `SESSION_COLUMNS` that every utterance has; empty without one."""
    complete = (name for name in SESSION_COLUMNS if all(item.label(name) for item in utterances))
    return next(complete, "")


def incomplete_sessions(utterances: Sequence[Utterance]) -> list[str]:
    """Sentences on the columns that would be the blocks of tasks that predict speakers if every
    utterance had them.
    """
    blocks = session_column(utterances) or blocks_of("speaker", utterances).kind
    sentences = []
    for name in SESSION_COLUMNS:
        empty = [item for item in utterances if not item.label(name)]
        if not empty:
            break
        if len(empty) < len(utterances):
            sentences.append(
                f"{empty[0].where or empty[0].key}: {name} is empty (in {len(empty)} of "
                f"{len(utterances)} rows). The blocks of intervals therefore are {blocks}s instead "
                f"of {name}s in tasks that predict the speaker. Fill in the column, or remove it."
            )
    return sentences


def has_one_session_each(utterances: Sequence[Utterance]) -> bool:
    """Whether the corpus names sessions and no test speaker was recorded in a second one."""
    column = session_column(utterances)
    tested = {(item.speaker, item.label(column)) for item in utterances if item.split == "test"}
    return bool(column and tested) and len(tested) == len({speaker for speaker, _ in tested})


def blocks_of(column: str, utterances: Sequence[Utterance]) -> Blocks:
    """The blocks of a task that predicts a column, on these rows of a corpus."""
    if column != "speaker":
        if not any(item.speaker for item in utterances):
            return Blocks(UTTERANCE)
        return Blocks(ONE_SESSION) if has_one_session_each(utterances) else BY_SPEAKER
    if session := session_column(utterances):
        names = {
            item.key: f"{session} {item.label(session)} of {item.speaker}" for item in utterances
        }
        return Blocks(RECORDING if session == RECORDING else SESSION, names)
    files = [(item.written_path, item.excerpt.member) for item in utterances]
    # A recording is named by its first utterance, because paths differ between machines.
    first: dict[tuple[str, str], str] = {}
    for item, file in zip(utterances, files, strict=True):
        first.setdefault(file, item.key)
    kind = RECORDING if max(Counter(files).values(), default=1) > 1 else UTTERANCE
    return Blocks(
        kind,
        {
            item.key: f"utterance {first[file]}"
            for item, file in zip(utterances, files, strict=True)
        },
    )
