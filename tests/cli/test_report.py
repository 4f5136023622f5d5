"""--mode report, and the report that fine-tuning writes at its end."""

import json
import shutil
from pathlib import Path

import pytest

from seqsetvae import report
from tests.command import argv, call, finetune, real_reports, refused, run_of, succeeded


def test_fine_tuning_ends_with_a_report(finished):
    run, printed = finished
    assert printed.rstrip().endswith(f"Report: {run / 'report.html'}")
    best = json.loads((run / "summary.json").read_text())["best"]["val_auc"]
    assert f"{best:.3f}" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "figures" / "val_auc.png").is_file()


def _without_jinja2(monkeypatch: pytest.MonkeyPatch) -> None:
    find = report.find_spec
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == "jinja2" else find(name))


def test_without_the_packages_fine_tuning_says_so_in_one_line(pretrained, old_layout, tmp_path, monkeypatch):
    _without_jinja2(monkeypatch)
    with real_reports():
        status, printed, errors = finetune(pretrained, old_layout, tmp_path, max_epochs=1, unfreeze_after=1)
    assert (status, errors) == (0, "")
    assert printed.splitlines()[-1] == (
        "No report was written: a report needs jinja2, which is not installed. Install with: pip install jinja2"
    )
    assert not (run_of(tmp_path) / "report.html").exists()


def test_without_the_packages_the_mode_is_one_error(finished, monkeypatch):
    _without_jinja2(monkeypatch)
    errors = refused(call(argv(mode="report", runs=finished[0])))
    assert errors == "error: a report needs jinja2, which is not installed. Install with: pip install jinja2\n"


def test_a_report_that_fails_does_not_fail_the_run(tmp_path, monkeypatch, capsys):
    def fail(_: Path) -> Path:
        raise RuntimeError("no font")

    monkeypatch.setattr(report, "write_report", fail)
    (tmp_path / "train.log").write_text("Epoch 1\n")
    with real_reports():
        report.report_finished_run(tmp_path)
    assert capsys.readouterr().out == "No report was written: RuntimeError: no font\n"
    assert (tmp_path / "train.log").read_text() == "Epoch 1\nNo report was written: RuntimeError: no font\n"


def test_one_run_gets_report_html(run):
    (run / "report.html").write_text("old")
    printed = succeeded(call(argv(mode="report", runs=run)))
    assert printed == f"Wrote {run / 'report.html'}\n"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_several_runs_are_compared_in_a_new_folder_each_time(finished, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished[0], other)
    words = ["--mode", "report", "--runs", str(finished[0]), str(other), "--output_root_dir", str(tmp_path / "out")]
    for count in (1, 2):
        printed = succeeded(call(words))
        assert Path(printed.split(" ", 1)[1].strip()).is_file()
        assert len(list((tmp_path / "out").glob("comparison-*/report.html"))) == count


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "runs: not given; --mode report needs --runs"),
        (["gone"], "runs: received 'gone', which does not exist"),
        (["file"], "which is not a folder; allowed: run folders"),
        (["folder", "folder"], "runs: received a folder twice; allowed: each run once"),
        (["folder"], "is not a run folder (it has no config.json)"),
        (["file", "gone"], "runs: received 'file gone', which does not exist"),
    ],
)
def test_what_is_no_run_folder_is_one_error(tmp_path, monkeypatch, runs, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert message in refused(call(["--mode", "report", *(["--runs", *runs] if runs else [])]))


def test_runs_may_be_given_one_flag_at_a_time(tmp_path):
    errors = refused(call(["--mode", "report", "--runs", str(tmp_path), "--runs", str(tmp_path)]))
    assert "received a folder twice" in errors


def test_a_figures_folder_that_cannot_be_made_is_one_error(run):
    shutil.rmtree(run / "figures")
    (run / "figures").touch()
    (run / "report.html").write_text("older")
    assert "figures: cannot be written" in refused(call(argv(mode="report", runs=run)))
    assert (run / "report.html").read_text() == "older"
