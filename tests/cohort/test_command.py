"""`python data.py ...` as a user meets it: flags, output, exit status."""

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import seqsetvae
from seqsetvae.cohort import compile as compiling
from seqsetvae.cohort import notices, open_cohort
from seqsetvae.cohort.command import _parse, main
from seqsetvae.cohort.report import no_statistics
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.cohort.sources.seqsetvae_layout import DEFAULT_LABEL

from .test_compile import compiled


def test_compile_prints_a_summary(folder, capsys):
    folder.stay("train", "9", [])
    folder.stay("valid", "4", [("ferritin", 5, 7), ("ferritin", 4, 3)])
    folder.csv("cached.csv", "Key,0\nheart rate,1\nlactate,2\nferritin,3\n")
    out = folder.root.parent / "out"
    assert main(["compile", str(folder.ehr), str(out), "--jobs", "1"]) == 0
    text = capsys.readouterr().out
    assert "train            2            3             4           0         1   50.0%" in text
    assert "valid            2            4             4           1         1  100.0%" in text
    assert text.endswith("\n".join(notices(open_cohort(out))) + "\n")
    assert (out / "cached.csv").read_bytes() == (folder.root / "cached.csv").read_bytes()


def test_sets_of_some_hours_reach_the_cohort(folder, capsys):
    out = folder.root.parent / "out"
    words = ["compile", str(folder.ehr), str(out), "--set_hours"]
    for wrong in ("0", "-1", "nan"):
        with pytest.raises(SystemExit):
            main([*words, wrong])
        assert "is not a number above 0" in capsys.readouterr().err
    assert main([*words, "1.5"]) == 0
    assert open_cohort(out).split("train").n_sets == 2


def test_notices_list_what_is_unusual_one_per_line(folder):
    assert notices(compiled(folder)) == []
    bad = folder.stay("train", "7", [("lactate", float("nan"), 0)])
    folder.stay("train", "8", [])
    folder.stay("train", "9", [("lactate", 2, 1), ("lactate", 1, 0)])
    folder.stay("train", "10", [*[(f"new {i}", 1.0, 2.0) for i in range(9)], ("new 8", 1, 3)])
    (folder.root / "cached.csv").unlink()
    cohort = compiled(folder, "odd", skip_bad=True)
    named = ", ".join(f"'new {i}' (1 event)" for i in range(7))
    assert notices(cohort, examples=True) == [
        "1 stay with rows out of time order, which were sorted",
        f"9 variables {no_statistics(cohort)}: 'new 8' (2 events), {named} and 1 more",
        f"1 faulty file left out; see {cohort.path / 'skipped.csv'}",
        f"1 file, 1 row: a value that is missing or not a finite number, for example {bad}, row 0 (counted from 0), "
        "variable 'lactate': value is nan, not a finite number that float32 can hold",
        "--skip_bad left out 1 of 6 stays (16.7%); in_hospital_mortality: unknown of those left out, "
        "66.7% (of 3 with a label) of those kept",
        f"1 stay with too few rows left out; see {cohort.path / 'skipped.csv'}",
    ]


def test_check_of_a_cohort_without_its_faulty_files_is_ready(folder, capsys):
    for number, split in enumerate(("train", "valid"), start=20):
        folder.stay(split, f"{number}", [("lactate", 1, 0)])
    folder.csv("oc.csv", f"ts_id,{DEFAULT_LABEL}\n1,1\n2,0\n3,1\n20,0\n21,0\n")
    folder.stay("train", "7", [("lactate", float("nan"), 0)])
    cohort = compiled(folder, skip_bad=True)
    assert main(["check", str(folder.root)]) == 1
    assert "1 faulty file, which --skip_bad leaves out:" in capsys.readouterr().out
    status, text = main(["check", str(cohort.path)]), capsys.readouterr().out
    assert status == 0, text
    assert "1 faulty file, left out when it was compiled:" in text
    (cohort.path / "skipped.csv").unlink()
    assert main(["check", str(cohort.path)]) == 1
    assert "skipped.csv" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--stats", "--embeddings_path", "--embedding_dim", "--leave_out_unknown"])
def test_flags_of_earlier_versions_say_where_they_went(folder, flag, capsys):
    src = folder.csv("events.csv", "id,time,variable,value\n")
    for words in (["compile", str(folder.ehr), "out"], ["table", str(src), "out"], ["check", str(src)]):
        with pytest.raises(SystemExit) as stop:
            main([*words, flag, "5"])
        assert stop.value.code == 2
        assert f"{flag}: a cohort holds values in their units" in capsys.readouterr().err


