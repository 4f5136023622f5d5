"""The folder of one run: settings, checkpoints, metrics, summary, and the state of the run, in one object.

There is one way to write it, this one.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from seqsetvae.system.errors import InputError
from seqsetvae.system.files import cannot_write, read_json, remove_leftovers, write_text
from seqsetvae.system.processes import this_process
from seqsetvae.system.schema import fault_of
from seqsetvae.training.feature_pass import FeaturePass
from seqsetvae.training.schedule import Watched

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHECKPOINTS = "checkpoints"
CONFIG, SUMMARY, LOCK = "config.json", "summary.json", ".running"
WINDOW, NOT_USED = "window", "variables_not_used"  # keys of config.json
EXPORTED = "model.safetensors"  # in a folder that --mode export wrote


class RunFolder:
    """Paths of a run, and atomic writes into it.

    <root>/<mode>-<date>-<time>/
        config.json               every setting as resolved, what was loaded, which data
        checkpoints/best.ckpt     highest val_auc over both stages
        checkpoints/last.ckpt     the newest state, from which --resume continues
        checkpoints/previous.ckpt the one before, until the run is finished
        calibration.json          calibrated probabilities and decision threshold of best.ckpt
        metrics.csv               one row per validation
        run_state.json            the state of the run after the newest validation
        tensorboard/              the same as curves
        summary.json, summary.txt the results
        train.log                 everything that was printed
        warnings.txt              the warnings among it, if there are any
        report.html, figures/     of fine-tuning, where the packages for reports are installed
        .running                  until all of this is written
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self._lock: BinaryIO | None = None
        self._found_lock = False
        self.writes = this_process().is_first  # of several processes one writes

    @classmethod
    def create(cls, root: Path, mode: str) -> RunFolder:
        """A new folder named by mode and time; an existing one is never written into.

        Temporary files that killed runs left in their folders below `root` are removed.

        Raises:
            InputError: it cannot be made.
        """
        try:
            root.mkdir(parents=True, exist_ok=True)
            for checkpoints in root.glob(f"*/{CHECKPOINTS}"):
                remove_leftovers(checkpoints)
                remove_leftovers(checkpoints.parent)
            return cls._new(root, mode)
        except OSError as error:
            raise InputError(f"{cannot_write(root, error)} Pass another --output_root_dir.") from error

    @classmethod
    def _new(cls, root: Path, mode: str) -> RunFolder:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for attempt in range(1000):
            path = root / (f"{mode}-{stamp}" + (f"-{attempt + 1}" if attempt else ""))
            try:
                path.mkdir()
            except FileExistsError:
                continue
            (path / CHECKPOINTS).mkdir()
            return cls(path)
        raise InputError(f"{root}: already contains 1,000 runs of {stamp}; pass another --output_root_dir")

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        return self.checkpoints / "previous.ckpt"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    def lock(self) -> None:
        """Keep other processes from writing to this run until `unlock`, or until this process ends.

        Raises:
            InputError: another process writes to it.
        """
        if not self.writes:
            return
        self._found_lock = (self.path / LOCK).exists()
        self._lock = _lock(self.path / LOCK)
        if self._lock is None:
            raise InputError(f"{self.path}: another process writes to this run. Wait for it, or end it first.")

    def unlock(self, *, as_found: bool = False) -> None:
        """Mark the run as finished; with `as_found` restore what it was before `lock`: finished or not."""
        if self._lock is not None:
            self._lock.close()
            if not (as_found and self._found_lock):
                (self.path / LOCK).unlink(missing_ok=True)
            self._lock = None

    @property
    def is_finished(self) -> bool:
        """Whether the run has written all final files: a process that was killed before leaves its lock."""
        return (self.path / SUMMARY).is_file() and not (self.path / LOCK).exists()

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Write a file atomically; a full disk leaves the older one. Raises CannotWriteError."""
        if self.writes:
            write_text(self.path / name, content)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of the run. Raises InputError where the file cannot be read or holds something else."""
        return read_json(self.path / name)


def _lock(file: Path) -> BinaryIO | None:
    """A handle on `file`, made if it is missing, that no other process gets until it is closed or this process ends.

    None: another process has it. Unlike flock, this is not inherited by worker processes, which live a few seconds
    longer than a killed process.

    Raises:
        CannotWriteError: the file cannot be made.
    """
    try:
        handle = file.open("ab")
    except OSError as error:
        raise cannot_write(file, error) from None
    if fcntl is not None:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                handle.close()
                return None
    return handle


