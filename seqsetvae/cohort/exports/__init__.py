"""Where a compiled cohort can go: formats by name, each a module with HELP and write(cohort, out).

`write` makes the new folder `out` complete or not at all, and returns lines that say what the format does not hold.
"""

from pathlib import Path
from typing import Protocol

from seqsetvae.cohort.exports import meds, seqsetvae_layout, table
from seqsetvae.cohort.format import Cohort


class Export(Protocol):
    """What a format must offer."""

    HELP: str  # what it is, in a few words

    def write(self, cohort: Cohort, out: Path) -> list[str]:
        """Write the cohort; returns a line for each thing that the format cannot hold. Raises InputError."""
        ...


EXPORTS: dict[str, Export] = {"layout": seqsetvae_layout, "table": table, "meds": meds}
