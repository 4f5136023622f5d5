"""Faulty data, fault by fault, as docs/data-faults.md lists them."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import Cohort, checks, compile_cohort
from seqsetvae.cohort.checks import check_folder
from seqsetvae.cohort.command import main
from seqsetvae.cohort.imported import read_skipped
from seqsetvae.cohort.report import without_statistics
from seqsetvae.cohort.tidy import Source
from seqsetvae.system.errors import InputError

from .conftest import Folder, Row
from .test_compile import compiled, sets_of


def _rows(*rows: Row, set_index: Sequence[int] | None = None) -> Callable[[Folder], Path]:
    return lambda folder: folder.stay("train", "9", rows, set_index)


def _table(**columns: object) -> Callable[[Folder], Path]:
    return lambda folder: folder.table("train", "9", columns)


def _twice(folder: Folder) -> Path:
    file = folder.ehr / "train" / "9.parquet"
    table = pa.Table.from_arrays([pa.array(["a"]), *[pa.array([1.0])] * 3], ["variable", "value", "minute", "value"])
    pq.write_table(table, file)
    return file


def _latin_1() -> pa.Array:
    """One text whose bytes are not UTF-8."""
    text = "fièvre".encode("latin-1")
    ends = np.array([0, len(text)], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(ends), pa.py_buffer(text)])


def _damage(folder: Folder) -> Path:
    file = folder.stay("train", "9", [("lactate", 1, 0)])
    file.write_bytes(file.read_bytes()[:-9])
    return file


NAN, INF = float("nan"), float("inf")
TWO_MINUTES = _rows(("a", 1, 5), ("b", 1, 9), ("c", 1, 6), set_index=[1, 2, 1])
NO_INDEX = _table(variable=["a"], value=[1.0], minute=[0], set_index=pa.array([None], pa.int64()))
BAD_FILES: dict[str, tuple[Callable[[Folder], Path], str]] = {
    "NaN": (_rows(("lactate", 1, 0), ("lactate", NAN, 1)), r"9\.parquet, row 1 .*variable 'lactate': value is nan"),
    "infinite value": (_rows(("lactate", -INF, 0)), "row 0 .*variable 'lactate': value is -inf"),
    "value beyond float32": (_rows(("lactate", 1e39, 0)), "'lactate': value is 1e\\+39"),
    "null value": (_rows(("lactate", None, 0)), "row 0 .*variable 'lactate': value is nan"),
    "no minute": (_rows(("lactate", 1, None)), "row 0 .*'lactate': minute is nan"),
    "null variable": (_rows((None, 1, 0)), "row 0 .*: the variable has no name"),
    "blank variable": (_rows(("a", 1, 0), (" ", 1, 0)), "row 1 .*the variable has no name"),
    "set with two minutes": (TWO_MINUTES, "row 2 .*variable 'c': set_index 1 has two minutes, 5 and 6"),
    "text": (_table(variable=["a"], value=["high"], minute=[0]), "column value holds string, not numbers"),
    "no minutes": (_table(variable=["a"], value=[1.0]), "column minute is missing; the columns are variable, value"),
    "no variable": (
        _table(name=["a"], value=[1.0], minute=[0]),
        r"9\.parquet: column variable is missing; the columns are name, value, minute",
    ),
    "two missing columns": (
        _table(name=["a"], minute=[0]),
        r"9\.parquet: column variable, value is missing; the columns are name, minute",
    ),
    "a column twice": (_twice, r"9\.parquet: column value occurs twice"),
    "lists": (_table(variable=[["a"]], value=[1.0], minute=[0]), r"9\.parquet: column variable holds list"),
    "not in UTF-8": (
        _table(variable=_latin_1(), value=[1.0], minute=[0]),
        r"9\.parquet: column variable is not text in UTF-8",
    ),
    "no set_index in one row": (NO_INDEX, "row 0 .*variable 'a': set_index is nan"),
    "no parquet": (_damage, r"9\.parquet: not a readable parquet file"),
    "name of the file": (lambda f: f.stay("train", "patient", [("a", 1, 0)]), "'patient.parquet' is not a stay number"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_stops_compilation_or_is_skipped(folder, fault):
    make, message = BAD_FILES[fault]
    make(folder)
    with pytest.raises(InputError, match=f"(?s){message}.*--skip_bad"):
        compiled(folder)
    assert not (folder.root.parent / "out").exists()
    cohort = compiled(folder, skip_bad=True)
    assert cohort.split("train").stay_id.tolist() == [1, 2]
    assert cohort.vocabulary == ("heart rate", "lactate")  # nothing of the faulty file is left
    assert cohort.manifest["report"]["faulty_files"] == 1
    assert [skip.is_fault for skip in read_skipped(cohort.path)] == [True]


def test_good_stays_of_a_chunk_with_faults_keep_their_rows(folder):
    folder.stay("train", "0", [("lactate", float("nan"), 0)])
    folder.stay("train", "1.5e0", [("lactate", 7, 0)])
    folder.stay("train", "8", [("a", 1, 5), ("b", 1, 6)], set_index=[1, 1])
    folder.stay("train", "9", [])
    folder.stay("train", "10", [("lactate", 5, 3)])
    cohort = compiled(folder, skip_bad=True)
    assert cohort.split("train").stay_id.tolist() == [1, 2, 10]
    assert sets_of(cohort, "train", 2) == [(3, [("lactate", 5)])]
    names = [Path(skip.file).name for skip in read_skipped(cohort.path)]
    assert names == ["1.5e0.parquet", "0.parquet", "8.parquet", "9.parquet"]


def test_one_error_names_all_kinds_of_faults_with_counts_and_an_example(folder):
    """Not the first file alone: whoever corrects it should not meet the next kind an hour later."""
    folder.csv("oc.csv", "ts_id,in_hospital_mortality\n1,0\n2,0\n3,1\n7,1\n8,1\n")
    folder.stay("train", "7", [("lactate", None, 0)])
    folder.stay("valid", "8", [("lactate", 1, 0), ("heart rate", float("inf"), 0)])
    folder.table("valid", "9", {"variable": ["a"], "value": [1.0]})
    folder.stay("train", "patient", [("a", 1, 0)])
    with pytest.raises(InputError) as error:
        compiled(folder)
    first, *kinds, advice, share = str(error.value).splitlines()
    assert first == "4 faulty files:"
    assert [kind.split(", for example ")[0] for kind in kinds] == [
        "  2 files, 2 rows: a value that is missing or not a finite number",
        "      'lactate': 'nan': 1 row of 1 file",
        "      'heart rate': 'inf': 1 row of 1 file",
        "  1 file: a name that is not a stay number",
        "  1 file: a missing column",
    ]
    assert f"for example {folder.ehr}/train/7.parquet, row 0" in kinds[0]
    assert "--skip_bad" in advice
    assert share == (
        "--skip_bad would leave out 4 of 7 stays (57.1%); in_hospital_mortality: "
        "100.0% (of 2 with a label) of those left out, 33.3% (of 3 with a label) of those kept."
    )
    assert not (folder.root.parent / "out").exists()


def test_faulty_rows_are_counted_by_kind_variable_and_text(folder):
    folder.stay("train", "7", [("lactate", None, 0), ("lactate", None, 1), ("heart rate", float("inf"), 1)])
    folder.stay("train", "8", [("lactate", None, 0), (None, 1, 0), ("lactate", 1, None)])
    with pytest.raises(InputError) as error:
        compiled(folder)
    assert [line.split(", for example ")[0] for line in str(error.value).splitlines()[:6]] == [
        "2 faulty files:",
        "  2 files, 4 rows: a value that is missing or not a finite number",
        "      'lactate': 'nan': 3 rows of 2 files",
        "      'heart rate': 'inf': 1 row of 1 file",
        "  1 file, 1 row: a row without a variable name",
        "  1 file, 1 row: a minute that is missing or not a finite number",
    ]


def test_an_empty_stay_is_left_out_and_listed(folder):
    folder.stay("train", "9", [])
    cohort = compiled(folder)
    assert cohort.split("train").n_stays == 2
    assert cohort.manifest["report"]["left_out"] == 1
    (skip,) = read_skipped(cohort.path)
    assert (Path(skip.file).name, skip.reason, skip.is_fault) == ("9.parquet", "the stay has no rows", False)


def test_a_split_with_only_empty_stays_is_an_error(folder):
    folder.stay("test", "9", [])
    with pytest.raises(InputError, match="split test has no usable stay"):
        compiled(folder)


def test_a_stay_in_two_splits_is_an_error(folder):
    folder.stay("test", "1", [("lactate", 1, 0)])
    with pytest.raises(InputError, match=r"(?s)1 stays occur in more.*1: .*train/1.0.parquet, .*test/1.parquet"):
        compiled(folder)


LABELS = "ts_id,in_hospital_mortality\n"
SIDE_FILES: dict[str, tuple[str, str, str]] = {  # file, content, error
    **{
        f"std {std or 'empty'}": (
            "stats.csv",
            f"variable,mean,std\nheart rate,80,{std}\nlactate,2,1\nnot in the data,0,0\n",
            r"(?s)stats.csv.*'heart rate': mean 80.0, std(?!.*not in the data)",
        )
        for std in ("0", "nan", "", "-1", "inf")
    },
    "mean": ("stats.csv", "variable,mean,std\nheart rate,inf,1\nlactate,2,1\n", "'heart rate': mean inf"),
    "two statistics": (
        "stats.csv",
        "variable,mean,std\nlactate,2,1\nlactate,2,1\nlactate,2,3\n",
        r"row 2 .*: variable 'lactate' is given twice",
    ),
    "no embedding": (
        "cached.csv",
        "Key,0\nsomething else,1\n",
        r"(?s)no embedding for 2 of 2.*'heart rate': 3 events.*'lactate': 3 events",
    ),
    "embedding not finite": (
        "cached.csv",
        "Key,0\nheart rate,1\nlactate,nan\n",
        "embedding of 'lactate' contains numbers that are not finite",
    ),
    "two vectors": ("cached.csv", "Key,0\nheart rate,1\nlactate,2\nlactate,3\n", "'lactate' has two different vectors"),
    "no such label": ("oc.csv", "ts_id,died\n1,0\n", "no column in_hospital_mortality. Its columns are: ts_id, died"),
    "label 2": ("oc.csv", LABELS + "1,0\n2,2\n", "row 1 .*in_hospital_mortality: '2' is not a label; allowed: 0, 1"),
    "label yes": ("oc.csv", LABELS + "1,yes\n", "row 0 .*in_hospital_mortality: 'yes' is not a label"),
    "stay one": ("oc.csv", LABELS + "one,1\n", "row 0 .*column ts_id: 'one' is not a whole number"),
    "two labels": (
        "oc.csv",
        LABELS + "1,0\n1.0,1\n",
        "row 0 .* and .*row 1 .*: two different labels for '1'. Keep one",
    ),
    "a cell too few": ("oc.csv", LABELS + "1\n", "Row #2: Expected 2 columns, got 1"),
}


@pytest.mark.parametrize("fault", SIDE_FILES)
def test_a_faulty_side_file_is_an_error(folder, fault):
    name, text, message = SIDE_FILES[fault]
    folder.csv(name, text)
    with pytest.raises(InputError, match=message):
        compiled(folder)


def test_a_variable_without_statistics_keeps_its_raw_value(folder):
    folder.csv("stats.csv", "variable,mean,std\nheart rate,80,10\n")
    cohort = compiled(folder)
    assert np.isnan(cohort.mean).tolist() == [False, True]
    assert without_statistics(cohort) == {"lactate": 3}


def test_side_files_may_have_the_byte_order_mark_of_excel(folder):
    folder.csv("oc.csv", "ts_id,in_hospital_mortality\n1,0\n2,1\n3,1\n")
    folder.csv("cached.csv", "Key,0,1\nheart rate,1,2\nlactate,3,4\n")
    plain = compiled(folder).content_hash
    shutil.rmtree(folder.root.parent / "out")
    for name in ("oc.csv", "stats.csv", "cached.csv"):
        file = folder.root / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert compiled(folder).content_hash == plain


def test_without_cached_csv_embeddings_are_generated(folder):
    (folder.root / "cached.csv").unlink()
    cohort = compiled(folder)
    assert cohort.variables.given is None
    assert cohort.embeddings.shape == (2, 768)


def test_a_stay_without_a_label_is_never_a_zero(folder):
    folder.csv("oc.csv", "other,ts_id,in_hospital_mortality\nx,1.0,\nx,3,1.0\n")
    cohort = compiled(folder)
    assert cohort.split("train").label.tolist() == [-1, -1]  # an empty label, no row at all
    assert cohort.split("valid").label.tolist() == [1]
    assert cohort.manifest["report"]["stays_without_label"] == 2


def test_without_oc_csv_no_stay_has_a_label(folder):
    (folder.root / "oc.csv").unlink()
    assert (compiled(folder).split("train").label == -1).all()


def test_check_reports_all_faults_at_once(folder, capsys):
    folder.stay("test", "1", [("lactate", 1, 0)])
    folder.stay("test", "8", [("lactate", 999, 0), ("ferritin", 3, 1)])
    folder.stay("test", "9", [])
    folder.stay("train", "7", [("lactate", float("inf"), 0)])
    folder.csv("stats.csv", "variable,mean,std\nheart rate,80,0\nlactate,2,1\n")
    assert main(["check", str(folder.root)]) == 1
    text = capsys.readouterr().out
    for expected in (
        "1 stay in two splits or files",
        "1 variable with statistics that cannot be used (mean and std must be finite numbers that float32 can hold, "
        "the std above 0):\n      'heart rate': mean 80.0, std 0.0",
        "1 variable without an embedding in cached.csv:\n      'ferritin'",
        "value is inf, not a finite number that float32 can hold",
        "1 stay left out",
        "valid: 1 positive and 0 negative stays; an AUC needs both",
        "test: 1 stay without a label",
        "'lactate': 1 event, the furthest 999 (z = +997.0)",
        "'ferritin': 1 event",
        "5 errors, ",
    ):
        assert expected in text


def test_check_reports_good_data_as_ready_in_either_form(folder, capsys):
    folder.stay("valid", "4", [("lactate", 1, 0)])
    folder.csv("oc.csv", "ts_id,in_hospital_mortality\n1,0\n2,1\n3,1\n4,0\n")
    cohort = compiled(folder)
    for data in (folder.ehr, cohort.path):
        assert main(["check", str(data)]) == 0
        assert capsys.readouterr().out.endswith("0 errors, 0 warnings: ready for training.\n")


def test_check_finds_side_files_or_takes_named_ones(folder, capsys):
    folder.csv("oc.csv", "ts_id,died\n1,0\n2,1\n3,1\n4,0\n")
    folder.stay("valid", "4", [("lactate", 1, 0)])
    elsewhere = folder.root.parent / "elsewhere"
    elsewhere.mkdir()
    for name in ("stats.csv", "oc.csv", "cached.csv"):
        (folder.root / name).rename(elsewhere / name)
    assert main(["check", str(folder.ehr)]) == 1
    computed = "there is no stats.csv: mean and std of each variable are computed from the training split"
    assert computed in capsys.readouterr().out
    for stats, labels, vectors in (
        ("--stats", "--labels", "--embeddings"),
        ("--params_map_path", "--label_path", "--embeddings_path"),
    ):
        flags = zip((stats, labels, vectors), ("stats.csv", "oc.csv", "cached.csv"), strict=True)
        given = [part for flag, name in flags for part in (flag, str(elsewhere / name))]
        assert main(["check", str(folder.ehr), "--label_name", "died", *given]) == 0
        text = capsys.readouterr().out
        assert "label: died" in text
        assert text.endswith("0 errors, 0 warnings: ready for training.\n")


def test_check_with_invalid_flags_is_an_error(folder, capsys):
    cohort, stats = str(compiled(folder).path), str(folder.root / "stats.csv")
    for arguments, message in (
        ([cohort, "--labels", stats], f"Leave out --label_path {stats}"),
        ([str(folder.ehr), "--labels", "nowhere.csv"], "--label_path nowhere.csv: no such file"),
        ([str(folder.ehr), "--work_dir", "/no/such"], "--work_dir /no/such: "),
    ):
        assert main(["check", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["check", cohort, "--label_name", "sepsis"]) == 1
    assert "was compiled with the label in_hospital_mortality" in capsys.readouterr().out


def test_check_compiles_in_the_folder_named_and_leaves_nothing_there(folder, monkeypatch):
    work = folder.root.parent / "work"
    work.mkdir()
    places = []

    def spied(source: Source, out: Path, **options: object) -> Cohort:
        places.append(out)
        return compile_cohort(source, out, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checks, "compile_cohort", spied)
    main(["check", str(folder.ehr), "--work_dir", str(work)])
    assert [work in place.parents for place in places] == [True]
    assert not list(work.iterdir())


def test_check_counts_extreme_values_over_all_blocks(folder, monkeypatch):
    values = [200.0, -500, 80, 700, -541, 60]  # mean 80, std 10: beyond 10 standard deviations but for 80 and 60
    folder.stay("train", "9", [("heart rate", value, minute) for minute, value in enumerate(values)])
    for n_events in (1 << 20, 2):
        monkeypatch.setattr("seqsetvae.cohort.format.EVENTS_PER_BLOCK", n_events)
        (finding,) = [finding for finding in check_folder(folder.ehr).findings if "more than 10" in finding.text]
        assert finding.items == ("'heart rate': 4 events, the furthest -541 (z = -62.1)",)


def test_check_reports_a_damaged_cohort(folder, capsys):
    cohort = compiled(folder)
    (cohort.path / "train" / "value.npy").unlink()
    assert main(["check", str(cohort.path)]) == 1
    assert "value.npy: damaged (the file is missing)" in capsys.readouterr().out


def test_check_of_a_folder_without_data(tmp_path, capsys):
    assert main(["check", str(tmp_path / "nothing")]) == 1
    assert "no such file or folder" in capsys.readouterr().out
