"""Demo: pretraining, fine-tuning and evaluation on a small SYNTHETIC cohort."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from seqsetvae.cli.demo import FINETUNING, OWN_DATA, PRETRAINING, Settings
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.runs import evaluate, finetune, pretrain
from seqsetvae.settings.declare import changed
from seqsetvae.system.environment import program
from seqsetvae.training.run_folder import RunFolder

STAYS = 900


def run(settings: Settings) -> dict[str, Any]:
    """Write synthetic stays in the old layout, pretrain, fine-tune and evaluate; each step prints its command."""
    of_run = settings.evaluation.run
    folder = RunFolder.create(of_run.output_root_dir, "demo").path
    data_dir = write_synthetic(folder / "processed", n_stays=STAYS, seed=of_run.seed)
    print(f"SYNTHETIC data: {STAYS} generated stays in {data_dir}. The results below say nothing about real patients.")

    def step(module: Any, of_mode: Any, **changes: Any) -> Any:
        """Print the command of one mode and run it, with the other settings that were given to the demo."""
        flags = {**changes, "output_root_dir": folder}
        shown = {name: value[0] if isinstance(value, tuple) else value for name, value in flags.items()}
        print("\n$ " + f"{program('train_optimized.py')} " + shlex.join(f"--{name}={shown[name]}" for name in shown))
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
