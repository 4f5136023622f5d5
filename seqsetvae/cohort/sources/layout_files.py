"""Where the files of a SeqSetVAE layout are: those that were named, else those beside or inside patient_ehr."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import is_compiled
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.errors import InputError
from seqsetvae.files import require_no_pipe


@dataclass(frozen=True)
class SideFiles:
    """The side tables that a user named; None = the one beside or inside patient_ehr, if there is one."""

    stats: Path | None = None
    labels: Path | None = None
    embeddings: Path | None = None

    def by_flag(self) -> dict[str, tuple[str, Path | None]]:
        """By flag: the usual name of the file, and the one that was named."""
        return {
            "--params_map_path": ("stats.csv", self.stats),
            "--label_path": ("oc.csv", self.labels),
            "--embeddings_path": ("cached.csv", self.embeddings),
        }

    def require(self) -> None:
        """Raises InputError if a file that was named does not exist.

        A compiled cohort may be named for statistics and embeddings.
        """
        for flag, (name, path) in self.by_flag().items():
            if path is not None and not path.is_file() and not (name != "oc.csv" and is_compiled(path)):
                raise InputError(f"{flag} {path}: no such file. It should be a file like {name}.")

    def refuse(self, cohort: Path) -> None:
        """Raises InputError if labels were named for a compiled cohort, which has its own."""
        if self.labels is not None:
            raise InputError(
                f"{cohort} is a compiled cohort, which holds its labels already. Leave out --label_path {self.labels}, "
                "or pass the data that it was compiled from."
            )


NOT_NAMED = SideFiles()


@dataclass(frozen=True)
class LayoutFiles:
    """The files of a SeqSetVAE layout; None = there is none."""

    patient_ehr: Path
    stats: Path | None
    labels: Path | None
    embeddings: Path | None


def locate_layout(data_dir: Path, named: SideFiles = NOT_NAMED) -> LayoutFiles:
    """The files of a SeqSetVAE layout. Raises InputError if there is no patient_ehr, or not a file that was named."""
    patient_ehr = find_patient_ehr(data_dir)
    named.require()
    found = []
    for name, path in named.by_flag().values():
        usual = (patient_ehr.absolute().parent / name, patient_ehr / name)
        found.append(path or next((file for file in usual if file.is_file()), None))
    return LayoutFiles(patient_ehr, *found)


def find_patient_ehr(data_dir: Path) -> Path:
    """The folder with the split folders: `data_dir` itself or its patient_ehr.

    Raises:
        InputError: neither has a folder train, valid or test with parquet files; says what was found.
    """
    for folder in (data_dir, data_dir / "patient_ehr"):
        if any(any(_parquet_files(folder / split)) for split in SPLITS):
            return folder
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder. Pass a patient_ehr folder or a compiled cohort.")
    found = sorted(path.name + ("/" if path.is_dir() else "") for path in data_dir.iterdir())
    raise InputError(
        f"{data_dir}: holds neither a compiled cohort (manifest.json) nor parquet files in train/, valid/ or test/. "
        f"Found: {', '.join(found[:20]) or 'nothing'}{', ...' if len(found) > 20 else ''}."
    )


def parquet_names(folder: Path) -> NDArray[np.bytes_]:
    """[files] Names of the parquet files of a folder, sorted; none if there is no such folder."""
    return np.sort(np.array(list(map(os.fsencode, _parquet_files(folder))), dtype=np.bytes_))


def _parquet_files(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        return
    try:
        with os.scandir(folder) as entries:  # Path.glob would hold an object of 300 bytes for each file
            for entry in entries:
                if entry.name.endswith(".parquet") and not entry.name.startswith((".", "_")):
                    if not entry.is_file():
                        require_no_pipe(entry.path)
                    yield entry.name
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
