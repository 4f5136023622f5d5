"""A run folder with every file that a report reads; names in it hold what HTML and matplotlib could misread."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from seqsetvae.cohort import Cohort
from seqsetvae.tasks.curves import outcome_curves

NASTY = "<script>$a_b$</script>&年"


def scores(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, logit, probability) of n stays; a fifth is positive, and some logits are equal."""
    rng = np.random.default_rng(seed)
    label = (np.arange(n) % 5 == 0).astype(np.int64)
    logit = np.round(rng.normal(-1.5, 1.0, n) + 1.2 * label, 2)
    return label, logit, 1 / (1 + np.exp(-logit))


def example_run(finished: Path, cohort: Cohort, folder: Path) -> Path:
    """A copy of a finished run with an evaluation of its train split, and predictions."""
    shutil.copytree(finished, folder)
    split = cohort.split("train")
    label, logit, probability = scores(split.n_stays)
    calibrated = np.clip(0.9 * probability, 0, 1)
    write_predictions(folder, split.stay_id, "train", logit, probability, calibrated, label)
    content = evaluation_content(label, logit, calibrated)
    risks = {"as predicted": probability, "calibrated": calibrated}
    content["curves"] = outcome_curves("in_hospital_mortality", label, logit, risks, float(np.sort(logit)[-15]))
    (folder / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_predictions(folder: Path, stay_id: Any, split: str, *columns: Any) -> None:
    """predictions.csv with logit, probability, calibrated probability and label; no reasons."""
    with (folder / "predictions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["stay_id", "split", "logit", "probability", "calibrated_probability", "label", "reason"])
        for stay, *values in zip(stay_id, *columns, strict=True):
            rows.writerow([stay, split, *values, ""])


def estimate(value: float, half: float = 0.04) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def evaluation_content(label: np.ndarray, logit: np.ndarray, risk: np.ndarray) -> dict[str, Any]:
    """evaluation.json of these predictions, with intervals of made-up width."""
    auroc, auprc = float(roc_auc_score(label, logit)), float(average_precision_score(label, logit))
    figures = {
        "auroc": estimate(auroc),
        "auprc": estimate(auprc),
        "brier": estimate(float(brier_score_loss(label, risk))),
    }
    figures |= {"calibration_slope": estimate(1.3, 0.2), "sensitivity": estimate(0.6), "ppv": {"value": None}}
    better = {name: estimate(figures[name]["value"] + 0.06) for name in ("auroc", "auprc")}
    group = {"stays": 30, "positives": 6, "figures": {"auroc": estimate(0.5, 0.01), "auprc": estimate(0.3)}}
    return {
        "checkpoint": "checkpoints/best.ckpt",
        "split": "train",
        "stays": len(label),
        "positives": int(label.sum()),
        "label_name": "in_hospital_mortality",
        "threshold": float(np.sort(risk)[-15]),
        "figures": figures,
        "prevalence": float(label.mean()),
        "cautions": [f"These stays were trained on {NASTY}."],
        "baselines": {
            "boosted_trees": {"figures": better, "difference": {"auroc": estimate(-0.06, 0.02)}},
            f"other {NASTY}": {"figures": {"auroc": estimate(0.5)}, "difference": {}},
        },
        "members": {NASTY: {"weight": 0.5, "figures": better, "difference": {"auroc": estimate(-0.06, 0.02)}}},
        "subgroups": [
            {"column": "age", "group": NASTY, **group},
            {"column": NASTY, "group": 1, "stays": 4, "positives": 0, "figures": {"auroc": {"value": None}}},
        ],
        "landmarks": [{"hours": hours, **group} for hours in (6, 12.5, 24)],
        "explanation": explanation(),
    }


def explanation() -> dict[str, Any]:
    """What evaluate --explain writes, with made-up numbers."""
    reason = {"variable": "Lactate", "words": f"Lactate last 4.1 (high) {NASTY}", "contribution": 0.84}
    levels = {"low": {"stays": 20, "mean": -0.31}, "high": {"stays": 25, "mean": 0.62}}
    course = {"hours": [1.0, 6.5, 20.25], "score": [-2.0, -1.0, 0.5], "risk": [0.12, 0.27, 0.62], "base": [-1.9] * 3}
    course |= {"variables": {"Lactate": [0.1, 0.5, 0.84], NASTY: [0.0, -0.2, 0.3]}, "reasons": [reason]}
    variables = [
        {"variable": "Lactate", "summary": "last", "mean_absolute": 0.456, "levels": levels},
        {"variable": NASTY, "summary": "", "mean_absolute": 0.1, "levels": {"present": {"stays": 12, "mean": 0.2}}},
    ]
    return {
        "of": "log-odds of in_hospital_mortality",
        **{"stays": 60, "base": -1.91, "gap": 0.0031, "variables": variables},
        "deletion": {"stays": 40, "variables": 3, "largest": 0.65, "random": -0.01, "share": 0.975},
        "courses": [{"name": "True alarm 1", "label": 1.0, **course, "moved": [[], [reason], [reason, reason]]}],
    }
