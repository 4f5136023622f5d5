"""Writing files and folders so that a full disk, a crash or another process never costs what was there before.

Everything is written under a temporary name beside its target, synced to disk, and renamed when it is complete. While
it is written, its process holds a lock on it (flock), so that a temporary file whose process was killed can be told
from one that is still being written, and removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from seqsetvae.system.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, so nothing is taken for a leftover
    fcntl = None  # type: ignore[assignment]

# A lock may not be visible on other computers that share the disk, so each removes only what it made itself.
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_LEFTOVER = re.compile(rf"\..*\.partial-{_HOST}-[0-9a-f]{{8}}", re.DOTALL)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME_KEPT = 40  # characters of the target's name in a temporary name, which must not become too long


class CannotWriteError(InputError):
    """A file or folder cannot be written: no space, no permission, a failing disk."""


class AlreadyThereError(InputError):
    """The file or folder to be written is there already."""


def cannot_write(target: Path, error: OSError) -> CannotWriteError:
    """The error, to be raised, for a target that cannot be written; it says why and what to do."""
    full = error.errno in _NO_SPACE or error.errno is None  # numpy gives no errno for a write that was cut short
    advice = "Free disk space, or name a place with more." if full else "Name a place that you may write to."
    return CannotWriteError(f"{target}: cannot be written ({error.strerror or error}). {advice}")


def refuse_existing(out: Path) -> None:
    """Raises AlreadyThereError, an InputError, if `out` exists: it is never overwritten."""
    if os.path.lexists(out):
        raise AlreadyThereError(f"{out} exists already and is not overwritten. Name another one or delete it.")


def not_writable(path: Path) -> Path | None:
    """The folder that `path` would be written to, or the folder that it is, if this user may not write there."""
    place = next((parent for parent in (path.absolute(), *path.absolute().parents) if os.path.isdir(parent)), None)  # noqa: PTH112
    return place if place is not None and not os.access(place, os.W_OK | os.X_OK) else None


def require_no_pipe(path: str | Path) -> None:
    """Raises InputError for a pipe, socket or device, which would be read for ever. A folder is another fault."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112, PTH113
        raise InputError(f"{path}: neither a file nor a folder, but a pipe or a device. Remove it.")


def file_sha256(file: str | Path) -> str:
    """The checksum of a file's bytes."""
    with open(file, "rb") as stream:  # noqa: PTH123 - a Path would leave 80 bytes behind for each of a million files
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError where it cannot be read or holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: damaged, it is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: damaged, it holds a {type(content).__name__} and not an object")
    return content


# ------------------------------------------------------------------ complete or not at all


@contextlib.contextmanager
def new_file(target: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A stream into a temporary file that takes the name `target` when the block ends well.

    Until then an older file of that name stays, and after a failure too. Without `replace` it is never overwritten.

    Raises:
        AlreadyThereError: `target` exists, at the start or by the end, and `replace` is not set.
        CannotWriteError: there is no space for it, or the folder cannot be written to.
    """
    if not replace:
        refuse_existing(target)
    with _temporary(target, Path.touch) as partial:
        with partial.open("wb") as stream:
            yield stream
        _sync(partial)
        if replace:
            partial.replace(target)
        else:
            _rename_to_new(partial, target)
        _sync(target.parent)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name when the block ends well, and vanishes when it does not.

    Raises:
        AlreadyThereError: `out` exists, at the start or by the end.
        CannotWriteError: there is no space for it, or the parent folder cannot be written to.
    """
    refuse_existing(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from None
    with _temporary(out, Path.mkdir) as partial:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        refuse_existing(out)
        try:
            partial.rename(out)
        except OSError:  # another process was faster by a moment
            refuse_existing(out)
            raise
        _sync(out.parent)


@contextlib.contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder in `parent` that is removed when the block ends.

    Raises:
        CannotWriteError: it cannot be made, or there is no space for what is written into it.
    """
    with _temporary(parent / name, Path.mkdir) as folder:
        yield folder


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 file: it appears complete, or the older one stays. Raises CannotWriteError.

    Bytes of a path that are no text are escaped, in a way that JSON reads back.
    """
    with new_file(target) as stream:
        stream.write(text.encode(errors="backslashreplace"))


def keep_as(file: Path, target: Path) -> None:
    """Give a file a second name, `target`, in place of an older file of that name; it does not need space twice.

    Raises:
        CannotWriteError: the folder cannot be written to.
    """

    def link(partial: Path) -> None:
        try:
            partial.hardlink_to(file)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, partial)

    with _temporary(target, link) as partial:
        partial.replace(target)


def append_text(target: Path, text: str) -> None:
    """Append to a UTF-8 file, all of `text` or nothing; it is on disk when this returns. Raises CannotWriteError."""
    size = None
    try:
        with target.open("ab") as stream:
            size = stream.tell()
            stream.write(text.encode(errors="backslashreplace"))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if size is not None:
            with contextlib.suppress(OSError):
                os.truncate(target, size)
        raise cannot_write(target, error) from None


def _rename_to_new(partial: Path, target: Path) -> None:
    """Rename a file unless the target exists by now."""
    try:
        os.link(partial, target)  # unlike a rename it fails if the target exists; the other name is removed afterwards
    except FileExistsError:
        refuse_existing(target)
        raise
    except OSError:  # a file system without hard links
        refuse_existing(target)
        partial.rename(target)


def _sync(path: Path) -> None:
    """Have the system write a file or folder to disk, so that it survives a power failure.

    Raises:
        OSError: a file's content could not be written.
    """
    is_folder = path.is_dir()
    if is_folder and fcntl is None:  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not is_folder:  # not every file system syncs folders
            raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(handle)


# ------------------------------------------------------------------ temporary names, locks and leftovers


@contextlib.contextmanager
def _temporary(target: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """A locked temporary file or folder beside `target`, removed at the end unless it was renamed.

    An OSError about writing becomes a CannotWriteError that names `target`; one about reading other files stays.
    """
    remove_leftovers(target.parent)
    try:
        partial, lock = _make_locked(target, make)
    except OSError as error:
        raise cannot_write(target, error) from None
    try:
        yield partial
    except OSError as error:
        if error.errno in (*_NO_SPACE, None) or str(error.filename).startswith(str(partial)):
            raise cannot_write(target, error) from None
        raise
    finally:
        _delete(partial)
        if lock is not None:
            os.close(lock)


def _make_locked(target: Path, make: Callable[[Path], object]) -> tuple[Path, int | None]:
    """A new temporary file or folder beside `target` and the descriptor that holds its lock."""
    while True:
        name = f".{target.name[:_NAME_KEPT]}.partial-{_HOST}-{secrets.token_hex(4)}"
        partial = target.with_name(name)
        make(partial)
        try:
            lock = _lock(partial, wait=True)
        except FileNotFoundError:
            continue  # another process took it for a leftover in the moment before it was locked
        if partial.exists():
            return partial, lock
        if lock is not None:
            os.close(lock)


def _lock(path: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock of a file or folder until it is closed, or its process ends.

    None: without `wait`, that another process holds it; or that this file system knows no locks.
    """
    if fcntl is None:
        return None
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose process was killed.

    Those of living processes are locked; those of other computers have another name. Both stay.
    """
    with contextlib.suppress(OSError):  # what cannot be listed or removed stays
        for path in [Path(entry) for entry in os.scandir(folder) if _LEFTOVER.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):  # another process may be removing it too
                lock = _lock(path, wait=False)
                if lock is not None:
                    _delete(path)
                    os.close(lock)


def _delete(path: Path) -> None:
    """Remove a file or folder, or as much of it as can be removed."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
