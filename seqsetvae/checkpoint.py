"""Reads every checkpoint layout safely, and reports exactly which weights were loaded and which were not.

Canonical names are those of a pretrained checkpoint (set_encoder.*, transformer.*, ...); every other layout is renamed
to them first, so that there is one loader and one report.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seqsetvae.architectures.seqsetvae.backbone import Backbone, BackboneSizes
from seqsetvae.cohort.transform import AS_STORED, VALUE_TRANSFORM, ValueTransform, read_transform
from seqsetvae.errors import InputError

WRAPPERS = {"module", "_orig_mod"}  # parts that DataParallel and torch.compile insert into names, anywhere
HOLDERS = ("backbone.", "model.")  # a backbone inside another module, as in our own fine-tuned checkpoints
# Weights of modules that fine-tuning does not build.
SKIPPED_ON_PURPOSE = (
    "decoder.",
    "set_encoder.decoder_layers.",
    "set_encoder.out.",
    "cls_head.",
    "head.",
    "feature_fusion.",
    "feature_projection.",
    "vae_feature_fusion.",
)
INERT = {"alibi_slope", "time_tau"}  # they have no effect on the output, so a file may lack them
HISTORY_PARTS = ("transformer.", "post_transformer_norm.", "rel_time_bucket_embed.")
SIZES_NOT_IN_SHAPES = ("heads", "transformer_heads", "transformer_dropout")
FINGERPRINTS = "variable_fingerprints"  # {variable: hash of its mean, std and embedding}, in checkpoints that we write


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What a checkpoint records of its training data, for comparison with later data."""

    fingerprints: dict[str, str]  # {variable: hash of its mean, std and embedding}
    label_name: str
    max_sets: int | None  # stays were shortened to this number of last sets
    transform: ValueTransform = AS_STORED  # how values were changed


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, read safely and renamed to the canonical layout."""

    path: Path
    weights: dict[str, torch.Tensor]
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] | None = None
    transform: ValueTransform = AS_STORED

    @property
    def is_set_encoder_alone(self) -> bool:
        return not any(name.startswith(HISTORY_PARTS) for name in self.weights)


def _numpy_globals() -> list[Any]:
    """Harmless numpy classes that hyper-parameters of old files hold; old numpy wrote them under another path."""
    core = np._core.multiarray  # type: ignore[attr-defined]
    scalar, rebuild = core.scalar, core._reconstruct
    kinds = [type(np.dtype(name)) for name in ("f8", "f4", "i8", "i4", "?")]
    return [
        np.ndarray,
        np.dtype,
        *kinds,
        scalar,
        rebuild,
        (scalar, "numpy.core.multiarray.scalar"),
        (rebuild, "numpy.core.multiarray._reconstruct"),
    ]


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, its checksums compared first; nothing in it is executed (weights_only).

    Raises:
        InputError: not a checkpoint, damaged, or it holds objects other than tensors and plain values.
    """
    try:
        if _is_zip(path):
            _check_records(path)
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        if not _unsafe(path) and not zipfile.is_zipfile(path) and not _is_pickle(path):
            raise InputError(
                f"{path}: not a checkpoint that torch can read; a text file, a git-lfs pointer or a broken download?"
            ) from error
        raise InputError(
            f"{path}: refused, since it holds more than tensors and plain values{_unsafe(path)}. Re-save "
            "its state_dict alone, with torch.save, where the file was made."
        ) from error
    except Exception as error:  # of any kind: torch does not check what a damaged pickle makes it do
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path}: not a checkpoint that torch can read ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; a checkpoint is a dict of weights")
    return content


def _is_zip(path: Path) -> bool:
    """Is it a zip container, as torch looks for it or as zipfile does? One end of it may be damaged.

    Files from before torch 1.6 are bare pickles, which have no checksums.
    """
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" or zipfile.is_zipfile(path)


def _check_records(path: Path) -> None:
    """Compare the CRC-32 of every record of a zip container, which torch.load does not do.

    Raises:
        InputError: a record is not as it was written, or the container cannot be read.
    """
    advice = "The file is damaged, or its download is incomplete: copy it again from where it was made."
    try:
        with zipfile.ZipFile(path) as archive:
            has_checksums = any(record.CRC for record in archive.infolist())  # torch can be told to save without
            damaged = archive.testzip() if has_checksums else None
    except Exception as error:  # of any kind: zipfile takes the numbers in a damaged header as they are
        raise InputError(
            f"{path}: not a checkpoint that torch can read (its zip container is broken: {error}). {advice}"
        ) from error
    if damaged is not None:
        raise InputError(f"{path}: the checksum of its record {damaged} does not match. {advice}")


