"""Commands in place of audio files, as Kaldi's ``wav.scp`` has them: understood, never run.

Nearly all of them only change the format of one file (``sph2pipe -f wav -p -c 1 a.sph |``), which
layerprobe reads itself. These become that file and its channel. A command that changes the sound,
or that has another meaning, is refused.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

RATE = re.compile(r"16000|16k", re.IGNORECASE)  # what layerprobe resamples to
SILENT = re.compile(r"2>\s*/dev/null")
FLAC_FLAGS = re.compile(r"-[cdsF]+|--(decode|stdout|silent|totally-silent)")
# Options of programs that take a value -> the values that leave the sound as it is.
SPH2PIPE = {"-f": "wav|rif", "-c": "[12]"}
FFMPEG = {
    "-i": ".+",
    "-f": "wav",
    "-ar": RATE.pattern,
    "-ac": "1",
    "-acodec|-codec:a|-c:a": "pcm_[sf][0-9]+le",
    "-ab|-v|-loglevel|-threads": ".+",
}
FFMPEG_FLAGS = ("-y", "-n", "-nostdin", "-hide_banner", "-nostats", "-vn", "-bitexact")
SOX = {
    "-t": "wav|flac|sph|nist|mp3|ogg|vorbis|opus|aiff?|au|w64|caf|wavpcm",
    "-r": RATE.pattern,
    "-c": "1",
    "-b": "16|24|32",
    "-e": "signed(-integer)?|floating-point",
}
SOX_FLAGS = re.compile(r"-V\d?|-q|-D|-R|-[LB]|--no-dither")
MEAN = "mean"  # of all channels, where a command mixes them into one
SOX_EFFECTS = re.compile(rf"(rate( -[vhmlq])* ({RATE.pattern})|channels 1|remix (-|\d+|1,2))")


def sound_of(command: str) -> tuple[str, str]:
    """(path, channel) of the audio file that a command writes in another format.

    >>> sound_of("/tools/sph2pipe -f wav -p -c 2 /data/sw02001.sph |")
    ('/data/sw02001.sph', '2')

    Returns:
        The channel that is written, counted from 1; `MEAN` where all are mixed into one, and empty
        where all are written as they are.

    Raises:
        ValueError: the reason, in words that follow the command.
    """
    path = channel = ""
    for number, words in enumerate(_stages(command)):
        program = PurePosixPath(words[0]).name
        if program not in PROGRAMS:
            raise ValueError(f"runs {program}")
        stage_path, stage_channel = PROGRAMS[program](words[1:])
        if (stage_path == "-") != bool(number):
            raise ValueError("does not begin with one audio file")
        path = path or stage_path
        if channel and stage_channel not in ("", MEAN):
            raise ValueError("chooses a channel of one")
        channel = channel or stage_channel
    return path, channel


def _stages(command: str) -> Iterator[list[str]]:
    """The words of each program between the vertical bars."""
    text = SILENT.sub(" ", command).strip().removesuffix("|")
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|;&<>()")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise ValueError(f"is no command of a shell ({error})") from error
    if strange := [word for word in words if re.search(r"[;&<>()`$*?]|\|\|", word)]:
        raise ValueError(f"has {strange[0]!r}, which only a shell understands")
    stage: list[str] = []
    for word in [*words, "|"]:
        if word != "|":
            stage.append(word)
        elif stage:
            yield stage
            stage = []
        else:
            raise ValueError("is empty")


def _split_options(
    words: list[str], values: dict[str, str], is_flag: Callable[[str], object]
) -> tuple[dict[str, str], list[str]]:
    """(options with their values, other words), each of them one that keeps the sound."""
    options: dict[str, str] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        pattern = next((values[names] for names in values if word in names.split("|")), None)
        if pattern is not None:
            value = next(rest, "")
            if not re.fullmatch(pattern, value, re.IGNORECASE):
                raise ValueError(f"changes the sound or the format ({word} {value})")
            options[word] = value
        elif word.startswith("-") and word != "-" and not is_flag(word):
            raise ValueError(f"has the option {word}")
        elif not is_flag(word):
            others.append(word)
    return options, others


def _only(words: list[str]) -> str:
    if len(words) != 1:
        raise ValueError(f"names {len(words)} files")
    return words[0]


def _sph2pipe(words: list[str]) -> tuple[str, str]:
    options, others = _split_options(words, SPH2PIPE, "-p".__eq__)
    return _only(others), options.get("-c", "")


def _flac(words: list[str]) -> tuple[str, str]:
    _, others = _split_options(words, {}, FLAC_FLAGS.fullmatch)
    if not any(re.fullmatch("-[csF]*d[cdsF]*|--decode", word) for word in words):
        raise ValueError("does not decode (-d)")
    return _only(others), ""


def _cat(words: list[str]) -> tuple[str, str]:
    return _only(words), ""


def _ffmpeg(words: list[str]) -> tuple[str, str]:
    if words.count("-i") != 1:
        raise ValueError("has not one input (-i)")
    options, others = _split_options(words, FFMPEG, FFMPEG_FLAGS.__contains__)
    if others not in (["-"], ["pipe:1"], ["pipe:"]):
        raise ValueError(f"writes to {' '.join(others) or 'nothing'}")
    return re.sub("^pipe:0?$", "-", options["-i"]), MEAN if "-ac" in options else ""


def _sox(words: list[str]) -> tuple[str, str]:
    """``sox [options] IN [options] - [effects]``."""
    outputs = [i for i, word in enumerate(words) if word == "-"]
    end = outputs[-1] + 1 if outputs else 0
    effects = " ".join(words[end:])
    options, files = _split_options(words[:end], SOX, SOX_FLAGS.fullmatch)
    if len(files) != 2 or files[1] != "-":
        raise ValueError("does not write one file to the pipe")
    before = words[: words.index(files[0])]
    if set(before) & {"-r", "-c", "-b", "-e"}:
        raise ValueError("says how a file without a header is read")
    if effects and not re.fullmatch(f"({SOX_EFFECTS.pattern} ?)+", effects):
        raise ValueError(f"changes the sound ({effects})")
    is_mixed = "-c" in options or re.search("channels|remix", effects)
    channels = re.findall(r"remix (\d+)(?!\S)", effects) or [MEAN if is_mixed else ""]
    return files[0], channels[0]


PROGRAMS: dict[str, Callable[[list[str]], tuple[str, str]]] = {
    "sph2pipe": _sph2pipe,
    "flac": _flac,
    "cat": _cat,
    "ffmpeg": _ffmpeg,
    "sox": _sox,
}
