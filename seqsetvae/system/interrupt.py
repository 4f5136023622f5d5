"""Signals that ask a process to end: it ends soon, with its state saved, and says how to resume."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from seqsetvae.system.environment import program
from seqsetvae.system.errors import Terminated

# SLURM sends SIGTERM, or the one that `--signal` names; a terminal that is closed sends SIGHUP.
STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name))


class StopRequest:
    """A signal that asks to end. Between training steps the process ends at once; in one, when it is done and saved."""

    def __init__(self) -> None:
        self.received = False
        self.in_steps = False  # training steps run, after each of which `received` is looked at
        self._name, self._is_raised = "SIGTERM", False

    def handle(self, number: int = signal.SIGTERM, *_: Any) -> None:
        """The signals' handler."""
        if not self.received:
            self.received, self._name = True, signal.Signals(number).name
        if not self.in_steps and not self._is_raised:  # one that is repeated must not break what cleans up
            self.end()

    def end(self) -> NoReturn:
        """Raises Terminated."""
        self._is_raised = True
        raise Terminated(f"stopped by {self._name}")

    def install(self) -> None:
        """Handle the signals from now on; only the main thread can set a handler. What nohup ignores stays ignored."""
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self.handle)


@contextmanager
def handling(stop: StopRequest) -> Iterator[None]:
    """Let `stop` handle the signals inside the block."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    stop.install()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # None: set by something that is not Python
                    signal.signal(number, handler)


@contextmanager
def stoppable(run_folder: Path, stop: StopRequest) -> Iterator[None]:
    """These signals and Ctrl-C inside end in an exception whose text is the command that resumes the run."""
    command = f"{program('train_optimized.py')} --resume {shlex.quote(str(run_folder))}"
    with handling(stop):
        try:
            yield
        except Terminated as stopped:
            raise Terminated(f"{stopped}; to resume: {command}") from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; to resume: {command}") from None
