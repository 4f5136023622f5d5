"""The challenge as published: counts, the convention of the literature, splits, faults."""

import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from seqsetvae.cohort import Cohort, compile_cohort, open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.cohort.sources.physionet2012 import PhysioNet2012
from seqsetvae.errors import InputError

from .test_compile import sets_of

HEAD = "Time,Parameter,Value\n00:00,RecordID,{id}\n00:00,Age,60\n00:00,Gender,1\n00:00,Height,-1\n00:00,ICUType,3\n"
GOOD = HEAD + "00:00,Weight,-1\n00:07,HR,80\n00:07,HR,80\n00:07,HR,82\n01:30,HR,79\n"


def write_set(src: Path, name: str, texts: dict[int, str], deaths: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    (src / f"set-{name}").mkdir(parents=True)
    for stay, text in texts.items():
        (src / f"set-{name}" / f"{stay}.txt").write_text(text.format(id=stay))
    rows = "".join(f"{stay},9,{int(stay in deaths)}\n" for stay in texts)
    (src / f"Outcomes-{name}.txt").write_text("RecordID,SAPS-I,In-hospital_death\n" + rows)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    write_set(folder, "a", dict.fromkeys(range(100, 140), GOOD), deaths=set(range(100, 110)))
    write_set(folder, "b", dict.fromkeys(range(200, 220), GOOD), deaths=set(range(200, 205)))
    return folder


def compiled(src: Path, **options: object) -> Cohort:
    source = PhysioNet2012(src, **options)  # type: ignore[arg-type]
    return compile_cohort(source, src.parent / "out", label_name="death", labels=source.labels, embedding_dim=2)


@pytest.mark.parametrize(
    ("name", "counts"), [("a", (3_997, 1_672_638, 292_173, 554)), ("b", (3_993, 1_608_495, 285_268, 568))]
)
def test_the_counts_of_the_literature(
    shared: Callable[[str], Path], tmp_path: Path, name: str, counts: tuple[int, int, int, int]
) -> None:
    for file in (f"set-{name}.tar.gz", f"Outcomes-{name}.txt"):
        (tmp_path / file).symlink_to(shared(f"physionet2012/{file}"))
    arguments = ["physionet2012", str(tmp_path), str(tmp_path / "out"), "--train_sets", name, "--embedding_dim", "2"]
    assert main(arguments) == 0
    n = open_cohort(tmp_path / "out").manifest["splits"]["train"]
    assert (n["stays"], n["events"], n["sets"], n["positives"]) == counts
    assert n["labelled"] == n["stays"]


def test_the_convention(src: Path) -> None:
    cohort = compiled(src, assigned={"train": ["a", "b"]})
    assert cohort.vocabulary == ("Age", "Gender", "HR", "ICUType_3")  # no RecordID; negative values are gone
    sets = sets_of(cohort, "train", 0)
    assert [(minute, [name for name, _ in events]) for minute, events in sets] == [
        (0, ["Age", "Gender", "ICUType_3"]),
        (7, ["HR", "HR"]),  # of the exact duplicates one is left
        (90, ["HR"]),
    ]
    assert sets[0][1][2] == ("ICUType_3", 1.0)


def test_short_stays_are_counted_before_negatives_go_and_left_out(src: Path) -> None:
    five, six = HEAD + "00:00,Weight,80\n", HEAD + "00:00,Weight,-1\n00:10,HR,-1\n"
    write_set(src, "c", {300: five, 301: six, 302: "Time,Parameter,Value\n"})
    cohort = compiled(src)
    stays = {int(stay) for split in cohort.splits.values() for stay in split.stay_id}
    assert stays & {300, 301, 302} == {301}
    assert cohort.manifest["report"]["left_out"] == 2


def test_archives_hold_the_same_stays_as_folders(src: Path) -> None:
    from_folders = PhysioNet2012(src)
    with tarfile.open(src / "set-a.tar.gz", "w:gz") as tar:
        tar.add(src / "set-a", arcname="set-a")
    with zipfile.ZipFile(src / "set-b.zip", "w") as archive:
        for file in sorted((src / "set-b").iterdir(), reverse=True):
            archive.write(file, f"set-b/{file.name}")
    for name in "ab":
        (src / f"set-{name}").rename(src / f"gone-{name}")
    from_archives = PhysioNet2012(src)
    for split, stays in from_folders.stays.items():
        assert [stay.stay_id for stay in from_archives.stays[split]] == [stay.stay_id for stay in stays]


def test_stays_are_divided_by_fraction_and_seed_with_equal_death_rates(src: Path) -> None:
    cohort = compiled(src, fractions=(0.6, 0.2, 0.2))
    counts = {name: (n["stays"], n["positives"]) for name, n in cohort.manifest["splits"].items()}
    assert counts == {"train": (36, 9), "valid": (12, 3), "test": (12, 3)}
    assert PhysioNet2012(src, seed=1).stays == PhysioNet2012(src, seed=1).stays
    assert PhysioNet2012(src, seed=1).stays != PhysioNet2012(src, seed=2).stays


def test_whole_sets_can_be_a_split(src: Path) -> None:
    source = PhysioNet2012(src, {"test": ["b"]})
    assert {split: len(stays) for split, stays in source.stays.items()} == {"train": 32, "valid": 8, "test": 20}
    source = PhysioNet2012(src, {"train": ["a"], "valid": ["b"]})
    assert {split: len(stays) for split, stays in source.stays.items()} == {"train": 40, "valid": 20}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test_sets", "c"], "--test_sets c: .* has no set c; it has a, b"),
        (["--test_sets", "a", "--valid_sets", "a"], "set a is given to valid and to test"),
        (["--fractions", "0.5", "0.2", "0.2"], "--fractions 0.5 0.2 0.2: needs three shares"),
        (["--fractions", "1", "0", "0", "--train_sets", "a", "b"], "all are assigned"),
        (["--embeddings", "nowhere.csv"], "nowhere.csv: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(
    src: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["physionet2012", str(src), str(src / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_absent_outcomes_or_sets_are_errors(src: Path) -> None:
    (src / "Outcomes-b.txt").unlink()
    with pytest.raises(InputError, match=r"Outcomes-b.txt: not found"):
        PhysioNet2012(src)
    with pytest.raises(InputError, match="holds no set of the challenge"):
        PhysioNet2012(src / "set-a")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00:40,HR,fast", r"116.txt, row 10 .*variable 'HR': not a row of HH:MM, a name and a number: '00:40,HR,fast'"),
        ("00:40,HR", r"row 10 .*variable 'HR'"),
        ("soon,HR,80", r"row 10 .*variable 'HR': .*Time 'soon'"),
        ("00:40,HR,", r"row 10 .*variable 'HR': .*Value nan"),
        ("00:40,HR,inf", r"row 10 .*Value inf"),
        ("", "row 10 "),
    ],
)
def test_a_bad_row_stops_or_is_skipped(src: Path, row: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (src / "set-a" / "116.txt").write_text(f"{GOOD.format(id=116)}{row}\n01:00,HR,70\n")
    with pytest.raises(InputError, match=message):
        compiled(src)
    assert main(["physionet2012", str(src), str(src / "out"), "--skip_bad", "--embedding_dim", "2"]) == 0
    assert "left out: 1 faulty files" in capsys.readouterr().out
    assert sum(split.n_stays for split in open_cohort(src / "out").splits.values()) == 59
