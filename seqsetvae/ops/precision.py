"""Number types."""

from __future__ import annotations

import torch


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """float16 and bfloat16 become float32; other types stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
