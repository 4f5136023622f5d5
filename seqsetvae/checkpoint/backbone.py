"""Loads the weights of a backbone, and reports which were loaded and which were not.

Which names and sizes there are is known to the architecture, whose canonical names all weights get first, so that there
is one loader and one report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seqsetvae.batches.transform import VALUE_TRANSFORM, read_transform
from seqsetvae.checkpoint.file import check_finite, check_kinds, check_types, read_file
from seqsetvae.checkpoint.record import (
    FINGERPRINTS,
    FIRST_ARCHITECTURE,
    VARIABLES,
    TrainedOn,
    architecture_of,
    check_fingerprints,
    read_profile,
    read_variables,
)
from seqsetvae.cohort.profile import PROFILE
from seqsetvae.models import ARCHITECTURES
from seqsetvae.settings.declare import check_recorded
from seqsetvae.system.errors import InputError

WRAPPERS = {"module", "_orig_mod"}  # parts that DataParallel and torch.compile insert into names, anywhere
HOLDERS = ("backbone.", "model.", "main.")  # a backbone inside another module, as in our own fine-tuned checkpoints
FINETUNED = (
    r"(head|summaries)\..+"  # of our own fine-tuned checkpoints: what is no part of the backbone (models/beside.py)
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, read safely and renamed to the canonical layout."""

    path: Path
    weights: dict[str, torch.Tensor]
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    trained_on: TrainedOn = TrainedOn()
    architecture: str = FIRST_ARCHITECTURE
    stored: dict[str, torch.Size] = field(default_factory=dict)  # shapes by the names in the file, see `stored_shapes`

    @property
    def not_stated(self) -> list[str]:
        """Sizes that neither the weights nor the hyper_parameters show, so that they are taken from the settings."""
        not_in_shapes = ARCHITECTURES[self.architecture].NOT_IN_SHAPES
        return [name for name in not_in_shapes if name not in self.hyper_parameters]

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in self.weights.items()}

    def infer_sizes(self, fallback: Mapping[str, Any]) -> Any:
        """The architecture's Sizes; `fallback` has those of the settings. Raises InputError."""
        architecture = ARCHITECTURES[self.architecture]
        return architecture.infer_sizes(self.shapes, self.hyper_parameters, fallback, str(self.path))


def read_checkpoint(path: Path) -> Checkpoint:
    """Any layout of a SeqSetVAE checkpoint, as weights under canonical names.

    Raises:
        InputError: unreadable, no weights in it, two weights of one name, or non-finite weights.
    """
    content = read_file(path)
    saved = content.get("hyper_parameters")
    saved = saved if isinstance(saved, dict) else {}
    architecture = architecture_of(content, path)
    weights = _weights(content, ARCHITECTURES[architecture].canonical_name, path)
    check_kinds(weights, path)
    check_finite(weights, path)
    trained_on = TrainedOn(
        variables=read_variables(content.get(VARIABLES), path),
        fingerprints=check_fingerprints(content.get(FINGERPRINTS, saved.get(FINGERPRINTS)), path),
        transform=read_transform(content.get(VALUE_TRANSFORM, saved.get(VALUE_TRANSFORM)), path),
        profile=read_profile(content.get(PROFILE, saved.get(PROFILE)), path),
    )
    sizes = saved.get("sizes", saved)  # our fine-tuned checkpoints have the sizes in an entry of their own
    if not isinstance(sizes, dict):
        raise InputError(f"{path}: damaged, its hyper_parameters record the sizes {sizes!r:.60}. Use another copy.")
    stated = {name: value.item() if isinstance(value, np.generic) else value for name, value in sizes.items()}
    for item in fields(ARCHITECTURES[architecture].Sizes):
        if isinstance(stated.get(item.name), torch.Tensor):
            raise InputError(
                f"{path}: damaged, its hyper_parameters record a tensor as {item.name}. Use another copy, or re-save "
                "it with a plain number."
            )
    check_recorded(ARCHITECTURES[architecture].Sizes, stated, path)
    return Checkpoint(path, weights, stated, trained_on, architecture, stored_shapes(content))


def _tensors(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a file's state dict, or of a file that is one."""
    state = content.get("state_dict", content)
    pairs = state.items() if isinstance(state, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, torch.Tensor) and isinstance(key, str)}


def stored_shapes(content: dict[str, Any]) -> dict[str, torch.Size]:
    """Shapes of a file's weights by their names without wrappers, which show what code wrote the file."""
    return {without_wrappers(key): value.shape for key, value in _tensors(content).items()}


