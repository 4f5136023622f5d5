"""Mean and standard deviation of each variable, in one read of the events.

Letters: V variables, E events of a block. Blocks have one fixed size and order, so that a cohort joined from shards has
the statistics of a single compilation to the last bit, and they never depend on threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-12  # relative: 0.1 + 0.2 and 0.3 are one value
Floats = NDArray[np.float64]
Block = tuple[NDArray[np.int32], Floats]  # variable and raw value, [E] each


@dataclass
class Sums:
    """Of the raw values of a split: all [V]."""

    count: Floats
    total: Floats
    origin: Floats  # mean in the first block that has the variable; NaN before
    distance: Floats  # sum of the distances to the origin
    squares: Floats  # sum of the squared distances to the mean
    low: Floats
    high: Floats

    @classmethod
    def of(cls, blocks: Iterable[Block], n_variables: int) -> Sums:
        starts = (0.0, 0.0, np.nan, 0.0, 0.0, np.inf, -np.inf)
        sums = cls(*(np.full(n_variables, start) for start in starts))
        for variable, value in blocks:
            sums._add(variable, value)
        return sums

    def as_array(self) -> Floats:
        """[7, V] the fields in their order."""
        return np.stack(astuple(self))

    def take(self, variables: NDArray[np.int64]) -> Sums:
        """Those of some of the variables."""
        return Sums(*self.as_array()[:, variables])

    def _add(self, variable: NDArray[np.int32], value: Floats) -> None:
        """Add a block. Nothing cancels where mean >> std, nor where the origin is far from the mean.

        Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983, equation 2.1.
        """
        count = self._of_each(variable)
        n, n_before = np.maximum(count, 1), np.maximum(self.count, 1)
        total = self._of_each(variable, value)
        self.origin = np.where(np.isnan(self.origin) & (count > 0), total / n, self.origin)
        from_origin = value - self.origin[variable]
        distance = self._of_each(variable, from_origin)
        squares = self._of_each(variable, (from_origin - (distance / n)[variable]) ** 2)
        between_means = distance / n - self.distance / n_before
        self.squares += squares + between_means**2 * (self.count * count / np.maximum(self.count + count, 1))
        self.count, self.total, self.distance = self.count + count, self.total + total, self.distance + distance
        np.minimum.at(self.low, variable, value)
        np.maximum.at(self.high, variable, value)

    def _of_each(self, variable: NDArray[np.int32], weight: Floats | None = None) -> Floats:
        """Sum of the weights of the events, or their number, by variable: [V]."""
        return np.bincount(variable, weight, minlength=len(self.count)).astype(np.float64)

    def mean_and_std(self) -> tuple[Floats, Floats]:
        """Mean and sample std [V]; NaN for a variable without events.

        A variable with a single value c, or with values that differ by rounding alone, has no scale. Its mean is set to
        0 and its std to |c| (1 if c is 0), so that the value stays +1 or -1: that something was measured or given is
        information in itself.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.total / self.count
            varies = self.high - self.low > ROUNDING * np.maximum(np.abs(self.low), np.abs(self.high))
        std = np.full(len(mean), np.nan)
        std[varies] = np.sqrt(self.squares[varies] / (self.count[varies] - 1))
        constant = (self.count > 0) & ~varies
        std[constant] = np.where(self.low[constant] == 0, 1.0, np.abs(self.low[constant]))
        mean[constant] = 0.0
        return mean, std


N_SUMS = len(fields(Sums))
