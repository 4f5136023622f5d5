"""Combines events, samples and the flags of tables of events into the source that the compiler reads.

What was found and decided is said in a sentence each. Stays that ended before their prediction time, discharged or dead
by then, are left out. Letters: D ids, N samples.
"""

import shlex
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.imported import END, ID_COLUMN, NO_LABEL, TIME_COLUMN, TIMESTAMPS, Imported, rate
from seqsetvae.cohort.report import most_events
from seqsetvae.cohort.sidefiles import LabelTable
from seqsetvae.cohort.sources.opened import Opened, assign_by_fractions, assign_fold, choose_fractions, read_fold
from seqsetvae.cohort.tables.codes import KEEP, Decision
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.source import EventSource, SourceTables, StayEnd
from seqsetvae.cohort.tables.stays import Samples
from seqsetvae.cohort.tables.times import MICROSECONDS, in_unit, is_bad
from seqsetvae.cohort.tidy import SPLITS, Bools, left_out
from seqsetvae.system.errors import InputError, counted, shown


def _end_notes(end: StayEnd, tables: SourceTables, gone: Bools) -> list[str]:
    """Notes on the ends of stays; `gone` [N] had ended before their prediction time."""
    notes, samples, label_name = list[str](), tables.samples, tables.label_name
    known, labels = ~is_bad(end.time), (samples.label[gone], samples.label[~gone])
    if gone.any():
        rates = [rate(int((label == 1).sum()), int((label >= 0).sum())) for label in labels]
        shares = f"; {label_name}: {rates[0]} of those left out, {rates[1]} of those kept" if label_name else ""
        has = f"{gone.sum():,} of {counted(len(gone), 'stay')}"
        notes.append(f"{end.name}: {has} ended before their prediction time, left out{shares}")
    if not known.any():
        notes.append(f"{end.name}: no stay has an end by it, so that none is left out. Is the name right?")
    elif end.expected and not known.all():
        has = f"{(~known).sum():,} of {counted(len(known), 'stay')}"
        notes.append(f"{end.name}: {has} have no end, and are used: it is not known whether they had ended")
    reverse = known & ~is_bad(samples.start) & (end.time < samples.start)
    if reverse.any():
        notes.append(f"{end.name}: {counted(int(reverse.sum()), 'stay')} of {len(reverse):,} end before they start")
    whole = known & is_bad(samples.end)
    if whole.any():
        late = int((whole & (tables.events.last_time[samples.id] > end.time)).sum())
        has = f"{late:,} of {counted(int(whole.sum()), 'stay')}"
        what = "have events after their end, which are used: there are no prediction times"
        notes += [f"{end.name}: {has} {what}"] if late else []
    return notes


SPLIT_NAMES = {**{name: name for name in SPLITS}, "training": "train", "validation": "valid", "val": "valid"}
SPLIT_NAMES |= {"tuning": "valid", "held_out": "test"}


