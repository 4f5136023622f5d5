"""Stays that ended before their prediction time: discharged or dead by then, they are no longer there to predict for.

Letters: N samples, D ids.
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from seqsetvae.cohort.imported import rate
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.samples import Samples
from seqsetvae.cohort.tables.times import is_bad
from seqsetvae.cohort.tidy import Bools, Skip, left_out
from seqsetvae.errors import counted


@dataclass(frozen=True)
class StayEnd:
    """When the stay of each sample ends."""

    name: str  # where that is from: a column or a code
    time: NDArray[Any]  # [N] on the clock of the events; bad where there is none
    expected: bool = True  # whether each stay should have one


def ended(end: StayEnd, samples: Samples) -> Bools:
    """[N] Which stays ended before the prediction time of their sample."""
    return ~is_bad(end.time) & ~is_bad(samples.end) & (end.time < samples.end)


def end_skips(end: StayEnd, samples: Samples, gone: Bools) -> list[Skip]:
    """The stays that ended, to be left out."""
    reason = f"the stay ended before its prediction time ({end.name})"
    return [left_out(stay, reason) for stay in samples.stays()[gone]]


def end_notes(end: StayEnd, samples: Samples, gone: Bools, label_name: str | None, events: Events) -> list[str]:
    """What the end of stays shows, a line each."""
    notes = []
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
        late = int((whole & (events.last_time[samples.id] > end.time)).sum())
        has = f"{late:,} of {counted(int(whole.sum()), 'stay')}"
        what = "have events after their end, which are used: there are no prediction times"
        notes += [f"{end.name}: {has} {what}"] if late else []
    return notes
