"""Subgroups of stays by the columns of a stay-level table: age band, sex, unit, ...

Legend: n stays, K rows of the table.
"""

from __future__ import annotations

import contextlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.names import columns_are, refuse_nameless
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.cohort.tables.cells import as_facts, as_ids, in_column
from seqsetvae.cohort.tables.read import column_names, read_table
from seqsetvae.evaluation.groups import MISSING, Subgroup
from seqsetvae.system.errors import InputError, shown

STAY = "stay_id"
MOST_GROUPS = 10  # different values of a numeric column above which it is cut into quartiles
MOST_NAMES = 50  # different values of a column of text: more are not groups but, for example, names or notes


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
            subgroups += _groups(column, values)
    return subgroups


def _groups(column: str, values: pa.Array) -> list[Subgroup]:
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
