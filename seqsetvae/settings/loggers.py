"""Which experiment trackers a training run writes to, besides metrics.csv and TensorBoard."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from seqsetvae.settings.declare import setting
from seqsetvae.settings.kinds import Several, choice

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}  # what to install for each


@dataclass(frozen=True, kw_only=True)
class LoggerSettings:
    """Trackers of a run."""

    loggers: tuple[str, ...] | None = setting(Several(choice(*PACKAGES)), default=None)

    def problems(self) -> list[str]:
        """Trackers whose package is not installed."""
        missing = [name for name in self.loggers or () if find_spec(name) is None]
        return [f"loggers: {name} is not installed: pip install {PACKAGES[name]}" for name in missing]
