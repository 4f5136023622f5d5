"""Subgroups: values or quartiles of the columns of a table of stays."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.evaluation.groups import MISSING, read_subgroup_table, subgroups_of
from seqsetvae.system.errors import InputError

STAYS = np.arange(100, 120)


def _groups(**columns: object) -> dict[str, int]:
    """{group: number of stays} of one column; the table lists the stays in reverse."""
    table = pa.table({"stay_id": STAYS[::-1], **columns})
    return {each.group: int(each.stays.sum()) for each in subgroups_of(table, STAYS)}


def test_text_and_few_numbers_are_groups_as_they_are():
    assert _groups(sex=["m", "f"] * 10) == {"f": 10, "m": 10}
    assert _groups(ventilated=[0, 0, 0, 1] * 5) == {"0": 15, "1": 5}
    assert _groups(died=[True, False] * 10) == {"false": 10, "true": 10}


def test_a_numeric_column_is_cut_into_quartiles():
    assert _groups(age=np.arange(20.0, 40)) == {
        "20 to 24.75": 5,
        "above 24.75 to 29.5": 5,
        "above 29.5 to 34.25": 5,
        "above 34.25 to 39": 5,
    }


def test_the_groups_hold_the_stays_of_their_rows():
    table = pa.table({"stay_id": STAYS[::-1], "age": np.arange(20.0, 40)})
    youngest = subgroups_of(table, STAYS)[0]
    assert STAYS[youngest.stays].tolist() == [115, 116, 117, 118, 119]


def test_quartiles_of_a_column_with_many_equal_values_are_fewer():
    assert sum(_groups(days=[1.0] * 9 + list(range(2, 13))).values()) == 20


def test_stays_without_a_value_or_a_row_are_a_group_of_their_own():
    table = pa.table({"stay_id": STAYS[:10], "age": [None, *range(9)], "sex": [None, *"mf" * 4, "m"]})
    found = {(each.column, each.group): int(each.stays.sum()) for each in subgroups_of(table, STAYS)}
    assert found["age", MISSING] == found["sex", MISSING] == 11
    assert sum(n for (column, _), n in found.items() if column == "age") == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stay,age\n1,2\n", "needs a column stay_id and at least one other. Its columns are: stay, age"),
        ("stay_id\n1\n", "needs a column stay_id"),
        (",stay_id,age\n0,1,2\n", r"column 1 has no name. Is it the index of a pandas table\?"),
        ("Unnamed: 0,stay_id,age\n0,1,2\n", r"column 1 has no name \(Unnamed: 0\)"),
        ("stay_id,age,age\n1,2,3\n", "column age occurs twice"),
        ("stay_id,age\n1,2\n1,3\n", "has empty cells or repeats"),
        ("stay_id,age\nx,2\n", "cannot be read"),
        ("", "its first line is empty, which should hold the names of the columns"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_error(tmp_path, text, message):
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_subgroup_table(tmp_path / "groups.csv")


def test_a_csv_file_and_a_parquet_file_give_the_same_groups(tmp_path):
    columns = {"stay_id": STAYS, "age": [None, *range(19)], "sex": [None, *"mf" * 9, "m"], "icu": [True, False] * 10}
    pq.write_table(pa.table(columns), tmp_path / "groups.parquet")
    rows = zip(*columns.values(), strict=True)
    lines = [",".join("" if cell is None else str(cell).lower() for cell in row) for row in rows]
    (tmp_path / "groups.csv").write_text("\n".join([",".join(columns), *lines]))
    found = [
        [(each.column, each.group, each.stays.tolist()) for each in subgroups_of(read_subgroup_table(file), STAYS)]
        for file in (tmp_path / "groups.csv", tmp_path / "groups.parquet")
    ]
    assert found[0] == found[1]
    assert ("age", "0 to 4.5") in {group[:2] for group in found[0]}


def test_a_table_of_other_stays_is_an_error(tmp_path):
    pq.write_table(pa.table({"stay_id": [1, 2], "age": [3, 4]}), tmp_path / "groups.parquet")
    with pytest.raises(InputError, match="none of the 20 stays is in the table"):
        subgroups_of(read_subgroup_table(tmp_path / "groups.parquet"), STAYS)


def test_a_column_of_names_is_refused():
    stays = np.arange(60)
    table = pa.table({"stay_id": stays, "name": [f"patient {n}" for n in stays]})
    with pytest.raises(InputError, match="column 'name' has 60 different values; at most 50 are groups"):
        subgroups_of(table, stays)
