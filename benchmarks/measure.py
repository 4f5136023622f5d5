"""How every benchmark measures: in a process of its own, so that its peak memory is its own, against a baseline.

A benchmark is a function that returns `Figure`s; `isolated` runs it in a fresh process and adds the peak memory. Where
the two sides of a ratio would disturb each other's memory, `apart` gives each a process, and they still run in turn.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from seqsetvae.memory import STATUS as STATUS
from seqsetvae.memory import keep_freed_memory, peak_mib


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure. `ratio` compares with the baseline of the same run; more is better."""

    what: str
    value: float
    unit: str
    baseline: float | None = None  # in the same unit
    baseline_is: str = ""  # what the baseline is, in words
    ratio: float | None = None
    wanted: float | None = None  # least ratio that the project asks for
    peak_mib: float | None = None  # most resident memory of the process that measured
    note: str = ""


def table(title: str, figures: list[Figure]) -> str:
    """Figures as a Markdown table."""
    lines = [
        f"### {title}",
        "",
        "| what | measured | baseline | ratio | wanted | peak memory | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for figure in figures:
        baseline = "" if figure.baseline is None else f"{figure.baseline:,.4g} ({figure.baseline_is})"
        ratio = "" if figure.ratio is None else f"{figure.ratio:,.3g}"
        wanted = "" if figure.wanted is None else f"≥ {figure.wanted:g}"
        peak = "" if figure.peak_mib is None else f"{figure.peak_mib:,.0f} MiB"
        value = f"{figure.value:,.4g} {figure.unit}"
        lines.append(f"| {figure.what} | {value} | {baseline} | {ratio} | {wanted} | {peak} | {figure.note} |")
    return "\n".join(lines)


def compared(what: str, value: float, unit: str, *, baseline: float, baseline_is: str, **more: Any) -> Figure:
    """A figure of which more is better, with its ratio to a baseline."""
    ratio = value / baseline
    return Figure(what=what, value=value, unit=unit, baseline=baseline, baseline_is=baseline_is, ratio=ratio, **more)


def once(work: Callable[[], object]) -> float:
    """Time of the work, run once: for what takes long, or what a first run changes."""
    return seconds(work, repeats=1, warm_up=0)


def seconds(work: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median time of the work, after runs that do not count."""
    return seconds_in_turn([work], repeats, warm_up)[0]


def seconds_in_turn(works: Sequence[Callable[[], object]], repeats: int, warm_up: int = 1) -> list[float]:
    """Median time of each of the works, run in turn: a machine that is slower for a while is so for all of them."""
    times: list[list[float]] = [[] for _ in works]
    for repeat in range(warm_up + repeats):
        for work, of_work in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            if repeat >= warm_up:
                of_work.append(time.perf_counter() - start)
    return [statistics.median(of_work) for of_work in times]


Build = Callable[[], Callable[[], object]]  # makes a work that is then run several times


@dataclass(frozen=True)
class Timed:
    """What running a work took."""

    seconds: float  # median
    peak_mib: float  # of the process it ran in


def apart(builds: Sequence[Build], repeats: int) -> list[Timed]:
    """Each work in turn, each in a process of its own: a loop that leaves a million small holes slows no one else."""
    with ExitStack() as stack:
        pools = [stack.enter_context(_fresh_process()) for _ in builds]
        for pool, build in zip(pools, builds, strict=True):
            pool.submit(_Worker.make, build).result()
        runs = [lambda pool=pool: pool.submit(_Worker.run).result() for pool in pools]
        times = seconds_in_turn(runs, repeats)
        return [Timed(time, pool.submit(peak_mib).result()) for time, pool in zip(times, pools, strict=True)]


class _Worker:
    """The work of a process, kept in it between runs."""

    work: Callable[[], object]

    @classmethod
    def make(cls, build: Build) -> None:
        keep_freed_memory()  # as the command does, for both sides of a ratio
        cls.work = staticmethod(build())

    @classmethod
    def run(cls) -> None:
        cls.work()


def _fresh_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start_as_usual)


def _start_as_usual() -> None:
    """Processes that this one starts, such as a loader's workers, start as they do for a user, not by spawn."""
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)


def isolated(benchmark: Callable[..., list[Figure]], *arguments: Any) -> list[Figure]:
    """The figures of a benchmark, run in a fresh process, with that process's peak memory."""
    with _fresh_process() as pool:
        return pool.submit(_with_peak, benchmark, *arguments).result()


def _with_peak(benchmark: Callable[..., list[Figure]], *arguments: Any) -> list[Figure]:
    keep_freed_memory()  # as the commands do
    figures = benchmark(*arguments)
    peak = peak_mib()
    return [replace(figure, peak_mib=figure.peak_mib or peak) for figure in figures]
