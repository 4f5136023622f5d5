"""Targets: what `data.py table` and `data.py meds` import, and files of labels of other tasks."""

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from seqsetvae.cohort import open_cohort
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import columns_of
from seqsetvae.tasks.targets import fit_targets, read_label_file, require_targets
from tests.fuzz.given import Files, compile_or_refuse, damage_one_file

TYPES = (
    *(pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.bool_(), pa.string(), pa.large_string()),
    *(pa.binary(), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("us"), pa.duration("us"), pa.null()),
    *(pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "Europe/Berlin"), pa.decimal128(20, 3)),
    *(pa.list_(pa.int64()), pa.struct({"a": pa.int64()}), pa.dictionary(pa.int32(), pa.string())),
)
CELLS = (
    *(None, "", "x", "NaN", "nan", "-1", "1e308", "1e-300", "9" * 25, "2020-01-01", "2020-13-45", "0001-01-01", "\0"),
    *(
        "9999-12-31T23:59:59.999999",
        "2020-01-01T00:00:00+14:00",
        "train",
        "a\nb",
        '"',
        "²",
        "\N{COMBINING ACUTE ACCENT}",
    ),
)


def table(files: Files, rng: random.Random, folder: Path) -> None:
    """A long table of events, what is known of its stays, or its labels."""
    src = folder / "src"
    src.mkdir()
    events = rng.choice(("events.csv", "events.csv.gz", "events.parquet"))
    for name in (events, "stays.csv", "labels.csv"):
        shutil.copyfile(files.tables / name, src / name)
    _damage_tables(src, rng)
    flags = {
        "--stays": [str(src / "stays.csv"), "--start_column", "start"],
        "--split_column": ["split", "--stays", str(src / "stays.csv")],
        "--subject_column": ["patient", "--stays", str(src / "stays.csv")],
        "--static_columns": ["age", "--stays", str(src / "stays.csv")],
        "--labels": [str(src / "labels.csv"), "--label_name", rng.choice(("died", "days"))],
        "--non_numeric": [rng.choice(("level", "leave_out"))],
        "--text_column": ["variable"],
        "--set_column": ["value"],
        "--time_unit": ["hours"],
        "--time_zone": ["Europe/Berlin"],
        "--time_format": ["%Y-%m-%dT%H:%M:%S%z"],
        "--skip_bad": [],
    }
    chosen = [word for name in rng.sample(sorted(flags), rng.choice((0, 1, 1, 2))) for word in (name, *flags[name])]
    words = ["table", str(src / events), str(folder / "out"), "--jobs", "1", *chosen]
    compile_or_refuse(words, folder / "out")


def meds(files: Files, rng: random.Random, folder: Path) -> None:
    """A MEDS data set, or its labels."""
    src = folder / "src"
    shutil.copytree(files.meds, src)
    _damage_tables(src, rng)
    flags = {"--labels": [str(src / "labels.parquet")], "--start_code": ["HR"], "--text_values": [], "--skip_bad": []}
    chosen = [word for name in rng.sample(sorted(flags), rng.choice((0, 1, 1, 2))) for word in (name, *flags[name])]
    words = ["meds", str(src / "set"), str(folder / "out"), "--jobs", "1", *chosen]
    compile_or_refuse(words, folder / "out")


def labels(files: Files, rng: random.Random, folder: Path) -> None:
    """A file of labels of another task than one binary label, for a cohort of its own numbers or an imported one."""
    imported = rng.random() < 0.5
    cohort = open_cohort(files.imported if imported else files.cohort)
    file = folder / rng.choice(("labels.csv", "labels.csv.gz", "labels.parquet"))
    _write(_label_table(files, imported), file)
    _damage_tables(folder, rng)
    task, columns = rng.choice((("multilabel", "died,late"), ("multiclass", "unit"), ("regression", "days,died")))
    file = rng.choice(sorted(folder.iterdir()))
    targets = fit_targets(cohort, read_label_file(file, columns_of(columns)), task)
    require_targets(targets, "train")
    assert targets.label_name == columns
    assert task in TASKS


def _write(table: pa.Table, file: Path) -> None:
    """In the format that the name says."""
    if file.suffix == ".parquet":
        pq.write_table(table, file)
    else:
        with pa.output_stream(str(file), compression="gzip" if file.suffix == ".gz" else None) as stream:
            pa.csv.write_csv(table, stream)


def _label_table(files: Files, imported: bool) -> pa.Table:
    found = pa.csv.read_csv(files.tables / "labels.csv")
    if imported:
        return found
    stays = [stay for split in open_cohort(files.cohort).splits.values() for stay in split.stay_id.tolist()]
    rows = found.take([at % len(found) for at in range(len(stays))])
    return pa.table({"ts_id": stays, **{name: rows[name] for name in ("died", "late", "days", "unit")}})


def _damage_tables(folder: Path, rng: random.Random) -> None:
    """Change bytes of one file, or cells or the type of a column in a table that can be read."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = rng.choice(files)
    if rng.random() < 0.5 or file.suffix == ".json":
        damage_one_file(folder, rng)
    elif file.suffix == ".parquet":
        pq.write_table(_changed(pq.read_table(file), rng), file)
    else:
        opened = pa.input_stream(str(file), compression="detect").read()
        lines = opened.decode().splitlines()
        at = rng.randrange(len(lines))
        cells = lines[at].split(",")
        cells[rng.randrange(len(cells))] = rng.choice(CELLS) or ""
        lines[at] = ",".join(cells)
        with pa.output_stream(str(file), compression="gzip" if file.suffix == ".gz" else None) as stream:
            stream.write("\n".join(lines).encode())


def _changed(table: pa.Table, rng: random.Random) -> pa.Table:
    """A table in which a column is missing, twice, of another type or name, or holds something else."""
    at = rng.randrange(table.num_columns)
    name, column = table.column_names[at], table.column(at)
    kind = rng.randrange(6)
    if kind == 0:
        return table.remove_column(at)
    if kind == 1:
        return table.append_column(name, column)
    if kind == 2:
        return table.rename_columns([each + "_" * (each == name) for each in table.column_names])
    if kind == 3:
        return table.slice(0, rng.choice((0, 1)))
    if kind == 4:
        return table.set_column(at, name, _of_type(column, rng.choice(TYPES)))
    texts = [str(cell) for cell in column.to_pylist()]
    texts[rng.randrange(len(texts))] = rng.choice(CELLS)
    return table.set_column(at, name, pa.array(texts))


def _of_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column of this type: of the same cells where they can be converted, else of empty ones."""
    try:
        return column.cast(kind, safe=False)
    except (pa.ArrowException, NotImplementedError):
        return pa.nulls(len(column), kind)
