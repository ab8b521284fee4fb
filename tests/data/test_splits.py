"""Seeded splits and folds: shares, groups that stay together, and what new rows move."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from probe.data.corpus import Corpus, Utterance, load_corpus
from probe.data.excerpts import Excerpt
from probe.data.splits import Rule, fold_corpora, parse_folds, parse_split, split_corpus
from probe.errors import ProbeError, UsageError

COLUMNS = ("text", "speaker", "domain", "split", "sex")


def row(number: int, speaker: str, **changed: Any) -> Utterance:
    usual = {"key": f"u{number}", "file": f"/audio/{number}.wav", "text": f"text {number}"}
    usual |= {"speaker": speaker, "domain": "", "split": "", "duration_s": 2.0}
    return Utterance(**{**usual, **changed})


def made(n_speakers: int = 20, n_each: int = 10, **changed: Any) -> Corpus:
    """Speakers of ``n_each`` utterances; every fifth speaker is a man."""
    rows = [
        row(n_each * s + i, f"s{s:02d}", extra={"sex": "m" if s % 5 == 0 else "f"}, **changed)
        for s in range(n_speakers)
        for i in range(n_each)
    ]
    return Corpus("spoken", "0" * 64, tuple(rows), COLUMNS, source="spoken.csv")


def split_of(corpus: Corpus) -> dict[str, str]:
    return {item.key: item.split for item in corpus.utterances}


def speakers(corpus: Corpus, split: str) -> set[str]:
    return {item.speaker for item in corpus.utterances if item.split == split}


def test_a_split_has_its_shares_and_no_speaker_in_two_parts() -> None:
    corpus = split_corpus(made(), "speaker:80/10/10")
    assert Counter(split_of(corpus).values()) == {"train": 160, "dev": 20, "test": 20}
    parts = [speakers(corpus, split) for split in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert len(set.union(*parts)) == 20


def test_a_split_depends_on_its_seed_and_not_on_the_order_of_rows() -> None:
    corpus = made()
    turned = Corpus("spoken", "1" * 64, corpus.utterances[::-1], COLUMNS)
    first, other = (split_corpus(corpus, f"speaker:80/10/10:seed={seed}") for seed in (0, 1))
    assert split_of(split_corpus(turned, "speaker:80/10/10")) == split_of(first)
    assert split_of(other) != split_of(first)


def test_a_split_is_named_in_the_corpus_and_changes_its_hash() -> None:
    corpus = split_corpus(made(), Rule("speaker", (80, 10, 10), seed=3, stratify="sex"))
    assert corpus.name == "spoken:split=speaker:80/10/10:stratify=sex:seed=3"
    assert corpus.source == "spoken.csv split=speaker:80/10/10:stratify=sex:seed=3"
    others = {split_corpus(made(), f"speaker:80/10/10:seed={seed}").sha256 for seed in range(3)}
    assert len({corpus.sha256, made().sha256, *others}) == 5


def test_a_source_with_a_split_is_loaded_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    lines = ["id,path,text,speaker,domain,split,duration_s"]
    for number in range(10):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(b"RIFF")
        lines.append(f"u{number},{path.name},,s{number},,train,1")
    manifest = tmp_path / "my corpus.csv"
    manifest.write_text("\n".join(lines))
    source = f"{manifest} split=speaker:60/20/20"
    corpus = load_corpus(source)
    assert corpus.source == source
    assert Counter(split_of(corpus).values()) == {"train": 6, "dev": 2, "test": 2}
    assert load_corpus(corpus.source).sha256 == corpus.sha256


def test_new_speakers_move_few_others() -> None:
    before = split_of(split_corpus(made(200, 2), "speaker:80/10/10"))
    after = split_of(split_corpus(made(210, 2), "speaker:80/10/10"))
    moved = sum(after[key] != split for key, split in before.items())
    assert moved / len(before) < 0.03


def test_a_stratified_split_has_each_value_in_proportion() -> None:
    corpus = split_corpus(made(100, 2), "speaker:80/10/10:stratify=sex")
    for split, n in (("train", 80), ("dev", 10), ("test", 10)):
        men = {item.speaker for item in corpus.utterances if item.split == split} & {
            item.speaker for item in corpus.utterances if item.extra["sex"] == "m"
        }
        assert len(men) == n / 5


def test_a_value_with_one_group_is_trained_on() -> None:
    rows = [row(i, f"s{i // 5}") for i in range(100)] + [row(100, "alone")]
    corpus = Corpus("spoken", "0" * 64, tuple(rows), COLUMNS)
    corpus = split_corpus(corpus, "recording:80/10/10:stratify=speaker")
    assert speakers(corpus, "train") >= speakers(corpus, "dev") | speakers(corpus, "test")
    assert "alone" in speakers(corpus, "train")


def test_rows_of_one_audio_file_stay_together() -> None:
    rows = [row(i, f"s{i % 2}", file=f"/audio/{i // 4}.wav") for i in range(40)]
    corpus = split_corpus(Corpus("calls", "0" * 64, tuple(rows), COLUMNS), "recording:60/20/20")
    splits: dict[Path, set[str]] = {}
    for item in corpus.utterances:
        splits.setdefault(item.path, set()).add(item.split)
    assert all(len(of_file) == 1 for of_file in splits.values())
    with pytest.raises(ProbeError, match=r"1 groups by speaker .* expected 3 or more"):
        split_corpus(Corpus("calls", "0" * 64, tuple(rows), COLUMNS), "speaker:60/20/20")


def test_members_of_an_archive_are_recordings_of_their_own() -> None:
    shard = "/audio/shard.tar"
    rows = [row(i, "", file=shard, excerpt=Excerpt(member=f"{i}.wav")) for i in range(10)]
    corpus = split_corpus(Corpus("shards", "0" * 64, tuple(rows), COLUMNS), "recording:60/20/20")
    assert Counter(split_of(corpus).values()) == {"train": 6, "dev": 2, "test": 2}


def test_rows_without_a_speaker_are_grouped_by_their_file(caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(i, "") for i in range(20)] + [row(20 + i, f"s{i}") for i in range(20)]
    corpus = split_corpus(Corpus("spoken", "0" * 64, tuple(rows), COLUMNS), "speaker:50/25/25")
    assert Counter(split_of(corpus).values()) == {"train": 20, "dev": 10, "test": 10}
    assert "20 rows have no speaker; each of their audio files is a group of its own" in caplog.text


def test_every_part_has_a_group_even_if_its_share_is_small() -> None:
    corpus = split_corpus(made(3, 5), "speaker:98/1/1")
    assert Counter(split_of(corpus).values()) == {"train": 5, "dev": 5, "test": 5}
    assert Counter(split_of(split_corpus(made(3, 5), "speaker:70/0/30")).values()) == {
        "train": 10,
        "test": 5,
    }


def test_budgets_of_training_are_nested_and_leave_dev_and_test_whole() -> None:
    corpora = [
        split_corpus(made(50, 10), f"speaker:80/10/10{budget}")
        for budget in (":train=1m", ":train=5m", "")
    ]
    small, large, whole = ({i.key for i in one.utterances if i.split == "train"} for one in corpora)
    assert (len(small), len(large), len(whole)) == (30, 150, 400)
    assert small < large < whole
    rest = [[item for item in one.utterances if item.split != "train"] for one in corpora]
    assert rest[0] == rest[1] == rest[2]
    assert len({one.sha256 for one in corpora}) == 3
    assert corpora[0].name.endswith(":train=1m")


def test_a_budget_that_cannot_be_paid_is_refused() -> None:
    with pytest.raises(ProbeError, match=r"training has only 160 utterances and 5\.3 minutes"):
        split_corpus(made(), "speaker:80/10/10:train=10m")
    with pytest.raises(ProbeError, match=r"160 training rows have no duration_s .* train=200"):
        split_corpus(made(duration_s=None), "speaker:80/10/10:train=1m")
    assert len(split_corpus(made(duration_s=None), "speaker:80/10/10:train=7").utterances) == 47
    with pytest.raises(ProbeError, match="seconds, minutes or hours"):
        split_corpus(made(), "speaker:80/10/10:train=lots")


def test_a_column_that_is_replaced_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "probe"):
        split_corpus(made(split="train"), "speaker:80/10/10")
        assert "the column split is ignored" in caplog.text
        assert "160 train rows of 16 groups, 20 dev rows of 2 groups" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        *("speaker", "speaker:80/20", "speaker:80/10/20", "speaker:0/50/50", ":80/10/10"),
        *("speaker:80/10/10:sead=1", "speaker:80/10/10:seed=x", "speaker:80/10/10:seed=1:seed=2"),
        *("speaker:a/b/c", "speaker:80/10/10:", "speaker:seed=1:80/10/10", "", "speaker:-1/51/50"),
    ],
)
def test_a_split_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_split(text)


@pytest.mark.parametrize(
    "text", ["", "speaker:2", "speaker:0", "speaker:x", "session:seed=1", "speaker:5:train=10m"]
)
def test_folds_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_folds(text)


def test_a_rule_is_written_as_it_is_read() -> None:
    for text in ("speaker:80/10/10", "domain:33.4/33.3/33.3:stratify=sex:seed=2:train=1h"):
        assert str(parse_split(text)) == text
    for text in ("session", "speaker:5", "speaker:10:stratify=emotion:seed=1"):
        assert str(parse_folds(text)) == text


@pytest.mark.parametrize("rule", ["speaker:5", "speaker:5:stratify=sex", "speaker"])
def test_each_row_tests_once_and_chooses_once(rule: str) -> None:
    folds = fold_corpora(made(), rule)
    n = 20 if rule == "speaker" else 5
    assert len(folds) == n
    for split, times in (("test", 1), ("dev", 1), ("train", n - 2)):
        uses = Counter(
            item.key for one in folds.values() for item in one.utterances if item.split == split
        )
        assert set(uses.values()) == {times}
        assert len(uses) == 200
    for one in folds.values():
        parts = [speakers(one, split) for split in ("train", "dev", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 20
        assert len(parts[2]) == 20 / n


def test_stratified_folds_have_each_value_in_proportion() -> None:
    for one in fold_corpora(made(100, 1), "speaker:5:stratify=sex").values():
        tested = [item.extra["sex"] for item in one.utterances if item.split == "test"]
        assert Counter(tested) == {"f": 16, "m": 4}


def test_folds_of_a_column_are_in_the_order_of_their_numbers() -> None:
    rows = [row(i, "s", extra={"session": f"Ses{i}"}) for i in (10, 9, 1)]
    corpus = Corpus("spoken", "0" * 64, tuple(rows), (*COLUMNS, "session"))
    folds = fold_corpora(corpus, "session")
    assert list(folds) == ["Ses1", "Ses9", "Ses10"]
    assert split_of(folds["Ses10"]) == {"u10": "test", "u1": "dev", "u9": "train"}


def test_folds_that_a_column_cannot_give_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    def corpus(*sessions: str, path: str = "/audio/{}.wav") -> Corpus:
        rows = [
            row(i, "s", extra={"session": session}, file=path.format(i))
            for i, session in enumerate(sessions)
        ]
        return Corpus("spoken", "0" * 64, tuple(rows), (*COLUMNS, "session"))

    with pytest.raises(ProbeError, match=r"no column 'fold' .*session, and recording"):
        fold_corpora(corpus("1", "2", "3"), "fold")
    with pytest.raises(ProbeError, match=r"names 2 folds \(1, 2\); expected 3 or more"):
        fold_corpora(corpus("1", "2", "2"), "session")
    with pytest.raises(ProbeError, match=r"names 1 fold \(1\); expected 3 or more"):
        fold_corpora(corpus("1", "1", "1"), "session")
    with pytest.raises(ProbeError, match="column session is empty in all 3 rows"):
        fold_corpora(corpus("", "", ""), "session")
    with pytest.raises(ProbeError, match="u0 is in fold 1 and u1 of the same audio file"):
        fold_corpora(corpus("1", "2", "3", path="/audio/a.wav"), "session")
    with pytest.raises(ProbeError, match=r"20 groups by speaker .* expected 21 or more"):
        fold_corpora(made(), "speaker:21")
    assert len(fold_corpora(corpus("1", "2", "", "3"), "session")["1"].utterances) == 3
    assert "1 rows without session are in no fold" in caplog.text
