"""Which tensors of a file can be weights: a file may hold any kind that torch knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from seqsetvae.errors import InputError

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
COUNTERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)  # buffers of some modules


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
            f"{path}: NaN or infinite values in {len(broken)} weights: {', '.join(broken[:8])}. Use a checkpoint from "
            "before the training diverged."
        )


def check_types(weights: Mapping[str, object], wanted: Mapping[str, torch.Tensor], path: Path) -> None:
    """Compare weights of a file with those of the model: torch would round or fill up whole numbers without a word.

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
            f"{path}: {len(wrong)} weights have another kind of numbers than the model: {', '.join(wrong[:8])}. What "
            "was rounded is lost: use another copy of the file."
        )
