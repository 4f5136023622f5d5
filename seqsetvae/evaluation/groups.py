"""Subgroups of stays by the columns of a table: read, with their metrics, differences and tests of interaction.

Small groups are hidden. All groups are evaluated in the same resamples of the split, so that a difference of two groups
has an interval too where patients have stays in both. Tests are over one stay of each patient, drawn at random.

Legend: n stays, G groups of all columns, R resamples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.names import columns_are, refuse_nameless
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.cohort.tables.cells import as_facts, as_ids, in_column
from seqsetvae.cohort.tables.read import column_names, read_table
from seqsetvae.evaluation.statistics import Floats, bootstrap
from seqsetvae.system.errors import InputError, shown
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.interaction import holm

if TYPE_CHECKING:  # it imports torch
    from seqsetvae.evaluation.predictions import Predictions

Plain = dict[str, Any]
SMALLEST = 10
MISSING = "(missing)"
STAY = "stay_id"
MOST_GROUPS = 10  # different values of a numeric column above which it is cut into quartiles
MOST_NAMES = 50  # different values of a column of text: more are not groups but, for example, names or notes
DIGITS = 6  # of a solution of linear equations


@dataclass(frozen=True, eq=False)
class Subgroup:
    """Stays that share a value, or a quartile, of a column."""

    column: str
    group: str
    stays: NDArray[np.bool_]  # [n]


# ------------------------------------------------------------------ the table of groups


def read_subgroup_table(path: Path) -> pa.Table:
    """A .csv or .parquet file with a column stay_id, each stay at most once, and at least one other column.

    Raises:
        InputError: it is not such a file.
    """
    names = column_names(path)
    if names.count(STAY) != 1 or len(names) < 2:
        raise InputError(f"--subgroups {path}: needs a column {STAY} and at least one other. {columns_are(names)}")
    refuse_nameless(f"--subgroups {path}", names)
    table = pa.table(read_table(path, names))
    local, texts = in_column(f"--subgroups {path}", STAY, lambda: as_ids(table[STAY].combine_chunks()))
    numbers = [stay_number(text) for text in texts]
    if None in numbers:
        wrong = texts[numbers.index(None)]
        raise InputError(f"--subgroups {path}: cannot be read: {STAY} {shown(wrong)} is not a whole number.")
    stays = pa.array(np.array([*numbers, 0], np.int64)[local])
    if (local < 0).any() or len(pc.unique(stays)) < len(stays):
        raise InputError(f"--subgroups {path}: the column {STAY} has empty cells or repeats; give each stay one row.")
    return table.set_column(table.column_names.index(STAY), STAY, stays)


def subgroups_of(table: pa.Table, stays: NDArray[np.int64]) -> list[Subgroup]:
    """The groups of these stays [n] by each column. Stays without a value, or not in the table, are one more group.

    Raises:
        InputError: none of the stays is in the table, or a column of text has too many different values.
    """
    row_of = {stay: row for row, stay in enumerate(table[STAY].to_pylist())}
    row = np.array([row_of.get(stay, -1) for stay in stays.tolist()], dtype=np.int64)
    if not (row >= 0).any():
        raise InputError(f"--subgroups: none of the {len(stays):,} stays is in the table; check its column {STAY}.")
    subgroups = []
    for column in table.column_names:
        if column != STAY:
            values = table[column].combine_chunks().take(pa.array(row, mask=row < 0))
            subgroups += _groups_of_column(column, values)
    return subgroups


def _groups_of_column(column: str, values: pa.Array) -> list[Subgroup]:
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
        return _numeric_groups(column, numbers)
    names = as_facts(values)
    with contextlib.suppress(pa.ArrowInvalid):  # a column of a CSV file whose texts are all numbers
        return _numeric_groups(column, names.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False))
    names = names.fill_null(MISSING).to_numpy(zero_copy_only=False)
    different = sorted(set(names) - {MISSING}) + [MISSING] * bool((names == MISSING).any())
    if len(different) > MOST_NAMES:
        raise InputError(
            f"--subgroups: column {column!r} has {len(different):,} different values; at most {MOST_NAMES} are groups. "
            "Leave the column out of the table, or combine its values."
        )
    return [Subgroup(column, name, names == name) for name in different]


def _numeric_groups(column: str, values: NDArray[np.float64]) -> list[Subgroup]:
    """Each value where there are few, else quartiles: [n], NaN where there is none."""
    missing = np.isnan(values)
    different = np.unique(values[~missing])
    if len(different) <= MOST_GROUPS:
        groups = [Subgroup(column, f"{value:g}", values == value) for value in different]
    else:
        edges = np.unique(np.quantile(values[~missing], [0, 0.25, 0.5, 0.75, 1]))
        quarter = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, len(edges) - 2)
        groups = [
            Subgroup(column, f"{'above ' * bool(i)}{low:g} to {high:g}", (quarter == i) & ~missing)
            for i, (low, high) in enumerate(pairwise(edges.tolist()))
        ]
    return [*groups, Subgroup(column, MISSING, missing)] if missing.any() else groups


# ------------------------------------------------------------------ metrics by group


def by_group(evaluated: Predictions, groups: Sequence[Subgroup], smallest: int, resamples: int, seed: int) -> Plain:
    """`subgroups`, those that are shown, and `subgroup_columns` of evaluation.json."""
    if not groups:
        return {"subgroups": [], "subgroup_columns": []}
    numbers = np.array([_numbers(_counts(evaluated, group)) for group in groups])
    is_hidden = hidden(groups, numbers, smallest)
    columns: dict[str, list[str]] = {group.column: [] for group in groups}  # the hidden groups of each
    for at in np.flatnonzero(is_hidden).tolist():
        columns[groups[at].column].append(groups[at].group)
    shown = _shown(groups, is_hidden)
    counts = [_counts(evaluated, each) for each in shown]
    reference = {
        column: _largest([at for at, each in enumerate(shown) if each.column == column], shown, counts)
        for column in dict.fromkeys(each.column for each in shown)
    }
    rows = _rows(evaluated, shown, reference, resamples, seed)
    tests = _tests(evaluated, shown, columns, seed)
    return {
        "subgroups": [
            {"column": each.column, "group": each.group, **counts[at], **rows[at]} for at, each in enumerate(shown)
        ],
        "subgroup_columns": [
            {
                **{"column": column, "smallest_group": smallest, "hidden": names, "shown": column in reference},
                "reference": shown[reference[column]].group if column in reference else None,
                "tests": tests.get(column, {}),
            }
            for column, names in columns.items()
        ],
    }


def _shown(groups: Sequence[Subgroup], is_hidden: NDArray[np.bool_]) -> list[Subgroup]:
    """The groups that are not hidden, and the hidden ones of a column as one group, which is what the others leave."""
    shown = []
    for column in dict.fromkeys(group.column for group in groups):
        own = [(group, bool(no)) for group, no in zip(groups, is_hidden, strict=True) if group.column == column]
        shown += (kept := [each for each, no in own if not no])
        if kept and (secret := [each for each, no in own if no]):
            name = " or ".join(each.group for each in secret)
            shown.append(Subgroup(column, name, np.any([each.stays for each in secret], axis=0)))
    return shown


def _counts(evaluated: Predictions, group: Subgroup) -> Plain:
    counts = TASKS[evaluated.spec.task].counts(evaluated.target[group.stays])
    return {"stays": int(group.stays.sum()), **counts}


def _numbers(counts: Mapping[str, Any]) -> list[int]:
    """What may identify patients: stays, and of one label positives and negatives."""
    stays = counts["stays"]
    return [stays, counts["positives"], stays - counts["positives"]] if "positives" in counts else [stays]


def _largest(places: Sequence[int], groups: Sequence[Subgroup], counts: Sequence[Plain]) -> int:
    """The group that others are compared with: the one of most stays, if possible not those without a value."""
    return max(places, key=lambda at: (groups[at].group != MISSING, counts[at]["stays"]))


# ------------------------------------------------------------------ metrics and tests


def _rows(
    evaluated: Predictions,
    groups: Sequence[Subgroup],
    reference: Mapping[str, int],
    resamples: int,
    seed: int,
) -> list[Plain]:
    """The metrics of each group, and their difference to those of the reference of its column."""
    spec, task = evaluated.spec, TASKS[evaluated.spec.task]
    compared = getattr(task, "BY_GROUP", task.primary(spec))
    parts = [evaluated.rows(group.stays) for group in groups]
    metrics = [task.weighted_metrics(spec, part.output, part.target, part.calibration) for part in parts]

    def every(weights: Floats) -> dict[Any, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample without a stay of a group
            of_group = [of(weights[:, group.stays]) for group, of in zip(groups, metrics, strict=True)]
        values: dict[Any, Floats] = {}
        for at, own in enumerate(of_group):
            values |= {("figures", at, name): value for name, value in own.items()}
            to = reference[groups[at].column]
            if at != to:
                values |= {("difference", at, name): own[name] - of_group[to][name] for name in compared}
        return values

    rows: list[Plain] = [{"figures": {}} for _ in groups]
    intervals = bootstrap(np.zeros(len(evaluated), np.int64), every, resamples, seed, evaluated.subject)
    for (kind, at, name), interval in intervals.items():
        rows[at].setdefault(kind, {})[name] = interval.as_plain()
    return rows


def _tests(evaluated: Predictions, groups: Sequence[Subgroup], columns: Iterable[str], seed: int) -> dict[str, Plain]:
    """For each column and metric p, and p after Holm's correction for all of them; nothing for tasks without tests."""
    task = TASKS[evaluated.spec.task]
    if not hasattr(task, "interactions"):
        return {}
    chosen = one_of_each(evaluated.subject, len(evaluated), seed)
    p_values: dict[tuple[str, str], float | None] = {}
    for column in columns:
        group = np.full(len(evaluated), -1)
        for at, each in enumerate(groups):
            group[each.stays & (each.column == column)] = at
        inside = chosen[group[chosen] >= 0]
        different, place = np.unique(group[inside], return_inverse=True)
        if len(different) > 1:
            part = evaluated.rows(inside)
            tests = task.interactions(part.output, part.target, part.calibration, place, seed)
            p_values |= {(column, name): p for name, p in tests.items()}
    known = [key for key, p in p_values.items() if p is not None]
    adjusted = dict(zip(known, holm([p for p in p_values.values() if p is not None]), strict=True))
    tests_of: dict[str, Plain] = {}
    for (column, name), p in p_values.items():
        tests_of.setdefault(column, {})[name] = {"p": p, "holm": adjusted.get((column, name))}
    return tests_of


