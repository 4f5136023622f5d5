"""DuckDB for work on all rows of a table: sorts, groups and joins on disk, in bounded memory.

Events that occur twice (the same id, time, variable and value) are counted, never dropped.

Letters: R records of a block, F files.
"""

import mmap
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.format import join_ranges
from seqsetvae.cohort.tidy import repeated
from seqsetvae.system.errors import InputError, counted, cut
from seqsetvae.system.files import cannot_write, scratch_folder

MOST_MEMORY = 1 << 30  # bytes of DuckDB; more makes it no faster
SHARE = 4  # it takes at most one part in so many of the memory that the machine, or its control group, allows
ROWS_PER_BATCH = 1 << 18
ROWS_PER_BLOCK = 1 << 17  # so few fit into the cache of a core
MOST_BLOCKS = 1 << 9  # more would be written in pieces of a few rows


class Database:
    """Tables that are filled part by part, and queried in SQL."""

    def __init__(self, folder: Path, jobs: int | None) -> None:
        """`folder` takes what does not fit into memory; `jobs` are threads, None = one per core."""
        self.folder = folder
        settings: dict[str, Any] = {"temp_directory": str(folder), "preserve_insertion_order": "false"}
        settings |= {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        self._connection = duckdb.connect(config=settings | ({} if jobs is None else {"threads": str(jobs)}))
        allowed = "parse_formatted_bytes(current_setting('memory_limit'))"  # four fifths of what there is
        limit = self.query(f"SELECT {allowed}::BIGINT * 5 // 4 AS bytes")["bytes"][0].as_py() // SHARE
        self._run(f"SET memory_limit = '{min(limit, MOST_MEMORY)}B'")
        self._run("SET enable_external_access = false")  # no file but those of the temporary folder
        self._run("SET lock_configuration = true")
        self._tables: set[str] = set()

    def append(self, table: str, rows: pa.Table) -> None:
        """Add rows to a table, which the first ones make."""
        self._connection.register("part", rows)
        self._run(f"INSERT INTO {table} FROM part" if table in self._tables else f"CREATE TABLE {table} AS FROM part")
        self._tables.add(table)

    def as_texts(self, table: str, column: str) -> None:
        """Make a column of whole numbers one of texts, if the table is there."""
        if table in self._tables:
            self._run(f"ALTER TABLE {table} ALTER {column} TYPE VARCHAR")

    def drop(self, table: str) -> None:
        """Free a table."""
        self._run(f"DROP TABLE {table}")
        self._tables.remove(table)

    def name(self, table: str, rows: pa.Table) -> None:
        """Give an Arrow table a name in queries."""
        self._connection.register(table, rows)

    def query(self, sql: str) -> pa.Table:
        """The result of a query."""
        with self._as_input_errors():
            return self._connection.sql(sql).to_arrow_table()

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The result of a query, part by part; no other query can run meanwhile."""
        with self._as_input_errors():
            yield from self._connection.sql(query).to_arrow_reader(ROWS_PER_BATCH)

    def close(self) -> None:
        """Free the memory and the files of the database."""
        self._connection.close()

    def _run(self, statement: str) -> None:
        with self._as_input_errors():
            self._connection.execute(statement)

    @contextmanager
    def _as_input_errors(self) -> Iterator[None]:
        """Turn errors of a full disk or too little memory into an InputError."""
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
    """Records on disk, those of an id together, in a file without a name: nothing is left of it either.

    They are written to blocks of some ids as they come, and then sorted block by block, in a third of the time of a
    sort of all.
    """

    def __init__(self, folder: Path, kind: np.dtype[Any], n_of_id: NDArray[np.int64]) -> None:
        """`n_of_id` [D]: how many each id has."""
        self._folder, self._kind, self.n_of_id = folder, kind, n_of_id
        self._first = np.append(0, np.cumsum(n_of_id))
        size = max(ROWS_PER_BLOCK, int(self._first[-1]) // MOST_BLOCKS)
        starts, self._block = np.unique(self._first[:-1] // size, return_index=True, return_inverse=True)[1:]
        self._starts = np.append(self._first[starts], self._first[-1])  # of the blocks

    def write(self, parts: Iterable[NDArray[Any]], n_columns: int) -> None:
        """Keep all records, whose `row` is n_columns * row + column; those of an id are put in that order."""
        block = self._block.astype(np.min_scalar_type(len(self._starts)))  # small integers are sorted by their digits
        free = self._starts[:-1].copy()
        try:
            stream = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - read as long as it is there
            for part in parts:
                of_part = block[part["id"]]
                n = np.bincount(of_part, minlength=len(free))
                part = part.take(np.argsort(of_part, kind="stable"))  # an index in brackets takes 20 times as long
                for at, some in zip(np.flatnonzero(n), np.split(part, np.cumsum(n[n > 0])[:-1]), strict=True):
                    self._put(stream, some, int(free[at]))
                free += n
            assert (free == self._starts[1:]).all()
            for start, n_rows in zip(self._starts.tolist(), np.diff(self._starts).tolist(), strict=False):
                stream.seek(start * self._kind.itemsize)
                some = np.fromfile(stream, self._kind, n_rows)
                own = some["id"] - some["id"].min(
                    initial=np.iinfo(some["id"].dtype).max
                )  # so the key fits into 64 bits
                key = own.astype(np.int64) * (some["row"].max(initial=0) + 1) + some["row"]
                some = some.take(np.argsort(key))
                some["row"] //= n_columns
                self._put(stream, some, start)
            self._stream = stream
        except OSError as error:
            raise cannot_write(self._folder, error) from None

    def _put(self, stream: IO[bytes], records: NDArray[Any], place: int) -> None:
        stream.seek(place * self._kind.itemsize)
        rest = memoryview(records.tobytes())
        while len(rest):
            rest = rest[stream.write(rest) :]

    def read(self, ids: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(the records of these ids, id by id; how many each has)."""
        first = self._first[ids]
        n_rows = self._first[ids + 1] - first
        return self._mapped().take(join_ranges(first, n_rows)), n_rows

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All records, block by block, those of an id together."""
        for start, end in pairwise(self._starts.tolist()):
            yield self._mapped()[start:end]

    def _mapped(self) -> NDArray[Any]:
        """All records, mapped anew: what was read from an earlier map is no longer counted as memory in use."""
        if not self._first[-1]:
            return np.zeros(0, self._kind)
        return np.frombuffer(mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ), self._kind)


TOO_MANY = 0.5  # of the events of a file: so many are in another file only where one is there twice
FEWEST = 10  # events that are: fewer may be equal by chance
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def repeats(events: Records, files: Sequence[tuple[int, Path]]) -> list[str]:
    """How many events occur twice, in words; empty if none does. `files`: row of the first of each, counted over all.

    Raises:
        InputError: half of the events of a file, or more, are in another one.
    """
    first_row = np.array([row for row, _ in files])
    pairs: Counter[tuple[int, int]] = Counter()
    size = np.zeros(len(files), dtype=np.int64)
    for records in events.blocks():
        pairs.update(_pairs(records, first_row))
        if len(files) == 1:
            size += len(records)
        else:
            size += np.bincount(np.searchsorted(first_row, records["row"], side="right") - 1, minlength=len(files))
    for (one, other), n in pairs.items():
        if one != other and n >= max(FEWEST, TOO_MANY * min(size[one], size[other])):
            at = one if size[one] < size[other] else other
            raise InputError(
                f"{files[at][1]}: {n:,} of its {size[at]:,} events are in {files[one + other - at][1]} too (the same "
                "id, time, variable and value), as if a file were there twice. Remove one of the two."
            )
    across = sum(n for (one, other), n in pairs.items() if one != other)
    within = pairs.total() - across
    parts = [
        f"{counted(n, 'event')} {what}" for n, what in ((across, "in two files"), (within, "twice in a file")) if n
    ]
    of_all = f"{pairs.total() / max(size.sum(), 1):.1%} of all"
    return [f"the same id, time, variable and value: {' and '.join(parts)}, {of_all}; all are kept"] if parts else []


def _pairs(records: NDArray[Any], first_row: NDArray[np.int64]) -> Counter[tuple[int, int]]:
    """(file of the first, file of another) for all events that are equal to an earlier one, with their number."""
    value = np.where(np.isnan(records["value"]), np.nan, records["value"] + 0.0)  # + 0.0: minus zero equals zero
    key = records["id"].astype(np.uint64) << np.uint64(32) | records["code"].astype(np.uint32)
    for column in (value, np.ascontiguousarray(records["time"]), np.zeros(len(key))):
        key *= _FACTOR  # odd, so that different numbers stay different
        key ^= key >> np.uint64(32)
        key ^= column.view(np.uint64)
    twice = repeated(key)
    if not len(twice):
        return Counter()
    at = np.minimum(np.searchsorted(twice, key), len(twice) - 1)
    chosen = np.flatnonzero(twice[at] == key)
    file = np.searchsorted(first_row, records["row"][chosen], side="right") - 1
    _, first, group = np.unique(at[chosen], return_index=True, return_inverse=True)  # the rows of an id are in order
    again = np.delete(np.arange(len(chosen)), first)
    return Counter(zip(file[first][group[again]].tolist(), file[again].tolist(), strict=True))
