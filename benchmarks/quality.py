"""Prediction quality: `python -m benchmarks.quality --data_dir p12 --foreign FOLDER --output FOLDER` (docs/quality.md).

Each row of PhysioNet 2012 (--data_dir) is one call of --mode crossvalidate with the flags below, all on the same folds.
Each other public set is imported from its folder in --foreign, as its owners publish it, by its command in
docs/import.md, and cross-validated from random weights. Finished folds are not computed again, so the command can be
stopped and repeated. At the end it prints a table of the rows, with paired differences to boosted trees, and one of
the sets, where the average is compared with each member and each baseline.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import train_optimized
from seqsetvae.cohort.command import main as import_data
from seqsetvae.evaluation.crossvalidation import NOT_MODELS, PART, Columns, read_columns, result_lines, results
from seqsetvae.runs.crossvalidate import RESULT
from seqsetvae.system.errors import InputError

SUMMARIES = "--architecture variable_summaries"
ALONE = f"{SUMMARIES} --tree_models 0"  # the network without boosted trees
PRETRAINED = "--objective forecasting --pretrain_epochs 10"
PROBE = "--unfreeze_after none --max_epochs 24"  # the head alone trains, on a frozen backbone
OLD = "--preset small --unfreeze_after 0 --max_epochs 4"
# Nothing is selected on the held-out fold.
NEW = (
    "--preset small --unfreeze_after 0 --max_epochs 3 --objective forecasting --pretrain_epochs 8 --pretrain_lr 1e-3 "
    "--batch_size 16 --value_transform quantiles --lr 2e-4 --cls_head_lr 1e-3 --lr_schedule cosine --keep last "
    "--ema_decay 0.99 --head_members 16 --head_dropout 0.3 --head_pooling last_mean"
)
# Of a cohort with --set_hours 2; the recipe of running statistics does the rest.
RUNNING = "--preset light --running_statistics --value_transform normal_scores"
# With few labels (share: flags of every row): smaller batches, so that there are enough steps.
FEW_LABELS = {
    "0.1": "--batch_size 64 --pretrain_batch_size 256",
    "0.01": "--batch_size 16 --pretrain_batch_size 256",
}
# Row -> flags of crossvalidate. The first also trains the baselines, which the other rows are compared with.
ROWS = {
    "variable_summaries": f"{SUMMARIES} {PRETRAINED}",
    "random weights": f"{SUMMARIES} --from_random_weights",
    "frozen": f"{ALONE} {PRETRAINED} {PROBE}",
    "SeqSetVAE, old": f"{OLD} --from_random_weights",
    "SeqSetVAE, new": NEW,
    "SeqSetVAE, running": f"{RUNNING} --from_random_weights",
}
BASELINES_OF = "variable_summaries"
IMPORTS = Path(__file__).parents[1] / "docs/import.md", "Public sets as they are published"
# Set -> SRC of its command, its folder, and words of the command that are others for it.
SETS: dict[str, tuple[str, str, Mapping[str, str]]] = {
    "PhysioNet 2019, set B, sepsis ever": ("training_setB", "physionet2019", {}),
    "eICU demo, death": ("dyn.parquet", "eicu_demo", {}),
    "sepsis log, intensive care": ("log.csv", "sepsis_log", {}),
    "sepsis log, return": ("log.csv", "sepsis_log", {"labels_icu.csv": "labels_return.csv", "icu": "return_er"}),
    "MIMIC-III demo, death": ("LABEVENTS.csv", "mimic3_demo", {}),
}
OF_SETS = "random weights"  # the row whose flags sets are run with
FOLD = re.compile(r"partition\d+-fold\d+\.csv")  # not a file of other content that a later call has kept beside it


def main() -> int:
    """Run the chosen rows and sets and print the tables. Returns the exit status of a call that failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="compiled cohort of PhysioNet 2012: its rows are run")
    parser.add_argument("--foreign", type=Path, help="folder of other public sets: they are run")
    parser.add_argument("--output", type=Path, default=Path("outputs/quality"), help="folder of the results")
    parser.add_argument("--only", nargs="*", choices=[*ROWS, *SETS], help="rows and sets to run; none: tables only")
    parser.add_argument("--seed", default="42", help="random seed of all trainings; other seeds have their own folders")
    parser.add_argument("--train_fraction", default="1", help="share of the labels that is used")
    parser.add_argument("--folds", help="of each row (default: 5) and set (3)")
    parser.add_argument("flags", nargs="*", help="further flags of crossvalidate for every call, after --")
    chosen = parser.parse_args()
    few = FEW_LABELS.get(chosen.train_fraction, "").split()
    common = ["--seed", chosen.seed, "--train_fraction", chosen.train_fraction, *few, *chosen.flags]
    root = chosen.output / f"seed{chosen.seed}-labels{chosen.train_fraction}"
    rows, sets = (ROWS if chosen.data_dir else {}), (SETS if chosen.foreign else {})
    known = [*rows, *sets]
    if without := set(chosen.only or ()) - set(known):
        parser.error(f"--only {', '.join(sorted(without))}: rows need --data_dir, sets need --foreign")
    for name in known if chosen.only is None else chosen.only:
        print(f"\n=== {name}", flush=True)
        if name in rows:
            call = [*ROWS[name].split(), *([] if name == BASELINES_OF else ["--baselines", "none"])]
            cohort, n_folds = chosen.data_dir, chosen.folds or "5"
        else:
            call, n_folds = ROWS[OF_SETS].split(), chosen.folds or "3"
            cohort = imported(name, chosen.foreign, folder(chosen.output / "cohorts", name))
        where = ["--data_dir", str(cohort), "--output", str(folder(root, name)), "--folds", n_folds]
        if status := train_optimized.main(["--mode", "crossvalidate", *call, *common, *where]):
            return status
    try:
        columns = joined(root)
    except InputError as error:
        parser.error(str(error))
    print("\n".join(result_lines(results(columns))) if columns else f"{root}: no finished folds of PhysioNet 2012")
    print("\n".join(["", *table_of_sets(root)]))
    return 0


