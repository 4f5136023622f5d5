"""Work of each process, and the speed of one process and two: `python -m benchmarks.processes COHORT`.

The first table has the events of the busiest process of a training step over the mean of all, in an epoch: as the
sampler deals the stays out, and for whole batches as they are without it. The second one has fine-tuning of everything
(`--preset small`, one thread for each process) with one process and with two, in turn: the median of training stays/s,
and CPU time for each stay, which depends little on how busy the machine is. That time is from runs of two lengths, so
that starting and ending count for nothing; it includes validation. Two processes that add no work need the CPU time of
one; on free cores they are then twice as fast, if they do not wait for each other.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import Measurement, table
from seqsetvae.batches.loading import stay_sizes
from seqsetvae.batches.sampler import LengthBucketSampler
from seqsetvae.cohort import Split, open_cohort

ROOT = Path(__file__).resolve().parents[1]
MAX_EVENTS = 65536
CASES = ((2, 8), (4, 8), (8, 8), (8, 4), (8, 32))  # (processes, batch_size)
SHORT, LONG = 1, 4  # epochs
TRAIN = [
    *("--mode", "finetune", "--from_random_weights", "--preset", "small", "--unfreeze_after", "0"),
    *("--es_patience", "100", "--accelerator", "cpu"),
]


def busiest_over_mean(steps: Iterable[np.ndarray]) -> float:
    """What the steps cost over what they would if all processes had equal work; a step has an entry for each of them.

    >>> busiest_over_mean([np.array([3, 1]), np.array([2, 2])])
    1.25
    """
    taken = np.stack(list(steps))
    return float(taken.max(axis=1).sum() / taken.mean(axis=1).sum())


def imbalance(split: Split, world_size: int, batch_size: int) -> Measurement:
    """Events of the busiest process over the mean, against that of whole batches."""
    n_sets, n_events = stay_sizes(split)
    usual = (np.flatnonzero(split.label >= 0), n_sets, n_events)
    words = {"batch_size": batch_size, "max_events": MAX_EVENTS, "shuffle": True}

    def events(rank: int, world_size: int) -> np.ndarray:
        sampler = LengthBucketSampler(*usual, **words, rank=rank, world_size=world_size)  # type: ignore[arg-type]
        return np.array([n_events[stays].sum() for stays in sampler])

    dealt = busiest_over_mean(np.stack([events(rank, world_size) for rank in range(world_size)], axis=1))
    alone = events(0, 1)
    whole = busiest_over_mean(alone[: len(alone) // world_size * world_size].reshape(-1, world_size))
    what = f"{world_size} processes, batches of {batch_size}"
    return Measurement(what, dealt, "busiest / mean", baseline=whole, baseline_is="whole batches")


@dataclass(frozen=True)
class Trained:
    """One run."""

    stays_per_second: float  # training, median of its epochs
    cpu_seconds: float  # of all its processes, from start to end


def train(cohort: Path, devices: int, epochs: int, batch_size: int) -> Trained:
    """Fine-tune with so many processes of one thread each; a step has `batch_size` stays in all of them together."""
    before = _children_seconds()
    with tempfile.TemporaryDirectory() as folder:
        words = {"data_dir": cohort, "devices": devices, "max_epochs": epochs, "batch_size": batch_size // devices}
        flags = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
        subprocess.run(
            [sys.executable, str(ROOT / "train_optimized.py"), *TRAIN, *flags, "--output_root_dir", folder],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (file,) = Path(folder).glob("finetune-*/metrics.csv")
        with file.open(newline="", encoding="utf-8") as lines:
            speeds = [float(row["stays_per_second"]) for row in csv.DictReader(lines)]
    return Trained(statistics.median(speeds), _children_seconds() - before)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of those that have ended, and of theirs
    return used.ru_utime + used.ru_stime


def scaling(cohort: Path, batch_size: int, turns: int) -> list[Measurement]:
    """Training stays/s and CPU time of two processes, against one."""
    n_stays = int((open_cohort(cohort).split("train").label >= 0).sum())
    speeds: dict[int, list[float]] = {1: [], 2: []}
    costs: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(turns):
        for devices in speeds:
            short, long = (train(cohort, devices, epochs, batch_size) for epochs in (SHORT, LONG))
            speeds[devices].append(long.stays_per_second)
            costs[devices].append(1000 * (long.cpu_seconds - short.cpu_seconds) / (LONG - SHORT) / n_stays)
    (one, two), (cost, cost_of_two) = (map(statistics.median, measured.values()) for measured in (speeds, costs))
    note = f"{turns} turns, steps of {batch_size} stays, one thread for each process"
    return [
        Measurement("training, two processes", two, "stays/s", note=note).against(one, "one process"),
        Measurement("CPU time of 1,000 stays, two processes", cost_of_two, "s", note=note).against(cost, "one process"),
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, help="a compiled cohort")
    parser.add_argument("--batch_size", type=int, default=8, help="stays of a step, over all processes")
    parser.add_argument("--turns", type=int, default=3, help="of the second table; 0 leaves it out")
    arguments = parser.parse_args()
    split = open_cohort(arguments.cohort).split("train")
    print(table("Work of a process", [imbalance(split, *case) for case in CASES]), flush=True)
    if arguments.turns:
        measurements = scaling(arguments.cohort, arguments.batch_size, arguments.turns)
        print(table("One process and two", measurements))


if __name__ == "__main__":
    main()
