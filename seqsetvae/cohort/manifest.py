"""manifest.json of a compiled cohort: written with a checksum, and checked before anything in it is used."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256
from seqsetvae.system.schema import fault_of

FORMAT = "seqsetvae-cohort"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
CHECKSUM = "manifest_checksum"
_COUNTS = ("positives", "labelled", "stays", "sets", "events")  # of a split; none is larger than the next


def damaged(file: Path, problem: str) -> InputError:
    """The error, to be raised, for a file of a cohort that is not as the compiler wrote it."""
    return InputError(f"{file}: damaged ({problem}). Delete the folder {file.parent} and compile the data again.")


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write manifest.json with the checksums of all arrays and tables, and its own; the last file of a new folder."""
    arrays = sorted([*folder.rglob("*.npy"), *folder.glob("*.parquet")])
    checksums = {file.relative_to(folder).as_posix(): file_sha256(file) for file in arrays}
    manifest = {"format": FORMAT, "version": FORMAT_VERSION, **content, "checksums": checksums}
    manifest[CHECKSUM] = manifest_checksum(manifest)
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    # Names of folders that are not UTF-8 become JSON's own escapes.
    (folder / MANIFEST).write_text(text, encoding="utf-8", errors="backslashreplace")


def manifest_checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of all keys but the checksum itself, as JSON with sorted keys and no spaces, in ASCII."""
    rest = {key: value for key, value in manifest.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the cohort folder `path`, with the type and range of every value checked.

    Raises:
        InputError: no manifest, one of another format version, or a damaged one.
    """
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} is not a compiled cohort: {MANIFEST} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f'{file}: not the manifest of a compiled cohort (no "format": "{FORMAT}").')
    if manifest.get("version") != FORMAT_VERSION:
        raise InputError(
            f"{file}: format version {manifest.get('version')}, while this program reads version {FORMAT_VERSION}. "
            "Compile the data again (version 1 of this format was last read by version 0.2.0 of the program)."
        )
    if CHECKSUM not in manifest:
        raise damaged(file, f"{CHECKSUM} is missing")
    if manifest[CHECKSUM] != manifest_checksum(manifest):
        raise damaged(file, "its content does not match its checksum")
    problem = _content_problem(manifest)
    if problem:
        raise damaged(file, problem)
    return manifest


_FAULTS: dict[str, Any] = {  # the fields of imported.FaultyFiles
    **dict.fromkeys(("files", "labelled", "positives", "without_stay"), int),
    **{name: {"*": int} for name in ("kinds", "rows")},
    "examples": {"*": str},
    "cells": {"*": {"*": [int]}},
    "unit": str,
}
_REPORT = {
    **dict.fromkeys(("faulty_files", "left_out", "stays_out_of_order", "stays_without_label"), int),
    "skip_bad": bool,
    "faults": _FAULTS,
    "unnamed_rows": {"rows": int, "files": int},
    "times": dict,
    "unknown_variables?": {"*": {"*": int}},
}
_TEXTS = ("times", "prediction_time_column", "time_format", "time_zone", "decimal")
_SCHEMA = {
    **dict.fromkeys(("label_name", "source"), str),
    "vocabulary": [str],
    "splits": {"*": dict.fromkeys(_COUNTS, int)},
    "checksums": {"*": str},
    "report": _REPORT,
    "import?": {"notes": [str], "id_column": str, **{f"{name}?": str for name in _TEXTS}},
    "groups?": {"*": [[object]]},
}


def _content_problem(manifest: dict[str, Any]) -> str | None:
    """The first value of the wrong type or out of range, in words; None if there is none."""
    if problem := fault_of(manifest, _SCHEMA):
        return problem
    names, splits, faults = manifest["vocabulary"], manifest["splits"], manifest["report"]["faults"]
    counts = [[of[name] for name in _COUNTS] for of in splits.values()]
    groups = manifest.get("groups") or {}
    are_pairs = all([type(each) for each in run] == [str, int] for runs in groups.values() for run in runs)
    is_sorted = names == sorted(set(names)) and all(map(str.strip, names))
    rules = {
        "vocabulary is not a sorted list of different names": is_sorted,
        "label_name is not a name": manifest["label_name"].strip(),
        f"splits is not some of {', '.join(SPLITS)}, with rising counts of {', '.join(_COUNTS)}": counts
        and splits.keys() <= set(SPLITS)
        and counts == [*map(sorted, counts)],
        "checksums is not a SHA-256 for each array": all(
            re.fullmatch("[0-9a-f]{64}", checksum) for checksum in manifest["checksums"].values()
        ),
        "report/faults is not counts of known faults, with examples": faults.keys() == _FAULTS.keys()
        and faults["kinds"].keys() <= faults["examples"].keys(),
        "groups do not add up to the stays of their split": are_pairs
        and all(sum(n for _, n in runs) == splits.get(name, {}).get("stays") for name, runs in groups.items() if runs),
        "targets is no key of a file": "targets" not in manifest,
    }
    return next((text for text, holds in rules.items() if not holds), None)
