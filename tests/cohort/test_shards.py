"""Shards that are compiled side by side and joined give the cohort of a single compilation, to the last bit."""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.cohort.imported import SAID
from seqsetvae.cohort.sources.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("shards") / "data", n_stays=90, seed=4, embedding_width=6)


@pytest.fixture(scope="module")
def shards(layout: Path) -> Path:
    """Three of them, made in another order than that of their numbers."""
    folder = layout.parents[1] / "shards"
    for number in (2, 3, 1):
        words = ["compile", str(layout), str(folder / f"job {number}"), "--shard", f"{number}/3"]
        assert main(words) == 0
    return folder


def _join(shards: Path, out: Path, *flags: str) -> int:
    return main(["join", str(shards), str(out), *flags])


def test_joined_shards_are_the_cohort_of_one_compilation(layout, shards, tmp_path):
    assert main(["compile", str(layout), str(tmp_path / "one")]) == 0
    assert _join(shards, tmp_path / "joined") == 0
    one, joined = open_cohort(tmp_path / "one"), open_cohort(tmp_path / "joined")
    assert joined.content_hash == one.content_hash  # sums included
    assert joined.manifest["splits"] == one.manifest["splits"]


def test_a_shard_has_a_part_of_each_split(shards, layout):
    parts = [open_cohort(shards / f"job {number}") for number in (1, 2, 3)]
    for split in ("train", "valid", "test"):
        numbers = np.concatenate([part.split(split).stay_id for part in parts])
        assert len(np.unique(numbers)) == len(numbers) == len(list((layout / split).iterdir()))
        assert {part.split(split).n_stays for part in parts} <= {len(numbers) // 3, len(numbers) // 3 + 1}


def test_a_shard_that_is_missing_or_twice_is_named(shards, tmp_path, capsys):
    shutil.copytree(shards / "job 1", tmp_path / "some" / "a")
    shutil.copytree(shards / "job 3", tmp_path / "some" / "b")
    assert _join(tmp_path / "some", tmp_path / "out") == 2
    assert "it has 1/3, 3/3; missing: 2." in capsys.readouterr().err
    shutil.copytree(shards / "job 2", tmp_path / "some" / "c")
    shutil.copytree(shards / "job 2", tmp_path / "some" / "d")
    assert _join(tmp_path / "some", tmp_path / "out") == 2
    assert "it has 1/3, 2/3, 2/3, 3/3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_shard_is_named(layout, shards, tmp_path, capsys):
    assert _join(tmp_path, tmp_path / "out") == 2
    assert "holds no shards" in capsys.readouterr().err
    shutil.copytree(shards / "job 1", tmp_path / "some" / "a")
    assert main(["compile", str(layout), str(tmp_path / "some" / "b")]) == 0
    assert _join(tmp_path / "some", tmp_path / "out") == 2
    assert "b: a cohort that is no shard" in capsys.readouterr().err


def test_shards_of_other_data_are_not_mixed(shards, tmp_path, capsys):
    other = write_synthetic(tmp_path / "other", n_stays=40, seed=5)
    shutil.copytree(shards / "job 1", tmp_path / "some" / "a")
    assert main(["compile", str(other), str(tmp_path / "some" / "b"), "--shard", "2/3"]) == 0
    assert _join(tmp_path / "some", tmp_path / "out") == 2
    assert "cohorts of different data: a of" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "1/0", "1/3/4", "-1/3"])
def test_a_part_that_is_none_is_an_error(layout, tmp_path, text):
    with pytest.raises(SystemExit) as ended:
        main(["compile", str(layout), str(tmp_path / "out"), f"--shard={text}"])
    assert ended.value.code == 2


def test_faulty_files_of_shards_need_skip_bad_in_both_steps(layout, tmp_path, capsys):
    shutil.copytree(layout, tmp_path / "patient_ehr")
    bad = sorted((tmp_path / "patient_ehr" / "train").iterdir())[0]
    bad.write_bytes(b"no parquet")
    for number in (1, 2):
        words = ["compile", str(tmp_path / "patient_ehr"), str(tmp_path / "shards" / str(number)), "--skip_bad"]
        assert main([*words, "--shard", f"{number}/2"]) == 0
    assert _join(tmp_path / "shards", tmp_path / "out") == 2
    assert bad.name in capsys.readouterr().err
    assert _join(tmp_path / "shards", tmp_path / "out", "--skip_bad") == 0
    assert open_cohort(tmp_path / "out").manifest["report"]["faulty_files"] == 1


def test_chunks_of_stays_may_end_within_shards(shards, tmp_path, monkeypatch):
    assert _join(shards, tmp_path / "whole") == 0
    monkeypatch.setattr("seqsetvae.cohort.compile.ROWS_PER_CHUNK", 700)
    assert _join(shards, tmp_path / "chunks") == 0
    hashes = [open_cohort(tmp_path / name).content_hash for name in ("whole", "chunks")]
    assert hashes[0] == hashes[1]


# ------------------------------------------------------------------ cohorts of their own

EVENTS = [(subject, hour, "HR", 10 * subject + hour) for subject in range(1, 13) for hour in range(subject % 3 + 2)]


