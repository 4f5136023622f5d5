"""A compiled cohort in words: its counts, what was unusual about its data, and whether training can see test data.

Letters: V variables.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort
from seqsetvae.cohort.imported import END, IMPORT, SKIPPED, FaultyFiles
from seqsetvae.cohort.names import groups_alike
from seqsetvae.cohort.spans import TIMES, span_findings
from seqsetvae.cohort.variables import FILE, NONE, TRAIN_SPLIT, Sums
from seqsetvae.system.errors import ERROR, WARNING, Finding, counted, named, shown

ALIKE = "names that differ in case, spaces or Unicode form alone, and are variables of their own"
NOT_IN = {
    TRAIN_SPLIT: " (not in the training split)",
    FILE: " (not in stats.csv)",
}  # why variables have no mean and std
MOST_ALIKE = 8  # groups of names that a summary has
CLOSE = 0.01  # of the distance between two means
FEWEST_VARIABLES = 3  # whose means can tell splits apart


def summary(cohort: Cohort) -> str:
    """The compiled cohort in a few lines: counts by split, and what was unusual about the data."""
    lines = [f"{'split':<8}{'stays':>10}{'sets':>13}{'events':>14}{'unlabelled':>12}{'positive':>10}{'share':>8}"]
    for name, n in cohort.manifest["splits"].items():
        share = f"{n['positives'] / n['labelled']:.1%}" if n["labelled"] else "-"
        lines.append(
            f"{name:<8}{n['stays']:>10,}{n['sets']:>13,}{n['events']:>14,}"
            f"{n['stays'] - n['labelled']:>12,}{n['positives']:>10,}{share:>8}"
        )
    lines += [*_samples(cohort), *cohort.manifest.get(IMPORT, {}).get("decided", ())]
    lines.append(f"{len(cohort.vocabulary)} variables")
    lines += [f"{ALIKE}: {names}" for names in alike_names(cohort)[:MOST_ALIKE]]
    return "\n".join([*lines, *notices(cohort, examples=True)])


def alike_names(cohort: Cohort) -> list[str]:
    """Variables and levels whose names may be one in two forms, a line for each group, with their events."""
    groups = groups_alike(cohort.vocabulary)
    n_events = dict(zip(cohort.vocabulary, event_counts(cohort).tolist(), strict=True)) if groups else {}
    lines = []
    for group in groups:
        is_seen = len({unicodedata.normalize("NFC", name) for name in group}) == len(group)
        quoted = repr if is_seen else ascii  # letters that look equal are written as their numbers
        lines.append(", ".join(f"{quoted(name[:60])} ({counted(n_events[name], 'event')})" for name in group))
    return lines


def _samples(cohort: Cohort) -> list[str]:
    """Subjects and prediction times, unless every stay is a whole one and of a subject of its own."""
    splits = cohort.splits.values()
    n_stays = sum(split.n_stays for split in splits)
    n_subjects = sum(len(np.unique(split.subject_id)) for split in splits)
    n_timed = sum(int(np.isfinite(split.prediction_minute).sum()) for split in splits)
    if n_subjects == n_stays and not n_timed:
        return []
    return [f"{counted(n_stays, 'stay')} of {counted(n_subjects, 'subject')}, {n_timed:,} with a prediction time"]


def notices(cohort: Cohort, examples: bool = False) -> list[str]:
    """What was unusual about the data and how it was handled, a line each; empty if nothing was.

    With `examples` of faulty files, which name stays; without them in runs, whose output goes to logs and reports.
    """
    report = cohort.manifest["report"]
    see = f"left out; see {cohort.path / SKIPPED}"
    lines = ["\n      ".join([finding.line(), *finding.items]) for finding in unusual(cohort, int(examples))]
    if unknown := without_statistics(cohort):
        lines.append(f"{counted(len(unknown), 'variable')} {no_statistics(cohort)}: {most_events(unknown)}")
    if cohort.variables.statistics == TRAIN_SPLIT:
        lines.append("mean and std of each variable are those of the train split")
    if report["faulty_files"]:
        lines.append(f"{counted(report['faulty_files'], 'faulty ' + report['faults']['unit'])} {see}")
    if report["skip_bad"]:
        faulty = FaultyFiles(**report["faults"])
        lines += faulty.lines(examples)
        if faulty.files or not faulty.kinds:
            lines.append(f"--skip_bad left out {faulty.share(cohort.manifest['splits'], cohort.label_name)}")
    emptied = report.get("without_known_variable", {})
    for split, unknown in report.get("unknown_variables", {}).items():  # where a model lacks a vector for them
        lines.append(f"{split}: events of variables without an embedding, left out: {most_events(unknown)}")
        if split in emptied:
            lines.append(f"{split}: {counted(len(emptied[split]), 'stay')} without any other event, left out")
    if report["left_out"]:
        lines.append(f"{counted(report['left_out'], 'stay')} {why_left_out(cohort)} {see}")
    return lines


def unusual(cohort: Cohort, examples: int) -> Iterator[Finding]:
    """Findings that a check and the start of a run share; each names at most so many stays."""
    report, said = cohort.manifest["report"], cohort.manifest.get(IMPORT, {})
    yield from leaks(cohort)
    yield from (Finding(WARNING, note) for note in said.get("notes", ()))
    yield from span_findings(report[TIMES], sum(n["events"] for n in cohort.manifest["splits"].values()), examples)
    unnamed = report["unnamed_rows"]
    if unnamed["rows"]:
        where = counted(unnamed["files"], "file")
        yield Finding(WARNING, f"{counted(unnamed['rows'], 'row')} without a variable name in {where}, left out")
    if report["stays_out_of_order"]:
        stays = counted(report["stays_out_of_order"], "stay")
        yield Finding(WARNING, f"{stays} with rows out of time order, which were sorted")


def why_left_out(cohort: Cohort) -> str:
    """Why stays without a fault are not in the cohort."""
    return "with too few rows" + " or an early end" * bool(cohort.manifest.get(IMPORT, {}).get(END))


def event_counts(cohort: Cohort) -> NDArray[np.int64]:
    """[V] Events of each variable, over all splits."""
    return np.sum([cohort.sums(name).count for name in cohort.splits], axis=0).astype(np.int64)


def without_statistics(cohort: Cohort) -> dict[str, int]:
    """Events of each variable without mean and std, whose values a model reads as they are."""
    if cohort.variables.statistics == NONE:  # no model reads the cohort yet
        return {}
    counts = event_counts(cohort)
    return {cohort.vocabulary[v]: int(counts[v]) for v in np.flatnonzero(np.isnan(cohort.mean)).tolist()}


def no_statistics(cohort: Cohort) -> str:
    """The sentence about variables without mean and std."""
    return f"without mean and std{NOT_IN.get(cohort.variables.statistics, '')}, whose values are read as they are"


def most_events(unknown: dict[str, int]) -> str:
    """The variables with most events, each with their number."""
    by_count = sorted(unknown.items(), key=lambda item: (-item[1], item[0]))
    return named([f"{shown(name)} ({counted(n, 'event')})" for name, n in by_count])


# ------------------------------------------------------------------ what training can see of validation or test data


def leaks(cohort: Cohort) -> Iterator[Finding]:
    """Patients in two splits, events after the time of the label, and statistics of other splits.

    A compilation refuses or removes the first two. They are looked for again in a compiled cohort, which may have been
    made in another way.
    """
    for first, second in combinations(cohort.splits.values(), 2):
        shared = np.intersect1d(first.subject_id, second.subject_id)
        if len(shared):
            patients = counted(len(shared), "patient")
            yield Finding(ERROR, f"leak: {patients} with stays in both {first.name} and {second.name}")
    for split in cohort.splits.values():
        late = int((split.minute[split.stay_offset[1:] - 1] >= split.prediction_minute).sum())  # NaN: no such time
        if late:
            stays = counted(late, "stay")
            yield Finding(ERROR, f"leak: {stays} of {split.name} with events at or after their prediction time")
    sums = {name: cohort.sums(name) for name in cohort.splits} if cohort.variables.statistics == FILE else {}
    told = [name for name in splits_of_statistics(cohort.mean, sums) if name != "train"]
    if told:
        yield Finding(
            ERROR,
            f"leak: the means in stats.csv are those of {' and '.join(told)} data too",
            "Compute the statistics from the training split alone (leave stats.csv out, and they are)",
        )


def splits_of_statistics(mean: NDArray[np.float64], sums: Mapping[str, Sums]) -> list[str]:
    """The splits whose values have these means [V], NaN where there is none; empty if none has, or one cannot tell.

    `sums` are those of each split. The means of the training split alone are no leak, and not looked for.
    """
    if "train" not in sums:
        return []
    with np.errstate(invalid="ignore", divide="ignore"):
        of_train = sums["train"].total / sums["train"].count
        for names in chain.from_iterable(combinations(sums, size) for size in range(1, len(sums) + 1)):
            theirs = sum(sums[name].total for name in names) / sum(sums[name].count for name in names)
            distance = np.abs(theirs - of_train)
            tells = (distance > 1e-9 * np.abs(of_train)) & np.isfinite(mean) & np.isfinite(distance)
            fits = np.abs(mean - theirs) <= CLOSE * distance
            if tells.sum() >= FEWEST_VARIABLES and fits[tells].mean() > 0.5:
                return list(names)
    return []
