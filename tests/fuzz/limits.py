"""Cases run in processes of their own, where a hang, a crash or too much memory is a result and not the end."""

import os
import pickle
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from seqsetvae.system.errors import InputError

SECONDS = 10  # of the processor, so that a busy machine changes nothing
MOST_SECONDS = 300  # by the clock: something waits for ever
BYTES = 2 * 2**30
DONE, REFUSED, FAILED = "done", "one clear error", "failed"


@dataclass(frozen=True)
class Outcome:
    """How a case ended: DONE, REFUSED with the message of an InputError, or FAILED with what happened instead."""

    kind: str
    text: str = ""


def outcomes(cases: Sequence[int], run: Callable[[int], object], together: int = 50) -> Iterator[tuple[int, Outcome]]:
    """(case, how it ended) for each; `run` returns, raises InputError, or raises something else, which is a fault.

    So many cases share a process, so that none is slow; after one that ends its process, the rest go on in another.
    """
    left = list(cases)
    while left:
        ended = list(_in_process(left[:together], run))
        yield from ended
        left = left[len(ended) :]


def _in_process(cases: Sequence[int], run: Callable[[int], object]) -> Iterator[tuple[int, Outcome]]:
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        _work(cases, run, writer)
    os.close(writer)
    count = 0
    with os.fdopen(reader, "rb") as stream:
        while True:
            try:
                outcome = pickle.load(stream)
            except EOFError:
                break
            yield cases[count], outcome
            count += 1
    status = os.waitpid(process, 0)[1]
    if count < len(cases):
        died = f"signal {status}" if status else "no outcome"
        hang = " (it took too long)" if status in (signal.SIGALRM, signal.SIGPROF) else ""
        yield cases[count], Outcome(FAILED, f"the process ended: {died}{hang}")


def _work(cases: Sequence[int], run: Callable[[int], object], writer: int) -> None:
    """Runs the cases and ends the process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - the process ends with it
    with os.fdopen(writer, "wb") as stream, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for case in cases:
            signal.alarm(MOST_SECONDS)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            outcome = _outcome(case, run)
            signal.setitimer(signal.ITIMER_PROF, 0)
            pickle.dump(outcome, stream)
            stream.flush()
    os._exit(0)


def _outcome(case: int, run: Callable[[int], object]) -> Outcome:
    try:
        run(case)
    except InputError as error:
        return Outcome(REFUSED, str(error))
    except BaseException:
        return Outcome(FAILED, traceback.format_exc())
    return Outcome(DONE)
