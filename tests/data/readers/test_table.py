"""Tables of other toolkits: what is read from where, and every refusal with its file and line."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe.data.corpus import Corpus, Utterance, load_corpus, noise_rows
from probe.errors import ProbeError

NEMO = [
    {"audio_filepath": "a.wav", "duration": 1.25, "text": "zero one", "offset": None},
    {"audio_filepath": "b.wav", "duration": 0.1, "text": "two", "offset": 0.2, "label": ["x", "y"]},
    {"audio_filepath": "b.wav", "duration": 1, "text": "three", "offset": 3, "channel": 2},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the audio files a.wav, b.wav and sub/c.wav, which nobody looks inside."""
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "b.wav", "sub/c.wav"):
        (tmp_path / name).write_bytes(b"RIFF")
    return tmp_path


def load(folder: Path, content: str, name: str = "dev.csv") -> Corpus:
    (folder / name).write_text(content, encoding="utf-8")
    return load_corpus(folder / name)


def one(folder: Path, header: str, row: str) -> Utterance:
    return load(folder, f"{header}\n{row}\n").utterances[0]


def part_of(utterance: Utterance) -> tuple[Any, ...]:
    excerpt = utterance.excerpt
    return excerpt.start_s, excerpt.end_s, excerpt.channel, utterance.duration_s


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def refuses(folder: Path, content: str, message: str, name: str = "dev.csv") -> None:
    pattern = "(?m)^" + re.escape(str(folder / name)) + message
    with pytest.raises(ProbeError, match=pattern):
        load(folder, content, name)


# Names of columns


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path,text,speaker,id", "a.wav,hi,s1,u1"),
        ("audio_filepath,transcript,speaker_id,utt_id", "a.wav,hi,s1,u1"),
        ("ID,wav,spk_id,wrd", "u1,a.wav,s1,hi"),
        ("client_id,Path,sentence,id", "s1,a.wav,hi,u1"),
        ("file_name,transcription,spk,utt", "a.wav,hi,s1,u1"),
        ("id,file,normalized_text,speaker", "u1,a.wav,hi,s1"),
    ],
)
def test_columns_are_known_under_the_names_of_toolkits(folder: Path, header: str, row: str) -> None:
    item = one(folder, header, row)
    assert (item.key, item.path, item.text, item.speaker) == ("u1", folder / "a.wav", "hi", "s1")


def test_a_second_column_of_one_meaning_is_a_label(folder: Path) -> None:
    item = one(folder, "file,path,normalized_text,text", "x.wav,a.wav,five,5")
    assert (item.path, item.text) == (folder / "a.wav", "5")
    assert (item.label("file"), item.label("normalized_text")) == ("x.wav", "five")


@pytest.mark.parametrize(
    ("header", "cells", "part"),
    [
        ("start,end", "0.5,2", (0.5, 2.0, None, 1.5)),
        ("start,end,channel", "0.5,,B", (0.5, None, 2, None)),
        ("begin,stop", "1,2.25", (1.0, 2.25, None, 1.25)),
        ("from,to", "0,3", (0.0, 3.0, None, 3.0)),
        ("onset_s,offset,duration_s", "1.5,1.5,0.25", (1.5, 1.75, None, 0.25)),
        ("segment_start_ms,segmentEndMs", "500,1500", (0.5, 1.5, None, 1.0)),
        ("startTime,utt-end", "0,1e-1", (0.0, 0.1, None, 0.1)),
        ("offset,duration", "0.1,0.2", (0.1, 0.3, None, 0.2)),
        ("offset,duration_ms", "0,1000", (0.0, 1.0, None, 1.0)),
        ("duration", "1.0", (0.0, None, None, 1.0)),
        ("dur_ms", "1500", (0.0, None, None, 1.5)),
        ("start,end,duration", "1,2,10", (1.0, 2.0, None, 1.0)),
        ("channel", "2.0", (0.0, None, 2, None)),
        ("ch", "1.", (0.0, None, 1, None)),
        ("ch", "left", (0.0, None, 1, None)),
        ("start,offset", "1,1.0", (1.0, None, None, None)),
    ],
)
def test_times_and_channels_are_used_whatever_their_columns_are_called(
    folder: Path, header: str, cells: str, part: tuple[Any, ...]
) -> None:
    assert part_of(one(folder, f"path,{header}", f"a.wav,{cells}")) == part


