"""manifest.json of a compiled cohort: written with a checksum, and checked before anything in it is used."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256

FORMAT = "seqsetvae-cohort"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
CHECKSUM = "manifest_checksum"
_Check = Callable[[Any], bool]
_COUNTS = ("positives", "labelled", "stays", "sets", "events")  # of a split; none is larger than the next
_REPORT_COUNTS = ("faulty_files", "left_out", "stays_out_of_order", "stays_without_label")


def damaged(file: Path, what: str) -> InputError:
    """The error, to be raised, for a file of a cohort that is not as the compiler wrote it."""
    return InputError(f"{file}: damaged ({what}). Delete the folder {file.parent} and compile the data again.")


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


def _content_problem(manifest: dict[str, Any]) -> str | None:
    """The first value of the wrong type or out of range, in words; None if there is none."""
    missing = [key for key in _CHECKS if key not in manifest]
    if missing:
        return f"{', '.join(missing)} missing"
    for key, (check, allowed) in (_CHECKS | _OPTIONAL).items():
        if key in manifest and not check(manifest[key]):
            return f"{key} is not {allowed}"
    sizes = {name: sum(n for _, n in runs) for name, runs in manifest.get("groups", {}).items() if runs}
    if any(n != manifest["splits"].get(name, {}).get("stays") for name, n in sizes.items()):
        return "groups do not add up to the stays of their split"
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: object, is_item: _Check) -> bool:
    return isinstance(value, list) and all(map(is_item, value))


def _is_dict(value: object, is_item: _Check) -> bool:
    return isinstance(value, dict) and all(map(is_item, value.values()))


def _is_split(counts: Any) -> bool:
    numbers: list[Any] = [counts.get(name) for name in _COUNTS] if isinstance(counts, dict) else [None]
    return all(map(_is_count, numbers)) and numbers == sorted(numbers)


def _has(content: Any, checks: Mapping[str, _Check]) -> bool:
    """Whether it is an object whose values are as these checks ask; keys that are missing are another's business."""
    return isinstance(content, dict) and all(check(content[key]) for key, check in checks.items() if key in content)


def _is_pair(value: Any, *checks: _Check) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(lambda check, each: check(each), checks, value))


def _is_report(report: Any) -> bool:
    counts = [report.get(name) for name in _REPORT_COUNTS] if isinstance(report, dict) else [None]
    return all(map(_is_count, counts)) and _has(report, _OF_REPORT)


def _are_faults(faults: Any) -> bool:
    is_known = _has(faults, _OF_FAULTS) and faults.keys() <= _OF_FAULTS.keys()
    return is_known and faults.get("kinds", {}).keys() <= faults.get("examples", {}).keys()


def _are_groups(groups: Any) -> bool:
    return _is_dict(
        groups, lambda runs: _is_list(runs, lambda run: _is_pair(run, lambda v: isinstance(v, str), _is_count))
    )


def _are_counts(value: object) -> bool:
    return _is_dict(value, _is_count)


_OF_FAULTS: dict[str, _Check] = {  # the fields of skipped.FaultyFiles
    **dict.fromkeys(("files", "labelled", "positives", "without_stay"), _is_count),
    **dict.fromkeys(("kinds", "rows"), _are_counts),
    "examples": lambda v: _is_dict(v, _is_text),
    "cells": lambda v: _is_dict(v, lambda of: _is_dict(of, lambda pair: _is_pair(pair, _is_count, _is_count))),
    "unit": _is_text,
}
_OF_REPORT: dict[str, _Check] = {
    "skip_bad": lambda v: isinstance(v, bool),
    "faults": _are_faults,
    "unnamed_rows": lambda v: _are_counts(v) and v.keys() == {"rows", "files"},
    "unknown_variables": lambda v: _is_dict(v, _are_counts),
}
_OF_IMPORT: dict[str, _Check] = {
    "notes": lambda v: _is_list(v, _is_text),
    "id_column": lambda v: isinstance(v, str),  # that of an index of pandas is empty
    **dict.fromkeys(("times", "sample_times"), _is_text),
    **dict.fromkeys(
        ("prediction_time_column", "time_format", "time_zone", "decimal"), lambda v: isinstance(v, str | None)
    ),
}
_OPTIONAL: dict[str, tuple[_Check, str]] = {  # what cohorts of some versions and sources alone have
    "import": (lambda v: _has(v, _OF_IMPORT), "what an import records"),
    "groups": (_are_groups, "groups of stays and their sizes, by split"),
    "targets": (lambda v: False, "a key of a file"),
}
_CHECKS: dict[str, tuple[_Check, str]] = {
    "vocabulary": (lambda v: _is_list(v, _is_text) and v == sorted(set(v)), "a sorted list of different names"),
    "label_name": (_is_text, "a name"),
    "source": (_is_text, "a text"),
    "splits": (
        lambda v: _is_dict(v, _is_split) and len(v) > 0 and v.keys() <= set(SPLITS),
        f"counts of {', '.join(reversed(_COUNTS))} for some of {', '.join(SPLITS)}",
    ),
    "checksums": (
        lambda v: _is_dict(v, lambda s: bool(re.fullmatch("[0-9a-f]{64}", str(s)))),
        "a SHA-256 for each array",
    ),
    "report": (_is_report, "counts of what was left out"),
}
