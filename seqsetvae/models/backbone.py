"""The interface of a backbone: what every architecture's must have, and what only some have.

Legend: N stays, S sets, T sets of a stay, P pooled width, D state width, V variables, I embedding width, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from seqsetvae.batches.batch import Batch
from seqsetvae.cohort import Cohort


class BackboneBase(nn.Module):
    """Events of stays → a vector for each stay. A subclass sets `architecture` and `sizes` and defines the first two.

    `OFFERS` names which of the methods below it has that only some architectures have; ask `name in backbone.OFFERS`.
    All others are steps of a run that do nothing by default. `embeddings` [V, I] are those of the cohort's variables,
    or what `variable_table` has in their place.
    """

    architecture: str  # its name in ARCHITECTURES, which checkpoints record
    sizes: Any  # with as_dict()
    OFFERS: frozenset[str] = frozenset()

    def pooled(self, batch: Batch, embeddings: torch.Tensor, pooling: str) -> torch.Tensor:
        """[N, P] What a head reads of each stay."""
        raise NotImplementedError

    def pooled_width(self, pooling: str) -> int:
        """P."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what only those have that OFFER it

    def states(self, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """[S, D] A state of each set, which depends on no later set."""
        raise NotImplementedError

    def table(self, batch: Batch, embeddings: torch.Tensor) -> np.ndarray:
        """[N, C] What boosted trees can be grown on."""
        raise NotImplementedError

    def layers(self) -> Mapping[str, Sequence[nn.Module]]:
        """Modules by layer, from input to output; every parameter is in one of them."""
        raise NotImplementedError

    def padded_history(self) -> nn.Module:
        """A module of plain operations, to be written as ONNX: means [N, T, D], minutes [N, T] → states [N, T, D]."""
        raise NotImplementedError

    @property
    def inputs(self) -> Any:
        """The inputs of the network and what each contributes to a prediction."""
        raise NotImplementedError

    # ------------------------------------------------------------------ steps of a run

    def fit(self, cohort: Cohort, batches: Iterable[Batch]) -> None:
        """Called once for a new model, with batches of training stays."""

    def has_no_input(self) -> bool:
        """Whether `fit` found nothing to read, which is an error."""
        return False

    def start_small(self, n_stays: int, batches: Iterable[Batch], embeddings: torch.Tensor) -> None:
        """Called once for a new model, with the labelled training stays and their number."""

    def after_step(self, lr: float) -> None:
        """Called after each optimizer step that trains the backbone."""

    def before_finetuning(self) -> None:
        """Called once its weights are those that fine-tuning begins with, before any other step of fine-tuning."""

    def own_rates(self, lr: float, pretraining: bool = False) -> dict[str, tuple[nn.Module, float]]:
        """The parts that have another learning rate where the rest has `lr`: (part, its rate) by name."""
        return {}

    def variable_table(self, cohort: Cohort) -> torch.Tensor | None:
        """[V] or [V, ...] What takes the place of the embeddings in all methods; None: nothing does."""
        return None

    def unused_variables(self) -> dict[str, str]:
        """Variables that the model does not use, or not wholly, and why."""
        return {}

    def summarizer(self, variables: torch.Tensor) -> Callable[[Batch], Any] | None:
        """What is computed of a batch in the data loader, as `batch.prepared`; None: nothing is."""
        return None

    def kept_summarizer(self, variables: torch.Tensor) -> Callable[[Batch], Any] | None:
        """The summarizer for stays that are read in every epoch."""
        return self.summarizer(variables)

    def keep_pretrained(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Called after loading, with all weights of the checkpoint, so that `table` has what pretraining learned."""

    def drop_pretrained(self) -> None:
        """Called where nothing reads the table."""

    def compile_dense_parts(self) -> None:
        """torch.compile what is worth it, in place."""
