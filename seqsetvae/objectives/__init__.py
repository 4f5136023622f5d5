"""The pretraining objectives, by name. Importing this imports no torch.

An objective is a file or folder here with the names below; a test registers one from its own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from seqsetvae.objectives import forecasting, reconstruction
from seqsetvae.settings.declare import selected, setting
from seqsetvae.settings.kinds import OneOf


class Objective(Protocol):
    """What the module of an objective must have."""

    TRAINS: frozenset[str] | None  # names of the architectures that it can train; None: all
    Settings: type[Any]  # its settings: a frozen dataclass with a `setting` for each flag
    WATCHED: tuple[str, Literal["max", "min"]]  # the metric that selects the best checkpoint, and which is better
    METRICS: tuple[str, ...]  # logged names in the order of metrics.csv; train_loss and val_loss among them
    PRINTED: tuple[str, ...]  # those of the line printed after each epoch

    def build_model(self, architecture: str, sizes: Any) -> Any:
        """A backbone of this architecture and the extra weights of the objective in one torch module, whose state dict
        is that of a pretrained checkpoint."""
        ...

    def build_loss(self, settings: Any, sizes: Any) -> Any:
        """A torch module with these methods; sums over a split are torchmetrics Metrics in it.

        - training_terms(model, batch, embeddings, step) -> {"loss": ..., other names: scalars that are logged};
        - validation_terms(model, batch, embeddings) -> the same, comparable between epochs;
        - end_of_validation(step) -> further values to log, by name;
        - hyper_parameters() -> what a checkpoint records of the objective beside its settings.

        It may also have host_work(model, embeddings), which returns what the loaders of the training and of the
        validation split compute of a batch on the host: batch -> batch.prepared.
        """
        ...

    def advice(
        self,
        settings: Any,
        sizes: Any,
        metrics: Mapping[str, float],
        step: int,
        epoch: int,
        cohort: Any,
    ) -> list[str]:
        """Warnings after a run whose last row of metrics.csv has these metrics; `cohort` is what it was trained on."""
        ...


OBJECTIVES: dict[str, Objective] = {"reconstruction": reconstruction, "forecasting": forecasting}


# ------------------------------------------------------------------ the setting that selects one


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What pretraining minimizes."""

    objective: str = setting(OneOf(lambda: OBJECTIVES), default="reconstruction")
    values: Mapping[str, Any] = selected(OBJECTIVES, by="objective", attribute="Settings")

    def settings(self) -> Any:
        """The settings of the selected objective."""
        return OBJECTIVES[self.objective].Settings(**self.values)
