"""What a compiled cohort contains: arrays (compared with naive pandas code), order, sets, statistics, embeddings."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from seqsetvae.cohort import Cohort, compile_cohort, open_cohort, open_or_compile
from seqsetvae.cohort.export import write_layout
from seqsetvae.cohort.format import ARRAYS
from seqsetvae.cohort.open import compile_layout
from seqsetvae.cohort.report import without_statistics
from seqsetvae.cohort.sidefiles import read_embeddings
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout, locate_layout
from seqsetvae.cohort.tidy import USUAL_ROWS
from seqsetvae.cohort.variables import generate_embedding
from seqsetvae.system.errors import InputError

from .conftest import Folder


def compiled(folder: Folder, out: str = "out", **options: object) -> Cohort:
    """Compiled, and opened as a model reads it, with the side files that went with it."""
    path = compile_layout(locate_layout(folder.root), folder.root.parent / out, **options).path  # type: ignore[arg-type]
    return open_or_compile(path, cache_root=path)


def train_only(folder: Folder, out: str = "out") -> Cohort:
    """Compiled with statistics from the train split and embeddings from the names."""
    source = SeqSetVAELayout(folder.ehr)
    return compile_cohort(source, folder.root.parent / out, label_name="died")


def sets_of(cohort: Cohort, split: str, stay: int) -> list[tuple[float, list[tuple[str, float]]]]:
    """[(minute, [(variable, value), ...]), ...] of the stay at this place, read through the offsets."""
    s = cohort.split(split)
    found = []
    for i in range(s.stay_offset[stay], s.stay_offset[stay + 1]):
        events = range(s.set_offset[i], s.set_offset[i + 1])
        found.append((float(s.minute[i]), [(cohort.vocabulary[s.variable[e]], float(s.value[e])) for e in events]))
    return found


def z_scores_of(cohort: Cohort, split: str) -> list[float]:
    of = cohort.split(split)
    return cohort.variables.z_scores(of.variable, of.value).tolist()


def test_a_cohort_holds_sets_of_values_in_their_units_and_labels(folder):
    cohort = compiled(folder)
    assert cohort.vocabulary == ("heart rate", "lactate")
    assert sets_of(cohort, "train", 0) == [(0, [("heart rate", 90), ("lactate", 3)]), (30, [("heart rate", 70)])]
    assert sets_of(cohort, "valid", 0) == [(0, [("heart rate", 100)]), (60, [("lactate", 2)])]
    assert cohort.split("train").stay_id.tolist() == [1, 2]
    assert cohort.split("train").label.tolist() == [0, 1]
    assert list(cohort.splits) == ["train", "valid"]
    with pytest.raises(InputError, match="no split 'test'; it has train, valid"):
        cohort.split("test")


def random_layout(folder: Folder, n_stays: int, seed: int = 0) -> None:
    """Stays of 1 to 60 rows in random order, some with set_index and some without."""
    rng = np.random.default_rng(seed)
    for stay in range(100, 100 + n_stays):
        n = int(rng.integers(1, 60))
        names = rng.choice(["heart rate", "lactate", "Größe é"], n)
        minute = np.sort(rng.integers(0, 20, n)).astype(float)
        set_index = (np.unique(minute, return_inverse=True)[1] * 2 + rng.integers(0, 2, n)).tolist()
        order = rng.permutation(n)
        rows = [(str(names[i]), float(rng.normal()), float(minute[i])) for i in order]
        folder.stay("test", f"{stay}.0", rows, [set_index[i] for i in order] if stay % 2 else None)
    folder.csv("cached.csv", "Key,0\nheart rate,1\nlactate,2\nGröße é,3\n")


def test_what_lies_beside_the_data_goes_with_the_cohort_and_is_bound_when_it_is_opened(folder):
    cohort = compiled(folder)
    assert z_scores_of(cohort, "train") == [1, 1, -1, -1]
    assert cohort.embeddings.tolist() == [[0.5, -1.5], [2, 3]]
    (cohort.path / "stats.csv").write_text("variable,mean,std\nheart rate,0,1\n")
    again = open_or_compile(cohort.path, cache_root=cohort.path)
    assert z_scores_of(again, "train") == [90, 3, 70, 1]  # lactate has no statistics
    assert again.data_hash == cohort.data_hash
    assert again.content_hash != cohort.content_hash


def with_pandas(file: Path) -> list[tuple[float, list[tuple[str, float]]]]:
    """The sets of one file, the plain way."""
    table = pd.read_parquet(file)
    key = ["minute", "set_index"] if "set_index" in table else ["minute"]
    sets = []
    for group, rows in table.sort_values(key, kind="stable").groupby(key, sort=True):
        sets.append((group[0], list(zip(rows.variable, rows.value, strict=True))))
    return sets


def test_arrays_equal_a_naive_pandas_implementation(folder):
    random_layout(folder, 40)
    cohort = compiled(folder)
    for at, stay in enumerate(cohort.split("test").stay_id):
        assert sets_of(cohort, "test", at) == with_pandas(folder.ehr / "test" / f"{stay}.0.parquet")


def test_sets_of_some_hours_equal_a_plain_loop_and_have_the_minute_of_their_last_event(folder):
    random_layout(folder, 40)
    events, sets = compiled(folder), compiled(folder, "hours", set_hours=0.2)
    for at in range(events.split("test").n_stays):
        plain: list[tuple[float, list[tuple[str, float]]]] = []
        stay = sets_of(events, "test", at)
        periods = [(minute - stay[0][0]) // 12 for minute, _ in stay]
        for place, (minute, of_minute) in enumerate(stay):
            before = plain.pop()[1] if place and periods[place] == periods[place - 1] else []
            plain.append((minute, before + of_minute))
        assert sets_of(sets, "test", at) == plain
    assert events.split("test").n_sets > sets.split("test").n_sets > events.split("test").n_stays
    assert sets.manifest["source"] == f"{events.manifest['source']}, in sets of 0.2 hours"


def test_threads_and_chunks_do_not_change_the_result(folder, monkeypatch):
    random_layout(folder, 60)
    one = compiled(folder, "one", jobs=1)
    monkeypatch.setattr("seqsetvae.cohort.compile.ROWS_PER_CHUNK", 7 * USUAL_ROWS)
    seven = compiled(folder, "seven", jobs=4)
    assert one.manifest["checksums"] == seven.manifest["checksums"]
    assert one.content_hash == seven.content_hash


def test_round_trip_through_the_old_layout(folder):
    random_layout(folder, 20)
    first = compiled(folder, "first")
    assert write_layout(first, folder.root.parent / "again") == []
    second = compiled(Folder(folder.root.parent / "again"), "second")
    assert second.variables.content_hash == first.variables.content_hash
    for name, split in first.splits.items():
        for array in ARRAYS:
            np.testing.assert_array_equal(getattr(second.split(name), array), getattr(split, array))


def test_rows_out_of_time_order_are_sorted_and_counted(folder):
    folder.stay("train", "2.0", [("lactate", 4, 9), ("lactate", 1, 5), ("lactate", 2, 9), ("lactate", 3, 5)])
    cohort = compiled(folder)
    assert sets_of(cohort, "train", 1) == [
        (5, [("lactate", 1), ("lactate", 3)]),  # rows of one minute keep the order of the file
        (9, [("lactate", 4), ("lactate", 2)]),
    ]
    assert cohort.manifest["report"]["stays_out_of_order"] == 1


def test_two_set_indices_of_one_minute_stay_two_sets(folder):
    folder.stay("train", "2.0", [("lactate", 1, 5), ("lactate", 2, 5), ("lactate", 3, 5)], set_index=[4, 7, 4])
    assert sets_of(compiled(folder), "train", 1) == [(5, [("lactate", 1), ("lactate", 3)]), (5, [("lactate", 2)])]


def test_unusual_but_valid_data_compile(folder):
    folder.stay("test", "10", [("lactate", i, 0) for i in range(300)])  # a set of 300 events, all one variable
    folder.stay("test", "11", [("heart rate", 80, i) for i in range(3000)])  # thousands of sets
    folder.stay("test", "12", [("Taux de créatinine (µmol/L), à jeun", 1.5, 7)])  # one event
    folder.csv("cached.csv", 'Key,0\nheart rate,1\nlactate,2\n"Taux de créatinine (µmol/L), à jeun",3\n')
    cohort = compiled(folder)
    test = cohort.split("test")
    assert np.diff(test.stay_offset).tolist() == [1, 3000, 1]
    assert np.diff(test.set_offset)[0] == 300
    assert sets_of(cohort, "test", 2) == [(7, [("Taux de créatinine (µmol/L), à jeun", 1.5)])]


def test_numbers_of_any_type_and_other_columns_are_read(folder):
    columns = {"note": ["x"], "minute": pa.array([5], pa.int16()), "value": pa.array([3], pa.float32())}
    folder.table("train", "2.0", {**columns, "variable": pa.array(["lactate"]).dictionary_encode()})
    assert sets_of(compiled(folder), "train", 1) == [(5, [("lactate", 3)])]


def test_statistics_come_from_the_train_split_alone(folder):
    folder.stay("valid", "4", [("heart rate", 1e9, 0)])
    cohort = train_only(folder)
    assert cohort.mean.tolist() == [80.0, 2.0]
    np.testing.assert_allclose(cohort.std, [np.std([90, 70], ddof=1), np.std([3, 1], ddof=1)])
    assert cohort.variables.statistics == "train split"


def test_statistics_survive_a_mean_far_above_the_std(folder):
    folder.stay("train", "5", [("sodium", 1e9 + i, i) for i in range(3)])
    cohort = train_only(folder)
    assert cohort.std[cohort.vocabulary.index("sodium")] == 1.0


def test_a_constant_of_training_keeps_a_value_of_one(folder):
    folder.stay("train", "5", [("ICU type", 1, 0), ("shift", -4, 0), ("flag", 0, 0), ("ICU type", 1, 3)])
    cohort = train_only(folder)
    assert z_scores_of(cohort, "train")[-4:] == [1, -1, 0, 1]


def test_a_variable_that_does_not_occur_in_training_has_no_statistics(folder):
    folder.stay("valid", "4", [("ferritin", 300, 0)])
    cohort = train_only(folder)
    assert np.isnan(cohort.mean[0])
    assert z_scores_of(cohort, "valid")[-1] == 300
    assert without_statistics(cohort) == {"ferritin": 1}


def test_statistics_need_a_train_split_only_where_a_model_reads_the_cohort(folder):
    for file in (folder.ehr / "train").iterdir():
        file.unlink()
    cohort = train_only(folder)
    assert without_statistics(cohort) == {}  # nothing reads it yet
    with pytest.raises(InputError, match="no train split to compute statistics from"):
        open_or_compile(cohort.path, cache_root=cohort.path)


def test_generated_embeddings_depend_on_the_name_alone(folder):
    # These numbers are for ever: cohorts and checkpoints elsewhere hold them.
    expected = [-1.1018071823588573, -1.186975318556293, 1.6036185292140486]
    np.testing.assert_allclose(generate_embedding("lactate", 3), expected, rtol=1e-12)
    cohort = train_only(folder)
    assert cohort.variables.given is None
    assert cohort.embeddings[1].tolist() == generate_embedding("lactate", 768).tolist()
    wide = generate_embedding("lactate", 20_000)
    assert abs(wide.mean()) < 0.03
    assert abs(wide.std() - 1) < 0.02


def test_a_cohort_pickles_by_its_path(folder):
    random_layout(folder, 100)
    split = compiled(folder).split("test")
    copy = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 1000
    assert np.array_equal(copy.value, split.value)
    with pytest.raises(ValueError, match="read-only"):
        copy.value[0] = 0


def test_the_golden_stays_compile(shared, tmp_path):
    tiny = shared("golden/tiny")
    compile_layout(locate_layout(tiny / "patient_ehr"), tmp_path / "out")
    cohort = open_or_compile(tmp_path / "out", cache_root=tmp_path)
    expected = np.load(tiny / "expected.npz")
    for at, stay in enumerate(cohort.split("train").stay_id):
        file = tiny / "patient_ehr" / "train" / f"{stay}.0.parquet"
        assert len(sets_of(cohort, "train", at)) == len(expected[f"{stay}/mu"])
        assert sets_of(cohort, "train", at) == with_pandas(file)
    vectors = read_embeddings(tiny / "cached.csv")
    assert np.array_equal(cohort.embeddings[3], vectors.vectors[vectors.row[cohort.vocabulary[3]]])
    assert (cohort.split("train").label == -1).all()


def test_open_cohort_gives_what_was_compiled(folder):
    cohort = compiled(folder)
    assert open_cohort(cohort.path).data_hash == cohort.data_hash
