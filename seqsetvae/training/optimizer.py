"""What trains of a model and how: AdamW by part of the model, the ways of tuning a backbone, the gradient of a step.

`settings.tuning.TuningSettings` names the ways of tuning. A backbone that OFFERS layers has `layers()`: its modules by
layer, in the order from input to output.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate, repeat
from operator import mul
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from seqsetvae.models.beside import main_part
from seqsetvae.ops.lora import add_lora, merge_lora
from seqsetvae.settings.groups import FinetuningRates
from seqsetvae.settings.tuning import TuningSettings
from seqsetvae.system.errors import InputError


def parameter_groups(
    name: str, part: nn.Module, lr: float, weight_decay: float, others: Collection[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Parameter groups of one part: matrices decay, biases, norms and scalars do not (Loshchilov & Hutter, 2019).

    Parameters among `others` belong to another part.
    """
    apart = {id(value) for value in others}
    trainable = [value for value in part.parameters() if value.requires_grad and id(value) not in apart]
    groups = [
        {"name": name, "params": [value for value in trainable if value.ndim >= 2], "weight_decay": weight_decay},
        {"name": f"{name}_no_decay", "params": [value for value in trainable if value.ndim < 2], "weight_decay": 0.0},
    ]
    return [group | {"part": name, "lr": lr, "initial_lr": lr} for group in groups if group["params"]]


def adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """AdamW in one kernel, on a CPU too: the same steps up to rounding, in less time."""
    optimizer = torch.optim.AdamW(groups, fused=True)
    # A fused optimizer declares that it unscales float16 gradients inside its step, and Lightning then refuses to clip
    # gradients, in bfloat16 too. Without that declaration gradients are unscaled and clipped before the step, as usual.
    optimizer._step_supports_amp_scaling = False
    return optimizer


class LargeBatchGradient(pl.LightningModule):
    """With gradient accumulation or several processes, a step gets the gradient of one large batch of the same stays.

    Lightning divides the mean loss of each batch by `accumulate_grad_batches`, and DistributedDataParallel averages
    over the processes, which is right if all batches are of one size and every group is complete. Here the weight of a
    batch is what its mean was divided by: in one process relative to the first batch of its group, in several as it is.
    """

    _first_weight: float | torch.Tensor
    _group_weight: float | torch.Tensor = 0.0  # sum over the group so far, relative to its first batch; 0: no batch yet

    def weighted(self, loss: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
        """What training_step returns for a mean loss that was divided by `weight` (stays or sets, for example)."""
        if self._batches_of_a_step == 1:
            return loss
        if isinstance(self._group_weight, float) and self._group_weight == 0.0:
            self._first_weight = weight if self.trainer.world_size == 1 else 1.0
        share = weight / self._first_weight
        self._group_weight = self._group_weight + share
        return loss * share

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before clipping: divide by the weight of the group, not by the number of batches in a full group."""
        if self._batches_of_a_step == 1:
            return
        weight = self._group_weight
        if self.trainer.world_size > 1:
            weight = torch.as_tensor(weight, dtype=torch.float64, device=self.device)
            torch.distributed.all_reduce(weight)
        parameters = [value for group in optimizer.param_groups for value in group["params"]]
        gradients = [value.grad for value in parameters if value.grad is not None]
        torch._foreach_mul_(gradients, self._batches_of_a_step / weight)
        self._group_weight = 0.0

    @property
    def _batches_of_a_step(self) -> int:
        return self.trainer.accumulate_grad_batches * self.trainer.world_size


# ------------------------------------------------------------------ what is fine-tuned of a backbone
# Parts with a rate of their own (BackboneBase.own_rates) train at it, whatever the tuning. Those beside the backbone,
# which alone is frozen and tuned, always train.


def layers_of(backbone: Any) -> dict[str, nn.ModuleList]:
    """The layers of a backbone from input to output; every parameter is in one of them."""
    return {name: nn.ModuleList(modules) for name, modules in main_part(backbone).layers().items()}


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
    main = main_part(backbone)
    if tuning.tuning == "lora":
        add_lora(main, tuning.lora_rank, tuning.lora_alpha)
        return
    main.requires_grad_(tuning.tuning != "last_layers")
    if tuning.tuning == "last_layers":
        nn.ModuleList(list(layers_of(backbone).values())[-tuning.tuned_layers :]).requires_grad_(True)


def freeze(backbone: Any) -> None:
    """No parameter has a gradient; what LoRA has added becomes part of the weights."""
    main = main_part(backbone)
    merge_lora(main)
    main.requires_grad_(False)


def set_training_mode(backbone: Any, mode: bool, tuning: TuningSettings) -> None:
    """Training mode, with dropout, in layers that train; the others stay in evaluation mode."""
    main_part(backbone).train(mode)
    if mode and tuning.tuning == "last_layers":
        nn.ModuleList(list(layers_of(backbone).values())[: -tuning.tuned_layers]).eval()


def rates_of_parts(backbone: Any, tuning: TuningSettings, rates: FinetuningRates) -> dict[str, float]:
    """The learning rate of each part of a backbone that has one of its own, by name."""
    own = {name: rate for name, (_, rate) in _own_rates(backbone, tuning, rates).items()}
    if tuning.tuning == "layer_decay":
        names = reversed(list(layers_of(backbone)))
        falling = accumulate(repeat(tuning.layer_lr_factor), mul, initial=rates.lr)
        return own | dict(zip(names, falling, strict=False))
    return own | {"backbone": tuning.lora_lr if tuning.tuning == "lora" else rates.lr}


def backbone_groups(
    backbone: Any, tuning: TuningSettings, rates: FinetuningRates, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups of what trains in a backbone."""
    own = {name: part for name, (part, _) in _own_rates(backbone, tuning, rates).items()}
    parts = layers_of(backbone) if tuning.tuning == "layer_decay" else {"backbone": main_part(backbone)}
    apart = [value for part in own.values() for value in part.parameters()]
    rate_of = rates_of_parts(backbone, tuning, rates)
    return [
        group
        for name, part in {**own, **parts}.items()
        for group in parameter_groups(name, part, rate_of[name], weight_decay, () if name in own else apart)
    ]


def _own_rates(backbone: Any, tuning: TuningSettings, rates: FinetuningRates) -> dict[str, tuple[nn.Module, float]]:
    """Without those of what LoRA tunes: it adds to their matrices as to any other."""
    own, main = backbone.own_rates(rates.lr), main_part(backbone).own_rates(rates.lr)
    return own if tuning.tuning != "lora" else {name: value for name, value in own.items() if name not in main}
