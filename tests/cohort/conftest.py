"""Small cohorts in the old layout, written stay by stay so that a test shows its data in full, and small tables."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.command import main

HEADER = "id,time,variable,value\n"
EVENTS = HEADER + "7,0,hr,80\n7,30,lactate,2\n7,30,hr,90\n9,0,hr,70\n8,5,hr,60\n"
Row = tuple[str | None, float | None, float | None]  # variable, value, minute


class Folder:
    """A processed/ folder under construction: patient_ehr/, stats.csv, oc.csv, cached.csv."""

    def __init__(self, root: Path) -> None:
        self.root, self.ehr = root, root / "patient_ehr"

    def stay(self, split: str, name: str, rows: Sequence[Row], set_index: Sequence[int] | None = None) -> Path:
        """Write one stay and return its file."""
        columns: dict[str, object] = {
            "variable": pa.array([row[0] for row in rows], pa.string()),
            "value": pa.array([row[1] for row in rows], pa.float64()),
            "minute": pa.array([row[2] for row in rows], pa.float64()),
        }
        if set_index is not None:
            columns["set_index"] = pa.array(set_index, pa.int64())
        return self.table(split, name, columns)

    def table(self, split: str, name: str, columns: dict[str, object]) -> Path:
        """Write one file with any columns and return its path."""
        file = self.ehr / split / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file)
        return file

    def csv(self, name: str, text: str) -> Path:
        """Write a side file and return its path."""
        (self.root / name).write_text(text, encoding="utf-8")
        return self.root / name


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Two training stays, one validation stay: heart rate (mean 80, std 10) and lactate (mean 2, std 1)."""
    data = Folder(tmp_path / "processed")
    data.stay("train", "1.0", [("heart rate", 90, 0), ("lactate", 3, 0), ("heart rate", 70, 30)])
    data.stay("train", "2.0", [("lactate", 1, 5)])
    data.stay("valid", "3.0", [("heart rate", 100, 0), ("lactate", 2, 60)])
    data.csv("stats.csv", "variable,mean,std\nheart rate,80,10\nlactate,2,1\n")
    data.csv("oc.csv", "ts_id,in_hospital_mortality\n1,0\n2.0,1\n3,1\n")
    data.csv("cached.csv", "Key,0,1\nheart rate,0.5,-1.5\nlactate,2,3\n")
    return data


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """A file or folder of the shared data beside the repository; skips the test where there is none."""

    def find(name: str) -> Path:
        root = Path(os.environ.get("SEQSETVAE_SHARED", Path(__file__).parents[3] / "shared"))
        if not (root / name).exists():
            pytest.skip(f"{name} is not in {root}; SEQSETVAE_SHARED says where it is")
        return root / name

    return find


class Tables:
    """A folder of tables under construction."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.root, self.capsys, self.n_cohorts = root, capsys, 0

    def csv(self, name: str, text: str) -> Path:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text, encoding="utf-8")
        return self.root / name

    def run(self, src: Path, *flags: object, out: str = "out") -> int:
        """The status of an import, everything in the training split unless the flags say otherwise."""
        words = [str(flag) for flag in flags]
        if not {"--fractions", "--fold", "--split_column"} & set(words):
            words += ["--fractions", "1", "0", "0"]
        return main(["table", str(src), str(self.root / out), *words])

    def compile(self, src: Path, *flags: object, status: int = 0) -> Cohort:
        """The cohort of a table, in a folder of its own."""
        self.n_cohorts += 1
        out = f"cohort{self.n_cohorts}"
        assert self.run(src, *flags, out=out) == status
        return open_cohort(self.root / out)

    def refused(self, src: Path, *flags: object) -> str:
        """The error of an import, which leaves nothing."""
        assert self.run(src, *flags) == 2
        assert not (self.root / "out").exists()
        error = self.said().err
        assert len(error) < 3000  # it names what is wrong, and does not show it at length
        return error

    def checked(self, src: Path, *flags: object) -> str:
        """What `check` prints."""
        main(["check", str(src), *map(str, flags)])
        return self.said().out

    def said(self) -> "pytest.CaptureResult[str]":
        """What was printed since it was asked last."""
        assert self.capsys is not None
        return self.capsys.readouterr()


@pytest.fixture
def tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tables:
    return Tables(tmp_path, capsys)
