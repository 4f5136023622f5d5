"""The sizes of a SeqSetVAE backbone, as settings. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from seqsetvae.settings.declare import setting
from seqsetvae.settings.kinds import BOOLEAN, integer, number, optional

OFFERS = frozenset({"states", "layers", "padded_history"})  # see models/backbone.py


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The numbers that shape a backbone, under the names that checkpoints use in `hyper_parameters`."""

    input_dim: int  # I, width of the variable embeddings: follows from the data
    reduced_dim: int | None = setting(optional(integer(1, 65536)), default=256)  # R; None: no dim_reducer, and R = I
    latent_dim: int = setting(integer(2, 65536), default=256)  # D
    levels: int = setting(integer(0, 64), default=2)
    heads: int = setting(integer(1, 65536), default=2)
    m: int = setting(integer(1, 65536), default=16)
    ff_dim: int = setting(integer(1, 65536), default=512)
    transformer_heads: int = setting(integer(1, 65536), default=8)
    transformer_layers: int = setting(integer(1, 256), default=4)
    transformer_dropout: float = setting(number(0, 0.9), default=0.1)
    running_statistics: bool = setting(
        BOOLEAN,
        default=False,
        help="true: the history encoder also reads, at each set, last value, mean, extremes and more of each variable "
        "of the stay so far; a checkpoint without them gives the same numbers until they are trained",
    )

    @property
    def event_dim(self) -> int:
        """Width of an event vector: R, or I without a dim_reducer."""
        return self.input_dim if self.reduced_dim is None else self.reduced_dim

    def as_dict(self) -> dict[str, int | float | bool | None]:
        """All sizes by name; running_statistics only if true, so that other files stay unchanged."""
        return {name: value for name, value in asdict(self).items() if name != "running_statistics" or value}


# small is for CPUs; light has no attention within sets, which is most of its time.
_SMALL: dict[str, Any] = {
    "reduced_dim": 64,
    "latent_dim": 64,
    "levels": 2,
    "heads": 2,
    "m": 8,
    "ff_dim": 128,
    "transformer_heads": 4,
    "transformer_layers": 2,
}
PRESETS: dict[str, dict[str, Any]] = {"full": {}, "small": _SMALL, "light": _SMALL | {"levels": 0}}


# The learning rates of running statistics: in fine-tuning if their map begins at zero, as multiple of `lr` if it is
# pretrained, and of `pretrain_lr` in pretraining. With them, the settings of fine-tuning where the user sets no others
# (docs/experiments.md).
RUNNING_LR = 3e-3
RUNNING_TIMES_LR = 5
RUNNING_TIMES_PRETRAIN_LR = 10
RECIPES: dict[str, dict[str, Any]] = {
    "running_statistics": {
        "cls_head_lr": 1e-3,
        "lr": 4e-4,
        "max_epochs": 4,
        "unfreeze_after": 0,  # their map is zero: frozen, it would add nothing
        "lr_schedule": "cosine",
        "keep": "last",
        "ema_decay": 0.99,
        "head_pooling": "last_mean",
        "head_members": 16,
        "head_dropout": 0.3,
    }
}
MOST_WEIGHTS = 1_000_000_000  # 16 GB in 32 bits, with gradients and the two moments of AdamW


def n_weights(sizes: dict[str, Any]) -> int:
    """About how many numbers the large matrices of a new model hold, the decoder of pretraining not counted."""
    width, feed_forward = sizes["latent_dim"], sizes["ff_dim"]
    of_set_encoder = sizes["levels"] * (16 * width**2 + sizes["m"] * width) + 2 * width**2
    of_history = sizes["transformer_layers"] * (4 * width**2 + 2 * width * feed_forward)
    return of_set_encoder + of_history + (sizes["reduced_dim"] or 0) * width


def problems(sizes: dict[str, Any]) -> list[str]:
    """What is wrong with the sizes of a new model together; each line begins with the name of a setting."""
    width = sizes["latent_dim"]
    lines = [
        f"{name}: received {sizes[name]}; allowed: a divisor of latent_dim ({width})"
        for name in ("heads", "transformer_heads")
        if width % sizes[name]
    ]
    if n_weights(sizes) > MOST_WEIGHTS:
        lines.append(
            f"latent_dim: received {width}; with levels {sizes['levels']}, transformer_layers "
            f"{sizes['transformer_layers']} and ff_dim {sizes['ff_dim']} the model has about {n_weights(sizes):,} "
            f"weights; allowed: at most {MOST_WEIGHTS:,}"
        )
    return lines
