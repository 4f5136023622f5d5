"""How much faster than one stay, one set at a time: `python -m benchmarks.plain_loop --data_dir COHORT`.

The loop is what the old scripts did: for each stay, for each set, the set encoder and its unused decoder with stock
torch modules, then the causal transformer with an explicit mask. Both sides get the same stays, weights and threads, in
one run. Sizes are those used in practice; times are medians; memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from seqsetvae.batch import Batch
from seqsetvae.cohort import Split, open_cohort
from seqsetvae.loading import collate
from seqsetvae.model.backbone import Backbone, BackboneSizes
from tests.plain import PlainBackbone, PlainSet
from tests.plain_decoder import PlainDecoder

PRACTICE = {"reduced_dim": 256, "latent_dim": 256, "levels": 2, "heads": 2, "m": 16, "ff_dim": 512,
            "transformer_heads": 8, "transformer_layers": 4, "transformer_dropout": 0.1}  # fmt: skip


class Loop(nn.Module):
    """The old way: a Python loop over sets; the events of one set are one small tensor."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        sizes = backbone.sizes
        self.plain = PlainBackbone(**sizes.as_dict())  # type: ignore[arg-type]
        self.plain.load_state_dict(backbone.state_dict())
        self.decoder = PlainDecoder(sizes.event_dim, sizes.latent_dim, sizes.levels, sizes.heads, sizes.m)
        self.plain.set_encoder.forward = self._one_set  # type: ignore[method-assign]

    def _one_set(
        self, events: list[tuple[int, float]], embeddings: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        encoder = self.plain.set_encoder
        reduced = encoder.dim_reducer(embeddings[[variable for variable, _ in events]])
        values = torch.tensor([[value] for _, value in events])
        x = encoder.embed(reduced / (reduced.norm(dim=1, keepdim=True) + 1e-8) * values)
        gaussians = []
        for layer in encoder.encoder_layers:
            x = layer(x) + x
            mu, logvar = encoder.mu_logvar(x.mean(dim=0)).chunk(2)
            gaussians.append((mu, logvar))
        self.decoder(mu, [torch.randn(len(x), len(mu)) for _ in encoder.encoder_layers])  # computed, then unused
        return gaussians

    def forward(self, stays: list[list[PlainSet]], embeddings: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.plain(stay, embeddings)[2] for stay in stays])


def plain_stay(split: Split, stay: int) -> list[PlainSet]:
    """A stay of a split as the loop reads it."""
    sets = range(split.stay_offset[stay], split.stay_offset[stay + 1])
    slices = [slice(split.set_offset[one], split.set_offset[one + 1]) for one in sets]
    return [
        (float(split.minute[one]), list(zip(split.variable[s].tolist(), split.value[s].tolist(), strict=True)))
        for one, s in zip(sets, slices, strict=True)
    ]


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of the work, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(split: Split, embeddings: torch.Tensor, n_stays: int, repeats: int) -> dict[str, dict[str, float]]:
    """Stays per second of both ways, frozen forward and unfrozen step, and their ratio."""
    torch.manual_seed(0)
    backbone = Backbone(BackboneSizes(input_dim=embeddings.shape[1], **PRACTICE))  # type: ignore[arg-type]
    loop = Loop(backbone)
    order = np.random.default_rng(0).permutation(split.n_stays)[:n_stays]
    stays, batch = [plain_stay(split, stay) for stay in order], collate(split, order)
    with torch.no_grad():
        backbone.eval(), loop.eval()
        difference = float((loop(stays, embeddings) - backbone(batch, embeddings)).abs().max())
    assert difference < 1e-3, f"the two ways differ by {difference}"
    return {
        "frozen forward": _compare(lambda: _forward(loop, stays, embeddings),
                                   lambda: _forward(backbone, batch, embeddings), n_stays, repeats),
        "unfrozen forward and backward": _compare(lambda: _step(loop, stays, embeddings),
                                                  lambda: _step(backbone, batch, embeddings), n_stays, repeats),
    }  # fmt: skip


@torch.no_grad()
def _forward(model: nn.Module, stays: Batch | list[list[PlainSet]], embeddings: torch.Tensor) -> None:
    model.eval()
    model(stays, embeddings)


def _step(model: nn.Module, stays: Batch | list[list[PlainSet]], embeddings: torch.Tensor) -> None:
    model.train()
    model.zero_grad()
    model(stays, embeddings).square().mean().backward()


def _compare(loop: Callable[[], None], batched: Callable[[], None], n_stays: int, repeats: int) -> dict[str, float]:
    slow, fast = n_stays / seconds(loop, 1), n_stays / seconds(batched, repeats)
    return {"loop stays/s": slow, "batched stays/s": fast, "ratio": fast / slow}


def main() -> None:
    """Print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="a compiled cohort")
    parser.add_argument("--stays", type=int, default=8, help="stays in the batch")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of the batched way; the loop is timed once")
    arguments = parser.parse_args()
    cohort = open_cohort(arguments.data_dir)
    vectors = torch.randn(len(cohort.vocabulary), 768, generator=torch.Generator().manual_seed(0))
    results = measure(cohort.split("train"), vectors, arguments.stays, arguments.repeats)
    for name, row in results.items():
        print(f"{name:<32}" + "   ".join(f"{key} {value:,.2f}" for key, value in row.items()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"results": results, "threads": torch.get_num_threads(), "peak GiB": round(peak, 2)}))


if __name__ == "__main__":
    main()
