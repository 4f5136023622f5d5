"""A data set in the Medical Event Data Standard (MEDS 0.4): data/**/*.parquet, metadata/, and a table of labels."""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.sources.assemble import NO_LABEL, Found, assemble
from seqsetvae.cohort.sources.event_flags import (
    add_label_flags,
    add_shared_flags,
    check_shared_flags,
    new_codes,
    spool_folder,
)
from seqsetvae.cohort.sources.meds_export import is_export, open_export
from seqsetvae.cohort.sources.meds_facts import Facts
from seqsetvae.cohort.sources.meds_files import (
    AGE,
    BIRTH,
    CODE,
    LABEL,
    NO_VALUES,
    NUMBER,
    PREDICTION_TIME,
    SUBJECT,
    TEXT,
    TIME,
    data_files,
    described,
    own_split,
    refuse_unread_values,
    split_notes,
    task_name,
    unlisted_codes,
    unread,
    value_column,
)
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.sources.stay_end import StayEnd
from seqsetvae.cohort.tables.codes import UNNAMED, EventCodes
from seqsetvae.cohort.tables.events import Columns, read_events
from seqsetvae.cohort.tables.read import Part, table_files
from seqsetvae.cohort.tables.samples import Samples, make_samples
from seqsetvae.cohort.tables.source import StaticColumn
from seqsetvae.cohort.tables.stay_table import read_label_rows
from seqsetvae.cohort.tables.times import BAD_TIME, MICROSECONDS, TimeFlags, is_bad
from seqsetvae.cohort.tidy import Skip, left_out
from seqsetvae.errors import InputError

