"""What a run prints: the terminal's output copied to train.log, and one progress display.

On a terminal the display is a bar; anywhere else it is one line per minute, without control codes. Nothing here imports
torch, so that the command line can start without it.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Self, TextIO

from tqdm import tqdm

from seqsetvae.system.errors import cut

WARNINGS = "warnings.txt"  # of a run, a line each
LONGEST_LINE = 4000  # characters of a line: more is a text of the data that no message cut
SECONDS_BETWEEN_DRAWS = 0.25  # of the bar on a terminal
SECONDS_BETWEEN_LINES = 60.0  # of progress where there is no terminal
BAR_FORMAT = "{desc} |{bar}| {percentage:3.0f}%{postfix}"
CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class OutputLog:
    """Lines of the output, and its warnings, kept in memory until there are files to write them to."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._warnings: list[str] = []
        self._file: TextIO | None = None

    def add(self, line: str) -> None:
        """Add a line, without its line end."""
        if self._file is None:
            self._lines.append(line)
            return
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:  # a full disk must not end the run because of its log
            failed, self._file = self._file, None
            print(f"⚠️  {failed.name} is incomplete: {error.strerror}", file=sys.__stderr__)

    def keep(self, warning: str) -> None:
        """Keep a warning for the report, as a line of WARNINGS beside the log."""
        self._warnings.append(" ".join(warning.split()))
        if self._file is not None:
            lines, self._warnings = self._warnings, []
            file = Path(self._file.name).with_name(WARNINGS)
            with suppress(OSError), file.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.writelines(f"{cut(line, LONGEST_LINE)}\n" for line in lines)

    def open(self, path: Path, append: bool = False) -> None:
        """Write the lines so far to a new file, or to the end of an old one, and all that follow; the warnings too."""
        lines, self._lines = self._lines, []
        self._file = path.open("a" if append else "w", encoding="utf-8", errors="backslashreplace")
        if append:
            self.add("")  # a killed process may have left half a line
        for line in lines:
            self.add(line)
        if self._warnings:
            self.keep(self._warnings.pop())

    def close(self) -> None:
        """End the file; later lines are kept for the next one."""
        if self._file is not None:
            self._file.close()
            self._file = None


def open_streams() -> None:
    """Open what a daemon has closed of stdin, stdout and stderr, to nowhere.

    Else the next file that is opened takes its number, and what a library prints is written into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(nowhere, True)  # also for processes that are started
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


class SteadyStream:
    """A stream that may become unusable, as for `| head`, a closed terminal or a full disk.

    A run of days continues, and only what it prints is lost.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        count = len(text)
        text = "\n".join(cut(line, LONGEST_LINE) for line in text.split("\n"))
        with self._without_reader():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:  # half a character, from a damaged file
                encoding = getattr(self._stream, "encoding", None) or "utf-8"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return count

    def flush(self) -> None:
        with self._without_reader():
            self._stream.flush()

    @contextmanager
    def _without_reader(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # what is still in buffers, and all that follows, goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and self._stream is sys.__stdout__:
                print(f"⚠️  the output is incomplete: {error.strerror}", file=sys.__stderr__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def steady_output() -> Iterator[None]:
    """What is printed inside goes to the terminal as before, and no error is raised if nobody reads it."""
    open_streams()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = steady = [SteadyStream(stream) for stream in streams]
    try:
        yield
    finally:
        for stream in steady:
            stream.flush()
        sys.stdout, sys.stderr = streams


class CopiedStream:
    """A stream whose finished lines are also added to a log, as a terminal would show them in the end."""

    def __init__(self, stream: TextIO, log: OutputLog) -> None:
        self._stream, self._log, self._pending = stream, log, ""

    def write(self, text: str) -> int:
        count = self._stream.write(text)
        *lines, rest = (self._pending + text).split("\n")
        for line in lines:
            self._log.add(cut(as_seen(line), LONGEST_LINE))
        self._pending = rest[max(rest.rfind("\r"), 0) :]  # what a bar has overwritten is gone
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def as_seen(line: str) -> str:
    """What a terminal shows of a line: no control codes, nothing that was overwritten.

    >>> as_seen("12% \\r100%\\r    \\r\\x1b[1mdone\\x1b[0m")
    'done'
    """
    return CONTROL_CODES.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip()


_log: OutputLog | None = None  # of the command that runs; None where a mode is called from Python


@contextmanager
def recorded_output() -> Iterator[None]:
    """Everything printed inside goes to the terminal as before, and to the log of the run that is then started."""
    global _log
    streams = sys.stdout, sys.stderr
    _log = log = OutputLog()
    sys.stdout, sys.stderr = (CopiedStream(stream, log) for stream in streams)
    try:
        yield
    except Exception:
        log.add(traceback.format_exc())  # printed by Python, after this
        raise
    finally:
        sys.stdout, sys.stderr = streams
        log.close()
        _log = None


def start_log(path: Path, append: bool = False) -> None:
    """Write all that this command prints to `path`, from its start or the end of the last log."""
    if _log is not None:
        _log.open(path, append)


def warn(text: str) -> None:
    """Print a warning, and keep it for the report of the run."""
    print(f"⚠️  {text}", flush=True)
    if _log is not None:
        _log.keep(text)


@contextmanager
def silent() -> Iterator[None]:
    """Suppress output, in train.log too: for a training that is a step of another one."""
    global _log
    log, _log = _log, None
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        _log = log


def end_log() -> None:
    """End the log of a run; later output belongs to the next one."""
    if _log is not None:
        _log.close()


def print_line(line: str) -> None:
    """A line of its own, above the bar where there is one."""
    tqdm.write(line)
    sys.stdout.flush()


class Progress:
    """One progress display; used as a context.

    >>> with Progress("Reading") as progress:
    ...     if progress.is_due():
    ...         progress.show(0.5, "loss 0.31")
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: tqdm | None = None
        self._interval = SECONDS_BETWEEN_LINES

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to show; on a terminal an empty bar at once."""
        if sys.stderr.isatty():
            self._interval = SECONDS_BETWEEN_DRAWS
            self._bar = tqdm(
                desc=self._label, total=1.0, bar_format=BAR_FORMAT, leave=False, dynamic_ncols=True, file=sys.stderr
            )
        self._shown = monotonic()

    def is_due(self) -> bool:
        """Whether it is time to show something new; cheap enough for every step."""
        return monotonic() - self._shown >= self._interval

    def show(self, share: float, detail: str, label: str | None = None) -> None:
        """`share` of the work that is done, from 0 to 1, and what is known besides."""
        self._shown = monotonic()
        label = label or self._label
        if self._bar is None:
            print(f"{label}: {share:.0%}, {detail}", flush=True)
            return
        self._bar.n = min(share, 1.0)
        self._bar.set_description_str(label, refresh=False)
        self._bar.set_postfix_str(detail, refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(75), duration(3661)
    ('1:15', '1:01:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
