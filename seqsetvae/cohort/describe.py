"""What the arrays of a cohort show: a table of its splits, extreme values, lengths of stays, labels.

Letters: V variables.
"""

import re
from collections.abc import Collection, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort, Split, event_blocks
from seqsetvae.cohort.imported import END, IMPORT, NO_LABEL, has_dates, rate
from seqsetvae.cohort.profile import equal_stays, hours, shifts
from seqsetvae.cohort.report import ALIKE, alike_names, event_counts, no_statistics, unusual, without_statistics
from seqsetvae.cohort.spans import TIMES
from seqsetvae.cohort.variables import NONE, TRAIN_SPLIT
from seqsetvae.system.errors import ERROR, NOTE, WARNING, Finding, counted

EXTREME_Z = 10.0  # a z-score beyond this is reported: a wrong unit, a typing error, or a very sick patient
WILD_Z = 1000.0  # no patient is so sick: the value or its statistics are wrong, and it outweighs all others in a loss
MANY = 0.1  # share of the variables, or of the events, that may keep raw values beyond EXTREME_Z
SHORT_STAY, LONG_STAY = 3.0, 30 * 24.0  # hours; a median outside means that `minute` may be in another unit
FEWEST_STAYS = 5  # for a median of their length
MISSING_CODES = tuple(float(sign + "9" * digits) for digits in (3, 4, 5, 6) for sign in ("-", ""))
SHOWN = 5  # items of any one finding
# What the name of a label says that is decided when the stay ends.
END_OF_STAY = re.compile(
    r"death|dead|died|dies|mortal|expire|surviv|discharg|readmi|(?<![a-z])los(?![a-z])|length.of.stay|stay_over"
)
LIMITED = (
    "New models limit them (--value_clip, --min_count), so training is possible. Correct those that are wrong; a "
    "checkpoint without value_clip reads them as they are"
)


def finding_about(level: str, items: Iterable[str], noun: str, text: str, action: str = "") -> list[Finding]:
    """A finding about a number of items, such as `12 variables without an embedding`; an empty list without items."""
    items = tuple(items)
    return [Finding(level, f"{counted(len(items), noun)} {text}", action, items)] if items else []


def describe(cohort: Cohort, reported: Collection[str] = ()) -> Iterator[Finding]:
    """What the arrays of a cohort show.

    `reported` are variables that keep raw values because their statistics, which are a finding already, are unusable.
    """
    yield from unusual(cohort, SHOWN)
    yield from _window(cohort)
    yield from _ended(cohort)
    without = without_statistics(cohort).items()
    unknown = [f"{name!r}: {counted(n, 'event')}" for name, n in without if name not in reported]
    yield from finding_about(WARNING, unknown, "variable", no_statistics(cohort))
    yield from finding_about(
        WARNING, alike_names(cohort), "group", f"of {ALIKE}", "--variable_map of table and meds joins them"
    )
    if cohort.variables.statistics != NONE:
        yield from _values(cohort, reported)
    yield from _codes_of_missing(cohort)
    yield from _lengths(cohort)
    yield from shifts(cohort)
    yield from _equal_stays(cohort)