def _weights(content: dict[str, Any], rename: Callable[[str], str], path: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for key, value in _tensors(content).items():
        name = rename(without_wrappers(key))
        if name in weights:
            raise InputError(f"{path}: {key} is the second weight for {name}; the file contains two models")
        weights[name] = value
    if not weights:
        raise InputError(
            f"{path}: contains no weights; its entries are: {', '.join(map(str, list(content)[:8])) or 'none'}"
        )
    return weights


def without_wrappers(key: str) -> str:
    """The name of a weight in the backbone itself.

    >>> without_wrappers("module.backbone.transformer._orig_mod.layers.0.norm1.weight")
    'transformer.layers.0.norm1.weight'
    """
    name = ".".join(part for part in key.split(".") if part not in WRAPPERS)
    while name.startswith(HOLDERS):
        name = name.partition(".")[2]
    return name


@dataclass(frozen=True)
class LoadReport:
    """Which weights were loaded, and which were not and why."""

    loaded: dict[str, torch.Size]
    skipped: list[str]  # on purpose
    unknown: list[str]
    missing: list[str]
    mismatched: dict[str, tuple[torch.Size, torch.Size]]  # (in the file, in the model)
    random_in_file: list[str]  # of those loaded, what the code that wrote the file had left random

    @property
    def is_complete(self) -> bool:
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        values = sum(shape.numel() for shape in self.loaded.values())
        rows = [
            ("loaded", len(self.loaded), f"{values:,} values"),
            *[("of these random", len(self.random_in_file), _grouped(self.random_in_file))] * bool(self.random_in_file),
            ("skipped on purpose", len(self.skipped), _grouped(self.skipped)),
            ("not recognised", len(self.unknown), _grouped(self.unknown)),
            ("missing", len(self.missing), ", ".join(self.missing[:4])),
            ("shape mismatch", len(self.mismatched), ", ".join(list(self.mismatched)[:4])),
        ]
        table = [f"   {label:<20}{count:>6}   {what}".rstrip() for label, count, what in rows]
        return "\n".join([f"✅ Loaded {len(self.loaded)} parameters successfully", *table])

    def problems(self) -> str:
        """Every missing or mismatched weight, a line each."""
        lines = [f"missing: {name}" for name in self.missing]
        lines += [
            f"shape mismatch: {name} is {tuple(ours)} in the file, {tuple(wanted)} in the model"
            for name, (ours, wanted) in self.mismatched.items()
        ]
        return "\n  ".join(lines)

    def as_plain(self) -> dict[str, Any]:
        return {
            "loaded": len(self.loaded),
            "skipped": self.skipped,
            "not_recognised": self.unknown,
            "missing": self.missing,
            "shape_mismatch": list(self.mismatched),
            "random_in_file": self.random_in_file,
        }


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model with the weights of a checkpoint, on the CPU, and what the checkpoint records."""

    path: Path
    model: Any
    input_dim: int  # width of the variable embeddings that it was trained with
    trained_on: TrainedOn
    report: LoadReport | None = None  # of a pretrained one; a fine-tuned one is complete


def _grouped(names: list[str]) -> str:
    counts = Counter(".".join(name.split(".")[: 2 if name.startswith("set_encoder.") else 1]) for name in names)
    return ", ".join(f"{group} ({count})" for group, count in counts.items())


def load_backbone(backbone: nn.Module, checkpoint: Checkpoint, allow_partial: bool = False) -> LoadReport:
    """Copy a checkpoint's weights into a backbone.

    Raises:
        InputError: a backbone weight is missing or of another shape, unless `allow_partial`; it lists all of them.
    """
    check_types(checkpoint.weights, backbone.state_dict(), checkpoint.path)
    report = compare(backbone, checkpoint)
    if not report.is_complete and not allow_partial:
        why = ARCHITECTURES[checkpoint.architecture].explain(checkpoint.stored)
        raise InputError(
            f"{checkpoint.path}: {len(report.missing)} backbone weights are missing and "
            f"{len(report.mismatched)} have another shape than the model.{why and ' ' + why}\n  {report.problems()}\n"
            "--allow_partial_backbone continues with random values for these weights and records their names."
        )
    backbone.load_state_dict({name: checkpoint.weights[name] for name in report.loaded}, strict=False)
    return report


def compare(module: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """Compare a checkpoint's weights with those of a module by name and shape."""
    wanted = {name: value.shape for name, value in module.state_dict().items()}
    have = checkpoint.shapes
    architecture = ARCHITECTURES[checkpoint.architecture]
    on_purpose = re.compile("|".join((*architecture.SKIPPED, FINETUNED)))
    others = [name for name in have if name not in wanted]
    loaded = {name: shape for name, shape in wanted.items() if have.get(name) == shape}
    differ = {name: (have[name], shape) for name, shape in wanted.items() if name in have and have[name] != shape}
    return LoadReport(
        loaded=loaded,
        skipped=[name for name in others if on_purpose.fullmatch(name)],
        unknown=[name for name in others if not on_purpose.fullmatch(name)],
        missing=[name for name in wanted if name not in have and name not in architecture.INERT],
        mismatched=differ,
        random_in_file=[name for name in architecture.random_in_file(checkpoint.stored) if name in loaded],
    )