def _tables(root: Path, divided: Callable[[int], int], events: Sequence[tuple[object, ...]] = EVENTS) -> list[Path]:
    """Folders with the rows of some subjects each, and one with all; subjects are in splits by their number."""
    for folder in ("all", "part 1", "part 2", "part 3"):
        (root / folder).mkdir(parents=True)
        chosen = [row for row in events if folder in ("all", f"part {divided(int(str(row[0]).strip('x')))}")]
        lines = [",".join(map(str, row)) for row in chosen]
        (root / folder / "events.csv").write_text("\n".join(["id,time,variable,value", *lines, ""]))
    ids = dict.fromkeys(str(row[0]) for row in events)
    stays = [f"{text},{('train', 'valid', 'test')[at % 3]},{at % 2}" for at, text in enumerate(ids)]
    (root / "stays.csv").write_text("\n".join(["id,split,died", *stays, ""]))
    return [root / f"part {number}" for number in (1, 2, 3)]


def _compile(tables: Path, out: Path, *flags: str, split: Sequence[str] = ("--split_column", "split")) -> int:
    stays = str(tables.parent / "stays.csv")
    return main(
        ["table", str(tables), str(out), "--stays", stays, "--labels", stays, "--label_name", "died", *split, *flags]
    )


@pytest.mark.parametrize("divided", [lambda subject: (subject - 1) // 4 + 1, lambda subject: 3 - subject % 3])
def test_cohorts_of_whole_subjects_are_joined_into_that_of_all_tables(tmp_path, divided, monkeypatch):
    for part in _tables(tmp_path, divided):
        assert _compile(part, tmp_path / "cohorts" / part.name) == 0
    assert _compile(tmp_path / "all", tmp_path / "one") == 0
    monkeypatch.setattr("seqsetvae.cohort.compile.ROWS_PER_CHUNK", 5)
    assert _join(tmp_path / "cohorts", tmp_path / "joined") == 0
    one, joined = open_cohort(tmp_path / "one"), open_cohort(tmp_path / "joined")
    assert joined.content_hash == one.content_hash  # samples.parquet included
    assert joined.manifest["splits"] == one.manifest["splits"]
    decided = one.manifest["import"].keys() - set(SAID)
    assert all(joined.manifest["import"][name] == one.manifest["import"][name] for name in decided)


def test_a_subject_in_two_cohorts_is_an_error(tmp_path, capsys):
    for part in _tables(tmp_path, lambda subject: (subject - 1) // 4 + 1):
        assert _compile(part, tmp_path / "cohorts" / part.name) == 0
    shutil.copytree(tmp_path / "cohorts" / "part 2", tmp_path / "cohorts" / "part 4")
    assert _join(tmp_path / "cohorts", tmp_path / "out") == 2
    assert "4 stays in more than one cohort, such as 5 in part 2 and part 4." in capsys.readouterr().err


def test_ids_that_are_texts_are_not_mixed_up(tmp_path, capsys):
    events = [(f"x{subject}", *rest) for subject, *rest in EVENTS]
    for part in _tables(tmp_path, lambda subject: (subject - 1) // 4 + 1, events):
        assert _compile(part, tmp_path / "cohorts" / part.name) == 0
    assert _join(tmp_path / "cohorts", tmp_path / "out") == 2
    assert "Ids that are texts, and several predictions of an id, are numbered anew in each" in capsys.readouterr().err


def test_cohorts_with_other_decisions_are_not_mixed(tmp_path, capsys):
    one, other, _ = _tables(tmp_path, lambda subject: (subject - 1) // 4 + 1)
    assert _compile(one, tmp_path / "cohorts" / "a", "--until_hour", "2") == 0
    assert _compile(other, tmp_path / "cohorts" / "b", "--until_hour", "3") == 0
    assert _join(tmp_path / "cohorts", tmp_path / "out") == 2
    assert "cohorts of different until_hour: a of 2.0, b of 3.0." in capsys.readouterr().err


def test_splits_that_only_all_data_show_are_refused(tmp_path, capsys):
    for part in _tables(tmp_path, lambda subject: (subject - 1) // 4 + 1):
        assert _compile(part, tmp_path / "cohorts" / part.name, split=("--split_by", "died")) == 0
    assert _join(tmp_path / "cohorts", tmp_path / "out") == 2
    assert "its splits are whole values of died" in capsys.readouterr().err


@pytest.mark.slow  # it starts five processes; the ordinary tests above join shards in this one
def test_the_example_of_the_page_gives_the_cohort_of_all_tables(tmp_path):
    (tmp_path / "events").mkdir()
    _tables(tmp_path / "made", lambda subject: 1)
    for name in ("events/events.csv", "stays.csv"):
        text = (tmp_path / "made" / name.replace("events/", "all/")).read_bytes()
        pq.write_table(csv.read_csv(io.BytesIO(text)), tmp_path / name.replace(".csv", ".parquet"))
    page = (ROOT / "docs" / "shards.md").read_text(encoding="utf-8")
    divide, one_process = (re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL)[0] for kind in ("python", "bash"))
    data = f"{sys.executable} {ROOT / 'data.py'}"
    for command in ([sys.executable, "-c", divide], ["bash", "-ec", one_process.replace("python data.py", data)]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    flags = next(line for line in one_process.splitlines() if "data.py table" in line).partition("--")
    words = [str(tmp_path / word) if word.endswith(".parquet") else word for word in "".join(flags[1:]).split()]
    assert main(["table", str(tmp_path / "events"), str(tmp_path / "one"), *words]) == 0
    assert open_cohort(tmp_path / "cohort").content_hash == open_cohort(tmp_path / "one").content_hash
