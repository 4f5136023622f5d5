"""Speed on a CUDA GPU of each way of running the model: `python -m benchmarks --only gpu --data_dir COHORT`.

Full sizes, random weights. Batches are on the device before the clock starts, except for the epochs, which read the
cohort as a run does. A share of the matmul rate compares the products that the stays need, without padding, with what
the same device does in plain products [rows, D] x [D, ff_dim] of the same type. No result is read back in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.measure import Measurement, once, seconds
from benchmarks.workloads import EXACT, MAX_EVENTS, PRACTICE, STEPS, Stays, Variant, Workload, open_stays
from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.cohort import Cohort
from seqsetvae.models.seqsetvae.sizes import Sizes

BATCH_SIZES = (32, 256)
BATCHES = 8  # timed together
REPEATS = 5
INDUCING_ROWS = 16 * 75 * 32  # rows of the usual product: 32 stays of 75 sets
PRODUCTS = 20  # plain products that are timed together

VARIANTS = (
    EXACT,
    Variant(name="float32, padded sizes", padded=True),
    Variant(name="bfloat16, padded sizes", padded=True, mixed=True),
    Variant(name="bfloat16, padded sizes, compiled", padded=True, mixed=True, compiled=True),
)


def section(data_dir: Path | None, scratch: Path) -> list[Measurement]:
    """Measurements of the GPU; none where there is no GPU."""
    if not torch.cuda.is_available():
        print("GPU: skipped, torch sees none")
        return []
    return measure(open_stays(data_dir, scratch), PRACTICE, torch.device("cuda"), BATCH_SIZES, BATCHES)


def measure(
    cohort: Cohort, sizes: Sizes, device: torch.device, batch_sizes: Sequence[int], n_batches: int
) -> list[Measurement]:
    """All variants of all steps over batches of these sizes."""
    measurements: list[Measurement] = []
    for batch_size in batch_sizes:
        stays = Stays(cohort.path, sizes, batch_size, n_batches)
        for what in STEPS:
            speeds: dict[str, Measurement] = {}
            for variant in VARIANTS:
                name = f"{variant.name}, batches of {batch_size}"
                try:
                    workload = Workload(what, stays, variant, device)
                    speeds[variant.name] = _speed(f"{what}, {name}", workload, sizes)
                    if what == "unfrozen training step":
                        measurements.append(_epoch(f"epoch of unfrozen training, {name}", workload, cohort, batch_size))
                except RuntimeError as error:  # out of memory, or no compiler: the others still count
                    print(f"{what}, {name}: failed, {error}", flush=True)
            measurements += against_exact(speeds)
    return measurements


def against_exact(speeds: dict[str, Measurement]) -> list[Measurement]:
    """Speeds by variant, the others against that of exact sizes; against nothing where that failed."""
    exact = speeds.get(EXACT.name)
    others = [speed for speed in speeds.values() if speed is not exact]
    return others if exact is None else [exact, *(speed.against(exact.value, EXACT.name) for speed in others)]


def _to_the_end(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The work, until the device has done it."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def matmul_rate(device: torch.device, sizes: Sizes, dtype: torch.dtype) -> float:
    """FLOP/s of plain products of the shape that most of the model's have."""
    rows = torch.randn(INDUCING_ROWS, sizes.latent_dim, device=device, dtype=dtype)
    weight = torch.randn(sizes.latent_dim, sizes.ff_dim, device=device, dtype=dtype)
    took = seconds(_to_the_end(lambda: [rows @ weight for _ in range(PRODUCTS)], device), repeats=1)
    return PRODUCTS * 2 * rows.numel() * sizes.ff_dim / took


def _speed(what: str, workload: Workload, sizes: Sizes) -> Measurement:
    """Stays/s of a workload, and the most memory that it allocates on the device."""
    device, variant = workload.device, workload.variant
    run = _to_the_end(workload, device)
    run()  # compiles, and fills the allocator
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    took = seconds(run, REPEATS, warm_up=0)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    note = f"device busy {_busy(workload)}"
    if not variant.compiled:  # torch cannot count the products of compiled code
        rate = matmul_rate(device, sizes, torch.bfloat16 if variant.mixed else torch.float32)
        share = workload.needed_flop() / took / rate
        note += f"; {share:.0%} of the {rate / 1e12:,.3g} TFLOP/s of plain products"
    return Measurement(what, workload.n_stays / took, "stays/s", peak_mib=peak, note=note)


def _busy(workload: Workload) -> str:
    """Share of the last moments in which the device computed, read while it still does."""
    workload()
    try:
        return f"{torch.cuda.utilization(workload.device)} %"
    except Exception:  # no GPU, no nvidia-ml-py, or a driver that does not know: the speed is measured all the same
        return "unknown"


def _epoch(what: str, workload: Workload, cohort: Cohort, batch_size: int) -> Measurement:
    """An epoch of training as in a run: batches are made, copied to the device and used."""
    device = workload.device
    data = CohortDataModule(
        cohort,
        batch_size=batch_size,
        max_events=MAX_EVENTS,
        pin_memory=device.type == "cuda",
        padded_classes=workload.variant.padded,
    )
    loader = data.loader("train", shuffle=True)
    took = once(_to_the_end(lambda: [workload.step(batch.to(device)) for batch in loader], device))
    note = f"{len(data.loader('train')):,} steps over {cohort.split('train').n_stays:,} stays"
    return Measurement(what, took, "s", note=note)
