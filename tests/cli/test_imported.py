"""Imported tables go through fine-tuning, report and predictions, and predictions name what the source named."""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.command import main as data_command
from tests.command import argv, call, command, finetune, run_of, succeeded
from tests.tiny import give_vectors

START = datetime(2021, 3, 28, tzinfo=UTC)


def imported(out: Path, source: object, src: object, *words: object) -> Cohort:
    flags = ["--fractions", "0.5", "0.3", "0.2"]
    assert data_command([str(source), str(src), str(out), *map(str, words), *flags]) == 0
    return open_cohort(give_vectors(out))


def write_csv(path: Path, header: str, rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(), *rows])
    return path


def predictions(run: Path, root: Path, name: str, **flags: object) -> list[dict[str, str]]:
    output = root / name
    status, _, errors = command("predict", ckpt=run, output=output, output_root_dir=root, **flags)
    assert status in (0, 3), errors  # 3: such small splits may differ from the training data
    with output.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def physionet(root: Path, n_stays: int = 60) -> Path:
    """A set of the challenge, with categories, missing values and repeated rows."""
    rng = np.random.default_rng(0)
    (root / "set-a").mkdir(parents=True)
    outcomes = ["RecordID,In-hospital_death"]
    for stay in range(900, 900 + n_stays):
        rows = ["Time,Parameter,Value", f"00:00,RecordID,{stay}", "00:00,Height,-1", f"00:00,ICUType,{stay % 4 + 1}"]
        for minute in sorted(rng.integers(0, 2880, 9).tolist()):
            rows += [f"{minute // 60:02d}:{minute % 60:02d},HR,{60 + stay % 7 + rng.integers(20)}"] * int(
                rng.integers(1, 3)
            )
        (root / "set-a" / f"{stay}.txt").write_text("\n".join(rows) + "\n")
        outcomes.append(f"{stay},{int(stay % 3 == 0)}")
    (root / "Outcomes-a.txt").write_text("\n".join(outcomes) + "\n")
    return root


def as_table(raw: Path, root: Path) -> tuple[Path, Path]:
    """(events, labels) of a set of the challenge, by its convention."""
    events = []
    for file in sorted((raw / "set-a").glob("*.txt")):
        lines = dict.fromkeys(file.read_text().splitlines()[2:])  # no repeated rows
        for time, name, value in (line.split(",") for line in lines):
            if float(value) >= 0:
                minute = 60 * int(time[:2]) + int(time[3:])
                name, value = (f"ICUType_{value}", "1") if name == "ICUType" else (name, value)
                events.append((file.stem, minute, name, value))
    with (raw / "Outcomes-a.txt").open() as file:
        labels = [tuple(row) for row in csv.reader(file)][1:]
    return (
        write_csv(root / "events.csv", "id time variable value", events),
        write_csv(root / "labels.csv", "id in_hospital_mortality", labels),
    )


def test_physionet_as_a_table_gives_the_events_and_predictions_of_its_importer(pretrained, tmp_path):
    raw = physionet(tmp_path / "raw")
    events, labels = as_table(raw, tmp_path)
    published = imported(tmp_path / "published", "physionet2012", raw)
    flags = ("--labels", labels, "--label_name", "in_hospital_mortality")
    table = imported(tmp_path / "table", "table", events, *flags)
    arrays = {name: sum for name, sum in table.manifest["checksums"].items() if name != "samples.parquet"}
    assert arrays == published.manifest["checksums"]
    for key in ("vocabulary", "splits", "label_name"):
        assert table.manifest[key] == published.manifest[key]

    runs = []
    for name, cohort in (("published", published), ("table", table)):
        succeeded(finetune(pretrained, cohort.path, tmp_path / name / "runs", max_epochs=1, unfreeze_after=0))
        runs.append(run_of(tmp_path / name / "runs"))
    rows = [
        predictions(run, tmp_path, f"{at}.csv", data_dir=cohort.path)
        for at, (run, cohort) in enumerate(zip(runs, (published, table), strict=True))
    ]
    assert rows[0] == rows[1]
    assert [row["stay_id"] for row in rows[0] if row["split"] == "test"] == table.split("test").stay_id.astype(
        str
    ).tolist()


