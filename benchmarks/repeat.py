"""Whether training leaks: `python -m benchmarks.repeat --data_dir DIR --times 14`, Linux only.

The same training runs so many times in one process, with the same seed, so that each needs the same memory; the first
one also loads libraries. What rises from one to the next has leaked. After each training the table is printed: most
memory resident, own memory (RssAnon) before and after it is released, tensors that are alive, open files, threads and
child processes.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from seqsetvae.system.resources import release, status_mib
from train_optimized import main as train

FLAGS = ("--mode", "finetune", "--from_random_weights", "--unfreeze_after", "0", "--max_epochs", "2")
HEADER = (
    "| training | CPU s | peak MiB | own MiB at its end | own MiB released | tensors | files | threads | children |"
)


def main() -> None:
    """Train so many times and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--times", type=int, default=14)
    options, flags = parser.parse_known_args()
    rows = []
    for number in range(options.times):
        rows.append(one_training(number + 1, options.data_dir, flags))
        print("\n".join([HEADER, "|" + " --- |" * (HEADER.count("|") - 1), *rows]), flush=True)


def one_training(number: int, data_dir: Path, flags: Sequence[str]) -> str:
    """A training by FLAGS and further flags, in a folder that is deleted; its row of the table."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        status = train([*FLAGS, "--data_dir", str(data_dir), "--output_root_dir", folder, *flags])
    if status:
        raise SystemExit(status)
    seconds, peak, before = time.process_time() - began, status_mib("VmHWM"), status_mib("RssAnon")
    release()
    tensors = sum(type(each) is torch.Tensor for each in gc.get_objects())
    files, threads = (len(list(Path(f"/proc/self/{name}").iterdir())) for name in ("fd", "task"))
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    measurements = (f"{seconds:,.0f}", f"{peak:,.0f}", f"{before:,.0f}", f"{status_mib('RssAnon'):,.0f}")
    return "| " + " | ".join([str(number), *measurements, *map(str, (tensors, files, threads, len(children)))]) + " |"


if __name__ == "__main__":
    main()
