"""Results of cross-validation: predictions by fold, and figures over folds. Importing this imports no torch.

Legend: n stays of a fold, R resamples.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqsetvae.evaluation.statistics import Scores, bootstrap
from seqsetvae.files import write_text

REFERENCE = "boosted trees"  # the baseline that differences are taken to
NOT_MODELS = ("stay_id", "label")

Columns = dict[str, np.ndarray]  # of one fold: stay_id [n], label [n], and the log-odds [n] of each model by its name


def write_columns(file: Path, columns: Columns) -> None:
    """Write the predictions of a fold as CSV; floats read back to the same bits."""
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    write_text(file, "".join(",".join(map(str, row)) + "\n" for row in [tuple(columns), *rows]))


def read_columns(file: Path) -> Columns:
    """What `write_columns` wrote."""
    with file.open(encoding="utf-8", newline="") as stream:
        names, *rows = csv.reader(stream)
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return {name: np.array([(int if name in NOT_MODELS else float)(value) for value in of]) for name, of in columns}


def results(folds: Sequence[Columns]) -> dict[str, Any]:
    """AUROC and AUPRC of each model: mean and SD over folds, bootstrap intervals, and differences to the REFERENCE.

    A resample draws stays of each class with replacement; each fold is scored on its own stays among them.
    """
    label = np.concatenate([fold["label"] for fold in folds])
    ends = np.cumsum([len(fold["label"]) for fold in folds]).tolist()
    places = [slice(end - len(fold["label"]), end) for end, fold in zip(ends, folds, strict=True)]

    def by_fold(model: str, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Figures of a model with these weights [R, stays of all folds], by fold: [folds, R]."""
        scores = [Scores(fold["label"], fold[model]) for fold in folds]
        ranking = [each.ranking(weights[:, place]) for each, place in zip(scores, places, strict=True)]
        return {name: np.stack([fold[name] for fold in ranking]) for name in ranking[0]}

    def figures(model: str, minus: str | None = None) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        def means(weights: np.ndarray) -> dict[str, np.ndarray]:
            own = {name: values.mean(axis=0) for name, values in by_fold(model, weights).items()}
            return own if minus is None else {name: own[name] - figures(minus)(weights)[name] for name in own}

        return means

    models: dict[str, Any] = {}
    for model in (name for name in folds[0] if name not in NOT_MODELS):
        each = {name: values[:, 0].tolist() for name, values in by_fold(model, np.ones((1, len(label)))).items()}
        intervals = bootstrap(label, figures(model))
        models[model] = {
            name: interval.as_plain() | {"sd_over_folds": float(np.std(each[name])), "by_fold": each[name]}
            for name, interval in intervals.items()
        }
        if REFERENCE in folds[0] and model != REFERENCE:
            differences = bootstrap(label, figures(model, REFERENCE))
            models[model]["difference"] = {name: interval.as_plain() for name, interval in differences.items()}
    return {"folds": len(folds), "predictions": len(label), "positives": int(label.sum()), "models": models}


def lines(result: Mapping[str, Any]) -> list[str]:
    """The table for the terminal."""
    width = max(map(len, result["models"]), default=0)
    found = [
        f"{result['folds']} folds, {result['predictions']:,} predictions, {result['positives']:,} positive; mean (SD) "
        "over folds",
        f"{'':{width}}  {'AUROC':15}  {'AUPRC':15}  difference to {REFERENCE}, AUROC and AUPRC, with 95 % intervals",
    ]
    for model, entry in result["models"].items():
        own = [f"{entry[name]['value']:.4f} ({entry[name]['sd_over_folds']:.4f})" for name in ("auroc", "auprc")]
        differences = [
            f"{each['value']:+.4f} [{each['low']:+.4f}, {each['high']:+.4f}]"
            for each in entry.get("difference", {}).values()
        ]
        found.append(f"{model:{width}}  {own[0]:15}  {own[1]:15}  " + "  ".join(differences))
    return found + [f"⚠️  {caution}" for caution in result.get("cautions", ())]
