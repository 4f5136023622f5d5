"""DuckDB behind tables: it stays within its memory and its folder, and says when there is no room."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from seqsetvae.cohort.tables import database
from seqsetvae.cohort.tables.database import Database, Records, open_database
from seqsetvae.system.errors import InputError
from tests.tiny import largest_file

N = 400_000


def fill(db: Database, parts: int) -> None:
    rng = np.random.default_rng(0)
    for at in range(parts):
        row = np.arange(at * N, (at + 1) * N)
        db.append("t", pa.table({"key": rng.permutation(N), "value": rng.random(N), "row": row}))


def test_what_does_not_fit_is_in_a_folder_that_goes_away(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "MOST_MEMORY", 40 << 20)
    with open_database(tmp_path, 1) as db:
        fill(db, 8)
        found = np.concatenate([batch["key"].to_numpy() for batch in db.batches("SELECT key FROM t ORDER BY key, row")])
        (folder,) = tmp_path.iterdir()
        assert sum(file.stat().st_size for file in folder.iterdir()) > 20 << 20
    assert (found == np.repeat(np.arange(N), 8)).all()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "MOST_MEMORY", 40 << 20)
    with (
        largest_file(1 << 20),
        pytest.raises(InputError, match=r"cannot be written|no room"),
        open_database(tmp_path, 1) as db,
    ):
        fill(db, 8)
    assert not list(tmp_path.iterdir())


def test_no_file_and_no_setting_can_be_reached_by_a_query(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    with open_database(tmp_path, 1) as db:
        for query in (f"FROM read_csv('{tmp_path}/a.csv')", "FROM read_csv('https://example.org/a.csv')"):
            with pytest.raises(duckdb.Error):
                db.query(query)
        with pytest.raises(duckdb.Error, match="locked"):
            db._run("SET enable_external_access = true")


def test_records_of_an_id_are_in_the_order_of_their_rows_however_many_ids_and_rows_there_are(tmp_path):
    """Of these two ids, id times row is within 64 bits for one and beyond them for the other."""
    kind = np.dtype([("id", np.int32), ("row", np.int64)])
    n_of_id = np.zeros(2**63 // 10**12 + 2, np.int64)
    n_of_id[-2:] = 2, 3
    last = len(n_of_id) - 1
    rows = [(last, 3), (last - 1, 10**12), (last, 10**12 - 1), (last - 1, 1), (last, 2)]
    records = Records(tmp_path, kind, n_of_id)
    records.write(iter([np.array(rows[:3], kind), np.array(rows[3:], kind)]), n_columns=1)
    assert np.concatenate(list(records.blocks())).tolist() == sorted(rows)
