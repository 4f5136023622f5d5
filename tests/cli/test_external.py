"""evaluate --external: other cohorts, alone or beside a split, calibrations under names, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.open import compile_layout
from seqsetvae.cohort.sources.seqsetvae_layout import SideFiles, locate_layout
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.evaluation.results import evaluation_schema
from seqsetvae.report.page import content_of
from seqsetvae.report.run_files import read_run
from seqsetvae.system.schema import read_checked
from tests.cli.labels import changed_labels
from tests.command import argv, call, command, refused, succeeded
from tests.tiny import SIZES, compile_with_side_files


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stays of another hospital, in the old layout."""
    return write_synthetic(tmp_path_factory.mktemp("other") / "layout", 300, seed=9, embedding_width=SIZES.input_dim)


@pytest.fixture(scope="module")
def other(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return compile_with_side_files(layout, tmp_path_factory.mktemp("other compiled") / "there")


def _external(run: Path, output: Path, *cohorts: Path, **flags: Any) -> tuple[int, str, str]:
    given = {"ckpt": run, "output": output, "output_root_dir": output.parent / "cache", "accelerator": "cpu"}
    words = argv(mode="evaluate", **{**given, "baselines": "none", **flags})
    return call([*words, "--external", *map(str, cohorts)])


def _entry(output: Path) -> dict[str, Any]:
    (entry,) = read_checked(output / "evaluation.json", evaluation_schema)["external"]
    return entry


def test_all_stays_of_another_cohort_are_evaluated_alone(run, other, tmp_path):
    said = succeeded(_external(run, tmp_path / "out", other.path))
    content, entry = read_checked(tmp_path / "out" / "evaluation.json", evaluation_schema), _entry(tmp_path / "out")
    labels = np.concatenate([split.label for split in other.splits.values()])
    assert (entry["name"], entry["stays"], entry["positives"]) == ("there", 300, (labels == 1).sum())
    assert content["checkpoint"].endswith("best.ckpt")
    assert "of the model occur here" in said
    assert sum(entry["recalibration"][part]["stays"] for part in ("fitted", "reported")) == 300
    kinds = [each["kind"] for each in entry["recalibration"]["kinds"]]
    assert kinds[0] == "as delivered"
    assert kinds[1] == "intercept"
    assert not (run / "evaluation.json").exists()  # the run's own results are left alone


def test_beside_a_split_both_are_in_one_file(run, other, tmp_path):
    succeeded(_external(run, tmp_path / "out", other.path, split="test", recalibrate_fraction=0))
    content = read_checked(tmp_path / "out" / "evaluation.json", evaluation_schema)
    assert (content["split"], content["stays"], content["external"][0]["stays"]) == ("test", 20, 300)
    assert content["external"][0]["recalibration"].keys() & {"kinds"} == set()


def test_stays_of_the_training_are_found_and_left_out(run, compiled, tmp_path):
    """The cohort of the run itself, under another name: what was trained and chosen on is no external evaluation."""
    copy = Path(shutil.copytree(compiled.path, tmp_path / "elsewhere"))
    said = succeeded(_external(run, tmp_path / "out", copy))
    assert _entry(tmp_path / "out")["stays"] == compiled.split("test").n_stays == 20
    assert "80 stays have the rows of a stay that the model was trained or chosen on: the data overlap" in said
    assert "Of 100 stays, 80 of the training of the model are left out" in said


def test_without_the_data_of_the_run_an_overlap_cannot_be_seen(finished, other, tmp_path):
    shutil.copy(finished[0] / "checkpoints" / "best.ckpt", tmp_path / "model.ckpt")
    said = succeeded(_external(tmp_path / "model.ckpt", tmp_path / "out", other.path))
    assert "cannot be checked: the data of the run are not here" in said
    assert "calibration" not in _entry(tmp_path / "out")  # the checkpoint has none


def test_a_calibration_is_saved_under_a_name_and_used_by_it(run, other, tmp_path):
    original = (run / "calibration.json").read_bytes()
    said = succeeded(_external(run, tmp_path / "out", other.path, save_calibration="there", recalibrate_fraction=0.4))
    assert "Use it with --calibration there" in said
    assert (run / "calibration.json").read_bytes() == original
    saved = json.loads((run / "calibration_there.json").read_text())
    anew = _entry(tmp_path / "out")["recalibration"]
    chosen = next(each for each in anew["kinds"] if each["kind"] == anew["chosen"])
    assert (saved["slope"], saved["intercept"]) == (chosen["slope"], chosen["intercept"])
    assert (saved["recalibrated"]["fraction"], saved["stays"]) == (0.4, anew["fitted"]["stays"])

    flags = {"ckpt": run, "data_dir": other.path}
    said = succeeded(command("predict", **flags, calibration="there", output=tmp_path / "risks.csv"))
    assert "Calibration 'there' fitted anew" in said
    # It is never judged on the stays that it was fitted on, neither all of them nor those of a split.
    said = succeeded(_external(run, tmp_path / "again", other.path, calibration="there"))
    assert _entry(tmp_path / "again")["stays"] == anew["reported"]["stays"]
    assert f"{anew['fitted']['stays']} that the calibration was fitted on are left out" in said
    assert "'there' was fitted on patients of this cohort" in said
    said = succeeded(command("evaluate", **flags, split="test", calibration="there", output=tmp_path / "split"))
    evaluated = json.loads((tmp_path / "split" / "evaluation.json").read_text())
    assert evaluated["stays"] < 60
    assert f"the calibration was fitted on {60 - evaluated['stays']}" in said
    before = (run / "calibration_there.json").read_bytes()
    errors = refused(_external(run, tmp_path / "third", other.path, save_calibration="there"))
    assert "save_calibration: received 'there'; there is" in errors
    assert (run / "calibration_there.json").read_bytes() == before
    assert "names beside" in refused(_external(run, tmp_path / "fourth", other.path, calibration="where"))


def test_a_calibration_that_cannot_be_fitted_is_refused_before_anything_is_written(run, other, tmp_path):
    flags = {"save_calibration": "few", "recalibrate_fraction": 0.05}
    for own in ({}, {"split": "test"}):  # alone, and beside the model's own data
        errors = refused(_external(run, tmp_path / "out", other.path, **flags, **own))
        assert re.search(r"save_calibration: .*With 5% of the patients .* are needed. Leave it out", errors)
    assert not (tmp_path / "out").exists()
    assert not (run / "calibration_few.json").exists()


def test_sites_are_those_of_a_table(run, other, tmp_path):
    stays = np.concatenate([split.stay_id for split in other.splits.values()])
    hospital = np.array([101, 202, 303, 404])[np.arange(300) % 4].astype(object)
    hospital[:5] = None
    pq.write_table(pa.table({"stay_id": stays, "hospital": pa.array(hospital, pa.int64())}), tmp_path / "sites.parquet")
    flags = {"subgroups": tmp_path / "sites.parquet", "by": "hospital"}
    said = succeeded(_external(run, tmp_path / "out", other.path, **flags))
    sites = _entry(tmp_path / "out")["sites"]
    assert [row["name"] for row in sites["rows"]] + sites["left_out"] == ["101", "202", "303", "404"]
    assert sum(row["stays"] for row in sites["rows"]) == 295
    assert "5 stays without a hospital are in no site" in said
    errors = refused(_external(run, tmp_path / "x", other.path, **flags | {"by": "ward"}))
    assert "by: received 'ward'" in errors
    assert "has the columns hospital" in errors
    assert "has no samples.parquet" in refused(_external(run, tmp_path / "x", other.path, by="hospital"))


def test_three_cohorts_are_pooled(run, other, layout, tmp_path):
    cohorts = [other.path]
    for seed in (21, 22):
        made = write_synthetic(tmp_path / f"h{seed}", 200, seed=seed, embedding_width=SIZES.input_dim)
        cohorts.append(compile_with_side_files(made, tmp_path / f"c{seed}").path)
    said = succeeded(_external(run, tmp_path / "out", *cohorts, recalibrate_fraction=0))
    content = read_checked(tmp_path / "out" / "evaluation.json", evaluation_schema)
    assert [each["name"] for each in content["external"]] == ["there", "c21", "c22"]
    assert content["external_pooled"]["auroc"]["sites"] == 3
    assert "all cohorts" in said


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"output": None}, "output: not given; --external without --split needs a folder"),
        ({"external": None}, "split: not given; --mode evaluate needs --split (or --external, other data)"),
        ({"external": None, "split": "test", "by": "x"}, "by: received 'x'; needs --external"),
        ({"external": None, "split": "test", "save_calibration": "x"}, "save_calibration: received 'x'; needs"),
        ({"save_calibration": "../x"}, "save_calibration: received '../x'; allowed: a name of up to 64 letters"),
        ({"save_calibration": "x", "recalibrate_fraction": 0}, "with --recalibrate_fraction 0, which fits nothing"),
        ({"recalibrate_fraction": 1}, "recalibrate_fraction: received '1'; allowed: a number of at least 0"),
        ({"landmarks": 6}, "landmarks, explain: they are of one split"),
        ({"subgroups": "TABLE"}, "subgroups: received without --by"),
        ({"subgroups": "TABLE", "by": "x", "split": "test"}, "subgroups: its stays are those of one cohort"),
    ],
)
def test_what_does_not_go_together_is_said_before_any_work(run, other, tmp_path, flags, problem):
    (tmp_path / "table.csv").write_text("stay_id,x\n1,a\n")
    flags = {name: tmp_path / "table.csv" if value == "TABLE" else value for name, value in flags.items()}
    usual = {"ckpt": run, "external": other.path, "output": tmp_path / "out", "output_root_dir": tmp_path / "cache"}
    every = {name: value for name, value in (usual | flags).items() if value is not None}
    assert problem in refused(command("evaluate", **every))
    assert not (tmp_path / "out").exists()


