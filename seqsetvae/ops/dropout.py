"""Dropout that draws few random numbers.

On a CPU the draws cost about a tenth of a training step: one generator, one number an entry. Here each 64-bit draw
serves four entries of 16 bits, which takes a third of the time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

LEVELS = 2**16  # of a 16-bit draw


def dropout(x: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Entries become 0 with this probability, to the nearest 1/65536; the others are scaled so that means stay.

    The scale is the exact inverse of the share that is kept, so nothing is biased by the rounding. On a GPU, and where
    it is compiled, this is torch's own, which is faster there.
    """
    dropped = round(probability * LEVELS)
    if not training or dropped in (0, LEVELS) or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability, training)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
    mask = keep.to(torch.promote_types(x.dtype, torch.float32)).mul_(LEVELS / (LEVELS - dropped))
    return (x * mask).to(x.dtype)  # a coarse type rounds the result, but not the scale
