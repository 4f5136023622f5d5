"""Fixtures for all rooms. Expensive ones live for the whole session; nothing in here needs ../shared."""

import gc
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: tests run side by side, and more threads than cores crawl

import pytest
import torch

from seqsetvae.cohort import Cohort
from seqsetvae.cohort.sources.synthetic import write_synthetic
from tests.command import finetune, placeholder_reports, real_reports, run_of
from tests.tiny import SHARED, SIZES, compile_with_side_files, tiny_backbone, write_checkpoint


def pytest_configure() -> None:
    """Temporary files are in memory where there is enough of it."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


@cache
def _has_module_fixtures(file: str) -> bool:
    return 'scope="module"' in Path(file).read_text(encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file with fixtures of its own run in one process, one after the other: each is made once."""
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = lambda nodeid: file if _has_module_fixtures(file := nodeid.split("::")[0]) else nodeid
    return scheduler


@pytest.fixture(scope="session", autouse=True)
def _placeholder_reports() -> Iterator[None]:
    """Only tests of reports draw one (`real_reports`)."""
    with placeholder_reports():
        yield


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_no_garbage() -> None:
    """A search for garbage, which commands make after each training, takes a second with all imported modules in it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def golden() -> Path:
    """../shared/golden."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no golden numbers: {SHARED / 'golden'} does not exist (SEQSETVAE_SHARED names another place)")
    return SHARED / "golden"


@pytest.fixture(scope="session")
def old_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic cohort as the old scripts have it: patient_ehr of 60 + 20 + 20 stays and side files."""
    out = tmp_path_factory.mktemp("data") / "old layout"
    return write_synthetic(out, n_stays=100, seed=3, embedding_width=SIZES.input_dim)


@pytest.fixture(scope="session")
def compiled(old_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """The same stays, compiled, with the side files."""
    return compile_with_side_files(old_layout, tmp_path_factory.mktemp("compiled") / "cohort")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny backbone in the pretrained layout."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "pretrain.ckpt", tiny_backbone())


@pytest.fixture(scope="session")
def finished(pretrained: Path, old_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(run folder, what was printed) of a run on the old layout, in a folder with a space and an umlaut."""
    root = tmp_path_factory.mktemp("runs") / "Läufe und mehr"
    with real_reports():
        status, said, errors = finetune(pretrained, old_layout, root)
    assert status == 0, errors
    return run_of(root), said


@pytest.fixture
def run(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the finished run, which a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test starts from the same seed, alone or in company."""
    torch.manual_seed(0)
