"""What an import adds to a cohort beside its arrays: notes, what was decided, and the ids and times of its samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqsetvae.cohort.format import SAMPLES, Cohort
from seqsetvae.cohort.manifest import damaged
from seqsetvae.cohort.tidy import Skip

IMPORT = "import"  # the key in manifest.json
TIMESTAMPS = "timestamps"  # its `times`, where they are not numbers
SAMPLE_TIMES = "sample_times"  # the unit of numbers in samples.parquet; cohorts without the key have minutes
ID_COLUMN, TIME_COLUMN = "id_column", "prediction_time_column"  # its names of columns in the source
END = "end"  # its column or code of the end of stays; None: not known
SAID = ("notes", "found", "decided")  # its sentences
NO_LABEL = "none"  # the name of the label of a cohort without labels
PREDICTION_TIME = "prediction_time"  # in samples.parquet, and the usual name in a table of labels


@dataclass(frozen=True)
class Imported:
    """What is kept of an import.

    Attributes:
        notes: what was unusual and how it was handled, a line each.
        found: what the source holds, a line each.
        decided: the label, windows and splits, a sentence each.
        record: what was decided, for manifest.json.
        samples: stay_id, id (text), subject_id, split, start and prediction_time (timestamps, or numbers in the
            unit of the source; null = none).
    """

    notes: Sequence[str] = ()
    found: Sequence[str] = ()
    decided: Sequence[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    samples: pa.Table | None = None

    def as_plain(self) -> dict[str, Any]:
        """For the manifest."""
        return {IMPORT: {**{name: list(getattr(self, name)) for name in SAID}, **self.record}}


def has_dates(cohort: Cohort) -> bool:
    """Whether minutes were computed from timestamps, so that their unit is beyond doubt."""
    return cohort.manifest.get(IMPORT, {}).get("times") == TIMESTAMPS


def write_samples(folder: Path, samples: pa.Table, skips: Sequence[Skip]) -> None:
    """Write samples.parquet, with a column `reason` for the samples that are not in the cohort."""
    reasons = {skip.stay_id: skip.reason for skip in skips}
    reason = [reasons.get(stay) for stay in samples["stay_id"].to_pylist()]
    pq.write_table(samples.append_column("reason", pa.array(reason, pa.string())), folder / SAMPLES)


def read_samples(cohort: Cohort) -> pa.Table | None:
    """The samples of an imported cohort, those that were left out included; None if it was not imported.

    Raises:
        InputError: the file cannot be read.
    """
    file = cohort.path / SAMPLES
    if SAMPLES not in cohort.manifest["checksums"]:
        return None
    try:
        return pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, str(error)) from None
