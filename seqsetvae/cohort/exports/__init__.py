"""`python data.py export COHORT OUT --to FORMAT`. A format is a module with HELP and write(cohort, out).

`write` makes the new folder `out` complete or not at all, and returns lines that say what the format does not hold.
"""

import argparse
from pathlib import Path
from typing import Any, Protocol

from seqsetvae.cohort.bind import SideTables, stats_of, tables_in, vectors_of, with_tables
from seqsetvae.cohort.exports import meds, seqsetvae_layout, table
from seqsetvae.cohort.format import Cohort, open_cohort
from seqsetvae.system.files import refuse_existing

HELP = "Write a compiled cohort in a format that other programs read."


class Export(Protocol):
    """What a format must offer."""

    HELP: str  # what it is, in a few words

    def write(self, cohort: Cohort, out: Path) -> list[str]:
        """Write the cohort; returns a line for each thing that the format cannot hold. Raises InputError."""
        ...


EXPORTS: dict[str, Export] = {"layout": seqsetvae_layout, "table": table, "meds": meds}


def add_export(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand and its flags."""
    parser = commands.add_parser("export", help=HELP, description=HELP, allow_abbrev=False)
    parser.add_argument("cohort", type=Path, metavar="COHORT", help="a compiled cohort")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; it must not exist yet")
    formats = "; ".join(f"{name}: {export.HELP}" for name, export in EXPORTS.items())
    parser.add_argument("--to", required=True, choices=EXPORTS, help=formats)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    refuse_existing(arguments.out)
    stats, embeddings = tables_in(arguments.cohort)
    cohort = with_tables(open_cohort(arguments.cohort), SideTables(stats_of(stats), vectors_of(embeddings)))
    for line in EXPORTS[arguments.to].write(cohort, arguments.out):
        print(f"⚠️  {line}")
    splits = "; ".join(f"{name} {split.n_stays:,}" for name, split in cohort.splits.items())
    events = sum(split.n_events for split in cohort.splits.values())
    print(f"Wrote {arguments.out}: {events:,} events of the stays {splits}; {EXPORTS[arguments.to].HELP}")
    return 0
