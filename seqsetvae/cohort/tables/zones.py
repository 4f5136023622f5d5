"""Local times of a place as points of time, by the rules of its zone in any year.

Arrow repeats the last offset of its tables after 2037 and moves all of a skipped hour to one instant, so `zoneinfo` is
asked here. It is slow, so it is asked once a day, and for single times on days on which the offset changes.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from seqsetvae.errors import InputError

DAY = 86_400_000_000  # microseconds
_EPOCH = datetime(1970, 1, 1)
_CHANGES = np.iinfo(np.int64).max  # in place of the offset of a day that has several
_FIXED = re.compile(r"([+-])(\d\d):?(\d\d)")


class Zone:
    """The offsets of a time zone, kept by day."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._of_day: dict[int, int] = {}  # days since 1970 -> microseconds from UTC, or _CHANGES

    def utc(self, local: NDArray[np.int64], *, earliest: bool = False) -> NDArray[np.int64]:
        """Points of time of local times, both in microseconds since 1970, in years 2 to 9998.

        A time that occurs twice in autumn counts as the earlier one. A time that is skipped in spring counts as that of
        a clock that was not set forward, which keeps the distances between such times; with `earliest`, as that of one
        that was set forward too early, so that nothing that was written down later comes before it.
        """
        days, place = np.unique(local // DAY, return_inverse=True)
        offset = np.array([self._offset(day) for day in days.tolist()], dtype=np.int64)[place]
        single, where = np.unique(local[offset == _CHANGES], return_inverse=True)
        folds = (0, 1) if earliest else (0,)
        found = [max(self._offset_at(time, fold) for fold in folds) for time in single.tolist()]
        offset[offset == _CHANGES] = np.array(found, dtype=np.int64)[where]
        return local - offset

    def _offset(self, day: int) -> int:
        if day not in self._of_day:
            ends = {self._offset_at(at * DAY, fold) for at in (day, day + 1) for fold in (0, 1)}
            self._of_day[day] = ends.pop() if len(ends) == 1 else _CHANGES
        return self._of_day[day]

    def _offset_at(self, local: int, fold: int) -> int:
        time = (_EPOCH + timedelta(microseconds=local)).replace(fold=fold)
        offset = self._zone.utcoffset(time)
        assert offset is not None
        return offset // timedelta(microseconds=1)


@lru_cache
def find_zone(name: str) -> Zone:
    """The zone of a name such as Europe/Berlin, or of a fixed offset such as +01:00. Raises InputError."""
    if fixed := _FIXED.fullmatch(name):
        sign, hours, minutes = fixed.groups()
        return Zone(timezone(timedelta(hours=int(sign + hours), minutes=int(sign + minutes))))
    try:
        return Zone(UTC if name == "UTC" else ZoneInfo(name))
    except (KeyError, ValueError, OSError):  # no such key; no name at all; a folder of zones
        raise InputError(
            f"--time_zone {name}: this computer knows no such zone; zones are named as Europe/Berlin (where it has no "
            "table of zones at all: pip install tzdata)"
        ) from None