@pytest.mark.parametrize(
    ("header", "cells", "message"),
    [
        ("start", "0:01:02.5", "start '0:01:02.5'; expected seconds such as 3.25"),
        ("begin", "0:01:02.5", "begin '0:01:02.5'; expected seconds .* label_begin"),
        ("stop", "1.5s", "stop '1.5s'; expected seconds"),
        ("start,end", "2,1", "end 1 is not after start 2"),
        ("channel", "0", "channel '0'; expected a number counted from 1"),
        ("start,offset", "1,2", "start '1' and offset '2' contradict each other as start. Remove"),
        ("duration,duration_s", "1,2", "duration '1' and duration_s '2' contradict each other"),
        (
            "start,stop,duration",
            "16000,48000,2.0",
            "duration 2.0 is neither that of the part from 16000 to 48000 .* in samples?",
        ),
    ],
)
def test_a_time_or_channel_that_cannot_be_used_is_refused_with_its_line(
    folder: Path, header: str, cells: str, message: str
) -> None:
    pattern = " line 3: " + re.escape(message).replace(r"\.\*", ".*").replace(r"\ ", " ")
    refuses(
        folder, f"path,id,{header}\nb.wav,u1,{',' * header.count(',')}\na.wav,u2,{cells}\n", pattern
    )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("gain_db", "-3"),
        ("speed", "1.1"),
        ("channels", "[0, 1]"),
        ("channels", "2"),
        ("start_sample", "16000"),
        ("start_frame", "100"),
        ("trim_end", "0.5"),
    ],
)
def test_a_column_that_would_change_what_is_heard_and_is_not_used_is_refused_by_name(
    folder: Path, column: str, value: str
) -> None:
    content = f'path,split,{column}\na.wav,train,\nb.wav,train,"{value}"\n'
    message = (
        rf" line 3: column {column} names .*\({re.escape(repr(value))}\), in 1 of 2 rows; "
        rf"layerprobe reads .*\. If the column is a label, rename it to label_{column}"
    )
    refuses(folder, content, message)
    with pytest.raises(ProbeError, match=message):
        noise_rows(folder / "dev.csv")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("from", "London"),
        ("speed", "fast"),
        ("ch", "far"),
        ("num_channels", "2"),
        ("sampling_rate", "16000"),
        ("label_start", "0.5"),
        ("age", "30"),
        ("word_start", "3"),
    ],
)
def test_a_column_that_promises_nothing_is_a_label(folder: Path, column: str, value: str) -> None:
    corpus = load(folder, f"path,{column}\na.wav,{value}\n")
    assert corpus.utterances[0].label(column) == value
    assert corpus.further_columns == (column,)


# Text


@pytest.mark.parametrize(
    ("separator", "name"), [("\t", "dev.tsv"), ("|", "dev.csv"), (";", "dev.csv")]
)
def test_tabs_bars_and_semicolons_separate_columns_too(
    folder: Path, separator: str, name: str
) -> None:
    rows = ["path,text", 'a.wav,"he said, ""go"""', "b.wav,one"]
    content = "\n".join(row.replace(",", separator, 1) for row in rows)
    assert [item.text for item in load(folder, content, name).utterances] == [
        'he said, "go"',
        "one",
    ]