def find_checkpoint(path: Path) -> tuple[Path, RunFolder | None]:
    """The checkpoint file of a path, and its run folder if there is one: of a run folder, its best.ckpt.

    Raises:
        InputError: a folder with neither checkpoints/best.ckpt nor an exported model.
    """
    if (path / EXPORTED).is_file():
        return path / EXPORTED, None
    if path.is_dir():
        run = RunFolder(path)
        if not run.best.is_file():
            raise InputError(
                f"{path}: the folder contains no {CHECKPOINTS}/best.ckpt; pass a run folder or a .ckpt file"
            )
        checkpoint = run.best
    else:
        checkpoint, run = path, RunFolder(path.resolve().parent.parent)
    return checkpoint, run if (run.path / CONFIG).is_file() else None


# ------------------------------------------------------------------ the state of a run


RUN_STATE = "run_state.json"


@dataclass(frozen=True)
class Row:
    """One validation. Times are of the training epoch before it."""

    stage: int
    epoch: int  # counted over both stages, from 1
    step: int  # optimizer steps so far, over both stages
    metrics: dict[str, float]  # train_loss, val_loss, ... in the order in which they are printed
    rates: dict[str, float]  # lr_<part>: learning rate of each part, 0 while frozen
    stays_per_second: float  # training, validation apart
    waiting: float | None  # share of the training time spent waiting for the next batch; None: cached features
    seconds: float  # training epoch

    def as_flat(self) -> dict[str, float | None]:
        """One column per number."""
        columns = asdict(self)
        return {
            **{name: columns[name] for name in ("stage", "epoch", "step")},
            **self.metrics,
            **self.rates,
            **{name: columns[name] for name in ("stays_per_second", "waiting", "seconds")},
        }


def best_row(rows: Sequence[Row], watched: Watched) -> Row:
    """The row of best.ckpt: the first of the best, or the last where nothing is selected."""
    if watched.keep_last:
        return rows[-1]
    better = max if watched.mode == "max" else min
    return better(rows, key=lambda row: row.metrics[watched.metric])


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run so far, over all its stages; every change makes a new one (`dataclasses.replace`)."""

    stage: int = 0  # the stage that runs or ran last; 0: none has begun
    rows: tuple[Row, ...] = ()
    trained: dict[int, dict[str, int]] = field(default_factory=dict)  # values that train, by stage and part
    passes: tuple[FeaturePass, ...] = ()  # of a frozen backbone over the data
    gpu_busy: tuple[int, ...] = ()  # samples in percent
    best_score: float | None = None  # the watched metric of best.ckpt
    best_path: str | None = None  # of best.ckpt, relative to the run folder
    seconds: float = 0.0  # that the processes before this one trained

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return self.rows[-1].epoch if self.rows else 0

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return self.rows[-1].step if self.rows else 0

    def before(self, stage: int) -> RunState:
        """The run before this stage; only its rows differ."""
        return replace(self, rows=tuple(row for row in self.rows if row.stage < stage))

    def as_plain(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {"epochs": self.epochs, "steps": self.steps, **asdict(self)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> RunState:
        """What `as_plain` returned, also after it was written as JSON and read back.

        Raises:
            TypeError, KeyError, ValueError: it was something else.
        """
        if fault := fault_of(plain, cls):
            raise ValueError(fault)
        values = {name: value for name, value in plain.items() if name not in ("epochs", "steps")}
        state = cls(
            **values
            | {
                "rows": tuple(Row(**row) for row in values["rows"]),
                "trained": {int(stage): parts for stage, parts in values["trained"].items()},
                "passes": tuple(FeaturePass(**fields_of_pass) for fields_of_pass in values["passes"]),
                "gpu_busy": tuple(values["gpu_busy"]),
            }
        )
        if [row.epoch for row in state.rows] != list(range(1, len(state.rows) + 1)) or state.stage not in (0, 1, 2):
            raise ValueError("its rows are not those of all epochs")
        if any(row.stage not in (1, 2) or row.stage > state.stage for row in state.rows):
            raise ValueError("its rows are of stages that have not begun")
        return state
