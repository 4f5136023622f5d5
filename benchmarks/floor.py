"""How close to the limit of the processor: achieved FLOP/s over those of plain matrix products of the same shapes.

The FLOP are those of the matrix products that a batch needs after all exact rewrites (counted while it runs, 2 for a
multiply and add). Norms, GELU, softmax, dropout and copies count as zero, so the share shows how much time they take
beside the products. The rate to compare with is that of the two products of a feed-forward part over all inducing rows
of the batch, where half of the FLOP are; in training with their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.measure import Measurement, isolated, seconds_in_turn
from benchmarks.workloads import PRACTICE, STEPS, Stays, Workload, open_stays
from seqsetvae.models.seqsetvae.sizes import Sizes

WANTED = {"frozen forward": 0.8, "unfrozen training step": 0.7, "pretraining step": None}
BATCH_SIZE, BATCHES, REPEATS = 8, 3, 7


def section(data_dir: Path | None, scratch: Path) -> list[Measurement]:
    """Share of the machine's rate for each workload on the CPU, each in a process of its own."""
    cohort = open_stays(data_dir, scratch)
    return [share for what in STEPS for share in isolated(share_of_rate, what, cohort.path, PRACTICE, BATCHES)]


def share_of_rate(what: str, cohort_path: Path, sizes: Sizes, n_batches: int) -> list[Measurement]:
    """One measurement: GFLOP/s of the workload, against plain products in the same process."""
    workload = Workload(what, Stays(cohort_path, sizes, BATCH_SIZE, n_batches))
    n_batches, n_stays = len(workload.batches), workload.n_stays
    n_sets = sum(batch.n_sets for batch in workload.batches)
    flop = workload.needed_flop()
    products, product_flop = plain_products(sizes, n_sets // n_batches * sizes.m, training=what != "frozen forward")
    took, took_products = seconds_in_turn([workload, lambda: [products() for _ in range(n_batches)]], REPEATS)
    rate = product_flop * n_batches / took_products
    note = (
        f"{flop / n_sets / 1e6:.1f} MFLOP a set, {n_stays / took:,.1f} stays/s; "
        f"all at the rate of plain products: {n_stays * rate / flop:,.1f} stays/s"
    )
    achieved = Measurement(what, flop / took / 1e9, "GFLOP/s", note=note)
    return [achieved.against(rate / 1e9, "plain products", WANTED[what])]


def plain_products(sizes: Sizes, rows: int, *, training: bool) -> tuple[Callable[[], None], int]:
    """[rows, D] x [D, 2D] x [2D, D], in training with the gradients of rows and weights; and its FLOP."""
    dim = sizes.latent_dim
    x, up, down = (torch.randn(*size, requires_grad=training) for size in ((rows, dim), (2 * dim, dim), (dim, 2 * dim)))

    def products() -> None:
        out = F.linear(F.linear(x, up), down)
        if training:
            out.backward(x.detach())

    return products, (3 if training else 1) * 8 * rows * dim * dim