def _is_pickle(path: Path) -> bool:
    """It begins as pickles do; nothing of it is run."""
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def _unsafe(path: Path) -> str:
    try:
        return f" ({', '.join(torch.serialization.get_unsafe_globals_in_checkpoint(path))})"
    except Exception:  # only a hint in an error message that is raised anyway
        return ""


def read_checkpoint(path: Path) -> Checkpoint:
    """Any layout of a SeqSetVAE checkpoint, as weights under canonical names.

    Raises:
        InputError: unreadable, no weights in it, two weights of one name, or non-finite weights.
    """
    content = read_file(path)
    state = content.get("state_dict", content)
    state = state if isinstance(state, dict) else {}
    weights: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or not isinstance(key, str):
            continue
        name = canonical_name(key)
        if name in weights:
            raise InputError(f"{path}: {key} is the second weight for {name}; the file contains two models")
        weights[name] = value
    if not weights:
        raise InputError(
            f"{path}: contains no weights; its entries are: {', '.join(map(str, list(content)[:8])) or 'none'}"
        )
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{path}: NaN or infinite values in {len(broken)} weights: {', '.join(broken[:8])}. Use a checkpoint from "
            "before the training diverged."
        )
    saved = content.get("hyper_parameters")
    saved = saved if isinstance(saved, dict) else {}
    fingerprints = content.get(FINGERPRINTS) or saved.get(FINGERPRINTS)
    transform = read_transform(content.get(VALUE_TRANSFORM, saved.get(VALUE_TRANSFORM)), path)
    return Checkpoint(path, weights, saved.get("sizes", saved), fingerprints, transform)  # ours keep the sizes apart


def canonical_name(key: str) -> str:
    """The pretrained layout's name of a weight.

    >>> canonical_name("module.setvae.setvae.embed.0.weight"), canonical_name("setvae.embed.0.weight")
    ('set_encoder.embed.0.weight', 'set_encoder.embed.0.weight')
    """
    name = ".".join(part for part in key.split(".") if part not in WRAPPERS)
    for holder in HOLDERS:
        name = name.removeprefix(holder)
    for set_encoder in ("setvae.setvae.", "setvae."):
        if name.startswith(set_encoder):
            return "set_encoder." + name.removeprefix(set_encoder)
    return name


def infer_sizes(checkpoint: Checkpoint, fallback: dict[str, Any]) -> BackboneSizes:
    """Sizes of a checkpoint's backbone: from its weights' shapes where they show them, else from its
    hyper-parameters, else from `fallback` (the settings).

    Raises:
        InputError: no set encoder in the file, shapes contradict hyper-parameters, or heads do not divide the width.
    """
    if not any(name.startswith("set_encoder.") for name in checkpoint.weights):
        raise InputError(
            f"{checkpoint.path}: not a SeqSetVAE checkpoint, because it has no weights of a set encoder (set_encoder.* "
            f"or setvae.*). Its weights are {', '.join(list(checkpoint.weights)[:4])}, ..."
        )
    stated = {name: _plain(value) for name, value in checkpoint.hyper_parameters.items() if name in _size_names()}
    shown = _sizes_in_shapes(checkpoint)
    for name in ("levels", "transformer_layers"):  # a layer without any weight must be reported as missing
        shown[name] = max(shown.get(name, 0), int(stated.get(name) or 0)) or fallback[name]
    for name in shown.keys() & stated.keys():
        if shown[name] != stated[name]:
            raise InputError(
                f"{checkpoint.path}: its hyper_parameters state {name} = {stated[name]!r}, but its weights have "
                f"{shown[name]!r}; the file mixes two models"
            )
    values = {name: fallback[name] for name in _size_names() if name in fallback} | stated | shown
    return _checked_sizes(values, checkpoint)


def _plain(value: Any) -> Any:
    """A NumPy scalar as a Python number, because sizes are written to JSON and to checkpoints."""
    return value.item() if isinstance(value, np.generic) else value


def _checked_sizes(values: dict[str, Any], checkpoint: Checkpoint) -> BackboneSizes:
    if "input_dim" not in values:
        raise InputError(
            f"{checkpoint.path}: the weight set_encoder.dim_reducer.weight is missing; without it the width of the "
            "variable embeddings is unknown"
        )
    for name in ("heads", "transformer_heads"):
        if values["latent_dim"] % values[name]:
            raise InputError(
                f"{checkpoint.path}: {name} = {values[name]} is not a divisor of the checkpoint's latent_dim "
                f"{values['latent_dim']}; pass --{name} with the number it was trained with"
            )
    return BackboneSizes(**values)


