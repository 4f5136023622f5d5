"""The names and shapes of weights in SeqSetVAE checkpoints, in every layout that exists. No torch in here.

Canonical names are those of a pretrained checkpoint (set_encoder.*, transformer.*, ...), which the modules use too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.settings.declare import check_recorded
from seqsetvae.system.errors import InputError

OLD_FINE_TUNED = "setvae.setvae."  # the set encoder in files of the old fine-tuning code
OLD_HEAD = r"(cls_head|feature_fusion|feature_projection|vae_feature_fusion)\..+"  # of the old fine-tuning code
DECODER = r"(decoder_layers\.\d+\.(isab|pma)\..+|out\.(\d+\.)?(weight|bias))"  # of pretraining, or of the SetVAE
# Weights that fine-tuning does not build: the two decoders, and what the head of older code consists of.
SKIPPED: tuple[str, ...] = (
    rf"decoder\.{DECODER}",
    rf"set_encoder\.{DECODER}",
    r"objective\..+",  # weights of a pretraining objective
    OLD_HEAD,
)
RUNNING = "running.of_variable.weight"  # zero in a new model, as if it were not there
INERT = frozenset({"alibi_slope", "time_tau", RUNNING})  # without effect on the output, so a file may lack them
HISTORY_PARTS = ("transformer.", "post_transformer_norm.", "rel_time_bucket_embed.")
NOT_IN_SHAPES: tuple[str, ...] = ("heads", "transformer_heads", "transformer_dropout")  # sizes that no weight shows
MOST_MISSING = 8  # layers stated for each layer that a file has weights of
POE = re.compile(r"(.+\.)?(gru_cell|prior_head)(\..+)?")  # weights of seqsetvae_poe, another model
TIME_EMBEDDING = "rel_time_bucket_embed.weight"
OLD_OPTIMIZED_BUCKETS = 32  # rows of the time embedding in the old optimized model; 64 in every other one
OF_POE = (
    "It is a checkpoint of seqsetvae_poe (weights gru_cell, prior_head), another model, which is not built here. Use "
    "a checkpoint of SeqSetVAE."
)
OF_OLD_OPTIMIZED = (
    f"It is of the old optimized model ({OLD_OPTIMIZED_BUCKETS} time buckets instead of 64), which read its pretrained "
    "checkpoint before it had a history encoder: transformer.*, post_transformer_norm.* and rel_time_bucket_embed.* "
    "are random, not pretrained. Use the original pretrained checkpoint instead."
)
OF_OLD_FINE_TUNING = (
    f"It was fine-tuned by the old scripts: {TIME_EMBEDDING} is random, because they never loaded it from their "
    "pretrained checkpoint. Use the original pretrained checkpoint instead."
)
HEAD_NOT_BUILT = " The old head (cls_head, feature_fusion, ...) is not built here."
SET_ENCODER_ALONE = (
    "It is a SetVAE alone: it has a set encoder and no history encoder, which would be randomly initialized. "
    "Pass a checkpoint of the whole SeqSetVAE, pretrained from this SetVAE."
)


def canonical_name(key: str) -> str:
    """The pretrained layout's name of a weight.

    >>> canonical_name("setvae.setvae.embed.0.weight"), canonical_name("setvae.embed.0.weight")
    ('set_encoder.embed.0.weight', 'set_encoder.embed.0.weight')
    """
    for set_encoder in (OLD_FINE_TUNED, "setvae."):
        if key.startswith(set_encoder):
            return "set_encoder." + key.removeprefix(set_encoder)
    return key


def explain(stored: Mapping[str, Sequence[int]]) -> str:
    """What a file with these weights is, where it is not a whole, trained model; else empty.

    `stored`: shapes by the names in the file, without what DataParallel and torch.compile insert.
    """
    if any(POE.fullmatch(name) for name in stored):
        return OF_POE
    if _has_old_buckets(stored):
        return OF_OLD_OPTIMIZED + HEAD_NOT_BUILT * _has_old_head(stored)
    if _is_of_old_fine_tuning(stored):
        return OF_OLD_FINE_TUNING + HEAD_NOT_BUILT * _has_old_head(stored)
    parts = ("set_encoder.", *HISTORY_PARTS)
    has = {part for part in parts if any(canonical_name(name).startswith(part) for name in stored)}
    return SET_ENCODER_ALONE if has == {"set_encoder."} else ""


def random_in_file(stored: Mapping[str, Sequence[int]]) -> list[str]:
    """The weights of a file that the old code left random, which their values do not show; `stored` as in `explain`."""
    if _has_old_buckets(stored):
        return [name for name in stored if name.startswith(HISTORY_PARTS)]
    return [TIME_EMBEDDING] if TIME_EMBEDDING in stored and _is_of_old_fine_tuning(stored) else []


def _has_old_buckets(stored: Mapping[str, Sequence[int]]) -> bool:
    return tuple(stored.get(TIME_EMBEDDING, ()))[:1] == (OLD_OPTIMIZED_BUCKETS,)


def _is_of_old_fine_tuning(stored: Mapping[str, Sequence[int]]) -> bool:
    is_whole = TIME_EMBEDDING in stored  # else it may be a SetVAE alone
    return _has_old_head(stored) or (is_whole and any(name.startswith(OLD_FINE_TUNED) for name in stored))


def _has_old_head(stored: Mapping[str, Sequence[int]]) -> bool:
    return any(re.fullmatch(OLD_HEAD, name) for name in stored)


def infer_sizes(
    shapes: Mapping[str, Sequence[int]], stated: Mapping[str, Any], fallback: Mapping[str, Any], file: str
) -> Sizes:
    """Sizes of a checkpoint's backbone: from the shapes of its weights (by canonical name) where they show them, else
    from its hyper_parameters (`stated`), else from `fallback` (the settings).

    Raises:
        InputError: another model, no set encoder in the file, shapes contradict hyper_parameters, or heads do not
            divide the width.
    """
    if explain(shapes) == OF_POE:
        raise InputError(f"{file}: {OF_POE}")
    if not any(name.startswith("set_encoder.") for name in shapes):
        raise InputError(
            f"{file}: not a SeqSetVAE checkpoint, because it has no weights of a set encoder (set_encoder.* "
            f"or setvae.*). Its weights are {', '.join(list(shapes)[:4])}, ..."
        )
    names = [item.name for item in fields(Sizes)]
    stated = {**stated, "running_statistics": RUNNING in shapes or fallback.get("running_statistics", False)}
    stated = {name: stated[name] for name in names if name in stated}
    shown = _shown(shapes, reduces=bool(stated.get("reduced_dim")))
    for name in ("levels", "transformer_layers"):  # a layer without any weight must be reported as missing
        _require_layers(name, shown[name], stated.get(name, 0), file)
        shown[name] = max(shown[name], stated[name]) if name in stated else shown[name] or fallback[name]
    for name in shown.keys() & stated.keys():
        if shown[name] != stated[name]:
            raise InputError(
                f"{file}: its hyper_parameters state {name} = {stated[name]!r}, but its weights have "
                f"{shown[name]!r}; the file mixes two models"
            )
    return _checked({name: fallback[name] for name in names if name in fallback} | stated | shown, file)


def _require_layers(name: str, shown: int, stated: int, file: str) -> None:
    """Raises InputError if far more layers are stated than the file has weights for: they would be built in vain."""
    if stated > MOST_MISSING * max(shown, 1):
        raise InputError(
            f"{file}: its hyper_parameters state {name} = {stated}, but its weights have {shown}; the file is "
            "incomplete or damaged"
        )


def _checked(values: dict[str, Any], file: str) -> Sizes:
    if "input_dim" not in values:
        raise InputError(
            f"{file}: the weight set_encoder.dim_reducer.weight is missing; without it the width of the "
            "variable embeddings is unknown"
        )
    check_recorded(Sizes, values, file)
    for name in ("heads", "transformer_heads"):
        if values["latent_dim"] % values[name]:
            raise InputError(
                f"{file}: {name} = {values[name]} is not a divisor of the checkpoint's latent_dim "
                f"{values['latent_dim']}; pass --{name} with the number it was trained with"
            )
    return Sizes(**values)


def _shown(shapes: Mapping[str, Sequence[int]], reduces: bool) -> dict[str, Any]:
    """The sizes that the shapes of weights show. With `reduces`, a dim_reducer is expected though it may be missing."""
    shown: dict[str, Any] = {}

    def look(name: str, weight: str, axis: int) -> None:
        if len(shapes.get(weight, ())) > axis:
            shown[name] = shapes[weight][axis]

    look("latent_dim", "set_encoder.embed.0.weight", 0)
    look("m", "set_encoder.encoder_layers.0.inducing", 0)
    look("ff_dim", "transformer.layers.0.linear1.weight", 0)
    if reduces or any(name.startswith("set_encoder.dim_reducer.") for name in shapes):
        look("reduced_dim", "set_encoder.dim_reducer.weight", 0)
        look("input_dim", "set_encoder.dim_reducer.weight", 1)
    else:
        shown["reduced_dim"] = None
        look("input_dim", "set_encoder.embed.0.weight", 1)
    for name, prefix in (("levels", "set_encoder.encoder_layers."), ("transformer_layers", "transformer.layers.")):
        numbers = [key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)]
        shown[name] = max((int(number) for number in numbers if re.fullmatch("[0-9]{1,9}", number)), default=-1) + 1
    return shown
