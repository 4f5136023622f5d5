"""Speed on a CUDA GPU: what each way of running gives, in one run: `python -m benchmarks --only gpu --data_dir COHORT`.

Full sizes, random weights. Batches are on the device before the clock starts, but for the epochs, which read the cohort
as a run does. A share of the matmul rate compares the products that the stays need, without padding, with what the same
device does in plain products [rows, D] x [D, ff_dim] of the same type. Nothing here reads a result back in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Figure
from benchmarks.works import (
    MAX_EVENTS,
    PRACTICE,
    WORKS,
    Variant,
    Work,
    batches_of_similar_length,
    needed_flop,
    open_stays,
    random_embeddings,
    training_step,
)
from seqsetvae.architectures.seqsetvae.sizes import Sizes
from seqsetvae.cohort import Cohort, Split
from seqsetvae.loading import CohortDataModule, collate

BATCH_SIZES = (32, 256)
BATCHES = 8  # timed together
REPEATS = 5
INDUCING_ROWS = 16 * 75 * 32  # rows of the usual product: 32 stays of 75 sets


VARIANTS = (
    Variant(name="float32, exact sizes"),
    Variant(name="float32, padded sizes", padded=True),
    Variant(name="bfloat16, padded sizes", padded=True, mixed=True),
    Variant(name="bfloat16, padded sizes, compiled", padded=True, mixed=True, compiled=True),
)


def section(data_dir: Path | None, scratch: Path) -> list[Figure]:
    """Figures of the GPU; none where there is no GPU."""
    if not torch.cuda.is_available():
        print("GPU: skipped, torch sees none")
        return []
    return measure(open_stays(data_dir, scratch), PRACTICE, torch.device("cuda"), BATCH_SIZES, BATCHES)


def measure(
    cohort: Cohort, sizes: Sizes, device: torch.device, batch_sizes: Sequence[int], n_batches: int
) -> list[Figure]:
    """All variants of all works over batches of these sizes."""
    table = random_embeddings(cohort, sizes)
    figures: list[Figure] = []
    for batch_size in batch_sizes:
        stays = batches_of_similar_length(cohort.split("train"), batch_size, n_batches)
        for what, prepare in WORKS.items():
            of_work: list[Figure] = []
            for variant in VARIANTS:
                try:
                    work = prepare(sizes, table, device, variant)
                    of_work.append(_figure(what, work, variant, cohort.split("train"), stays, device, sizes))
                    if prepare is training_step:
                        figures.append(_epoch(work, variant, cohort, batch_size, device))
                except RuntimeError as error:  # out of memory, or no compiler: the others still count
                    print(f"{what}, {variant.name}, batches of {batch_size}: failed, {error}", flush=True)
            figures += _against_first(of_work)
    return figures


# --- Clocks -----------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Mean time of the work; the device has nothing else to do before and has done it after."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, sizes: Sizes, dtype: torch.dtype) -> float:
    """FLOP/s of plain products of the shape that most of the model's have."""
    rows = torch.randn(INDUCING_ROWS, sizes.latent_dim, device=device, dtype=dtype)
    weight = torch.randn(sizes.latent_dim, sizes.ff_dim, device=device, dtype=dtype)
    rows @ weight
    return 2 * rows.numel() * sizes.ff_dim / seconds(lambda: rows @ weight, device, 20)


def _figure(
    what: str,
    work: Work,
    variant: Variant,
    split: Split,
    stays: list[np.ndarray],
    device: torch.device,
    sizes: Sizes,
) -> Figure:
    """Stays/s of a work over the same batches, again and again, and the most memory it holds on the device."""
    batches = [collate(split, chosen, padded_classes=variant.padded).to(device) for chosen in stays]

    def all_of_them() -> None:
        for batch in batches:
            work(batch)

    all_of_them()  # compiles, and fills the allocator
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    took = seconds(all_of_them, device, REPEATS)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    n_stays = sum(map(len, stays))
    note = f"device busy {_busy(all_of_them, device)}"
    if not variant.compiled:  # what is compiled hides its products from the counter
        exact = [collate(split, chosen).to(device) for chosen in stays]
        rate = matmul_rate(device, sizes, torch.bfloat16 if variant.mixed else torch.float32)
        share = needed_flop(work, exact) / took / rate
        note += f"; {share:.0%} of the {rate / 1e12:,.3g} TFLOP/s of plain products"
    return Figure(
        what=f"{what}, {variant.name}, batches of {len(stays[0])}",
        value=n_stays / took,
        unit="stays/s",
        peak_mib=peak,
        note=note,
    )


def _busy(work: Callable[[], object], device: torch.device) -> str:
    """Share of the last moments in which the device computed, asked while it does."""
    work()
    try:
        return f"{torch.cuda.utilization(device)} %"
    except Exception:  # no GPU, no nvidia-ml-py, or a driver that cannot say: the speed counts all the same
        return "unknown"
    finally:
        _wait(device)


def _epoch(work: Work, variant: Variant, cohort: Cohort, batch_size: int, device: torch.device) -> Figure:
    """An epoch of training as a run reads it: batches are made, copied and used."""
    data = CohortDataModule(
        cohort,
        batch_size=batch_size,
        max_events=MAX_EVENTS,
        pin_memory=device.type == "cuda",
        padded_classes=variant.padded,
    )
    loader = data.loader("train", shuffle=True)

    def epoch() -> None:
        for batch in loader:
            work(batch.to(device))

    return Figure(
        what=f"epoch of unfrozen training, {variant.name}, batches of {batch_size}",
        value=seconds(epoch, device),
        unit="s",
        note=f"{len(data.loader('train')):,} steps over {cohort.split('train').n_stays:,} stays",
    )


def _against_first(figures: list[Figure]) -> list[Figure]:
    """The first variant is what the others are compared with; nothing is where it failed."""
    if not figures or f", {VARIANTS[0].name}, batches" not in figures[0].what:
        return figures
    first, others = figures[0], figures[1:]
    return [
        first,
        *(
            replace(figure, baseline=first.value, baseline_is=VARIANTS[0].name, ratio=figure.value / first.value)
            for figure in others
        ),
    ]
