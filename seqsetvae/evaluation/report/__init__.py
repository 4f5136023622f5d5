"""Reports: report.html of one run, or of several side by side. One file that loads nothing over the network.

    from seqsetvae.evaluation.report import write_report
    write_report(Path("outputs/finetune-20260101-120000"))

Drawing needs the packages in PACKAGES, which a run does not; they are imported when a report is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from seqsetvae.errors import InputError
from seqsetvae.files import CannotWriteError, append_text

PACKAGES = {"jinja2": "jinja2", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}  # module: package


def write_report(run_folder: Path) -> Path:
    """Write report.html and figures/ into a run folder, from what the folder holds; returns the page.

    Raises:
        InputError: a package is missing, the folder is not that of a run, or one of its files is damaged.
    """
    require_packages()
    from seqsetvae.evaluation.report.page import write_run_page
    from seqsetvae.evaluation.report.read import read_run

    return write_run_page(read_run(run_folder))


def write_comparison(run_folders: Sequence[Path], output_root_dir: Path) -> Path:
    """Write a page that compares runs into a new folder of `output_root_dir`; returns the page.

    Raises:
        InputError: as `write_report` does.
    """
    require_packages()
    from seqsetvae.evaluation.report.comparison import write_comparison_page
    from seqsetvae.evaluation.report.read import read_run

    return write_comparison_page([read_run(folder) for folder in run_folders], output_root_dir)


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
