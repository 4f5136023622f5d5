"""Reads checkpoints safely, and reports exactly which weights were loaded and which were not.

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

from seqsetvae.architectures import ARCHITECTURES
from seqsetvae.checkpoint_file import read_file
from seqsetvae.cohort.profile import PROFILE, Profile
from seqsetvae.cohort.transform import PLAIN, VALUE_TRANSFORM, ValueTransform, read_transform
from seqsetvae.cohort.variables import Variables
from seqsetvae.errors import InputError
from seqsetvae.settings.problems import check_recorded
from seqsetvae.weights import check_finite, check_kinds, check_types

WRAPPERS = {"module", "_orig_mod"}  # parts that DataParallel and torch.compile insert into names, anywhere
HOLDERS = ("backbone.", "model.")  # a backbone inside another module, as in our own fine-tuned checkpoints
FINETUNED_HEAD = r"head\.net\.\d+\.(weight|bias)"  # the head of our own fine-tuned checkpoints
ARCHITECTURE = "architecture"  # the architecture's name, in checkpoints that we write
FIRST_ARCHITECTURE = "seqsetvae"  # that of checkpoints without a name
TASK = "task"  # what a fine-tuned checkpoint predicts (tasks.spec.Spec), unless that is one binary label
MEDIAN_HOURS = "median_hours"  # of the training stays, in fine-tuned checkpoints
VARIABLES = "variables"  # the table of variables (`Variables`), in checkpoints that we write
MOST_WIDTH = 1 << 20  # of a vector that is generated
FINGERPRINTS = "variable_fingerprints"  # in checkpoints of earlier versions: {variable: hash of mean, std and vector}


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What a checkpoint records of its training data, for comparison with later data."""

    variables: Variables | None = None  # what was read of each variable; None: an earlier version
    fingerprints: dict[str, str] | None = None  # of an earlier version: {variable: hash of its mean, std and embedding}
    label_name: str
    max_sets: int | None  # stays were shortened to this number of last sets
    transform: ValueTransform = PLAIN  # how values were changed
    median_hours: float | None = None  # from the first to the last set of a stay; None: an older file, or not positive
    profile: Profile | None = None  # how often each variable occurs, and the window; None: an older file

    @property
    def known(self) -> tuple[str, ...]:
        """The names of its variables."""
        return self.variables.names if self.variables else tuple(self.fingerprints or ())


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, read safely and renamed to the canonical layout."""

    path: Path
    weights: dict[str, torch.Tensor]
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    variables: Variables | None = None  # None: bound to stats.csv and cached.csv, as checkpoints of old scripts are
    fingerprints: dict[str, str] | None = None  # of an earlier version of ours
    transform: ValueTransform = PLAIN
    architecture: str = FIRST_ARCHITECTURE
    profile: Profile | None = None  # of the training data; None: an older file, or not written here
    stored: dict[str, torch.Size] = field(default_factory=dict)  # shapes by the names in the file, see `stored_shapes`

    @property
    def known(self) -> tuple[str, ...] | None:
        """The names of its variables, if it records them."""
        return self.variables.names if self.variables else None if self.fingerprints is None else (*self.fingerprints,)

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
    variables = read_variables(content.get(VARIABLES), path)
    fingerprints = check_fingerprints(content.get(FINGERPRINTS, saved.get(FINGERPRINTS)), path)
    transform = read_transform(content.get(VALUE_TRANSFORM, saved.get(VALUE_TRANSFORM)), path)
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
    profile = read_profile(content.get(PROFILE, saved.get(PROFILE)), path)
    stored = stored_shapes(content)
    return Checkpoint(path, weights, stated, variables, fingerprints, transform, architecture, profile, stored)


def read_profile(recorded: Any, path: Path) -> Profile | None:
    """What a checkpoint records of its training data; None if it is older. Raises InputError where it is damaged."""
    if recorded is None:
        return None
    try:
        return Profile.from_plain(recorded)
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError):
        raise InputError(f"{path}: its {PROFILE} {str(recorded)[:60]!r} is damaged. Use another copy.") from None


def record_of(variables: Variables) -> dict[str, Any]:
    """A table of variables for a checkpoint, of plain values and perhaps one tensor."""
    mean, std = ([None if x != x else x for x in each.tolist()] for each in (variables.mean, variables.std))
    vectors = None if variables.given is None else torch.tensor(variables.given)
    return {"names": list(variables.names), "mean": mean, "std": std, "width": variables.width, "vectors": vectors}


def read_variables(recorded: Any, path: Path) -> Variables | None:
    """The table of variables that a checkpoint records; None: it has none. Raises InputError where it is damaged."""
    if recorded is None:
        return None
    try:
        names, width, vectors = tuple(recorded["names"]), recorded["width"], recorded["vectors"]
        mean, std = (np.array([np.nan if x is None else x for x in recorded[key]], float) for key in ("mean", "std"))
        given = None if vectors is None else vectors.double().numpy()
        has_none = np.isnan(mean) & np.isnan(std)
        is_good = [
            isinstance(width, int) and 0 < width < MOST_WIDTH,
            len(names) > 0 and all(isinstance(name, str) and name for name in names),
            len(set(names)) == len(names) == len(mean) == len(std),
            (has_none | (np.isfinite(mean) & np.isfinite(std) & (std > 0))).all(),
            given is None or (given.shape == (len(names), width) and np.isfinite(given).all()),
        ]
        if not all(is_good):
            raise ValueError
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        raise InputError(f"{path}: its table of {VARIABLES} is damaged. Use another copy.") from None
    return Variables(names, mean, std, given, width)


def check_fingerprints(recorded: Any, path: Path) -> dict[str, str] | None:
    """What an earlier version recorded as the hash of each variable. Raises InputError if it is something else."""
    if recorded is None:
        return None
    pairs = recorded.items() if isinstance(recorded, dict) else [(recorded, None)]
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise InputError(f"{path}: its {FINGERPRINTS} {str(recorded)[:60]!r} are damaged. Use another copy.")
    return recorded


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


def architecture_of(content: dict[str, Any], path: Path) -> str:
    """The name of a checkpoint's architecture.

    Raises:
        InputError: it is not among ARCHITECTURES.
    """
    saved = content.get("hyper_parameters")
    stated = content.get(ARCHITECTURE)
    if stated is None and isinstance(saved, dict):
        stated = saved.get(ARCHITECTURE)
    name = FIRST_ARCHITECTURE if stated is None else stated
    if not isinstance(name, str) or name not in ARCHITECTURES:
        shown = " ".join(repr(name).split())[:60]
        raise InputError(
            f"{path}: has the architecture {shown}, which this version does not know; it knows "
            f"{', '.join(ARCHITECTURES)}"
        )
    return name


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
    on_purpose = re.compile("|".join((*architecture.SKIPPED, FINETUNED_HEAD)))
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
