"""Fixtures for all rooms. Expensive ones live for the whole session; nothing in here needs ../shared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: tests run side by side, and more threads than cores crawl

import pytest
import torch

from seqsetvae.cohort import Cohort
from seqsetvae.cohort.sources.synthetic import write_synthetic
from tests.command import finetune, placeholder_reports, real_reports, run_of
from tests.tiny import SHARED, SIZES, compile_with_side_files, tiny_backbone, write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _placeholder_reports() -> Iterator[None]:
    """Only tests of reports draw one (`real_reports`)."""
    with placeholder_reports():
        yield


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


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test starts from the same seed, alone or in company."""
    torch.manual_seed(0)
