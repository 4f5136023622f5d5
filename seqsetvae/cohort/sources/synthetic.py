"""A small SYNTHETIC cohort with a signal that can be learned: for trying things out, never for conclusions."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.export import write_csv, write_stay
from seqsetvae.cohort.sources.seqsetvae_layout import ORIGIN_NOTE
from seqsetvae.cohort.variables import generate_embedding
from seqsetvae.system.files import cannot_write, refuse_existing

FRACTIONS = {"train": 0.6, "valid": 0.2, "test": 0.2}
HOURS, FIRST_STAY = 48, 900_001

# name: (mean and std in a healthy stay, drift per unit of severity in stds, measurements an hour)
VITALS = {
    "heart rate": (85.0, 14.0, 0.7, 0.5),
    "mean arterial pressure": (80.0, 12.0, -0.7, 0.5),
    "respiratory rate": (18.0, 4.0, 0.65, 0.4),
    "oxygen saturation": (97.0, 2.0, -0.5, 0.4),
    "temperature": (37.0, 0.7, 0.15, 0.2),
    "urine output": (110.0, 60.0, -0.55, 0.3),
}
LABORATORY = {
    "lactate": (1.6, 0.8, 0.9, 0.06),
    "creatinine": (1.1, 0.6, 0.35, 0.06),
    "glucose": (135.0, 40.0, 0.1, 0.08),
    "haemoglobin": (11.0, 1.6, -0.15, 0.06),
    "white blood cells": (10.5, 4.0, 0.25, 0.06),
}
AGE = "age"


def write_synthetic(out: str | Path, n_stays: int = 600, seed: int = 0, embedding_width: int | None = None) -> Path:
    """Write a synthetic cohort in the SeqSetVAE layout and return its patient_ehr folder.

    A hidden severity drives the drift of the vital signs, how often things are measured, and the risk of death, so that
    a linear model on the means and last values reaches an AUROC of about 0.8. About a quarter of the stays die.

    Args:
        out: new folder for patient_ehr/{train,valid,test}, stats.csv, oc.csv and a source.txt that says "synthetic".
        n_stays: over the three splits, 60/20/20.
        seed: equal seeds write equal data.
        embedding_width: also write a cached.csv of this width; without it embeddings are generated from the names.

    Raises:
        InputError: `out` exists already, or cannot be written.
    """
    out = Path(out)
    rng = np.random.default_rng(seed)
    drawn = [_draw_stay(rng) for _ in range(n_stays)]
    ends = np.rint(np.cumsum([0.0, *FRACTIONS.values()]) * n_stays).astype(int)
    refuse_existing(out)
    try:  # not as a new folder of cohorts: syncing hundreds of small files takes ten seconds
        for split, start, end in zip(FRACTIONS, ends[:-1], ends[1:], strict=True):
            folder = out / "patient_ehr" / split
            folder.mkdir(parents=True)
            for at in range(start, end):
                write_stay(folder, FIRST_STAY + at, drawn[at][0])
        stats = _stats([events for events, _ in drawn[: ends[1]]])
        write_csv(out / "stats.csv", ("variable", "mean", "std"), stats)
        labels = ((FIRST_STAY + at, died) for at, (_, died) in enumerate(drawn))
        write_csv(out / "oc.csv", ("ts_id", "in_hospital_mortality"), labels)
        note = f"synthetic, no real patients ({n_stays} stays, seed {seed})"
        (out / ORIGIN_NOTE).write_text(note + "\n", encoding="utf-8")
        if embedding_width is not None:
            names = sorted([AGE, *VITALS, *LABORATORY])
            vectors = ((name, *generate_embedding(name, embedding_width).tolist()) for name in names)
            write_csv(out / "cached.csv", ("Key", *range(embedding_width)), vectors)
    except OSError as error:
        raise cannot_write(out, error) from error
    return out / "patient_ehr"


def _draw_stay(rng: np.random.Generator) -> tuple[pa.Table, int]:
    """The events of one stay and whether it dies."""
    severity = rng.normal()
    died = int(rng.random() < 1 / (1 + math.exp(1.8 - 2.2 * severity)))
    names, values, minutes = [AGE], [np.clip(65 + 6 * severity + rng.normal(0, 14), 18, 95)], [0.0]
    hours = HOURS * rng.uniform(0.4, 1.0)
    for name, (mean, std, drift, rate) in {**VITALS, **LABORATORY}.items():
        times = _times(rng, hours, rate * math.exp(0.25 * severity))
        own_level = rng.normal(0, 0.6)  # people differ for reasons that have nothing to do with severity
        course = own_level + drift * severity * (0.3 + times / (HOURS * 60)) + rng.normal(0, 0.8, len(times))
        names += [name] * len(times)
        values += list(np.round(np.maximum(mean + std * course, 0.0), 2))
        minutes += list(times)
    order = np.argsort(minutes, kind="stable")
    minute = np.array(minutes)[order]
    set_index = np.unique(minute, return_inverse=True)[1].astype(np.int64)
    columns = {"variable": [names[i] for i in order], "value": np.array(values)[order], "minute": minute}
    return pa.table(columns | {"set_index": set_index}), died


def _times(rng: np.random.Generator, hours: float, rate: float) -> NDArray[np.float64]:
    """Minutes of measurements, on a grid of rounds every 30 minutes so that things are measured together."""
    n = rng.poisson(rate * hours)
    return np.unique(rng.integers(1, int(hours * 2) + 1, n)).astype(np.float64) * 30


def _stats(stays: list[pa.Table]) -> list[tuple[str, float, float]]:
    """Mean and sample std of each variable over these stays."""
    events = pa.concat_tables(stays)
    name, value = np.array(events["variable"].to_pylist(), dtype=object), events["value"].to_numpy()
    of = {variable: value[name == variable] for variable in sorted(set(name))}
    return [(variable, float(x.mean()), float(x.std(ddof=1))) for variable, x in of.items()]
