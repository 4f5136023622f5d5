"""Reconstruct every set from its history state: the objective of the SeqSetVAE checkpoints. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from seqsetvae.cohort import Cohort
from seqsetvae.settings.declare import setting
from seqsetvae.settings.kinds import integer, number
from seqsetvae.system.errors import InputError

if TYPE_CHECKING:
    from seqsetvae.models.seqsetvae import Sizes
    from seqsetvae.models.seqsetvae.decoder import PretrainingModel
    from seqsetvae.objectives.reconstruction.objective import Reconstruction

TRAINS: frozenset[str] | None = frozenset({"seqsetvae"})  # other architectures have no Gaussian of each set
WATCHED: tuple[str, Literal["max", "min"]] = ("val_loss", "min")
METRICS: tuple[str, ...] = (
    "train_loss",
    "train_recon",
    "train_kl",
    "val_loss",
    "val_recon",
    "val_kl",
    "val_active_units",
    "val_kl_per_dim",
    "beta",
)
PRINTED: tuple[str, ...] = (
    "train_loss",
    "val_loss",
    "val_recon",
    "val_kl",
    "val_active_units",
)  # the others are in metrics.csv

FEW_ACTIVE = 0.1  # share of active dimensions below which the posterior may have collapsed
FEW_STEPS = 500  # optimizer steps; after fewer, inactive dimensions say nothing about the objective
HUGE_Z = 1000.0  # standard deviations; a value beyond this is an error in the data or in stats.csv


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Weight of the KL term: rises linearly from 0 to `max_beta` in `beta_warmup_steps`; `free_bits` per dimension."""

    max_beta: float = setting(number(0))
    beta_warmup_steps: int = setting(integer(0))
    free_bits: float = setting(number(0))


def build_model(architecture: str, sizes: Sizes) -> PretrainingModel:
    """A SeqSetVAE backbone and the decoder. Raises InputError if the decoder would have no level."""
    from seqsetvae.models.seqsetvae.decoder import PretrainingModel

    if not sizes.levels:
        raise InputError("levels: received 0; allowed: 1 or more with --objective reconstruction; try forecasting")
    return PretrainingModel(sizes)


def build_loss(settings: Settings, sizes: Sizes) -> Reconstruction:
    """The terms of the loss."""
    from seqsetvae.objectives.reconstruction.objective import Reconstruction

    return Reconstruction(settings, sizes)


def advice(
    settings: Settings,
    sizes: Sizes,
    metrics: Mapping[str, float],
    step: int,
    epoch: int,
    cohort: Cohort,
) -> list[str]:
    """Warnings about a KL weight that did not rise in full, and about dimensions that do not vary between sets."""
    beta = _beta_advice(settings, metrics["beta"], step, epoch)
    return beta + _collapse_advice(settings, sizes.latent_dim, metrics["val_active_units"], step, cohort)


def _beta_advice(settings: Settings, beta: float, step: int, epoch: int) -> list[str]:
    if step >= settings.beta_warmup_steps:
        return []
    epochs = math.ceil(settings.beta_warmup_steps / (step / epoch))
    return [
        f"beta reached {beta:.3g} of max_beta {settings.max_beta:g}: the run had {step:,} "
        f"optimizer steps, beta_warmup_steps is {settings.beta_warmup_steps:,}. Train at least {epochs:,} epochs "
        "(--max_epochs), or pass a lower --beta_warmup_steps."
    ]


def _collapse_advice(settings: Settings, latent_dim: int, active: float, step: int, cohort: Cohort) -> list[str]:
    """Why few dimensions of mu vary between sets (Burda et al., 2016); nothing where enough do."""
    if active >= FEW_ACTIVE * latent_dim:
        return []
    finding = f"Only {active:.0f} of {latent_dim} dimensions of mu vary between sets"
    huge = huge_values(cohort)
    if huge:
        worst = ", ".join(f"{name!r} (|z| up to {z:,.0f})" for name, z in list(huge.items())[:3])
        return [
            f"{finding}, and the training data hold values beyond {HUGE_Z:,.0f} standard deviations: {worst}. They "
            "dominate the loss: correct the values, or the mean and std of these variables in stats.csv."
        ]
    if step < FEW_STEPS:
        return [f"{finding} after {step:,} optimizer steps, which are too few to judge: train longer first."]
    return [
        f"Posterior collapse: {finding[0].lower()}{finding[1:]} after {step:,} optimizer steps. Try a lower "
        f"max_beta (now {settings.max_beta:g}), a longer beta_warmup_steps, or more free_bits."
    ]


def huge_values(cohort: Cohort) -> dict[str, float]:
    """Variables with a training value beyond HUGE_Z standard deviations and their largest, largest first."""
    sums, variables = cohort.sums("train"), np.arange(len(cohort.vocabulary), dtype=np.int32)
    extremes = np.where(sums.count > 0, np.stack([sums.low, sums.high]), cohort.variables.shift)
    largest = np.abs([cohort.variables.z_scores(variables, values) for values in extremes]).max(axis=0)
    order = np.argsort(-largest, kind="stable")[: np.count_nonzero(largest >= HUGE_Z)]
    return {cohort.vocabulary[variable]: float(largest[variable]) for variable in order}
