"""Reconstruct every set from its history state."""

from dataclasses import dataclass

from seqsetvae.settings.declare import setting
from seqsetvae.settings.kinds import integer, number


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Weight of the KL term: rises linearly from 0 to `max_beta` in `beta_warmup_steps`; `free_bits` per dimension."""

    max_beta: float = setting(number(0))
    beta_warmup_steps: int = setting(integer(0))
    free_bits: float = setting(number(0))
