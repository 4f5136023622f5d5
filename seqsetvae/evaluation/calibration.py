"""The calibration of a checkpoint, fitted on the validation split by its task, as a file.

It is calibration.json in the run folder, with the checksum of the checkpoint that it belongs to: it means nothing for
the outputs of another one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256, write_text
from seqsetvae.system.schema import fault_of
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import BINARY, Calibration

if TYPE_CHECKING:  # it imports torch, and results are read without it
    from seqsetvae.evaluation.predictions import Predictions

CALIBRATION = "calibration.json"


def calibrate(checkpoint: Path, validation: Predictions) -> Calibration:
    """Fit the calibration of a checkpoint on its validation predictions, and write it to its run folder.

    Raises:
        CannotWriteError: the file cannot be written.
    """
    calibration = fit_calibration(checkpoint, validation)
    write_calibration(calibration, checkpoint)
    return calibration


def write_calibration(calibration: Calibration, checkpoint: Path) -> dict[str, Any]:
    """Write calibration.json for a checkpoint; returns its content. Raises CannotWriteError."""
    content = {"checkpoint": checkpoint.name, **calibration.ABOUT, **asdict(calibration)}
    content["threshold"] = calibration.threshold
    write_text(calibration_file(checkpoint), json.dumps(content, indent=2) + "\n")
    return content


def fit_calibration(checkpoint: Path, validation: Predictions) -> Calibration:
    """The calibration of a checkpoint from its validation predictions; nothing is written."""
    labelled, task = validation.labelled(), TASKS[validation.spec.task]
    fitted = task.fit_calibration(labelled.output, labelled.target)
    of = {"checkpoint_sha256": file_sha256(checkpoint), "split": validation.split, "stays": len(labelled)}
    return task.Calibration(**of, **fitted)


def calibration_file(checkpoint: Path) -> Path:
    """Where the calibration of a checkpoint is: in its run folder, or beside a checkpoint without one."""
    folder = checkpoint.resolve().parent
    return (folder.parent if folder.name == "checkpoints" else folder) / CALIBRATION


def read_calibration(checkpoint: Path, task: str = BINARY) -> tuple[Calibration | None, str]:
    """(the calibration of a checkpoint, or None; one line that says what was found).

    Raises:
        InputError: the file is damaged.
    """
    if TASKS[task].Calibration is None:
        return None, f"Predictions of --task {task} are not calibrated"
    file = calibration_file(checkpoint)
    if not file.is_file():
        return None, f"No calibration: there is no {file}"
    calibration = _read(file, TASKS[task].Calibration)
    if calibration.checkpoint_sha256 != file_sha256(checkpoint):
        return None, f"No calibration: {file} belongs to another checkpoint than {checkpoint.name}"
    return calibration, str(calibration)


def _read(file: Path, kind: type[Calibration]) -> Calibration:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if fault := fault_of(content, kind):
            raise ValueError(fault)
        plain: dict[str, Any] = {each.name: content[each.name] for each in fields(kind)}
        plain |= {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
        found = kind(**plain)
        found.require_agreement(content.get("threshold", found.threshold))
        return found
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{file}: damaged ({type(error).__name__}: {error}). Delete it; --mode evaluate then fits it again."
        ) from None