def test_one_checkpoint_is_evaluated_elsewhere(run, other, tmp_path):
    words = argv(mode="evaluate", external=other.path, output=tmp_path / "out")
    assert "ckpt: received several checkpoints; allowed: one with --external" in refused(
        call([*words, "--ckpt", str(run), str(run)])
    )


def test_the_run_folder_is_no_place_for_results_of_other_data_alone(run, other, tmp_path):
    assert "the run folder, whose evaluation is of its own data" in refused(_external(run, run, other.path))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda stay, label: "0", "have the label in_hospital_mortality = 0; metrics need stays of both classes"),
        (lambda stay, label: label if stay % 2 else None, None),  # half of them have no label
    ],
)
def test_labels_of_one_class_or_missing(run, layout, tmp_path, change, problem):
    labels = changed_labels(layout, tmp_path / "oc.csv", change)
    called = _external(run, tmp_path / "out", layout, label_path=labels)
    if problem is not None:
        assert problem in refused(called)
        return
    assert "Of 300 stays, 150 without a label are left out" in succeeded(called)
    assert _entry(tmp_path / "out")["stays"] == 150


def test_data_without_labels_are_refused_with_what_works_without(run, layout, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(layout, alone / "patient_ehr")
    shutil.copy(layout.parent / "cached.csv", alone)
    shutil.copy(layout.parent / "stats.csv", alone)
    assert "no oc.csv beside it" in refused(_external(run, tmp_path / "out", alone))


def test_a_cohort_twice_is_refused(run, other, tmp_path):
    assert "external: received a folder twice" in refused(_external(run, tmp_path / "out", other.path, other.path))


def test_the_page_shows_what_the_file_says(run, other, tmp_path):
    """Of a folder of results alone, and of a run beside its own split."""
    stays = np.concatenate([split.stay_id for split in open_cohort(other.path).splits.values()])
    pq.write_table(pa.table({"stay_id": stays, "hospital": np.arange(300) % 3}), tmp_path / "sites.parquet")
    succeeded(_external(run, tmp_path / "out", other.path, subgroups=tmp_path / "sites.parquet", by="hospital"))
    content, entry = content_of([read_run(tmp_path / "out")]), _entry(tmp_path / "out")
    assert content["title"] == "Evaluation: in_hospital_mortality"
    (section,) = content["sections"]
    auroc = entry["figures"]["auroc"]
    assert content["cards"][0].value == f"{auroc['value']:.3f}"
    cell = f"{auroc['value']:.3f}\n{auroc['low']:.3f} to {auroc['high']:.3f}"
    assert section.tables[0].rows[0][:2] == ["AUROC", cell]
    named = {picture.name for picture in section.pictures}
    assert {"external_roc", "external_calibration", "external_benefit", "sites_auroc"} <= named
    assert {each.text for each in content["findings"]} == {f"there: {each['text']}" for each in entry["findings"]}
    succeeded(_external(run, run, other.path, split="test"))
    beside = content_of([read_run(run)])
    (section,) = (each for each in beside["sections"] if each.key == "external")
    assert section.tables[0].head == ("metric", "own data, test split", "there")


def test_the_same_outcome_under_another_name_has_to_be_said_to_be_the_same(run, layout, tmp_path):
    text = (layout.parent / "oc.csv").read_text(encoding="utf-8").replace("in_hospital_mortality", "died")
    (tmp_path / "oc.csv").write_text(text, encoding="utf-8")
    labels = {"label_path": tmp_path / "oc.csv"}
    compile_layout(locate_layout(layout, SideFiles(labels=tmp_path / "oc.csv")), tmp_path / "there", label_name="died")
    for data, flags in ((layout, labels), (tmp_path / "there", {})):
        assert "in_hospital_mortality" in refused(_external(run, tmp_path / "out", data, **flags))
        said = succeeded(_external(run, tmp_path / f"out {data.name}", data, **flags, label_name="died"))
        assert "Its label 'died' is taken for 'in_hospital_mortality', as --label_name says" in said
        assert _entry(tmp_path / f"out {data.name}")["stays"] == 300
    beside = _external(run, tmp_path / "beside", tmp_path / "there", label_name="died", split="test")
    assert "taken for" in succeeded(beside)


def test_data_without_one_variable_of_the_model_are_refused_with_what_to_do(run, layout, tmp_path):
    renamed = tmp_path / "renamed"
    for file in layout.rglob("*.parquet"):
        stay = pq.read_table(file)
        names = pa.array([f"x {name}" for name in stay["variable"].to_pylist()])
        (renamed / file.relative_to(layout.parent)).parent.mkdir(parents=True, exist_ok=True)
        at = stay.column_names.index("variable")
        pq.write_table(stay.set_column(at, "variable", names), renamed / file.relative_to(layout.parent))
    shutil.copy(layout.parent / "oc.csv", renamed)
    assert "--variable_map of data.py maps them" in refused(_external(run, tmp_path / "out", renamed))
