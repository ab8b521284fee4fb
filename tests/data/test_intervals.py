"""Labels over time: CSV and TextGrids give the same intervals, and every mistake is named with its
place.
"""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.data.excerpts import Excerpt
from probe.data.intervals import IntervalSet, load_intervals
from probe.data.time_labels.derived import changes, speech_and_nonspeech
from probe.data.time_labels.textgrid import read_textgrid
from probe.errors import ProbeError

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 
xmax = 1 
tiers? <exists> 
size = 3 
item []: 
    item [1]:
        class = "IntervalTier" 
        name = "words" 
        xmin = 0 
        xmax = 1 
        intervals: size = 1 
        intervals [1]:
            xmin = 0 
            xmax = 1 
            text = "say ""ü"" ! 3 <x>" 
    item [2]:
        class = "TextTier" 
        checked2 by 3people [4] 
        name = "bells" 
        xmin = 0 
        xmax = 1 
        points: size = 1 
        points [1]:
            number = 0.5 
            mark = "ding" 
    item [3]:
        class = "IntervalTier" 
        name = "phones" 
        xmin = 0 
        xmax = 1 
        intervals: size = 3 
        intervals [1]:
            xmin = 0 
            xmax = 0.25 
            text = "" 
        intervals [2]:
            xmin = 0.25 
            xmax = 5e-1 
            text = " ʃ " 
        intervals [3]:
            xmin = 0.5 
            xmax = 1 
            text = "2"
"""  # noqa: W291 (Praat ends its lines with a space)

SHORT = """File type = "ooTextFile"
"TextGrid"

0
1
<exists>
3
"IntervalTier"
"words"
0
1
1
0
1
"say ""ü"" ! 3 <x>"
"TextTier"
"bells"
0
1
1
0.5
"ding"
"IntervalTier" "phones" 0 1 3 ! a comment with 4 numbers
0 0.25 ""
0.25 0.5 "ʃ"
0.5 1 "2"
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """a/0.wav to a/2.wav."""
    (tmp_path / "a").mkdir()
    rows = ["path,text,speaker,domain,split,duration_s"]
    for i in range(3):
        (tmp_path / "a" / f"{i}.wav").touch()
        rows.append(f"a/{i}.wav,,s,,train,1")
    (tmp_path / "corpus.csv").write_text("\n".join(rows))
    return load_corpus(tmp_path / "corpus.csv")


def load(path: Path, corpus: Corpus, **settings: str) -> IntervalSet:
    return load_intervals(path, corpus, {item.key: 1.0 for item in corpus.utterances}, **settings)


def csv_of(folder: Path, *rows: str, header: str = "path,start,end,label") -> Path:
    path = folder / "phones.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("form", [LONG, SHORT, SHORT.replace('"ooTextFile"', '"ooTextFile short"')])
def test_every_text_form_of_a_textgrid_is_read_alike(
    tmp_path: Path, form: str, encoding: str, ends: str
) -> None:
    (tmp_path / "x.TextGrid").write_bytes(form.replace("\n", ends).encode(encoding))
    tiers = read_textgrid(tmp_path / "x.TextGrid")
    assert {
        name: [(item.start_s, item.end_s, item.label) for item in tier]
        for name, tier in tiers.items()
    } == {
        "words": [(0, 1, 'say "ü" ! 3 <x>')],
        "phones": [(0, 0.25, ""), (0.25, 0.5, "ʃ"), (0.5, 1, "2")],
    }


def test_a_label_that_is_a_quote_swallows_no_rows(tmp_path: Path, corpus: Corpus) -> None:
    """X-SAMPA writes stress as a double quote."""
    rows = (
        "a/0.wav,0.0,0.1,t",
        'a/0.wav,0.1,0.2,"',
        "a/0.wav,0.2,0.3,e",
        'a/0.wav,0.3,0.4,"',
        "a/1.wav,0.0,0.1,t",
    )
    with pytest.raises(
        ProbeError,
        match=r"phones.csv line 3: a quoted field continues to the row 'a/0.wav,0.2,0.3,e'",
    ):
        load(csv_of(tmp_path, *rows), corpus)


