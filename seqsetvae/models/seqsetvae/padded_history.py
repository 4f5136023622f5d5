"""The history encoder on one padded grid, with operations that ONNX has; the same weights, the same states.

Legend: N stays, T sets of the longest, D width, h heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.models.seqsetvae.history_encoder import CausalLayer, CausalTransformer, position_encoding


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