@pytest.fixture
def zoned(tmp_path: Path) -> list[object]:
    """The flags of a long table: zoned timestamps, text ids, categories, facts, two labels; two stays a patient."""
    rng = np.random.default_rng(0)
    events, stays, labels = [], [], []
    for number in range(60):
        stay, sick = f"P{number // 2:02d}/{number % 2}", number % 3 == 0
        start = START + timedelta(days=number)
        stays.append((stay, f"P{number // 2:02d}", "f" if number % 4 else "m", start.isoformat()))
        labels.append((stay, int(sick), int(rng.random() < 0.5) if number % 5 else ""))
        for hour in range(int(rng.integers(2, 8))):
            time = (start + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%S+00:00")
            events.append((stay, time, "heart rate", round(80 + 20 * sick + rng.normal(), 2)))
            events.append((stay, time, "rhythm", "sinus" if rng.random() < 0.7 else "atrial fibrillation"))
    stays.append(("P99/0", "P99", "", (START + timedelta(days=99)).isoformat()))
    events.append(("P99/0", (START + timedelta(days=99, hours=12)).isoformat(), "heart rate", 80))  # after hour 6
    rng.shuffle(events)
    return [
        "table",
        write_csv(tmp_path / "events.csv", "stay charted item result", events),
        *("--id_column", "stay", "--time_column", "charted", "--variable_column", "item", "--value_column", "result"),
        *("--stays", write_csv(tmp_path / "stays.csv", "stay patient sex admitted", stays)),
        *("--start_column", "admitted", "--subject_column", "patient"),
        *("--labels", write_csv(tmp_path / "labels.csv", "stay died icu_return", labels)),
    ]


def test_a_long_table_goes_through_fine_tuning_report_and_predictions(pretrained, tmp_path, zoned):
    for label, window in (("died", ("--until_hour", 6)), ("icu_return", ())):
        root = tmp_path / label
        words = (*zoned, "--label_name", label, "--static_columns", "sex", *window)
        cohort = imported(tmp_path / f"{label} cohort", *words)
        assert {"sex=f", "rhythm=sinus", "heart rate"} <= set(cohort.vocabulary)
        succeeded(finetune(pretrained, cohort.path, root, max_epochs=1, unfreeze_after=0))
        rows = {row["id"]: row for row in predictions(run_of(root), root, "p.csv")}
        assert len(rows) == 61
        assert 0 < float(rows["P00/0"]["probability"]) < 1
        assert rows["P00/0"]["prediction_time"] == ("2021-03-28 06:00:00+00:00" if window else "")
    assert rows["P99/0"]["reason"] == ""
    assert call(argv(mode="report", runs=run_of(tmp_path / "died")))[0] == 0
    hidden = {row["id"]: row for row in predictions(run_of(tmp_path / "died"), tmp_path, "q.csv")}["P99/0"]
    assert hidden["logit"] == ""


def test_predictions_in_the_schema_of_meds_name_the_subjects_and_times_of_the_source(pretrained, tmp_path, zoned):
    cohort = imported(tmp_path / "cohort", *zoned, "--label_name", "died", "--until_hour", 6)
    succeeded(finetune(pretrained, cohort.path, tmp_path, max_epochs=1, unfreeze_after=0))
    output = tmp_path / "p.parquet"
    flags = {"ckpt": run_of(tmp_path), "output": output, "output_root_dir": tmp_path, "split": "test"}
    assert command("predict", **flags, schema="meds")[0] in (0, 3)
    rows = pq.read_table(output)
    split = cohort.split("test")
    assert rows["subject_id"].to_pylist() == split.subject_id.tolist()
    days = (np.array(split.stay_id) - 1).tolist()  # stays are numbered in the order of their ids
    expected = [(START + timedelta(days=day, hours=6)).replace(tzinfo=None) for day in days]
    assert rows["prediction_time"].to_pylist() == expected


def test_another_window_than_that_of_the_training_is_said_by_predict_and_evaluate(pretrained, tmp_path, zoned):
    words = (*zoned, "--label_name", "died")
    early = imported(tmp_path / "early", *words, "--until_hour", 3)
    succeeded(finetune(pretrained, early.path, tmp_path, max_epochs=1, unfreeze_after=0))
    flags = {"ckpt": run_of(tmp_path), "output_root_dir": tmp_path, "split": "test"}
    for name, window, here in (("whole", (), "whole stays"), ("later", ("--until_hour", 5), "the first 5 h of each")):
        other = imported(tmp_path / name, *words, *window).path
        status, said, _ = command("predict", **flags, data_dir=other, output=tmp_path / f"{name}.csv")
        assert status == 3
        assert f"Trained on the first 3 h of each stay; these stays: {here}" in said
        said = succeeded(command("evaluate", **flags, data_dir=other, output=tmp_path / f"{name} evaluated"))
        assert "Another window than in training. Trained on the first 3 h of each stay" in said
    succeeded(command("predict", **flags, output=tmp_path / "same.csv"))
