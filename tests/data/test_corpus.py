"""Manifests: what is read, and every refusal with its file, line and remedy."""

import csv
import hashlib
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from probe.data.corpus import COLUMNS, Corpus, load_corpus, read_corpus
from probe.errors import ProbeError

HEADER = ",".join(COLUMNS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the audio files a.wav ... d.wav and sub/e.wav; a manifest does not look inside
    them.
    """
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "b.wav", "c.wav", "d.wav", "sub/e.wav"):
        (tmp_path / name).write_bytes(b"RIFF")
    return tmp_path


def load(folder: Path, *rows: str, header: str = HEADER) -> Corpus:
    manifest = folder / "dev.csv"
    manifest.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return load_corpus(manifest)


def at(folder: Path, line: int, message: str) -> str:
    """A pattern for a message that begins with the manifest's name and the line."""
    return "(?m)^" + re.escape(f"{folder / 'dev.csv'} line {line}: ") + message


def test_a_row_becomes_an_utterance(folder: Path) -> None:
    corpus = load(folder, "a.wav,zero one,s1,phone,train,1.25", "sub/e.wav,,,,test,")
    first, second = corpus.utterances
    assert (first.key, first.text, first.speaker, first.domain, first.split) == (
        "a.wav",
        "zero one",
        "s1",
        "phone",
        "train",
    )
    assert (first.path, first.duration_s) == (folder / "a.wav", 1.25)
    assert (second.text, second.speaker, second.domain, second.duration_s) == ("", "", "", None)
    assert corpus.name == "dev"


def test_paths_are_relative_to_the_manifest_and_not_to_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder, "sub/e.wav,,s1,,train,")
    monkeypatch.chdir(folder / "sub")
    assert load_corpus("../dev.csv").utterances[0].path.resolve() == folder / "sub" / "e.wav"


