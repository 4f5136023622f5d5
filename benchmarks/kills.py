"""Kill training runs with SIGKILL at random moments, resume them, and compare them with runs that were not killed.

    python -m benchmarks.kills COHORT --kills 50 --pretraining_kills 15

COHORT is a compiled cohort or a data folder. Each run is killed at a moment drawn evenly from the time that an
uninterrupted run takes between the creation of its folder and its end; half of the runs are killed again after they
have gone on. --kills_at_places adds kills of fine-tuning in chosen calls (PLACES): while features are
cached, in a validation, in the middle of a checkpoint. --sweep_kills kills a cross-validation of several trainings.
Nothing but times may differ at the end: weights, optimizer, schedules, random numbers, metrics.csv, predictions.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from seqsetvae.runs.crossvalidate import RESULT

# place: module, attribute that is called there. The process dies before the call does anything.
PLACES = {
    "features": ("seqsetvae.training.feature_pass", "require_finite"),  # once a batch of the frozen pass
    "features complete": ("numpy", "memmap.flush"),  # all rows are computed, under a temporary name
    "validation": ("model_optimized", "SeqSetVAEFineTuner.validation_step"),
    "checkpoint": ("torch", "save"),  # when half of the file is written
    "rename": ("pathlib", "Path.replace"),  # of any file of the run: written, under a temporary name
    "job": ("seqsetvae.runs.crossvalidation_jobs", "Job.write"),  # between two trainings of a sweep
}
# The highest number of a call that is drawn; a hundred stays have so many.
CALLS = {"features": 9, "features complete": 2, "validation": 12, "checkpoint": 8, "rename": 40, "job": 4}


class Call(NamedTuple):
    """The call, counted from 1, in which a process kills itself."""

    place: str
    number: int

    def __str__(self) -> str:
        return f"{self.place}, call {self.number}"


def die_in_call(place: str, number: int) -> None:
    """Let this process die there, as `kill -9` ends it."""
    module, path = PLACES[place]
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            if place == "checkpoint":
                _write_half(function, *arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(owner, name, counted)


def _write_half(save: Callable[..., None], content: Any, stream: Any) -> None:
    whole = io.BytesIO()
    save(content, whole)
    stream.write(whole.getbuffer()[: whole.tell() // 2])
    stream.flush()


# ------------------------------------------------------------------ runs

# Each run is a process of its own, forked from one that has imported what takes seconds to import.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "pytorch_lightning", "sklearn.metrics", "matplotlib.pyplot", "lightgbm"])
TIMES = {"seconds", "stays_per_second", "waiting", "passes", "gpu_busy", "Clock"}
LOOPS = {"loops"}  # counts of what Lightning has repeated
SMALL = ["--preset", "small", "--batch_size", "16", "--save_every_minutes", "0.02", "--accelerator", "cpu"]
WORDS = {
    "pretrain": [*SMALL, "--max_epochs", "2"],
    "finetune": [
        *(*SMALL, "--max_epochs", "4", "--unfreeze_after", "2", "--gradient_accumulation_steps", "2"),
        *("--ema_decay", "0.95"),
    ],
    "crossvalidate": [
        *(*SMALL, "--max_epochs", "2", "--folds", "2", "--tunings", "probe", "full", "--baselines", "none"),
    ],
}
Moment = float | Call  # seconds after the run began to write to its folder, or a call


def the_run(root: Path, mode: str) -> Path | None:
    """The only run folder of a mode; None: there is none yet."""
    folders = list(root.glob(f"{mode}-*"))
    return folders[0] if folders else None


def differences(first: Path, other: Path) -> list[str]:
    """Where two finished runs differ in more than times: rows of metrics.csv, and values of their checkpoints."""
    places = [] if _rows(first) == _rows(other) else ["metrics.csv"]
    for name in ("best.ckpt", "last.ckpt"):
        contents = [
            torch.load(run / "checkpoints" / name, weights_only=True, map_location="cpu") for run in (first, other)
        ]
        places += _different(contents[0], contents[1], where=name)
    return places


def differences_of_sweeps(first: Path, other: Path) -> list[str]:
    """Where two finished cross-validations differ: predictions, results, and all of their runs."""
    files = [sorted(path.name for path in [*folder.glob("*.csv"), folder / RESULT]) for folder in (first, other)]
    runs = [sorted((folder / "runs").glob("finetune-*")) for folder in (first, other)]
    if files[0] != files[1] or len(runs[0]) != len(runs[1]):
        return ["number of files or runs"]
    differing = [name for name in files[0] if (first / name).read_bytes() != (other / name).read_bytes()]
    return differing + [
        f"{each.name}/{where}" for each, same in zip(*runs, strict=True) for where in differences(each, same)
    ]


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def _different(first: Any, other: Any, where: str) -> Iterator[str]:
    """Places below `where` at which two values of a checkpoint are not equal to the last bit."""
    if isinstance(first, dict) and isinstance(other, dict) and first.keys() == other.keys():
        for name in first.keys() - TIMES - LOOPS:
            yield from _different(first[name], other[name], f"{where}/{name}")
    elif isinstance(first, list | tuple) and isinstance(other, list | tuple) and len(first) == len(other):
        for place, pair in enumerate(zip(first, other, strict=True)):
            yield from _different(pair[0], pair[1], where=f"{where}/{place}")
    elif isinstance(first, torch.Tensor) and isinstance(other, torch.Tensor):
        if first.dtype != other.dtype or not torch.equal(first, other):
            yield where
    elif type(first) is not type(other) or first != other:
        yield where


def process(words: Sequence[str], output: Path, moment: Moment | None = None) -> tuple[int, float, str]:
    """Run the command; kill it so many seconds after it has begun to write to its run folder, or in a call.

    Returns:
        Exit status, seconds from that beginning to the end, and the last line that was printed.
    """
    output.write_text("")
    running = FORKS.Process(target=_run, args=(words, output, moment))
    running.start()
    while running.is_alive() and "Run folder: " not in output.read_text(encoding="utf-8"):
        time.sleep(0.02)
    start = time.monotonic()
    running.join(moment if isinstance(moment, float) else None)
    if running.is_alive():
        running.kill()
        running.join()
    lines = output.read_text(encoding="utf-8").splitlines()
    assert running.exitcode is not None
    return running.exitcode, time.monotonic() - start, lines[-1] if lines else "nothing was printed"


def _run(words: Sequence[str], output: Path, moment: Moment | None) -> None:
    """Run train_optimized.py with these arguments in another process, printing to a file."""
    import train_optimized

    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if isinstance(moment, Call):
        die_in_call(*moment)
    sys.exit(train_optimized.main(words))


def killed_run(words: Sequence[str], mode: str, root: Path, moments: Sequence[Moment]) -> tuple[Path | None, list[str]]:
    """A run whose processes are killed at these moments, one after the other, and then resumed to its end.

    Returns:
        Its folder, and the last line before each kill, or "finished" if the process had ended before.
    """
    hit = []
    for moment in [*moments, None]:
        status, _, line = process(_call(words, mode, root), root / "output.txt", moment)
        if moment is not None:
            hit.append("finished" if status == 0 else line)
        elif status != 0:
            print((root / "output.txt").read_text(encoding="utf-8"), file=sys.stderr)
    return the_run(root, mode), hit


def _call(words: Sequence[str], mode: str, root: Path) -> list[str]:
    """The arguments that begin the run in `root`, or resume it."""
    run = the_run(root, mode)
    if mode == "crossvalidate":  # the same command resumes
        return [*words, "--output_root_dir", str(root), "--output", str(root / f"{mode}-sweep")]
    return [*words, "--output_root_dir", str(root)] if run is None else ["--resume", str(run)]


@dataclass
class Measurement:
    """Kills of one mode, each compared with a run that was not killed."""

    mode: str
    words: Sequence[str]
    root: Path  # its folder, which it makes
    kills: int = 0
    failures: list[str] = field(default_factory=list)  # a line for every run that ended otherwise

    def __post_init__(self) -> None:
        whole = self.root / "whole"
        whole.mkdir(parents=True)
        status, self.seconds, line = process(_call(self.words, self.mode, whole), self.root / "output.txt")
        assert status == 0, line
        print(f"{self.mode}: the uninterrupted run took {self.seconds:.0f} s", flush=True)

    @property
    def whole(self) -> Path:
        """The run that was not killed."""
        run = the_run(self.root / "whole", self.mode)
        assert run is not None
        return run

    def kill(self, moments: Sequence[Moment]) -> None:
        """Kill one run at these moments, resume it to its end and compare it."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        run, hit = killed_run(self.words, self.mode, folder, moments)
        if "finished" in hit and isinstance(moments[0], float):  # the machine is less busy now
            self.seconds = max(0.9 * self.seconds, 1.0)
        self.kills += sum(what != "finished" for what in hit)
        compare = differences_of_sweeps if self.mode == "crossvalidate" else differences
        wrong = ["it never began"] if run is None else compare(run, self.whole)
        for moment, what in zip(moments, hit, strict=True):
            where = f"in {moment}" if isinstance(moment, Call) else f"after {moment:.1f} s"
            print(f"{self.mode}: {where}: {what[:90]}", flush=True)
        print(f"{self.mode}: {self.kills} kills; {'equal to the last bit' if not wrong else wrong[:5]}", flush=True)
        self.failures += [f"{self.mode} {moments}: {wrong[:5]}"] if wrong else []
        shutil.rmtree(folder)

    def kill_at_random(self, kills: int, numbers: random.Random) -> None:
        """So many kills at moments drawn evenly from the time of the run that was not killed."""
        wanted = self.kills + kills
        while self.kills < wanted:
            count = min(numbers.choice([1, 2]), wanted - self.kills)
            self.kill([self.seconds * numbers.random() for _ in range(count)])

    def kill_in_calls(self, places: Sequence[str], kills: int, numbers: random.Random) -> None:
        """So many kills in random calls at each place."""
        for place in places:
            wanted = self.kills + kills
            while self.kills < wanted:
                self.kill([Call(place, numbers.randint(1, CALLS[place]))])


