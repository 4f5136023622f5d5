"""manifest.json: any change is noticed by its checksum, and every value is checked, should it be written so."""

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.cohort.imported import FaultyFiles
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


SPLIT = {"positives": 1, "labelled": 2, "stays": 2, "sets": 3, "events": 4}
NO_FAULTS = asdict(FaultyFiles())
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"label_name": None}, "'label_name' is missing"),
    ({"label_name": " "}, "label_name is not a name"),
    ({"vocabulary": ["lactate", "heart rate"]}, "vocabulary is not a sorted list of different names"),
    ({"vocabulary": ["lactate", "lactate"]}, "vocabulary is not"),
    ({"vocabulary": ["", "lactate"]}, "vocabulary is not"),
    ({"vocabulary": [1, 2]}, r"vocabulary\[0\] is 1, which has the wrong type"),
    ({"vocabulary": "ab"}, "vocabulary is 'ab'"),
    ({"splits": {}}, "splits is not some of train, valid, test, with rising counts of positives, labelled, stays"),
    ({"splits": {"validation": SPLIT}}, "splits is not some of"),
    ({"splits": {"train": {"stays": 2}}}, "'positives' is missing in splits/train"),
    ({"splits": {"train": {"stays": 2, "sets": 3, "events": 4, "positives": 1}}}, "'labelled' is missing in splits"),
    ({"splits": {"train": SPLIT | {"positives": 3}}}, "splits is not some of"),
    ({"splits": {"train": SPLIT | {"stays": 2.0}}}, "splits/train/stays is 2.0, which has the wrong type"),
    ({"splits": [1]}, r"splits is \[1\]"),
    ({"checksums": {"train/value.npy": 7}}, "checksums/train/value.npy is 7"),
    ({"checksums": {"train/value.npy": "7"}}, "checksums is not a SHA-256 for each array"),
    ({"checksums": []}, r"checksums is \[\]"),
    ({"report": {"faulty_files": -1}}, "report/faulty_files is -1|'left_out' is missing in report"),
    ({"report": None}, "'report' is missing"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=str)
def test_a_value_of_the_wrong_type_or_range_is_one_error(folder, change, message):
    path = compiled(folder).path
    _change(path, **change)
    with pytest.raises(InputError, match=rf"manifest\.json: damaged \({message}"):
        open_cohort(path)


OPTIONAL: list[tuple[dict[str, Any], str]] = [
    ({"import": 5}, "import is 5, which has the wrong type"),
    ({"import": {"notes": "left out", "id_column": "id"}}, "import/notes is 'left out'"),
    ({"import": {"notes": [5], "id_column": ""}}, r"import/notes\[0\] is 5"),
    ({"import": {"notes": [], "id_column": None}}, "'id_column' is missing in import"),
    ({"import": {"notes": [], "id_column": "id", "time_zone": 5}}, "import/time_zone is 5"),
    ({"groups": {"train": [["a", 1]]}}, "groups do not add up to the stays of their split"),
    ({"groups": {"train": [["a", "b"]]}}, "groups do not add up"),
    ({"groups": {"train": [5]}}, r"groups/train\[0\] is 5"),
    ({"source": 5}, "source is 5"),
    ({"targets": {}}, "targets is no key of a file"),
]
OF_REPORT: list[tuple[dict[str, Any], str]] = [
    ({"unnamed_rows": 5}, "report/unnamed_rows is 5"),
    ({"unnamed_rows": {"rows": 5}}, "'files' is missing in report/unnamed_rows"),
    ({"unknown_variables": {"test": 5}}, "report/unknown_variables/test is 5"),
    ({"faults": {"kinds": {"x": 1}}}, "is missing in report/faults"),
    ({"faults": NO_FAULTS | {"kinds": {"x": 1}}}, "report/faults is not counts of known faults, with examples"),
    ({"faults": NO_FAULTS | {"other": 1}}, "report/faults is not"),
]


@pytest.mark.parametrize(("change", "message"), OPTIONAL, ids=str)
def test_what_only_some_cohorts_record_is_checked_too(folder, change, message):
    path = compiled(folder).path
    _change(path, **change)
    with pytest.raises(InputError, match=rf"manifest\.json: damaged \({message}"):
        open_cohort(path)


@pytest.mark.parametrize(("change", "message"), OF_REPORT, ids=str)
def test_the_report_of_a_compilation_is_checked(folder, change, message):
    path = compiled(folder).path
    _change(path, report=read_manifest(path)["report"] | change)
    with pytest.raises(InputError, match=rf"manifest\.json: damaged \(.*{message}"):
        open_cohort(path)
