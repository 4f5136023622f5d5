"""The package from Python: `from seqsetvae import load, predict`. docs/python.md has an example."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from seqsetvae.checkpoint.backbone import Loaded
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.evaluation.calibration import read_calibration
from seqsetvae.runs.predict import rows
from seqsetvae.runs.scoring import open_scorer
from seqsetvae.settings.groups import DataSettings, LoaderSettings, RunSettings
from seqsetvae.system.errors import InputError
from seqsetvae.training.run_folder import find_checkpoint

if TYPE_CHECKING:
    import pandas as pd


def load(checkpoint: str | Path) -> Loaded:
    """A fine-tuned model, on the CPU in evaluation mode, and what its checkpoint records.

    Args:
        checkpoint: a run folder (its checkpoints/best.ckpt is used) or a .ckpt file.

    Raises:
        InputError: there is no such file, it is damaged, or it is not a fine-tuned checkpoint.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise InputError(f"checkpoint: received {str(checkpoint)!r}, which does not exist")
    return load_finetuned(find_checkpoint(path)[0])


def predict(
    model: Loaded,
    data_dir: str | Path,
    *,
    split: str | None = None,
    batch_size: int = 8,
    accelerator: str = "cpu",
    cache_dir: str | Path = "outputs",
) -> pd.DataFrame:
    """Predictions for the stays of a data folder or a compiled cohort, labelled or not, as --mode predict writes them.

    Args:
        model: from `load`; its checkpoint is read again, so changes of its weights have no effect.
        data_dir: a folder of the old layout, which is compiled first, or a compiled cohort.
        split: train, valid or test; by default all stays.
        batch_size: stays per batch.
        accelerator: cpu, gpu or auto.
        cache_dir: where compiled data folders are kept.

    Returns:
        A row for each stay with the columns stay_id, split, logit (log-odds of class 1), probability,
        calibrated_probability, label and reason.

    Warns:
        UserWarning: for each way in which the data differ from the training data, so that predictions may mean nothing.

    Raises:
        InputError: the data cannot be used with this model, which it explains, or pandas is not installed.
    """
    if find_spec("pandas") is None:  # only this needs it: commands write Arrow tables
        raise InputError("predict returns a pandas table; install it with: pip install pandas")
    data = DataSettings(
        data_dir=Path(data_dir),
        params_map_path=None,
        label_path=None,
        embeddings_path=None,
        label_name=None,
        skip_bad=False,
        max_sets=None,
    )
    loader = LoaderSettings(batch_size=batch_size)
    run = RunSettings(
        output_root_dir=Path(cache_dir),
        seed=0,
        accelerator=accelerator,
        devices=1,
        strategy="auto",
        precision="32-true",
        deterministic=False,
        compile_model=False,
    )
    asked = [] if split is None else [split]
    scorer = open_scorer(model.path, data, loader, run, asked, labelled=False)
    calibration, _ = read_calibration(model.path, scorer.spec.task)
    splits = asked or list(scorer.cohort.splits)
    for difference in scorer.drift(splits):
        warnings.warn(difference, UserWarning, stacklevel=2)
    return rows(scorer, splits, calibration, all_splits=split is None).to_pandas()
