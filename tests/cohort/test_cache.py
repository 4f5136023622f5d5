"""From a folder to an open cohort: what is found, what recompiles, what a crash or a damaged byte does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqsetvae.cohort import Cohort, is_compiled, notices, open_cohort, open_or_compile
from seqsetvae.cohort import compile as compiling
from seqsetvae.cohort import open as cohort_open
from seqsetvae.cohort.command import main
from seqsetvae.cohort.format import ARRAYS
from seqsetvae.cohort.imported import read_skipped
from seqsetvae.cohort.sources.seqsetvae_layout import SideFiles
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import AlreadyThereError
from tests.tiny import largest_file

from .conftest import Folder
from .test_compile import compiled


def found(folder: Folder, **options: object) -> Cohort:
    cache = folder.root.parent / "cache"
    return open_or_compile(folder.ehr, cache_root=cache, progress=False, **options)  # type: ignore[arg-type]


def test_an_old_layout_is_compiled_once(folder, monkeypatch):
    first = found(folder)
    monkeypatch.setattr("seqsetvae.cohort.open.compile_layout", lambda *_, **__: pytest.fail("compiled again"))
    assert found(folder).path == first.path
    assert (
        open_or_compile(folder.root, cache_root=first.path.parent).path == first.path
    )  # its parent names the same data
    for file in folder.root.rglob("*.*"):
        file.touch()  # times are not content
    assert found(folder).path == first.path


CHANGES: dict[str, Callable[[Folder], object]] = {
    "a stay is changed": lambda f: f.stay("train", "2.0", [("lactate", 1.5, 5)]),
    "a stay is added": lambda f: f.stay("train", "9.0", [("lactate", 1, 5)]),
    "a stay is removed": lambda f: (f.ehr / "train" / "2.0.parquet").unlink(),
    "a stay is renamed": lambda f: (f.ehr / "train" / "2.0.parquet").rename(f.ehr / "train" / "4.0.parquet"),
    "a stay changes split": lambda f: (f.ehr / "train" / "2.0.parquet").rename(f.ehr / "valid" / "2.0.parquet"),
    "oc.csv": lambda f: f.csv("oc.csv", "ts_id,in_hospital_mortality\n1,1\n"),
    "no oc.csv": lambda f: (f.root / "oc.csv").unlink(),
}


UNUSABLE: dict[str, tuple[Callable[[Folder], object], str]] = {
    "a std": (
        lambda f: f.csv("stats.csv", "variable,mean,std\nheart rate,80,1e300\n"),
        "'heart rate': mean 80.0, std 1e",
    ),
    "a mean": (lambda f: f.csv("stats.csv", "variable,mean,std\nlactate,1e39,1e38\n"), "'lactate': mean 1e\\+39, std"),
    "an embedding": (lambda f: f.csv("cached.csv", "Key,0\nheart rate,1e39\nlactate,2\n"), "embedding of 'heart rate'"),
    "values": (
        lambda f: (
            (f.root / "stats.csv").unlink(),
            (f.root / "cached.csv").unlink(),
            f.stay("train", "9", [("new", 3.4e38, 0), ("new", -3.4e38, 1)]),
        ),
        "training split cannot normalise 1 variables.*'new': mean 0, std 4.8",
    ),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_number_that_float32_cannot_hold_is_an_error_when_a_model_reads_the_cohort(folder, what):
    make, message = UNUSABLE[what]
    make(folder)
    with pytest.raises(InputError, match=f"(?s){message}"):
        found(folder)


@pytest.mark.parametrize(
    ("rows", "label_name", "message"),
    [
        ([("lactate", 1.0, 1e39)], "died", "'lactate': minute is 1e\\+39"),
        ([("lactate", 1.0, 1.0)], " ", "name of the label is ' ': it must not be blank"),
    ],
)
def test_what_cannot_be_compiled_leaves_nothing_at_out_or_in_the_cache(folder, rows, label_name, message):
    folder.stay("train", "9", rows)
    (folder.root / "oc.csv").unlink()
    with pytest.raises(InputError, match=f"(?s){message}"):
        compiled(folder, label_name=label_name)
    assert not (folder.root.parent / "out").exists()
    with pytest.raises(InputError, match=f"(?s){message}"):
        found(folder, label_name=label_name)
    assert not list(folder.root.parent.glob("cache/*"))


def test_what_cannot_be_read_again_never_becomes_the_cohort(folder, monkeypatch):
    """Whatever else the reader of a manifest refuses: it is asked before the folder gets its name."""
    written = compiling.write_manifest
    monkeypatch.setattr(compiling, "write_manifest", lambda path, head: written(path, head | {"source": 5}))
    with pytest.raises(InputError, match="source is 5"):
        compiled(folder)
    assert not (folder.root.parent / "out").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_compiles_again(folder, change):
    before = found(folder)
    CHANGES[change](folder)
    after = found(folder)
    assert after.path != before.path
    assert after.content_hash != before.content_hash


def test_another_label_is_another_cohort_and_other_statistics_are_not(folder):
    folder.csv("oc.csv", "ts_id,in_hospital_mortality,sepsis\n1,0,1\n")
    other = folder.csv("other.csv", "variable,mean,std\nheart rate,0,1\nlactate,0,1\n")
    plain, with_other = found(folder), found(folder, named=SideFiles(stats=other))
    assert plain.path == with_other.path != found(folder, label_name="sepsis").path
    assert plain.data_hash == with_other.data_hash
    assert plain.content_hash != with_other.content_hash
    assert found(folder, label_name="sepsis").split("train").label.tolist() == [1, -1]


def test_a_compiled_cohort_takes_no_labels(folder):
    cohort = compiled(folder)
    assert open_or_compile(cohort.path, cache_root=folder.root).content_hash == cohort.content_hash
    with pytest.raises(InputError, match=r"which holds its labels already\. Leave out --label_path oc"):
        open_or_compile(cohort.path, named=SideFiles(labels=Path("oc.csv")), cache_root=folder.root)


def test_the_label_of_a_compiled_cohort_is_its_own(folder):
    folder.csv("oc.csv", "ts_id,died\n1,0\n2,1\n")
    path = compiled(folder, label_name="died").path
    for label_name in (None, "died"):
        assert open_or_compile(path, label_name=label_name, cache_root=folder.root).label_name == "died"
    with pytest.raises(InputError, match=r"--label_name sepsis: .*out was compiled with the label died\."):
        open_or_compile(path, label_name="sepsis", cache_root=folder.root)


def test_the_label_of_an_old_layout_is_in_hospital_mortality_unless_named(folder):
    assert found(folder).path == found(folder, label_name="in_hospital_mortality").path
    assert found(folder).label_name == "in_hospital_mortality"


def test_hashing_shows_its_progress_before_and_after_compiling(folder, monkeypatch):
    bars: list[tuple[object, object]] = []
    real = cohort_open.tqdm

    def recorded(**options: object) -> object:
        bars.append((options["total"], options["disable"]))
        return real(**options)

    monkeypatch.setattr(cohort_open, "tqdm", recorded)
    open_or_compile(folder.ehr, cache_root=folder.root.parent / "cache")
    assert bars == [(4, None)] * 2  # disable None = shown on a terminal only
    found(folder)
    assert bars[2:] == [(4, True)]


def test_stats_csv_may_be_beside_or_in_the_folder_or_be_named(folder):
    moved = (folder.root / "stats.csv").rename(folder.ehr / "stats.csv")
    assert found(folder).mean.tolist() == [80, 2]  # inside patient_ehr will do
    elsewhere = moved.rename(folder.root.parent / "elsewhere.csv")
    assert found(folder, named=SideFiles(stats=elsewhere)).mean.tolist() == [80, 2]
    with pytest.raises(InputError, match=r"--params_map_path nowhere\.csv: no such file"):
        found(folder, named=SideFiles(stats=Path("nowhere.csv")))


def test_without_stats_csv_statistics_come_from_the_train_split_and_a_notice_says_so(folder):
    with_file = found(folder)
    assert not any("train split" in line for line in notices(with_file))
    (folder.root / "stats.csv").unlink()
    folder.stay("valid", "4", [("heart rate", 1e6, 0)])  # does not count
    cohort = found(folder)
    assert cohort.mean.tolist() == [80, 2]
    np.testing.assert_allclose(cohort.std, [np.std([90, 70], ddof=1), np.std([3, 1], ddof=1)])
    assert cohort.variables.statistics == "train split"
    assert "mean and std of each variable are those of the train split" in notices(cohort)


def test_without_stats_csv_and_without_a_train_split_there_are_no_statistics(folder):
    (folder.root / "stats.csv").unlink()
    for file in (folder.ehr / "train").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"no train split to compute statistics from. Pass a stats.csv"):
        found(folder)


def test_a_folder_without_data_says_what_it_holds(folder):
    (folder.root / "patient_ehr").rename(folder.root / "ehr")
    with pytest.raises(InputError, match=r"neither a compiled cohort.*Found: cached.csv, ehr/, oc.csv, stats.csv"):
        open_or_compile(folder.root, cache_root=folder.root)


def test_one_split_is_enough(folder):
    for file in (folder.ehr / "train").iterdir():
        file.unlink()
    assert list(found(folder).splits) == ["valid"]


def test_a_crash_leaves_nothing_behind(folder, monkeypatch):
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compiling, "_number_variables", crash)
    with pytest.raises(KeyboardInterrupt):
        compiled(folder)
    assert [path.name for path in folder.root.parent.iterdir()] == ["processed"]


@pytest.mark.parametrize("size", [100, 200, 700], ids=["arrays", "sums", "manifest"])
def test_a_full_disk_is_one_error_and_leaves_nothing_behind(folder, size, capsys):
    out, work = folder.root.parent / "out", folder.root.parent / "work"
    work.mkdir()
    with largest_file(size):
        assert main(["compile", str(folder.root), str(out)]) == 2
        assert main(["check", str(folder.root), "--work_dir", str(work)]) == 2
    captured = capsys.readouterr()
    compiling_failed, check_failed = captured.err.splitlines()
    assert compiling_failed.startswith(f"error: {out}: cannot be written (")
    assert check_failed.startswith(f"error: --work_dir {work}: ")
    assert captured.out == ""  # not a fault of the data
    assert sorted(path.name for path in folder.root.parent.rglob("*partial*")) == []
    assert not out.exists()
    assert not list(work.iterdir())


def test_an_existing_folder_is_never_overwritten(folder):
    (folder.root.parent / "out").mkdir()
    with pytest.raises(AlreadyThereError, match="exists already and is not overwritten"):
        compiled(folder)


def test_the_entry_of_a_faster_process_is_used(folder, monkeypatch):
    real = compiling.write_skipped

    def overtaken(partial: Path, skips: list[object]) -> None:
        monkeypatch.setattr(compiling, "write_skipped", real)
        found(folder)  # another process finishes the same entry while this one still works
        real(partial, skips)  # type: ignore[arg-type]

    monkeypatch.setattr(compiling, "write_skipped", overtaken)
    cohort = found(folder)
    assert [path.name for path in cohort.path.parent.iterdir()] == [cohort.path.name]


def test_files_that_change_while_they_are_compiled_leave_no_entry(folder, monkeypatch):
    real = compiling.write_skipped

    def disturbed(partial: Path, skips: list[object]) -> None:
        folder.stay("train", "2.0", [("lactate", 1.5, 5)])
        real(partial, skips)  # type: ignore[arg-type]

    monkeypatch.setattr(compiling, "write_skipped", disturbed)
    with pytest.raises(InputError, match="files changed while they were being compiled"):
        found(folder)
    assert not list((folder.root.parent / "cache").iterdir())


FILES = [f"train/{array}.npy" for array in ARRAYS] + ["train/sums.npy"]


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_noticed(folder, name):
    path = compiled(folder).path
    file = path / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: damaged .*compile the data again"):
        open_cohort(path)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_missing_file_is_noticed_without_checksums(folder, name):
    path = compiled(folder).path
    file = path / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{name}: damaged"):
        open_cohort(path, verify=False)
    file.unlink()
    with pytest.raises(InputError, match=f"{name}: damaged .the file is missing"):
        open_cohort(path, verify=False)


def test_an_array_of_another_shape_is_noticed_without_checksums(folder):
    path = compiled(folder).path
    np.save(path / "train" / "label.npy", np.zeros(3, dtype=np.int8))
    with pytest.raises(InputError, match=r"label.npy: damaged \(3 entries, not 2\)"):
        open_cohort(path, verify=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,row,variable,reason\na,1,b,c\n", "its columns are file, row, variable, reason, not file, row"),
        ("file,row,variable,reason,kind\na,one,b,c,fault\n", "'one'"),
        ("file,row,variable,reason,kind\na,1,b\n", "missing 2 required"),
        ("file,row,variable,reason,kind\na,1,b,c,?\n", "not in tuple"),
        ("", "not enough values"),
    ],
)
def test_a_damaged_skipped_csv_is_an_error(folder, text, message, capsys):
    path = compiled(folder).path
    (path / "skipped.csv").write_text(text)
    with pytest.raises(InputError, match=f"skipped.csv: damaged .*{message}.*compile the data again"):
        read_skipped(path)
    assert main(["check", str(path)]) == 1
    assert "skipped.csv: damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged .not JSON"),
        ('{"format": "other"}', "not the manifest of a compiled cohort"),
        ('{"format": "seqsetvae-cohort", "version": 99}', "format version 99, while this program reads version 2"),
        ('{"format": "seqsetvae-cohort", "version": 1}', "version 1 of this format was last read by version 0.2.0"),
        ('{"format": "seqsetvae-cohort"}', "format version None, while"),
        ('{"format": "seqsetvae-cohort", "version": 2}', "damaged .manifest_checksum is missing"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_an_error_with_a_reason(tmp_path, content, message):
    (tmp_path / "manifest.json").write_text(content)
    assert is_compiled(tmp_path)
    with pytest.raises(InputError, match=message):
        open_cohort(tmp_path)


def test_a_folder_that_is_not_a_cohort(tmp_path):
    assert not is_compiled(tmp_path)
    with pytest.raises(InputError, match="is not a compiled cohort"):
        open_cohort(tmp_path)
