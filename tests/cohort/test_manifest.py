"""manifest.json: any change is noticed by its checksum, and every value is checked, should it be written so."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.cohort.manifest import CHECKSUM, manifest_checksum, read_manifest
from seqsetvae.system.errors import InputError

from .test_compile import compiled


def _change(path: Path, keep_checksum: bool = False, **changes: Any) -> None:
    """Change values of a manifest, and make its checksum fit unless the old one is to be kept."""
    manifest = read_manifest(path) | changes
    if not keep_checksum:
        manifest[CHECKSUM] = manifest_checksum(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_manifest_has_the_checksum_of_its_content_in_any_layout(folder):
    path = compiled(folder).path
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest[CHECKSUM] == manifest_checksum(manifest)
    reordered = dict(reversed(list(manifest.items())))
    (path / "manifest.json").write_text(json.dumps(reordered), encoding="utf-8")
    assert open_cohort(path).vocabulary == ("heart rate", "lactate")


@pytest.mark.parametrize("change", [{"vocabulary": ["Heart rate", "lactate"]}, {"label_name": "sepsis"}], ids=str)
def test_a_plausible_change_is_noticed(folder, change, capsys):
    path = compiled(folder).path
    _change(path, keep_checksum=True, **change)
    message = r"manifest\.json: damaged \(its content does not match its checksum\)\. Delete the folder .* compile"
    with pytest.raises(InputError, match=message):
        open_cohort(path)
    assert main(["check", str(path)]) == 1
    assert "does not match its checksum" in capsys.readouterr().out


def test_flipped_bits_are_noticed(folder):
    path = compiled(folder).path
    content, manifest = (path / "manifest.json").read_bytes(), read_manifest(path)
    rng, refused = random.Random(0), 0
    for trial in range(240):
        changed = bytearray(content)
        for _ in range((1, 20)[trial % 2]):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        (path / "manifest.json").write_bytes(changed)
        try:
            assert read_manifest(path) == manifest  # a blank between values became a tab, say
        except InputError:
            refused += 1
    assert refused > 200


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"label_name": None}, "label_name is not a name"),
    ({"label_name": " "}, "label_name is not a name"),
    ({"vocabulary": ["lactate", "heart rate"]}, "vocabulary is not a sorted list of different names"),
    ({"vocabulary": ["lactate", "lactate"]}, "vocabulary is not"),
    ({"vocabulary": ["", "lactate"]}, "vocabulary is not"),
    ({"vocabulary": [1, 2]}, "vocabulary is not"),
    ({"vocabulary": "ab"}, "vocabulary is not"),
    ({"splits": {}}, "splits is not counts of events, sets, stays, labelled, positives for some of train, valid"),
    ({"splits": {"validation": {}}}, "splits is not"),
    ({"splits": {"train": {"stays": 2}}}, "splits is not"),
    ({"splits": {"train": {"stays": 2, "sets": 3, "events": 4, "positives": 1}}}, "splits is not"),  # no labelled
    ({"splits": {"train": {"stays": 2, "sets": 3, "events": 4, "labelled": 2, "positives": 3}}}, "splits is not"),
    ({"splits": {"train": {"stays": 2.0, "sets": 3, "events": 4, "labelled": 2, "positives": 1}}}, "splits is not"),
    ({"splits": [1]}, "splits is not"),
    ({"checksums": {"train/value.npy": 7}}, "checksums is not a SHA-256 for each array"),
    ({"checksums": []}, "checksums is not"),
    ({"report": {"faulty_files": -1}}, "report is not counts of what was left out"),
    ({"report": None}, "report is not"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=str)
def test_a_value_of_the_wrong_type_or_range_is_one_error(folder, change, message):
    path = compiled(folder).path
    _change(path, **change)
    with pytest.raises(InputError, match=rf"manifest\.json: damaged \({message}"):
        open_cohort(path)


COUNTS = ("faulty_files", "left_out", "stays_out_of_order", "stays_without_label")
REPORT: dict[str, Any] = dict.fromkeys(COUNTS, 0)
OPTIONAL: list[tuple[dict[str, Any], str]] = [
    ({"import": 5}, "import is not what an import records"),
    ({"import": {"notes": "left out"}}, "import is not"),
    ({"import": {"notes": [5]}}, "import is not"),
    ({"import": {"id_column": None}}, "import is not"),
    ({"import": {"time_zone": 5}}, "import is not"),
    ({"groups": {"train": [["a", 1]]}}, "groups do not add up to the stays of their split"),
    ({"groups": {"train": [5]}}, "groups is not groups of stays and their sizes, by split"),
    ({"source": 5}, "source is not a text"),
    ({"targets": {}}, "targets is not a key of a file"),
    ({"report": REPORT | {"unnamed_rows": 5}}, "report is not counts of what was left out"),
    ({"report": REPORT | {"unnamed_rows": {"rows": 5}}}, "report is not"),
    ({"report": REPORT | {"unknown_variables": {"test": 5}}}, "report is not"),
    ({"report": REPORT | {"faults": {"kinds": {"x": 1}}}}, "report is not"),
    ({"report": REPORT | {"faults": {"other": 1}}}, "report is not"),
]


@pytest.mark.parametrize(("change", "message"), OPTIONAL, ids=str)
def test_what_only_some_cohorts_record_is_checked_too(folder, change, message):
    path = compiled(folder).path
    _change(path, **change)
    with pytest.raises(InputError, match=rf"manifest\.json: damaged \({message}"):
        open_cohort(path)