def _size_names() -> list[str]:
    return [item.name for item in fields(BackboneSizes)]


def _sizes_in_shapes(checkpoint: Checkpoint) -> dict[str, Any]:
    """The sizes that the shapes of a checkpoint's weights show."""
    shapes = {name: value.shape for name, value in checkpoint.weights.items()}
    shown: dict[str, Any] = {}

    def look(name: str, weight: str, axis: int) -> None:
        if weight in shapes:
            shown[name] = shapes[weight][axis]

    look("latent_dim", "set_encoder.embed.0.weight", 0)
    look("m", "set_encoder.encoder_layers.0.inducing", 0)
    look("ff_dim", "transformer.layers.0.linear1.weight", 0)
    reduces = any(name.startswith("set_encoder.dim_reducer.") for name in shapes)
    if reduces or checkpoint.hyper_parameters.get("reduced_dim"):
        look("reduced_dim", "set_encoder.dim_reducer.weight", 0)
        look("input_dim", "set_encoder.dim_reducer.weight", 1)
    else:
        shown["reduced_dim"] = None
        look("input_dim", "set_encoder.embed.0.weight", 1)
    for name, prefix in (("levels", "set_encoder.encoder_layers."), ("transformer_layers", "transformer.layers.")):
        numbers = [int(key.removeprefix(prefix).split(".")[0]) for key in shapes if key.startswith(prefix)]
        shown[name] = max(numbers, default=-1) + 1
    return shown


def sizes_from_settings(checkpoint: Checkpoint) -> list[str]:
    """Sizes that the file does not state, so that they are taken from the settings."""
    return [name for name in SIZES_NOT_IN_SHAPES if name not in checkpoint.hyper_parameters]


SET_ENCODER_ALONE = (
    "It is a SetVAE alone: it has a set encoder and no history encoder, which would be randomly initialized. "
    "Pass a checkpoint of the whole SeqSetVAE, pretrained from this SetVAE."
)


@dataclass(frozen=True)
class LoadReport:
    """Which weights were loaded, and which were not and why."""

    loaded: dict[str, torch.Size]
    skipped: list[str]  # on purpose
    unknown: list[str]
    missing: list[str]
    mismatched: dict[str, tuple[torch.Size, torch.Size]]  # (in the file, in the model)

    @property
    def is_complete(self) -> bool:
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        values = sum(shape.numel() for shape in self.loaded.values())
        rows = [
            ("loaded", len(self.loaded), f"{values:,} values"),
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
        }


def _grouped(names: list[str]) -> str:
    counts = Counter(".".join(name.split(".")[: 2 if name.startswith("set_encoder.") else 1]) for name in names)
    return ", ".join(f"{group} ({count})" for group, count in counts.items())


def load_backbone(backbone: Backbone, checkpoint: Checkpoint, allow_partial: bool = False) -> LoadReport:
    """Copy a checkpoint's weights into a backbone.

    Raises:
        InputError: a backbone weight is missing or of another shape, unless `allow_partial`; it lists all of them.
    """
    report = compare(backbone, checkpoint)
    if not report.is_complete and not allow_partial:
        alone = f" {SET_ENCODER_ALONE}" if checkpoint.is_set_encoder_alone else ""
        raise InputError(
            f"{checkpoint.path}: {len(report.missing)} backbone weights are missing and "
            f"{len(report.mismatched)} have another shape than the model.{alone}\n  {report.problems()}\n"
            "--allow_partial_backbone continues with random values for these weights and records their names."
        )
    backbone.load_state_dict({name: checkpoint.weights[name] for name in report.loaded}, strict=False)
    return report


def compare(module: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """Compare a checkpoint's weights with those of a module by name and shape."""
    wanted = {name: value.shape for name, value in module.state_dict().items()}
    have = {name: value.shape for name, value in checkpoint.weights.items()}
    shared = wanted.keys() & have.keys()
    others = [name for name in have if name not in wanted]
    return LoadReport(
        loaded={name: shape for name, shape in wanted.items() if name in shared and have[name] == shape},
        skipped=[name for name in others if name.startswith(SKIPPED_ON_PURPOSE)],
        unknown=[name for name in others if not name.startswith(SKIPPED_ON_PURPOSE)],
        missing=[name for name in wanted if name not in have and name not in INERT],
        mismatched={
            name: (have[name], wanted[name]) for name in wanted if name in shared and have[name] != wanted[name]
        },
    )
