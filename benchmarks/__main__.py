"""All benchmarks: `python -m benchmarks --data_dir COHORT --output FOLDER` prints tables and keeps them in the folder.

figures.json has every measurement, tables.md the tables. A section measured again (--only) replaces only its own
measurements. Without --data_dir the stays are synthetic.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks import data, floor, frozen, gpu, loop, summaries
from benchmarks.measure import Measurement, table
from seqsetvae.batches.loading import require_both_classes
from seqsetvae.cohort import open_cohort
from seqsetvae.system.errors import InputError

# name -> (what it measures, function of (compiled cohort, scratch folder) that returns measurements)
SECTIONS: dict[str, tuple[str, Callable[[Path | None, Path], list[Measurement]]]] = {
    "loop": ("Against one stay, one set at a time", loop.section),
    "floor": ("Against plain matrix products", floor.section),
    "frozen": ("Frozen backbone: cached features, or the backbone in every step", frozen.section),
    "summaries": ("variable_summaries: speed and size of the vocabulary", summaries.section),
    "data": ("From the old layout to batches", data.section),
    "gpu": ("Speed on a CUDA GPU", gpu.section),
}


def hardware() -> dict[str, str | int]:
    """The processor, GPU and versions that this runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "product instructions": os.environ.get("MKL_ENABLE_INSTRUCTIONS", "all"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> int:
    """Run the chosen sections; what is measured is on disk after each of them. Returns 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="a compiled cohort of real stays; without it, synthetic ones")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"), help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="sections to run")
    arguments = parser.parse_args()
    try:
        data = "synthetic stays" if arguments.data_dir is None else _name(arguments.data_dir)
        earlier_results(arguments.output, data)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        title, section = SECTIONS[name]
        with tempfile.TemporaryDirectory() as scratch:
            measurements = section(arguments.data_dir, Path(scratch))
        if measurements:  # else the section has printed why there are none
            print(table(title, measurements), end="\n\n", flush=True)
            keep(name, measurements, data, arguments.output)
    return 0


def _name(data_dir: Path) -> str:
    """What a compiled cohort is called in the results. Raises InputError if it cannot be used."""
    cohort = open_cohort(data_dir)
    require_both_classes(cohort, "train", "valid")
    return f"the compiled cohort {cohort.content_hash[:12]}"


def earlier_results(folder: Path, data: str) -> dict[str, Any]:
    """The results in the folder, to which others are added: none, or those of this machine and the same data.

    Raises:
        InputError: the folder holds measurements of another machine or other data.
    """
    file, machine = folder / "figures.json", hardware()
    if not file.exists():
        return {"hardware": machine, "data": data, "dates": {}, "sections": {}}
    results: dict[str, Any] = json.loads(file.read_text())
    if (results["hardware"], results["data"]) != (machine, data):
        raise InputError(
            f"{file}: holds measurements of {results['hardware']} on {results['data']}; use another --output"
        )
    return results


def keep(section: str, measurements: list[Measurement], data: str, folder: Path) -> None:
    """Add a section's measurements to those in the folder, in place of older ones of the same section.

    Raises:
        InputError: the folder holds measurements of another machine or other data.
    """
    results = earlier_results(folder, data)
    results["sections"][section] = [asdict(measurement) for measurement in measurements]
    results["dates"][section] = date.today().isoformat()
    (folder / "figures.json").write_text(json.dumps(results, indent=1) + "\n")
    tables = [
        table(f"{title} ({results['dates'][name]})", [Measurement(**one) for one in results["sections"][name]])
        for name, (title, _) in SECTIONS.items()
        if results["sections"].get(name)
    ]
    machine = ", ".join(f"{name} {value}" for name, value in results["hardware"].items())
    (folder / "tables.md").write_text("\n\n".join([f"Measured on {data}: {machine}", *tables]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