def test_the_line_of_an_interval_is_known(tmp_path: Path) -> None:
    (tmp_path / "x.TextGrid").write_text(LONG, encoding="utf-8")
    line = int(read_textgrid(tmp_path / "x.TextGrid")["phones"][1].where.rpartition(" ")[2])
    assert LONG.splitlines()[line - 1].strip() == "xmin = 0.25"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            SHORT[: SHORT.index('0.5 1 "2"')].encode(),
            r"line 25: found the end of the file; expected seconds. Is the file whole\?",
        ),
        (
            SHORT.replace('"words"', "words").encode(),
            "line 10: found '0'; expected the name of a tier",
        ),
        (
            SHORT.replace("IntervalTier", "PitchTier", 1).encode(),
            "line 9: tier of class 'PitchTier'; expected IntervalTier",
        ),
        (b'File type = "ooTextFile"\nObject class = "Pitch 1"\n', "no TextGrid in text form"),
        (b"ooBinaryFile\x08TextGrid", "line 1: found the end of the file; expected ooTextFile"),
        (
            LONG.encode("latin-1", "replace"),
            "is not UTF-8-SIG. Save it from Praat as UTF-8 or UTF-16",
        ),
    ],
)
def test_a_damaged_textgrid_is_refused_with_its_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "x.TextGrid").write_bytes(content)
    with pytest.raises(ProbeError, match=message):
        read_textgrid(tmp_path / "x.TextGrid")


def test_csv_and_textgrids_give_the_same_intervals(tmp_path: Path, corpus: Corpus) -> None:
    path = csv_of(
        tmp_path,
        "a/0.wav,0.5,1,2,w",
        "a/1.wav,0,1,x,",
        *["a/0.wav,0,0.25,,w", "a/0.wav,0.25,0.5, ʃ ,v", "a/2.wav,0,1.02,x,"],
        header="path,start,end,label,word",
    )
    (tmp_path / "grids" / "a").mkdir(parents=True)
    for i, form in enumerate([SHORT, LONG, LONG]):
        (tmp_path / "grids" / "a" / f"{i}.TextGrid").write_text(form, encoding="utf-8")
    csv, grids = load(path, corpus), load(tmp_path / "grids", corpus)
    for spans in (csv.spans["a/0.wav"], grids.spans["a/0.wav"], grids.spans["a/2.wav"]):
        assert spans.labels == ("", "ʃ", "2")
        assert spans.types == ("\t\tʃ", "\tʃ\t2", "ʃ\t2\t")
        assert list(spans.at(np.array([0, 0.2499, 0.25, 0.75, 1.0]))) == [0, 0, 1, 2, -1]
    assert load(path, corpus, types="word").spans["a/0.wav"].types == ("w", "v", "w")
    assert (
        load(tmp_path / "grids", corpus, types="words").spans["a/0.wav"].types
        == ('say "ü" ! 3 <x>',) * 3
    )
    assert (
        len({csv.sha256, grids.sha256, load(tmp_path / "grids", corpus, tier="words").sha256}) == 3
    )


def test_gaps_have_no_interval(tmp_path: Path, corpus: Corpus) -> None:
    spans = load(csv_of(tmp_path, "a/0.wav,0.2,0.4,x", "a/0.wav,0.6,0.8,y"), corpus).spans[
        "a/0.wav"
    ]
    assert list(spans.at(np.array([0.0, 0.3, 0.5, 0.7, 0.9]))) == [-1, 0, -1, 1, -1]


def test_a_lone_textgrid_beneath_the_folder_is_found_by_its_name(
    tmp_path: Path, corpus: Corpus
) -> None:
    (tmp_path / "grids" / "deep").mkdir(parents=True)
    for name in ("0", "deep/1", "2"):
        (tmp_path / "grids" / f"{name}.TextGrid").write_text(SHORT, encoding="utf-8")
    (tmp_path / "grids" / "deep" / "2.TextGrid").write_text(SHORT, encoding="utf-8")
    assert load(tmp_path / "grids", corpus).missing == ("a/2.wav",)  # two have its name


