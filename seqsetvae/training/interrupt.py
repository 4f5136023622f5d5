"""SIGTERM and Ctrl-C: a training process ends soon, with its state saved, and says how to go on."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqsetvae.errors import Terminated


class StopRequest:
    """SIGTERM has come. Between training steps the process ends at once; in one, when the step is done and saved."""

    def __init__(self) -> None:
        self.received = False
        self.in_steps = False  # training steps run, after each of which `received` is looked at

    def handle(self, *_: Any) -> None:
        """The signal's handler."""
        self.received = True
        if not self.in_steps:
            raise Terminated

    def install(self) -> None:
        """From now on this handles SIGTERM; only the main thread can set a handler."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handle)


@contextmanager
def stoppable(run_folder: Path, stop: StopRequest) -> Iterator[None]:
    """SIGTERM and Ctrl-C inside end in an exception whose text is the command that goes on with the run."""
    before = signal.getsignal(signal.SIGTERM)
    stop.install()
    command = f"python train_optimized.py --resume {shlex.quote(str(run_folder))}"
    try:
        yield
    except Terminated:
        raise Terminated(f"stopped by SIGTERM; to go on: {command}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; to go on: {command}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
