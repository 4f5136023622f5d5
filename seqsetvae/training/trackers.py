"""Experiment trackers beside metrics.csv: TensorBoard, and Weights & Biases and MLflow, where they are installed.

One that fails costs a warning, and the run continues without it. Weights & Biases and MLflow get the name of the run
folder, the settings without paths, and the rows of metrics.csv: no stay, and no path of this machine. Weights & Biases
stays offline unless WANDB_MODE says otherwise, and MLflow writes to MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from seqsetvae.settings.declare import as_plain, paths_in
from seqsetvae.system.console import warn

PROJECT = "seqsetvae"
LONGEST_SECONDS = 30  # of waiting for a server


class Tracker(Protocol):
    """Interface of what receives the metrics of a run."""

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """The numbers of one validation."""

    def close(self) -> None:
        """Finish: nothing is added after this."""


class Guarded:
    """A tracker whose first failure is one warning, after which it gets nothing more."""

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        with self._warning():
            self._tracker = start()

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        with self._warning():
            if self._tracker is not None:
                self._tracker.add(metrics, step)

    def close(self) -> None:
        with self._warning():
            if self._tracker is not None:
                self._tracker.close()

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of whatever kind: it is another program's, and the run does not depend on it
            self._tracker = None
            reason = " ".join(str(error).split()) or type(error).__name__
            warn(f"{self._name} fails ({reason:.200}); the run continues without it")


class TensorBoard:
    """Curves for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with _no_traceback_of_its_thread():
            self._writer = SummaryWriter(str(folder))

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        with _no_traceback_of_its_thread():
            for name, value in metrics.items():
                if name not in ("stage", "epoch"):
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def close(self) -> None:
        with _no_traceback_of_its_thread():
            self._writer.close()


@contextlib.contextmanager
def _no_traceback_of_its_thread() -> Iterator[None]:
    """The writer's thread prints no traceback; the main thread raises its OSError again."""
    print_traceback = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if not issubclass(raised.exc_type, OSError):
            print_traceback(raised)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = print_traceback


def tensorboard(folder: Path) -> Guarded | None:
    """The curves of a run; None, said in one line, where tensorboard is not installed."""
    if find_spec("tensorboard") is None:
        print("No TensorBoard curves, only metrics.csv: tensorboard is not installed (pip install tensorboard)")
        return None
    return Guarded("TensorBoard", lambda: TensorBoard(folder))


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
            login_timeout=LONGEST_SECONDS,
            init_timeout=LONGEST_SECONDS,
            finish_timeout=LONGEST_SECONDS,
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
        # By default it waits two minutes for an answer, and asks eight times.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(LONGEST_SECONDS // 3))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient()
        experiment = self.client.get_experiment_by_name(PROJECT)
        number = self.client.create_experiment(PROJECT) if experiment is None else experiment.experiment_id
        self.run = self.client.create_run(number, run_name=folder.name).info.run_id
        parameters = [Param(name, str(value)) for name, value in settings.items()]
        for first in range(0, len(parameters), 100):  # what a server takes at once
            self.client.log_batch(self.run, params=parameters[first : first + 100])

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.run, [Metric(name, value, now, step) for name, value in metrics.items()])

    def close(self) -> None:
        self.client.set_terminated(self.run)


TRACKERS: dict[str, Any] = {"wandb": Wandb, "mlflow": Mlflow}


def trackers(names: Sequence[str] | None, folder: Path, settings: Any) -> list[Tracker]:
    """The trackers of these names for a run in a folder, with the settings of its mode."""
    hidden = paths_in(settings)
    shown = {name: value for name, value in as_plain(settings).items() if name not in hidden}
    return [Guarded(name, partial(TRACKERS[name], folder, shown)) for name in names or ()]