def folder(root: Path, row: str) -> Path:
    """The folder of the results of a row or set."""
    return root / re.sub("[^A-Za-z0-9]+", "_", row)


def joined(root: Path) -> list[Columns]:
    """The predictions of all finished rows, a table for each fold that all of them have.

    The files name no patients, so intervals are over stays: too narrow for a cohort with several stays of a patient.
    Raises InputError if the rows are of other stays or labels, for example of another number of folds.
    """
    files = {row: sorted(folder(root, row).glob("*.csv")) for row in ROWS}
    finished = {row: [file for file in files[row] if FOLD.fullmatch(file.name)] for row in ROWS}
    names = [{file.name for file in files} for files in finished.values() if files]
    tables = []
    for name in sorted(set.intersection(*names)) if names else []:
        table: Columns = {}
        for row in (row for row in ROWS if finished[row]):
            columns = _named(read_columns(folder(root, row) / name), row)
            if any(not np.array_equal(columns[key], table.get(key, columns[key])) for key in NOT_MODELS):
                raise InputError(
                    f"{folder(root, row) / name}: its stays or labels are not those of the other rows in {root}. "
                    "Use another --output for other folds or data."
                )
            table |= columns
        tables.append(table)
    return tables


def _named(columns: Columns, row: str) -> Columns:
    """Columns of a row by stay: its first model gets the row's name, and its parts have it in theirs.

    In the row that has the baselines, which stand for themselves, the others keep their names.
    """
    first, *others = [name for name in columns if name not in NOT_MODELS]
    names = {first: row} | {name: name if row == BASELINES_OF else f"{row}, {name}" for name in others}
    order = columns["stay_id"].argsort()
    return {names.get(name, name): values[order] for name, values in columns.items()}


# ------------------------------------------------------------------ other public sets


def imported(name: str, foreign: Path, out: Path) -> Path:
    """The cohort of a set, which is imported first unless it is there."""
    src, of_set, others = SETS[name]
    if not out.exists():
        place = foreign / of_set
        for archive in place.glob("*.tar.gz"):
            place = out.with_name(f"{out.name}-src")
            with tarfile.open(archive) as content:
                content.extractall(place / src, filter="data")
        command = next(words for words in documented() if words[1] == src)
        files = {path.name: str(path) for path in place.iterdir()}
        words = [others.get(word, word) for word in command]
        words = [str(out) if word == "OUT" else files.get(word, word) for word in words]
        status = import_data([*words, "--fractions", "0.8", "0.2", "0"])
        if status:
            sys.exit(status)
    return out


def documented() -> Iterator[list[str]]:
    """Words of each data command for public sets in the docs, after `python data.py`."""
    text = IMPORTS[0].read_text(encoding="utf-8").partition(IMPORTS[1])[2].replace("\\\n", " ")
    yield from (shlex.split(line)[2:] for line in text.splitlines() if line.startswith("python data.py "))


def table_of_sets(root: Path) -> list[str]:
    """A row for each model of each finished set; differences are the average minus the row, bold where it is below."""
    lines = ["| set, model | AUROC / AUPRC | difference of the average: AUROC; AUPRC |", "| --- | --- | --- |"]
    below = []
    for name, row in {"PhysioNet 2012, death": BASELINES_OF, **{name: name for name in SETS}}.items():
        file = folder(root, row) / RESULT
        if file.exists():
            rows, worse = of_set(name, json.loads(file.read_text(encoding="utf-8")))
            lines += rows
            below += worse
    return [*lines, "", "The average is below: " + ("; ".join(below) or "none of them") + "."]


def of_set(name: str, result: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Rows of a set, and what its average is below by an interval that excludes 0."""
    models, metrics, first = result["models"], result["primary"], result["first"]
    lines, below = [], []
    for model, entry in models.items():
        values = " / ".join(f"{entry[metric]['value']:.4f}" for metric in metrics)
        if model == first:
            about = f"{result['predictions']:,} predictions, {result['positives']:,} positive, {result['folds']} folds"
            lines.append(f"| **{name}** ({about}): average | **{values}** | |")
            continue
        title = f"its {model.removesuffix(PART)}" if model.endswith(PART) else f"baseline: {model}"
        cells = []
        for metric in metrics:
            other = entry["difference_to_first"][metric]
            value, low, high = -other["value"], -other["high"], -other["low"]
            text = f"{value:+.4f} [{low:.4f}, {high:.4f}]"
            cells.append(f"**{text}**" if high < 0 else text)
            below += [f"{name}, {title} ({metric} {text})"] * (high < 0)
        lines.append(f"| {title} | {values} | {'; '.join(cells)} |")
    return lines, below


if __name__ == "__main__":
    sys.exit(main())