def test_quotes_of_common_voice_are_characters_of_texts(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    texts = ['"Go" he said.', 'She said "go', '"unclosed', "plain"]
    rows = [f"a.wav\tu{number}\t{text}\n" for number, text in enumerate(texts)]
    corpus = load(folder, "path\tid\tsentence\n" + "".join(rows), "dev.tsv")
    assert [item.text for item in corpus.utterances] == texts
    assert "double quotes are characters of texts" in caplog.text


def test_a_tab_in_a_text_is_refused_with_its_line(folder: Path) -> None:
    content = "path\ttext\na.wav\tone\nb.wav\ttwo\tthree\n"
    message = " line 3: 3 fields; the header has 2. Put text that contains tabs in double quotes"
    refuses(folder, content, message, "dev.tsv")


def test_common_voice_is_read_with_the_splits_of_its_tables(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "en" / "clips").mkdir(parents=True)
    for number, name in enumerate(("train", "dev", "test")):
        (tmp_path / "en" / "clips" / f"cv_{number}.mp3").touch()
        (tmp_path / "en" / f"{name}.tsv").write_text(
            "client_id\tpath\tsentence\tup_votes\tage\taccents\n"
            f"5a{number}\tcv_{number}.mp3\tA man, {number}.\t2\ttwenties\t\n"
        )
    for source in (f"csv:{tmp_path}/en", f"{tmp_path}/en"):
        corpus = load_corpus(f"{source}#train,dev=dev.tsv,test")
        assert corpus.name == "en-train+dev+test"
        assert [item.split for item in corpus.utterances] == ["train", "dev", "test"]
        assert corpus.utterances[1].path == tmp_path / "en" / "clips" / "cv_1.mp3"
        assert corpus.utterances[1].text == "A man, 1."
        assert corpus.utterances[1].label("age") == "twenties"
    single = load_corpus(tmp_path / "en" / "test.tsv")
    assert (single.name, single.utterances[0].path) == ("test", corpus.utterances[2].path)
    with pytest.raises(ProbeError, match=r"en is a folder; found dev.tsv, .* Write which of them"):
        load_corpus(f"csv:{tmp_path}/en")
    with pytest.raises(ProbeError, match=r"validated not found in .*; found dev.tsv, test.tsv"):
        load_corpus(f"csv:{tmp_path}/en#validated")


def test_a_recording_in_two_tables_is_named_with_both(folder: Path) -> None:
    for name in ("train", "test"):
        (folder / f"{name}.csv").write_text("path,id\na.wav," + name)
    message = rf"test.csv line 2: a.wav is in split 'test' here and in 'train' on {folder}/train"
    with pytest.raises(ProbeError, match=message):
        load_corpus(f"csv:{folder}#train,test")


def test_other_words_for_splits_are_read_and_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    corpus = load(folder, "path,split\na.wav,valid\nb.wav,evaluation\nsub/c.wav,train\n")
    assert [item.split for item in corpus.utterances] == ["dev", "test", "train"]
    assert "valid as dev, evaluation as test" in caplog.text


def test_words_for_splits_may_be_in_capitals(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    corpus = load(folder, "path,split\na.wav,TRAIN\nb.wav,Validation\n")
    assert [item.split for item in corpus.utterances] == ["train", "dev"]
    assert "TRAIN as train, Validation as dev" in caplog.text
    refuses(folder, "path,split\na.wav,x\n", " line 2: split 'x'; .* noise, training, tr, valid, ")


def test_empty_lines_before_the_header_are_passed_over(folder: Path) -> None:
    header = "\n \n,,\npath,text,channel\n"
    corpus = load(folder, f"{header}a.wav,one,1.0\n\nb.wav,two,\n")
    assert [(item.text, item.where) for item in corpus.utterances] == [
        ("one", f"{folder / 'dev.csv'} line 5"),
        ("two", f"{folder / 'dev.csv'} line 7"),
    ]
    assert corpus.utterances[0].excerpt.channel == 1
    refuses(folder, f"{header}a.wav,one\n", " line 5: 2 fields; the header has 3")
    refuses(folder, "\n\ntext,x\na,b\n", " line 3: no column of paths; found text, x")
    refuses(folder, "\n\npath,path\na,b\n", " line 3: column path occurs twice")


@pytest.mark.parametrize("comment", ["# made by hand", "# made by hand, in May", "#path\ttext"])
def test_a_comment_in_place_of_the_header_is_called_one(folder: Path, comment: str) -> None:
    message = f" line 2: {re.escape(repr(comment))} is a comment; expected the names of the columns"
    refuses(folder, f"\n{comment}\npath,text\na.wav,one\n", message)
    assert one(folder, "#,path", "0,a.wav").label("#") == "0"


def test_a_split_that_contradicts_the_one_named_for_its_table_is_refused(folder: Path) -> None:
    (folder / "x.csv").write_text("path,split\na.wav,train\nb.wav,\n")
    with pytest.raises(ProbeError, match=r"line 2: split 'train', but the corpus was named with t"):
        load_corpus(f"csv:{folder}#test=x")


def test_ljspeech_is_read_without_a_header(folder: Path) -> None:
    (folder / "wavs").mkdir()
    for name in ("LJ001-0001", "LJ001-0002"):
        (folder / "wavs" / f"{name}.wav").touch()
    rows = ["LJ001-0001|Printing, in 1 sense|Printing, in one sense\n", 'LJ001-0002|"the|"the\n']
    corpus = load(folder, "".join(rows), "metadata.csv")
    first, second = corpus.utterances
    assert (first.key, first.text) == ("LJ001-0001", "Printing, in one sense")
    assert first.label("raw_text") == "Printing, in 1 sense"
    assert (second.path, second.text) == (folder / "wavs" / "LJ001-0002.wav", '"the')
    assert load_corpus(folder).sha256 == corpus.sha256
    assert corpus.name == load_corpus(folder).name == folder.name
    refuses(
        folder,
        rows[0] + "LJ001-0002|a|b|c\n",
        " line 2: 4 fields between vertical bars",
        "metadata.csv",
    )


# JSON


def test_manifests_of_nemo_are_read(folder: Path) -> None:
    for name in ("dev.jsonl", "dev.json"):
        corpus = load(folder, "\ufeff" + lines(NEMO).replace("\n", "\r\n"), name)
        first, second, third = corpus.utterances
        assert (first.key, first.text, part_of(first)) == (
            "a.wav",
            "zero one",
            (0.0, None, None, 1.25),
        )
        assert part_of(second) == (0.2, 0.3, None, 0.1)
        assert second.label("label") == "x;y"
        assert part_of(third) == (3.0, 4.0, 2, 1.0)
        assert len({item.key for item in corpus.utterances}) == 3


def test_a_list_of_objects_is_read_as_lines_are(folder: Path) -> None:
    of_lines = load(folder, lines(NEMO), "dev.jsonl").utterances
    for text in (json.dumps(NEMO), json.dumps(NEMO, indent=2)):
        assert load(folder, text, "dev.json").utterances == of_lines


def test_manifests_of_speechbrain_are_read_and_data_root_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {
        "u1": {"wav": "{data_root}/a.wav", "spk_id": "s1", "wrd": "HI", "duration": 1.5},
        "u2": {"wav": "{data_root}/sub/c.wav", "spk_id": "s2", "wrd": "HO", "duration": 2.0},
    }
    header = "ID,duration,wav,spk_id,wrd\n"
    rows = [
        f"{key},{r['duration']},{r['wav']},{r['spk_id']},{r['wrd']}\n" for key, r in records.items()
    ]
    as_csv = (header + "".join(rows)).replace("{data_root}", "$data_root")
    found = [
        load(folder, json.dumps(records), "a.json").utterances,
        load(folder, json.dumps(records, indent=1), "a.json").utterances,
        load(folder, as_csv).utterances,
    ]
    assert found[0] == found[1] == found[2]
    second = found[0][1]
    assert (second.key, second.path, second.text) == ("u2", folder / "sub" / "c.wav", "HO")
    assert (second.speaker, second.duration_s) == ("s2", 2.0)
    manifests = folder / "manifests"
    manifests.mkdir()
    monkeypatch.setenv("DATA_ROOT", str(folder))
    assert load(manifests, as_csv).utterances[1].path == folder / "sub" / "c.wav"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"path": "a.wav"}\n{"path": "b.wav"\n', " line 2: not JSON .*; expected an object"),
        ('{"path": "a.wav"\n{"path": "b.wav"}\n', " line 1: not JSON"),
        ('{\n "u1": {"wav": "a.wav"},\n "u2": {"wav" "b.wav"}\n}\n', " line 3: not JSON"),
        ('{"path": "a.wav"}\n[1]\n', r" line 2: '\[1\]' is no object; expected"),
        ('{"path": "a.wav", "path": "b.wav"}\n', " line 1: 'path' occurs twice"),
        ('{"u1": {"wav": "a.wav"}, "u1": {"wav": "b.wav"}}', ".*: 'u1' occurs twice"),
        ('{"path": "a.wav"}\n\n{"path": "a.wav"}\n', " line 3: id 'a.wav' occurs on line 1"),
        ('{"path": "a.wav"}\n{"path": "gone.wav"}\n', " line 2: .*gone.wav does not exist"),
        ('{"audio_filepath": ["a.wav", "b.wav"]}\n', " line 1: audio_filepath is a.wav;b.wav; exp"),
        (
            '{"u1": {"wave": {"file": "a.wav", "start": 0, "stop": 8000}, "wrd": "x"}}',
            r" entry 1: wave is the object .*; expected the path .* samples divided by the",
        ),
        ('[{"text": "x"}]', ": no column of paths; found text; expected path"),
        ('[{"path": "a.wav", "split": "x"}]', " entry 1: split 'x'; expected one of train"),
        ("[1, 2]", " entry 1: '1' is no object"),
        ('{"path": "a\\u0000.wav"}\n', " line 1: .* does not exist"),
    ],
)
def test_damaged_json_is_refused_with_its_line(folder: Path, content: str, message: str) -> None:
    (folder / "dev.jsonl").write_text(content)
    with pytest.raises(ProbeError, match="(?m)^" + re.escape(str(folder / "dev.jsonl")) + message):
        load_corpus(f"jsonl:{folder / 'dev.jsonl'}")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_json_in_another_encoding_is_refused(folder: Path, encoding: str) -> None:
    text = '{"path": "a.wav", "text": "größe"}\n'
    (folder / "dev.jsonl").write_bytes(text.encode(encoding))
    with pytest.raises(ProbeError, match=r"dev.jsonl line 1: byte 0x.. is not UTF-8. Save the"):
        load_corpus(f"jsonl:{folder / 'dev.jsonl'}")


