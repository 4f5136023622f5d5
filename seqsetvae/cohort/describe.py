"""What the arrays of a cohort show: a table, extreme values, time spans, lost rows, equal stays, labels.

Letters: V variables.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort, Split, event_blocks
from seqsetvae.cohort.imported import END, IMPORT, NO_LABEL, has_dates, rate
from seqsetvae.cohort.leaks import leaks
from seqsetvae.cohort.plausibility import Shift, equal_stays, hours, last_seen, shifts
from seqsetvae.cohort.report import ALIKE, alike_names, event_counts, without_statistics
from seqsetvae.cohort.spans import TIMES, span_notes
from seqsetvae.cohort.variables import NONE, TRAIN_SPLIT
from seqsetvae.errors import InputError, counted, cut

EXTREME_Z = 10.0  # a z-score beyond this is reported: a wrong unit, a typing error, or a very sick patient
WILD_Z = 1000.0  # no patient is so sick: the value or its statistics are wrong, and it outweighs all others in a loss
MANY = 0.1  # share of the variables, or of the events, that may keep raw values beyond EXTREME_Z
SHORT_STAY, LONG_STAY = 3.0, 30 * 24.0  # hours; a median outside means that `minute` may be in another unit
FEWEST_STAYS = 5  # for a median of their length
# What the name of a label says that is decided when the stay ends.
END_OF_STAY = re.compile(
    r"death|dead|died|dies|mortal|expire|surviv|discharg|readmi|(?<![a-z])los(?![a-z])|length.of.stay|stay_over"
)
LIMITED = (
    "New models limit them (--value_clip, --min_count), so training is possible. Correct those that are wrong; a "
    "checkpoint without value_clip reads them as they are"
)
SHOWN = 5  # lines of any one finding
LONGEST_ITEM = 500  # characters of one of them, such as a name that is no name
T = TypeVar("T")


@dataclass
class Findings:
    """A report: what was found and decided, errors that must be corrected before training, and warnings."""

    facts: list[str] = field(default_factory=list)
    decided: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    next_step: str = ""  # a command

    def attempt(self, read: Callable[[], T]) -> T | None:
        """What `read` returns; an InputError becomes a problem, and None."""
        try:
            return read()
        except InputError as error:
            self.problems.append(str(error))
            return None

    def text(self) -> str:
        """The report, ending with the number of errors and warnings, and the next command."""
        lines = list(self.facts)
        titles = {
            "Decided:": self.decided,
            "Errors, to correct before training:": self.problems,
            "Warnings:": self.remarks,
        }
        for title, notes in titles.items():
            if notes:
                lines += ["", title, *(f"  - {note}" for note in notes)]
        count = f"{counted(len(self.problems), 'error')}, {counted(len(self.remarks), 'warning')}"
        lines += ["", f"{count}: {'NOT ready' if self.problems else 'ready'} for training."]
        return "\n".join(lines + [f"To import: {self.next_step}"] * bool(self.next_step))


def add_list(notes: list[str], what: str, items: Iterable[str]) -> None:
    """Add `12 what:` and the first of the items, one a line; nothing if there are none."""
    items = list(items)
    if items:
        more = [f"and {len(items) - SHOWN:,} more"] if len(items) > SHOWN else []
        notes.append(
            f"{len(items):,} {what}:"
            + "".join(f"\n      {cut(item, LONGEST_ITEM)}" for item in [*items[:SHOWN], *more])
        )


def describe(cohort: Cohort, findings: Findings, reported: Collection[str] = ()) -> None:
    """Add what the arrays of a cohort show.

    `reported` are variables that keep raw values because their statistics, which are a finding already, are unusable.
    """
    said = cohort.manifest.get(IMPORT, {})
    findings.facts += [f"  {line}" for line in said.get("found", ())] + _table(cohort)
    findings.decided += said.get("decided", ())
    findings.remarks += said.get("notes", ())
    _check_window(cohort, findings)
    _check_ended(cohort, findings)
    report = cohort.manifest["report"]
    if report["stays_out_of_order"]:
        findings.remarks.append(f"{report['stays_out_of_order']:,} stays have rows out of time order; they are sorted")
    without = without_statistics(cohort).items()
    unknown = [f"{name!r}: {n:,} events" for name, n in without if name not in reported]
    add_list(findings.remarks, "variables without statistics, which keep their raw value", unknown)
    add_list(findings.remarks, f"{ALIKE} (--variable_map of `table` and `meds` joins them)", alike_names(cohort))
    findings.problems += leaks(cohort)
    if cohort.variables.statistics != NONE:
        _check_values(cohort, findings, reported)
    _check_spans(cohort, findings)
    _check_time_span(cohort, findings)
    _check_last_seen(cohort, findings)
    _check_equal_stays(cohort, findings)


def _table(cohort: Cohort) -> list[str]:
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
    return [f"label: {cohort.label_name}    variables: {len(cohort.vocabulary)}", "", *lines]


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


def _check_window(cohort: Cohort, findings: Findings) -> None:
    """Say that whole stays are used, and ask for a window where the label is known to be an event at their end.

    A fact for data that have no prediction times by their nature; a remark for an import, which can have a window.
    """
    splits = cohort.splits.values()
    if any(np.isfinite(split.prediction_minute).any() for split in splits) or not any(
        (split.label >= 0).any() for split in splits
    ):
        return
    text = f"no prediction times: events up to the end of each stay are used to predict {cohort.label_name}"
    if not END_OF_STAY.search(cohort.label_name.lower()):
        findings.facts.append(text)
        return
    text += ", which is known at the end of the stay. Leave out what comes shortly before: --until_hour H"
    if IMPORT in cohort.manifest:
        findings.remarks.append(text)
    else:  # compiling the old layout has no such flag
        findings.facts.append(f"{text} of data.py physionet2012 and data.py table (data.py export makes a table)")


def _check_ended(cohort: Cohort, findings: Findings) -> None:
    """Say that stays may have ended before their prediction time, where an import does not know when stays end."""
    counts, times = cohort.manifest["splits"].values(), cohort.manifest["report"].get(TIMES)
    is_timed = any(np.isfinite(split.prediction_minute).any() for split in cohort.splits.values())
    if times is None or not is_timed or IMPORT not in cohort.manifest or cohort.manifest[IMPORT].get(END):
        return
    over = times["over"]
    stays, labelled, positives = (sum(n[key] for n in counts) for key in ("stays", "labelled", "positives"))
    others = rate(positives - over["positives"], labelled - over["labelled"])
    findings.remarks.append(
        "it is not known which stays had ended by their prediction time; they are used, with what was recorded until "
        f"then. {over['stays']:,} of {stays:,} have no event from that time on; {cohort.label_name}: "
        f"{rate(over['positives'], over['labelled'])} of these, {others} of the others. --end_column (of MEDS: "
        "--end_code) leaves out those that ended"
    )


@dataclass(frozen=True)
class _Extremes:
    """How far the values of each variable go: z-scores, or values in their units without statistics."""

    n_events: NDArray[np.int64]  # [V]
    n_training: NDArray[np.float64]  # [V] those of the training split
    beyond: NDArray[np.int64]  # [V] events beyond EXTREME_Z
    value: NDArray[np.float64]  # [V] the value furthest from the mean
    furthest: NDArray[np.float64]  # [V] its z-score; 0 if it is not beyond EXTREME_Z


def _extremes(cohort: Cohort) -> _Extremes:
    n_variables, of_each = len(cohort.vocabulary), np.arange(len(cohort.vocabulary), dtype=np.int32)
    beyond = np.zeros(n_variables, dtype=np.int64)
    for split in cohort.splits.values():
        for variable, value in event_blocks(split.variable, split.value):
            is_beyond = np.abs(cohort.variables.z_scores(variable, value)) > EXTREME_Z
            beyond += np.bincount(variable[is_beyond], minlength=n_variables)
    sums = {name: cohort.sums(name) for name in cohort.splits}
    low = np.min([each.low for each in sums.values()], axis=0)
    high = np.max([each.high for each in sums.values()], axis=0)
    z_low, z_high = (cohort.variables.z_scores(of_each, values) for values in (low, high))
    is_high = z_high >= -z_low
    furthest = np.where(beyond > 0, np.where(is_high, z_high, z_low), 0.0)
    n_training = sums["train"].count if "train" in sums else np.zeros(n_variables)
    return _Extremes(event_counts(cohort), n_training, beyond, np.where(is_high, high, low), furthest)


def _check_values(cohort: Cohort, findings: Findings, reported: Collection[str]) -> None:
    """Note extreme values; those that no training can use are problems."""
    found = _extremes(cohort)
    has_stats, is_new = np.isfinite(cohort.std), ~np.isin(cohort.vocabulary, list(reported))
    by_count = np.argsort(-found.beyond, kind="stable")[: np.count_nonzero(found.beyond)]

    def add(notes: list[str], what: str, chosen: NDArray[np.bool_]) -> None:
        add_list(notes, what, [_extreme(cohort, found, v) for v in by_count if chosen[v]])

    beyond = f"values beyond {EXTREME_Z:g} standard deviations"
    misfit = has_stats & (found.beyond > found.n_events / 2)
    if cohort.variables.statistics == TRAIN_SPLIT:  # training has few, nearly equal values of it
        add(findings.remarks, f"variables with most {beyond} of the training values. {LIMITED}", misfit)
    else:
        add(findings.problems, f"variables with most {beyond}: their mean and std do not fit", misfit)
    is_wild = is_new & ~misfit & (np.abs(found.furthest) >= WILD_Z)
    unseen = ~has_stats & (found.n_training == 0)  # rare to a new model, to which it has the value 1
    what = f"variables with values of {WILD_Z:,.0f} or more after normalisation (mistyped, or a tiny std). {LIMITED}"
    add(findings.remarks, what, is_wild & has_stats)
    what = f"variables without training values, whose values are raw, beyond {EXTREME_Z:g}. {LIMITED}"
    add(findings.remarks, what, is_new & unseen & (found.beyond > 0))
    what = f"variables without statistics with raw values of {WILD_Z:,.0f} or more (nothing limits them)"
    add(findings.problems, what, is_wild & ~has_stats & ~unseen)
    raw = is_new & ~has_stats & ~unseen & (found.beyond > 0)
    if max(raw.mean(), found.n_events[raw].sum() / found.n_events.sum()) > MANY:
        what = f"variables without statistics whose raw values go beyond {EXTREME_Z:g}, too many to train on"
        add(findings.problems, what, raw)
    add(findings.remarks, f"variables with {beyond}", has_stats & ~misfit & ~is_wild & (found.beyond > 0))


def _extreme(cohort: Cohort, found: _Extremes, v: int) -> str:
    """One line on the extreme values of a variable, the furthest in its own unit."""
    known = np.isfinite(cohort.std[v])
    furthest = f"{found.value[v]:g} (z = {found.furthest[v]:+.1f})" if known else f"{found.value[v]:g} (no statistics)"
    return f"{cohort.vocabulary[v]!r}: {found.beyond[v]:,} events, furthest {furthest}"


def _check_spans(cohort: Cohort, findings: Findings) -> None:
    """Note stays of absurd lengths, and events far from the start, as they were before anything was cut off."""
    times = cohort.manifest["report"].get(TIMES)
    if times is not None:
        n_events = sum(n["events"] for n in cohort.manifest["splits"].values())
        problems, remarks = span_notes(times, n_events, examples=SHOWN)
        findings.problems += problems
        findings.remarks += remarks


def _check_time_span(cohort: Cohort, findings: Findings) -> None:
    span = np.concatenate([hours(split) for split in cohort.splits.values()])
    median = float(np.median(span))
    if has_dates(cohort) or len(span) < FEWEST_STAYS or SHORT_STAY <= median <= LONG_STAY:
        return
    unit, longest = cohort.manifest.get(IMPORT, {}).get("times"), f"the longest {span.max():,.2f} hours"
    where = f"are the times in {unit} (--time_unit)" if unit else "is the column minute in minutes"
    asked = f"{where[0].upper()}{where[1:]}? Hours would look too short"
    if median > LONG_STAY:
        asked = f"Right for records of months or years; of stays in hospital, {where}? Seconds would look too long"
    findings.remarks.append(f"half of the stays last {_side(median)} from first to last event ({longest}). {asked}")


def _side(median: float) -> str:
    return f"less than {median:,.2f} hours" if median < SHORT_STAY else f"more than {median / 24:,.0f} days"


def _check_last_seen(cohort: Cohort, findings: Findings) -> None:
    """Note splits or groups of the source that last see variables at other times of a stay."""
    for shift in (shift for groups in last_seen(cohort) for shift in shifts(groups)):
        _add_shift(cohort, shift, findings)


def _add_shift(cohort: Cohort, shift: Shift, findings: Findings) -> None:
    lines = [
        f"{cohort.vocabulary[v]!r}: at {early:.1%} of the stay in {shift.earlier}, {late:.1%} in {shift.later}"
        for v, (early, late) in zip(shift.shifted, shift.means, strict=True)
    ]
    what = (
        f"of {shift.compared:,} variables are last seen at another time in {shift.earlier} than in {shift.later}, most "
        "of them earlier. Are the last values of stays missing?"
    )
    add_list(findings.remarks, what, lines)


def _check_equal_stays(cohort: Cohort, findings: Findings) -> None:
    """The same rows under two stay numbers: a problem if they are in two splits."""
    across: list[str] = []
    within: list[str] = []
    for stays in equal_stays(cohort):
        is_leak = len({split for split, _ in stays}) > 1
        (across if is_leak else within).append(", ".join(f"{split}/{stay}" for split, stay in stays))
    add_list(findings.problems, "groups of stays with the same rows in different splits", across)
    add_list(findings.remarks, "groups of stays with the same rows in one split", within)


def check_labels(cohort: Cohort, findings: Findings) -> None:
    """Note splits without stays of both classes, and stays without a label."""
    counts = cohort.manifest["splits"]
    if not any(n["labelled"] for n in counts.values()):
        name = "" if cohort.label_name == NO_LABEL else f" {cohort.label_name}"
        findings.problems.append(f"no stay has a label{name}: the data can be predicted or embedded, not trained on")
        return
    findings.problems += [f"there is no {needed} split" for needed in ("train", "valid") if needed not in counts]
    for name, n in counts.items():
        if n["labelled"] < n["stays"]:
            findings.remarks.append(f"{name}: {n['stays'] - n['labelled']:,} stays without a label, which are not 0")
        if n["positives"] in (0, n["labelled"]):
            one_class = f"{name}: {n['positives']:,} positive among {n['labelled']:,} labelled; AUC needs both"
            (findings.remarks if name == "test" else findings.problems).append(one_class)
