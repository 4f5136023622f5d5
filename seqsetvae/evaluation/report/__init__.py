"""Reports: report.html of one run, or of several side by side. One file that loads nothing over the network.

    from seqsetvae.evaluation.report import write_report
    write_report(Path("outputs/finetune-20260101-120000"))

Drawing needs the packages in PACKAGES, which a run does not; they are imported when a report is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from seqsetvae.errors import InputError

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
    """Write the report at the end of a run and print where it is, or why there is none.

    A run that has finished never fails because of its report.
    """
    try:
        print(f"Report: {write_report(run_folder)}", flush=True)
    except InputError as error:
        print(f"No report was written: {error}", flush=True)
    except Exception as error:  # `--mode report` shows the whole traceback
        print(f"No report was written: {type(error).__name__}: {error}", flush=True)


def require_packages() -> None:
    """Raises InputError naming the packages that are not installed."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise InputError(
            f"a report needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. Install "
            f"with: pip install {' '.join(missing)}"
        )
