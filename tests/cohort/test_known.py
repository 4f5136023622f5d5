"""Applying a trained model: side tables of its cohort, and events of variables without an embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seqsetvae.cohort import Cohort, notices, open_or_compile
from seqsetvae.cohort.known import NO_KNOWN_VARIABLE, MissingEmbeddingsError
from seqsetvae.cohort.skipped import read_skipped
from seqsetvae.cohort.sources.layout_files import SideFiles
from seqsetvae.errors import InputError

from .conftest import Folder


def found(folder: Folder, side_tables: Cohort | None = None, **options: Any) -> Cohort:
    """The cohort of a folder; `side_tables` is a cohort whose statistics and embeddings are used."""
    cache, path = folder.root.parent / "cache", None if side_tables is None else side_tables.path
    named = SideFiles(stats=path, embeddings=path)
    return open_or_compile(folder.ehr, cache_root=cache, named=named, progress=False, **options)


def _new_stays(folder: Folder, *names: str) -> Folder:
    """A folder beside it, without side files, of one test stay: the events of these variables, a minute apart."""
    new = Folder(folder.root.parent / "new")
    new.stay("test", "7.0", [(name, 90, minute) for minute, name in enumerate(names)])
    return new


def test_statistics_and_embeddings_may_be_those_of_a_compiled_cohort(folder: Folder) -> None:
    trained_on = found(folder)
    new = found(_new_stays(folder, "heart rate"), side_tables=trained_on)
    assert new.split("test").value.tolist() == [1.0]
    assert new.embeddings.tolist() == [[0.5, -1.5]]
    assert new.fingerprints()["heart rate"] == trained_on.fingerprints()["heart rate"]
    assert new.split("test").label.tolist() == [-1]


def test_another_cohort_for_the_side_tables_is_compiled_anew(folder: Folder) -> None:
    trained_on, new = found(folder), _new_stays(folder, "heart rate")
    first = found(new, side_tables=trained_on)
    folder.csv("stats.csv", "variable,mean,std\nheart rate,70,10\nlactate,2,1\n")
    other = found(folder)
    second = found(new, side_tables=other)
    assert second.path != first.path
    assert second.split("test").value.tolist() == [2.0]


def test_a_compiled_cohort_is_no_file_of_labels(folder: Folder) -> None:
    trained_on = found(folder)
    with pytest.raises(InputError, match=r"--label_path .* no such file"):
        SideFiles(labels=trained_on.path).require()


def test_events_without_an_embedding_are_an_error_unless_they_are_to_be_left_out(folder: Folder) -> None:
    folder.stay("train", "2.0", [("lactate", 1, 5), ("HR", 99, 6), ("HR", 98, 7)])
    with pytest.raises(MissingEmbeddingsError, match="no embedding for 1 of 3 variables:\n  'HR': 2 events"):
        found(folder)
    cohort = found(folder, leave_out_unknown=True)
    assert cohort.vocabulary == ("heart rate", "lactate")
    assert cohort.manifest["report"]["unknown_variables"] == {"train": {"HR": 2}}
    assert "train: events of variables without an embedding, left out: 'HR' (2 events)" in notices(cohort)
    assert read_skipped(cohort.path) == []


def test_the_other_events_compile_as_if_those_had_not_been_there(folder: Folder) -> None:
    clean = found(folder)
    folder.stay("train", "1.0", [("HR", 1, 0), ("heart rate", 90, 0), ("lactate", 3, 0), ("heart rate", 70, 30)])
    folder.stay("train", "2.0", [("HR", 9, 1), ("lactate", 1, 5), ("HR", 99, 6)])
    cohort = found(folder, leave_out_unknown=True)
    for name in ("train", "valid"):
        for array in ("variable", "value", "set_offset", "minute", "stay_offset", "stay_id", "label"):
            assert np.array_equal(getattr(cohort.split(name), array), getattr(clean.split(name), array)), array


def test_a_stay_of_such_events_alone_is_left_out_with_the_reason(folder: Folder) -> None:
    folder.stay("train", "5.0", [("HR", 99, 6)])
    cohort = found(folder, leave_out_unknown=True)
    assert 5 not in cohort.split("train").stay_id
    (skip,) = read_skipped(cohort.path)
    assert (skip.reason, skip.is_fault) == (NO_KNOWN_VARIABLE, False)
    assert skip.file.endswith("5.0.parquet")


def test_a_row_without_a_name_is_still_a_fault(folder: Folder) -> None:
    folder.stay("train", "2.0", [("lactate", 1, 5), (None, 3, 6)])
    with pytest.raises(InputError, match="the variable has no name"):
        found(folder, leave_out_unknown=True)


def test_leaving_events_out_is_another_entry_of_the_cache(folder: Folder) -> None:
    assert found(folder).path != found(folder, leave_out_unknown=True).path
