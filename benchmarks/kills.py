"""Kill training runs with SIGKILL at random moments, resume them, and compare them with runs that were not killed.

    python -m benchmarks.kills COHORT --kills 50 --pretraining_kills 15

COHORT is a compiled cohort or a data folder. Each run is killed at a moment drawn evenly from the time that an
uninterrupted run takes between the creation of its folder and its end; half of the runs are killed again after they
have gone on. Nothing but times may differ at the end: weights, optimizer, schedules, random numbers, metrics.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
TIMES = {"seconds", "stays_per_second", "waiting", "passes", "gpu_busy", "Clock"}
LOOPS = {"loops"}  # counts of what Lightning has repeated
SMALL = ["--preset", "small", "--batch_size", "16", "--save_every_minutes", "0.02", "--accelerator", "cpu"]
WORDS = {
    "pretrain": [*SMALL, "--max_epochs", "2"],
    "finetune": [
        *(*SMALL, "--max_epochs", "4", "--unfreeze_after", "2", "--gradient_accumulation_steps", "2"),
        *("--ema_decay", "0.95"),
    ],
}


def command(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "train_optimized.py"), *words]


def the_run(root: Path, mode: str) -> Path | None:
    """The only run folder of a mode; None: there is none yet."""
    found = list(root.glob(f"{mode}-*"))
    return found[0] if found else None


def differences(one: Path, other: Path) -> list[str]:
    """Where two finished runs differ in more than times: rows of metrics.csv, and values of their checkpoints."""
    found = [] if _rows(one) == _rows(other) else ["metrics.csv"]
    for name in ("best.ckpt", "last.ckpt"):
        contents = [
            torch.load(run / "checkpoints" / name, weights_only=True, map_location="cpu") for run in (one, other)
        ]
        found += _different(contents[0], contents[1], where=name)
    return found


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def _different(one: Any, other: Any, where: str) -> Iterator[str]:
    """Places below `where` at which two values of a checkpoint are not equal to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name in one.keys() - TIMES - LOOPS:
            yield from _different(one[name], other[name], f"{where}/{name}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True)):
            yield from _different(pair[0], pair[1], where=f"{where}/{place}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield where
    elif type(one) is not type(other) or one != other:
        yield where


def process(words: Sequence[str], output: Path, kill_after: float | None = None) -> tuple[int, float, str]:
    """Run the command; kill it so many seconds after it has begun to write to its run folder.

    Returns:
        Exit status, seconds from that beginning to the end, and the last line that was printed.
    """
    with output.open("w") as stream, subprocess.Popen(command(*words), stdout=stream, stderr=stream) as running:
        while running.poll() is None and "Run folder: " not in output.read_text(encoding="utf-8"):
            time.sleep(0.02)
        start = time.monotonic()
        try:
            running.wait(kill_after)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
    return running.returncode, time.monotonic() - start, output.read_text(encoding="utf-8").splitlines()[-1]


def killed_run(words: Sequence[str], mode: str, root: Path, moments: Sequence[float]) -> tuple[Path | None, list[str]]:
    """A run whose processes are killed after so many seconds, one after the other, and then resumed to its end.

    Returns:
        Its folder, and the last line before each kill, or "finished" if the process had ended before.
    """
    hit = []
    for after in [*moments, None]:
        run = the_run(root, mode)
        call = [*words, "--output_root_dir", str(root)] if run is None else ["--resume", str(run)]
        status, _, line = process(call, root / "output.txt", after)
        if after is not None:
            hit.append("finished" if status == 0 else line)
        elif status != 0:
            print((root / "output.txt").read_text(encoding="utf-8"), file=sys.stderr)
    return the_run(root, mode), hit


def measure(mode: str, words: Sequence[str], kills: int, seed: int, root: Path) -> list[str]:
    """Kill and compare until there were so many kills; a line for every run that ended otherwise."""
    (root / "whole").mkdir()
    status, seconds, line = process([*words, "--output_root_dir", str(root / "whole")], root / "output.txt")
    whole = the_run(root / "whole", mode)
    assert status == 0, line
    assert whole is not None
    print(f"{mode}: the uninterrupted run took {seconds:.0f} s", flush=True)
    numbers, done, failures = random.Random(seed), 0, []
    while done < kills:
        moments = [seconds * numbers.random() for _ in range(min(numbers.choice([1, 2]), kills - done))]
        folder = Path(tempfile.mkdtemp(dir=root))
        run, hit = killed_run(words, mode, folder, moments)
        if "finished" in hit:  # the machine is less busy now
            seconds = max(0.9 * seconds, 1.0)
        done += sum(what != "finished" for what in hit)
        wrong = ["it never began"] if run is None else differences(run, whole)
        for after, what in zip(moments, hit, strict=True):
            print(f"{mode}: after {after:.1f} s: {what[:90]}", flush=True)
        print(f"{mode}: {done} kills; {'equal to the last bit' if not wrong else wrong[:5]}", flush=True)
        failures += [f"{mode} {moments}: {wrong[:5]}"] if wrong else []
        shutil.rmtree(folder)
    return failures


def main() -> int:
    """Print what each kill hit and how its run ended; exit status 1 if one ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--kills", type=int, default=50, help="of fine-tuning")
    parser.add_argument("--pretraining_kills", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failures = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = ["--data_dir", str(options.cohort), "--num_workers", str(options.num_workers)]
        for mode, kills in (("pretrain", options.pretraining_kills), ("finetune", options.kills)):
            (root / mode).mkdir()
            words = ["--mode", mode, *data, *WORDS[mode]]
            if mode == "finetune":
                checkpoint = the_run(root / "pretrain" / "whole", "pretrain")
                words += ["--pretrained_ckpt", str(checkpoint)]
            failures += measure(mode, words, kills, options.seed, root / mode)
    print(f"{options.pretraining_kills + options.kills} kills; runs that ended otherwise: {len(failures)}")
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
