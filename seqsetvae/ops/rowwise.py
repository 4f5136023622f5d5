"""Operations on each row or each entry by itself, and their number types.

Legend: R rows, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LEVELS = 2**16  # of a 16-bit draw
CACHED_ROWS = 1024  # rows of a feed-forward block at once where no gradient is kept: 2 MB of float32 at D = 256


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """float16 and bfloat16 become float32; other types stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def softmax(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Softmax in float32 at least, whatever the precision of the run."""
    return x.softmax(dim, dtype=torch.promote_types(x.dtype, torch.float32))


def dropout(x: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Entries become 0 with this probability, rounded to 1/65536; the others are scaled so that the mean stays.

    On a CPU one generator draws all random numbers, one after the other: F.dropout draws one number per entry, here
    each 64-bit draw serves four entries. The scale is the exact inverse of the kept share, so the rounding causes no
    bias. On a GPU, and in compiled code, F.dropout is faster and is used.
    """
    dropped = round(probability * LEVELS)
    if not training or dropped in (0, LEVELS) or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability, training)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
    mask = keep.to(torch.promote_types(x.dtype, torch.float32)).mul_(LEVELS / (LEVELS - dropped))
    return (x * mask).to(x.dtype)  # bfloat16 and float16 round the result, but not the scale


def feed_forward(x: torch.Tensor, norm: nn.LayerNorm, layers: nn.Sequential, last_norm: nn.LayerNorm) -> torch.Tensor:
    """last_norm(layers(norm(x))), [R, D] → [R, D], where the layers are Linear, GELU, Linear.

    On a CPU, where no gradient is kept, blocks of rows go through one after the other and GELU is computed in place, so
    that intermediate results stay in the cache of the core.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
        return last_norm(layers(norm(x)))
    up, _, down = layers
    out = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, last_norm.weight.dtype))
    for rows, finished in zip(x.split(CACHED_ROWS), out.split(CACHED_ROWS), strict=True):
        finished.copy_(last_norm(down(torch.ops.aten.gelu_(up(norm(rows))))))
    return out
