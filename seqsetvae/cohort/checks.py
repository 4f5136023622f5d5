"""What a careful person wants to know about data before training on them. Faults are reported here, not raised."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from seqsetvae.cohort.compile import compile_cohort
from seqsetvae.cohort.find import locate_layout
from seqsetvae.cohort.format import Cohort, Split, is_compiled, open_cohort
from seqsetvae.cohort.sidefiles import Stats, read_embeddings, read_labels, read_stats, unusable_stats
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout, find_patient_ehr
from seqsetvae.cohort.tidy import Skip, Stay
from seqsetvae.errors import InputError

EXTREME_Z = 10.0  # a z-score beyond this is looked at: a unit mixed up, a typing error, or a very sick patient
SHOWN = 10  # lines of any one finding


@dataclass
class Findings:
    """A report in the making: tables and facts, what would stop training, and what deserves a look."""

    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report, ending with a verdict line."""
        lines = list(self.facts)
        for title, notes in (("Would stop training:", self.problems), ("Worth a look:", self.remarks)):
            if notes:
                lines += ["", title, *(f"  - {note}" for note in notes)]
        n_problems, n_remarks = len(self.problems), len(self.remarks)
        verdict = f"NOT ready: {n_problems} to mend" if n_problems else "ready for training"
        return "\n".join([*lines, "", f"Verdict: {verdict}, {n_remarks} worth a look."])


def check_folder(path: str | Path, label_name: str) -> Findings:
    """Look at a compiled cohort or an old layout; whatever is wrong with it is in the findings, never raised."""
    path, findings = Path(path), Findings()
    try:
        if is_compiled(path):
            _check_cohort(open_cohort(path), findings)
        else:
            _check_layout(path, label_name, findings)
    except InputError as error:
        findings.problems.append(str(error))
    return findings


def _check_layout(path: Path, label_name: str, findings: Findings) -> None:
    """Compile what can be compiled into a temporary folder, with every fault left out, noted and counted."""
    patient_ehr = find_patient_ehr(path)
    source = SeqSetVAELayout(patient_ehr)
    _drop_repeated_stays(source, findings)
    try:
        files = locate_layout(path)
        labels = read_labels(files.labels, label_name) if files.labels else None
        stats = read_stats(files.stats)
        given = read_embeddings(files.embeddings) if files.embeddings else None
    except InputError as error:
        findings.problems.append(str(error))
        labels, stats, given = None, {}, None
    usable = _usable_stats(stats)
    with tempfile.TemporaryDirectory() as folder:
        cohort = compile_cohort(
            source, Path(folder, "cohort"), label_name=label_name, labels=labels, stats=usable, embedding_dim=1,
            skip_bad=True,
        )  # fmt: skip
        _note_faults(source, cohort, findings)
        bad = unusable_stats(stats, cohort.vocabulary)
        if bad:
            findings.problems.append(_listed("statistics that cannot normalise (mean must be finite, std above 0)", bad))
        if given is not None:
            lacking = [repr(name) for name in cohort.vocabulary if name not in given.row]
            broken = [repr(k) for k, row in given.row.items() if not np.isfinite(given.vectors[row]).all()]
            if lacking:
                findings.problems.append(_listed("variables without an embedding in cached.csv", lacking))
            if broken:
                findings.problems.append(_listed("embeddings that are not finite", broken))
        _check_cohort(cohort, findings, f"{patient_ehr} (SeqSetVAE layout)", embeddings_known=given is not None)


def _usable_stats(stats: Stats) -> Stats:
    return {name: pair for name, pair in stats.items() if not unusable_stats(stats, [name])}


def _drop_repeated_stays(source: SeqSetVAELayout, findings: Findings) -> None:
    """Keep the first file of every stay, and note the others."""
    first: dict[int, str] = {}
    repeated = []
    for split, stays in source.stays.items():
        kept: list[Stay] = []
        for stay in stays:
            if stay.stay_id in first:
                repeated.append(f"{stay.stay_id}: {first[stay.stay_id]} and {stay.file}")
            else:
                first[stay.stay_id] = stay.file
                kept.append(stay)
        source.stays[split] = kept
    if repeated:
        findings.problems.append(_listed("stays in two splits or files; the later ones are not counted above", repeated))


class _Recorded(SeqSetVAELayout):
    """A layout whose skips the check can read back."""


def _note_faults(source: SeqSetVAELayout, cohort: Cohort, findings: Findings) -> None:
    skips = cohort.skips()
    faults = [str(skip) for skip in skips if skip.is_fault]
    empty = [skip.file for skip in skips if not skip.is_fault]
    if faults:
        findings.problems.append(_listed("faulty files (--skip_bad leaves them out)", faults))
    if empty:
        findings.remarks.append(_listed("empty stays, which are left out", empty))


def _check_cohort(cohort: Cohort, findings: Findings, title: str = "", embeddings_known: bool = True) -> None:
    pass


def _listed(what: str, items: Iterable[str]) -> str:
    """`12 what:` and the first of the items, one a line."""
    items = list(items)
    shown = "".join(f"\n      {item}" for item in items[:SHOWN])
    more = f"\n      and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return f"{len(items):,} {what}:{shown}{more}"