def test_an_absolute_path_is_taken_as_it_is(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.wav"
    elsewhere.touch()
    assert load(folder, f"{elsewhere},,s1,,train,").utterances[0].path == elsewhere


def test_the_id_column_names_utterances_and_the_path_does_where_it_is_empty(folder: Path) -> None:
    corpus = load(folder, "u1,a.wav,,,,train,", ",./sub/../b.wav,,,,train,", header=f"id,{HEADER}")
    assert [item.key for item in corpus.utterances] == ["u1", "b.wav"]
    assert corpus.columns == ("text", "speaker", "domain", "split")


def test_two_segments_of_a_file_are_told_apart_by_the_id_column(folder: Path) -> None:
    corpus = load(folder, "u1,a.wav,,,,train,", "u2,a.wav,,,,train,", header=f"id,{HEADER}")
    assert [item.key for item in corpus.utterances] == ["u1", "u2"]


def test_further_columns_are_labels(folder: Path) -> None:
    corpus = load(folder, "a.wav,hi,s1,phone,train,1,Ireland,f", header=f"{HEADER},accent,sex")
    utterance = corpus.utterances[0]
    labels = {
        name: utterance.label(name)
        for name in ("text", "speaker", "domain", "split", "accent", "sex")
    }
    assert labels == {
        "text": "hi",
        "speaker": "s1",
        "domain": "phone",
        "split": "train",
        "accent": "Ireland",
        "sex": "f",
    }
    assert utterance.label("nowhere") == ""
    assert corpus.columns == ("text", "speaker", "domain", "split", "accent", "sex")


def test_columns_may_come_in_any_order(folder: Path) -> None:
    utterance = load(
        folder, "dev,2.5,s9,word,clean,c.wav", header="split,duration_s,speaker,text,domain,path"
    ).utterances[0]
    assert (utterance.split, utterance.duration_s, utterance.speaker, utterance.path) == (
        "dev",
        2.5,
        "s9",
        folder / "c.wav",
    )


def test_commas_quotes_and_newlines_inside_double_quotes_are_text(folder: Path) -> None:
    corpus = load(folder, 'a.wav,"one, ""two""\nthree",s1,,train,', "b.wav,four,s1,,train,")
    assert [item.text for item in corpus.utterances] == ['one, "two"\nthree', "four"]


def test_a_transcript_may_be_longer_than_the_fields_that_csv_reads_by_itself(folder: Path) -> None:
    limit = csv.field_size_limit()
    text = "word " * 60_000
    assert load(folder, f'a.wav,"{text}",s1,,train,').utterances[0].text == text
    assert csv.field_size_limit() == limit, "the process is left as it was"


def test_line_numbers_are_those_of_the_file_where_rows_have_newlines_or_blank_lines_between_them(
    folder: Path,
) -> None:
    with pytest.raises(ProbeError, match=at(folder, 6, "split 'tain'")):
        load(folder, 'a.wav,"one\ntwo\nthree",s1,,train,', "", 'b.wav,"x\ny",s1,,tain,')


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_line_ends_of_other_systems_are_read(folder: Path, newline: str) -> None:
    manifest = folder / "dev.csv"
    manifest.write_bytes(newline.join([HEADER, "a.wav,x,s1,,train,", "b.wav,y,s1,,test,"]).encode())
    assert [item.text for item in load_corpus(manifest).utterances] == ["x", "y"]


def test_a_byte_order_mark_and_spaces_in_the_header_are_no_part_of_a_name(folder: Path) -> None:
    manifest = folder / "dev.csv"
    manifest.write_text(f"{HEADER.replace(',', ', ')}\na.wav,x,s1,,train,\n", encoding="utf-8-sig")
    assert load_corpus(manifest).utterances[0].key == "a.wav"


def test_text_outside_ascii_is_read_as_utf8(folder: Path) -> None:
    assert load(folder, "a.wav,größe 零,Ødegård,,train,").utterances[0].text == "größe 零"


def test_noise_rows_are_checked_and_left_out(folder: Path) -> None:
    corpus = load(folder, "a.wav,,s1,,train,", "b.wav,,,,noise,")
    assert [item.split for item in corpus.utterances] == ["train"]
    with pytest.raises(ProbeError, match=at(folder, 3, ".*gone.wav does not exist")):
        load(folder, "a.wav,,s1,,train,", "gone.wav,,,,noise,")


def test_the_sha256_is_the_one_of_the_manifest(folder: Path) -> None:
    corpus = load(folder, "a.wav,,s1,,train,")
    assert corpus.sha256 == hashlib.sha256((folder / "dev.csv").read_bytes()).hexdigest()
    assert load(folder, "a.wav,,s2,,train,").sha256 != corpus.sha256


# Refusals


def test_a_repeated_path_is_refused_as_a_duplicate_id(folder: Path) -> None:
    message = (
        r"id 'a.wav' occurs on line 2 already\. Remove one row, or distinguish them in a column id"
    )
    with pytest.raises(ProbeError, match=at(folder, 4, message)):
        load(folder, "a.wav,,s1,,train,", "b.wav,,s1,,train,", "sub/../a.wav,,s1,,train,")


def test_a_repeated_id_is_refused(folder: Path) -> None:
    with pytest.raises(ProbeError, match=at(folder, 3, "id 'u1' occurs on line 2 already")):
        load(folder, "u1,a.wav,,s1,,train,", "u1,b.wav,,s1,,train,", header=f"id,{HEADER}")


def test_a_missing_audio_file_is_refused(folder: Path) -> None:
    message = re.escape(
        f"{folder / 'gone.wav'} does not exist; paths are relative to the manifest. "
        f"Correct it or remove the row."
    )
    with pytest.raises(ProbeError, match=at(folder, 3, message)):
        load(folder, "a.wav,,s1,,train,", "gone.wav,,s1,,train,")


def test_text_in_the_path_column_is_a_missing_file_however_long_it_is(folder: Path) -> None:
    with pytest.raises(ProbeError, match=at(folder, 2, ".* does not exist")):
        load(folder, f"{'long ' * 200},,s1,,train,")


@pytest.mark.parametrize(
    "disguise", ["a.wav", "sub/../a.wav", "{folder}/a.wav", "link.wav", "folder-link/a.wav"]
)
def test_the_same_file_in_two_splits_is_refused_whatever_its_path_looks_like(
    folder: Path, disguise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "link.wav").symlink_to(folder / "a.wav")
    (folder / "folder-link").symlink_to(folder)
    path = disguise.format(folder=folder)
    rows = ["u1,a.wav,,s1,,train,", f"u2,{path},,s1,,test,"]
    message = re.escape(
        f"{path} is in split 'test' here and in 'train' on line 2. A recording may be in "
        f"one split only"
    )
    with pytest.raises(ProbeError, match=at(folder, 3, message + ".*remove one of the rows")):
        load(folder, *rows, header=f"id,{HEADER}")
    monkeypatch.chdir(folder)
    with pytest.raises(
        ProbeError, match=r"dev\.csv line 3: .*is in split 'test' here and in 'train' on line 2"
    ):
        load_corpus("dev.csv")


@pytest.mark.parametrize("split", ["vaild", "train "])
def test_an_unknown_split_is_refused(folder: Path, split: str) -> None:
    with pytest.raises(
        ProbeError,
        match=at(folder, 2, f"split '{split}'; expected one of train, dev, test, noise, "),
    ):
        load(folder, f"a.wav,,s1,,{split},")


def test_an_empty_path_is_refused(folder: Path) -> None:
    with pytest.raises(
        ProbeError, match=at(folder, 3, r"path is empty\. Name an audio file or remove the row")
    ):
        load(folder, "a.wav,,s1,,train,", " ,,s1,,train,")


@pytest.mark.parametrize("duration", ["0", "-1", "nan", "inf", "1:30", "3,5", "3.5 s"])
def test_a_bad_duration_is_refused(folder: Path, duration: str) -> None:
    message = re.escape(
        f"duration_s {duration!r}; expected seconds such as 3.25, or nothing where unknown"
    )
    with pytest.raises(ProbeError, match=at(folder, 2, message)):
        load(folder, f'a.wav,,s1,,train,"{duration}"')


def test_only_the_column_of_paths_is_compulsory(folder: Path) -> None:
    utterance = load(folder, "a.wav", header="path").utterances[0]
    assert (utterance.key, utterance.path) == ("a.wav", folder / "a.wav")
    assert (utterance.text, utterance.speaker, utterance.split) == ("", "", "")
    message = r"no column of paths; found text, words; expected path \(or one of audio_filepath"
    with pytest.raises(ProbeError, match=at(folder, 1, message)):
        load(folder, "x,x", header="text,words")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d",
            "a Git LFS pointer; expected a CSV table. Run `git lfs pull`",
        ),
        (
            b"\n<!DOCTYPE html><html>",
            "a web page (HTML); expected a CSV table. Fetch the file itself",
        ),
        (b"\x1f\x8b\x08\x00", "compressed by gzip; expected a CSV table. Unpack it with gunzip"),
        (
            b"PK\x03\x04",
            "a ZIP archive or an Excel workbook; expected a CSV table. Unpack the "
            "archive, or save the sheet as CSV",
        ),
    ],
)
def test_a_manifest_that_is_something_else_is_called_what_it_is(
    folder: Path, content: bytes, message: str
) -> None:
    (folder / "dev.csv").write_bytes(content)
    with pytest.raises(ProbeError, match=re.escape(f"dev.csv: the file is {message}")):
        load_corpus(folder / "dev.csv")