def split_lines(cohort: Cohort) -> list[str]:
    """Counts and sizes of each split, a line each."""
    counts, sizes = ("split", "stays", "sets", "events"), ("sets/stay", "events/stay", "events/set", "hours/stay")
    head = (*counts, *sizes, "unlabelled", "positive")
    under = ("", "", "", "", "median / max", "median / max", "max", "median / max", "", "")
    rows = [head, under, *(_row(name, [split]) for name, split in cohort.splits.items())]
    if len(cohort.splits) > 1:
        rows.append(_row("all", list(cohort.splits.values())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return [
        f"label: {cohort.label_name}    variables: {len(cohort.vocabulary)}    a set: the events of a stay at one time",
        "",
        *(line.rstrip() for line in lines),
    ]


def _row(name: str, splits: list[Split]) -> tuple[str, ...]:
    """One line of the table, over all of these splits."""
    sets = np.concatenate([np.diff(split.stay_offset) for split in splits])
    events = np.concatenate([np.diff(split.set_offset[split.stay_offset]) for split in splits])
    span = np.concatenate([hours(split) for split in splits])
    label = np.concatenate([split.label for split in splits])
    labelled = label[label >= 0]
    share = f" ({labelled.mean():.1%})" if len(labelled) else ""
    return (
        name,
        f"{len(sets):,}",
        f"{sets.sum():,}",
        f"{events.sum():,}",
        f"{np.median(sets):,.0f} / {sets.max():,}",
        f"{np.median(events):,.0f} / {events.max():,}",
        f"{max(np.diff(split.set_offset).max() for split in splits):,}",
        f"{np.median(span):,.1f} / {span.max():,.1f}",
        f"{len(label) - len(labelled):,}",
        f"{labelled.sum():,}{share}",
    )


def _is_timed(cohort: Cohort) -> bool:
    return any(np.isfinite(split.prediction_minute).any() for split in cohort.splits.values())


def _window(cohort: Cohort) -> Iterator[Finding]:
    """Note that whole stays are used, and that a label that is an event at their end needs a window.

    A note for data that have no prediction times by their nature; a warning for an import, which can have a window.
    """
    if _is_timed(cohort) or not any(n["labelled"] for n in cohort.manifest["splits"].values()):
        return
    label = cohort.label_name
    text = f"no prediction times: {label} is predicted from all events up to the end of each stay"
    if not END_OF_STAY.search(label.lower()):
        yield Finding(NOTE, text)
    elif IMPORT in cohort.manifest:
        action = f"{label} is known at the end of the stay: leave out what comes shortly before (--until_hour H)"
        yield Finding(WARNING, text, action)
    else:  # compiling the old layout has no such flag
        action = (
            f"If stays go on until {label} is known, leave out what comes shortly before: --until_hour H of "
            "data.py physionet2012 and data.py table (data.py export makes a table)"
        )
        yield Finding(NOTE, text, action)


def _ended(cohort: Cohort) -> Iterator[Finding]:
    """Note that stays may have ended before their prediction time, where an import does not know when they end."""
    counts, over = cohort.manifest["splits"].values(), cohort.manifest["report"][TIMES]["over"]
    if not _is_timed(cohort) or cohort.manifest.get(IMPORT, {END: True}).get(END):
        return
    stays, labelled, positives = (sum(n[key] for n in counts) for key in ("stays", "labelled", "positives"))
    others = rate(positives - over["positives"], labelled - over["labelled"])
    yield Finding(
        WARNING,
        "it is not known which stays had ended by their prediction time; they are used, with what was recorded until "
        f"then. {over['stays']:,} of {stays:,} have no event from that time on; {cohort.label_name}: "
        f"{rate(over['positives'], over['labelled'])} of these, {others} of the others",
        "--end_column (of MEDS: --end_code) leaves out those that had ended",
    )


def _values(cohort: Cohort, reported: Collection[str]) -> Iterator[Finding]:
    """Extreme values; those that no training can use are errors."""
    n_events, (beyond, value, furthest) = event_counts(cohort), _furthest(cohort)
    n_training = cohort.sums("train").count if "train" in cohort.splits else np.zeros(len(beyond))
    has_stats, is_new = np.isfinite(cohort.std), ~np.isin(cohort.vocabulary, list(reported))

    def variables(level: str, chosen: NDArray[np.bool_], text: str, action: str = "") -> list[Finding]:
        items = [
            f"{cohort.vocabulary[v]!r}: {counted(beyond[v], 'event')}, the furthest {value[v]:g} "
            + (f"(z = {furthest[v]:+.1f})" if has_stats[v] else "(no statistics)")
            for v in np.argsort(-beyond, kind="stable").tolist()
            if chosen[v] and beyond[v]
        ]
        return finding_about(level, items, "variable", text, action)

    far = f"values more than {EXTREME_Z:g} standard deviations from the mean"
    misfit = has_stats & (beyond > n_events / 2)
    if cohort.variables.statistics == TRAIN_SPLIT:  # training has few, nearly equal values of it
        yield from variables(WARNING, misfit, f"with most {far} of the training values", LIMITED)
    else:
        yield from variables(ERROR, misfit, f"with most {far}: their mean and std do not fit")
    is_wild = is_new & ~misfit & (np.abs(furthest) >= WILD_Z)
    unseen = ~has_stats & (n_training == 0)  # rare to a new model, to which it has the value 1
    what = f"with values of {WILD_Z:,.0f} or more after normalisation (mistyped, or a tiny std)"
    yield from variables(WARNING, is_wild & has_stats, what, LIMITED)
    what = f"without training values, and so without mean and std, that have values beyond {EXTREME_Z:g}"
    yield from variables(WARNING, is_new & unseen, what, LIMITED)
    what = f"without mean and std that have values of {WILD_Z:,.0f} or more, which nothing limits"
    yield from variables(ERROR, is_wild & ~has_stats & ~unseen, what)
    raw = is_new & ~has_stats & ~unseen & (beyond > 0)
    if max(raw.mean(), n_events[raw].sum() / n_events.sum()) > MANY:
        yield from variables(
            ERROR, raw, f"without mean and std that have values beyond {EXTREME_Z:g}: too many to train on"
        )
    yield from variables(WARNING, has_stats & ~misfit & ~is_wild, f"with {far}")


def _furthest(cohort: Cohort) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """[V] each: events beyond EXTREME_Z, the value furthest from the mean, and its z-score (0 if not beyond EXTREME_Z).

    Of variables without statistics the values themselves count.
    """
    n_variables, of_each = len(cohort.vocabulary), np.arange(len(cohort.vocabulary), dtype=np.int32)
    beyond = np.zeros(n_variables, dtype=np.int64)
    for split in cohort.splits.values():
        for variable, value in event_blocks(split.variable, split.value):
            is_beyond = np.abs(cohort.variables.z_scores(variable, value)) > EXTREME_Z
            beyond += np.bincount(variable[is_beyond], minlength=n_variables)
    sums = [cohort.sums(name) for name in cohort.splits]
    low, high = np.min([each.low for each in sums], axis=0), np.max([each.high for each in sums], axis=0)
    z_low, z_high = (cohort.variables.z_scores(of_each, values) for values in (low, high))
    is_high = z_high >= -z_low
    return beyond, np.where(is_high, high, low), np.where(beyond > 0, np.where(is_high, z_high, z_low), 0.0)


def _codes_of_missing(cohort: Cohort) -> Iterator[Finding]:
    """Variables whose smallest or largest value is a number such as -9999, and occurs again."""
    sums = [cohort.sums(name) for name in cohort.splits]
    low, high = np.min([each.low for each in sums], axis=0), np.max([each.high for each in sums], axis=0)
    extreme = np.where(np.isin(low, MISSING_CODES), low, np.where(np.isin(high, MISSING_CODES), high, np.nan))
    n_events = np.zeros(len(extreme), dtype=np.int64)
    for split in cohort.splits.values() if np.isfinite(extreme).any() else ():
        for variable, value in event_blocks(split.variable, split.value):
            n_events += np.bincount(variable[value == extreme[variable]], minlength=len(extreme))
    items = [
        f"{cohort.vocabulary[v]!r}: {extreme[v]:g} ({counted(n_events[v], 'event')})"
        for v in np.flatnonzero(n_events > 1).tolist()
    ]
    what = "whose smallest or largest value often stands for a missing one"
    yield from finding_about(WARNING, items, "variable", what, "Where it does, leave these cells empty")


def _lengths(cohort: Cohort) -> Iterator[Finding]:
    """Stays that are so short or long that times may be in another unit; timestamps have none."""
    span = np.concatenate([hours(split) for split in cohort.splits.values()])
    median = float(np.median(span))
    if has_dates(cohort) or len(span) < FEWEST_STAYS or SHORT_STAY <= median <= LONG_STAY:
        return
    unit = cohort.manifest.get(IMPORT, {}).get("times")
    asked = f"Are the times in {unit} (--time_unit)?" if unit else "Is the column minute in minutes?"
    if median < SHORT_STAY:
        length, action = f"less than {median:,.2f} hours", f"{asked} If they are hours, stays look too short"
    else:
        length = f"more than {median / 24:,.0f} days"
        action = f"That is right for records of months or years. Of stays in hospital: {asked[0].lower()}{asked[1:]} "
        action += "If they are seconds, stays look too long"
    text = f"half of the stays last {length} from first to last event (the longest {span.max():,.2f} hours)"
    yield Finding(WARNING, text, action)


def _equal_stays(cohort: Cohort) -> Iterator[Finding]:
    """Find equal rows under two stay numbers, which are an error if they are in two splits."""
    groups = equal_stays(cohort)
    for level, where, is_leak in ((ERROR, "different splits", True), (WARNING, "one split", False)):
        chosen = [group for group in groups if (len({split for split, _ in group}) > 1) == is_leak]
        items = (", ".join(f"{split}/{stay}" for split, stay in group) for group in chosen)
        yield from finding_about(level, items, "group", f"of stays with the same rows in {where}")


def label_findings(cohort: Cohort) -> Iterator[Finding]:
    """Splits without stays of both classes, and stays without a label."""
    counts = cohort.manifest["splits"]
    if not any(n["labelled"] for n in counts.values()):
        name = "" if cohort.label_name == NO_LABEL else f" {cohort.label_name}"
        text = f"no stay has a label{name}: models can be pretrained on the data and applied to them, not fine-tuned"
        yield Finding(ERROR, text)
        return
    for name in ("train", "valid"):
        if name not in counts:
            yield Finding(ERROR, f"there is no {name} split")
    for name, n in counts.items():
        unlabelled, negatives = n["stays"] - n["labelled"], n["labelled"] - n["positives"]
        if unlabelled:
            text = f"{name}: {counted(unlabelled, 'stay')} without a label, left out of training and evaluation"
            yield Finding(WARNING, f"{text} (no label is not 0)")
        if not n["positives"] or not negatives:
            level = WARNING if name == "test" else ERROR
            text = f"{name}: {n['positives']:,} positive and {negatives:,} negative stays; an AUC needs both"
            yield Finding(level, text)
