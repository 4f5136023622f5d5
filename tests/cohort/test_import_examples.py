"""The examples of docs/import.md run as they stand there, and give what it says."""

import bz2
import io
import itertools
import re
import shlex
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.cohort.imported import read_samples

DOC = (Path(__file__).resolve().parents[2] / "docs" / "import.md").read_text(encoding="utf-8")
EXAMPLES, _, REFERENCE = DOC.partition("## What the flags mean")
GIVES = re.compile(r"(\d+) stays, (\d+) events: ([^;\n]+?)(?:; labels ([^.]+))?\.(?:\s|$)")
OTHER_FILES = "The same table in other files"


def blocks(section: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", section, flags=re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """The words of each command after `python data.py`."""
    return [shlex.split(line)[2:] for line in block.replace("\\\n", "").splitlines()]


def sections() -> Iterator[tuple[str, dict[str, str], list[list[str]], str]]:
    """(heading, files so far by name, commands, prose) of each example."""
    files: dict[str, str] = {}
    for section in EXAMPLES.split("\n### ")[1:]:
        for text in blocks(section, "text"):
            parts = re.split(r"^# (.+)\n", text, flags=re.MULTILINE)[1:]
            files = files | dict(zip(parts[::2], parts[1::2], strict=True))
        run = [words for block in blocks(section, "bash") for words in commands(block)]
        yield section.partition("\n")[0], files, run, re.sub(r"```.*?```", "", section, flags=re.DOTALL)


def write(root: Path, name: str, text: str) -> None:
    """A file in the form that its ending says, of the text of a CSV."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.csv.read_csv(io.BytesIO(text.encode())), path)
    elif path.suffix == ".xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        for line in text.splitlines():
            book.active.append(line.split(","))
        book.save(path)
    elif path.suffix == ".bz2":
        path.write_bytes(bz2.compress(text.encode()))
    elif path.suffix == ".zst":
        path.write_bytes(pa.compress(text.encode(), "zstd", asbytes=True))
    else:
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Cohort]:
    """Runs a command; the command that `check` prints gives the same cohort."""
    monkeypatch.chdir(tmp_path)
    number = itertools.count()

    def command(words: list[str]) -> Cohort:
        out = f"cohort{next(number)}"
        assert main([*words[:2], out, *words[3:]]) == 0, capsys.readouterr().err
        cohort = open_cohort(out)
        main(["check", words[1], *words[3:]])
        printed = shlex.split(capsys.readouterr().out.splitlines()[-1])
        assert printed[:4] == ["To", "import:", "python", "data.py"]
        assert main([f"{out} again" if word == "OUT" else word for word in printed[4:]]) == 0
        assert open_cohort(f"{out} again").content_hash == cohort.content_hash
        return cohort

    return command


def samples(cohort: Cohort) -> dict[tuple[int, float | None], int]:
    """Label by (id, hour of the prediction), None = whole stays."""
    table = read_samples(cohort)
    assert table is not None
    ids = dict(zip(table["stay_id"].to_pylist(), map(int, table["id"].to_pylist()), strict=True))
    found: dict[tuple[int, float | None], int] = {}
    for split in cohort.splits.values():
        hours = [None if np.isnan(minute) else minute / 60 for minute in split.prediction_minute.tolist()]
        keys = zip(map(ids.__getitem__, split.stay_id.tolist()), hours, strict=True)
        found |= dict(zip(keys, split.label.tolist(), strict=True))
    return found


@pytest.mark.parametrize(
    ("heading", "files", "lines", "prose"),
    [pytest.param(*each, id=each[0]) for each in sections() if GIVES.search(each[3])],
)
def test_an_example_gives_what_is_written_below_it(heading, files, lines, prose, tmp_path, run):
    for name, text in files.items():
        write(tmp_path, name, text)
    for words in lines if heading == OTHER_FILES else ():
        marks = {".tsv": "\t", ".psv": "|", ".txt": ";"}
        write(tmp_path, words[1], files["events.csv"].replace(",", marks.get(Path(words[1]).suffix, ",")))
    cohorts = [run(words) for words in lines]
    said = GIVES.findall(prose)
    for cohort, (n_stays, n_events, names, labels) in zip(
        cohorts, said * (len(cohorts) // max(len(said), 1)), strict=False
    ):
        splits = cohort.splits.values()
        assert sum(split.n_stays for split in splits) == int(n_stays)
        assert sum(len(split.variable) for split in splits) == int(n_events)
        assert sorted(cohort.vocabulary) == sorted(names.split(", "))
        if labels:
            assert [label for _, label in sorted(samples(cohort).items())] == [int(text) for text in labels.split(", ")]


def test_the_rules_of_labels_give_the_samples_of_the_table(tmp_path, run):
    ((_, files, lines, prose),) = (each for each in sections() if "--label_of" in str(each[2]))
    for name, text in files.items():
        write(tmp_path, name, text)
    rows = [line for line in prose.splitlines() if line.startswith("| `")]
    for words, row in zip(lines, rows, strict=True):
        expected = {
            (int(stay), float(hour) if hour else None): -1 if label == "unknown" else int(label)
            for stay, hour, label in re.findall(r"(\d)(?: at (\d))?: (\d|unknown)", row)
        }
        assert samples(run(words)) == expected


def test_the_splits_are_those_that_are_described(tmp_path, run):
    ((_, files, lines, _),) = (each for each in sections() if "--split_by" in str(each[2]))
    write(tmp_path, "events.csv", files["events.csv"])
    by_date, by_site, given, fold = (
        {name: split.stay_id.tolist() for name, split in run(words).splits.items()} for words in lines
    )
    assert by_date == given | {"train": [1, 2, 3], "valid": [4], "test": [5]}
    assert given == {"train": [1, 2], "valid": [3], "test": [4, 5]}
    hospital = {1: "A", 2: "A", 3: "B", 4: "C", 5: "C"}
    sites = [{hospital[stay] for stay in stays} for stays in by_site.values()]
    assert sum(map(len, sites)) == 3
    assert len(fold["test"]) == len(fold["valid"]) == 1


PUBLIC = {  # SRC -> its set in the shared data
    "training_setB": "physionet2019",
    "dyn.parquet": "eicu_demo",
    "log.csv": "sepsis_log",
    "LABEVENTS.csv": "mimic3_demo",
    "Synthea27Nj_5.4": "omop_synthea27",
}


def unpack(file: Path, folder: Path) -> None:
    """A file of a public set, at most 100 of an archive of stays."""
    if file.name.endswith(".tar.gz"):
        with tarfile.open(file) as archive:
            archive.extractall(folder, [entry for entry in archive if entry.isfile()][:100], filter="data")
    elif file.suffix == ".zip":
        zipfile.ZipFile(file).extractall(folder)
    else:
        (folder.parent / file.name).symlink_to(file)


@pytest.mark.parametrize("source", PUBLIC)
def test_public_sets_are_imported_as_they_are_published(source, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in shared(f"foreign/{PUBLIC[source]}").iterdir():
        unpack(file, tmp_path / source)
    every = [words for block in blocks(REFERENCE, "bash") for words in commands(block)]
    for number, words in enumerate(words for words in every if words[1:2] == [source]):
        assert main([*words[:2], f"cohort{number}", *words[3:]]) == 0
        splits = open_cohort(tmp_path / f"cohort{number}").manifest["splits"]
        assert sum(n["positives"] for n in splits.values()) > 0
