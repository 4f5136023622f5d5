"""Demo: pretraining, fine-tuning and evaluation on a small SYNTHETIC cohort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqsetvae.cli.evaluate import DetailSettings
from seqsetvae.cli.evaluate import Settings as Evaluation
from seqsetvae.cli.finetune import Settings as Finetuning
from seqsetvae.cli.pretrain import Settings as Pretraining
from seqsetvae.models import ArchitectureSettings
from seqsetvae.settings import groups
from seqsetvae.settings.declare import declared, part
from seqsetvae.settings.groups import min_lr_problems

HELP = "run all steps on a small synthetic data set"
NEEDS = ()
BODY = "seqsetvae.runs.demo"
# Only a few hundred steps, so learning rates are higher and the warm-up of the KL weight is shorter than usual.
PRETRAINING = {"preset": "small", "max_epochs": 3, "beta_warmup_steps": 200}
FINETUNING = {"max_epochs": 6, "unfreeze_after": 2, "cls_head_lr": 1e-3, "lr": 3e-4, "warmup_steps": 20}
OWN_DATA: dict[str, Any] = {**dict.fromkeys(declared(groups.DataSettings)), "skip_bad": False}
SET_BY_DEMO = {
    *OWN_DATA,
    *PRETRAINING,
    *FINETUNING,
    *declared(ArchitectureSettings),
    *declared(groups.PretrainedSettings),
    "from_random_weights",
    *declared(groups.FinetunedSettings),
    *declared(groups.SplitSettings),
    *declared(groups.OutputSettings),
    *declared(DetailSettings),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the demo reads: the settings of its steps, except for those of the user's own data and model."""

    pretraining: Pretraining = part(except_for=SET_BY_DEMO)
    finetuning: Finetuning = part(except_for=SET_BY_DEMO)
    evaluation: Evaluation = part(except_for=SET_BY_DEMO)


def problems(settings: Settings) -> list[str]:
    """min_lr is the lower limit of all learning rates."""
    return min_lr_problems(settings.finetuning.schedule, settings.finetuning.rates, settings.pretraining.rate)
