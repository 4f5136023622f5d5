"""Where stays come from: one file per origin, by the name of its subcommand of data.py."""

from argparse import ArgumentParser, Namespace
from typing import Protocol

from seqsetvae.cohort.sources import meds, physionet2012, seqsetvae_layout, table
from seqsetvae.cohort.sources.opened import Opened


class Origin(Protocol):
    """What the file of an origin must offer."""

    HELP: str  # what the subcommand does

    def add_flags(self, parser: ArgumentParser) -> None:
        """Add its flags; OUT and those of opened.add_common are added afterwards."""
        ...

    def open_source(self, arguments: Namespace) -> Opened:
        """The stays, labels and side tables that these flags name. Raises InputError."""
        ...


SOURCES: dict[str, Origin] = {"physionet2012": physionet2012, "compile": seqsetvae_layout, "table": table, "meds": meds}
