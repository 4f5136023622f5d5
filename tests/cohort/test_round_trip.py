"""What `data.py export` writes, `data.py table` and `data.py meds` read back: the same cohort to the last bit."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.command import main

from .conftest import Folder
from .test_compile import compiled, random_layout
from .test_samples import HOUR, compile_samples, sample


@pytest.fixture(params=["whole stays", "prediction times"])
def cohort(request: pytest.FixtureRequest, folder: Folder, tmp_path: Path) -> Cohort:
    """Two sets at one minute, stays without a label; or several samples of a patient, with prediction times."""
    if request.param == "prediction times":
        train = [sample(1, 7, 2 * HOUR), sample(2, 7, 3 * HOUR + 1 / 3), sample(4, 8, 1000 * HOUR)]
        return compile_samples(tmp_path, train=train, valid=[sample(5, 9, HOUR), sample(6, 9, 2 * HOUR)])
    random_layout(folder, 20)
    folder.stay("train", "2.0", [("lactate", 1.3, 5), ("lactate", 2.7, 5), ("Größe é", 7.3, 5)], set_index=[4, 7, 4])
    folder.csv("oc.csv", "ts_id,died\n1,0\n2,1\n3,1\n")
    return compiled(folder, label_name="died")


def arrays(cohort: Cohort) -> dict[str, str]:
    return {name: sum for name, sum in cohort.manifest["checksums"].items() if name.endswith(".npy")}


@pytest.mark.parametrize("form", ["table", "meds"])
def test_an_exported_cohort_is_read_back_to_the_last_bit(cohort: Cohort, tmp_path: Path, form: str) -> None:
    out, back = tmp_path / "exported", tmp_path / "back"
    assert main(["export", str(cohort.path), str(out), "--to", form]) == 0
    sides = ["--stats", str(out / "stats.csv"), "--embeddings", str(out / "cached.csv")]
    flags = {
        "table": [
            *("table", str(out / "events"), str(back), "--id_column", "stay_id", "--time_column", "minute"),
            *("--set_column", "set_index", "--subject_column", "subject_id", "--split_column", "split"),
            *("--labels", str(out / "labels.csv"), "--prediction_time_column", "prediction_minute"),
            *("--label_name", cohort.label_name),
        ],
        "meds": ["meds", str(out), str(back), "--labels", str(out / "labels" / cohort.label_name)],
    }
    assert main([*flags[form], *sides]) == 0
    again = open_cohort(back)
    assert arrays(again) == arrays(cohort)
    for key in ("vocabulary", "mean", "std", "splits", "label_name"):
        assert again.manifest[key] == cohort.manifest[key]


@pytest.mark.parametrize(("form", "file"), [("table", "samples.parquet"), ("meds", "metadata/samples.parquet")])
def test_the_ids_and_dates_of_an_imported_source_are_exported(tmp_path: Path, form: str, file: str) -> None:
    rows = [f"P{n},2024-01-0{n} {hour:02}:00,HR,{70 + n + hour}" for n in range(1, 7) for hour in range(8)]
    (tmp_path / "events.csv").write_text("id,time,variable,value\n" + "\n".join(rows) + "\n", encoding="utf-8")
    imported, out = tmp_path / "cohort", tmp_path / "exported"
    assert main(["table", str(tmp_path / "events.csv"), str(imported), "--embedding_dim", "4"]) == 0
    assert main(["export", str(imported), str(out), "--to", form]) == 0
    kept = pq.read_table(out / file)
    assert sorted(kept["id"].to_pylist()) == [f"P{n}" for n in range(1, 7)]
    assert {f"{start:%Y-%m-%d}" for start in kept["start"].to_pylist()} == {f"2024-01-0{n}" for n in range(1, 7)}
