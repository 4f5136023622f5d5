"""What this architecture computes on the host when a batch is made: summaries, combinations of variables, and places.

Legend: E events, N stays of the batch, P pairs (stay, variable), V variables of the model, F summaries of a pair, C
combinations, Q numbers for the place of one of them among those of the training stays (encoding.py). It happens in the
data loader, so that no training step waits for the device to count pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seqsetvae.batches.batch import Batch
from seqsetvae.models.variable_summaries.derived import LABS, NAMES, STATIC, combinations
from seqsetvae.models.variable_summaries.encoding import Fitted, places
from seqsetvae.models.variable_summaries.summaries import SUMMARIES, Pairs, summarize

Stay = tuple[int, int]  # id, number of sets
MOST_KEPT = 2**30  # bytes of all summaries, beyond which none are kept; some 90,000 stays of 40 variables


@dataclass(eq=False)
class Summaries:
    """The summaries of a batch."""

    stay: torch.Tensor  # [P] int64, position of the stay in the batch
    variable: torch.Tensor  # [P] int64, row of the variable in the model, ascending
    values: torch.Tensor  # [P, F] float32 (float64 in double precision), NaN where there is none
    combinations: torch.Tensor  # [N, C], likewise
    places: torch.Tensor  # [P, F, Q] of the same type, what the network reads of the values; NaN where there is nothing
    combination_places: torch.Tensor  # [N, C, Q], likewise
    pairs_per_variable: tuple[tuple[int, int], ...]  # on the host: (variable, number of its pairs), ascending


@dataclass(frozen=True, eq=False)
class Placer:
    """Makes places of summaries and of combinations, from what was fitted to them (`encoding.fit`)."""

    summaries: Fitted  # of each variable: edges [V, F, K], centers [V, F, Q], used [V, F]
    combinations: Fitted  # edges [C, K], centers [C, Q], used [C]

    def place_summaries(self, values: torch.Tensor, variable: torch.Tensor) -> torch.Tensor:
        """[P, F] → [P, F, Q]."""
        return places(values, self.summaries, variable)

    def place_combinations(self, values: torch.Tensor) -> torch.Tensor:
        """[N, C] → [N, C, Q]."""
        edges, center, used = (fitted[None] for fitted in self.combinations)
        return places(values, (edges, center, used), torch.zeros(len(values), dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Summarizer:
    """Makes `Summaries` of a batch.

    Attributes:
        row: [V of the cohort] int64, row of each variable in the model; -1 where the model does not know it.
        bounds: [2, V] smallest and largest z-score of each variable; values beyond are set to these.
        mean, std: [V], of the z-scores, so that combinations are computed in the units of the variables.
        named: rows in the model of the variables `NAMES`; -1 where it has none of this name.
        measured: [V] bool, variables that are measured during the stay (not age, for example).
        length: hours of the common observation window of the training stays; 0 if they have none.
        placer: what makes the places.
    """

    row: torch.Tensor
    bounds: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    named: tuple[int, ...]
    measured: torch.Tensor
    length: float
    placer: Placer

    def bounded_events(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Row of each event's variable in the model, and its value within the bounds: [E] each."""
        row = self.row[batch.variable]
        low, high = self.bounds[:, row]
        return row, batch.value.double().clamp(low, high)

    def __call__(self, batch: Batch, until: torch.Tensor | None = None) -> Summaries:
        """The summaries of a batch on the host, of each stay up to the hours `until` [N] or of all of it."""
        pairs = summarize(batch, *self.bounded_events(batch), self.length, until)
        columns = combinations(self._in_units(pairs, batch.n_stays), self._counts(pairs, batch.n_stays))
        values = pairs.values.to(batch.value.dtype)
        of_combinations = torch.stack(list(columns.values()), dim=1).to(batch.value.dtype)
        return Summaries(
            stay=pairs.stay,
            variable=pairs.variable,
            values=values,
            combinations=of_combinations,
            places=self.placer.place_summaries(values, pairs.variable),
            combination_places=self.placer.place_combinations(of_combinations),
            pairs_per_variable=_runs(pairs.variable),
        )

    def _in_units(self, pairs: Pairs, n_stays: int) -> torch.Tensor:
        """Summaries of the variables `NAMES` in their own units: [N, len(NAMES), F]."""
        dense = pairs.values.new_full((n_stays, len(NAMES), len(SUMMARIES)), torch.nan)
        for place, row in enumerate(self.named):
            if row >= 0:
                own = pairs.variable == row
                dense[pairs.stay[own], place] = in_units(pairs.values[own], self.mean[row], self.std[row])
        return dense

    def _counts(self, pairs: Pairs, n_stays: int) -> torch.Tensor:
        """Variables measured, their events, and laboratory values of the last 12 hours: [N, 3]."""
        measured = self.measured[pairs.variable].double()
        labs = {self.named[NAMES.index(name)] for name in LABS} - {-1}
        is_lab = torch.isin(pairs.variable, torch.tensor(sorted(labs), dtype=torch.int64)).double()
        last = pairs.values[:, SUMMARIES.index("last_0_12h_count")]
        columns = torch.stack([measured, measured * pairs.values[:, SUMMARIES.index("count")], is_lab * last], dim=1)
        return columns.new_zeros(n_stays, 3).index_add(0, pairs.stay, columns)


