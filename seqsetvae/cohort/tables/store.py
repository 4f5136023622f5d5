"""The events of a table on disk, one record each, grouped by id: written as they come, sorted in bounded memory.

The files have no name in the file system, so nothing is left of them when the process ends, however it ends.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import ranges
from seqsetvae.files import cannot_write

RECORDS_PER_BUCKET = 1 << 21  # sorted in memory at once, 32 bytes each


def record_type(time: type[np.generic], has_set: bool) -> np.dtype[Any]:
    """An event: position of its id, code of its variable, value, time, its row counted over all files, its set."""
    fields = [("id", "<i4"), ("code", "<i4"), ("value", "<f8"), ("time", np.dtype(time).str), ("row", "<i8")]
    return np.dtype([*fields, *([("set", "<f8")] if has_set else [])])


class EventStore:
    """Records that are appended in any order and read by id."""

    def __init__(self, folder: Path, time: type[np.generic], *, has_set: bool = False) -> None:
        """`folder` needs room for 32 to 40 bytes an event, and for twice as many if the rows are not sorted by id."""
        self.folder, self.dtype = folder, record_type(time, has_set)
        self._stream = self._new_file()
        self._counts = np.zeros(0, dtype=np.int64)  # records by id
        self._last_id, self._is_sorted = 0, True
        self._records: NDArray[Any] = np.zeros(0, self.dtype)
        self._first = np.zeros(1, dtype=np.int64)

    def append(self, records: NDArray[Any]) -> int:
        """Add records, in the order of the file. Returns the most that one of their ids has by now."""
        if not len(records):
            return 0
        ids = records["id"]
        self._is_sorted &= bool(ids[0] >= self._last_id and (ids[1:] >= ids[:-1]).all())
        self._last_id = int(ids[-1])
        counts = np.bincount(ids)
        if len(counts) > len(self._counts):
            self._counts = np.append(self._counts, np.zeros(max(len(counts), len(self._counts)), dtype=np.int64))
        self._counts[: len(counts)] += counts
        self._write(self._stream, records)
        return int(self._counts[: len(counts)].max())

    def finish(self, n_ids: int) -> None:
        """Sort by id; records of an id keep their order. After this, records can be read."""
        counts = np.zeros(n_ids, dtype=np.int64)
        counts[: len(self._counts)] = self._counts[:n_ids]
        self._first = np.append(0, np.cumsum(counts))
        if not self._is_sorted:
            self._stream = self._sorted()
        if self._first[-1]:
            self._records = np.memmap(self._stream, self.dtype, "r").view(np.ndarray)

    def read(self, ids: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(the records of these ids, id by id; how many each has)."""
        first = self._first[ids]
        n_rows = self._first[ids + 1] - first
        return self._records[ranges(first, n_rows)], n_rows

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All records, a few million at a time, those of an id together."""
        at, n_ids = 0, len(self._first) - 1
        while at < n_ids:
            end = int(np.searchsorted(self._first, self._first[at] + RECORDS_PER_BUCKET, side="right")) - 1
            end = max(end, at + 1)
            yield self._records[self._first[at] : self._first[end]]
            at = end

    def _sorted(self) -> IO[bytes]:
        """A file sorted by id: records are divided over buckets of neighbouring ids, each of which fits in memory."""
        bucket_of_id = (self._first[:-1] // RECORDS_PER_BUCKET).astype(np.int32)
        n_records, buckets = int(self._first[-1]), [self._new_file() for _ in range(int(bucket_of_id[-1]) + 1)]
        self._stream.seek(0)
        for start in range(0, n_records, RECORDS_PER_BUCKET):
            records = self._read(self._stream, min(RECORDS_PER_BUCKET, n_records - start))
            bucket = bucket_of_id[records["id"]]
            order = np.argsort(bucket, kind="stable")
            ends = np.cumsum(np.bincount(bucket, minlength=len(buckets)))
            for stream, chosen in zip(buckets, np.split(order, ends[:-1]), strict=True):
                self._write(stream, records[chosen])
        self._stream.close()
        out = self._new_file()
        for stream in buckets:
            n_bytes = stream.tell()
            stream.seek(0)
            records = self._read(stream, n_bytes // self.dtype.itemsize)
            self._write(out, records[np.argsort(records["id"], kind="stable")])
            stream.close()
        return out

    def _new_file(self) -> IO[bytes]:
        try:
            return tempfile.TemporaryFile(dir=self.folder, buffering=0)  # a buffer would be written later, elsewhere
        except OSError as error:
            raise cannot_write(self.folder, error) from None

    def _write(self, stream: IO[bytes], records: NDArray[Any]) -> None:
        rest = memoryview(records.tobytes())
        try:
            while len(rest):
                rest = rest[stream.write(rest) :]
        except OSError as error:
            raise cannot_write(self.folder, error) from None

    def _read(self, stream: IO[bytes], n_records: int) -> NDArray[Any]:
        return np.fromfile(stream, self.dtype, n_records)
