"""How every benchmark measures: in a process of its own, so that its peak memory is its own, against a baseline.

A benchmark is a function that returns `Measurement`s; `isolated` runs it in a fresh process and adds the peak memory.
Where the two sides of a ratio would disturb each other's memory, `apart` gives each a process, and they run in turn.
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

from seqsetvae.system.resources import keep_freed_memory, peak_mib


@dataclass(frozen=True)
class Measurement:
    """One measured value, perhaps compared with a baseline of the same run."""

    what: str
    value: float
    unit: str
    baseline: float | None = None  # in the same unit
    baseline_is: str = ""  # what the baseline is, in words
    ratio: float | None = None  # how many times as good as the baseline
    wanted: float | None = None  # least ratio that the project asks for
    peak_mib: float | None = None  # most resident memory of the process that measured
    note: str = ""

    def against(self, baseline: float, baseline_is: str, wanted: float | None = None) -> Measurement:
        """Compared with a baseline; a time in seconds is better when it is lower, everything else when it is higher."""
        ratio = baseline / self.value if self.unit == "s" else self.value / baseline
        return replace(self, baseline=baseline, baseline_is=baseline_is, ratio=ratio, wanted=wanted)


def with_note(note: str, measurements: list[Measurement]) -> list[Measurement]:
    """The measurements with a note before their own."""
    return [replace(each, note="; ".join(filter(None, (note, each.note)))) for each in measurements]


def table(title: str, measurements: list[Measurement]) -> str:
    """Measurements as a Markdown table."""
    lines = [
        f"### {title}",
        "",
        "| what | measured | baseline | ratio | wanted | peak memory | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for measurement in measurements:
        baseline = "" if measurement.baseline is None else f"{measurement.baseline:,.4g} ({measurement.baseline_is})"
        ratio = "" if measurement.ratio is None else f"{measurement.ratio:,.3g}"
        wanted = "" if measurement.wanted is None else f"≥ {measurement.wanted:g}"
        peak = "" if measurement.peak_mib is None else f"{measurement.peak_mib:,.0f} MiB"
        value = f"{measurement.value:,.4g} {measurement.unit}"
        cells = (measurement.what, value, baseline, ratio, wanted, peak, measurement.note)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def once(work: Callable[[], object]) -> float:
    """Time of one run: for what takes long, or what a first run changes."""
    return seconds(work, repeats=1, warm_up=0)


def seconds(work: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median time of a run, after runs that do not count."""
    return seconds_in_turn([work], repeats, warm_up)[0]


def seconds_in_turn(alternatives: Sequence[Callable[[], object]], repeats: int, warm_up: int = 1) -> list[float]:
    """Median time of each, run in turn, so that a machine that is slower for a while is slower for all of them."""
    times: list[list[float]] = [[] for _ in alternatives]
    for _ in range(warm_up + repeats):
        for work, spent in zip(alternatives, times, strict=True):
            start = time.perf_counter()
            work()
            spent.append(time.perf_counter() - start)
    return [statistics.median(spent[warm_up:]) for spent in times]


Build = Callable[[], Callable[[], object]]  # makes what is then run several times


@dataclass(frozen=True)
class Timed:
    """Time and memory of what ran in a process of its own."""

    seconds: float  # median
    peak_mib: float


def apart(builds: Sequence[Build], repeats: int) -> list[Timed]:
    """Run each in turn, in a process of its own: memory that one fragments does not slow the others."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_fresh_process()) for _ in builds]
        for process, build in zip(processes, builds, strict=True):
            process.submit(_build, build).result()
        runs = [lambda process=process: process.submit(_run_built).result() for process in processes]
        times = seconds_in_turn(runs, repeats)
        peaks = [process.submit(peak_mib).result() for process in processes]
    return [Timed(*both) for both in zip(times, peaks, strict=True)]


_built: Callable[[], object]  # what this process runs, kept between runs


def _build(build: Build) -> None:
    global _built
    _built = build()


def _run_built() -> None:
    _built()  # its result is not sent to the process that waits


def isolated(benchmark: Callable[..., list[Measurement]], *arguments: Any) -> list[Measurement]:
    """The measurements of a benchmark, run in a fresh process, with that process's peak memory."""
    with _fresh_process() as process:
        measurements = process.submit(benchmark, *arguments).result()
        peak = process.submit(peak_mib).result()
    return [replace(measurement, peak_mib=measurement.peak_mib or peak) for measurement in measurements]


def _fresh_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start_as_usual)


def _start_as_usual() -> None:
    """Set up a process like that of the command: freed memory is kept, and loader workers do not start by spawn."""
    keep_freed_memory()
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
