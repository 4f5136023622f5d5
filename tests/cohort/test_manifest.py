"""manifest.json: any change is noticed by its checksum; without one (older cohorts) every value is still checked."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.cohort.manifest import CHECKSUM, VALUES, manifest_checksum, read_manifest
from seqsetvae.errors import InputError

from .conftest import Folder
from .test_compile import compiled


def _change(path: Path, keep_checksum: bool = False, **changes: Any) -> None:
    """Change values of a manifest, as a cohort from before the checksum would hold them."""
    manifest = read_manifest(path) | changes
    if not keep_checksum:
        del manifest[CHECKSUM], manifest[VALUES]
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_manifest_has_the_checksum_of_its_content_in_any_layout(folder: Folder) -> None:
    path = compiled(folder).path
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest[CHECKSUM] == manifest_checksum(manifest)
    reordered = dict(reversed(list(manifest.items())))
    (path / "manifest.json").write_text(json.dumps(reordered), encoding="utf-8")
    assert open_cohort(path).mean.tolist() == [80, 2]


@pytest.mark.parametrize(
    "change",
    [{"mean": [880, 2]}, {"std": [11, 1]}, {"vocabulary": ["Heart rate", "lactate"]}, {"label_name": "sepsis"}],
    ids=str,
)
def test_a_plausible_change_is_noticed(
    folder: Folder, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = compiled(folder).path
    _change(path, keep_checksum=True, **change)
    message = r"manifest\.json: damaged \(its content does not match its checksum\)\. Delete the folder .* compile"
    with pytest.raises(InputError, match=message):
        open_cohort(path)
    assert main(["check", str(path)]) == 1
    assert "does not match its checksum" in capsys.readouterr().out


def test_flipped_bits_are_noticed(folder: Folder) -> None:
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


def test_a_cohort_from_before_the_checksum_still_opens(folder: Folder) -> None:
    cohort = compiled(folder)
    _change(cohort.path)
    assert CHECKSUM not in open_cohort(cohort.path).manifest
    assert open_cohort(cohort.path).content_hash == cohort.content_hash


def test_the_manifest_names_how_values_are_stored(folder: Folder) -> None:
    cohort = compiled(folder)
    assert cohort.manifest["values"] == "z_score"
    manifest = {**cohort.manifest, "values": "ranks"}
    manifest[CHECKSUM] = manifest_checksum(manifest)
    (cohort.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match=r"values are stored as 'ranks', while this program reads 'z_score'"):
        open_cohort(cohort.path)


def test_a_cohort_that_does_not_name_how_values_are_stored_holds_z_scores(folder: Folder) -> None:
    cohort = compiled(folder)
    _change(cohort.path)
    assert VALUES not in open_cohort(cohort.path).manifest


def test_a_checksum_with_a_damaged_name_is_an_error(folder: Folder) -> None:
    path = compiled(folder).path
    _change(path, manifest_checksul="0" * 64)
    with pytest.raises(InputError, match=r"damaged .manifest_checksum is missing beside manifest_checksul"):
        open_cohort(path)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"mean": [80, float("nan")]}, "mean is not a list of finite numbers or null"),
    ({"mean": [80, 1e308]}, "mean is not a list of finite numbers or null"),  # more than float32 holds
    ({"mean": [80, "2"]}, "mean is not"),
    ({"mean": [80, True]}, "mean is not"),
    ({"mean": None}, "mean is not"),
    ({"mean": [80]}, "vocabulary, mean and std are of unequal length"),
    ({"mean": [80, None]}, "a variable has a mean and no std, or the reverse"),
    ({"std": [10, -1]}, "std is not a list of finite numbers above 0 or null"),
    ({"std": [10, 0]}, "std is not"),
    ({"std": [10, float("inf")]}, "std is not"),
    ({"label_name": None}, "label_name is not a name"),
    ({"label_name": " "}, "label_name is not a name"),
    ({"vocabulary": ["lactate", "heart rate"]}, "vocabulary is not a sorted list of different names"),
    ({"vocabulary": ["lactate", "lactate"]}, "vocabulary is not"),
    ({"vocabulary": ["", "lactate"]}, "vocabulary is not"),
    ({"vocabulary": [1, 2]}, "vocabulary is not"),
    ({"vocabulary": "ab"}, "vocabulary is not"),
    ({"embeddings": {"source": "file", "width": "2"}}, "embeddings is not a source and a width"),
    ({"embeddings": {"source": "elsewhere", "width": 2}}, "embeddings is not"),
    ({"embeddings": [2]}, "embeddings is not"),
    ({"embeddings": {"source": "file"}}, "embeddings is not"),
    ({"embeddings": {"width": 2}}, "embeddings is not"),
    ({"splits": {}}, "splits is not counts of events, sets, stays, labelled, positives for some of train, valid"),
    ({"splits": {"validation": {}}}, "splits is not"),
    ({"splits": {"train": {"stays": 2}}}, "splits is not"),
    ({"splits": {"train": {"stays": 2, "sets": 3, "events": 4, "positives": 1}}}, "splits is not"),  # no labelled
    ({"splits": {"train": {"stays": 2, "sets": 3, "events": 4, "labelled": 2, "positives": 3}}}, "splits is not"),
    ({"splits": {"train": {"stays": 2.0, "sets": 3, "events": 4, "labelled": 2, "positives": 1}}}, "splits is not"),
    ({"splits": [1]}, "splits is not"),
    ({"checksums": {"embeddings.npy": 7}}, "checksums is not a SHA-256 for each array"),
    ({"checksums": []}, "checksums is not"),
    ({"report": {"faulty_files": -1}}, "report is not counts of what was left out"),
    ({"report": None}, "report is not"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=str)
def test_a_value_of_the_wrong_type_or_range_is_one_error(folder: Folder, change: dict[str, Any], message: str) -> None:
    path = compiled(folder).path
    _change(path, **change)
    with pytest.raises(InputError, match=rf"manifest\.json: damaged \({message}"):
        open_cohort(path)


COUNTS = ("faulty_files", "left_out", "stays_out_of_order", "stays_without_label")
REPORT: dict[str, Any] = {**dict.fromkeys(COUNTS, 0), "variables_without_statistics": {}}
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
    ({"report": REPORT | {"statistics_of": 5}}, "report is not"),
    ({"report": REPORT | {"faults": {"kinds": {"x": 1}}}}, "report is not"),
    ({"report": REPORT | {"faults": {"other": 1}}}, "report is not"),
]


@pytest.mark.parametrize(("change", "message"), OPTIONAL, ids=str)
def test_what_only_some_cohorts_record_is_checked_too(folder: Folder, change: dict[str, Any], message: str) -> None:
    path = compiled(folder).path
    manifest = read_manifest(path) | change
    manifest[CHECKSUM] = manifest_checksum(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match=rf"manifest\.json: damaged \({message}"):
        open_cohort(path)
