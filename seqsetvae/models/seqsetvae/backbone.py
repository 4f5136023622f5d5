"""The SeqSetVAE backbone: set encoder, then history encoder. Its state dict has the keys of a pretrained checkpoint.

Legend: S sets (stay by stay, in time order), D latent width, I embedding width, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.batches.batch import Batch
from seqsetvae.models.backbone import BackboneBase
from seqsetvae.models.seqsetvae.history_encoder import (
    TIME_BUCKETS,
    CausalTransformer,
    PaddedHistory,
    position_encoding,
    time_bucket_edges,
    time_buckets,
)
from seqsetvae.models.seqsetvae.running_statistics import RunningStatistics
from seqsetvae.models.seqsetvae.set_encoder import MAB, SetEncoder
from seqsetvae.models.seqsetvae.sizes import (
    OFFERS,
    RUNNING_LR,
    RUNNING_TIMES_LR,
    RUNNING_TIMES_PRETRAIN_LR,
    Sizes,
)
from seqsetvae.ops.pooling import POOLINGS, pool

RUNNING = "running_statistics"  # the name of that part
TIME_SCALE = 0.1  # of the initial time embedding of a new model with running statistics


class Backbone(BackboneBase):
    """The sets of each stay → history states."""

    architecture = "seqsetvae"  # its name, recorded in checkpoints
    OFFERS = OFFERS
    time_edges: torch.Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.set_encoder = SetEncoder(sizes)
        self.transformer = CausalTransformer(sizes)
        self.post_transformer_norm = nn.LayerNorm(sizes.latent_dim, eps=1e-6)
        self.rel_time_bucket_embed = nn.Embedding(TIME_BUCKETS, sizes.latent_dim)
        self.running = RunningStatistics(sizes.input_dim, sizes.latent_dim) if sizes.running_statistics else None
        if sizes.running_statistics:  # as it is drawn, with variance 1, it is noise that hides what is added to it
            with torch.no_grad():
                self.rel_time_bucket_embed.weight.mul_(TIME_SCALE)
        # The time bias has no effect; kept so that checkpoints round-trip, as buffers so that it is not trained.
        self.register_buffer("alibi_slope", torch.tensor(1.0))
        self.register_buffer("time_tau", torch.tensor(60.0))
        self.register_buffer("time_edges", time_bucket_edges(), persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Backbone:
        """The edges stay in float64 when the module is cast: rounded, a gap on an edge would change its bucket."""
        super()._apply(fn, recurse)
        self.time_edges = time_bucket_edges().to(self.time_edges.device)
        return self

    def states(self, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """History state of every set: [S, D]. `embeddings` [V, I] are the vectors of the cohort's variables."""
        return self.history(self.set_means(batch, embeddings), batch, embeddings)

    forward = states

    def pooled(self, batch: Batch, embeddings: torch.Tensor, pooling: str) -> torch.Tensor:
        """One row for each stay, pooled from its history states: [N, P]."""
        return pool(self.states(batch, embeddings), batch.sets_per_stay, pooling)

    def pooled_width(self, pooling: str) -> int:
        """P."""
        return POOLINGS[pooling][1] * self.sizes.latent_dim

    def set_features(self, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """Input of the layers that give the Gaussian of each set: [S, D]."""
        features = self.set_encoder.features(batch.variable, batch.value, embeddings, batch.sizes)
        return features.index_select(0, batch.set_row)

    def set_means(self, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """mu of every set: [S, D]."""
        return self.set_encoder.mean(self.set_features(batch, embeddings))

    def history_input(self, mu: torch.Tensor, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """Set means [S, D], and what the variables of each stay have been until each set: [S, D]."""
        return mu if self.running is None else mu + self.running(batch, embeddings)

    def history(self, mu: torch.Tensor, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """Set means [S, D] → history states [S, D]; a state sees its own set and those before it."""
        mu = self.history_input(mu, batch, embeddings)
        buckets = time_buckets(batch.minute, batch.set_index, self.time_edges)
        time = self.rel_time_bucket_embed(buckets)
        position = position_encoding(batch.set_index, mu.shape[1], time.dtype)  # not mu's type: it may be bf16
        x = mu + position + time
        x = F.layer_norm(x, x.shape[-1:])
        return self.post_transformer_norm(self.transformer(x, batch.grids))

    def padded_history(self) -> PaddedHistory:
        """The history encoder as a module of its own, for programs that have no ragged batches."""
        return PaddedHistory(self.transformer, self.post_transformer_norm, self.rel_time_bucket_embed, self.time_edges)

    def layers(self) -> Mapping[str, Sequence[nn.Module]]:
        """Modules by layer, from input to output; what is added to a history's input belongs to its first layer."""
        encoder, last = self.set_encoder, len(self.transformer.layers)
        projection = [part for part in (encoder.dim_reducer, encoder.embed) if part is not None]
        history: dict[str, list[nn.Module]] = {
            f"history_{number}": [layer] for number, layer in enumerate(self.transformer.layers, start=1)
        }
        history["history_1"] += [part for part in (self.rel_time_bucket_embed, self.running) if part is not None]
        history[f"history_{last}"].append(self.post_transformer_norm)
        return {"projection": projection, "set_encoder": [encoder.encoder_layers, encoder.mu_logvar], **history}

    def before_finetuning(self) -> None:
        """Running statistics that were pretrained are known by a map that is not zero."""
        if self.running is not None:
            self.running.is_pretrained = bool(self.running.of_variable.weight.any())

    def own_rates(self, lr: float, pretraining: bool = False) -> dict[str, tuple[nn.Module, float]]:
        """Running statistics, whose map starts at zero, learn faster."""
        if self.running is None:
            return {}
        times = RUNNING_TIMES_PRETRAIN_LR if pretraining else RUNNING_TIMES_LR
        return {RUNNING: (self.running, times * lr if pretraining or self.running.is_pretrained else RUNNING_LR)}

    def compile_dense_parts(self) -> None:
        """torch.compile the parts whose shapes vary in the number of rows alone; in place, so state-dict keys stay.

        Operations within sets are not compiled: their shapes differ from batch to batch, which would recompile them.
        """
        compile_blocks(self.set_encoder.encoder_layers)
        self.set_encoder.mu_logvar.compile(dynamic=True)
        for layer in self.transformer.layers:
            layer.compile(dynamic=True)


def compile_blocks(module: nn.Module) -> None:
    """torch.compile the feed-forward part of each attention block in a module, in place."""
    for block in module.modules():
        if isinstance(block, MAB):
            block.compile(dynamic=True)
