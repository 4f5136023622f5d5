"""Reads a checkpoint file, .ckpt or .safetensors: nothing in it is executed, and a damaged file is refused.

A .safetensors file has the weights, and what else a checkpoint records as JSON in its header. The format cannot hold
code, and opens quickly. It has no checksums, so the header has one of all weights. Long texts (boosted trees) are kept
as bytes beside the weights, because a header is limited in size.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqsetvae.system.errors import InputError, named
from seqsetvae.system.files import require_no_pipe

SUFFIX = ".safetensors"
CONTENT, CHECKSUM = "seqsetvae_checkpoint", "weights_sha256"  # keys of the header's metadata
TEXTS = "texts of "  # + name of the hyper-parameter: a list of texts, as bytes that stand beside the weights
TENSOR = "tensor of "  # + name of a table of the content, /, name in it: a tensor that stands beside the weights
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
COUNTERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)  # buffers of some modules


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


def write_safetensors(
    file: Path, weights: Mapping[str, torch.Tensor], content: Mapping[str, Any], texts: Mapping[str, list[str]]
) -> None:
    """Write a checkpoint.

    Args:
        file: where to.
        weights: by the names that they have in the checkpoint.
        content: what else it records, of plain values, and of tables of plain values and tensors.
        texts: lists of long texts among its hyper_parameters.

    Raises:
        InputError: safetensors is not installed.
    """
    library = _library()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    for name, of_name in texts.items():
        for number, text in enumerate(of_name):
            tensors[f"{TEXTS}{name} {number}"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    plain: dict[str, Any] = {}
    for table, values in content.items():
        items = values.items() if isinstance(values, Mapping) else ()
        apart = {name: item for name, item in items if isinstance(item, torch.Tensor)}
        tensors |= {f"{TENSOR}{table}/{name}": item.contiguous() for name, item in apart.items()}
        plain[table] = {**values, **dict.fromkeys(apart)} if apart else values
    metadata = {"format": "pt", CONTENT: json.dumps(plain), CHECKSUM: _checksum(tensors)}
    file.write_bytes(library.torch.save(tensors, metadata))  # save_file gives rights to the owner alone


def read_safetensors(file: Path) -> dict[str, Any]:
    """The content of a file as torch.load gives that of a checkpoint. A file of other origin has its weights alone.

    Raises:
        InputError: safetensors is not installed, or the file is damaged or something else.
    """
    library = _library()
    try:
        with library.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        content = json.loads(metadata.get(CONTENT, "{}"))
        if not isinstance(content, dict):
            raise TypeError(f"{CONTENT} is a {type(content).__name__}")
        if any(name.startswith(TEXTS) for name in tensors):
            content = content | {"hyper_parameters": content["hyper_parameters"] | _texts(tensors)}
        for key in [key for key in tensors if key.startswith(TENSOR)]:
            table, name = key.removeprefix(TENSOR).split("/")
            content[table] = content[table] | {name: tensors[key]}
    except Exception as error:  # of any kind: what the library raises for damaged files is not documented
        raise InputError(
            f"{file}: not a safetensors file, or damaged ({type(error).__name__}: {error}). Copy it again from where "
            "it was made."
        ) from error
    if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(tensors):
        raise InputError(
            f"{file}: the checksum of its weights does not match. The file is damaged, or its download is incomplete: "
            "copy it again from where it was made."
        )
    state = {name: value for name, value in tensors.items() if not name.startswith((TEXTS, TENSOR))}
    return {**content, "state_dict": state}


def _texts(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """The lists of long texts, by name. Raises an error of some kind where they are damaged."""
    by_name: dict[str, list[str]] = {}
    names = [name for name in tensors if name.startswith(TEXTS)]
    for name in sorted(names, key=lambda name: int(name.rpartition(" ")[2])):
        texts = by_name.setdefault(name.removeprefix(TEXTS).rpartition(" ")[0], [])
        texts.append(tensors[name].numpy().tobytes().decode())
    return by_name


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and bytes of all tensors, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _library() -> Any:
    """The package. Raises InputError where it is not installed."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise InputError(
            "safetensors is not installed; --mode export and .safetensors checkpoints need it: pip install safetensors"
        ) from error
    return safetensors


def check_kinds(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raises InputError naming the first tensor that is no plain array of numbers, all of them in the file."""
    for name, value in weights.items():
        problem = _problem(value)
        if problem:
            raise InputError(
                f"{path}: the weight {name} {problem}. Re-save the state_dict with plain tensors in 16, 32 or 64 bits."
            )


def _problem(value: torch.Tensor) -> str | None:
    if value.is_meta or value.layout != torch.strided or value.is_quantized or value.is_nested:
        kind = "meta" if value.is_meta else "nested" if value.is_nested else "sparse or quantized"
        return f"is a {kind} tensor"
    if value.dtype not in TYPES + COUNTERS:
        return f"has the type {value.dtype}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"has the shape {tuple(value.shape)}, and the file holds fewer numbers"
    return None


def check_finite(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raises InputError naming the weights that are not finite."""
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{path}: NaN or infinite values in {len(broken)} weights: {named(broken)}. Use a checkpoint from "
            "before the training diverged."
        )


def check_types(weights: Mapping[str, object], wanted: Mapping[str, torch.Tensor], path: Path) -> None:
    """Compare weights of a file with those of the model: torch would silently round or fill up whole numbers.

    Raises:
        InputError: it names those that are whole numbers where the model has fractions, or the reverse.
    """
    pairs = {name: (value, weights.get(name)) for name, value in wanted.items()}
    wrong = [
        f"{name} ({str(theirs.dtype).removeprefix('torch.')} instead of {str(ours.dtype).removeprefix('torch.')})"
        for name, (ours, theirs) in pairs.items()
        if isinstance(theirs, torch.Tensor) and theirs.is_floating_point() != ours.is_floating_point()
    ]
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} weights have another kind of numbers than the model: {named(wrong)}. What "
            "was rounded is lost: use another copy of the file."
        )
