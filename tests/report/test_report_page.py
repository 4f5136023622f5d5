"""report.html as text: what is in it, that it is one file, that names are escaped, that it can be read aloud."""

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from sklearn.metrics import roc_auc_score

from seqsetvae.report import write_comparison, write_report
from seqsetvae.report.page import write_page
from seqsetvae.report.parts import interval
from seqsetvae.report.parts import number as number_text
from seqsetvae.report.predictions import paired_difference
from seqsetvae.report.run_files import Run, read_run
from seqsetvae.report.style import INK, PAPER, as_svg, empty, line_style, styled
from tests.report.example import NASTY

EMPTY = {"meta", "link", "br", "img", "input", "hr"}


def test_figures_do_not_depend_on_the_users_own_settings():
    """Of a matplotlibrc: LaTeX, which may not be installed, fonts, sizes."""

    @styled
    def drawn() -> str:
        figure, axes = empty()
        axes.plot([0, 1], [1, 0], label="a_b $c$")
        axes.legend()
        return as_svg(figure, "figure")

    own = {"text.usetex": True, "font.family": "No such font", "font.size": 30, "lines.linestyle": ":"}
    usual = drawn()
    with mpl.rc_context(own):
        assert drawn() == usual


def _write(run: Run) -> Path:
    return write_page([run], run.folder)