def test_a_column_that_stands_there_twice_is_refused(folder: Path) -> None:
    with pytest.raises(ProbeError, match=at(folder, 1, r"column text occurs twice\. Rename one")):
        load(folder, "a.wav,,s1,,train,,", header=f"{HEADER},text")


@pytest.mark.parametrize(("row", "n_fields"), [("a.wav,one, two,s1,,train,", 7), ("a.wav,one", 2)])
def test_a_ragged_row_is_refused(folder: Path, row: str, n_fields: int) -> None:
    message = (
        rf"{n_fields} fields; the header has 6\. Put text that contains commas in double quotes"
    )
    with pytest.raises(ProbeError, match=at(folder, 3, message)):
        load(folder, "b.wav,,s1,,train,", row)


def test_quotes_that_swallow_rows_are_refused_and_texts_of_several_lines_are_not(
    folder: Path,
) -> None:
    opened, closed = 'a.wav,"he said,s1,,train,', 'c.wav,goodbye",s1,,train,'
    for between in ((), ("b.wav,so,s1,,train,",)):
        with pytest.raises(
            ProbeError,
            match=at(folder, 2, "a quoted field continues to the row '[bc].wav,.*Close it"),
        ):
            load(folder, opened, *between, closed)
    header = "path,speaker,domain,split,duration_s,text"
    with pytest.raises(
        ProbeError, match=at(folder, 3, "a quoted field continues to the row 'b.wav,s1,,train,,so'")
    ):
        load(
            folder,
            "d.wav,s1,,train,,x",
            'a.wav,s1,,train,,"he said',
            "b.wav,s1,,train,,so",
            'c.wav,s1,,train,,goodbye"',
            header=header,
        )
    several = load(
        folder, 'a.wav,"one, two, three,\nfour, five, six, seven, eight, nine",s1,,train,'
    )
    assert several.utterances[0].text.count("\n") == 1


