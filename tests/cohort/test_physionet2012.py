"""The challenge as published: counts, the convention of the literature, splits, faults."""

import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from seqsetvae.cohort import Cohort, compile_cohort, open_cohort
from seqsetvae.cohort import compile as compiling
from seqsetvae.cohort.command import main
from seqsetvae.cohort.sources import physionet2012
from seqsetvae.cohort.sources.opened import choose_fractions
from seqsetvae.cohort.sources.physionet2012 import PhysioNet2012
from seqsetvae.system.errors import InputError

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
    return compile_cohort(source, src.parent / "out", label_name="death", labels=source.labels)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("a", (3_997, 1_751_724, 299_259, 554)),
        pytest.param("b", (3_993, 1_756_213, 299_058, 568), marks=pytest.mark.slow),
        pytest.param("c", (3_998, 1_756_417, 300_015, 585), marks=pytest.mark.slow),
    ],
)
def test_the_counts_of_the_literature(shared, tmp_path, name, counts):
    for file in (f"set-{name}.tar.gz", f"Outcomes-{name}.txt"):
        (tmp_path / file).symlink_to(shared(f"physionet2012/{file}"))
    arguments = ["physionet2012", str(tmp_path), str(tmp_path / "out"), "--train_sets", name]
    assert main(arguments) == 0
    n = open_cohort(tmp_path / "out").manifest["splits"]["train"]
    assert (n["stays"], n["events"], n["sets"], n["positives"]) == counts
    assert n["labelled"] == n["stays"]


def test_the_convention(src):
    cohort = compiled(src, assigned={"train": ["a", "b"]})
    assert cohort.vocabulary == ("Age", "Gender", "HR", "ICUType_3")  # no RecordID; negative values are gone
    sets = sets_of(cohort, "train", 0)
    assert [(minute, [name for name, _ in events]) for minute, events in sets] == [
        (0, ["Age", "Gender", "ICUType_3"]),
        (7, ["HR", "HR"]),  # of the exact duplicates one is left
        (90, ["HR"]),
    ]
    assert sets[0][1][2] == ("ICUType_3", 1.0)


def test_short_stays_are_counted_before_negatives_go_and_left_out(src):
    five, six = HEAD + "00:00,Weight,80\n", HEAD + "00:00,Weight,-1\n00:10,HR,-1\n"
    write_set(src, "c", {300: five, 301: six, 302: "Time,Parameter,Value\n"})
    cohort = compiled(src)
    stays = {int(stay) for split in cohort.splits.values() for stay in split.stay_id}
    assert stays & {300, 301, 302} == {301}
    assert cohort.manifest["report"]["left_out"] == 2


def test_archives_hold_the_same_stays_as_folders(src):
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


def in_archive(src: Path, suffix: str, name: str = "a") -> Path:
    """A set of `src`, put into an archive in place of the folder."""
    archive = src / f"set-{name}{suffix}"
    files = sorted((src / f"set-{name}").iterdir())
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in files:
                packed.write(file, f"set-{name}/{file.name}")
    else:
        with tarfile.open(archive, "w:gz" if suffix == ".tar.gz" else "w") as tar:
            tar.add(src / f"set-{name}", arcname=f"set-{name}")
    shutil.rmtree(src / f"set-{name}")
    return archive


def with_byte(content: bytes, at: int) -> bytes:
    """The content with one byte changed."""
    changed = bytearray(content)
    changed[at] ^= 0xFF
    return bytes(changed)