def assemble(arguments: Namespace, tables: SourceTables) -> Opened:
    """Window, splits and variables by the flags. Raises InputError."""
    tables = _without_ended(replace(tables, samples=with_window(tables.samples, arguments.until_hour)))
    codes, samples = tables.events.codes, tables.samples
    every_sample = with_window(tables.every_sample, arguments.until_hour)
    if not len(samples):
        first = f" The first that was left out: {tables.skips[0]}" if tables.skips else f" {'; '.join(tables.rules)}"
        raise InputError(f"{tables.description}: no stay is left.{first}")
    decision = codes.decide(arguments.non_numeric)
    split, how = assign_splits(arguments, samples, tables.own_split, tables.how_split)
    source = EventSource(tables, decision, split)
    n_other = len(tables.events.ids) - len(np.unique(tables.every_sample.id))
    notes = [
        *tables.notes,
        *([f"{counted(n_other, 'id')} without a prediction time, left out"] if n_other else []),
        *codes.mapping.notes(codes.seen),
        *codes.unmatched_notes(arguments.leave_out, arguments.categorical),
        *decision.notes,
        *([] if arguments.label_event else _label_inputs(tables, decision)),
        *tables.events.notes,
    ]
    times = TIMESTAMPS if tables.events.time.is_timestamp else tables.events.time.unit
    record = {"times": times, "splits": how, "until_hour": arguments.until_hour}
    record |= {"leave_out": list(codes.patterns), END: None if tables.end is None else tables.end.name}
    record |= {"categorical": list(arguments.categorical), "variable_map": codes.mapping.as_plain()}
    record |= {ID_COLUMN: tables.events.columns.id, TIME_COLUMN: arguments.prediction_time_column}
    record |= {name: getattr(arguments, name, None) for name in ("time_format", "time_zone", "decimal")}
    has_label = samples.label >= 0
    read, decided = [*tables.read, *_lines_read(tables, decision)], _lines_decided(arguments, tables, how)
    return Opened(
        source=source,
        label_name=tables.label_name or NO_LABEL,
        labels=LabelTable(samples.stay_id[has_label], samples.label[has_label]),
        imported=Imported(
            notes,
            read,
            decided + codes.left_out_notes(),
            record,
            sample_table(every_sample, samples.stay_id, split, tables.events),
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


def _without_ended(tables: SourceTables) -> SourceTables:
    """Leave out samples whose stay ended before their prediction time, and list and count them."""
    end, samples = tables.end, tables.samples
    if end is None:
        return tables
    gone = ~is_bad(end.time) & ~is_bad(samples.end) & (end.time < samples.end)
    reason = f"the stay ended before its prediction time ({end.name})"
    static = [replace(column, code=column.code[~gone], value=column.value[~gone]) for column in tables.static]
    return replace(
        tables,
        samples=samples.take(~gone),
        own_split=None if tables.own_split is None else tables.own_split[~gone],
        static=static,
        skips=[*tables.skips, *(left_out(stay, reason) for stay in samples.stays()[gone])],
        notes=[*tables.notes, *_end_notes(end, tables, gone)],
    )


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


def _label_inputs(tables: SourceTables, decision: Decision) -> list[str]:
    """A warning if a variable has the name of the label, so that it may tell the outcome."""
    used = np.flatnonzero((tables.events.codes.counts > 0) & (decision.action == KEEP)).tolist()
    names = {decision.names[code].partition("=")[0] for code in used}
    same = sorted(name for name in names if name.casefold() == (tables.label_name or "").casefold())
    if not same:
        return []
    said = "is called like the label, and an input. If it tells the outcome, leave it out"
    return [f"the variable {shown(same[0])} {said}: --leave_out {shlex.quote(same[0])}"]


def _lines_read(tables: SourceTables, decision: Decision) -> list[str]:
    """Rows, ids, the span of the times, and the variables by kind: with numbers, with categories, with neither."""
    events, of_code = tables.events, tables.events.codes.counts
    rows = [f"{counted(events.n_rows, 'row')} with {counted(len(events.ids), 'id')} in the column {events.columns.id}"]
    start = tables.samples.start[~is_bad(tables.samples.start) & ~is_bad(events.first_time[tables.samples.id])]
    if not events.time.is_timestamp:
        rows.append(f"times: each is {events.time.described} since the start of its stay")
    elif len(start):
        rows.append(f"times: stays begin from {events.time.text(start.min())} to {events.time.text(start.max())}")
    kinds = {kind: Counter[str]() for kind in ("with numbers", "with categories", "without a value")}
    levels, numeric = set[str](), np.isnan(decision.value) & (of_code > 0)
    has_number = {decision.names[code] for code in np.flatnonzero(numeric).tolist()}
    for code in np.flatnonzero((of_code > 0) & (decision.action == KEEP)).tolist():
        name, (variable, mark, _) = decision.names[code], decision.names[code].partition("=")
        is_level = mark and name not in has_number
        kind = "with numbers" if name in has_number else "with categories" if mark else "without a value"
        kinds[kind][variable if is_level else name] += int(of_code[code])
        levels |= {name} if is_level else set()
    for kind, those in kinds.items():
        in_all = f" ({len(levels):,} categories)" * (kind == "with categories")
        rows += [f"{counted(len(those), 'variable')} {kind}{in_all}: {most_events(dict(those))}"] if those else []
    return rows


def _lines_decided(arguments: Namespace, tables: SourceTables, split: str) -> list[str]:
    """The label, what a sample may see, minute 0, facts and splits."""
    samples, label, name, rules = tables.samples, tables.samples.label, tables.label_name, list(tables.rules)
    balance = f"1 for {(label == 1).sum():,}, 0 for {(label == 0).sum():,}, unknown for {(label < 0).sum():,}"
    n_timed, n_stays = int((~is_bad(samples.end)).sum()), len(np.unique(samples.id))
    if name is None:
        lines = [*rules, "there is no label"]
    elif not rules and arguments.labels:
        lines = [f"the label is {name} in {arguments.labels}: {balance}"]
    else:
        lines = rules + ([f"{name} of these predictions: {balance}"] if n_timed else [])
    if arguments.until_hour is not None:
        lines.append(f"each stay is predicted at hour {arguments.until_hour:g}, from earlier events alone")
    elif not n_timed:
        lines.append("there are no prediction times: the events of whole stays are used")
    else:
        what = f"{counted(n_timed, 'prediction')} for {counted(n_stays, 'stay')}"
        lines.append(f"{what}, each from the events before its time; those without such events are left out")
    column, code = getattr(arguments, "start_column", None), getattr(arguments, "start_code", None)
    start = f"the time in {column}" if column else f"the last event {code} before the prediction time" if code else ""
    if start or samples.start.dtype == np.int64:
        lines.append(f"minute 0 of a stay is {start or 'its first event'}")
    if tables.static:
        lines.append(f"facts, known from the start of a stay: {', '.join(fact.name for fact in tables.static)}")
    return [*lines, f"splits: {split}"]
