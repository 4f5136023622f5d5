"""Fine-tuning SeqSetVAE: fast, exact, honest. docs/architecture.md shows how this package is organized.

From Python: `from seqsetvae import compile_cohort, evaluate, finetune, load, predict, pretrain` (docs/python.md).
"""

from __future__ import annotations

from typing import Any

from seqsetvae.system.environment import usable_matplotlib

usable_matplotlib()

__version__ = "1.0.0"  # pyproject.toml reads it from here
__all__ = ["compile_cohort", "evaluate", "finetune", "load", "predict", "pretrain"]


def __getattr__(name: str) -> Any:
    """All but `compile_cohort` import torch, which takes seconds, so they are imported when they are used."""
    if name == "compile_cohort":
        from seqsetvae.cohort.sources import compile_cohort

        return compile_cohort
    if name in __all__:
        from seqsetvae import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
