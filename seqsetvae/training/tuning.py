"""What is fine-tuned of a backbone, and at which learning rates; `settings.groups.TuningSettings` names the ways.

A backbone that OFFERS layers has `layers()`: its modules by layer, in the order from input to output.
"""

from __future__ import annotations

from itertools import accumulate, repeat
from operator import mul
from typing import Any

from torch import nn

from seqsetvae.ops.lora import add_lora, merge_lora
from seqsetvae.settings.groups import FinetuningRates
from seqsetvae.settings.tuning import TuningSettings
from seqsetvae.system.errors import InputError
from seqsetvae.training.optimizer import parameter_groups


def layers_of(backbone: Any) -> dict[str, nn.ModuleList]:
    """The layers of a backbone from input to output; every parameter is in one of them."""
    return {name: nn.ModuleList(modules) for name, modules in backbone.layers().items()}


def check_layers(tuning: TuningSettings, backbone: Any) -> None:
    """Raises InputError if more layers are to be tuned than there are."""
    if tuning.tuning == "last_layers" and tuning.tuned_layers > len(layers_of(backbone)):
        names = ", ".join(layers_of(backbone))
        raise InputError(
            f"tuned_layers: received {tuning.tuned_layers}; allowed: at most {len(layers_of(backbone))}, since the "
            f"layers of this backbone are {names}"
        )


def unfreeze(backbone: Any, tuning: TuningSettings) -> None:
    """Let the parameters that this tuning trains have a gradient, and no others."""
    if tuning.tuning == "lora":
        add_lora(backbone, tuning.lora_rank, tuning.lora_alpha)
        return
    backbone.requires_grad_(tuning.tuning != "last_layers")
    if tuning.tuning == "last_layers":
        nn.ModuleList(list(layers_of(backbone).values())[-tuning.tuned_layers :]).requires_grad_(True)


def freeze(backbone: Any) -> None:
    """No parameter has a gradient; what LoRA has added becomes part of the weights."""
    merge_lora(backbone)
    backbone.requires_grad_(False)


def set_training_mode(backbone: Any, mode: bool, tuning: TuningSettings) -> None:
    """Training mode, with dropout, in layers that train; the others stay in evaluation mode."""
    backbone.train(mode)
    if mode and tuning.tuning == "last_layers":
        nn.ModuleList(list(layers_of(backbone).values())[: -tuning.tuned_layers]).eval()


def rates_of_parts(backbone: Any, tuning: TuningSettings, rates: FinetuningRates) -> dict[str, float]:
    """The learning rate of each part of a backbone that has one of its own, by name."""
    if tuning.tuning == "layer_decay":
        names = reversed(list(layers_of(backbone)))
        falling = accumulate(repeat(tuning.layer_lr_factor), mul, initial=rates.lr)
        return dict(zip(names, falling, strict=False))
    return {"backbone": tuning.lora_lr if tuning.tuning == "lora" else rates.lr}


def backbone_groups(
    backbone: Any, tuning: TuningSettings, rates: FinetuningRates, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups of what trains in a backbone."""
    parts = layers_of(backbone) if tuning.tuning == "layer_decay" else {"backbone": backbone}
    of_parts = rates_of_parts(backbone, tuning, rates)
    return [group for name in parts for group in parameter_groups(name, parts[name], of_parts[name], weight_decay)]