def test_a_text_without_a_utf_8_form_is_refused_with_its_line(folder: Path) -> None:
    text = '{"path": "a.wav", "text": "x"}\n{"path": "b.wav", "text": "half \\ud800"}\n'
    with pytest.raises(ProbeError, match=r"line 2: text 'half \\ud800' is not UTF-8\. Rename"):
        load(folder, text, "dev.jsonl")


def test_a_manifest_of_lhotse_is_not_taken_for_a_table(folder: Path) -> None:
    cut = {"id": "c1", "start": 0, "recording": {"id": "r", "sources": [{"source": "a.wav"}]}}
    with pytest.raises(ProbeError, match=r"cuts\.jsonl: .*lhotse"):
        load(folder, json.dumps(cut) + "\n", "cuts.jsonl")


# DataFrames and Parquet


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": ["a.wav", "b.wav", "b.wav"],
            "speaker": [1, 2, 2],
            "start": [None, 0.5, 2.0],
            "end": [None, 1.5, 2.5],
            "channel": [None, 1, 1],
            "is_child": [True, False, False],
            "split": ["train", "dev", "dev"],
        },
        index=[7, 7, 9],
    )


def check_frame(corpus: Corpus, folder: Path) -> None:
    first, second, third = corpus.utterances
    assert (first.path, first.speaker, part_of(first)) == (
        folder / "a.wav",
        "1",
        (0.0, None, None, None),
    )
    assert part_of(second) == (0.5, 1.5, 1, 1.0)
    assert third.label("is_child") == "false"