HELP = "Compile a MEDS 0.4 data set (data/**/*.parquet, metadata/), with --labels in the label schema of MEDS."
OUTCOME_CODES = ("MEDS_DEATH", "MEDS_DEATH//*", "HOSPITAL_DISCHARGE", "HOSPITAL_DISCHARGE//*")
_YEAR = 365.25 * 24 * 60 * MICROSECONDS


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py meds`."""
    parser.add_argument("src", type=Path, metavar="SRC", help="folder with data/ and metadata/")
    add_label_flags(parser, SUBJECT, LABEL, PREDICTION_TIME)
    task = "what the label means, for the cohort and its checkpoints (default: the name of --labels)"
    parser.add_argument("--task", metavar="NAME", help=task)
    start = "each sample starts at the last event with this code before its prediction time, such as "
    start += "'HOSPITAL_ADMISSION*'; earlier events are left out (default: the whole record before that time)"
    parser.add_argument("--start_code", metavar="CODE", help=start)
    end = (
        "a sample is left out, and counted, if an event with this code lies between its start and its prediction time, "
    )
    end += "such as MEDS_DEATH, or with --start_code 'HOSPITAL_DISCHARGE*' (default: it is not known which ended)"
    parser.add_argument("--end_code", metavar="CODE", help=end)
    text = f"read {TEXT}: a text becomes CODE=text with the value 1 (default: it is not read)"
    parser.add_argument("--text_values", action="store_true", help=text)
    value = f"column of numbers (default {NUMBER}; `{NO_VALUES}`: events have no values)"
    parser.add_argument("--value_column", metavar="COLUMN", help=value)
    add_shared_flags(parser)


def open_source(arguments: Namespace) -> Opened:
    """The data set that these flags name. Raises InputError."""
    check_shared_flags(arguments)
    if arguments.label_name == NO_LABEL:
        arguments.label_name = None
    if is_export(arguments.src):
        given = [flag for flag in ("start_code", "end_code") if getattr(arguments, flag) is not None]
        if given:
            raise InputError(f"--{given[0]}: {arguments.src} was exported stay by stay, by data.py. Leave it out.")
        return open_export(arguments)
    arguments.non_numeric = "level"  # a missing numeric_value is usual in MEDS
    src, flags = arguments.src, TimeFlags()
    files = data_files(src)
    codes = new_codes(arguments, OUTCOME_CODES)
    columns = Columns(SUBJECT, TIME, CODE, value_column(arguments, files), TEXT if arguments.text_values else None)
    marks, facts = _Marks(codes, arguments.start_code, arguments.end_code), Facts(arguments.src, columns.value)

    def hook(part: Part, *cells: NDArray[Any]) -> NDArray[np.bool_]:
        facts.add(part, *cells)
        return marks(part, *cells)

    optional = [NUMBER] * (arguments.value_column is None) + [TEXT] * arguments.text_values
    events = read_events(files, columns, codes, flags, spool_folder(arguments), optional=optional, hook=hook)
    facts.check(events)
    refuse_unread_values(arguments, files, codes)
    labels = None
    if arguments.labels:
        time = arguments.prediction_time_column or PREDICTION_TIME
        labels = read_label_rows(table_files(arguments.labels), SUBJECT, time, arguments.label_name, events, flags)
        if labels.time is None:
            raise InputError(f"{arguments.labels}: no row has a {time}. Labels of MEDS need one each.")
    start = np.where(is_bad(events.first_time), 0, events.first_time)
    samples = make_samples(str(src), events, start, None, labels)
    started, skips = marks.with_starts(samples)
    return assemble(
        arguments,
        Found(
            description=described(src),
            columns=columns,
            events=events,
            samples=started,
            every_sample=samples,
            label_name=task_name(arguments),
            own_split=own_split(arguments, files, events, started),
            static=marks.age(started),
            static_rows=True,
            from_start=arguments.start_code is not None,
            skips=skips,
            end=marks.end(started),
            notes=[
                *(labels.notes if labels else ()),
                *facts.notes(),
                *split_notes(arguments, files),
                *unlisted_codes(src, codes.seen),
                *unread(src, files, arguments.labels),
            ],
        ),
    )


class _Marks:
    """The births and, by their codes, the starts and ends of subjects, gathered while the events are read."""

    def __init__(self, codes: EventCodes, start_code: str | None, end_code: str | None) -> None:
        self._codes, self._start_code, self._end_code = codes, start_code, end_code
        self._births: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._starts: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._ends: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def __call__(
        self, part: Part, ids: NDArray[np.int32], code: NDArray[np.int32], time: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """[R] Which rows are events: all but births."""
        timed = (ids >= 0) & ~is_bad(time)
        is_birth = np.isin(code, self._codes.matching(BIRTH))
        self._births.append((ids[is_birth & timed], time[is_birth & timed]))
        for pattern, found in ((self._start_code, self._starts), (self._end_code, self._ends)):
            if pattern is not None:
                chosen = self._codes.rows_matching(part.columns[CODE], pattern) & timed
                found.append((ids[chosen], time[chosen]))
        return ~is_birth

    def end(self, samples: Samples) -> StayEnd | None:
        """The first event with the end code after the start of each sample; unknown where there is none."""
        if self._end_code is None:
            return None
        ids, time = map(np.concatenate, zip(*self._ends, strict=True))
        all_ids, all_times = np.append(ids, samples.id), np.append(time, samples.start)
        is_sample = np.arange(len(all_ids)) >= len(ids)
        order = np.lexsort((is_sample, all_times, all_ids))
        none = len(order)
        later = np.minimum.accumulate(np.where(is_sample[order], none, np.arange(none))[::-1])[::-1]
        found = np.full(none, none)
        found[order] = later
        place = np.append(order, 0)[found[len(ids) :]]  # among the ends
        has = (found[len(ids) :] < none) & (all_ids[place] == samples.id)
        return StayEnd(f"code {self._end_code}", np.where(has, all_times[place], BAD_TIME), expected=False)

    def age(self, samples: Samples) -> list[StaticColumn]:
        """The age of each sample in years, at its prediction time, or at its start where it has none."""
        ids, time = map(np.concatenate, zip(*self._births, strict=True))
        if not len(ids):
            return []
        birth = np.full(len(samples.id_text), np.iinfo(np.int64).max)
        np.minimum.at(birth, ids, time)
        known = np.flatnonzero(birth[samples.id] != np.iinfo(np.int64).max)
        at = np.where(is_bad(samples.end), samples.start, samples.end)[known]
        code, value = np.full(len(samples), UNNAMED, dtype=np.int32), np.full(len(samples), np.nan)
        years = pa.array((at - birth[samples.id][known]) / _YEAR)
        code[known], value[known] = self._codes.encode(pa.array([AGE] * len(known)), years)
        return [StaticColumn(AGE, code, value)]

    def with_starts(self, samples: Samples) -> tuple[Samples, list[Skip]]:
        """The samples from the last start at or before their prediction time; those without one are left out."""
        if self._start_code is None:
            return samples, []
        ids, time = map(np.concatenate, zip(*self._starts, strict=True))
        last = np.iinfo(np.int64).max
        end = np.where(is_bad(samples.end), last, samples.end)
        all_ids, all_times = np.append(ids, samples.id), np.append(time, end)
        is_sample = np.arange(len(all_ids)) >= len(ids)
        order = np.lexsort((is_sample, all_times, all_ids))
        latest = np.maximum.accumulate(np.where(is_sample[order], -1, np.arange(len(order))))
        found = np.full(len(all_ids), -1)
        found[order] = np.where(latest >= 0, order[latest], -1)
        mark = found[len(ids) :]
        has = (mark >= 0) & (all_ids[mark] == samples.id)
        reason = f"no event {self._start_code} before its prediction time"
        skips = [left_out(samples.stay(at), reason) for at in np.flatnonzero(~has).tolist()]
        started = replace(samples, start=np.where(has, all_times[mark], samples.start))
        return started.take(has), skips
