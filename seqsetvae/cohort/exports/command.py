"""`python data.py export COHORT OUT --to FORMAT`."""

import argparse
from pathlib import Path
from typing import Any

from seqsetvae.cohort.bind import SideTables, stats_of, tables_in, vectors_of, with_tables
from seqsetvae.cohort.exports import EXPORTS
from seqsetvae.cohort.format import open_cohort
from seqsetvae.files import refuse_existing

HELP = "Write a compiled cohort in a format that other programs read."


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
    not_held = EXPORTS[arguments.to].write(cohort, arguments.out)
    for line in not_held:
        print(f"⚠️  {line}")
    splits = "; ".join(f"{name} {split.n_stays:,}" for name, split in cohort.splits.items())
    events = sum(split.n_events for split in cohort.splits.values())
    print(f"Wrote {arguments.out}: {events:,} events of the stays {splits}; {EXPORTS[arguments.to].HELP}")
    return 0
