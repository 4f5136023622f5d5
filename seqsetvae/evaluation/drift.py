"""Signs that data differ from the training data in a way that makes predictions unreliable.

Legend: V variables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort import Cohort
from seqsetvae.cohort.imported import IMPORT, has_dates
from seqsetvae.cohort.profile import FIXED, Profile, VariableSums, Window, hours
from seqsetvae.system.errors import counted

MOST_UNKNOWN = 0.01  # share of the events that may be of variables that were not in the training data
LARGEST_SHIFT = 1.25  # training standard deviations by which the mean over the stays may differ from that of training
FEWEST_STAYS = 10  # below which a mean or a median says little: one very sick patient moves it far
# Times by which the median stay may be shorter or longer than that of training: another unit makes it 60 times.
LARGEST_RATIO = 8.0
SHORTEST, LONGEST = 3.0, 30 * 24.0  # hours of the median stay, where the checkpoint does not record that of training
MOST_MISSING = 0.01  # share of the training events that may be of variables that do not occur here
USUAL = 0.5  # share of the training stays with a variable above which its absence is said, however few its events
CHANCE = 0.001  # probability of an absence by chance below which it counts
FEWER = 0.1  # a variable in less than this share of the stays that are expected to have it counts as absent
MOST_MISSING_OF_FEW = 0.7  # share of the events that such stays should have, where they are too few to tell for each
LARGER = 1.25  # times by which the median prediction time may be outside of those of training
MOST_OTHERS = 0.5  # by which the share of stays with a prediction time may differ from that of training
LONGER = 1.1  # times by which stays are longer than those of training, which were all cut at one time
NAMED = 5  # variables that one warning names


def drift(
    cohort: Cohort,
    splits: Sequence[str],
    known: NDArray[np.bool_],
    rare: Sequence[str],
    training_hours: float | None = None,
    profile: Profile | None = None,
) -> list[str]:
    """A sentence for each way in which these splits differ from the training data.

    Args:
        cohort: bound to the mean and std of the training data.
        splits: which of its splits.
        known: [V] variables that were in the training data.
        rare: variables whose values the model does not read.
        training_hours: the median length of the training stays, if it is known.
        profile: of the training data, if it is known.
    """
    lengths = np.concatenate([hours(cohort.split(name)) for name in splits])
    sums, unread = VariableSums(len(cohort.vocabulary)), Counter[str]()
    for name in splits:
        sums.add(cohort.split(name))
        unread.update(cohort.manifest["report"].get("unknown_variables", {}).get(name, {}))
    unread.update({cohort.vocabulary[v]: int(sums.events[v]) for v in np.flatnonzero(~known & (sums.events > 0))})
    read = known & ~np.isin(cohort.vocabulary, rare) & np.isfinite(cohort.std)
    differences = [*_unknown_variables(unread, float(sums.events[known].sum())), *_shifted_means(cohort, sums, read)]
    if not has_dates(cohort):
        differences += _lengths(lengths, training_hours, cohort.manifest.get(IMPORT, {}).get("times"))
    if profile is None:
        return differences
    window = Window.from_splits([cohort.split(name) for name in splits])
    missing = _missing_variables(dict(zip(cohort.vocabulary, sums.stays.tolist(), strict=True)), len(lengths), profile)
    return [*differences, *missing, *_other_window(profile.window, window, lengths, training_hours)]


def not_compared(cohort: Cohort, splits: Sequence[str], training: Sequence[str], profile: Profile | None) -> list[str]:
    """A sentence about what of these splits cannot be compared with the training data, and why.

    `training` are the names of the training variables.
    """
    lines, n_stays = [], sum(cohort.split(name).n_stays for name in splits)
    if n_stays < FEWEST_STAYS:
        lines.append(
            f"Too few stays to compare their means and lengths with training ({n_stays}; {FEWEST_STAYS} are needed)"
        )
    if profile is None:
        there = {cohort.vocabulary[v] for name in splits for v in np.unique(cohort.split(name).variable)}
        absent, window = len(set(training) - there), Window.from_splits([cohort.split(name) for name in splits])
        lines.append(
            "The checkpoint is of an earlier version and does not record how often each variable occurred in training, "
            f"nor up to which hour events were used, so neither can be compared. {absent:,} of its "
            f"{counted(len(training), 'variable')} do not occur here; these stays: {window}."
        )
    return lines


def _missing_variables(stays_with: dict[str, float], n_stays: int, profile: Profile) -> list[str]:
    """`stays_with` are the stays with each variable, of `n_stays`. Levels of a category count as one variable."""
    events_here, events, usual = Counter[str](), Counter[str](), Counter[str]()
    for name, n in stays_with.items():
        events_here[without_level(name)] += int(n)
    for name, (n_events, n_with) in profile.variables.items():
        events[without_level(name)] += n_events
        usual[without_level(name)] += n_with
    share = {name: min(n / (profile.window.stays + 1), 1.0) for name, n in usual.items()}  # of the training stays
    absent, total = _absent(events_here, events, share, n_stays), max(events.total(), 1)
    lost = sum(events[name] for name in absent) / total
    if lost <= MOST_MISSING and all(share[name] < USUAL for name in absent):
        return []
    lines = [
        f"{name!r} (in {share[name]:.0%} of the training stays, {events[name] / total:.1%} of the events; here in "
        f"{events_here[name]:,} of {counted(n_stays, 'stay')})"
        for name in sorted(absent, key=lambda name: (-events[name], name))
    ]
    return [
        f"{counted(len(absent), 'variable')} of {len(events):,} of the training data, with {lost:.1%} of the training "
        f"events, are missing here, or nearly: {_named(lines)}. Do they have another name here?"
    ]


def _absent(events_here: Counter[str], events: Counter[str], share: dict[str, float], n_stays: int) -> list[str]:
    """Training variables that too few of the stays have to be chance.

    `events_here` counts these stays by variable, `events` the training events; `share` is that of the training stays.
    """
    chance = {name: (1 - share[name]) ** n_stays for name in events}  # that none of the stays has it
    fewer = [name for name in events if events_here[name] < FEWER * share[name] * n_stays]
    expected = sum(n * (1 - chance[name]) for name, n in events.items())
    events_there = events.total() - sum(events[name] for name in fewer)
    if events_there < (1 - MOST_MISSING_OF_FEW) * expected:
        return fewer
    return [name for name in fewer if chance[name] < CHANCE]


def without_level(name: str) -> str:
    """The variable of a level NAME=level: a level may be absent from a ward, as men are from a maternity ward."""
    return name.partition("=")[0]


def _other_window(
    training: Window, window: Window, lengths: NDArray[np.float64], training_hours: float | None
) -> list[str]:
    """Events that were used up to another time than in training."""
    if training.at is not None and window.at is not None:
        differ = abs(training.predicted - window.predicted) > MOST_OTHERS or _at_other_hours(training, window)
    elif training.at is not None or window.at is not None:
        differ = True
    elif len(lengths) < FEWEST_STAYS:
        differ = False
    elif training.cut is None:
        differ = window.cut is not None and training_hours is not None and window.cut < training_hours
    else:
        end = float(np.median(lengths)) if window.cut is None else window.cut
        differ = end > LONGER * training.cut or (window.cut is not None and LONGER * end < training.cut)
    return [
        f"Another window than in training. Trained on {training}; these stays: {window}. Cut them as in training "
        "(--until_hour, or prediction times in the labels), or train a model on such stays."
    ] * differ


def _at_other_hours(training: Window, window: Window) -> bool:
    """Whether predictions are made at other hours of the stay than in training."""
    assert training.at is not None
    assert window.at is not None
    if training.hour is not None and window.hour is not None:
        return abs(window.hour - training.hour) > FIXED * max(abs(training.hour), abs(window.hour))
    if window.hour is None and window.stays < FEWEST_STAYS:
        return False
    low, _, high = training.at
    return not low / LARGER <= window.at[1] <= high * LARGER


def _unknown_variables(events: Counter[str], known_events: float) -> list[str]:
    """`events` are those of variables that were not in the training data, by variable."""
    share = events.total() / max(events.total() + known_events, 1)
    if share <= MOST_UNKNOWN:
        return []
    named = _named([f"{name!r} ({count:,} events)" for name, count in events.most_common()])
    return [
        f"{share:.1%} of the events are of {counted(len(events), 'variable')} that the training data did not have: "
        f"{named}. Are they known variables under another name?"
    ]


def _shifted_means(cohort: Cohort, sums: VariableSums, read: NDArray[np.bool_]) -> list[str]:
    here = sums.total / np.maximum(sums.stays, 1)
    mean = cohort.variables.z_scores(np.arange(len(here), dtype=np.int32), here)
    is_shifted = read & (np.abs(mean) > LARGEST_SHIFT) & (sums.stays >= FEWEST_STAYS)
    shifted = np.flatnonzero(is_shifted)
    if not len(shifted):
        return []
    lines = [
        f"{cohort.vocabulary[v]!r}: mean {here[v]:g} instead of {cohort.mean[v]:g} ({mean[v]:+.1f} standard deviations)"
        for v in shifted[np.argsort(-np.abs(mean[shifted]), kind="stable")]
    ]
    return [
        f"The mean of {counted(len(shifted), 'variable')} is far from that of training; another unit? {_named(lines)}"
    ]


def _lengths(of_stays: NDArray[np.float64], training: float | None, unit: str | None) -> list[str]:
    """Stays [N] whose times may be in another unit; `unit` is what an import took them for."""
    if len(of_stays) < FEWEST_STAYS:
        return []
    median = float(np.median(of_stays))
    shortest, longest = SHORTEST, LONGEST
    if training is not None:
        shortest, longest = training / LARGEST_RATIO, training * LARGEST_RATIO
    if shortest <= median <= longest:
        return []
    other = "hours" if median < shortest else "seconds"
    instead = "" if training is None else f" instead of {training:.2g} as in training"
    asked = f"is `minute` in {other}? It must be in minutes since admission."
    if unit is not None:
        asked = f"are the times in {other}? They were read as {unit} (--time_unit)."
    return [f"The median stay is {median:.2g} hours long{instead}: {asked}"]


def _named(items: Sequence[str]) -> str:
    return "; ".join(items[:NAMED]) + (f"; and {len(items) - NAMED} more" if len(items) > NAMED else "")