def test_a_quote_that_is_never_closed_is_refused_where_it_opens(folder: Path) -> None:
    with pytest.raises(
        ProbeError, match=at(folder, 3, r"not readable as CSV .*\. Check the double quotes")
    ):
        load(folder, "b.wav,,s1,,train,", 'a.wav,"one,s1,,train,', "c.wav,,s1,,train,")


def test_another_encoding_is_refused_with_its_line(folder: Path) -> None:
    manifest = folder / "dev.csv"
    manifest.write_bytes(
        f"{HEADER}\na.wav,x,s1,,train,\nb.wav,größe,s1,,train,\n".encode("latin-1")
    )
    with pytest.raises(
        ProbeError, match=at(folder, 3, r"byte 0xf6 is not UTF-8\. Save the file as UTF-8")
    ):
        load_corpus(manifest)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_refused_whether_or_not_it_has_a_mark(folder: Path, encoding: str) -> None:
    manifest = folder / "dev.csv"
    manifest.write_bytes(f"{HEADER}\na.wav,x,s1,,train,\n".encode(encoding))
    with pytest.raises(
        ProbeError,
        match=at(folder, 1, r"(byte 0x.. is not UTF-8|a NUL character; .*UTF-16\)\?).* as UTF-8"),
    ):
        load_corpus(manifest)


def test_an_empty_manifest_is_refused(folder: Path) -> None:
    (folder / "dev.csv").touch()
    with pytest.raises(ProbeError, match=at(folder, 1, "no column of paths; found an empty file")):
        load_corpus(folder / "dev.csv")


def test_a_manifest_without_rows_is_refused(folder: Path) -> None:
    with pytest.raises(ProbeError, match=r"dev\.csv: no rows; expected one for each utterance"):
        load(folder)
    with pytest.raises(ProbeError, match=r"dev\.csv: no rows; expected one for each utterance"):
        read_corpus(folder / "dev.csv")


def test_a_manifest_without_speech_is_refused(folder: Path) -> None:
    with pytest.raises(
        ProbeError, match=r"dev\.csv: no utterances; expected rows of another split than noise"
    ):
        load(folder, "b.wav,,,,noise,")


def test_a_manifest_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(
        ProbeError, match=r"gone\.csv: does not exist; expected a manifest or a folder of a corpus"
    ):
        load_corpus(folder / "gone.csv")


def test_a_folder_of_no_clear_form_is_refused_with_the_forms(folder: Path) -> None:
    (folder / "unclear").mkdir()
    (folder / "unclear" / "notes.txt").touch()
    with pytest.raises(ProbeError, match=r"its form is not clear\. Write one of .*librispeech"):
        load_corpus(folder / "unclear")


def test_an_empty_folder_is_said_to_be_empty(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ProbeError, match=r"empty: the folder is empty; expected a manifest"):
        load_corpus(folder / "empty")


def test_all_problems_come_at_once_up_to_eight_of_them(folder: Path) -> None:
    with pytest.raises(ProbeError) as caught:
        load(folder, "a.wav,,s1,,train,", *(f"gone{i}.wav,,s1,,tset,x" for i in range(3)))
    lines = str(caught.value).splitlines()
    assert len(lines) == 9
    assert [
        re.search(r"line (\d+): (split|duration_s|\S+ does not)", line)[1] for line in lines[:8]
    ] == list("33344455")  # type: ignore[index]
    assert lines[8] == "... and 1 more problems"


