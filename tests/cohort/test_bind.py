"""What reads the variables of a cohort: the table of a checkpoint, side files, and events that have no embedding."""

from typing import Any

import numpy as np
import pytest

from seqsetvae.cohort import Cohort, notices, open_or_compile
from seqsetvae.cohort.bind import SideTables, bind
from seqsetvae.cohort.sidefiles import Embeddings
from seqsetvae.cohort.sources.seqsetvae_layout import SideFiles
from seqsetvae.cohort.variables import Variables
from seqsetvae.system.errors import InputError

from .conftest import Folder
from .test_compile import z_scores_of


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


def test_statistics_and_embeddings_may_be_those_of_a_compiled_cohort(folder):
    (folder.root / "stats.csv").unlink()
    trained_on = found(folder)
    (trained_on.path / "cached.csv").write_bytes((folder.root / "cached.csv").read_bytes())
    new = found(_new_stays(folder, "heart rate"), side_tables=trained_on)
    assert (new.mean[0], new.std[0]) == (trained_on.mean[0], trained_on.std[0])
    assert new.embeddings.tolist() == [[0.5, -1.5]]


def test_a_compiled_cohort_is_no_file_of_labels(folder):
    with pytest.raises(InputError, match=r"--label_path .* no such file"):
        SideFiles(labels=found(folder).path).require()


OWN = Variables(("heart rate", "gone"), np.array([100.0, 5]), np.array([20.0, 1]), np.array([[1.0, 2], [3, 4]]), 2)


def test_a_checkpoint_reads_events_alone(folder):
    cohort = found(_new_stays(folder, "heart rate"), own=OWN)
    assert z_scores_of(cohort, "test") == [-0.5]
    assert cohort.embeddings.tolist() == [[1, 2]]


def test_side_files_tell_of_variables_that_a_checkpoint_lacks(folder, capsys):
    cohort = found(folder, own=OWN)
    assert "beside the data differ from those of the checkpoint, which are used, in 1 variable: heart rate" in (
        capsys.readouterr().out
    )
    assert cohort.mean.tolist() == [100, 2]
    assert cohort.embeddings.tolist() == [[1, 2], [2, 3]]
    named = SideFiles(stats=folder.root / "stats.csv")
    with pytest.raises(InputError, match="another mean, std or embedding of 1 variable: heart rate"):
        open_or_compile(folder.ehr, cache_root=folder.root, named=named, own=OWN, progress=False)


@pytest.mark.parametrize("what", ["mean", "std", "vectors", "width"])
def test_contradictions_are_found_by_value_however_small(folder, what):
    cohort = found(folder)
    mean, std, vectors = cohort.mean.copy(), cohort.std.copy(), cohort.embeddings.copy()
    if what != "width":
        {"mean": mean, "std": std, "vectors": vectors[:, 1]}[what][1] *= 1 + 1e-15
    width = 1 if what == "width" else 2
    own = Variables(cohort.vocabulary, mean, std, vectors[:, :width], width)
    assert own.contradicted_by(cohort.variables) == list(cohort.vocabulary)[what != "width" :]
    same = Variables(cohort.vocabulary, cohort.mean, cohort.std, cohort.embeddings, 2)
    assert same.contradicted_by(cohort.variables) == []


def test_events_without_an_embedding_are_an_error_unless_they_are_to_be_left_out(folder):
    folder.stay("train", "2.0", [("lactate", 1, 5), ("HR", 99, 6), ("HR", 98, 7)])
    with pytest.raises(InputError, match=r"cached.csv has no embedding for 1 of 3 variables:\n  'HR': 2 events"):
        found(folder)
    cohort = found(folder, leave_out_unknown=True)
    assert cohort.vocabulary == cohort.variables.names == ("heart rate", "lactate")
    assert cohort.manifest["report"]["unknown_variables"] == {"train": {"HR": 2}}
    assert "train: events of variables without an embedding, left out: 'HR' (2 events)" in notices(cohort)
    with pytest.raises(InputError, match=r"The checkpoint has no embedding for 2 of 3 variables"):
        bind(_raw(folder), own=OWN)


def _raw(folder: Folder) -> Cohort:
    (folder.root / "cached.csv").unlink()
    return found(folder)


def test_the_other_events_are_as_if_those_had_not_been_there(folder):
    clean = found(folder)
    folder.stay("train", "1.0", [("HR", 1, 0), ("heart rate", 90, 0), ("lactate", 3, 0), ("heart rate", 70, 30)])
    folder.stay("train", "2.0", [("HR", 9, 1), ("lactate", 1, 5), ("HR", 99, 6)])
    folder.stay("train", "5.0", [("HR", 99, 6)])
    cohort = found(folder, leave_out_unknown=True)
    for name in ("train", "valid"):
        for array in ("variable", "value", "set_offset", "minute", "stay_offset", "stay_id", "label"):
            assert np.array_equal(getattr(cohort.split(name), array), getattr(clean.split(name), array)), array
        assert np.array_equal(cohort.sums(name).as_array(), clean.sums(name).as_array())
    assert cohort.manifest["splits"] == clean.manifest["splits"]
    assert cohort.manifest["report"]["without_known_variable"] == {"train": [5]}
    assert "train: 1 stay without any other event, left out" in notices(cohort)


def test_a_split_of_such_events_alone_is_an_error(folder):
    folder.stay("test", "5.0", [("HR", 99, 6)])
    with pytest.raises(InputError, match="the split test has no stay with a variable that has an embedding"):
        found(folder, leave_out_unknown=True)


def test_a_vector_that_is_not_finite_is_an_error_where_it_is_needed(folder):
    cohort = _raw(folder)
    broken = SideTables(embeddings=Embeddings({"heart rate": 0, "lactate": 1}, np.array([[np.inf, 0], [1, 2]])))
    with pytest.raises(InputError, match="the embedding of 'heart rate' contains numbers that are not finite"):
        bind(cohort, broken)
    assert bind(cohort, broken, own=OWN).embeddings.tolist() == [[1, 2], [1, 2]]