def one_of_each(subject: NDArray[np.int64] | None, stays: int, seed: int) -> NDArray[np.int64]:
    """Positions of one stay of each subject, drawn at random; all where each stay is of another."""
    if subject is None:
        return np.arange(stays)
    order = np.random.default_rng(seed).permutation(stays)
    return np.sort(order[np.unique(subject[order], return_index=True)[1]])


# ------------------------------------------------------------------ privacy


def hidden(groups: Sequence[Subgroup], counts: NDArray[np.int64], smallest: int) -> NDArray[np.bool_]:
    """Whether each group is hidden: it is small, or what is shown would give away a small one. [G]

    The numbers of a hidden group follow from others if its stays are a sum of theirs and of all stays: those of the
    only hidden group of a column, or of one that another column has too; and those of all hidden groups of a column
    together. Until nothing follows, the smallest group that gives something away is hidden as well.

    Args:
        groups: of all columns; those of a column have no stay in common.
        counts: [G, C] stays, positives and negatives of each, none of which may be below `smallest`.
        smallest: 0: nothing is hidden.
    """
    is_hidden: NDArray[np.bool_] = np.any(counts < smallest, axis=1)
    stays = np.array([*(group.stays for group in groups), np.ones_like(groups[0].stays)])
    patterns = np.unique(stays, axis=1).astype(np.float64)  # [G + 1, patterns]; the last row is all stays
    while (more := _gives_away([group.column for group in groups], counts, smallest, is_hidden, patterns)) is not None:
        is_hidden[more] = True
    return is_hidden


def _gives_away(
    column: Sequence[str], counts: NDArray[np.int64], smallest: int, is_hidden: NDArray[np.bool_], patterns: Floats
) -> int | None:
    """The group to hide besides those that are hidden; None if they are safe, or nothing is left to hide."""
    shown = np.flatnonzero(~is_hidden)
    basis = patterns[[*shown, len(column)]].T
    for at in np.flatnonzero(is_hidden).tolist():
        inside = np.array([each == column[at] for each in column])
        beside = np.flatnonzero(inside & ~is_hidden)
        weight = np.linalg.lstsq(basis, patterns[at])[0]
        follows = np.allclose(basis @ weight, patterns[at])
        if follows and not len(beside):  # those of other columns that it is a sum of
            share = np.abs(weight[:-1]).round(DIGITS)
            beside = shown[(share > 0) & (share == share.max(initial=0))]
        if len(beside) and (follows or (counts[inside & is_hidden].sum(axis=0) < smallest).any()):
            return int(min(beside, key=lambda each: counts[each, 0]))
    return None
