"""The calibration of a checkpoint, fitted on the validation split by its task, as a file.

It is calibration.json in the run folder, with the checksum of the checkpoint that it belongs to: it means nothing for
the outputs of another one. Beside it is a file for each calibration that was fitted anew, under its name.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256, new_file
from seqsetvae.system.schema import fault_of
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import BINARY, Calibration, Recalibrated

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
    """Write calibration.json for a checkpoint, or the file of a name; returns its content.

    Raises:
        CannotWriteError: the file cannot be written.
        AlreadyThereError: there is one of this name.
    """
    text, recalibrated = calibration_text(calibration, checkpoint), calibration.recalibrated
    file = calibration_file(checkpoint, None if recalibrated is None else recalibrated.name)
    with new_file(file, replace=recalibrated is None) as stream:
        stream.write(text.encode())
    return dict(json.loads(text))


def calibration_text(calibration: Calibration, checkpoint: Path) -> str:
    """What the file of a calibration holds."""
    content = {"checkpoint": checkpoint.name, **calibration.about(), **asdict(calibration)}
    content["threshold"] = calibration.threshold
    if calibration.recalibrated is None:
        del content["recalibrated"]
    return f"{json.dumps(content, indent=2)}\n"


def fit_calibration(checkpoint: Path, validation: Predictions) -> Calibration:
    """The calibration of a checkpoint from its validation predictions; nothing is written."""
    labelled, task = validation.labelled(), TASKS[validation.spec.task]
    fitted = task.fit_calibration(labelled.output, labelled.target)
    of = {"checkpoint_sha256": file_sha256(checkpoint), "split": validation.split, "stays": len(labelled)}
    return task.Calibration(**of, **fitted)


def calibration_file(checkpoint: Path, name: str | None = None) -> Path:
    """Where the calibration of a checkpoint, or that of a name, is: in its run folder, or beside it without one."""
    folder = checkpoint.resolve().parent
    file = (folder.parent if folder.name == "checkpoints" else folder) / CALIBRATION
    return file if name is None else file.with_stem(f"{file.stem}_{name}")


def calibration_names(checkpoint: Path) -> list[str]:
    """The names under which calibrations were saved beside that of a checkpoint."""
    of_any = calibration_file(checkpoint, "*")
    return sorted(file.stem.removeprefix(of_any.stem[:-1]) for file in of_any.parent.glob(of_any.name))


def read_calibration(checkpoint: Path, task: str = BINARY, name: str | None = None) -> tuple[Calibration | None, str]:
    """(the calibration of a checkpoint, or None; one line that says what was found).

    With a `name` it is the one that was saved under it, which has to be there.

    Raises:
        InputError: the file is damaged, or there is none of this name for this checkpoint.
    """
    if TASKS[task].Calibration is None:
        _refuse(name, f"predictions of --task {task} are not calibrated")
        return None, f"Predictions of --task {task} are not calibrated"
    file = calibration_file(checkpoint, name)
    if not file.is_file():
        there = ", ".join(calibration_names(checkpoint)) or "none; evaluate --external DIR --save_calibration saves one"
        _refuse(name, f"names beside {checkpoint}: {there}")
        return None, f"No calibration: there is no {file}"
    calibration = _read(file, TASKS[task].Calibration)
    if calibration.checkpoint_sha256 != file_sha256(checkpoint):
        _refuse(name, f"{file} belongs to another checkpoint than {checkpoint.name}")
        return None, f"No calibration: {file} belongs to another checkpoint than {checkpoint.name}"
    return calibration, str(calibration)


def _refuse(name: str | None, reason: str) -> None:
    """Raises InputError if a calibration was asked for by a name."""
    if name is not None:
        raise InputError(f"calibration: received {name!r}; {reason}. Leave out --calibration for that of the training.")


def _read(file: Path, kind: type[Calibration]) -> Calibration:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if fault := fault_of(content, kind):
            raise ValueError(fault)
        plain: dict[str, Any] = {each.name: content.get(each.name) for each in fields(kind)}
        if plain["recalibrated"] is not None:
            plain["recalibrated"] = Recalibrated(**plain["recalibrated"])
        plain |= {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
        calibration = kind(**plain)
        calibration.require_agreement(content.get("threshold", calibration.threshold))
        return calibration
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{file}: damaged ({type(error).__name__}: {error}). Delete it; --mode evaluate then fits it again"
            f"{'.' if file.name == CALIBRATION else ', with --external and --save_calibration.'}"
        ) from None
