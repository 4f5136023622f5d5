"""Experiment trackers beside metrics.csv and TensorBoard: Weights & Biases and MLflow, where they are installed.

They get the name of the run folder, the settings without paths, and the rows of metrics.csv: no stay, and no path of
this machine. Weights & Biases stays offline unless WANDB_MODE says otherwise, and MLflow writes to MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from seqsetvae.errors import InputError
from seqsetvae.settings.declare import as_plain, paths_in

PROJECT = "seqsetvae"


class Tracker(Protocol):
    """What receives the metrics of a run."""

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """The numbers of one validation."""

    def close(self) -> None:
        """Nothing follows."""


class Wandb:
    """A run of Weights & Biases, in a folder `wandb` of the run folder; `wandb sync` sends it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        private = wandb.Settings(  # what it would record of this machine: command line, paths, packages, output, load
            console="off",
            silent=True,
            host="-",
            disable_code=True,
            disable_git=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        options: dict[str, Any] = {"mode": mode, "settings": private, "reinit": "finish_previous"}
        self.run = wandb.init(project=PROJECT, name=folder.name, dir=folder, config=dict(settings), **options)

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """A run of MLflow. Its client, unlike its other interface, adds no name of a user or script."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient, MlflowException

        try:
            self.client = MlflowClient()
            experiment = self.client.get_experiment_by_name(PROJECT)
            number = self.client.create_experiment(PROJECT) if experiment is None else experiment.experiment_id
            self.run = self.client.create_run(number, run_name=folder.name).info.run_id
            for name, value in settings.items():
                self.client.log_param(self.run, name, value)
        except MlflowException as error:
            first = str(error).splitlines()[0]
            raise InputError(f"loggers: mlflow cannot be used ({first}). Set MLFLOW_TRACKING_URI.") from error

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.client.log_metric(self.run, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run)


TRACKERS: dict[str, Any] = {"wandb": Wandb, "mlflow": Mlflow}


def trackers(names: Sequence[str] | None, folder: Path, settings: Any) -> list[Tracker]:
    """The trackers of these names for a run in a folder, with the settings of its mode. Raises InputError."""
    hidden = paths_in(settings)
    shown = {name: value for name, value in as_plain(settings).items() if name not in hidden}
    return [TRACKERS[name](folder, shown) for name in names or ()]
