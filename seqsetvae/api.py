"""The commands from Python: `from seqsetvae import finetune, evaluate, load, predict`. docs/python.md has examples.

A setting is a keyword argument with the name of its flag, checked by the same rules as on the command line.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from seqsetvae.checkpoint.backbone import Loaded
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cli import MODES
from seqsetvae.cli.command_line import Call, processes_of, resolve
from seqsetvae.cli.config import SHIPPED, load_config
from seqsetvae.runs.predict import predicted
from seqsetvae.settings.resume import RESUME
from seqsetvae.system.console import recorded_output, silent
from seqsetvae.system.errors import InputError
from seqsetvae.training.run_folder import find_checkpoint

if TYPE_CHECKING:
    import pandas as pd


def pretrain(*, config: str | Path | None = None, **settings: Any) -> Path:
    """Pretrain a backbone, as the command `pretrain`, and return its run folder; see `finetune`."""
    return _train("pretrain", config, settings)


def finetune(*, config: str | Path | None = None, **settings: Any) -> Path:
    """Fine-tune, as the command `finetune`, whose output it prints.

    Args:
        config: a config file; by default the one that came with the program (in a checkout the one that you edit).
        settings: flags by name, such as data_dir="DATA", architecture="variable_summaries", from_random_weights=True,
            lr=1e-5; or resume=RUN_FOLDER alone, to resume an interrupted run.

    Returns:
        The run folder, which `load`, `evaluate(ckpt=...)` and the commands take.

    Raises:
        InputError: every problem with the settings, or the first one with data or checkpoint.
    """
    return _train("finetune", config, settings)


def evaluate(*, config: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Evaluate fine-tuned checkpoints, as the command `evaluate`, which prints nothing here.

    Args:
        config: as of `finetune`.
        settings: flags by name, such as ckpt=RUN_FOLDER, split="test", data_dir="OTHER_DATA", baselines="none".

    Returns:
        The content of evaluation.json, which is written too (docs/evaluation.md). What a reader must know first is in
        ["findings"].

    Raises:
        InputError: as `finetune`.
    """
    call = _resolved("evaluate", config, settings)
    with silent():
        content: dict[str, Any] = call.run()
    return content


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
    config: str | Path | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Predictions for the stays of a data folder or a compiled cohort, labelled or not, as the command writes them.

    Args:
        model: from `load`; its checkpoint is read again, so changes of its weights have no effect.
        data_dir: a folder of the old layout, which is compiled first, or a compiled cohort.
        split: train, valid or test; by default all stays.
        batch_size: stays per batch.
        accelerator: cpu, gpu or auto.
        cache_dir: where compiled data folders are kept.
        config: as of `finetune`.
        settings: other flags of the command, such as reasons=3, every_set=True or explain=[7, 9].

    Returns:
        The rows that the command writes: without other flags one for each stay, with the columns stay_id, split, logit
        (log-odds of class 1), probability, calibrated_probability, label and reason.

    Warns:
        UserWarning: for each way in which the data differ from the training data, so that predictions may mean nothing.

    Raises:
        InputError: the data cannot be used with this model, which it explains, or pandas is not installed.
    """
    if find_spec("pandas") is None:  # only this needs it: commands write Arrow tables
        raise InputError("predict returns a pandas table; install it with: pip install pandas")
    if "output" in settings:
        raise InputError(f"output: received {str(settings['output'])!r}; leave it out: predict returns the table")
    own = {"ckpt": model.path, "data_dir": data_dir, "split": split, "batch_size": batch_size}
    own |= {"accelerator": accelerator, "output_root_dir": cache_dir}
    call = _resolved("predict", config, own | settings)
    with silent():
        prediction = predicted(call.settings)
    for difference in prediction.drift:
        warnings.warn(difference, UserWarning, stacklevel=2)
    return prediction.table.to_pandas()


def _train(mode: str, config: str | Path | None, settings: dict[str, Any]) -> Path:
    """Raises InputError."""
    call = _resolved(mode, config, settings)
    with recorded_output():  # for train.log
        summary = call.run()
    return Path(settings[RESUME] if summary is None else summary.run)  # None: the run was finished before


def _resolved(mode: str, config: str | Path | None, settings: dict[str, Any]) -> Call:
    """The command with these settings. Raises InputError, also for several processes, which only the command starts."""
    words = [mode]
    for name, value in settings.items():
        words += _setting_words(name, value)
    modes = MODES | {"predict": SimpleNamespace(**vars(MODES["predict"]) | {"NEEDS": ("ckpt",)})}  # a table, no file
    call = resolve(load_config(SHIPPED if config is None else Path(config)), words, modes)
    if processes_of(call.settings) != (1, 1):
        raise InputError("devices, num_nodes: allowed from Python: 1; use the command with several processes")
    return call


def _setting_words(name: str, value: Any) -> list[str]:
    """A setting as words of the command line, where None is none and a list is several values."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = [str(each).lower() if each is None or isinstance(each, bool) else str(each) for each in values]
    return [f"--{name}={text}" for text in texts] or [f"--{name}"]
