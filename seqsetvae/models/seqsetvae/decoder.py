"""The decoder of pretraining: from the history state of each set to a reconstruction of its events.

Legend: S sets and E events (sets in ascending order of size), D latent width, R width of an event vector, h heads.
It is built for pretraining only.

The first level starts from one row per set. Softmax over one key is 1, so its blocks are computed once per set and not
once per event; the events of a set then differ by their seeds alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.models.seqsetvae.backbone import Backbone, compile_blocks
from seqsetvae.models.seqsetvae.set_encoder import ISAB, MAB
from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.ops.ragged import ExactSizes, SetSizes
from seqsetvae.ops.rowwise import dropout

OUTPUT_DROPOUT = 0.1
SEED_NOISE = 0.3  # standard deviation added to the seeds in training


class PMA(nn.Module):
    """Pooling by multihead attention with random seeds in place of learned ones (Lee et al., 2019, equation 11)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.mab = MAB(dim, heads)
        self.ff = nn.Linear(dim, dim)
        self.ln = nn.LayerNorm(dim)

    def keys(self, z: torch.Tensor) -> torch.Tensor:
        """Keys and values of the seeds' attention: [..., D] → [..., D]."""
        return self.ln(F.gelu(self.ff(z)))


class DecoderLayer(nn.Module):
    """One level: an ISAB, then random seeds that attend to its output."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.isab = ISAB(sizes.latent_dim, sizes.heads, sizes.m)
        self.pma = PMA(sizes.latent_dim, sizes.heads)

    def forward(self, x: torch.Tensor, seeds: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
        """Events [E, D] and seeds [E, D] → [E, D]."""
        keys = self.pma.keys(self.isab(x, sizes))
        return self._output(self.pma.mab(attend_within_sets(self.pma.mab.multihead, seeds, keys, sizes)), seeds)

    def from_one_row(self, c: torch.Tensor, seeds: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
        """Decode from one row per set [S, D] and seeds [E, D]: → [E, D]."""
        keys = self.pma.keys(self.isab(c, ExactSizes(((1, len(c)),))))
        attention = self.pma.mab.multihead
        value_weight, value_bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
        attended = attention.out_proj(F.linear(keys, value_weight, value_bias))  # softmax over one key is 1
        return self._output(sizes.spread(self.pma.mab(attended)), seeds)

    def _output(self, attended: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        return dropout(attended + seeds, OUTPUT_DROPOUT, self.training)


def attend_within_sets(
    attention: nn.MultiheadAttention, queries: torch.Tensor, keys: torch.Tensor, sizes: SetSizes
) -> torch.Tensor:
    """Multihead attention of each event's query to all events of its set: [E, D], [E, D] → [E, D]."""
    query_weight, *other_weights = attention.in_proj_weight.chunk(3)
    query_bias, *other_biases = attention.in_proj_bias.chunk(3)
    q = F.linear(queries, query_weight, query_bias)
    k, v = F.linear(keys, torch.cat(other_weights), torch.cat(other_biases)).chunk(2, dim=-1)
    return attention.out_proj(sizes.attend(q, k, v, attention.num_heads))


class Decoder(nn.Module):
    """History states → reconstructed events: for each state as many as its set has."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        layers = [DecoderLayer(sizes) for _ in range(sizes.levels)]
        # The first level has one row per set: softmax over one key is 1, so these have no effect and no gradient.
        layers[-1].isab.inducing.requires_grad_(False)
        self.decoder_layers = nn.ModuleList(layers)
        self.out = nn.Linear(sizes.latent_dim, sizes.event_dim)

    def forward(self, states: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
        """States [S, D], in ascending order of set size → events [E, R]."""
        *others, first = self.decoder_layers  # levels run from the last to the first
        assert isinstance(first, DecoderLayer)
        x = sizes.spread(states)
        x = first.from_one_row(states, self._seeds(x), sizes) + x
        for layer in reversed(others):
            x = layer(x, self._seeds(x), sizes) + x
        return self.out(x)

    def _seeds(self, like: torch.Tensor) -> torch.Tensor:
        """N(0, 1) plus, in training, N(0, SEED_NOISE²): drawn as one normal with the sum of the variances."""
        scale = (1 + SEED_NOISE**2) ** 0.5 if self.training else 1.0
        return torch.randn_like(like) * scale


class PretrainingModel(Backbone):
    """Backbone and decoder; its state dict is exactly that of a pretrained checkpoint.

    Those checkpoints also hold a decoder inside the set encoder, which neither pretraining's loss nor fine-tuning uses.
    It is kept unchanged, without a gradient, so that the old scripts find every weight they expect.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.decoder = Decoder(sizes)
        unused = Decoder(sizes).requires_grad_(False)
        self.set_encoder.decoder_layers = unused.decoder_layers
        self.set_encoder.out = nn.Sequential(unused.out)

    def compile_dense_parts(self) -> None:
        """torch.compile the dense parts of backbone and decoder, in place."""
        super().compile_dense_parts()
        compile_blocks(self.decoder)
