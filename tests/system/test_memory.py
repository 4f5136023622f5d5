"""Freed memory is kept for the next step, and the command asks for that."""

import subprocess
import sys
from pathlib import Path

import pytest

import train_optimized
from seqsetvae.system.resources import STATUS, keep_freed_memory, peak_mib, return_freed_memory
from tests.training.helpers import scripted_run

PAGES = 64 * 2**20 // 4096
FAULTS_OF_LATER_STEPS = f"""
import resource
import sys
import numpy as np
from seqsetvae.system.resources import keep_freed_memory, peak_mib
kept = sys.argv[1] == "keep" and keep_freed_memory()
def step():
    return [np.ones({PAGES} * 512) for _ in range(2)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[bool, int]:
    command = [sys.executable, "-c", FAULTS_OF_LATER_STEPS, how]
    root = Path(train_optimized.__file__).parent
    kept, count = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout.split()
    return kept == "True", int(count)


def test_a_step_finds_the_memory_of_the_one_before_it():
    kept, count = faults("keep")
    if not kept:
        pytest.skip("the C library here is not glibc")
    _, without = faults("leave")
    assert count < without / 10


GAPS = """
import numpy as np
from seqsetvae.system.resources import keep_freed_memory, return_freed_memory, status_mib
kept = keep_freed_memory()
arrays = [np.ones(2**17) for _ in range(200)]  # 1 MiB each
del arrays[:-1]  # below the last one, which lives
before = status_mib("RssAnon")
return_freed_memory()
print(kept, before - status_mib("RssAnon"))
"""


@pytest.mark.skipif(not STATUS.exists(), reason="a process's own memory is read from /proc")
def test_what_was_kept_is_returned_also_from_between_arrays_that_live():
    root = Path(train_optimized.__file__).parent
    said = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True, cwd=root).stdout
    kept, returned = said.split()
    if kept != "True":
        pytest.skip("the C library here is not glibc")
    assert 190 < float(returned) < 210


def test_freed_memory_is_returned_after_each_epoch(compiled, tmp_path, monkeypatch):
    called: list[str] = []
    monkeypatch.setattr("seqsetvae.training.stages.return_freed_memory", lambda: called.append("return"))
    scripted_run(compiled, tmp_path, [0.6, 0.7, 0.8], max_epochs=3, unfreeze_after=1)
    assert len(called) == 3


def test_the_command_keeps_freed_memory_before_any_mode_runs(monkeypatch):
    called: list[str] = []

    monkeypatch.setattr(train_optimized, "keep_freed_memory", lambda: called.append("keep"))
    monkeypatch.setattr("seqsetvae.runs.demo.run", lambda settings: called.append("run"))
    assert train_optimized.main(["--mode", "demo"]) == 0
    assert called == ["keep", "run"]


def test_elsewhere_it_says_that_nothing_was_done(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert (keep_freed_memory(), return_freed_memory()) == (False, False)


def test_the_peak_of_the_process_grows_with_what_it_holds():
    """Of a fresh process, because this one may have had more before."""
    code = "from seqsetvae.system.resources import peak_mib\n"
    code += "before = peak_mib(); x = bytes(200 * 2**20); x = bytearray(x); "
    code += "print(before, peak_mib())"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(train_optimized.__file__).parent, capture_output=True)
    before, after = map(float, done.stdout.split())
    assert 1 < before < 200
    assert 199 <= after - before < 500  # what an import freed is taken again first


def test_this_process_has_a_peak():
    assert peak_mib() > 1
