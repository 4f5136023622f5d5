"""The files of cross-validation: the predictions of each job, and beside them a record of what they are.

A file of an earlier call is used only if its record says that it is what was written there, for the same job: editors,
copies between folders and interrupted downloads change such files without a trace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqsetvae.evaluation.crossvalidation import Columns, as_csv, read_columns
from seqsetvae.settings.declare import declared
from seqsetvae.settings.old_names import current
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256, read_json, require_no_pipe, write_text

RECORD = "predictions"  # its entry in the .json beside the predictions


def differing(recorded: Mapping[str, Any], now: Mapping[str, Any], group: type, file: Path) -> dict[str, Any]:
    """The recorded values of the settings of `group` that are others now; one that did not exist was its default."""
    known = {name: item.default for name, item in declared(group).items()} | current(recorded, file)
    return {name: known[name] for name, value in now.items() if name in known and known[name] != value}


@dataclass(frozen=True)
class Job:
    """The file of a job's predictions, and what these depend on."""

    file: Path
    settings: Mapping[str, Any]  # of the call, as JSON brings them back
    group: type  # that declares them
    fold: str  # content hash of the fold: its data, training stays and held-out stays

    def finished(self) -> Columns | None:
        """The predictions of an earlier call; None, and why in a line, where there are none that can be used."""
        require_no_pipe(self.file)
        if self.file.is_dir():
            raise InputError(f"{self.file}: a folder in the place of the predictions of a fold. Remove it.")
        if not self.file.exists():
            print(f"Computing {self.file}", flush=True)
            return None
        wrong = self._wrong()
        if wrong is None:
            print(f"Found {self.file}", flush=True)
            return read_columns(self.file)
        print(f"⚠️  {self.file}: {wrong}. It is not used; computing its predictions again.", flush=True)
        return None

    def _wrong(self) -> str | None:
        """Why the file cannot be used."""
        try:
            record, checksum = read_json(self.file.with_suffix(".json")).get(RECORD), file_sha256(self.file)
        except (InputError, OSError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
            return "no record says what it holds, as for files of earlier versions and copies"
        if record.get("sha256") != checksum:
            return "its content is not what was written there (checksum)"
        if record.get("file") != self.file.name or record.get("fold") != self.fold:
            return "it is of another fold, training or data"
        differ = differing(record["settings"], self.settings, self.group, self.file)
        return f"it is of other settings ({', '.join(differ)})" if differ else None

    def write(self, columns: Columns, about: Mapping[str, Any]) -> None:
        """Write the predictions and what is known of their training; an older file of other content is kept."""
        from seqsetvae.evaluation.prediction_file import write_result

        content = as_csv(columns)
        record = {"file": self.file.name, "sha256": hashlib.sha256(content).hexdigest(), "fold": self.fold}
        plain = {**about, RECORD: record | {"settings": self.settings}}
        write_text(self.file.with_suffix(".json"), json.dumps(plain, indent=2) + "\n")  # first: see `_wrong`
        older = write_result(self.file, content)
        if older is not None:
            print(f"The file that was there is kept: {older}")
