"""The real files that fuzzing damages copies of, and what all targets share."""

import csv
import gzip
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from seqsetvae.checkpoint.file import write_safetensors
from seqsetvae.cohort import open_cohort, open_or_compile
from seqsetvae.cohort.command import main as data_command
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.models import trees
from seqsetvae.models.trees import BoostedTrees
from seqsetvae.system.errors import InputError
from tests.command import command, finetune, run_of
from tests.fuzz import mutate
from tests.tiny import SIZES
from tests.training.resuming import EVERY_STEP, killed_at


@dataclass(frozen=True)
class Files:
    """Real files of a small cohort, before any damage."""

    physionet: Path  # set-a as a folder and Outcomes-a.txt
    layout: Path  # patient_ehr and side files
    cohort: Path  # compiled
    pretrained: Path
    run: Path  # of fine-tuning
    tables: Path  # events.csv, events.csv.gz, events.parquet, stays.csv, labels.csv
    meds: Path  # a MEDS data set, and labels.parquet beside it
    imported: Path  # the cohort of the tables, with prediction times
    exported: Path  # folder with checkpoints as .safetensors files
    trees: tuple[str, ...]  # texts of boosted trees on TREE_COLUMNS columns
    killed: Path  # a run of fine-tuning that was killed after its first epoch
    evaluated: Path  # a run with all that a report shows


Target = Callable[[Files, random.Random, Path], object]
TREE_COLUMNS = 6


def damage_one_file(folder: Path, rng: random.Random) -> None:
    """Change the content of one file of a folder, or its name."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if rng.random() < 0.1:
        file.rename(file.with_name(rng.choice(("x.parquet", "1e3.parquet", "-5.txt", "²" + file.suffix, "7"))))
    else:
        file.write_bytes(mutate.bytes_of(file.read_bytes(), rng))


def damage_json(file: Path, rng: random.Random) -> None:
    """Change bytes of a JSON file, or values in it."""
    content = file.read_bytes()
    if rng.random() < 0.5:
        content = json.dumps(mutate.tree_of(json.loads(content), rng)).encode()
    else:
        content = mutate.bytes_of(content, rng)
    file.unlink()  # it may be a link to the undamaged file
    file.write_bytes(content)


def damage_checkpoint(
    file: Path, damaged: Path, rng: random.Random, parts: Callable[[dict[str, Any]], Sequence[str]]
) -> None:
    """Write it with changed bytes, a changed record, or changes in those of its parts that `parts` chooses."""
    kind = rng.randrange(4)
    if kind < 2:
        change = (mutate.bytes_of, mutate.zip_of)[kind]
        damaged.write_bytes(change(file.read_bytes(), rng))
        return
    content = dict(torch.load(file, weights_only=True))
    tensors = (torch.ones(2), torch.ones(0), torch.ones(3, 3, dtype=torch.int64), torch.ones(1).expand(10**8))
    for part in parts(content):
        content[part] = mutate.tree_of(content[part], rng, (*mutate.VALUES, *tensors))
        if rng.random() < 0.1:
            del content[part]
    torch.save(content, damaged)


def compile_or_refuse(words: list[str], out: Path) -> None:
    """A data command that writes `out`; where it is refused nothing may be left of it, and else it must open."""
    status = data_command(words)
    left = [path.name for path in out.parent.iterdir() if path.name.startswith((out.name, f".{out.name}"))]
    if status == 0:
        open_cohort(out)
        return
    assert status == 2, f"status {status}"
    assert not left, f"half-written: {left}"
    raise InputError("printed by the command")


def make_files(folder: Path, pretrained: Path, run: Path) -> Files:
    """All of them, in a folder; `run` is that of fine-tuning."""
    layout = write_synthetic(folder / "layout", n_stays=20, seed=1, embedding_width=SIZES.input_dim)
    larger = write_synthetic(folder / "larger", n_stays=50, seed=2, embedding_width=SIZES.input_dim)
    tables = small_tables(folder / "tables")
    return Files(
        small_physionet(folder / "physionet"),
        layout,
        open_or_compile(layout, cache_root=folder / "cache", progress=False).path,
        pretrained,
        run,
        tables,
        small_meds(folder / "meds"),
        _imported(tables, folder / "imported"),
        _exported(pretrained, run, folder / "exported"),
        small_trees(),
        _killed(pretrained, larger, folder / "killed"),
        _evaluated(run, folder / "evaluated"),
    )


def small_physionet(folder: Path) -> Path:
    """A set of 12 stays in the form of the challenge."""
    rng = np.random.default_rng(0)
    (folder / "set-a").mkdir(parents=True)
    outcomes = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
    for stay in range(132539, 132551):
        rows = ["Time,Parameter,Value", f"00:00,RecordID,{stay}", "00:00,Age,54", "00:00,ICUType,4"]
        rows += [f"{hour:02}:07,{name},{rng.normal(80, 9):.1f}" for hour in range(6) for name in ("HR", "Temp", "Na")]
        (folder / "set-a" / f"{stay}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
        outcomes.append(f"{stay},6,1,{stay % 9},-1,{stay % 3 == 0:d}")
    (folder / "Outcomes-a.txt").write_text("\n".join(outcomes) + "\n", encoding="utf-8")
    return folder


START = datetime(2020, 1, 1, 8, tzinfo=UTC)


def _times(stay: int) -> list[datetime]:
    return [START + timedelta(days=stay, minutes=30 * at) for at in range(5)]


def small_tables(folder: Path) -> Path:
    """Events of 10 stays as a CSV file, packed and as Parquet, facts of the stays, and labels with prediction times."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    events = [
        (f"p{stay}", at.isoformat(), name, f"{rng.normal(80, 9):.1f}")
        for stay in range(10)
        for at in _times(stay)
        for name in ("hr", "na")
    ]
    _write_csv(folder / "events.csv", ("id", "time", "variable", "value"), events)
    with gzip.open(folder / "events.csv.gz", "wb") as packed:
        packed.write((folder / "events.csv").read_bytes())
    ids, times, variables, values = (list(cells) for cells in zip(*events, strict=True))
    stamps = pa.array([datetime.fromisoformat(time) for time in times], pa.timestamp("us", "UTC"))
    columns = {"id": ids, "time": stamps, "variable": variables, "value": [float(value) for value in values]}
    pq.write_table(pa.table(columns), folder / "events.parquet")
    stays = [
        (f"p{stay}", START.isoformat(), f"s{stay}", "train" if stay < 7 else "valid", 50 + stay) for stay in range(10)
    ]
    _write_csv(folder / "stays.csv", ("id", "start", "patient", "split", "age"), stays)
    labels = [(stay % 2, stay % 3 % 2, 1.5 * stay, "abc"[stay % 3]) for stay in range(10)]
    rows = [(f"p{stay}", _times(stay)[3].isoformat(), *labels[stay]) for stay in range(10)]
    _write_csv(folder / "labels.csv", ("id", "prediction_time", "died", "late", "days", "unit"), rows)
    return folder


