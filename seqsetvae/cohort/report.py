"""A compiled cohort in words: its counts, and what was unusual about its data."""

import unicodedata
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort
from seqsetvae.cohort.imported import END, IMPORT, SKIPPED, FaultyFiles
from seqsetvae.cohort.leaks import leaks
from seqsetvae.cohort.manifest import EARLIER_VERSION
from seqsetvae.cohort.names import alike
from seqsetvae.cohort.spans import TIMES, span_notes
from seqsetvae.cohort.variables import NONE, TRAIN_SPLIT
from seqsetvae.errors import counted, shown

ALIKE = "names that differ in case, spaces or Unicode form alone, and are variables of their own"
NAMED = 8  # variables that one line names


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
    lines += [f"{ALIKE}: {names}" for names in alike_names(cohort)[:NAMED]]
    return "\n".join([*lines, *notices(cohort, examples=True)])


def alike_names(cohort: Cohort) -> list[str]:
    """Variables and levels whose names may be one in two forms, a line for each group, with their events."""
    groups = alike(cohort.vocabulary)
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
    unknown = without_statistics(cohort)
    see = f"left out; see {cohort.path / SKIPPED}"
    lines = [*leaks(cohort), *cohort.manifest.get(IMPORT, {}).get("notes", ())]
    if TIMES in report:
        lines += chain(
            *span_notes(report[TIMES], sum(n["events"] for n in cohort.manifest["splits"].values()), examples)
        )
    if unknown:
        lines.append(f"no statistics, raw values kept: {counted(len(unknown), 'variable')}: {most_events(unknown)}")
    if cohort.variables.statistics == TRAIN_SPLIT:
        lines.append("mean and std of each variable are those of the train split")
    if cohort.manifest["version"] == EARLIER_VERSION:
        lines.append(
            "compiled by an earlier version, with z-scores, which were turned back into values; compile the data again "
            "before the next version, which will not read it"
        )
    unit = report.get("faults", {}).get("unit", "file")  # older cohorts were compiled from files
    if report["faulty_files"]:
        lines.append(f"{counted(report['faulty_files'], f'faulty {unit}')} {see}")
    lines += _faults(cohort, examples)
    unnamed = report.get("unnamed_rows", {"rows": 0})  # cohorts compiled before these were counted have no such entry
    if unnamed["rows"]:
        where = counted(unnamed["files"], "file")
        lines.append(f"{counted(unnamed['rows'], 'row')} without a variable name in {where}, left out")
    emptied = report.get("without_known_variable", {})
    for split, unknown in report.get("unknown_variables", {}).items():  # where a model lacks a vector for them
        lines.append(f"{split}: events of variables without an embedding, left out: {most_events(unknown)}")
        if split in emptied:
            lines.append(f"{split}: {counted(len(emptied[split]), 'stay')} without any other event, left out")
    if report["left_out"]:
        lines.append(f"{counted(report['left_out'], 'stay')} {why_left_out(cohort)} {see}")
    if report["stays_out_of_order"]:
        lines.append(f"{counted(report['stays_out_of_order'], 'stay')} with rows out of time order, which were sorted")
    return lines


def _faults(cohort: Cohort, examples: bool) -> list[str]:
    """Which kinds of faults --skip_bad ignored, and how the stays left out differ from those kept."""
    report = cohort.manifest["report"]
    if not report.get("skip_bad"):  # not given, or the cohort was compiled before this was recorded
        return []
    faulty = FaultyFiles(**report["faults"])
    share = faulty.share(cohort.manifest["splits"], cohort.label_name)
    return [*faulty.lines(examples), *([f"--skip_bad left out {share}"] if faulty.files or not faulty.kinds else [])]


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


def most_events(unknown: dict[str, int]) -> str:
    """The variables with most events, each with their number."""
    by_count = sorted(unknown.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{shown(name)} ({counted(n, 'event')})" for name, n in by_count[:NAMED])
    more = len(unknown) - NAMED
    return f"{listed} and {more:,} more" if more > 0 else listed
