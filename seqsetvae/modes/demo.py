"""Demo: pretraining, fine-tuning and evaluation on a small SYNTHETIC cohort."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.modes import evaluate, finetune, pretrain
from seqsetvae.settings import Settings
from seqsetvae.training.run_folder import RunFolder

Result = TypeVar("Result")

STAYS = 900
OWN_DATA: dict[str, Any] = {
    "data_dir": None,
    "params_map_path": None,
    "label_path": None,
    "embeddings_path": None,
    "label_name": None,
    "skip_bad": False,
    "max_sets": None,
}
# Only a few hundred steps, so learning rates are higher and the warm-up of the KL weight is shorter than usual.
PRETRAINING = {"preset": "small", "max_epochs": 3, "beta_warmup_steps": 200}
FINETUNING = {"max_epochs": 6, "unfreeze_after": 2, "cls_head_lr": 1e-3, "lr": 3e-4, "warmup_steps": 20}


def run(settings: Settings) -> evaluate.Evaluation:
    """Write synthetic stays in the old layout, pretrain, fine-tune and evaluate; each step prints its command."""
    folder = RunFolder.create(settings.output_root_dir, "demo").path
    # The user's other settings are kept, except those of their own data and the sizes of their own model.
    base = replace(settings, output_root_dir=folder, chosen_sizes=(), **OWN_DATA)
    data_dir = write_synthetic(folder / "processed", n_stays=STAYS, seed=settings.seed)
    print(f"SYNTHETIC data: {STAYS} generated stays in {data_dir}. The results below say nothing about real patients.")

    pretrained = _step(pretrain.run, base, mode="pretrain", data_dir=data_dir, **PRETRAINING)
    checkpoint = RunFolder(Path(pretrained.run)).best
    finetuned = _step(finetune.run, base, mode="finetune", pretrained_ckpt=checkpoint, data_dir=data_dir, **FINETUNING)
    result = _step(evaluate.run, base, mode="evaluate", ckpt=Path(finetuned.run), split="test")
    print("These results are of SYNTHETIC data.")
    return result


def _step(run_mode: Callable[[Settings], Result], base: Settings, **changes: Any) -> Result:
    """Print the command of one mode and run it, with the settings that were given to the demo."""
    flags = {**changes, "output_root_dir": base.output_root_dir}
    print("\n$ " + shlex.join(["python", "train_optimized.py", *(f"--{name}={flags[name]}" for name in flags)]))
    return run_mode(replace(base, **changes))
