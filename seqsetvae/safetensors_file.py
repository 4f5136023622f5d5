"""Checkpoints as .safetensors files: weights, and what else a checkpoint records as JSON in the header of the file.

The format cannot hold code, so it is safe to open, and it opens quickly. It has no checksums, so the header has one of
all weights. Long texts (boosted trees) are kept as bytes beside the weights, because a header is limited in size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from seqsetvae.errors import InputError

SUFFIX = ".safetensors"
CONTENT, CHECKSUM = "seqsetvae_checkpoint", "weights_sha256"  # keys of the header's metadata
TEXTS = "texts of "  # + name of the hyper-parameter: a list of texts, as bytes that stand beside the weights
TENSOR = "tensor of "  # + name of a table of the content, /, name in it: a tensor that stands beside the weights


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
        apart = {name: each for name, each in _items(values) if isinstance(each, torch.Tensor)}
        tensors |= {f"{TENSOR}{table}/{name}": each.contiguous() for name, each in apart.items()}
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


def _items(values: Any) -> Iterable[tuple[str, Any]]:
    return values.items() if isinstance(values, Mapping) else ()


def _texts(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """The lists of long texts, by name. Raises an error of some kind where they are damaged."""
    found: dict[str, list[str]] = {}
    names = [name for name in tensors if name.startswith(TEXTS)]
    for name in sorted(names, key=lambda name: int(name.rpartition(" ")[2])):
        texts = found.setdefault(name.removeprefix(TEXTS).rpartition(" ")[0], [])
        texts.append(tensors[name].numpy().tobytes().decode())
    return found


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
