"""Demo: the main job from end to end on a small SYNTHETIC cohort, with a checkpoint pretrained on the spot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.modes import evaluate, finetune, pretrain
from seqsetvae.settings import Settings
from seqsetvae.training.run_folder import RunFolder

STAYS = 900
PRETRAIN_EPOCHS, FINETUNE_EPOCHS, FROZEN_EPOCHS = 4, 8, 4


def run(settings: Settings) -> evaluate.Evaluation:
    """Write synthetic stays in the old layout, pretrain, fine-tune and evaluate; every step prints its own command."""
    folder = RunFolder.create(settings.output_root_dir, "demo").path
    data_dir = folder / "processed"
    write_synthetic(data_dir, n_stays=STAYS, seed=settings.seed)
    base = replace(settings, data_dir=data_dir / "patient_ehr", output_root_dir=folder, preset="small", batch_size=16)
    print(f"SYNTHETIC data: {STAYS} made-up stays in {base.data_dir}. What follows says nothing about real patients.")

    _say(f"--mode pretrain --preset small --data_dir {base.data_dir} --max_epochs {PRETRAIN_EPOCHS}")
    pretrained = pretrain.run(replace(base, mode="pretrain", max_epochs=PRETRAIN_EPOCHS))
    checkpoint = RunFolder(Path(pretrained.run)).best

    _say(f"--mode finetune --pretrained_ckpt {checkpoint} --data_dir {base.data_dir} --max_epochs {FINETUNE_EPOCHS}")
    finetuned = finetune.run(
        replace(
            base, mode="finetune", pretrained_ckpt=checkpoint, max_epochs=FINETUNE_EPOCHS, unfreeze_after=FROZEN_EPOCHS
        )
    )

    _say(f"--mode evaluate --ckpt {finetuned.run} --split test")
    result = evaluate.run(replace(base, mode="evaluate", ckpt=Path(finetuned.run), split="test"))
    print("These figures are of SYNTHETIC data.")
    return result


def _say(flags: str) -> None:
    print(f"\n$ python train_optimized.py {flags}")
