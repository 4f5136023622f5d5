"""Load the backbone of --pretrained_ckpt."""

from __future__ import annotations

from typing import TypeVar

from seqsetvae.architectures.seqsetvae.backbone import Backbone
from seqsetvae.architectures.settings import ArchitectureSettings
from seqsetvae.checkpoint import (
    Checkpoint,
    LoadReport,
    infer_sizes,
    load_backbone,
    read_checkpoint,
    sizes_from_settings,
)
from seqsetvae.settings.groups import DataSettings, PretrainedSettings, ValueSettings
from seqsetvae.trained_on import check_value_flags, check_width
from seqsetvae.training.run_folder import find_checkpoint

Model = TypeVar("Model", bound=Backbone)


def load_pretrained(
    pretrained: PretrainedSettings,
    architecture: ArchitectureSettings,
    data: DataSettings,
    kind: type[Model],
    width: int,
    values: ValueSettings | None = None,
) -> tuple[Model, Checkpoint, LoadReport]:
    """The model of --pretrained_ckpt, a Backbone or one with its decoder; prints what was loaded.

    `width` is that of the data's variable embeddings.

    Raises:
        InputError: unreadable, incomplete, or other sizes or values than those of the data or chosen by the user.
    """
    assert pretrained.pretrained_ckpt is not None, "settings are checked before a mode runs"
    path, _ = find_checkpoint(pretrained.pretrained_ckpt)
    checkpoint = read_checkpoint(path)
    if values is not None:
        check_value_flags(values, checkpoint.transform, path)
    sizes = infer_sizes(checkpoint, architecture.sizes())
    architecture.require(sizes.as_dict(), path)
    check_width(width, sizes.input_dim, path, data.data_dir)
    backbone = kind(sizes)
    report = load_backbone(backbone, checkpoint, pretrained.allow_partial_backbone)
    print(f"Checkpoint: {path}\n{report}")
    listed = ", ".join(f"{name} {value}" for name, value in sizes.as_dict().items())
    print(f"Backbone sizes, from the checkpoint: {listed}")
    if not report.is_complete:
        print(
            f"⚠️  PARTIAL BACKBONE: these weights are randomly initialized (--allow_partial_backbone):\n"
            f"  {report.problems()}"
        )
    not_stated = sizes_from_settings(checkpoint)
    if not_stated:
        listed = ", ".join(f"{name} = {getattr(sizes, name)}" for name in not_stated)
        print(
            f"⚠️  The checkpoint does not state {listed}: these values are from the settings. A wrong number of "
            "attention heads gives wrong results without an error, so compare them with the checkpoint's training."
        )
    return backbone, checkpoint, report