class Page(HTMLParser):
    """A page's elements and text; fails where elements are not closed in order."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


def test_all_parts_are_there_in_the_order_of_their_importance(reported):
    page = Page(reported / "report.html")
    keys = [attributes["id"] for attributes in page.all("section")]
    assert keys == [
        *("result", "distrust", "data", "training", "discrimination", "calibration", "decisions", "explanation"),
        *("subgroups", "landmarks", "speed", "configuration"),
    ]
    assert "This model is worse than boosted_trees" in page.text.partition("What to distrust")[0]
    assert len(page.all("figure")) == 2 + 4 + 2 + 2 + 1 + 2 + 1 + 1 + 1


def test_the_page_is_one_file_that_loads_nothing_and_runs_nothing(reported):
    page = Page(reported / "report.html")
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(tag for tag, _ in page.elements)
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes)
    text = (reported / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    (policy,) = [each["content"] for each in page.all("meta") if each.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'")


def test_names_from_files_are_text_in_tables_and_in_figures(reported):
    html = (reported / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 4
    assert Page(reported / "report.html").text.count(NASTY) > 4  # in a figure too: a $ starts no formula there
    forest = ElementTree.parse(reported / "figures" / "subgroups.svg")
    assert any(NASTY in (element.text or "") for element in forest.iter())


@pytest.mark.usefixtures("no_drawings")
def test_the_window_and_the_variables_that_are_not_used_are_named(example):
    run = read_run(example)
    window = "whole stays (no prediction times)"
    assert run.config["window"] == window
    unused = {f"{name} {NASTY}": "no summary of it is used" for name in "abcdefghij"}
    page = Page(_write(replace(run, config=run.config | {"variables_not_used": unused})))
    assert f"Window of the training stays: {window}." in page.text
    assert "The model does not use, or not wholly: 10 variables, 'a " in page.text
    assert all(f"{name} no summary of it is used" in page.text for name in unused)
    older = {name: value for name, value in run.config.items() if name not in ("window", "variables_not_used")}
    assert "not recorded (a run of an earlier version)" in Page(_write(replace(run, config=older))).text


@pytest.mark.usefixtures("no_drawings")
def test_no_cell_of_a_table_runs_when_it_is_pasted_into_a_spreadsheet(example):
    run = read_run(example)
    assert run.cohort is not None
    names = ("=1+1", "+cmd|x", "-1+1", "@SUM(1)")
    cohort = replace(run.cohort, vocabulary=(*names, *run.cohort.vocabulary[len(names) :]))
    page = _write(replace(run, cohort=cohort)).read_text(encoding="utf-8")
    for name in names:
        assert f'<th scope="row">&#39;{name}</th>' in page
    assert re.search(r"<t[hd][^>]*>[=@+]", page) is None


def test_names_of_variables_labels_settings_and_files_are_escaped_everywhere(example, tmp_path):
    run = read_run(example)
    assert run.cohort is not None
    cohort = replace(run.cohort, vocabulary=tuple(f"{name} {NASTY}" for name in run.cohort.vocabulary))
    cohort.manifest["source"] = NASTY
    config = run.config | {"settings": run.settings | {NASTY: NASTY}, "versions": {NASTY: NASTY}}
    config["cohort"] = config["cohort"] | {"label_name": NASTY, "path": NASTY, "notices": [NASTY], "statistics": NASTY}
    page = _write(replace(run, cohort=cohort, config=config))
    assert "<script" not in page.read_text(encoding="utf-8").lower()
    read = Page(page)
    assert "script" not in {tag for tag, _ in read.elements}
    variables = [f"{name} {NASTY}" for name in run.cohort.vocabulary]
    assert all(name in read.text for name in variables)
    (title,) = re.findall(r"<title>(.*?)</title>", page.read_text(encoding="utf-8"))
    assert "&lt;script&gt;" in title
    for file in (example / "figures").glob("*.svg"):
        assert not [each for each in ElementTree.parse(file).iter() if each.tag.endswith("script")], file
    (example / "config.json").write_text(json.dumps(config))
    other = tmp_path / "other <script>"
    shutil.copytree(example, other)
    comparison = write_comparison([example, other], tmp_path / "compared")
    assert "<script" not in comparison.read_text(encoding="utf-8").lower()
    assert "script" not in {tag for tag, _ in Page(comparison).elements}


def test_the_page_can_be_read_aloud(reported):
    page = Page(reported / "report.html")
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
    pictures = [each for each in page.all("div") if each.get("role") == "img"]
    assert len(pictures) == len(page.all("figure"))
    for each in [*pictures, *page.all("section")]:
        assert each["aria-labelledby"] in page.ids
    for each in pictures:
        assert each["aria-describedby"] in page.ids
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))


def test_no_id_is_used_twice_and_every_link_has_a_target(reported):
    page = Page(reported / "report.html")
    assert len(set(page.ids)) == len(page.ids)
    targets = [attributes.get("href") or attributes.get("xlink:href") for _, attributes in page.elements]
    assert {target.removeprefix("#") for target in targets if target and target.startswith("#")} <= set(page.ids)


def test_figures_take_the_colours_of_the_page_and_files_have_their_own(reported):
    html, file = (reported / "report.html").read_text(encoding="utf-8"), (reported / "figures" / "roc.svg").read_text()
    body = html.partition("</style>")[2]
    assert "currentColor" in body
    assert INK not in body
    assert PAPER not in body
    assert INK in file
    assert "var(--" not in file


def test_every_figure_is_also_a_file(reported):
    names = {file.name for file in (reported / "figures").iterdir()}
    stems = {file.partition(".")[0] for file in names}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("svg", "png")}
    assert {"roc", "calibration", "decision_curve", "subgroups", "flow", "loss", "baselines_auroc"} <= stems
    for stem in stems:
        assert (reported / "figures" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(reported / "figures" / f"{stem}.svg").getroot().tag.endswith("svg")


def test_the_same_run_gives_the_same_page(example):
    page = write_report(example)
    first = page.read_bytes(), (example / "figures" / "roc.svg").read_bytes()
    write_report(example)
    assert (page.read_bytes(), (example / "figures" / "roc.svg").read_bytes()) == first


@pytest.mark.usefixtures("no_drawings")
def test_a_run_without_evaluation_says_which_commands_add_what_is_missing(finished, tmp_path):
    run = tmp_path / "run with space"
    shutil.copytree(finished[0], run)
    page = Page(write_report(run))
    evaluate = f"--mode evaluate --ckpt '{run.name}' --split test"
    assert evaluate in page.text
    assert f"{evaluate} --subgroups STAYS.csv --landmarks 6 12 24 48 --explain" in page.text
    assert f"--mode report --runs '{run.name}'" in page.text
    assert {"discrimination", "subgroups", "explanation"}.isdisjoint(page.ids)
    assert json.loads((run / "summary.json").read_text())["against_chance"][0].split("(")[1][:-1] in page.text


def test_no_line_ends_between_a_number_and_its_percent_sign(reported):
    html = (reported / "report.html").read_text(encoding="utf-8")
    assert "20.0\N{NO-BREAK SPACE}%" in html
    assert "95\N{NO-BREAK SPACE}% interval" in html


def test_a_complete_report_lacks_nothing(reported):
    assert "missing" not in Page(reported / "report.html").ids


def test_the_stage_boundary_and_the_best_epoch_are_drawn(reported):
    text = (reported / "figures" / "val_auc.svg").read_text()
    assert "backbone unfrozen" in text
    assert "best epoch" in text


@pytest.mark.usefixtures("no_drawings")
def test_a_run_that_was_stopped_early_has_a_report(finished, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished[0] / "config.json", run)
    assert "There is no validation yet." in Page(write_report(run)).text
    rows = (finished[0] / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join(rows[:2]) + "\n")
    page = Page(write_report(run))
    assert "The run has not finished" in page.text
    assert "training" in page.ids


@pytest.mark.usefixtures("no_drawings")
def test_an_evaluation_without_curves_says_so_where_it_is_of_an_earlier_version(example, tmp_path):
    file = example / "evaluation.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"curves": []}), encoding="utf-8")  # all stays are of one class
    page = Page(write_report(example))
    assert {"discrimination", "calibration", "decisions", "missing"}.isdisjoint(page.ids)
    del content["curves"]
    file.write_text(json.dumps(content), encoding="utf-8")
    page = Page(write_report(example))
    assert {"discrimination", "calibration", "decisions"}.isdisjoint(page.ids)
    assert (
        "Curves, calibration and decisions, from the evaluation: python train_optimized.py --mode evaluate" in page.text
    )
    other = shutil.copytree(example, tmp_path / "other")
    page = Page(write_comparison([example, other], tmp_path))
    assert "without curves: finetune-example, other. Run --mode evaluate again." in page.text
    assert {"discrimination", "calibration"}.isdisjoint(page.ids)


def test_the_explanation_is_that_of_the_evaluation(reported):
    text = Page(reported / "report.html").text
    assert "Those of a stay and a base of −1.91 add up to its score (largest gap 0.003)" in text
    assert "nothing about causes" in text
    assert "the score falls by 0.65; without as many random ones, by −0.01 (means of 40 stays; more in 97.5" in text
    assert "Mean absolute contributions: Lactate 0.46;" in text
    assert "Risk from 0.120 to 0.620 at hour 20.2." in text
    for cell in ("Lactate (last)", "0.456", "0.62 25 stays", "20.2"):
        assert cell in text, cell
    drawn = {element.text for element in ElementTree.parse(reported / "figures" / "course_True_alarm_1.svg").iter()}
    assert "Lactate" in drawn


def test_a_comparison_overlays_the_runs_and_lists_what_differs(reported, example, tmp_path):
    config = json.loads((example / "config.json").read_text())
    config["settings"] |= {"lr": 0.125, "seed": 99}
    (example / "config.json").write_text(json.dumps(config))
    page = Page(write_comparison([reported, example], tmp_path))
    keys = [each["id"] for each in page.all("section")]
    assert keys == [
        *("result", "distrust", "differences", "settings", "training", "discrimination", "calibration", "decisions")
    ]
    assert "0.125" in page.text
    assert "on the same stays the paired difference counts" in page.text
    assert "All runs have the same seed" not in page.text
    roc = (tmp_path / next(tmp_path.glob("comparison-*")) / "figures" / "roc.svg").read_text()
    assert all(f"{run.name}: AUROC" in roc for run in (reported, example))


@pytest.mark.usefixtures("no_drawings")
def test_runs_on_the_same_stays_are_compared_by_paired_differences(reported, example, tmp_path):
    file = example / "predictions.csv"
    head, *rows = list(csv.reader(file.read_text().splitlines()))
    at = head.index("logit")
    for number, row in enumerate(rows):
        row[at] = str(float(row[at]) + (0.7 if number % 3 else -0.4))
    file.write_text("\n".join(map(",".join, [head, *reversed(rows)])) + "\n")  # in another order
    one, other = read_run(reported).stays, read_run(example).stays
    assert one is not None
    assert other is not None
    found = paired_difference(one, other)
    assert found is not None
    expected = roc_auc_score(one.label, one.logit) - roc_auc_score(other.label, other.logit)
    assert found["auroc"]["value"] == pytest.approx(expected)
    page = Page(write_comparison([reported, example], tmp_path / "same"))
    assert f"{number_text(expected)} {interval(found['auroc'])}" in page.text
    assert "difference_auroc-title" in page.ids
    file.write_text("\n".join(map(",".join, [head, *rows[1:]])) + "\n")
    text = Page(write_comparison([reported, example], tmp_path / "other")).text
    assert "because the stays or labels are not the same: finetune-example." in text


@pytest.mark.usefixtures("no_drawings")
def test_runs_on_other_data_or_without_evaluation_are_not_silently_compared(reported, finished, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished[0], other)
    config = json.loads((other / "config.json").read_text())
    config["cohort"]["data"] = "0" * 64
    (other / "config.json").write_text(json.dumps(config))
    text = Page(write_comparison([reported, other], tmp_path)).text
    assert "The runs differ in their data, so their metrics are not comparable." in text
    assert "Without an evaluation, and so without intervals: other." in text
    assert "finetune-all files: These stays were trained on" in text


@pytest.mark.usefixtures("no_drawings")
@pytest.mark.parametrize("unfinished", [False, True])
def test_runs_of_the_same_name_are_told_apart_by_their_folders(finished, tmp_path, unfinished):
    runs = [tmp_path / name / "run" for name in ("a", "b")]
    for run in runs:
        shutil.copytree(finished[0], run)
    if unfinished:
        (runs[1] / "summary.json").unlink()
    text = Page(write_comparison(runs, tmp_path)).text
    assert "a/run" in text
    assert ("Not finished: b/run." in text) == unfinished


def test_the_lines_of_many_runs_differ():
    styles = {(each["color"], each["linestyle"]) for each in map(line_style, range(36))}
    assert len(styles) == 36
