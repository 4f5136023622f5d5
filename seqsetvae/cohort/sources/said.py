"""What an import says of its tables: what was found in them, and what was decided, a sentence each."""

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.report import most_events
from seqsetvae.cohort.tables.codes import Decision
from seqsetvae.cohort.tables.events import Columns, Events
from seqsetvae.cohort.tables.samples import Samples
from seqsetvae.cohort.tables.times import is_bad
from seqsetvae.errors import counted


def found_in(
    events: Events, columns: Columns, samples: Samples, decision: Decision, counts: Mapping[str, int]
) -> list[str]:
    """Rows, ids, the span of the times, and the variables by kind. `counts` are the events by variable."""
    rows = [f"{counted(events.n_rows, 'row')} with {counted(len(events.ids), 'id')} in the column {columns.id}"]
    start = samples.start[~is_bad(samples.start)]
    if not events.time.is_timestamp:
        rows.append(f"times: each is {events.time.described} since the start of its stay")
    elif len(start):
        rows.append(f"times: stays begin from {events.time.text(start.min())} to {events.time.text(start.max())}")
    return rows + _kinds(events.codes.counts, decision, counts)


def _kinds(of_code: NDArray[np.int64], decision: Decision, counts: Mapping[str, int]) -> list[str]:
    """The variables with numbers, those with categories and those without either, a line for each kind.

    `of_code` are the events of each code, `counts` those of each variable and level.
    """
    kinds: dict[str, Counter[str]] = {
        "with numbers": Counter(),
        "with categories": Counter(),
        "without a value": Counter(),
    }
    numeric = np.isnan(decision.value) & (of_code > 0)
    has_number = {decision.names[code] for code in np.flatnonzero(numeric).tolist()}
    n_levels = 0
    for name, n in counts.items():
        variable, mark, _ = name.partition("=")
        kind = "with numbers" if name in has_number else "with categories" if mark else "without a value"
        kinds[kind][variable if kind == "with categories" else name] += n
        n_levels += kind == "with categories"
    return [
        f"{counted(len(those), 'variable')} {kind}{f' ({n_levels:,} in all)' * (kind == 'with categories')}: "
        f"{most_events(dict(those))}"
        for kind, those in kinds.items()
        if those
    ]


def decided_for(
    arguments: Namespace,
    label_name: str | None,
    rules: Sequence[str],
    samples: Samples,
    facts: Sequence[str],
    split: str,
) -> list[str]:
    """The label, what a sample may see, minute 0, facts and splits. `rules` are the sentences of label rules."""
    label = samples.label
    balance = f"1 in {(label == 1).sum():,}, 0 in {(label == 0).sum():,}, unknown in {(label < 0).sum():,}"
    if label_name is None:
        lines = [*rules, "there is no label"]
    elif not rules and arguments.labels:
        lines = [f"the label is {label_name} of {arguments.labels}: {balance}"]
    else:
        lines = [*rules, *([] if is_bad(samples.end).all() else [f"{label_name}, of these predictions: {balance}"])]
    lines.append(_window(arguments, samples))
    column, code = getattr(arguments, "start_column", None), getattr(arguments, "start_code", None)
    start = f"the time in {column}" if column else f"the last event {code} before the prediction time" if code else ""
    if start or samples.start.dtype == np.int64:
        lines.append(f"minute 0 of a stay is {start or 'its first event'}")
    if facts:
        lines.append(f"facts, known from the start of a stay: {', '.join(facts)}")
    return [*lines, f"splits: {split}"]


def _window(arguments: Namespace, samples: Samples) -> str:
    """What a sample may see."""
    n_timed, n_stays = int((~is_bad(samples.end)).sum()), len(np.unique(samples.id))
    if arguments.until_hour is not None:
        return f"each stay is predicted at hour {arguments.until_hour:g}, from earlier events alone"
    if not n_timed:
        return "there are no prediction times: the events of whole stays are used"
    what = f"{counted(n_timed, 'prediction')} for {counted(n_stays, 'stay')}"
    return f"{what}, each from events before its time alone; without any it is left out"