def test_what_lacks_or_is_too_much_is_named_and_counted(
    tmp_path: Path, corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    path = csv_of(tmp_path, "a/0.wav,0,1,x", "b/0.wav,0,1,x", "b/0.wav,1,2,x", "b/1.wav,0,1,x")
    with caplog.at_level(logging.WARNING):
        assert load(path, corpus).missing == ("a/1.wav", "a/2.wav")
    assert f"{path}: 2 utterances are not in corpus: b/0.wav, b/1.wav" in caplog.text
    assert (
        f"{path}: no intervals for 2 utterances, they are left out: a/1.wav, a/2.wav" in caplog.text
    )


def test_utterances_that_are_not_asked_for_are_no_surprise(
    tmp_path: Path, corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    path = csv_of(tmp_path, "a/0.wav,0,1,x", "a/1.wav,0,16000,x")
    found = load_intervals(path, corpus, {"a/0.wav": 1.0})
    assert (set(found.spans), found.missing, caplog.text) == ({"a/0.wav"}, (), "")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["a/0.wav,0,0.5,x", "a/0.wav,0.4,0.6,y"],
            "line 3: starts at 0.4 s, before the interval of line 2 ends (0.5 s)",
        ),
        (
            ["a/0.wav,0.4,0.6,x", "a/0.wav,0,0.5,y"],
            "line 2: starts at 0.4 s, before the interval of line 3 ends (0.5 s)",
        ),
        (
            ["a/0.wav,0.5,0.5,x"],
            "line 2: ends at 0.5 s and starts at 0.5 s; expected it to end later.",
        ),
        (["a/0.wav,0.5,0.4,x"], "line 2: ends at 0.4 s and starts at 0.5 s"),
        (["a/0.wav,-0.1,0.4,x"], "line 2: starts at -0.1 s; expected 0 or later."),
        (
            ["a/0.wav,0,1.03,x"],
            "line 2: ends at 1.03 s, but its audio lasts 1.000 s; does it belong to another file?",
        ),
        (
            ["a/0.wav,0,16000,x"],
            "ends at 16000 s, but its audio lasts 1.000 s; is this column in samples or "
            "milliseconds?",
        ),
        (["a/0.wav,0,0,x"], "1 unusable interval\n"),
        (["a/0.wav,0,0,x"] * 10, "10 unusable intervals"),
        (["a/0.wav,0,0,x"] * 10, "expected it to end later. (9 more like this)"),
        (["a/0.wav,0,soon,x"], "line 2: end 'soon'; expected seconds such as 0.25."),
        (["a/0.wav,nan,1,x"], "line 2: start 'nan'; expected seconds"),
        (["a/0.wav,0"], "line 2: 2 fields; the header has 4"),
        (
            ["b/0.wav,0,1,x"],
            "no intervals for any of the 3 utterances of corpus (a/0.wav, a/1.wav, "
            "a/2.wav); found b/0.wav.",
        ),
        ([], "found none. Name utterances as the manifest does."),
        (['a/0.wav,0,1,"x'], "line 2: not readable as CSV"),
    ],
)
def test_unusable_intervals_are_refused_with_their_line(
    tmp_path: Path, corpus: Corpus, rows: list[str], message: str
) -> None:
    with pytest.raises(ProbeError, match=re.escape(message)):
        load(csv_of(tmp_path, *rows), corpus)


def test_what_is_no_source_of_labels_is_refused_with_what_is(
    tmp_path: Path, corpus: Corpus
) -> None:
    with pytest.raises(
        ProbeError,
        match=r"none.csv: does not exist; expected a CSV file with the columns "
        r"path,start,end,label",
    ):
        load(tmp_path / "none.csv", corpus)
    with pytest.raises(
        ProbeError,
        match=r"line 1: column end missing; found path, start, stop, label; expected "
        r"path,start,end,label",
    ):
        load(csv_of(tmp_path, header="path,start,stop,label"), corpus)


