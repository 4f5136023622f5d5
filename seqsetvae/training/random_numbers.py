"""The states of all random number generators that a training step may draw from, as values that a checkpoint holds."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def rng_states() -> dict[str, Any]:
    """States of torch, CUDA, numpy and Python as tensors and plain values, since checkpoints hold nothing else."""
    name, keys, *position = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *position],
        "python": random.getstate(),
    }


def set_rng_states(states: dict[str, Any] | None) -> None:
    """What `rng_states` returned, here or in a process before; None changes nothing."""
    if states is None:
        return
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
    name, keys, *position = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *position))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
