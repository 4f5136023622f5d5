"""Ignores what other programs leave in the environment, which libraries would follow.

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from seqsetvae.system.errors import InputError

PROGRAMS = {"train_optimized.py": "seqsetvae", "data.py": "seqsetvae-data"}  # a script, and its installed command
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # Lightning reads the first when it is imported


def program(script: str) -> str:
    """How a script of this project was started, for help and for commands that a user can copy."""
    installed = PROGRAMS[script]
    return installed if Path(sys.argv[0]).stem == installed else f"python {script}"


def usable_matplotlib() -> None:
    """Import matplotlib without the settings of its user, if they keep it from being imported; libraries import it.

    A notebook names its own backend in MPLBACKEND, also for the commands that it starts, where it may not be installed.
    """
    if "matplotlib" in sys.modules or not _has_settings_of_matplotlib():
        return
    with contextlib.suppress(ImportError):  # it is not installed
        try:
            import matplotlib
        except ImportError:
            raise
        except Exception:  # of whatever kind: its checks of the backend, an encoding, a folder
            os.environ.pop("MPLBACKEND", None)
            os.environ["MATPLOTLIBRC"] = os.devnull  # comes before the file in the user's home
            for name in [name for name in sys.modules if name.startswith("matplotlib.")]:  # imported before it failed
                del sys.modules[name]
            with contextlib.chdir(Path(__file__).parent):  # where there is no matplotlibrc
                import matplotlib  # noqa: F401


def _has_settings_of_matplotlib() -> bool:
    """Whether its user has any; importing it costs time, which most commands do not need."""
    homes = [os.environ.get(name) for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME")]
    files = [Path(home, inner, "matplotlibrc") for home in homes if home for inner in ("", "matplotlib")]
    home = os.path.expanduser("~")  # noqa: PTH111, Path raises an error where there is no home
    files += [Path(home, inner, "matplotlibrc") for inner in (".config/matplotlib", ".matplotlib")]
    is_named = any(name in os.environ for name in ("MPLBACKEND", "MATPLOTLIBRC"))
    return is_named or any(os.path.lexists(file) for file in [Path("matplotlibrc"), *files])


def require_usable() -> None:
    """Remove what would silently change a run.

    Raises:
        InputError: there is no folder for temporary files, which libraries need.
    """
    for name in RANKS:
        if name in os.environ and not os.environ[name].isdecimal():
            del os.environ[name]
    for name in [name for name in os.environ if name.startswith("PL_TRAINER_")]:  # arguments of Lightning's Trainer
        del os.environ[name]
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise InputError(
            f"{error.strerror}. Set TMPDIR to a folder that you may write to; libraries need one."
        ) from None