def test_intervals_between_semicolons_and_a_pointer_are_called_what_they_are(
    tmp_path: Path, corpus: Corpus
) -> None:
    with pytest.raises(
        ProbeError, match=r"line 1: the columns are separated by semicolons; expected commas"
    ):
        load(csv_of(tmp_path, header="path;start;end;label"), corpus)
    (tmp_path / "labels.csv").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(
        ProbeError, match=r"labels\.csv: the file is a Git LFS pointer; expected a CSV table"
    ):
        load(tmp_path / "labels.csv", corpus)
    with pytest.raises(
        ProbeError,
        match=r"column word missing; found path, start, end, label; expected "
        r"path,start,end,label,word and any others. The task asks for types = 'word'",
    ):
        load(csv_of(tmp_path, "a/0.wav,0,1,x"), corpus, types="word")
    (tmp_path / "grids").mkdir()
    with pytest.raises(ProbeError, match=r"no intervals for any of the 3 utterances .*found none"):
        load(tmp_path / "grids", corpus)
    (tmp_path / "grids" / "0.TextGrid").write_text(SHORT, encoding="utf-8")
    with pytest.raises(
        ProbeError,
        match=r"0.TextGrid: no tier 'phone'; it has 'words', 'phones'. Name one of them "
        r"in the task",
    ):
        load(tmp_path / "grids", corpus, tier="phone")


def test_two_utterances_do_not_share_a_textgrid(tmp_path: Path, corpus: Corpus) -> None:
    (tmp_path / "0.mp3").touch()
    manifest = tmp_path / "corpus.csv"
    manifest.write_text(manifest.read_text() + "\n0.mp3,,s,,train,1\n")
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "0.TextGrid").write_text(SHORT, encoding="utf-8")
    with pytest.raises(ProbeError, match=r"0.TextGrid: belongs to two utterances, 0.mp3 is one"):
        load(tmp_path / "grids", load_corpus(manifest))


def plain(labels: IntervalSet, key: str) -> list[tuple[float, float, str]]:
    spans = labels.spans[key]
    times_s = zip(spans.starts_s.round(9), spans.ends_s.round(9), strict=True)
    return [(*pair, label) for pair, label in zip(times_s, spans.labels, strict=True)]


@pytest.mark.parametrize("name", ["words.ctm", "words.txt", "ctm"])
def test_words_of_a_ctm_file_are_labels_whatever_it_is_called(
    tmp_path: Path, corpus: Corpus, name: str
) -> None:
    (tmp_path / name).write_text("a/0 1 0.1 0.2 hi 0.9\n0 A 0.5 0.25 there\na/1.wav 1 0 1 yes\n")
    labels = load(tmp_path / name, corpus, tier="words")
    assert plain(labels, "a/0.wav") == [(0.1, 0.3, "hi"), (0.5, 0.75, "there")]
    assert labels.missing == ("a/2.wav",)
    with pytest.raises(ProbeError, match=f"{name}: types = 'word': a CTM file has no second tier"):
        load(tmp_path / name, corpus, types="word")


def test_a_folder_of_rttm_files_is_read_as_one(tmp_path: Path, corpus: Corpus) -> None:
    (tmp_path / "turns" / "deep").mkdir(parents=True)
    for i, place in enumerate(["0.rttm", "deep/1.rttm"]):
        (tmp_path / "turns" / place).write_text(f"SPEAKER {i} 1 0.25 0.5 <NA> <NA> ann <NA> <NA>\n")
    labels = load(tmp_path / "turns", corpus)
    assert plain(labels, "a/0.wav") == plain(labels, "a/1.wav") == [(0.25, 0.75, "ann")]
    (tmp_path / "turns" / "2.TextGrid").write_text(SHORT, encoding="utf-8")
    with pytest.raises(ProbeError, match=r"holds TextGrid files and rttm files; expected one form"):
        load(tmp_path / "turns", corpus)


