"""Kills of a process by itself, in a chosen call of a function, for benchmarks.kills.

A kill from outside hits what takes long. These calls are short, or few, and each is a moment of its own kind.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

# place: module, attribute that is called there. The process dies before the call does anything.
PLACES = {
    "features": ("seqsetvae.training.feature_cache", "require_finite"),  # once a batch of the frozen pass
    "features complete": ("numpy", "memmap.flush"),  # all rows are computed, under a temporary name
    "validation": ("model_optimized", "SeqSetVAEFineTuner.validation_step"),
    "checkpoint": ("torch", "save"),  # when half of the file is written
    "rename": ("pathlib", "Path.replace"),  # of any file of the run: written, under a temporary name
    "job": ("seqsetvae.runs.crossvalidation_files", "Job.write"),  # between two trainings of a sweep
}
# The highest number of a call that is drawn; a hundred stays have so many.
CALLS = {"features": 9, "features complete": 2, "validation": 12, "checkpoint": 8, "rename": 40, "job": 4}


class Call(NamedTuple):
    """The call, counted from 1, in which a process kills itself."""

    place: str
    number: int

    def __str__(self) -> str:
        return f"{self.place}, call {self.number}"


def die_in_call(place: str, number: int) -> None:
    """Let this process die there, as `kill -9` ends it."""
    module, path = PLACES[place]
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            if place == "checkpoint":
                _write_half(function, *arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(owner, name, counted)


def _write_half(save: Callable[..., None], content: Any, stream: Any) -> None:
    whole = io.BytesIO()
    save(content, whole)
    stream.write(whole.getbuffer()[: whole.tell() // 2])
    stream.flush()
