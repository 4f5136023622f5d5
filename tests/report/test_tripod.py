"""tripod.html: all items of TRIPOD+AI once, what the run knows beside what only its authors know, and its tables."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqsetvae.report.flow import flow_of, flow_picture, flow_table
from seqsetvae.report.run_files import Run, read_run
from seqsetvae.report.tripod import ITEMS, checklist, riley
from tests.command import call, command, refused, succeeded


@pytest.fixture(scope="module")
def run(finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated on its test split."""
    folder = tmp_path_factory.mktemp("tripod") / "run"
    shutil.copytree(finished[0], folder)
    succeeded(command("evaluate", ckpt=folder, split="test"))
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    status, said, errors = call(["report", "--runs", str(run), "--tripod"])
    assert (status, errors) == (0, "")
    assert said == f"Wrote {run / 'report.html'}\nWrote {run / 'tripod.html'}\n"
    return html.unescape((run / "tripod.html").read_text(encoding="utf-8"))


def test_there_are_27_items_in_52_parts_and_each_is_known_or_asked():
    numbers = [number for number, *_ in ITEMS]
    assert len(set(numbers)) == len(numbers) == 52
    assert list(dict.fromkeys(int(re.match(r"\d+", number)[0]) for number in numbers)) == list(range(1, 28))
    assert all(knows is not None or asks for _, _, knows, asks in ITEMS)


def test_the_page_has_every_item_with_the_numbers_of_the_run(page, run):
    cells = re.findall(r"<tr><td>(\d+[a-g]?)</td><td>(.*?)</td><td>(.*?)</td><td.*?>(.*?)</td></tr>", page)
    known = {number: text for number, _, text, _ in cells}
    assert [number for number, *_ in cells] == [number for number, *_ in ITEMS]
    figures = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["figures"]
    assert f"AUROC {figures['auroc']['value']:.3f} (" in known["23a"]
    assert "in_hospital_mortality (binary)" in known["8a"]
    assert "chosen by val_auc" in known["12c"]
    assert "Predictions are a weighted mean" not in known["12c"]
    assert not [number for number, _, text, asks in cells if text and "Run --mode" in asks]
    asked = {number: asks for number, _, text, asks in cells if not text}
    assert {"1", "5b", "17", "18a", "25"} <= asked.keys()
    assert all(asked.values())
    assert "/tmp" not in page


def test_the_tables_count_the_stays(page, run, compiled):
    read = read_run(run)
    flow = flow_of(read)
    assert flow is not None
    rows = {row[0]: row[1:] for row in flow_table(flow).rows}
    for name, counts in compiled.manifest["splits"].items():
        outcome = f"{counts['positives']:,} ({100 * counts['positives'] / counts['labelled']:.1f} %)"
        assert rows[f"{name} split"] == [f"{counts['stays']:,}", outcome]
        assert f"{name} split" in page
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert rows["evaluated: test"][0] == str(evaluation["stays"])
    assert '<img src="figures/flow.png"' in page
    assert (run / "figures" / "flow.png").read_bytes().startswith(b"\x89PNG")
    split = compiled.split("test")
    events = np.repeat(split.label, np.diff(split.set_offset[split.stay_offset]))
    stays = np.repeat(np.arange(split.n_stays), np.diff(split.set_offset[split.stay_offset]))
    here = (split.variable == 0) & (events == 1)
    share = len(np.unique(stays[here])) / (split.label == 1).sum()
    row = next(line for line in page.split("<tr>") if line.startswith(f"<td>{compiled.vocabulary[0]}</td>"))
    last = row.split("</td>")[-2].replace("\N{NO-BREAK SPACE}", " ")
    assert f"{share:.1%}".replace("%", " %") in last


def test_sample_sizes_are_those_of_pmsampsize():
    """Its example for a binary outcome, 24 parameters, R² 0.288, prevalence 0.174; it has no mean error."""
    rate, mean_error, shrinkage, optimism = riley(0.174, 24, 0.288).values()
    assert (rate, shrinkage, optimism) == (221, 623, 662)
    assert mean_error == 801  # exp((-0.508 + 0.259 ln 0.174 + 0.504 ln 24 - ln 0.05) / 0.544) is 800.3