def test_overlapping_turns_are_only_read_where_labels_are_derived_from_them(
    tmp_path: Path, corpus: Corpus
) -> None:
    path = tmp_path / "turns.rttm"
    path.write_text(
        "SPEAKER 0 1 0.2 0.4 <NA> <NA> ann <NA> <NA>\nSPEAKER 0 1 0.5 0.3 <NA> <NA> bob <NA> <NA>\n"
    )
    with pytest.raises(ProbeError, match=r"line 2: starts at 0.5 s, before .* \(derive\)"):
        load(path, corpus)
    durations_s = {"a/0.wav": 1.0}
    speech = load_intervals(path, corpus, durations_s, derive=speech_and_nonspeech)
    assert plain(speech, "a/0.wav") == [
        (0, 0.2, "nonspeech"),
        (0.2, 0.8, "speech"),
        (0.8, 1, "nonspeech"),
    ]
    with pytest.raises(ProbeError, match=r"line 2: ends at 0.8 s, but its audio lasts 0.700 s"):
        load_intervals(path, corpus, {"a/0.wav": 0.7}, derive=speech_and_nonspeech)


@pytest.fixture
def excerpts(tmp_path: Path) -> Corpus:
    """Three parts of long.wav, and two of the channels of call.wav."""
    parts = [
        ("long.wav", "u1", Excerpt(0, 1)),
        ("long.wav", "u2", Excerpt(1, 2.5)),
        ("long.wav", "u3", Excerpt(2.5)),
        ("call.wav", "left", Excerpt(channel=1)),
        ("call.wav", "right", Excerpt(1, 2, channel=2)),
    ]
    utterances = tuple(
        Utterance(key, str(tmp_path / name), "", "", "", "train", excerpt=excerpt)
        for name, key, excerpt in parts
    )
    return Corpus("corpus", "", utterances, (), tmp_path)


DURATIONS_S = {"u1": 1.0, "u2": 1.5, "u3": 1.0, "left": 3.0, "right": 1.0}


def test_labels_of_a_recording_are_cut_and_shifted_to_each_excerpt(
    tmp_path: Path, excerpts: Corpus
) -> None:
    rows = ("long.wav,0.2,0.8,a", "long.wav,0.8,1.25,b", "long.wav,2,2.5,c", "long.wav,2.7,3,d")
    labels = load_intervals(csv_of(tmp_path, *rows), excerpts, DURATIONS_S)
    assert plain(labels, "u1") == [(0.2, 0.8, "a"), (0.8, 1.0, "b")]
    assert plain(labels, "u2") == [(0, 0.25, "b"), (1.0, 1.5, "c")]
    assert plain(labels, "u3") == [(pytest.approx(0.2), 0.5, "d")]
    assert labels.missing == ("left", "right")
    late = csv_of(tmp_path, "long.wav,2.7,4,d")
    with pytest.raises(ProbeError, match=r"line 2: ends at 4 s, but its audio lasts 3.500 s"):
        load_intervals(late, excerpts, DURATIONS_S)
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "long.TextGrid").write_text(SHORT, encoding="utf-8")
    grids = load_intervals(tmp_path / "grids", excerpts, DURATIONS_S)
    assert plain(grids, "u1") == [(0, 0.25, ""), (0.25, 0.5, "ʃ"), (0.5, 1, "2")]
    assert "u2" in grids.missing


def test_labels_named_by_the_id_of_an_excerpt_are_from_its_start(
    tmp_path: Path, excerpts: Corpus
) -> None:
    labels = load_intervals(csv_of(tmp_path, "u2,0,1.5,x"), excerpts, DURATIONS_S)
    assert plain(labels, "u2") == [(0, 1.5, "x")]
    with pytest.raises(ProbeError, match=r"line 2: ends at 2 s, but its audio lasts 1.500 s"):
        load_intervals(csv_of(tmp_path, "u2,0,2,x"), excerpts, DURATIONS_S)


