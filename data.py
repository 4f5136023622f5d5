"""The data command, `python data.py --help`, and the batches of a cohort for Lightning."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before the import below, which takes seconds: the command needs none of it
    try:
        from seqsetvae.cohort.command import main

        sys.exit(main())
    except KeyboardInterrupt:  # before or after main, which handles one that comes meanwhile
        print("interrupted", file=sys.stderr)
        sys.exit(130)

from seqsetvae.batches.loading import CohortDataModule, require_both_classes

__all__ = ["CohortDataModule", "require_both_classes"]