def _write_csv(file: Path, header: tuple[str, ...], rows: list[Any]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def small_meds(folder: Path) -> Path:
    """A MEDS data set of 10 subjects in two files, and labels."""
    utc, rng = pa.timestamp("us"), np.random.default_rng(0)
    (folder / "set" / "data").mkdir(parents=True)
    (folder / "set" / "metadata").mkdir()
    for shard in range(2):
        rows: list[tuple[int, datetime | None, str, float | None]] = []
        for subject in range(5 * shard, 5 * shard + 5):
            rows.append((subject, datetime(1960, 1, 1), "MEDS_BIRTH", None))
            rows += [(subject, at.replace(tzinfo=None), "HR", rng.normal(80, 9)) for at in _times(subject)]
        subjects, times, codes, numbers = zip(*rows, strict=True)
        columns = [
            pa.array(subjects, pa.int64()),
            pa.array(times, utc),
            pa.array(codes),
            pa.array(numbers, pa.float32()),
        ]
        table = pa.table(columns, ["subject_id", "time", "code", "numeric_value"])
        pq.write_table(table, folder / "set" / "data" / f"{shard}.parquet")
    metadata = folder / "set" / "metadata"
    pq.write_table(pa.table({"code": ["HR", "MEDS_BIRTH"]}), metadata / "codes.parquet")
    splits = {"subject_id": list(range(10)), "split": ["train"] * 7 + ["tuning"] * 3}
    pq.write_table(pa.table(splits), metadata / "subject_splits.parquet")
    (metadata / "dataset.json").write_text(json.dumps({"meds_version": "0.4.1", "dataset_name": "x"}), encoding="utf-8")
    at = pa.array([_times(subject)[3].replace(tzinfo=None) for subject in range(10)], utc)
    labels = {"subject_id": list(range(10)), "prediction_time": at, "boolean_value": [bool(n % 2) for n in range(10)]}
    pq.write_table(pa.table(labels), folder / "labels.parquet")
    return folder


def _imported(tables: Path, out: Path) -> Path:
    words = ["table", str(tables / "events.csv"), str(out), "--labels", str(tables / "labels.csv"), "--jobs", "1"]
    assert data_command([*words, "--label_name", "died"]) == 0
    return out


def _exported(pretrained: Path, run: Path, folder: Path) -> Path:
    """Both kinds of checkpoints as .safetensors files; an empty folder without safetensors."""
    folder.mkdir()
    if find_spec("safetensors") is None:
        return folder
    for name, path in (("pretrained", pretrained), ("finetuned", run / "checkpoints" / "best.ckpt")):
        content = torch.load(path, weights_only=True)
        write_safetensors(
            folder / f"{name}.safetensors",
            content["state_dict"],
            {"hyper_parameters": content["hyper_parameters"]},
            {"notes": ["ä", "x" * 100]} if name == "pretrained" else {},
        )
    return folder


def small_trees() -> tuple[str, ...]:
    """Two models of a few trees, with missing values and a column that never splits; none without lightgbm."""
    if find_spec("lightgbm") is None:
        return ()
    rng, rounds = np.random.default_rng(0), trees.ROUNDS
    table = rng.normal(size=(200, TREE_COLUMNS)).astype(np.float32)
    table[::3, 2], table[:, 4] = np.nan, 0
    trees.ROUNDS = 12
    try:
        return tuple(BoostedTrees.fit(table, (table[:, 0] > 0).astype(int), 2).models)
    finally:
        trees.ROUNDS = rounds


def _killed(pretrained: Path, data: Path, root: Path) -> Path:
    from seqsetvae.training import callbacks

    flags = {"batch_size": 8, "max_epochs": 2, "unfreeze_after": 1, **EVERY_STEP}
    with killed_at(callbacks.MetricsTable, "add", 2):
        finetune(pretrained, data, root, **flags)
    return run_of(root)


def _evaluated(run: Path, out: Path) -> Path:
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("figures", "tensorboard", "report.html"))
    assert command("evaluate", ckpt=out, split="valid", landmarks=6)[0] == 0
    return out