def test_a_channel_has_the_labels_of_its_channel(tmp_path: Path, excerpts: Corpus) -> None:
    path = tmp_path / "words.ctm"
    path.write_text("call A 0 0.5 hello\ncall B 0.25 1.25 what\ncall 1 2 0.5 bye\n")
    labels = load_intervals(path, excerpts, DURATIONS_S)
    assert plain(labels, "left") == [(0, 0.5, "hello"), (2, 2.5, "bye")]
    assert plain(labels, "right") == [(0, 0.5, "what")]


def test_the_ends_of_an_excerpt_make_no_change_of_speaker(tmp_path: Path, excerpts: Corpus) -> None:
    path = tmp_path / "turns.rttm"
    path.write_text(
        "SPEAKER long 1 0 0.9 <NA> <NA> ann <NA> <NA>\nSPEAKER long 1 1.1 2 <NA> <NA> bob <NA>\n"
    )
    labels = load_intervals(
        path, excerpts, DURATIONS_S, derive=lambda turns: changes(turns, collar_s=0.2)
    )
    assert plain(labels, "u1") == [(0, 0.9, "same"), (0.9, 1, "change")]
    assert plain(labels, "u2") == [(0, 0.3, "change"), (0.3, 1.5, "same")]
    assert plain(labels, "u3") == [(0, 1, "same")]


def test_a_name_that_two_recordings_have_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    (tmp_path / "0.mp3").touch()
    manifest = tmp_path / "corpus.csv"
    manifest.write_text(manifest.read_text() + "\n0.mp3,,s,,train,1\n")
    path = tmp_path / "words.ctm"
    path.write_text("0 1 0 0.5 hello\n")
    two = load_corpus(manifest)
    assert "0.mp3" in load(path, two).spans  # it lies where the name says, seen from the file
    (tmp_path / "labels").mkdir()
    path = path.rename(tmp_path / "labels" / "words.ctm")
    (tmp_path / "0.mp3").rename(tmp_path / "a" / "0.mp3")
    manifest.write_text(manifest.read_text().replace("\n0.mp3", "\na/0.mp3"))
    with pytest.raises(ProbeError, match=r"labels of '0': 2 recordings have this name .*a/0.mp3"):
        load(path, load_corpus(manifest))


def test_several_tiers_of_a_csv_file_are_columns_or_rows(tmp_path: Path, corpus: Corpus) -> None:
    rows = ["a/0.wav,0,0.1,h,hi", "a/0.wav,0.1,0.2,i,hi", "a/0.wav,0.3,0.4,h,hi"]
    rows += ["a/0.wav,0.4,0.5,o,ho", "a/1.wav,0.5,0.6,o,ho"]
    path = csv_of(tmp_path, *rows, header="path,start,end,label,word")
    assert plain(load(path, corpus, tier="word"), "a/0.wav") == [
        (0, 0.2, "hi"),
        (0.3, 0.4, "hi"),
        (0.4, 0.5, "ho"),
    ]
    assert len(load(path, corpus).spans["a/0.wav"].labels) == 4
    with pytest.raises(
        ProbeError, match=r"column words missing; found path.*The task asks for tier = 'words'"
    ):
        load(path, corpus, tier="words")
    rows = ["a/0.wav,0,0.2,hi,words", "a/0.wav,0,0.1,h,phones", "a/0.wav,0.1,0.2,i,phones"]
    path = csv_of(tmp_path, *rows, header="path,start,end,label,tier")
    assert load(path, corpus).spans["a/0.wav"].labels == ("h", "i")
    assert load(path, corpus, tier="words").spans["a/0.wav"].labels == ("hi",)
    with pytest.raises(
        ProbeError, match=r"no rows of tier 'syllables'; the column tier has 'words', 'phones'"
    ):
        load(path, corpus, tier="syllables")