def test_problems_of_one_cause_are_one_line_with_their_count(folder: Path) -> None:
    header = f"id,{HEADER},channel"
    rows = [f"u{i}, a{i}.wav,,it's s{i},,train,,0" for i in range(20)]
    with pytest.raises(ProbeError) as caught:
        load(folder, *rows, "u20,a.wav,,s,,x,,", header=header)
    lines = [line.removeprefix(f"{folder / 'dev.csv'} ") for line in str(caught.value).splitlines()]
    assert [re.sub(r"[:;,.].*?( \(|$)", r"\1", line) for line in lines] == [
        "line 2 (19 more like this)",
        "line 2 (19 more like this)",
        "line 22",
    ]
    assert "channel '0'; expected a number counted from 1" in lines[0]
    assert "a0.wav does not exist" in lines[1]
    assert "split 'x'" in lines[2]


def test_a_doubled_id_is_laid_to_the_column_of_ids_only_where_there_is_one(folder: Path) -> None:
    with pytest.raises(ProbeError, match=r"give it another value in the column of ids\.$"):
        load(folder, "u1,a.wav,,s1,,train,", "u1,b.wav,,s1,,train,", header=f"utt_id,{HEADER}")


def test_a_wrong_excerpt_makes_no_second_problem(folder: Path) -> None:
    rows = ["a.wav,,s1,,train,,0,1", "a.wav,,s1,,train,,x,2", "a.wav,,s1,,test,,3,2"]
    with pytest.raises(ProbeError) as caught:
        load(folder, *rows, header=f"{HEADER},start,end")
    lines = str(caught.value).splitlines()
    assert [re.search(r"line (\d): (start|end) ", line)[2] for line in lines] == ["start", "end"]  # type: ignore[index]


