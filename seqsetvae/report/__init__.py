"""Reports: report.html of one run, or of several side by side. One file that loads nothing over the network.

    from seqsetvae.report import write_report
    write_report(Path("outputs/finetune-20260101-120000"))

Drawing needs the packages in PACKAGES, which a run does not; they are imported when a report is written.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from seqsetvae.system.errors import InputError
from seqsetvae.system.files import AlreadyThereError, CannotWriteError, append_text, new_folder

PACKAGES = {"jinja2": "jinja2", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}  # module: package


def write_report(run_folder: Path) -> Path:
    """Write report.html and figures/ into a run folder, from what the folder holds; returns the page.

    Raises:
        InputError: a package is missing, the folder is not that of a run, or one of its files is damaged.
    """
    require_packages()
    from seqsetvae.report.page import write_page
    from seqsetvae.report.run_files import read_run

    return write_page([read_run(run_folder)], run_folder)


def write_comparison(run_folders: Sequence[Path], output_root_dir: Path) -> Path:
    """Write the page of several runs into a new folder comparison-<date>-<time> of `output_root_dir`; returns the page.

    Raises:
        InputError: as `write_report` does, or a run is named twice.
    """
    require_packages()
    from seqsetvae.report.page import write_page
    from seqsetvae.report.run_files import read_run

    runs, stamp = [read_run(folder) for folder in run_folders], time.strftime("%Y%m%d-%H%M%S")
    for attempt in itertools.count(1):
        folder = output_root_dir / (f"comparison-{stamp}" + (f"-{attempt}" if attempt > 1 else ""))
        with contextlib.suppress(AlreadyThereError), new_folder(folder) as partial:
            return folder / write_page(runs, partial).name
    raise AssertionError("some number is free")


def report_finished_run(run_folder: Path) -> None:
    """Write the report at the end of a run, and say where it is, or why there is none, there and in train.log.

    A run that has finished never fails because of its report.
    """
    try:
        line = f"Report: {write_report(run_folder)}"
    except InputError as error:
        line = f"No report was written: {error}"
    except Exception as error:  # `--mode report` shows the whole traceback
        line = f"No report was written: {type(error).__name__}: {error}"
    print(line, flush=True)
    log = run_folder / "train.log"  # closed by now
    if log.is_file():
        with contextlib.suppress(CannotWriteError):  # a full disk has just been said
            append_text(log, f"{line}\n")


def require_packages() -> None:
    """Raises InputError naming the packages that are not installed."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise InputError(
            f"a report needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. Install "
            f"with: pip install {' '.join(missing)}"
        )