# A tar holds a header of 512 bytes for the folder, then for each stay a header and a text of 512: one starts at 5632.
DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip without its checksum": (".tar.gz", lambda content: content[:-8]),
    "gzip cut in the middle": (".tar.gz", lambda content: content[: len(content) // 2]),
    "gzip with another checksum": (".tar.gz", lambda content: with_byte(content, -8)),
    "gzip that does not inflate": (".tar.gz", lambda content: content[:20] + b"\xff" * 9 + content[29:]),
    "tar without its end": (".tar", lambda content: content.rstrip(b"\0")[:-600]),
    "tar cut between two files": (".tar", lambda content: content[:5632]),
    "tar with a broken header": (".tar", lambda content: with_byte(content, 5632 + 150)),
    "zip with another content": (".zip", lambda content: with_byte(content, 60)),
    "zip without its directory": (".zip", lambda content: content[:-30]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_archive_is_an_error_that_names_it(src, damage):
    suffix, change = DAMAGE[damage]
    archive = in_archive(src, suffix)
    assert len(PhysioNet2012(src, {"train": ["a"]}).stays["train"]) == 40
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(InputError, match=rf"set-a\{suffix}: cannot be read: .*Download it again"):
        PhysioNet2012(src)


@pytest.mark.parametrize("suffix", ["", ".tar.gz", ".zip"])
def test_hidden_files_of_macos_are_ignored(src, suffix):
    (src / "set-a" / "._132.txt").write_bytes(b"\0\5\26\7")
    if suffix:
        in_archive(src, suffix)
    source = PhysioNet2012(src, {"train": ["a"]})
    assert (len(source.stays["train"]), source.skips) == (40, [])


def test_late_times_keep_events_apart(src):
    late = HEAD + "0:07,HR,80\n1666:47,HR,80\n10000:59,HR,80\n"  # 1666:47 is 100,000 minutes after 0:07
    (src / "set-a" / "100.txt").write_text(late.format(id=100))
    cohort = compiled(src, assigned={"train": ["a", "b"]})
    assert [minute for minute, _ in sets_of(cohort, "train", 0)] == [0, 7, 100_007, 600_059]
    assert len(sets_of(cohort, "train", 1)[1][1]) == 2  # and no row is assigned to the next stay


def test_an_unknown_icu_type_is_missing(src):
    (src / "set-a" / "100.txt").write_text(GOOD.format(id=100).replace("ICUType,3", "ICUType,-1"))
    cohort = compiled(src, assigned={"train": ["a", "b"]})
    assert [name for name, _ in sets_of(cohort, "train", 0)[0][1]] == ["Age", "Gender"]


def test_stays_are_divided_by_fraction_and_seed_with_equal_death_rates(src):
    cohort = compiled(src, fractions=(0.6, 0.2, 0.2))
    counts = {name: (n["stays"], n["positives"]) for name, n in cohort.manifest["splits"].items()}
    assert counts == {"train": (36, 9), "valid": (12, 3), "test": (12, 3)}
    one, again, other = (PhysioNet2012(src, seed=seed).stays["train"] for seed in (1, 1, 2))
    assert list(one) == list(again) != list(other)


def test_whole_sets_can_be_a_split(src):
    source = PhysioNet2012(src, {"test": ["b"]})
    assert {split: len(stays) for split, stays in source.stays.items()} == {"train": 32, "valid": 8, "test": 20}
    source = PhysioNet2012(src, {"train": ["a"], "valid": ["b"]})
    assert {split: len(stays) for split, stays in source.stays.items()} == {"train": 40, "valid": 20}
    explicit = PhysioNet2012(src, {"test": ["b"]}, (0.5, 0.5, 0))
    assert {split: len(stays) for split, stays in explicit.stays.items()} == {"train": 20, "valid": 20, "test": 20}


@pytest.mark.parametrize(
    ("given", "fractions"),
    [
        ((), (0.7, 0.15, 0.15)),
        (("test",), (0.8, 0.2, 0)),
        (("valid",), (0.7 / 0.85, 0, 0.15 / 0.85)),
        (("train",), (0, 0.5, 0.5)),
        (("valid", "test"), (1, 0, 0)),
        (("train", "test"), (0, 1, 0)),
    ],
)
def test_a_split_of_whole_sets_gets_no_share_of_the_others(given, fractions):
    assert choose_fractions(None, given) == pytest.approx(fractions)


def test_whole_sets_for_validation_leave_the_others_to_train_and_test(src):
    source = PhysioNet2012(src, {"valid": ["b"]})
    assert {split: len(stays) for split, stays in source.stays.items()} == {"train": 33, "valid": 20, "test": 7}
    assert {stay.stay_id for stay in source.stays["valid"]} == set(range(200, 220))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test_sets", "c"], "--test_sets c: .* has no set c; it has a, b"),
        (["--test_sets", "a", "--valid_sets", "a"], "set a is given to valid and to test"),
        (["--fractions", "0.5", "0.2", "0.2"], "--fractions 0.5 0.2 0.2: needs three shares"),
        (["--fractions", "1", "0", "0", "--train_sets", "a", "b"], "all are assigned"),
        (["--fractions", "0.8", "0.1", "0.1", "--valid_sets", "b"], "0.8 0.1 0.1: 0.1 is for valid, .*--valid_sets"),
    ],
)
def test_invalid_flags_are_errors_with_a_reason(src, options, message, capsys):
    assert main(["physionet2012", str(src), str(src / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_absent_outcomes_or_sets_are_errors(src):
    (src / "Outcomes-b.txt").unlink()
    with pytest.raises(InputError, match=r"Outcomes-b.txt: not found"):
        PhysioNet2012(src)
    with pytest.raises(InputError, match="holds no set of the challenge"):
        PhysioNet2012(src / "set-a")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00:40,HR,fast", r"116.txt, row 10 .*variable 'HR': Value 'fast' is not a finite number"),
        ("00:40,HR", r"row 10 .*variable 'HR': not a row of HH:MM, a name and a number: '00:40,HR'"),
        ("soon,HR,80", r"row 10 .*variable 'HR': .*Time 'soon'"),
        ("00:40,HR,", r"row 10 .*variable 'HR': Value '' is not a finite number"),
        ("00:40,HR,inf", r"row 10 .*Value 'inf' is not a finite number"),
        ("00:40,HR,1_0", r"row 10 .*Value '1_0' is not a finite number"),
        ('00:40,"HR,8",80', "row 10 .*not a row of HH:MM, a name and a number"),
        (f"00:40,{'HR' * 60_000},80", "row 10 .*not a row of HH:MM, a name and a number"),
        ("00:00,ICUType,5", r"116.txt, row 10 .*variable 'ICUType': the value is 5; an ICUType is 1, 2, 3 or 4"),
        ("00:00,ICUType,2.5", "row 10 .*the value is 2.5"),
        ("10001:00,HR,80", r"row 10 .*variable 'HR': .*Time '10001:00'"),  # past all reason
        (f"{'9' * 5000}:00,HR,80", r"row 10 .*Time '9999"),  # more digits than int() takes
        ("", "row 10 "),
    ],
)
def test_a_bad_row_stops_or_is_skipped(src, row, message, capsys):
    (src / "set-a" / "116.txt").write_text(f"{GOOD.format(id=116)}{row}\n01:00,HR,70\n")
    with pytest.raises(InputError, match=message):
        compiled(src)
    assert main(["physionet2012", str(src), str(src / "out"), "--skip_bad"]) == 0
    printed = capsys.readouterr().out
    assert "1 faulty file left out; see" in printed
    assert "--skip_bad left out 1 of 60 stays (1.7%)" in printed
    assert sum(split.n_stays for split in open_cohort(src / "out").splits.values()) == 59


def add_rows(src: Path, name: str, stays: Iterable[int], *rows: str) -> None:
    """Append rows to the texts of some stays."""
    for stay in stays:
        with (src / f"set-{name}" / f"{stay}.txt").open("a") as text:
            text.writelines(f"{row}\n" for row in rows)


def test_rows_without_a_name_are_left_out_and_counted_and_the_stays_are_kept(src, capsys):
    """As in set c, where 1,594 of 4,000 files hold 2,403 rows like `10:45,,1.9`."""
    before = compiled(src).content_hash
    shutil.rmtree(src.parent / "out")
    add_rows(src, "a", range(100, 120), "10:45,,1.9", "soon, ,")
    add_rows(src, "b", range(200, 205), "10:45,,1.9")
    assert main(["physionet2012", str(src), str(src.parent / "out")]) == 0
    printed = capsys.readouterr().out
    assert "45 rows without a variable name in 25 files, left out\n" in printed
    assert "faulty" not in printed
    cohort = open_cohort(src.parent / "out")
    assert cohort.manifest["report"]["unnamed_rows"] == {"rows": 45, "files": 25}
    shutil.rmtree(src.parent / "out")
    assert compiled(src).content_hash == before


def test_rows_without_a_name_do_not_count_towards_the_least_number_of_rows(src):
    five = HEAD + "00:00,Weight,80\n00:10,,80\n"
    write_set(src, "c", {300: five, 301: five + "00:20,HR,70\n"})
    source = PhysioNet2012(src, {"test": ["c"]})
    assert [stay.stay_id for stay in source.stays["test"]] == [301]
    assert source.unnamed_rows == (2, 2)


def test_the_readmes_command_reads_a_set_c_that_has_rows_without_a_name(src, capsys):
    write_set(src, "c", dict.fromkeys(range(300, 310), GOOD), deaths={301})
    add_rows(src, "c", range(300, 304), "10:45,,1.9")
    in_archive(src, ".tar.gz", "c")
    assert main(["physionet2012", str(src), str(src / "p12"), "--test_sets", "c"]) == 0
    assert "4 rows without a variable name in 4 files, left out\n" in capsys.readouterr().out
    counts = {name: (n["stays"], n["positives"]) for name, n in open_cohort(src / "p12").manifest["splits"].items()}
    assert counts == {"train": (48, 12), "valid": (12, 3), "test": (10, 1)}


def test_faulty_rows_do_not_lead_to_parsing_file_by_file(src, monkeypatch):
    """It took 58 s for a set of 4,000 stays, where all texts at once take 2 s."""
    calls = []
    real = physionet2012.pacsv.read_csv
    monkeypatch.setattr(physionet2012.pacsv, "read_csv", lambda *a, **k: calls.append(1) or real(*a, **k))
    for at, row in enumerate(("00:40,HR,fast", "00:40,HR", "00:40", "25:99,HR,80", "10:45,,1.9", "0:0,ICUType,9")):
        add_rows(src, "a", range(100 + 6 * at, 106 + 6 * at), row)
    assert len(PhysioNet2012(src).skips) == 30
    assert len(calls) == 2  # one for each set


def test_reading_and_compiling_show_progress_bars(src, monkeypatch):
    bars: list[tuple[object, object]] = []
    for module in (physionet2012, compiling):
        real = module.tqdm

        def recorded(real: Callable[..., object] = real, **options: object) -> object:
            bars.append((options["desc"], options["disable"]))
            return real(**options)

        monkeypatch.setattr(module, "tqdm", recorded)
    compiled(src)
    titles = ["Reading set a", "Reading set b", "Compiling stays", "Adding up values"]
    assert bars == [(title, None) for title in titles]  # disable None = shown on a terminal only
    PhysioNet2012(src, progress=False)
    assert bars[4:] == [("Reading set a", True), ("Reading set b", True)]


def test_all_kinds_of_faults_are_named_with_their_outcomes(src, capsys):
    add_rows(src, "a", range(100, 104), "00:40,HR,fast", "00:40,HR")  # the second row has the fault seen first
    add_rows(src, "a", range(104, 107), "00:40,HR,fast")
    add_rows(src, "b", range(219, 220), "late,HR,80")
    (src / "set-b" / "notes.txt").write_text(GOOD)
    (src / "set-b" / "218.txt").write_text("time,name,value\n")
    assert main(["physionet2012", str(src), str(src / "out")]) == 2
    first, *kinds, _, share = capsys.readouterr().err.splitlines()
    assert first == "error: 10 faulty files:"
    assert [kind.split(", for example ")[0] for kind in kinds] == [
        "  4 files, 4 rows: a row that is not HH:MM, a name and a number",
        "  3 files, 3 rows: a value that is missing or not a finite number",
        "  1 file: a first line other than Time,Parameter,Value",
        "  1 file: a name that is not a stay number",
        "  1 file, 1 row: a time that is not HH:MM",
    ]
    assert share == (
        "--skip_bad would leave out 10 of 61 stays (16.4%); in_hospital_mortality: 77.8% (of 9 with a label) of those "
        "left out, 15.7% (of 51 with a label) of those kept."
    )


@pytest.mark.parametrize("row", ["00:40,HR\r,80", "00:40,H\rR,80", "00:40,HR,80\r00:50,HR,81", "\r\r"])
def test_a_carriage_return_inside_a_text_is_one_fault_of_that_file(src, row):
    (src / "set-a" / "116.txt").write_bytes(f"{GOOD.format(id=116)}{row}\n01:00,HR,70\n".encode())
    with pytest.raises(InputError, match=r"116.txt: line 12 has a carriage return without a line feed"):
        compiled(src)
    source = PhysioNet2012(src)
    assert [skip.stay_id for skip in source.skips] == [116]
    assert sum(map(len, source.stays.values())) == 59
    options = {"label_name": "death", "labels": source.labels, "progress": False}
    cohort = compile_cohort(PhysioNet2012(src), src.parent / "out", skip_bad=True, **options)  # type: ignore[arg-type]
    assert sum(split.n_stays for split in cohort.splits.values()) == 59


def test_lines_may_end_as_on_windows(src):
    before = compiled(src).content_hash
    shutil.rmtree(src.parent / "out")
    for file in (src / "set-a").iterdir():
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert compiled(src).content_hash == before


def test_a_name_that_is_not_utf_8_is_a_fault_of_that_file_alone(src):
    with (src / "set-a" / "116.txt").open("ab") as text:
        text.write(b"00:40,fi\xe8vre,39\n")
    with pytest.raises(InputError, match=r"116.txt, row 10 .*the name b'fi\\xe8vre' is not in UTF-8"):
        compiled(src)
    assert len(PhysioNet2012(src).skips) == 1


def test_a_set_of_faulty_files_alone_is_an_error_about_their_faults(src):
    add_rows(src, "a", range(100, 140), "00:40,HR")
    add_rows(src, "b", range(200, 220), "00:40,HR")
    with pytest.raises(InputError, match=r"60 faulty files:\n  60 files, 60 rows: a row that is not HH:MM"):
        compiled(src)
    source = PhysioNet2012(src)
    with pytest.raises(
        InputError, match=r"The data has no usable stay. The first that was left out: .*100.txt, row 10"
    ):
        compile_cohort(source, src.parent / "out", label_name="death", skip_bad=True)


def test_check_reads_the_raw_sets_and_compiles_nothing_beside_them(src, capsys):
    before = sorted(src.rglob("*"))
    main(["check", str(src)])
    said = capsys.readouterr().out
    assert "PhysioNet" in said
    assert "in_hospital_mortality" in said
    assert sorted(src.rglob("*")) == before