# Names that look right


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("a.wav ", "It exists without the spaces around it: write 'a.wav'"),
        ("'a.wav'", "It exists without the quotation marks: write 'a.wav'"),
        ("sub\\e.wav", "It exists with slashes in place of the backslashes: write 'sub/e.wav'"),
        ("SUB/E.WAV", "Did you mean 'sub/e.wav'?"),
        ("sub/e.flac", "Did you mean 'sub/e.wav'?"),
        ("%61.wav", "It exists with %-codes spelled out: write 'a.wav'"),
        ("/a.wav", "It exists without the slash at its beginning: write 'a.wav'"),
        ("~/a.wav", "It exists with the home folder spelled out: write '{folder}/a.wav'"),
        ("~/none/zz.wav", "A manifest does not expand ~; write the whole path"),
        (
            "$PLACE/a.wav",
            "It exists with environment variables spelled out: write '{folder}/a.wav'",
        ),
        (
            "file://{folder}/a.wav",
            "is a URL (file); layerprobe reads files. Write '{folder}/a.wav'",
        ),
        ("nonsense://host/a.wav", "Protocol not known: nonsense"),
        (
            "C:\\data\\a.wav",
            "is a path of Windows; paths are relative to the manifest. Write it "
            "relative, with slashes",
        ),
        ("loop.wav", "is a loop of symbolic links. Put the file itself there"),
        ("dangling.wav", "is a symbolic link to gone.wav, which does not exist. Fetch that file"),
        ("sub", "is a folder; expected an audio file"),
        ("../..", "is a folder; expected an audio file"),
        (
            "nothing like it",
            "does not exist; paths are relative to the manifest. Correct it or remove the row",
        ),
    ],
)
def test_a_name_that_looks_right_comes_with_what_is_wrong_with_it(
    folder: Path, written: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PLACE", str(folder))
    (folder / "loop.wav").symlink_to("loop.wav")
    (folder / "dangling.wav").symlink_to("gone.wav")
    with pytest.raises(
        ProbeError, match=at(folder, 2, ".*" + re.escape(remedy.format(folder=folder)))
    ):
        load(folder, f"{written.format(folder=folder)},,s1,,train,")


@pytest.mark.parametrize(("on_disk", "in_manifest"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_with_accents_is_found_in_either_unicode_form(
    folder: Path, on_disk: Any, in_manifest: Any
) -> None:
    place = folder / unicodedata.normalize(on_disk, "größe/é.wav")
    place.parent.mkdir()
    place.touch()
    written = unicodedata.normalize(in_manifest, "größe/é.wav")
    utterance = load(folder, f"{written},,s1,,train,").utterances[0]
    assert (utterance.path, utterance.key) == (place, written)


def test_two_dots_behind_a_symbolic_link_lead_to_where_the_system_says(folder: Path) -> None:
    (folder / "far" / "away").mkdir(parents=True)
    (folder / "far" / "x.wav").touch()
    (folder / "near").symlink_to("far/away")
    assert (
        load(folder, "near/../x.wav,,s1,,train,")
        .utterances[0]
        .path.samefile(folder / "far" / "x.wav")
    )


@pytest.mark.parametrize("n_files", [3, 40])
def test_files_that_are_missing_are_named_however_many_there_are_in_their_folder(
    folder: Path, n_files: int
) -> None:
    for number in range(n_files):
        (folder / f"{number}.wav").touch()
    (folder / "link.wav").symlink_to("0.wav")
    (folder / "folder.wav").mkdir()
    rows = [f"{number}.wav,,s1,,train," for number in range(n_files)]
    assert len(load(folder, *rows).utterances) == n_files
    with pytest.raises(ProbeError) as caught:
        load(folder, *rows, "gone.wav,,,,train,", "link.wav,,,,test,", "folder.wav,,,,train,")
    message = str(caught.value)
    assert f"line {n_files + 2}: {folder / 'gone.wav'} does not exist" in message
    assert f"line {n_files + 3}: link.wav is in split 'test' here and in 'train' on l" in message
    assert f"line {n_files + 4}: {folder / 'folder.wav'} is a folder" in message


def test_a_folder_that_may_not_be_listed_is_read_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str) -> None:
        raise PermissionError

    for number in range(40):
        (folder / f"{number}.wav").touch()
    monkeypatch.setattr(os, "scandir", refused)
    rows = [f"{number}.wav,,s1,,train," for number in range(40)]
    assert len(load(folder, *rows).utterances) == 40


# Limits


def many(folder: Path, n_rows: int) -> Corpus:
    manifest = folder / "many.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *COLUMNS])
        for i in range(n_rows):
            split = ("train", "train", "dev", "test")[i % 4]
            writer.writerow([f"u{i:04}", f"{split}.wav", "", "s", "", split, ""])
    for split in ("train", "dev", "test"):
        (folder / f"{split}.wav").touch()
    return load_corpus(manifest)


def test_a_limit_keeps_that_many_of_each_split_in_manifest_order(folder: Path) -> None:
    corpus = many(folder, 200)
    limited = corpus.limited(7)
    keys = [item.key for item in limited.utterances]
    assert [
        [item.split for item in limited.utterances].count(split)
        for split in ("train", "dev", "test")
    ] == [7, 7, 7]
    assert keys == [item.key for item in corpus.utterances if item.key in set(keys)]
    assert keys == [item.key for item in corpus.limited(7).utterances]
    assert any(int(key[1:]) > 150 for key in keys), "spread over the manifest, not its head"


def test_a_larger_limit_keeps_what_a_smaller_one_kept(folder: Path) -> None:
    corpus = many(folder, 200)
    kept = [{item.key for item in corpus.limited(limit).utterances} for limit in (3, 9, 10_000)]
    assert kept[0] < kept[1] < kept[2]
    assert len(kept[2]) == 200


def test_rows_appended_to_a_manifest_displace_few_of_a_limits_utterances(folder: Path) -> None:
    before = {item.key for item in many(folder, 200).limited(20).utterances}
    after = {item.key for item in many(folder, 208).limited(20).utterances}
    assert len(before - after) <= 8


def test_a_limited_corpus_has_a_sha256_of_its_own_and_no_limit_changes_nothing(
    folder: Path,
) -> None:
    corpus = many(folder, 40)
    assert corpus.limited(None) is corpus
    assert len({corpus.sha256, corpus.limited(3).sha256, corpus.limited(4).sha256}) == 3
