"""What a model reads of each variable: its mean, std and vector, which belong to it, while the data keep raw values.

Mean and std follow from sums over one read of the events. Blocks of events have one fixed size and order, so that a
cohort joined from shards has the statistics of a single compilation to the last bit, and they never depend on threads.
Letters: V variables, I width of a vector, E events of a block.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-12  # relative: 0.1 + 0.2 and 0.3 are one value
Floats = NDArray[np.float64]
Block = tuple[NDArray[np.int32], Floats]  # variable and raw value, [E] each


@dataclass
class Sums:
    """Counts, means and squares of the raw values of a split: all [V]."""

    count: Floats
    total: Floats
    origin: Floats  # mean in the first block that has the variable; NaN before
    distance: Floats  # sum of the distances to the origin
    squares: Floats  # sum of the squared distances to the mean
    low: Floats
    high: Floats

    @classmethod
    def from_blocks(cls, blocks: Iterable[Block], n_variables: int) -> Sums:
        starts = (0.0, 0.0, np.nan, 0.0, 0.0, np.inf, -np.inf)
        sums = cls(*(np.full(n_variables, start) for start in starts))
        for variable, value in blocks:
            sums._add(variable, value)
        return sums

    def as_array(self) -> Floats:
        """[7, V] the fields in their order."""
        return np.stack(astuple(self))

    def take(self, variables: NDArray[np.int64]) -> Sums:
        """The sums of some of the variables."""
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


DEFAULT_WIDTH = 768  # of generated vectors, that of the language model behind cached.csv
TRAIN_SPLIT, FILE, CHECKPOINT, NONE = "train split", "file", "checkpoint", "none"  # where mean and std are from


@dataclass(frozen=True, eq=False)
class Variables:
    """The variables of a cohort or of a checkpoint."""

    names: tuple[str, ...]  # V
    mean: Floats  # [V] in the variable's own unit; NaN = no statistics, the value is read as it is
    std: Floats  # [V] likewise
    given: Floats | None = None  # [V, I], a row of NaN = no vector; None: generated from the names
    width: int = DEFAULT_WIDTH  # I
    statistics: str = CHECKPOINT  # where mean and std are from

    @cached_property
    def vectors(self) -> Floats:
        """[V, I]."""
        if self.given is not None:
            return self.given
        return np.stack([generate_embedding(name, self.width) for name in self.names])

    @cached_property
    def shift(self) -> Floats:
        """[V] The mean, 0 where there is none."""
        return np.where(np.isnan(self.mean), 0.0, self.mean)

    @cached_property
    def scale(self) -> Floats:
        """[V] The std, 1 where there is none."""
        return np.where(np.isnan(self.mean), 1.0, self.std)

    def z_scores(self, variable: NDArray[np.int32], value: Floats) -> Floats:
        """[E] from values in their units [E]; those of variables without statistics stay as they are."""
        return z_scores(self.shift, self.scale, variable, value)

    @cached_property
    def content_hash(self) -> str:
        """Equal hashes mean the same names, statistics and vectors."""
        vectors = [] if self.given is None else [self.given.astype("<f8").tobytes()]
        one_nan = (np.where(np.isnan(each), np.nan, each) for each in (self.mean, self.std))  # whatever its bits are
        parts = [json.dumps([self.names, self.width]).encode(), *(each.astype("<f8").tobytes() for each in one_nan)]
        return hashlib.sha256(b"".join([*parts, *vectors])).hexdigest()

    def take(self, rows: NDArray[np.int64]) -> Variables:
        """Some of the variables."""
        names, given = tuple(self.names[row] for row in rows), None if self.given is None else self.given[rows]
        return Variables(names, self.mean[rows], self.std[rows], given, self.width, self.statistics)

    def over(self, other: Variables) -> Variables:
        """The variables of `other`, as they are here; what is not here has what a file that `other` was read from says.

        A variable that neither has a vector for gets a row of NaN.
        """
        row = {name: at for at, name in enumerate(self.names)}
        at = np.array([row.get(name, -1) for name in other.names])
        known, is_file = at >= 0, other.statistics == FILE
        mean, std = (
            np.where(known, ours[at], theirs if is_file else np.nan)
            for ours, theirs in ((self.mean, other.mean), (self.std, other.std))
        )
        given = None
        if self.given is not None:
            given = np.full((len(other.names), self.width), np.nan)
            given[known] = self.given[at[known]]
            if other.given is not None and other.width == self.width:
                given[~known] = other.given[~known]
        return Variables(other.names, mean, std, given, self.width, self.statistics)

    def contradicted_by(self, other: Variables) -> list[str]:
        """The names of both whose mean, std or vector in the files that `other` was read from is another."""
        ours = self.over(other)
        known = np.isin(other.names, self.names)
        differ = np.zeros(len(other.names), dtype=bool)
        if other.statistics == FILE:
            has = known & ~np.isnan(other.mean)
            differ |= has & ((ours.mean != other.mean) | (ours.std != other.std))
        if other.given is not None:
            has = known & ~np.isnan(other.given[:, 0])
            differ |= has if other.width != self.width else has & (ours.vectors != other.given).any(axis=1)
        return [name for name, is_other in zip(other.names, differ, strict=True) if is_other]


def z_scores(shift: Floats, scale: Floats, variable: NDArray[np.int32], value: Floats) -> Floats:
    """[E] from values [E], with the `shift` and `scale` [V] of some Variables."""
    return (value - shift[variable]) / scale[variable]


def generate_embedding(name: str, width: int) -> NDArray[np.float64]:
    """[width] A vector that depends on the name alone, so that it is the same in every cohort and version.

    SHAKE-256 of the name in UTF-8 gives `width` little-endian uint32; they become uniform in [-sqrt 3, sqrt 3), which
    has mean 0 and variance 1. A longer vector starts with the numbers of the shorter one.
    """
    raw = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * width), dtype="<u4")
    return (raw / 2.0**31 - 1.0) * math.sqrt(3.0)
