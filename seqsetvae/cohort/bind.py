"""Binds an open cohort to mean, std and vector of its variables: of a checkpoint, stats.csv and cached.csv, or its own.

Letters: V variables, I width of a vector; in a split N stays, S sets, E events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort import sidefiles
from seqsetvae.cohort.folds import OF_STAYS, GatheredSplit
from seqsetvae.cohort.format import Cohort, Split, is_compiled, open_cohort
from seqsetvae.cohort.report import event_counts
from seqsetvae.cohort.tidy import LARGEST
from seqsetvae.cohort.variables import CHECKPOINT, FILE, NONE, TRAIN_SPLIT, Variables
from seqsetvae.system.errors import InputError, counted, named, shown


@dataclass(frozen=True)
class SideTables:
    """What stats.csv and cached.csv say; None: there is no such file."""

    stats: sidefiles.Stats | None = None
    embeddings: sidefiles.Embeddings | None = None
    by_flag: bool = False  # they were named; others lie beside the data


NO_TABLES = SideTables()
# Beyond this the statistics or the value must be wrong: mistyped values are a few powers of ten away. The square of a
# z-score, and sums of squares, still fit into float32.
LARGEST_Z = 1e9
_SOURCES = {  # where mean and std are from: what it is called, and what to do
    TRAIN_SPLIT: ("The training split", "Pass a stats.csv with a usable mean and std, or correct the values."),
    FILE: ("stats.csv", "Correct mean and std in stats.csv, or the values, or remove the line to keep the raw values."),
    CHECKPOINT: ("The checkpoint", "Correct the values: are they in another unit?"),
}


class UnusableStatsError(InputError):
    """Statistics that cannot normalise some variables. `lines`: variable -> what is wrong with its statistics."""

    def __init__(self, source: str, lines: dict[str, str], advice: str) -> None:
        listed = "".join(f"\n  {shown(name)}: {line}" for name, line in lines.items())
        super().__init__(f"{source} cannot normalise {len(lines)} variables of the data:{listed}\n{advice}")
        self.lines = lines


def tables_in(cohort: Path) -> tuple[Path | None, Path | None]:
    """stats.csv and cached.csv in the folder of a compiled cohort; None: there is no such file."""
    stats, embeddings = (
        path if path.is_file() else None for path in (cohort / sidefiles.STATS, cohort / sidefiles.CACHED)
    )
    return stats, embeddings


def stats_of(path: Path | None) -> sidefiles.Stats | None:
    """Mean and std by variable, of a stats.csv or of a compiled cohort: those of its stats.csv, or of its values."""
    if path is None:
        return None
    file = tables_in(path)[0] if is_compiled(path) else path
    if file is not None:
        return sidefiles.read_stats(file)
    variables = open_cohort(path).variables
    triples = zip(variables.names, variables.mean.tolist(), variables.std.tolist(), strict=True)
    return {name: (mean, std) for name, mean, std in triples if mean == mean}


def vectors_of(path: Path | None) -> sidefiles.Embeddings | None:
    """Vectors of a cached.csv or of a compiled cohort; None: they are generated from the names."""
    if path is None:
        return None
    file = tables_in(path)[1] if is_compiled(path) else path
    return None if file is None else sidefiles.read_embeddings(file)


def bind(
    cohort: Cohort, tables: SideTables = NO_TABLES, own: Variables | None = None, *, leave_out_unknown: bool = False
) -> Cohort:
    """The cohort as a model reads it.

    Args:
        cohort: as opened, or bound to something else.
        tables: what files say; without them mean and std are those of the cohort, and vectors are generated.
        own: the variables of a checkpoint. Of `tables` only variables that it lacks are then taken.
        leave_out_unknown: leave out events of variables without a vector and count them, instead of an error.

    Raises:
        InputError: variables that cannot be normalised, or without a vector; each is listed.
    """
    variables = with_tables(cohort, tables, () if own is None else own.names).variables
    if own is not None:
        _compare(own, variables, tables.by_flag)
        variables = own.over(variables)
    cohort = replace(cohort, variables=variables)
    if variables.statistics == NONE:
        raise InputError(
            f"{cohort.path}: there is no train split to compute statistics from. Pass a stats.csv (--params_map_path)."
        )
    missing = np.zeros(len(variables.names), bool) if variables.given is None else np.isnan(variables.given[:, 0])
    if missing.any() and not leave_out_unknown:
        _refuse(cohort, missing, "cached.csv" if own is None else "The checkpoint")
    cohort = _without_variables(cohort, missing) if missing.any() else cohort
    _check_furthest(cohort)
    return cohort


def with_tables(cohort: Cohort, tables: SideTables, known: tuple[str, ...] = ()) -> Cohort:
    """The cohort whose variables are as files say; the lines of `known` ones are not checked. Raises InputError."""
    variables, names = cohort.variables, cohort.vocabulary
    needed = sorted(set(names) - set(known))
    if tables.stats is not None:
        if bad := sidefiles.unusable_stats(tables.stats, needed):
            raise InputError(
                f"stats.csv cannot normalise these variables of the data ({sidefiles.USABLE_STATS}):"
                + "".join(f"\n  {shown(name)}: {line}" for name, line in bad.items())
                + "\nGive each a usable std (1 keeps its unit), or remove its line to keep the raw value."
            )
        pairs = np.array([tables.stats.get(name, (np.nan, np.nan)) for name in names], dtype=np.float64)
        variables = replace(variables, mean=pairs[:, 0], std=pairs[:, 1], statistics=FILE)
    if tables.embeddings is not None:
        _, broken = sidefiles.embedding_faults(tables.embeddings, needed)
        if broken:
            raise InputError(
                f"cached.csv: the embedding of {', '.join(map(repr, broken))} contains numbers that are not finite, or "
                "beyond what float32 can hold."
            )
        rows = [tables.embeddings.row.get(name, -1) for name in names]
        given = np.where(np.array(rows)[:, None] < 0, np.nan, tables.embeddings.vectors[rows])
        variables = replace(variables, given=given, width=given.shape[1])
    return replace(cohort, variables=variables)


def _check_furthest(cohort: Cohort) -> None:
    """Check the z-score of the value that is furthest from the mean, for each variable that has statistics.

    Raises:
        UnusableStatsError: a z-score above LARGEST_Z, or one that is not finite; a mean or std beyond float32.
    """
    sums, mean, std = [cohort.sums(name) for name in cohort.splits], cohort.mean, cohort.std
    low, high = np.min([each.low for each in sums], axis=0), np.max([each.high for each in sums], axis=0)
    furthest = np.where(mean - low > high - mean, low, high)
    with np.errstate(over="ignore", invalid="ignore"):
        z = (furthest - mean) / std
        usable = (np.abs(z) <= LARGEST_Z) & (np.abs(mean) <= LARGEST) & (std <= LARGEST)
    lines = {
        cohort.vocabulary[v]: f"mean {mean[v]:g}, std {std[v]:g}; its furthest value {furthest[v]:g} has z = {z[v]:g}"
        for v in np.flatnonzero(~np.isnan(mean) & ~usable).tolist()
    }
    if lines:
        name, advice = _SOURCES[cohort.variables.statistics]
        raise UnusableStatsError(name, lines, f"{advice} A z-score may be at most {LARGEST_Z:g}.")


def _compare(own: Variables, variables: Variables, by_flag: bool) -> None:
    """Say that files beside the data contradict a checkpoint. Raises InputError if they are named."""
    changed = own.contradicted_by(variables)
    if not changed:
        return
    listed = f"{counted(len(changed), 'variable')}: {named(changed)}"
    if by_flag:
        raise InputError(
            f"The checkpoint was trained with another mean, std or embedding of {listed}. It has those of its "
            "training: leave out --params_map_path and --embeddings_path."
        )
    print(f"stats.csv or cached.csv beside the data differ from those of the checkpoint, which are used, in {listed}")


def _refuse(cohort: Cohort, missing: NDArray[np.bool_], source: str) -> None:
    counts = event_counts(cohort)
    lines = (f"\n  {shown(cohort.vocabulary[v])}: {counts[v]:,} events" for v in np.flatnonzero(missing).tolist())
    raise InputError(
        f"{source} has no embedding for {missing.sum()} of {len(missing)} variables:{''.join(lines)}\n"
        "Add a line for each to cached.csv (--embeddings_path), or take their rows out of the data."
    )


# ------------------------------------------------------------------ without variables that a model cannot read


def _without_variables(cohort: Cohort, gone: NDArray[np.bool_]) -> Cohort:
    """The cohort in memory without the events of these variables [V], and without the stays that had no others.

    Its manifest counts both, by split: report.unknown_variables and report.without_known_variable.
    """
    splits: dict[str, Split] = {}
    unknown: dict[str, dict[str, int]] = {}
    emptied: dict[str, list[int]] = {}
    counts = dict(cohort.manifest["splits"])
    for name, split in cohort.splits.items():
        sums = cohort.sums(name)
        lost = np.flatnonzero(gone & (sums.count > 0)).tolist()
        if lost:
            unknown[name] = {cohort.vocabulary[v]: int(sums.count[v]) for v in lost}
        reduced, is_empty = _with_events(split, ~gone)
        reduced.sums = sums.take(np.flatnonzero(~gone))
        if not reduced.n_stays:
            raise InputError(
                f"{cohort.path}: the split {name} has no stay with a variable that has an embedding. If they have "
                "other names there, --variable_map of data.py maps them."
            )
        if is_empty.any():
            emptied[name] = split.stay_id[is_empty].tolist()
        counts[name] = {
            "stays": reduced.n_stays,
            "sets": reduced.n_sets,
            "events": reduced.n_events,
            "labelled": int((reduced.label >= 0).sum()),
            "positives": int((reduced.label == 1).sum()),
        }
        splits[name] = reduced
    report = cohort.manifest["report"] | {"unknown_variables": unknown, "without_known_variable": emptied}
    variables = cohort.variables.take(np.flatnonzero(~gone))
    manifest = cohort.manifest | {"report": report, "splits": counts}
    return replace(cohort, manifest=manifest, vocabulary=variables.names, variables=variables, splits=splits)


def _with_events(split: Split, keep: NDArray[np.bool_]) -> tuple[GatheredSplit, NDArray[np.bool_]]:
    """(the split with the events of the variables to keep [V], renumbered; which stays [N] have none of them)."""
    kept = keep[split.variable]
    set_end, has_event = _ends(kept, split.set_offset)
    stay_end, has_set = _ends(has_event, split.stay_offset)
    number = (np.cumsum(keep) - 1).astype(np.int32)
    arrays: dict[str, NDArray[Any]] = {
        "variable": number[split.variable[kept]],
        "value": split.value[kept],
        "set_offset": set_end,
        "minute": split.minute[has_event],
        "stay_offset": stay_end,
    }
    arrays |= {array: getattr(split, array)[has_set] for array in OF_STAYS}
    return GatheredSplit(split.name, arrays), ~has_set


def _ends(kept: NDArray[np.bool_], offset: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(offsets of the parts that keep something, which parts these are), for the parts that `offset` delimits."""
    offset = np.concatenate([[0], np.cumsum(kept)])[offset]
    has_some = np.diff(offset) > 0
    return np.concatenate([[0], offset[1:][has_some]]), has_some
