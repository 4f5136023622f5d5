"""Prediction quality, row by row: `python -m benchmarks.quality --data_dir p12 --output FOLDER`.

Each row is one call of --mode crossvalidate with the flags below, all on the same folds, in a folder of its own.
Finished folds are not computed again, so the command can be stopped and repeated. At the end it prints one table of all
rows that are there, with paired differences to boosted trees (docs/quality.md).
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np

import train_optimized
from seqsetvae.evaluation.crossvalidation import NOT_MODELS, Columns, lines, read_columns, results
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
}
BASELINES_OF = "variable_summaries"
FOLD = re.compile(r"partition\d+-fold\d+\.csv")  # not a file of other content that a later call has kept beside it


def main() -> int:
    """Run the chosen rows and print the table. Returns the exit status of a row that failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="a compiled cohort")
    parser.add_argument("--output", type=Path, default=Path("outputs/quality"), help="folder of the results")
    parser.add_argument(
        "--only", nargs="*", choices=list(ROWS), default=list(ROWS), help="rows to run; none: table only"
    )
    parser.add_argument("--seed", default="42", help="random seed of all trainings; other seeds have their own folders")
    parser.add_argument("--train_fraction", default="1", help="share of the labels that is used")
    parser.add_argument("--folds", default="5")
    parser.add_argument("flags", nargs="*", help="further flags of crossvalidate for every row, after --")
    chosen = parser.parse_args()
    few = FEW_LABELS.get(chosen.train_fraction, "").split()
    common = [
        "--seed",
        chosen.seed,
        "--train_fraction",
        chosen.train_fraction,
        "--folds",
        chosen.folds,
        *few,
        *chosen.flags,
    ]
    root = chosen.output / f"seed{chosen.seed}-labels{chosen.train_fraction}"
    for row in chosen.only:
        baselines = [] if row == BASELINES_OF else ["--baselines", "none"]
        where = ["--data_dir", chosen.data_dir, "--output", str(folder(root, row))]
        print(f"\n=== {row}", flush=True)
        status = train_optimized.main(["--mode", "crossvalidate", *ROWS[row].split(), *common, *baselines, *where])
        if status:
            return status
    try:
        columns = joined(root)
    except InputError as error:
        parser.error(str(error))
    print("\n".join(lines(results(columns))) if columns else f"{root}: no finished folds")
    return 0


def folder(root: Path, row: str) -> Path:
    """The folder of a row's results."""
    return root / row.replace(",", "").replace(" ", "_")


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


if __name__ == "__main__":
    sys.exit(main())