def test_a_dataframe_is_a_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_root = load_corpus(frame(), folder)
    check_frame(by_root, folder)
    assert by_root.name == "dataframe"
    assert by_root.sha256 != load_corpus(frame().head(2), folder).sha256
    monkeypatch.chdir(folder)
    check_frame(load_corpus(frame()), Path())
    with pytest.raises(ProbeError, match=r"DataFrame row 2: split 'x'; expected one of"):
        load_corpus(frame().assign(split=["train", "x", "dev"]), folder)
    with pytest.raises(ProbeError, match=r"DataFrame: no column of paths; found speaker"):
        load_corpus(frame().drop(columns="path"), folder)


def test_a_dataframe_has_the_name_that_it_is_given(folder: Path) -> None:
    assert load_corpus(frame(), folder, name="mine").name == "mine"
    (folder / "dev.csv").write_text("path\na.wav\n")
    with pytest.raises(ProbeError, match=r"name='mine' is for DataFrames; .* Leave it out"):
        load_corpus(folder / "dev.csv", name="mine")


@pytest.mark.parametrize("source", [[{"path": "a.wav"}], {"path": ["a.wav"]}, None])
def test_another_type_than_a_path_or_a_dataframe_is_refused(source: Any) -> None:
    name = type(source).__name__
    with pytest.raises(ProbeError, match=rf"a {name} is no corpus; expected a path, .*DataFrame"):
        load_corpus(source)


@pytest.mark.parametrize("kind", ["float32", "float16", "Float32"])
def test_times_of_few_bits_are_their_shortest_decimals(folder: Path, kind: str) -> None:
    times = pd.DataFrame({"start": [0.1, None], "end": [1.7, 2.0]}).astype(kind)
    corpus = load_corpus(times.assign(path=["a.wav", "b.wav"]), folder)
    assert [item.key for item in corpus.utterances] == ["a.wav#t=0.1,1.7", "b.wav#t=0.0,2.0"]


def test_parquet_is_read_as_a_dataframe_is(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    frame().to_parquet(folder / "dev.parquet")
    check_frame(load_corpus(folder / "dev.parquet"), folder)
    (folder / "bad.parquet").write_bytes(b"PAR1" + bytes(20))
    with pytest.raises(ProbeError, match=r"bad.parquet: not readable as Parquet"):
        load_corpus(folder / "bad.parquet")
    pd.DataFrame({"audio": [{"bytes": b"RIFF", "path": "a.wav"}]}).to_parquet(folder / "hf.parquet")
    with pytest.raises(ProbeError, match=r"hf.parquet: column audio holds audio itself"):
        load_corpus(folder / "hf.parquet")


def test_parquet_without_its_library_names_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: Path) -> None:
        raise ImportError

    monkeypatch.setattr(pd, "read_parquet", missing)
    (folder / "dev.parquet").write_bytes(b"PAR1")
    with pytest.raises(ProbeError, match=r"pip install layerprobe\[parquet\]"):
        load_corpus(folder / "dev.parquet")
