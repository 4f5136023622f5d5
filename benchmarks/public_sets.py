"""Prediction quality on public sets: `python -m benchmarks.public_sets --foreign FOLDER --data_dir p12`.

FOLDER holds a folder of each set as its owners publish it (SETS). Each is imported by its command in docs/import.md,
cross-validated from random weights, and has a row for the average, each member and each baseline (docs/quality.md).
Finished folds are not computed again. The end says in which sets the average is below a member or a baseline.
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

import train_optimized
from seqsetvae.cohort.command import main as import_data
from seqsetvae.evaluation.crossvalidation import PART
from seqsetvae.runs.crossvalidate import RESULT

IMPORTS = Path(__file__).parents[1] / "docs/import.md", "Public sets as they are published"
# Set -> SRC of its command, its folder, and what of the command is another word.
SETS: dict[str, tuple[str, str, Mapping[str, str]]] = {
    "PhysioNet 2019, set B, sepsis ever": ("training_setB", "physionet2019", {}),
    "eICU demo, death": ("dyn.parquet", "eicu_demo", {}),
    "sepsis log, intensive care": ("log.csv", "sepsis_log", {}),
    "sepsis log, return": ("log.csv", "sepsis_log", {"labels_icu.csv": "labels_return.csv", "icu": "return_er"}),
    "MIMIC-III demo, death": ("LABEVENTS.csv", "mimic3_demo", {}),
}
OF_COHORT = "PhysioNet 2012, sets a and b, death"  # --data_dir, which is compiled
MODEL = ["--architecture", "variable_summaries", "--from_random_weights"]


def main() -> int:
    """Import and cross-validate the chosen sets, and print the table of all finished ones. Returns an exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foreign", type=Path, help="folder of the public sets")
    parser.add_argument("--data_dir", help="compiled cohort of PhysioNet 2012")
    parser.add_argument("--output", type=Path, default=Path("outputs/public_sets"), help="folder of the results")
    parser.add_argument("--only", nargs="*", help="sets to run, by the beginning of a name; none: table only")
    parser.add_argument("flags", nargs="*", help="flags of crossvalidate (default: --folds 3), after --")
    chosen = parser.parse_args()
    for name in [*SETS, OF_COHORT]:
        if chosen.only is not None and not name.startswith(tuple(chosen.only)):
            continue
        cohort = chosen.data_dir
        if name in SETS:
            if chosen.foreign is None:
                continue
            cohort = imported(name, chosen.foreign, folder(chosen.output, name) / "cohort")
        if cohort is None:
            continue
        where = ["--data_dir", str(cohort), "--output", str(folder(chosen.output, name) / "folds")]
        print(f"\n=== {name}", flush=True)
        flags = chosen.flags or ["--folds", "3"]
        if status := train_optimized.main(["--mode", "crossvalidate", *MODEL, *where, *flags]):
            return status
    print("\n".join(table(chosen.output)))
    return 0


def folder(output: Path, name: str) -> Path:
    """The folder of a set's cohort and results."""
    return output / re.sub("[^a-z0-9]+", "_", name.lower())


def imported(name: str, foreign: Path, out: Path) -> Path:
    """The cohort of a set, which is imported first unless it is there."""
    src, of_set, others = SETS[name]
    if not out.exists():
        place = foreign / of_set
        for archive in place.glob("*.tar.gz"):
            place = out.parent / "src"
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


def table(output: Path) -> list[str]:
    """A row for each model of each finished set; differences are the average minus the row, bold where it is below."""
    lines = ["| set, model | AUROC / AUPRC | difference of the average: AUROC; AUPRC |", "| --- | --- | --- |"]
    below = []
    for name in [*SETS, OF_COHORT]:
        file = folder(output, name) / "folds" / RESULT
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
