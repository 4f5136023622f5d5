"""What `measure.apart` does, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Build, Timed, seconds_in_turn


def in_this_process(builds: Sequence[Build], repeats: int) -> list[Timed]:
    """One turn, and one that does not count."""
    return [Timed(took, 1.0) for took in seconds_in_turn([build() for build in builds], min(repeats, 1))]
