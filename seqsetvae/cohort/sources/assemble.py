"""From events and samples, and the flags that tables of events share, to what the compiler takes.

Letters: D ids, N samples.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.imported import END, ID_COLUMN, NO_LABEL, SAMPLE_TIMES, TIME_COLUMN, TIMESTAMPS, Imported
from seqsetvae.cohort.sidefiles import LabelTable
from seqsetvae.cohort.sources.divide import assign_by_fractions, assign_fold, choose_fractions, read_fold
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.sources.said import decided_for, found_in
from seqsetvae.cohort.sources.stay_end import StayEnd, end_notes, end_skips, ended
from seqsetvae.cohort.tables.codes import KEEP, Decision, EventCodes
from seqsetvae.cohort.tables.events import Columns, Events
from seqsetvae.cohort.tables.samples import Samples
from seqsetvae.cohort.tables.source import EventSource, StaticColumn
from seqsetvae.cohort.tables.times import MICROSECONDS, in_unit, is_bad
from seqsetvae.cohort.tidy import SPLITS, Skip
from seqsetvae.errors import InputError, counted

SPLIT_NAMES = {**{name: name for name in SPLITS}, "training": "train", "validation": "valid", "val": "valid"}
SPLIT_NAMES |= {"tuning": "valid", "held_out": "test"}


@dataclass(frozen=True)
class Found:
    """What a source found in its tables."""

    description: str
    columns: Columns
    events: Events
    samples: Samples  # those that are compiled, [N]
    every_sample: Samples  # those that are left out before included
    label_name: str | None
    own_split: NDArray[np.int8] | None = None  # [N] the splits of the data, as positions in SPLITS
    how_split: str = "the data's own"
    static: Sequence[StaticColumn] = ()
    static_rows: bool = False  # events without a time are facts of the stay
    from_start: bool = False  # events before the start of a sample are left out
    skips: Sequence[Skip] = ()  # stays that are not among the samples
    read: Sequence[str] = ()  # what the tables hold, in words
    rules: Sequence[str] = ()  # how labels and prediction times were made of the data, in words
    notes: Sequence[str] = ()
    end: StayEnd | None = None  # of the samples; None: the data do not say when stays end


def assemble(arguments: Namespace, found: Found) -> Opened:
    """Window, splits and variables by the flags. Raises InputError."""
    found = _without_ended(replace(found, samples=with_window(found.samples, arguments.until_hour)))
    codes, samples = found.events.codes, found.samples
    every_sample = with_window(found.every_sample, arguments.until_hour)
    if not len(samples):
        first = f" The first that was left out: {found.skips[0]}" if found.skips else f" {'; '.join(found.rules)}"
        raise InputError(f"{found.description}: no stay is left.{first}")
    decision = codes.decide(arguments.non_numeric)
    counts = events_by_name(codes, decision)
    split, how = assign_splits(arguments, samples, found.own_split, found.how_split)
    source = EventSource(
        found.description,
        found.events,
        decision,
        found.columns,
        samples,
        split,
        found.static,
        static_rows=found.static_rows,
        from_start=found.from_start,
    )
    source.skips += found.skips
    notes = [
        *found.notes,
        *_without_sample(found),
        *codes.mapping.notes(codes.seen),
        *codes.unmatched_notes(arguments.leave_out, arguments.categorical),
        *decision.notes,
        *found.events.notes,
    ]
    times = TIMESTAMPS if found.events.time.is_timestamp else found.events.time.unit
    record = {"times": times, SAMPLE_TIMES: times, "splits": how, "until_hour": arguments.until_hour}
    record |= {"leave_out": list(codes.patterns), END: None if found.end is None else found.end.name}
    record |= {"categorical": list(arguments.categorical), "variable_map": codes.mapping.as_plain()}
    record |= {ID_COLUMN: found.columns.id, TIME_COLUMN: arguments.prediction_time_column}
    record |= {name: getattr(arguments, name, None) for name in ("time_format", "time_zone", "decimal")}
    has_label = samples.label >= 0
    read = [*found.read, *found_in(found.events, found.columns, samples, decision, counts)]
    facts = [column.name for column in found.static]
    decided = decided_for(arguments, found.label_name, found.rules, samples, facts, how) + codes.left_out_notes()
    return Opened(
        source=source,
        label_name=found.label_name or NO_LABEL,
        labels=LabelTable(samples.stay_id[has_label], samples.label[has_label]),
        imported=Imported(
            notes, read, decided, record, sample_table(every_sample, samples.stay_id, split, found.events)
        ),
    )


def with_window(samples: Samples, until_hour: float | None) -> Samples:
    """The samples, each predicted at hour `until_hour`. Raises InputError if they have prediction times already."""
    if until_hour is None:
        return samples
    if not is_bad(samples.end).all():
        raise InputError(f"--until_hour {until_hour:g}: the labels have prediction times already. Leave it out.")
    length = round(until_hour * 60 * MICROSECONDS) if samples.start.dtype == np.int64 else 60 * until_hour
    return replace(samples, end=np.where(is_bad(samples.start), samples.start, samples.start + length))


def _without_ended(found: Found) -> Found:
    """Without the samples whose stay ended before their prediction time, which are listed and counted."""
    if found.end is None:
        return found
    gone = ended(found.end, found.samples)
    static = [replace(column, code=column.code[~gone], value=column.value[~gone]) for column in found.static]
    return replace(
        found,
        samples=found.samples.take(~gone),
        own_split=None if found.own_split is None else found.own_split[~gone],
        static=static,
        skips=[*found.skips, *end_skips(found.end, found.samples, gone)],
        notes=[*found.notes, *end_notes(found.end, found.samples, gone, found.label_name, found.events)],
    )


def _without_sample(found: Found) -> list[str]:
    n_other = len(found.events.ids) - len(np.unique(found.every_sample.id))
    return [f"{counted(n_other, 'id')} without a prediction time: not in the cohort"] if n_other else []


def assign_splits(
    arguments: Namespace, samples: Samples, own: NDArray[np.int8] | None, how_own: str
) -> tuple[NDArray[np.int8], str]:
    """(the split of each sample [N] as a position in SPLITS, how it was chosen).

    `own` are the splits of the data, or those that the source chose, as `how_own` says.
    """
    subject, label, seed = samples.subject, samples.label, arguments.seed
    fold = read_fold(arguments.fold)
    if fold is not None:
        return assign_fold(subject, label, fold, seed), f"fold {arguments.fold}, seed {seed}"
    if own is not None and (not arguments.fractions or getattr(arguments, "split_by", None)):
        return own, how_own
    fractions = choose_fractions(arguments.fractions, ())
    shown = " ".join(f"{share:g}" for share in fractions)
    return assign_by_fractions(subject, label, fractions, seed), f"by patient at random, {shown}, seed {seed}"


def split_positions(where: str, names: pa.Array) -> NDArray[np.int8]:
    """[D] The split that each cell names, as a position in SPLITS. Raises InputError for an empty or unknown name."""
    encoded = names.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    unknown = [text for text in texts if text.lower() not in SPLIT_NAMES]
    if unknown or names.null_count:
        what = f"{unknown[0]!r} is no split" if unknown else f"{counted(names.null_count, 'stay')} without a split"
        raise InputError(f"{where}: {what}; allowed: {', '.join(SPLIT_NAMES)}.")
    positions = np.array([SPLITS.index(SPLIT_NAMES[text.lower()]) for text in texts], dtype=np.int8)
    return positions[encoded.indices.to_numpy(zero_copy_only=False)]


def events_by_name(codes: EventCodes, decision: Decision) -> dict[str, int]:
    """Events of each variable and level that are kept."""
    counts: dict[str, int] = {}
    for name, n, action in zip(decision.names, codes.counts.tolist(), decision.action.tolist(), strict=True):
        if n and action == KEEP:
            counts[name] = counts.get(name, 0) + n
    return counts


def sample_table(samples: Samples, compiled: NDArray[np.int64], split: NDArray[np.int8], events: Events) -> pa.Table:
    """The samples with the ids and times of the source, for `Imported`; `split` is that of the `compiled` ones."""
    position = np.full(len(samples), -1)
    position[np.searchsorted(samples.stay_id, compiled)] = split
    zone = "UTC" if events.time.is_located else None
    kind = pa.timestamp("us", zone) if events.time.is_timestamp else pa.float64()

    def times(column: NDArray[Any]) -> pa.Array:
        """As the source has them: timestamps, or numbers in its unit."""
        numbers = column if events.time.is_timestamp else in_unit(column, events.time.unit)
        return pa.array(numbers, mask=is_bad(column)).cast(kind)

    columns: dict[str, Any] = {
        "stay_id": samples.stay_id,
        "id": samples.id_text.take(pa.array(samples.id)),
        "subject_id": samples.subject,
        "split": pa.array(SPLITS).take(pa.array(position, mask=position < 0)),
        "start": times(samples.start),
        "prediction_time": times(samples.end),
    }
    return pa.table(columns)