class KeptSummaries:
    """A Summarizer that computes each stay once: training reads the same stays again in every epoch.

    A stay is known by its id and its number of sets, which differs where it is cut off. Its summaries do not depend on
    the other stays of a batch, to the last bit.
    """

    def __init__(self, summarizer: Summarizer) -> None:
        self.summarizer = summarizer
        self._kept: dict[Stay, tuple[torch.Tensor, ...]] = {}  # variable, values, places; combinations, their places
        self._bytes = 0

    def __call__(self, batch: Batch) -> Summaries:
        """The summaries of a batch on the host."""
        stays = list(zip(batch.stay_id.tolist(), batch.sets_per_stay.tolist(), strict=True))
        if all(stay in self._kept for stay in stays):
            return _together([self._kept[stay] for stay in stays])
        summaries = self.summarizer(batch)
        if self._bytes <= MOST_KEPT:
            self._keep(stays, summaries)
        if self._bytes > MOST_KEPT:  # a batch with a stay that is not kept is computed whole, so some are of no use
            self._kept.clear()
        return summaries

    def _keep(self, stays: list[Stay], summaries: Summaries) -> None:
        by_stay = summaries.stay.argsort(stable=True)
        counts = summaries.stay.bincount(minlength=len(stays)).tolist()
        of_pairs = [each[by_stay] for each in (summaries.variable, summaries.values, summaries.places)]
        of_stays = (summaries.combinations, summaries.combination_places)
        rows = zip(*(each.split(counts) for each in of_pairs), *(each.split(1) for each in of_stays), strict=True)
        self._kept |= zip(stays, rows, strict=True)
        self._bytes += sum(each.nbytes for each in (*of_pairs, *of_stays))


def _together(stays: list[tuple[torch.Tensor, ...]]) -> Summaries:
    """Join the summaries of single stays into those of a batch."""
    n_pairs = torch.tensor([len(of_stay[0]) for of_stay in stays])
    stay = torch.arange(len(stays)).repeat_interleave(n_pairs)
    variable, values, places, combinations, combination_places = map(torch.cat, zip(*stays, strict=True))
    order = variable.argsort(stable=True)
    return Summaries(
        stay=stay[order],
        variable=variable[order],
        values=values[order],
        combinations=combinations,
        places=places[order],
        combination_places=combination_places,
        pairs_per_variable=_runs(variable[order]),
    )


def _runs(variable: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """(variable, number of its pairs), from those of the pairs in ascending order."""
    variables, counts = torch.unique_consecutive(variable, return_counts=True)
    return tuple(zip(variables.tolist(), counts.tolist(), strict=True))


# Summaries that are values of the variable, and those that are differences of its values; others are counts and times.
_ENDS = ("mean", "min", "max", "first", "last", "decayed")
_VALUES = tuple(name.endswith(_ENDS) and "hour_" not in name for name in SUMMARIES)
_DIFFERENCES = tuple(name.endswith(("std", "slope", "variation")) for name in SUMMARIES)


def in_units(values: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Z-scores → units of the variable, where they are its values or differences of them: [..., F]."""
    is_value, is_difference = torch.tensor(_VALUES), torch.tensor(_DIFFERENCES)
    return torch.where(is_value, values * std + mean, torch.where(is_difference, values * std, values))


def named_rows(variables: tuple[str, ...]) -> tuple[int, ...]:
    """The row of each of `NAMES` among the model's variables, or -1."""
    rows = {name: row for row, name in enumerate(variables)}
    return tuple(rows.get(name, -1) for name in NAMES)


def measured(variables: tuple[str, ...]) -> torch.Tensor:
    """[V] bool: not one of the variables that describe the patient."""
    return torch.tensor([name not in STATIC for name in variables])
