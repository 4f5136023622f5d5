"""Run folders for the tests of reports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.report import write_report
from seqsetvae.system.files import read_json
from tests.command import real_reports
from tests.report.example import example_run


@pytest.fixture(scope="session")
def data_of_run(finished: tuple[Path, str]) -> Cohort:
    """The cohort of the finished run."""
    return open_cohort(read_json(finished[0] / "config.json")["cohort"]["path"])


@pytest.fixture(scope="session")
def reported(finished: tuple[Path, str], data_of_run: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with all files and its report; tests only read it."""
    folder = example_run(finished[0], data_of_run, tmp_path_factory.mktemp("reported") / "finetune-all files")
    with real_reports():
        write_report(folder)
    return folder


@pytest.fixture
def example(finished: tuple[Path, str], data_of_run: Cohort, tmp_path: Path) -> Path:
    """A run folder with all files, without its report, to be changed."""
    return example_run(finished[0], data_of_run, tmp_path / "finetune-example")


@pytest.fixture
def no_drawings() -> Iterator[None]:
    """Pictures are empty, for tests that read the text around them."""
    with real_reports(drawn=False):
        yield
