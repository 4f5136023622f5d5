"""How much faster than one stay, one set at a time: `python -m benchmarks --only loop --data_dir COHORT`.

The loop is what the old scripts did: for each stay, for each set, the set encoder and its unused decoder with stock
torch modules, then the causal transformer with an explicit mask; in pretraining also the decoder and the distance of
each set. Both sides get the same stays, threads and optimizer steps, and are checked to give the same histories from
the same weights. They run in turn, each in a process of its own, after a turn that does not count; ours several times
in each turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.measure import Measurement, apart
from benchmarks.workloads import PRACTICE, STEPS, Stays, Step, Workload, open_stays, optimizer_step
from seqsetvae.batches.loading import collate
from seqsetvae.cohort import Split
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.models.seqsetvae.history_encoder import position_encoding
from seqsetvae.models.seqsetvae.reference import PlainBackbone, PlainDecoder, PlainSet
from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.objectives.reconstruction.objective import kl_with_free_bits, set_distance

WANTED = {"frozen forward": 40.0, "unfrozen training step": 27.0, "pretraining step": 25.0}  # times the loop
BATCH_SIZE, BATCHES = 8, 1
TURNS, OURS_IN_A_TURN = 3, 5
MAX_SETS = 4096  # of a stay, in the loop's table of positions
CLOSE = 1e-3  # largest difference between the histories of the two sides, in float32


class Loop(nn.Module):
    """The old way: a Python loop over sets; the events of one set are one small tensor."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.plain = PlainBackbone(sizes)
        shape = (sizes.event_dim, sizes.latent_dim, sizes.levels, sizes.heads, sizes.m)
        self.unused, self.decoder = PlainDecoder(*shape), PlainDecoder(*shape)
        self.plain.set_encoder.forward = self._one_set  # type: ignore[method-assign]
        positions = position_encoding(torch.arange(MAX_SETS), sizes.latent_dim, torch.float64)
        self.plain.position = positions.__getitem__  # type: ignore[assignment]  # the plain form computes each anew

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-5)

    def _events(self, events: list[tuple[int, float]], embeddings: torch.Tensor) -> torch.Tensor:
        reduced = self.plain.set_encoder.dim_reducer(embeddings[[variable for variable, _ in events]])
        values = torch.tensor([[value] for _, value in events])
        return reduced / (reduced.norm(dim=1, keepdim=True) + 1e-8) * values

    def _one_set(
        self, events: list[tuple[int, float]], embeddings: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        encoder = self.plain.set_encoder
        x = encoder.embed(self._events(events, embeddings))
        gaussians = []
        for layer in encoder.encoder_layers:
            x = layer(x) + x
            mu, logvar = encoder.mu_logvar(x.mean(dim=0)).chunk(2)
            gaussians.append((mu, logvar.clamp(-10, 10)))
        self.unused(mu, self._seeds(len(x), mu))  # computed, then not used
        return gaussians

    def _seeds(self, n_events: int, like: torch.Tensor) -> list[torch.Tensor]:
        return [torch.randn(n_events, len(like)) for _ in self.decoder.decoder_layers]

    def forward(self, stays: list[list[PlainSet]], embeddings: torch.Tensor) -> torch.Tensor:
        """History states of all sets: [S, D]."""
        return torch.cat([self.plain(stay, embeddings)[2] for stay in stays])

    def pretraining_loss(self, stays: list[list[PlainSet]], embeddings: torch.Tensor) -> torch.Tensor:
        """Distance of each set to its reconstruction, and the KL term."""
        distances, kl = [], []
        for stay in stays:
            mu, logvar, history = self.plain(stay, embeddings)
            kl.append(kl_with_free_bits(mu, logvar, 0.0))
            for state, (_, events) in zip(history, stay, strict=True):
                recon = self.decoder(state, self._seeds(len(events), state))
                distances.append(set_distance(recon[None], self._events(events, embeddings)[None]))
        return torch.cat(distances).mean() + 0.1 * torch.stack(kl).mean()


def plain_stay(split: Split, stay: int) -> list[PlainSet]:
    """A stay of a split as the loop reads it."""
    sets = range(split.stay_offset[stay], split.stay_offset[stay + 1])
    slices = [slice(split.set_offset[one], split.set_offset[one + 1]) for one in sets]
    return [
        (float(split.minute[one]), list(zip(split.variable[s].tolist(), split.value[s].tolist(), strict=True)))
        for one, s in zip(sets, slices, strict=True)
    ]


def section(data_dir: Path | None, scratch: Path) -> list[Measurement]:
    """Ours against the loop: frozen forward, unfrozen step, pretraining step."""
    cohort = open_stays(data_dir, scratch)
    return [against_loop(what, cohort.path, PRACTICE, BATCHES) for what in STEPS]


def against_loop(what: str, cohort_path: Path, sizes: Sizes, n_batches: int) -> Measurement:
    """Stays/s of a workload on both sides, over the same stays."""
    stays = Stays(cohort_path, sizes, BATCH_SIZE, n_batches)
    loop, ours = apart([partial(_loop, what, stays), partial(_ours, what, stays)], TURNS)
    split, _, chosen = stays.read()
    n_stays = sum(map(len, chosen))
    n_sets = np.diff(split.stay_offset)[np.concatenate(chosen)].sum()
    note = f"batches of {BATCH_SIZE}, {n_sets / n_stays:.0f} sets a stay; the loop's peak {loop.peak_mib:,.0f} MiB"
    measurement = Measurement(
        what, n_stays * OURS_IN_A_TURN / ours.seconds, "stays/s", peak_mib=ours.peak_mib, note=note
    )
    return measurement.against(n_stays / loop.seconds, "one set at a time", WANTED[what])


def _ours(what: str, stays: Stays) -> Callable[[], object]:
    workload = Workload(what, stays)
    workload.batches *= OURS_IN_A_TURN
    return workload


def _loop(what: str, stays: Stays) -> Callable[[], object]:
    split, table, chosen = stays.read()
    batches = [[plain_stay(split, stay) for stay in positions] for positions in chosen]
    _require_the_same_numbers(split, chosen[0], batches[0], table, stays.sizes)
    step = _loop_step(what, Loop(stays.sizes), table)
    return lambda: [step(batch) for batch in batches]


def _require_the_same_numbers(
    split: Split, positions: np.ndarray, stays: list[list[PlainSet]], table: torch.Tensor, sizes: Sizes
) -> None:
    """Both sides must compute the same function, or the ratio would mean nothing."""
    loop, backbone = Loop(sizes).eval(), Backbone(sizes).eval()
    loop.plain.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        difference = float((loop(stays, table) - backbone(collate(split, positions), table)).abs().max())
    assert difference < CLOSE, f"the histories of the two sides differ by {difference}"


def _loop_step(what: str, loop: Loop, table: torch.Tensor) -> Step:
    """What the loop does with the stays of a batch in place of our step."""
    if what == "frozen forward":
        loop.eval()
        return torch.no_grad()(lambda stays: loop(stays, table))
    loss_of = {
        "unfrozen training step": lambda stays: loop(stays, table).square().mean(),
        "pretraining step": lambda stays: loop.pretraining_loss(stays, table),
    }
    return optimizer_step(loop, loss_of[what])
