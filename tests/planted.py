"""SYNTHETIC stays of 48 hours in which one fact alone decides the label, which is then flipped in 5 % of the stays.

All else of a stay is noise: three vital signs, two laboratory values, and the patient's sex.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

Row = tuple[str, float, float | str]  # variable, hour, value
Fact = tuple[bool, list[Row]]  # whether it is there, and its events
HOURS, FLIPPED, RARE = 48.0, 0.05, 10


def _category(rng: np.random.Generator) -> Fact:
    unit = str(rng.choice(["A", "B", "C"]))
    return unit == "A", [("unit", 0.0, unit)]


def _number(rng: np.random.Generator) -> Fact:
    age = rng.normal(60, 15)
    return age > 60, [("age", 0.0, age)]


def _late_test(rng: np.random.Generator) -> Fact:
    is_late = bool(rng.random() < 0.4)
    return is_late, [("culture", rng.uniform(38, HOURS), "")] * is_late


def _count(rng: np.random.Generator) -> Fact:
    times = rng.uniform(0, HOURS, rng.integers(5, 31))
    return len(times) > 17, [("glucose", hour, rng.normal(7, 1)) for hour in times]


def _last(rng: np.random.Generator) -> Fact:
    values = rng.normal(50, 15, 6)
    return values[-1] > 50, [("crp", *each) for each in zip(np.sort(rng.uniform(0, HOURS, 6)), values, strict=True)]


def _trend(rng: np.random.Generator) -> Fact:
    slope, start, times = rng.normal(), rng.normal(100, 20), rng.uniform(0, HOURS, 8)
    return slope > 0, [("creatinine", hour, start + slope * hour + rng.normal(0, 2)) for hour in times]


def _time_of_the_first(rng: np.random.Generator) -> Fact:
    first = rng.uniform(0, 20)
    return first < 8, [("antibiotic", hour, "") for hour in (first, *rng.uniform(first, HOURS, 2))]


def _ratio(rng: np.random.Generator) -> Fact:
    oxygen, share = np.exp(rng.normal(4.5, 0.4)), np.exp(rng.normal(-1, 0.4))
    events = [("pao2", rng.uniform(0, HOURS), oxygen), ("fio2", rng.uniform(0, HOURS), share)]
    return oxygen / share > np.exp(5.5), events


FACTS: dict[str, Callable[[np.random.Generator], Fact]] = {
    "category": _category,
    "number": _number,
    "late test": _late_test,
    "count": _count,
    "last value": _last,
    "trend": _trend,
    "time of the first": _time_of_the_first,
    "ratio of two": _ratio,
}
RARE_LEVEL = "rare level"  # that RARE stays have, and no others are positive


def write_planted(folder: Path, kind: str, n_stays: int = 600, seed: int = 0) -> tuple[Path, Path, float]:
    """A long table and the labels of it, as files in a folder, and the AUROC of the fact itself."""
    rng = np.random.default_rng(seed)
    rare = set(rng.choice(n_stays, RARE, replace=False).tolist())
    rows, labels, facts = [], [], []
    for stay in range(n_stays):
        if kind == RARE_LEVEL:
            label = fact = stay in rare
            events: list[Row] = [("device", 0.0, "rare" if label else str(rng.choice(["none", "usual"])))]
        else:
            fact, events = FACTS[kind](rng)
            label = bool(fact) != (rng.random() < FLIPPED)
        rows += [(stay, 60 * hour, name, value) for name, hour, value in [*events, *_noise(rng)]]
        labels.append((stay, int(label)))
        facts.append(bool(fact))
    events_file = _write(folder / "events.csv", "id,time,variable,value", rows)
    labels_file = _write(folder / "labels.csv", "id,died", labels)
    return events_file, labels_file, float(roc_auc_score([label for _, label in labels], facts))


def _noise(rng: np.random.Generator) -> Iterator[Row]:
    yield "sex", 0.0, str(rng.choice(["f", "m"]))
    for name, mean, spread, most in (("hr", 80, 12, 14), ("map", 75, 10, 8), ("temp", 37, 0.6, 8), ("na", 140, 4, 5)):
        times = rng.uniform(0, HOURS, rng.integers(most // 2, most))
        for hour in (0.0, HOURS, *times) if name == "hr" else times:
            yield name, hour, rng.normal(mean, spread)


def _write(file: Path, header: str, rows: Sequence[tuple[object, ...]]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([header.split(","), *rows])
    return file
