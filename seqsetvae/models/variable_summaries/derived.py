"""Combinations of variables that clinicians use, from the summaries: ratios, changes, totals and severity points.

They exist where the cohort has variables of these names and of these units (those of the PhysioNet 2012 challenge);
elsewhere only the counts of all variables remain. Points follow SAPS II (Le Gall et al., JAMA 1993), with what the data
have of it. Legend: N stays, V variables, F summaries, C combinations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from seqsetvae.models.variable_summaries.summaries import SUMMARIES

STATIC = ("Age", "Gender", "Height", "ICUType_1", "ICUType_2", "ICUType_3", "ICUType_4")
LABS = ("BUN", "Na", "HCT", "pH", "Lactate", "Glucose", "PaO2")
CHANGING = (
    *("BUN", "Creatinine", "WBC", "Platelets", "Lactate", "GCS", "Urine"),
    *("HR", "HCO3", "Temp", "Na", "pH", "FiO2"),
)
PRESSURES = ("SysABP", "NISysABP", "DiasABP", "NIDiasABP", "MAP", "NIMAP")
OTHERS = ("AST", "ALT", "PaO2", "Weight", "MechVent", "Bilirubin")
NAMES = tuple(dict.fromkeys((*STATIC, *LABS, *CHANGING, *PRESSURES, *OTHERS)))  # of all variables that are read
FIRST_WINDOW = "last_36_48h_"
STAGES = ("mean", "last", "min", "max", "last_0_12h_mean", f"{FIRST_WINDOW}mean")

Get = Callable[[str, str], torch.Tensor]  # (variable, summary) → [N]
Columns = dict[str, torch.Tensor]


def combinations(summaries: torch.Tensor, counts: torch.Tensor) -> Columns:
    """All combinations by name, [N] each; NaN where one is not defined.

    Args:
        summaries: [N, len(NAMES), F] in the units of the variables, NaN where there is none.
        counts: [N, 3] variables measured, events, and laboratory values of the last 12 hours.
    """

    def get(variable: str, summary: str) -> torch.Tensor:
        return summaries[:, NAMES.index(variable), SUMMARIES.index(summary)]

    columns = _ratios(get) | _changes(get) | _totals(get)
    columns |= dict(zip(("variables", "events", "labs.last_12h"), counts.unbind(1), strict=True))
    columns |= _severity(get, columns)
    return {name: torch.where(torch.isfinite(column), column, torch.nan) for name, column in columns.items()}


def _either(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The first, or the second where the first is missing: invasive, else non-invasive pressure."""
    return torch.where(torch.isfinite(first), first, second)


def _ratios(get: Get) -> Columns:
    columns: Columns = {}
    for stage in STAGES:
        systolic = _either(get("SysABP", stage), get("NISysABP", stage))
        columns[f"systolic.{stage}"] = systolic
        columns[f"pulse_pressure.{stage}"] = systolic - _either(get("DiasABP", stage), get("NIDiasABP", stage))
        columns[f"mean_pressure.{stage}"] = _either(get("MAP", stage), get("NIMAP", stage))
        for first, second in (("BUN", "Creatinine"), ("PaO2", "FiO2"), ("AST", "ALT")):
            columns[f"{first}/{second}.{stage}"] = get(first, stage) / get(second, stage)
        columns[f"Na-HCO3.{stage}"] = get("Na", stage) - get("HCO3", stage)
        if stage not in ("min", "max"):
            columns[f"shock_index.{stage}"] = get("HR", stage) / systolic
            columns[f"GCS/Age.{stage}"] = get("GCS", stage) / get("Age", "mean")
    columns["bmi"] = get("Weight", "mean") / (get("Height", "mean") / 100) ** 2
    return columns


def _changes(get: Get) -> Columns:
    columns: Columns = {}
    for name in CHANGING:
        columns[f"{name}.change"] = get(name, "last") - get(name, "first")
        columns[f"{name}.last/mean"] = get(name, "last") / get(name, "mean")
        columns[f"{name}.range"] = get(name, "max") - get(name, "min")
    return columns


def _totals(get: Get) -> Columns:
    windows = (FIRST_WINDOW, "last_24_36h_", "last_12_24h_", "last_0_12h_")
    urine = {window: get("Urine", f"{window}mean") * get("Urine", f"{window}count") for window in windows}
    columns = {f"urine.{window}": column.nan_to_num() for window, column in urine.items()}
    columns["urine"] = get("Urine", "mean") * get("Urine", "count")
    columns["urine/kg"] = columns["urine"] / get("Weight", "mean")
    last_day = columns["urine.last_12_24h_"] + columns["urine.last_0_12h_"]
    columns["urine/kg.last_24h"] = last_day / get("Weight", "mean")
    columns["ventilated"] = (get("MechVent", "count") > 0).double()
    columns["ventilated.last_12h"] = (get("MechVent", "last_0_12h_count") > 0).double()
    columns["ventilated.hours"] = (get("MechVent", "hour_last") - get("MechVent", "hour_first")).nan_to_num()
    return columns


def _points(value: torch.Tensor, edges: Sequence[float], points: Sequence[float]) -> torch.Tensor:
    """points[i] where i edges are at or below the value; 0 where it is missing."""
    table = torch.tensor(points, dtype=value.dtype, device=value.device)
    place = torch.bucketize(value.contiguous(), torch.tensor(edges, dtype=value.dtype, device=value.device), right=True)
    return torch.where(torch.isfinite(value), table[place.clamp_max(len(points) - 1)], 0.0)


def _severity(get: Get, columns: Mapping[str, torch.Tensor]) -> Columns:
    """Points for the worst values of the stay, the same without age, and points for the last values."""

    def common(worst_low: str, worst_high: str, systolic: torch.Tensor) -> torch.Tensor:
        return (
            _points(get("GCS", worst_low), [6, 9, 11, 14], [26, 13, 7, 5, 0])
            + _points(get("BUN", worst_high), [28, 84], [0, 6, 10])
            + _points(get("HCO3", worst_low), [15, 20], [6, 3, 0])
            + systolic
        )

    age = _points(get("Age", "mean"), [40, 60, 70, 75, 80], [0, 7, 12, 15, 16, 18])
    low, high = _points(columns["systolic.min"], [70, 100], [13, 5, 0]), _points(columns["systolic.max"], [200], [0, 2])
    slow, fast = _points(get("HR", "min"), [40, 70], [11, 2, 0]), _points(get("HR", "max"), [120, 160], [0, 4, 7])
    few, many = _points(get("WBC", "min"), [1], [12, 0]), _points(get("WBC", "max"), [20], [0, 3])
    total = (
        common("min", "max", torch.maximum(low, high))
        + torch.maximum(slow, fast)
        + torch.maximum(few, many)
        + _points(get("Bilirubin", "max"), [4, 6], [0, 4, 9])
        + _points(get("Temp", "max"), [39], [0, 3])
        + _points(columns["urine"] / 2, [500, 1000], [11, 4, 0])  # mL a day, of the two days of PhysioNet 2012
        + columns["ventilated"] * _points(columns["PaO2/FiO2.min"], [100, 200], [11, 9, 6])
    )
    late = common("last", "last", _points(columns["systolic.last"], [70, 100], [13, 5, 0]))
    return {"severity": total + age, "severity.without_age": total, "severity.last": late + age}


COMBINATIONS = tuple(combinations(torch.empty(0, len(NAMES), len(SUMMARIES)), torch.empty(0, 3)))
