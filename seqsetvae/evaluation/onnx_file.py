"""Parts of a model as ONNX files, each compared with the model by onnxruntime before it counts as written."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
# The largest difference from torch that is allowed, relative to outputs of size 1. Both compute in float32 and add up
# in another order; what is wrong is wrong by far more.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Part:
    """A module and an example of what it reads and returns."""

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    axes: dict[str, tuple[str, ...]]  # names of the leading axes of each input; their lengths may vary
    output: str  # its name
    expected: torch.Tensor  # what the model itself gives for the inputs
    counts: torch.Tensor | None = None  # [bool], which rows of the output count; None: all


def missing_packages() -> list[str]:
    """The packages that ONNX files need and that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def write_onnx(part: Part, file: Path) -> float:
    """Write a part; returns the largest difference between onnxruntime and torch in its example.

    Raises:
        FloatingPointError: the difference is above TOLERANCE; the file is removed.
    """
    named: dict[str, Any] = {}
    dims = {
        name: {axis: named.setdefault(each, torch.export.Dim(each)) for axis, each in enumerate(axes)}
        for name, axes in part.axes.items()
    }
    with _quiet():
        program = torch.onnx.export(
            part.module.eval(),
            tuple(part.inputs.values()),
            dynamo=True,
            input_names=list(part.inputs),
            output_names=[part.output],
            dynamic_shapes=tuple(dims.values()),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None, "dynamo=True returns a program"
    _save_without_traces(program.model_proto, file)
    difference = compare(file, part)
    if not difference <= TOLERANCE:
        file.unlink()
        raise FloatingPointError(
            f"{file.name}: onnxruntime differs from torch by {difference:.1e}, more than {TOLERANCE:.0e}; nothing was "
            "written. Use other versions of onnx, onnxscript and onnxruntime."
        )
    return difference


def compare(file: Path, part: Part) -> float:
    """The largest difference between onnxruntime and the expected output, relative to outputs of size 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: value.numpy() for name, value in part.inputs.items()})
    expected = part.expected.numpy()
    error = np.abs(output - expected) / np.maximum(1, np.abs(expected))
    return float(np.max(error if part.counts is None else error[part.counts.numpy()]))


def _save_without_traces(model: Any, file: Path) -> None:
    """Save a file without the source lines, with local paths, that the exporter notes at every node."""
    import onnx

    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]
        node.doc_string = ""
    for item in (model, model.graph, *model.functions, *model.graph.value_info, *model.graph.initializer):
        del item.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, file)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's messages about packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def as_card(part: Part) -> Mapping[str, Any]:
    """Inputs and output of a file in words."""
    return {
        "inputs": {
            name: {"dtype": str(value.dtype).removeprefix("torch."), "shape": _shape(value, part.axes[name])}
            for name, value in part.inputs.items()
        },
        "outputs": {part.output: {"dtype": "float32", "shape": _shape(part.expected, next(iter(part.axes.values())))}},
    }


def _shape(value: torch.Tensor, axes: tuple[str, ...]) -> list[str | int]:
    return [*axes, *value.shape[len(axes) :]]
