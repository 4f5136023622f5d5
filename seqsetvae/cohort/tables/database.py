"""DuckDB for what needs all rows of a table at once: it sorts, groups and joins them in bounded memory, on disk."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.format import ranges
from seqsetvae.errors import InputError, cut
from seqsetvae.files import cannot_write, scratch_folder

MOST_MEMORY = 1 << 30  # bytes of DuckDB; more makes it no faster
SHARE = 4  # it takes at most one part in so many of the memory that the machine, or its control group, allows
ROWS_PER_BATCH = 1 << 18
ROWS_PER_BLOCK = 1 << 21


class Database:
    """Tables that are filled part by part, and asked in SQL."""

    def __init__(self, folder: Path, jobs: int | None) -> None:
        """`folder` takes what does not fit into memory; `jobs` are threads, None = one per core."""
        self.folder = folder
        settings: dict[str, Any] = {"temp_directory": str(folder), "preserve_insertion_order": "false"}
        settings |= {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        self._connection = duckdb.connect(config=settings | ({} if jobs is None else {"threads": str(jobs)}))
        allowed = "parse_formatted_bytes(current_setting('memory_limit'))"  # four fifths of what there is
        limit = self.ask(f"SELECT {allowed}::BIGINT * 5 // 4 AS bytes")["bytes"][0].as_py() // SHARE
        self._run(f"SET memory_limit = '{min(limit, MOST_MEMORY)}B'")
        self._run("SET enable_external_access = false")  # no file but those of the temporary folder
        self._run("SET lock_configuration = true")
        self._tables: set[str] = set()

    def append(self, table: str, rows: pa.Table) -> None:
        """Add rows to a table, which the first ones make."""
        self._connection.register("part", rows)
        self._run(f"INSERT INTO {table} FROM part" if table in self._tables else f"CREATE TABLE {table} AS FROM part")
        self._tables.add(table)

    def drop(self, table: str) -> None:
        """Free a table."""
        self._run(f"DROP TABLE {table}")
        self._tables.remove(table)

    def name(self, table: str, rows: pa.Table) -> None:
        """Give an Arrow table a name in queries."""
        self._connection.register(table, rows)

    def ask(self, query: str) -> pa.Table:
        """The result of a query."""
        with self._as_input_errors():
            return self._connection.sql(query).to_arrow_table()

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The result of a query, part by part; no other can be asked meanwhile."""
        with self._as_input_errors():
            yield from self._connection.sql(query).to_arrow_reader(ROWS_PER_BATCH)

    def close(self) -> None:
        """Free its memory and its files."""
        self._connection.close()

    def _run(self, statement: str) -> None:
        with self._as_input_errors():
            self._connection.execute(statement)

    @contextmanager
    def _as_input_errors(self) -> Iterator[None]:
        """What a full disk or too little memory stops is an InputError."""
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            why = cut(str(error).partition("\n")[0], 300)
            raise InputError(f"{self.folder.parent}: no room to sort the rows of the tables: {why}") from None
        except (duckdb.IOException, duckdb.OperationalError) as error:
            raise cannot_write(self.folder.parent, OSError(cut(str(error), 300))) from None


@contextmanager
def open_database(folder: Path, jobs: int | None) -> Iterator[Database]:
    """A database whose files are in a new folder in `folder`, removed at the end.

    The next process that writes there removes what a killed one left.
    """
    with scratch_folder(folder, "tables") as scratch:
        database = Database(scratch, jobs)
        try:
            yield database
        finally:
            database.close()


class Records:
    """Records on disk, those of an id together, in a file without a name: nothing is left of it either."""

    def __init__(self, folder: Path, kind: np.dtype[Any], n_of_id: NDArray[np.int64]) -> None:
        """`n_of_id`: how many each id has."""
        self._folder, self._kind, self.n_of_id = folder, kind, n_of_id
        self._first = np.append(0, np.cumsum(n_of_id))
        self._records: NDArray[Any] = np.zeros(0, kind)

    def write(self, parts: Iterable[NDArray[Any]]) -> None:
        """Keep all records, which come in the order of their ids."""
        try:
            # A buffer would be written later, elsewhere.
            stream = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - read as long as it is there
            for part in parts:
                rest = memoryview(part.tobytes())
                while len(rest):
                    rest = rest[stream.write(rest) :]
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        assert stream.tell() == self._first[-1] * self._kind.itemsize
        if self._first[-1]:
            self._records = np.memmap(stream, self._kind, "r").view(np.ndarray)

    def read(self, ids: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(the records of these ids, id by id; how many each has)."""
        first = self._first[ids]
        n_rows = self._first[ids + 1] - first
        return self._records[ranges(first, n_rows)], n_rows

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All records, a few million at a time, those of an id together."""
        at, n_ids = 0, len(self._first) - 1
        while at < n_ids:
            end = int(np.searchsorted(self._first, self._first[at] + ROWS_PER_BLOCK, side="right")) - 1
            end = max(end, at + 1)
            yield self._records[self._first[at] : self._first[end]]
            at = end
