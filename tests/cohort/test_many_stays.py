"""What is kept of every stay while millions are listed, labelled and hashed: arrays, no objects."""

import gc
import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from seqsetvae.cohort.compile import COMPILER_VERSION
from seqsetvae.cohort.manifest import FORMAT_VERSION
from seqsetvae.cohort.open import content_key
from seqsetvae.cohort.sidefiles import read_labels
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout, locate_layout
from seqsetvae.cohort.tables import read
from seqsetvae.cohort.tidy import Stay
from seqsetvae.system.files import file_sha256

from .conftest import Folder

N_FILES = 3000


@pytest.fixture
def many(folder: Folder) -> Folder:
    """3,000 more stays, whose files are empty."""
    for number in range(200_000, 200_000 + N_FILES):
        (folder.ehr / "train" / f"{number}.0.parquet").touch()
    folder.csv("oc.csv", "ts_id,in_hospital_mortality\n" + "".join(f"{200_000 + i},{i % 2}\n" for i in range(N_FILES)))
    return folder


def _bytes_a_stay(work: Callable[[], object]) -> tuple[float, float]:
    """(kept by the result, most while at it)"""
    gc.collect()
    tracemalloc.start()
    result = work()
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result is not None
    return kept / N_FILES, peak / N_FILES


def test_stays_and_labels_take_a_few_bytes_each(many, monkeypatch):
    monkeypatch.setattr(read, "BYTES_PER_PART", 1 << 14)  # it would be most of the memory for so few stays
    files = locate_layout(many.root)
    assert files.labels is not None
    oc_csv = files.labels
    work: dict[str, Callable[[], object]] = {
        "stays": lambda: SeqSetVAELayout(many.ehr),
        "labels": lambda: read_labels(oc_csv, "in_hospital_mortality"),
        "key": lambda: content_key(files, "in_hospital_mortality", False),
    }
    for what, one in work.items():
        one()  # what is imported or cached once does not count
        kept, peak = _bytes_a_stay(one)
        assert kept < 40, what
        assert peak < 250, what  # much of it is fixed: 64 files are hashed ahead


def test_stays_are_listed_by_number_then_name(folder):
    for name in ("10.0", "9", "9.0", "-3", "0009", "2é"):
        (folder.ehr / "test").mkdir(exist_ok=True)
        (folder.ehr / "test" / f"{name}.parquet").touch()
    (folder.ehr / "test" / "notes.txt").touch()
    source = SeqSetVAELayout(folder.ehr)
    files = ["-3.parquet", "0009.parquet", "9.0.parquet", "9.parquet", "10.0.parquet"]
    numbers = [-3, 9, 9, 9, 10]
    stays = source.stays["test"]
    assert list(stays) == [Stay(n, str(folder.ehr / "test" / f)) for n, f in zip(numbers, files, strict=True)]
    assert stays[-1] == list(stays)[-1]
    assert list(stays[1:3]) == list(stays)[1:3]
    assert [Path(skip.file).name for skip in source.skips] == ["2é.parquet"]
    assert list(source.stays) == ["train", "valid", "test"]


def test_the_key_is_the_hash_of_one_json_list(folder):
    files = sorted(folder.ehr.glob("*/*.parquet"))
    named = {file.relative_to(folder.ehr).as_posix(): file for file in files}
    named["side:oc.csv"] = folder.root / "oc.csv"
    options = [FORMAT_VERSION, COMPILER_VERSION, "died", True]
    content = [options, *([name, file_sha256(file)] for name, file in named.items())]
    expected = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    assert content_key(locate_layout(folder.root), "died", True) == expected


def test_labels_are_a_mapping(folder):
    file = folder.csv("oc.csv", "ts_id,died\n7,1\n-2.0,0\n5,\n7.0,1\n9223372036854775807,0\n")
    labels = read_labels(file, "died")
    assert dict(labels) == {-2: 0, 7: 1, 2**63 - 1: 0}
    assert [labels.get(stay, -1) for stay in (-3, 5, 7, 8)] == [-1, -1, 1, -1]
    assert 7 in labels
    assert dict(read_labels(folder.csv("oc.csv", "ts_id,died\n"), "died")) == {}