def test_without_evaluation_and_data_the_items_are_questions(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for file in (tmp_path / "run").glob("*.json"):
        if file.name not in ("config.json", "summary.json"):
            file.unlink()
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    config["cohort"]["path"] = str(tmp_path / "gone")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rows = {number: (known, asks) for number, _, known, asks in checklist(read_run(tmp_path / "run"))}
    for number in ("5a", "9b", "12a", "12e", "20a", "21", "23a", "23b", "26"):
        assert (rows[number][0], rows[number][1] != "") == ("", True), number
    status, _, errors = call(["report", "--runs", str(tmp_path / "run"), "--tripod"])
    assert (status, errors) == (0, "")


def test_the_model_is_described_as_it_was_made(run, tmp_path):
    """The last epoch was not chosen, and an average has its members."""
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    config["settings"]["keep"] = "last"
    config["members"] = {"network": {"weight": 0.25, "log_loss": 0.5}, "trees": {"weight": 0.75, "log_loss": 0.4}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    known = {number: text for number, _, text, _ in checklist(read_run(tmp_path / "run"))}
    assert "a weighted mean of log-odds: network 0.25, trees 0.75." in known["12c"]
    assert ", the last." in known["12c"]
    assert "chosen" not in known["12c"]
    assert "watched the training" in known["12a"]


def test_several_runs_have_no_checklist(run, tmp_path):
    shutil.copytree(run, tmp_path / "other")
    errors = refused(call(["report", "--tripod", "--runs", str(run), str(tmp_path / "other")]))
    assert "tripod: received 2 runs; allowed: one with --tripod" in errors


def _changed(run: Path, **report: Any) -> Run:
    """A run whose data folder records these counts; None stands for one that an earlier version did not record."""
    read = read_run(run)
    assert read.cohort is not None
    known = read.cohort.manifest["report"] | report
    manifest = read.cohort.manifest | {"report": {name: each for name, each in known.items() if each is not None}}
    return replace(read, cohort=replace(read.cohort, manifest=manifest))


def _rows(run: Run) -> dict[str, list[str]]:
    flow = flow_of(run)
    assert flow is not None
    drawn, table = flow_picture(flow), flow_table(flow)
    assert drawn.alt.count(" stays, outcome ") == len(table.rows)
    return {row[0]: list(row[1:]) for row in table.rows}


def test_the_flow_says_why_stays_were_left_out_and_with_which_outcome(run):
    faults = {"files": 7, "labelled": 5, "positives": 2, "kinds": {"a time that is no number": 6, "no stay number": 1}}
    kept = sum(each["stays"] for each in _changed(run).cohort.manifest["splits"].values())
    rows = _rows(_changed(run, faulty_files=7, left_out=0, faults=faults))
    assert rows["left out"] == ["7", "2 (40.0 %)"]
    assert rows["left out: a time that is no number"] == ["6", "–"]
    assert rows["left out: no stay number"] == ["1", "–"]
    assert next(iter(rows.values()))[0] == f"{kept + 7:,}"


def test_of_data_that_recorded_less_the_flow_says_that_it_does_not_know(run):
    rows = _rows(_changed(run, faults=None, left_out=None))
    assert rows["left out"] == ["not recorded", "–"]
    assert next(iter(rows.values())) == ["not recorded", "–"]
    rows = _rows(_changed(run, faults=None, left_out=4, faulty_files=0))  # and no skipped.csv says why
    assert rows["left out"] == ["4", "–"]
    assert rows["left out: why: not recorded"] == ["not recorded", "–"]


def test_reasons_are_those_of_skipped_csv_the_most_frequent_first(run, tmp_path):
    lines = [f's/{at}.csv,,,"{rows} rows, fewer than 6",left out' for at, rows in enumerate((5, 5, 4, 3, 2, 1, 0, 5))]
    read = _changed(run, left_out=8)
    assert read.cohort is not None
    (tmp_path / "skipped.csv").write_text("\n".join(["file,row,variable,reason,kind", *lines]) + "\n", encoding="utf-8")
    rows = _rows(replace(read, cohort=replace(read.cohort, path=tmp_path)))
    reasons = [name for name in rows if name.startswith("left out: ")]
    assert (reasons[0], rows[reasons[0]][0]) == ("left out: 5 rows, fewer than 6", "3")
    assert (reasons[-1], rows[reasons[-1]][0]) == ("left out: other reasons", "1")
    (tmp_path / "skipped.csv").write_text("damaged", encoding="utf-8")
    rows = _rows(replace(read, cohort=replace(read.cohort, path=tmp_path)))
    assert rows["left out: why: skipped.csv cannot be read"] == ["not recorded", "–"]


def test_of_another_task_the_outcome_of_the_cohort_is_not_counted(run):
    read = read_run(run)
    settings = {**read.settings, "task": "regression"}
    rows = _rows(replace(read, config={**read.config, "settings": settings}, evaluation=None))
    assert {outcome for _, outcome in rows.values()} == {"–"}


def test_the_page_is_plain_enough_for_word(page):
    """Word shows tables, and pictures that are files; scripts, SVG and frames it shows not, or as text."""
    tags = {tag.lower() for tag in re.findall(r"<\s*([a-zA-Z0-9]+)", page)}
    assert tags <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "img"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    } | {"!doctype"}
    widths = [
        {len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr>.*?</tr>", table, re.S)}
        for table in re.findall(r"<table>.*?</table>", page, re.S)
    ]
    assert len(widths) >= 3
    assert all(len(each) == 1 for each in widths)


def test_heterogeneity_is_that_of_other_cohorts_and_their_sites(run):
    mean = {
        "value": 0.8,
        "low": 0.7,
        "high": 0.9,
        "tau": 0.1,
        "prediction_low": 0.6,
        "prediction_high": 1.0,
        "sites": 4,
    }
    of_cohort = {"name": "north", "stays": 500, "primary": ["auroc"], "figures": {"auroc": {"value": 0.75}}}
    read = read_run(run)
    alone = replace(read, external=[of_cohort])
    known = {number: (text, asks) for number, _, text, asks in checklist(alone)}
    assert known["23b"][0] == "north, 500 stays: AUROC 0.750."
    assert (known["12d"][0], bool(known["12d"][1])) == ("", True)
    by_site = replace(read, external=[of_cohort | {"sites": {"by": "ward", "pooled": {"auroc": mean}}}])
    known = {number: (text, asks) for number, _, text, asks in checklist(by_site)}
    expected = "AUROC over 4 sites by ward: 0.800 (0.700 to 0.900); expected in one more: 0.600 to 1.000."
    assert known["23b"][0].endswith(expected)
    assert known["12d"][0].startswith("Random-effects meta-analysis")
