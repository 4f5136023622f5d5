"""Load the backbone of --pretrained_ckpt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seqsetvae.checkpoint.backbone import Checkpoint, LoadReport, load_backbone, read_checkpoint
from seqsetvae.checkpoint.data import check_value_flags, check_width
from seqsetvae.models import ARCHITECTURES
from seqsetvae.models.settings import ArchitectureSettings
from seqsetvae.settings.groups import DataSettings, PretrainedSettings, ValueSettings
from seqsetvae.system.console import warn
from seqsetvae.training.run_folder import find_checkpoint


def load_pretrained(
    pretrained: PretrainedSettings,
    architecture: ArchitectureSettings,
    data: DataSettings,
    width: int,
    values: ValueSettings | None = None,
    build: Callable[[str, Any], Any] | None = None,
) -> tuple[Any, Checkpoint, LoadReport]:
    """The backbone of --pretrained_ckpt, of the architecture that the file names; prints what was loaded.

    Args:
        pretrained, architecture, data, values: settings; without `values` those of the checkpoint are not compared.
        width: of the data's variable embeddings, where the file has none of its own.
        build: makes the module from (architecture, sizes), where it is more than the backbone.

    Raises:
        InputError: unreadable, incomplete, or other sizes or values than those of the data or chosen by the user.
    """
    assert pretrained.pretrained_ckpt is not None, "settings are checked before a mode runs"
    path, _ = find_checkpoint(pretrained.pretrained_ckpt)
    checkpoint = read_checkpoint(path)
    if values is not None:
        check_value_flags(values, checkpoint.transform, path)
    architecture.require_name(checkpoint.architecture, str(path))
    sizes = checkpoint.infer_sizes(architecture.sizes())
    architecture.require(sizes.as_dict(), str(path))
    if checkpoint.variables is None:
        check_width(width, sizes.input_dim, path, data.data_dir)
    of_file = ARCHITECTURES[checkpoint.architecture]
    backbone = of_file.build(sizes) if build is None else build(checkpoint.architecture, sizes)
    report = load_backbone(backbone, checkpoint, pretrained.allow_partial_backbone)
    if build is None and hasattr(backbone, "keep_pretrained"):
        backbone.keep_pretrained(checkpoint.weights)
    print(f"Checkpoint: {path}\n{report}")
    plain = {name: len(value) if isinstance(value, list) else value for name, value in sizes.as_dict().items()}
    listed = ", ".join(f"{name} {value}" for name, value in plain.items())
    print(f"Backbone sizes, from the checkpoint: {listed}")
    if not report.is_complete:
        warn(
            f"PARTIAL BACKBONE: these weights are randomly initialized (--allow_partial_backbone):\n"
            f"  {report.problems()}"
        )
    if report.random_in_file:
        warn(f"RANDOM WEIGHTS IN THE FILE: {of_file.explain(checkpoint.stored)}")
    if checkpoint.not_stated:
        listed = ", ".join(f"{name} = {getattr(sizes, name)}" for name in checkpoint.not_stated)
        warn(
            f"The checkpoint does not state {listed}: these values are from the settings. A wrong number of "
            "attention heads gives wrong results without an error, so compare them with the checkpoint's training."
        )
    return backbone, checkpoint, report
