"""LoRA (Hu et al., 2022): W + alpha / r · B A, with a frozen matrix W and trained matrices A [r, in] and B [out, r].

It replaces the weight itself (torch.nn.utils.parametrize), not the forward function of a layer, because backbones here
read weights and multiply them with one another. What is computed is therefore exactly what the merged weight computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

_ORIGINAL, _A, _B = "original", "0.A", "0.B"  # names of the tensors that stand for a weight, below _PART
_PART = ".parametrizations."


class LowRank(nn.Module):
    """A trained matrix of low rank that is added to a weight; zero at first."""

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float) -> None:
        """Adapters for a weight [out, in]."""
        super().__init__()
        self.scale = alpha / rank
        self.A = nn.Parameter(weight.detach().new_empty(rank, weight.shape[1]))
        self.B = nn.Parameter(weight.detach().new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight [out, in] with the matrix added, never rounded by autocast."""
        return _added(weight, self.A, self.B, self.scale)


def _added(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    with torch.autocast(weight.device.type, enabled=False):
        return torch.addmm(weight, b, a, alpha=scale)


def _matrices(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every matrix of linear maps and attention, as (its module, its name)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            yield part, "weight"
        elif isinstance(part, nn.MultiheadAttention):
            yield part, "in_proj_weight"  # its out_proj is a linear map


def add_lora(module: nn.Module, rank: int, alpha: float) -> None:
    """Freeze a module, and add a trained matrix of this rank to each matrix of its linear maps and attention.

    Where a matrix is smaller than the rank, the rank is that of the matrix. Queries, keys and values share A.
    """
    module.requires_grad_(False)
    for part, name in list(_matrices(module)):
        weight = getattr(part, name)
        register_parametrization(part, name, LowRank(weight, min(rank, *weight.shape), alpha))


def merge_lora(module: nn.Module) -> None:
    """Replace each weight by its sum with the trained matrix, so that the module is an ordinary one again."""
    for part, name in list(_matrices(module)):
        if is_parametrized(part, name):
            remove_parametrizations(part, name, leave_parametrized=True)


def merged_state(state: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """The state dict that a module would have after `merge_lora`, from that which it has before."""
    merged = {name: value for name, value in state.items() if _PART not in name}
    for name, original in state.items():
        if _PART in name and name.endswith(_ORIGINAL):
            start = name.removesuffix(_ORIGINAL)
            a, b = state[start + _A], state[start + _B]
            with torch.no_grad():
                merged[start.rstrip(".").replace(_PART, ".")] = _added(original, a, b, alpha / len(a))
    return merged


def adapters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Frozen weights and trained matrices in a state dict, which `merged_state` leaves out."""
    return {name: value for name, value in state.items() if _PART in name}


def with_adapters(state: dict[str, torch.Tensor], adapter_state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict that `merged_state` was made from; `adapter_state` is from `adapters`."""
    merged = {
        name.removesuffix("." + _ORIGINAL).replace(_PART, ".") for name in adapter_state if name.endswith(_ORIGINAL)
    }
    return {name: value for name, value in state.items() if name not in merged} | adapter_state
