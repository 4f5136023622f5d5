"""Where stays come from: one file per origin, by the name of its subcommand of data.py."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Protocol

from seqsetvae.cohort.format import is_compiled
from seqsetvae.cohort.sources import meds, omop, physionet2012, seqsetvae_layout, shards, table
from seqsetvae.cohort.sources.meds_files import is_meds
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.tables.forms import is_table
from seqsetvae.cohort.tidy import SPLITS


class Origin(Protocol):
    """What the file of an origin must offer."""

    HELP: str  # what the subcommand does

    def add_flags(self, parser: ArgumentParser) -> None:
        """Add its flags; OUT and those of opened.add_common are added afterwards."""
        ...

    def open_source(self, arguments: Namespace) -> Opened:
        """The stays, labels and side tables that these flags name. Raises InputError."""
        ...


SOURCES: dict[str, Origin] = {
    "physionet2012": physionet2012,
    "compile": seqsetvae_layout,
    "join": shards,
    "table": table,
    "meds": meds,
    "omop": omop,
}


def recognise(path: Path) -> str | None:
    """The name of the source that reads the data at `path`; None for a compiled cohort, the old layout and others."""
    if path.is_file() and is_table(path):
        return "table"
    if not path.is_dir() or is_compiled(path):
        return None
    if is_meds(path):
        return "meds"
    if omop.is_omop(path):
        return "omop"
    if any(path.glob("Outcomes-[abc].txt")):
        return "physionet2012"
    is_layout = any((folder / split).is_dir() for folder in (path, path / "patient_ehr") for split in SPLITS)
    return "table" if not is_layout and any(is_table(file) for file in path.rglob("*")) else None
