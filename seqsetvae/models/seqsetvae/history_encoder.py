"""The history encoder: a causal transformer over the means of a stay's sets.

Legend: S sets of the batch (flat: stay by stay, in time order), D width.
Linear maps and norms run on the flat rows [S, D]; only attention sees padded grids (ops/attention.py).

The checkpoints' time bias (alibi_slope, time_tau) is exactly 0 for every pair that causality allows, so it is not here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.ops.attention import Grids, causal_attention
from seqsetvae.ops.rowwise import dropout

TIME_BUCKETS = 64
# Upper edges in minutes of all buckets but the last, as the checkpoints were trained with: the float32 numbers of
# torch.logspace(log10(0.5), log10(1440), 63). They are not in the checkpoints; written out, they depend on no library.
# The last is below 1440, so a gap of exactly one day is in the last bucket.
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


class CausalLayer(nn.TransformerEncoderLayer):
    """Pre-norm transformer layer with torch's parameters; attention is causal within each stay."""

    def __init__(self, sizes: Sizes) -> None:
        shape = sizes.latent_dim, sizes.transformer_heads, sizes.ff_dim, sizes.transformer_dropout
        super().__init__(*shape, activation="gelu", batch_first=True, norm_first=True)

    def forward(self, x: torch.Tensor, grids: Grids) -> torch.Tensor:  # type: ignore[override]
        """[S, D] → [S, D]."""
        x = x + dropout(self._attend(self.norm1(x), grids), self.dropout1.p, self.training)
        hidden = dropout(F.gelu(self.linear1(self.norm2(x))), self.dropout.p, self.training)
        return x + dropout(self.linear2(hidden), self.dropout2.p, self.training)

    def _attend(self, x: torch.Tensor, grids: Grids) -> torch.Tensor:
        attention = self.self_attn
        projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # [S, 3D]
        drop = attention.dropout if self.training else 0.0
        return attention.out_proj(causal_attention(projected, grids, attention.num_heads, drop))


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
    angle = index[:, None].double() * 10000.0 ** (-even / dim)  # float64: large float32 angles are too inexact
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim].to(dtype)


def time_bucket_edges() -> torch.Tensor:
    """The 63 edges in minutes: float32 numbers, as float64."""
    return torch.tensor(TIME_EDGES_MINUTES, dtype=torch.float32).double()


def time_buckets(minute: torch.Tensor, index: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Bucket of the minutes since the previous set of the same stay (0 for the first): [S], [S], [63] → [S] int64.

    The code that trained the checkpoints compares log1p of both sides. Without the logarithm the order is the same and
    nothing is rounded, so the bucket is the same on every device.
    """
    since = torch.cat([minute.new_zeros(1), minute.diff()]).clamp(min=0).masked_fill(index == 0, 0)
    return torch.bucketize(since, edges)


# ------------------------------------------------------------------ padded, for other programs


class PaddedHistory(nn.Module):
    """Set means and minutes of N stays → history states. Pad on the right, where causal attention never looks."""

    edges: torch.Tensor

    def __init__(
        self, transformer: CausalTransformer, norm: nn.LayerNorm, time_embedding: nn.Embedding, edges: torch.Tensor
    ) -> None:
        """The parts of a backbone; `edges` [63] are those of its time buckets, float64."""
        super().__init__()
        self.transformer, self.norm, self.time_embedding = transformer, norm, time_embedding
        self.register_buffer("edges", edges)

    def forward(self, mu: torch.Tensor, minute: torch.Tensor) -> torch.Tensor:
        """[N, T, D] and float64 minutes [N, T] → [N, T, D]; rows of padding have no meaning."""
        since = F.pad(minute.diff(dim=1), (1, 0)).clamp(min=0)
        bucket = (since[..., None] > self.edges).sum(-1)  # as torch.bucketize, which ONNX does not have
        index = torch.arange(mu.shape[1], device=mu.device)
        x = mu + position_encoding(index, mu.shape[2], mu.dtype) + self.time_embedding(bucket)
        x = F.layer_norm(x, x.shape[-1:])
        for layer in self.transformer.layers:
            assert isinstance(layer, CausalLayer)
            x = x + _attend(layer, layer.norm1(x))
            x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
        return self.norm(x)


def _attend(layer: CausalLayer, x: torch.Tensor) -> torch.Tensor:
    attention = layer.self_attn
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # [N, T, 3D]
    query, key, value = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [N, h, T, D/h]
    hidden = torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=x.dtype).triu(1)
    weights = (query * query.shape[3] ** -0.5 @ key.mT + hidden).softmax(3)
    return attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
