"""The history encoder: a causal transformer over the means of a stay's sets.

Legend: S sets of the batch (flat: stay by stay, in time order), D width, h heads; a grid has N stays of at most T sets.
Linear maps and norms run on the flat rows [S, D]; only attention sees padded grids [N, T, ...], one for stays of
similar length. Padding is on the right, so no valid set ever sees it and the causal kernel needs no mask tensor.

The checkpoints' time bias (alibi_slope, time_tau) is exactly 0 for every pair that causality allows, so it is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from seqsetvae.architectures.seqsetvae.sizes import Sizes
from seqsetvae.ops.dropout import dropout

TIME_BUCKETS = 64
# Upper edges in minutes of all buckets but the last, as the checkpoints were trained with: the float32 numbers of
# torch.logspace(log10(0.5), log10(1440), 63). They are not in the checkpoints, and written out they depend on no math
# library. The last is not 1440: a gap of exactly one day is in the last bucket.
# fmt: off
TIME_EDGES_MINUTES = (
    0.49999997, 0.56854737, 0.6464922, 0.73512286, 0.83590436, 0.95050246, 1.0808114, 1.2289848, 1.3974723,
    1.5890583, 1.8069099, 2.0546277, 2.3363063, 2.6566017, 3.0208077, 3.4349446, 3.9058576, 4.44133, 5.050213,
    5.7425704, 6.5298467, 7.4250546, 8.44299, 9.60048, 10.916656, 12.413271, 14.115066, 16.050167, 18.25056,
    20.752615, 23.59769, 26.832815, 30.511452, 34.694412, 39.450832, 44.859337, 51.009315, 58.002422, 65.95425,
    74.99623, 85.27782, 96.968956, 110.26289, 125.37936, 142.5682, 162.11356, 184.33847, 209.6103, 238.34677,
    271.02286, 308.17868, 350.42834, 398.47025, 453.09842, 515.2158, 585.8492, 666.166, 757.4939, 861.34235,
    979.4278, 1113.7023, 1266.3849, 1439.9996,
)
# fmt: on
QUERY_BLOCK = 512  # sets whose attention weights are in memory at once, where they are written down at all


@dataclass(frozen=True)
class Grids:
    """Where the flat rows stand in the padded grids."""

    grid_position: torch.Tensor  # [S] int64, index in the grids, concatenated row by row
    shapes: tuple[tuple[int, int], ...]  # (N, T) of each

    def pad(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """[S, C] → [N, T, C] for each grid, zeros where a stay has fewer sets."""
        sizes = [stays * width for stays, width in self.shapes]
        padded = flat.new_zeros(sum(sizes), flat.shape[1]).index_copy(0, self.grid_position, flat)
        return [part.view(*shape, -1) for part, shape in zip(padded.split(sizes), self.shapes, strict=True)]

    def unpad(self, padded: list[torch.Tensor]) -> torch.Tensor:
        """[N, T, C] of each grid → [S, C]."""
        parts = [part.flatten(0, 1) for part in padded]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)  # the usual one grid is not copied
        return rows.index_select(0, self.grid_position)


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, drop: float) -> torch.Tensor:
    """Softmax-and-mix of each position over itself and those before: [N, h, T, d] each → [N, h, T, d].

    The fused kernels never write the T² weights down, but those of the CPU know no dropout. There they are written, for
    long stays block by block, and a block's weights are computed again for its gradient.
    """
    length = query.shape[2]
    if not drop or query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=drop, is_causal=True)
    if length <= QUERY_BLOCK:
        return _attend_block(query, key, value, 0, drop)
    blocks = [
        checkpoint(_attend_block, query, key, value, start, drop, use_reentrant=False)
        for start in range(0, length, QUERY_BLOCK)
    ]
    return torch.cat(blocks, dim=2)


def _attend_block(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, start: int, drop: float) -> torch.Tensor:
    """The same for the QUERY_BLOCK positions from `start` on: [N, h, at most QUERY_BLOCK, d]."""
    end = min(start + QUERY_BLOCK, query.shape[2])
    hidden = torch.full((end - start, end), -torch.inf, dtype=query.dtype, device=query.device).triu(start + 1)
    scores = query[:, :, start:end] * query.shape[3] ** -0.5 @ key[:, :, :end].mT + hidden
    weights = scores.softmax(3, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    return dropout(weights, drop, training=True) @ value[:, :, :end]


class CausalLayer(nn.TransformerEncoderLayer):
    """Pre-norm transformer layer with torch's parameters and a causal attention over ragged stays."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(
            sizes.latent_dim,
            sizes.transformer_heads,
            sizes.ff_dim,
            sizes.transformer_dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )

    def forward(self, x: torch.Tensor, grids: Grids) -> torch.Tensor:  # type: ignore[override]
        """[S, D] → [S, D]."""
        x = x + dropout(self._attend(self.norm1(x), grids), self.dropout1.p, self.training)
        hidden = dropout(F.gelu(self.linear1(self.norm2(x))), self.dropout.p, self.training)
        return x + dropout(self.linear2(hidden), self.dropout2.p, self.training)

    def _attend(self, x: torch.Tensor, grids: Grids) -> torch.Tensor:
        attention = self.self_attn
        projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # [S, 3D]
        return attention.out_proj(self._mix_grids(projected, grids))

    @torch.compiler.disable  # the number of grids and of stays in each differ: every new pattern would be compiled anew
    def _mix_grids(self, projected: torch.Tensor, grids: Grids) -> torch.Tensor:
        """Softmax-and-mix of every stay: [S, 3D] → [S, D]."""
        return grids.unpad([self._mix(part) for part in grids.pad(projected)])

    def _mix(self, projected: torch.Tensor) -> torch.Tensor:
        """Softmax-and-mix of one grid: [N, T, 3D] → [N, T, D]."""
        attention = self.self_attn
        query, key, value = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [N, h, T, d]
        mixed = causal_attention(query, key, value, attention.dropout if self.training else 0.0)
        return mixed.transpose(1, 2).flatten(2)


class CausalTransformer(nn.Module):
    """The layers one after the other; no norm after the last."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CausalLayer(sizes) for _ in range(sizes.transformer_layers))

    def forward(self, x: torch.Tensor, grids: Grids) -> torch.Tensor:
        """[S, D] → [S, D]."""
        for layer in self.layers:
            x = layer(x, grids)
        return x


def position_encoding(index: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Sinusoids of the set's 0-based index in its stay: [S] → [S, D] (Vaswani et al., 2017, section 3.5)."""
    even = torch.arange(0, dim, 2, device=index.device, dtype=torch.float64)
    angle = index[:, None].double() * 10000.0 ** (-even / dim)  # double: sin of a large float32 angle is coarse
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim].to(dtype)


def time_bucket_edges() -> torch.Tensor:
    """The 63 edges in minutes: float32 numbers, widened to float64 so that no precision moves them."""
    return torch.tensor(TIME_EDGES_MINUTES, dtype=torch.float32).double()


def time_buckets(minute: torch.Tensor, index: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Bucket of the minutes since the previous set of the same stay (0 for the first): [S], [S], [63] → [S] int64.

    The checkpoints' code compares log1p of both sides. The logarithm changes no order, and without it nothing is
    rounded: the bucket is the same on every device.
    """
    since = torch.cat([minute.new_zeros(1), minute.diff()]).clamp(min=0).masked_fill(index == 0, 0)
    return torch.bucketize(since, edges)
