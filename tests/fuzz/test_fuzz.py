"""Mutated real files end in success or in one InputError, within seconds and 2 GB, and leave nothing half-written.

`pytest -m slow tests/fuzz` runs 10,000 cases, the ordinary tests 300. Each case has a seed of its own, which names it.
"""

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.given import Files, make_files
from tests.fuzz.limits import DONE, FAILED, REFUSED, Outcome, outcomes
from tests.fuzz.targets import TARGETS

NEEDS = {"safetensors": "safetensors", "trees": "lightgbm", "report": "jinja2"}  # packages that are extras
IN_MEMORY = Path("/dev/shm")  # where syncing each of thousands of files takes no time


@pytest.fixture(scope="module")
def files(finished: tuple[Path, str], pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("fuzz"), pretrained, finished[0])


def run_cases(name: str, first: int, count: int, files: Files) -> list[tuple[int, Outcome]]:
    """The outcomes of `count` cases of a target."""
    target, _ = TARGETS[name]

    def run(case: int) -> None:
        folder = Path(tempfile.mkdtemp(prefix="fuzz", dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
        try:
            target(files, random.Random(case), folder)
        finally:
            shutil.rmtree(folder)

    return list(outcomes(range(first, first + count), run))


def _require_no_failures(name: str, first: int, count: int, files: Files) -> None:
    pytest.importorskip(NEEDS.get(name, "numpy"))
    ended = run_cases(name, first, count, files)
    counts = Counter(outcome.kind for _, outcome in ended)
    print(f"{name}: {dict(counts)}")
    failed = [f"case {case}: {outcome.text}" for case, outcome in ended if outcome.kind == FAILED]
    assert not failed, f"{len(failed)} of {count} cases of {name} failed, the first:\n" + "\n".join(failed[:3])
    assert sum(counts.values()) == count
    if count < 20:
        return
    assert counts[DONE] > 0, "a target that refuses every file tests nothing"
    assert counts[REFUSED] > 0, "a target whose files are never damaged tests nothing"


@pytest.mark.parametrize("name", TARGETS)
def test_three_hundred_mutated_files_end_well(name, files):
    _require_no_failures(name, 0, 3 * TARGETS[name][1], files)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_ten_thousand_mutated_files_end_well(name, files):
    _require_no_failures(name, 1000, 100 * TARGETS[name][1], files)
