"""Reads the file of a checkpoint: nothing in it is executed, and nothing that is damaged or a trap gets further."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqsetvae.errors import InputError
from seqsetvae.files import require_no_pipe
from seqsetvae.safetensors_file import SUFFIX, read_safetensors


def _numpy_globals() -> list[Any]:
    """Harmless numpy classes that hyper-parameters of old files hold; old numpy wrote them under another path."""
    core = np._core.multiarray  # type: ignore[attr-defined]
    functions = [core.scalar, core._reconstruct]
    old = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]
    return [np.ndarray, np.dtype, *(type(np.dtype(name)) for name in ("f8", "f4", "i8", "i4", "?")), *functions, *old]


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, its checksums compared first; nothing in it is executed (weights_only).

    Raises:
        InputError: not a checkpoint, damaged, or it holds objects other than tensors and plain values.
    """
    require_no_pipe(path)
    if path.suffix == SUFFIX:
        return read_safetensors(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
        # One end may be damaged: torch looks for a zip container at its start, zipfile at its end. Files from before
        # torch 1.6 are bare pickles, which have no checksums.
        is_zip = start == b"PK\x03\x04" or zipfile.is_zipfile(path)
        if is_zip:
            _check_records(path)
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        unsafe = _unsafe(path)
        if not unsafe and not is_zip and start[:1] != pickle.PROTO:
            raise InputError(
                f"{path}: not a checkpoint that torch can read; a text file, a git-lfs pointer or a broken download?"
            ) from error
        raise InputError(
            f"{path}: refused, since it holds more than tensors and plain values{unsafe}. Re-save its state_dict "
            "alone, with torch.save, where the file was made."
        ) from error
    except Exception as error:  # of any kind: torch does not check what a damaged pickle makes it do
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path}: not a checkpoint that torch can read ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; a checkpoint is a dict of weights")
    return content


def _check_records(path: Path) -> None:
    """Compare the CRC-32 of every record of a zip container, which torch.load does not do.

    Raises:
        InputError: a record is not as it was written, or the container cannot be read.
    """
    advice = "The file is damaged, or its download is incomplete: copy it again from where it was made."
    try:
        with zipfile.ZipFile(path) as archive:
            _require_plain_records(archive, path)
            has_checksums = any(record.CRC for record in archive.infolist())  # torch can be told to save without
            damaged = archive.testzip() if has_checksums else None
    except InputError:
        raise
    except Exception as error:  # of any kind: zipfile takes the numbers in a damaged header as they are
        raise InputError(
            f"{path}: not a checkpoint that torch can read (its zip container is broken: {error}). {advice}"
        ) from error
    if damaged is not None:
        raise InputError(f"{path}: the checksum of its record {damaged} does not match. {advice}")


def _require_plain_records(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises InputError if unpacking takes more bytes than the file has: torch writes records as they are."""
    records = archive.infolist()
    packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    total = sum(record.file_size for record in records)
    if packed or total > path.stat().st_size:
        what = f"its record {packed[0]} is compressed" if packed else f"its records have {total:,} bytes in all"
        raise InputError(
            f"{path}: refused, since {what}, which torch.save never does: it might fill the memory. Unpack and re-save "
            "it with torch.save if you trust it."
        )


def _unsafe(path: Path) -> str:
    try:
        return f" ({', '.join(torch.serialization.get_unsafe_globals_in_checkpoint(path))})"
    except Exception:  # only a hint in an error message that is raised anyway
        return ""