def measure(options: argparse.Namespace, root: Path) -> list[Measurement]:
    """Kills of pretraining, of fine-tuning from its checkpoint, and of a sweep."""
    numbers = random.Random(options.seed)
    data = ["--data_dir", str(options.cohort), "--num_workers", str(options.num_workers)]

    def begun(mode: str, *more: str) -> Measurement:
        return Measurement(mode, ["--mode", mode, *data, *WORDS[mode], *more], root / mode)

    pretraining = begun("pretrain")
    pretraining.kill_at_random(options.pretraining_kills, numbers)
    done, checkpoint = [pretraining], ["--pretrained_ckpt", str(pretraining.whole)]
    if options.kills or options.kills_at_places:
        finetuning = begun("finetune", *checkpoint)
        finetuning.kill_at_random(options.kills, numbers)
        finetuning.kill_in_calls([place for place in CALLS if place != "job"], options.kills_at_places, numbers)
        done.append(finetuning)
    if options.sweep_kills:
        sweep = begun("crossvalidate", *checkpoint)
        sweep.kill_at_random(options.sweep_kills - options.sweep_kills // 2, numbers)
        sweep.kill_in_calls(["job"], options.sweep_kills // 2, numbers)
        done.append(sweep)
    return done


def main() -> int:
    """Print what each kill hit and how its run ended; exit status 1 if one ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--kills", type=int, default=50, help="of fine-tuning")
    parser.add_argument("--pretraining_kills", type=int, default=15)
    parser.add_argument("--kills_at_places", type=int, default=0, help="of fine-tuning, in calls of each kind")
    parser.add_argument("--sweep_kills", type=int, default=0, help="half of them between its trainings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        done = measure(options, Path(name))
    failures = [line for each in done for line in each.failures]
    print(f"{sum(each.kills for each in done)} kills; runs that ended otherwise: {len(failures)}")
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