def test_errors_are_one_line_on_stderr_with_status_2(folder, capsys):
    for arguments, message in (
        (["compile", str(folder.ehr), str(folder.root)], "exists already"),
        (["compile", str(folder.ehr / "train"), "out"], "holds neither a compiled cohort"),
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert message in captured.err
        assert captured.out == ""


def test_an_abbreviated_flag_is_refused(folder, capsys):
    ehr, out = str(folder.ehr), str(folder.root.parent / "out")
    for arguments, flag in (
        (["compile", ehr, out, "--skip"], "--skip"),
        (["check", ehr, "--label_na", "died"], "--label_na"),
        (["physionet2012", ehr, out, "--test", "c"], "--test"),
        (["--vers"], "--vers"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert flag in capsys.readouterr().err
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("table --leave_out HR SRC OUT", "required: SRC, OUT. --leave_out: takes all words up to the next flag; put"),
        ("table SRC --static_columns age OUT", "--static_columns: takes all words up to the next flag; put SRC OUT be"),
        ("physionet2012 --test_sets c SRC OUT", "'SRC' (choose from 'a', 'b', 'c'). --test_sets: takes all words"),
        ("check --leave_out HR SRC", "come after such data: check SRC --flag"),
    ],
)
def test_a_flag_that_took_the_paths_is_named(words, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_flag_of_several_values_may_be_repeated():
    words = "--leave_out HR --leave_out Temp pH --categorical a --categorical b --static_columns c --static_columns d"
    arguments = _parse(["table", "SRC", "OUT", *words.split()])
    assert arguments.leave_out == ["HR", "Temp", "pH"]
    assert (arguments.categorical, arguments.static_columns) == (["a", "b"], ["c", "d"])
    words = "--test_sets a --test_sets b c"
    assert _parse(["physionet2012", "SRC", "OUT", *words.split()]).test_sets == ["a", "b", "c"]
    assert _parse(["table", "SRC", "OUT"]).leave_out == []


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"SeqSetVAE fine-tuning {seqsetvae.__version__}\n"
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "seqsetvae.__version__"}


def test_ctrl_c_ends_with_one_line_and_leaves_nothing(folder, monkeypatch, capsys):
    def pressed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)  # the signal arrives before this ends

    real = shutil.rmtree

    def pressed_again(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # while unfinished files are removed
        real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(compiling, "_number_variables", pressed)
    monkeypatch.setattr(shutil, "rmtree", pressed_again)
    before = signal.getsignal(signal.SIGINT)
    assert main(["compile", str(folder.ehr), str(folder.root.parent / "out")]) == 130
    assert capsys.readouterr().err == "interrupted; unfinished files were removed\n"
    assert [path.name for path in folder.root.parent.iterdir()] == ["processed"]
    assert signal.getsignal(signal.SIGINT) is before


def test_skip_bad_always_says_how_many_stays_it_left_out(folder, capsys):
    folder.csv("oc.csv", "ts_id,in_hospital_mortality\n1,0\n2.0,1\n3,1\n8,1\n")
    rest = "in_hospital_mortality: {} of those left out, 66.7% (of 3 with a label) of those kept\n"
    for bad, line in (
        (None, "--skip_bad left out 0 of 3 stays (0.0%); " + rest.format("unknown")),
        ("7", "--skip_bad left out 1 of 4 stays (25.0%); " + rest.format("unknown")),
        ("8", "--skip_bad left out 2 of 5 stays (40.0%); " + rest.format("100.0% (of 1 with a label)")),
    ):
        if bad:
            folder.stay("train", bad, [("lactate", None, 0)])
        assert main(["compile", str(folder.ehr), str(folder.root.parent / f"out{bad}"), "--skip_bad"]) == 0
        assert line in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["physionet2012"], ["compile"], ["check"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: python data.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("200001", 200001),
        ("200001.0", 200001),
        ("900719925474099301.0", 900719925474099301),  # beyond what a float holds
        ("-5", -5),
        ("1.5", None),
        ("1_0", None),
        ("nan", None),
        ("", None),
        ("9" * 30, None),
    ],
)
def test_stay_numbers(text, number):
    assert stay_number(text) == number


def test_no_torch_is_imported():
    code = "import sys, seqsetvae.cohort.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
