"""The data command, `python data.py --help`, and the batches of a cohort for Lightning."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before the import below, which takes seconds: the command needs none of it
    from seqsetvae.cohort.command import main

    sys.exit(main())

from seqsetvae.loading import CohortDataModule, require_both_classes

__all__ = ["CohortDataModule", "require_both_classes"]
