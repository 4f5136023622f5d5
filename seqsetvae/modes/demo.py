"""Demo: pretraining, fine-tuning and evaluation on a small SYNTHETIC cohort."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqsetvae.architectures.settings import ArchitectureSettings
from seqsetvae.modes import evaluate, finetune, pretrain
from seqsetvae.settings.declare import changed, declared, part
from seqsetvae.settings.groups import (
    DataSettings,
    FinetunedSettings,
    OutputSettings,
    PretrainedSettings,
    SplitSettings,
    min_lr_problems,
)

HELP = "run all steps on a small synthetic data set"
NEEDS = ()
STAYS = 900
# Only a few hundred steps, so learning rates are higher and the warm-up of the KL weight is shorter than usual.
PRETRAINING = {"preset": "small", "max_epochs": 3, "beta_warmup_steps": 200}
FINETUNING = {"max_epochs": 6, "unfreeze_after": 2, "cls_head_lr": 1e-3, "lr": 3e-4, "warmup_steps": 20}
OWN_DATA: dict[str, Any] = {**dict.fromkeys(declared(DataSettings)), "skip_bad": False}
SET_BY_DEMO = {
    *OWN_DATA,
    *PRETRAINING,
    *FINETUNING,
    *declared(ArchitectureSettings),
    *declared(PretrainedSettings),
    "from_random_weights",
    *declared(FinetunedSettings),
    *declared(SplitSettings),
    *declared(OutputSettings),
    *declared(evaluate.DetailSettings),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the demo reads: the settings of its steps, except for those of the user's own data and model."""

    pretraining: pretrain.Settings = part(except_for=SET_BY_DEMO)
    finetuning: finetune.Settings = part(except_for=SET_BY_DEMO)
    evaluation: evaluate.Settings = part(except_for=SET_BY_DEMO)


def problems(settings: Settings) -> list[str]:
    """min_lr is the lower limit of all learning rates."""
    return min_lr_problems(settings.finetuning.schedule, settings.finetuning.rates, settings.pretraining.rate)


def run(settings: Settings) -> dict[str, Any]:
    """Write synthetic stays in the old layout, pretrain, fine-tune and evaluate; each step prints its command."""
    from seqsetvae.cohort.sources.synthetic import write_synthetic
    from seqsetvae.training.run_folder import RunFolder

    of_run = settings.evaluation.run
    folder = RunFolder.create(of_run.output_root_dir, "demo").path
    data_dir = write_synthetic(folder / "processed", n_stays=STAYS, seed=of_run.seed)
    print(f"SYNTHETIC data: {STAYS} generated stays in {data_dir}. The results below say nothing about real patients.")

    def step(module: Any, of_mode: Any, **changes: Any) -> Any:
        """Print the command of one mode and run it, with the other settings that were given to the demo."""
        flags = {**changes, "output_root_dir": folder}
        shown = {name: value[0] if isinstance(value, tuple) else value for name, value in flags.items()}
        print("\n$ " + shlex.join(["python", "train_optimized.py", *(f"--{name}={shown[name]}" for name in shown)]))
        return module.run(changed(of_mode, **{**OWN_DATA, **flags}))

    pretrained = step(pretrain, settings.pretraining, mode="pretrain", data_dir=data_dir, **PRETRAINING)
    best = RunFolder(Path(pretrained.run)).best
    finetuned = step(
        finetune, settings.finetuning, mode="finetune", pretrained_ckpt=best, data_dir=data_dir, **FINETUNING
    )
    result: dict[str, Any] = step(
        evaluate, settings.evaluation, mode="evaluate", ckpt=(Path(finetuned.run),), split="test"
    )
    print("These results are of SYNTHETIC data.")
    return result
