"""What a model reads of each variable: its mean, std and vector. They belong to the model; the data keep raw values.

Letters: V variables, I width of a vector, E events.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.statistics import Floats

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
        parts = [json.dumps([self.names, self.width]).encode(), *(_bits(each) for each in (self.mean, self.std))]
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
        here = self.over(other)
        known = np.isin(other.names, self.names)
        differ = np.zeros(len(other.names), dtype=bool)
        if other.statistics == FILE:
            has = known & ~np.isnan(other.mean)
            differ |= has & ((here.mean != other.mean) | (here.std != other.std))
        if other.given is not None:
            has = known & ~np.isnan(other.given[:, 0])
            differ |= has if other.width != self.width else has & (here.vectors != other.given).any(axis=1)
        return [name for name, is_other in zip(other.names, differ, strict=True) if is_other]


def z_scores(shift: Floats, scale: Floats, variable: NDArray[np.int32], value: Floats) -> Floats:
    """[E] from values [E], with the `shift` and `scale` [V] of some Variables."""
    return (value - shift[variable]) / scale[variable]


def _bits(numbers: Floats) -> bytes:
    """One NaN, whatever its bits are."""
    return np.where(np.isnan(numbers), np.nan, numbers).astype("<f8").tobytes()


def generate_embedding(name: str, width: int) -> NDArray[np.float64]:
    """[width] A vector that depends on the name alone, so that it is the same in every cohort and version.

    SHAKE-256 of the name in UTF-8 gives `width` little-endian uint32; they become uniform in [-sqrt 3, sqrt 3), which
    has mean 0 and variance 1. A longer vector starts with the numbers of the shorter one.
    """
    raw = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * width), dtype="<u4")
    return (raw / 2.0**31 - 1.0) * math.sqrt(3.0)
