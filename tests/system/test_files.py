"""Writing: a failure leaves what was there, a killed process leaves nothing for long, two processes do not collide."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seqsetvae.system import files
from seqsetvae.system.files import (
    AlreadyThereError,
    CannotWriteError,
    append_text,
    new_file,
    new_folder,
    remove_leftovers,
    scratch_folder,
    write_text,
)
from tests.tiny import largest_file

ROOT = Path(__file__).resolve().parents[2]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------ files


def test_a_file_appears_complete_and_replaces_the_older_one(tmp_path):
    target = tmp_path / "best.ckpt"
    target.write_text("old")
    with new_file(target) as stream:
        stream.write(b"new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert _names(tmp_path) == ["best.ckpt"]


def test_a_full_disk_leaves_the_older_file_and_no_temporary_one(tmp_path):
    target = tmp_path / "best.ckpt"
    target.write_text("old")
    with (
        pytest.raises(CannotWriteError, match=r"best\.ckpt: cannot be written \(File too large\)\. Free disk space"),
        largest_file(1000),
        new_file(target) as stream,
    ):
        stream.write(bytes(5000))
    assert target.read_text() == "old"
    assert _names(tmp_path) == ["best.ckpt"]


def test_a_disk_that_is_full_only_when_the_file_is_synced_leaves_the_older_file(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "summary.json"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWriteError, match=r"summary\.json: cannot be written \(No space left on device\)"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert _names(tmp_path) == ["summary.json"]


def test_a_folder_that_may_not_be_written_to_is_one_error(tmp_path, monkeypatch):
    def refused(self: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refused)  # root may write anywhere
    monkeypatch.setattr(Path, "mkdir", lambda self, **_: refused(self))
    message = r"out: cannot be written \(Permission denied\)\. Name a place that you may write to"
    with pytest.raises(CannotWriteError, match=message):
        write_text(tmp_path / "out", "text")
    with pytest.raises(CannotWriteError, match=message), new_folder(tmp_path / "out"):
        pass
    with pytest.raises(CannotWriteError, match=message), scratch_folder(tmp_path, "out"):
        pass


def test_an_error_about_another_file_keeps_its_type(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), new_file(tmp_path / "out"):
        (tmp_path / "absent").read_text()
    assert _names(tmp_path) == []


def test_a_new_file_never_overwrites_one_that_another_process_finished_meanwhile(tmp_path):
    target = tmp_path / "states.npz"

    def write(text: str, meanwhile: Callable[[], None]) -> None:
        with new_file(target, replace=False) as stream:
            stream.write(text.encode())
            meanwhile()

    with pytest.raises(AlreadyThereError, match="exists already"):
        write("slower", lambda: write("faster", lambda: None))
    assert target.read_text() == "faster"
    with pytest.raises(AlreadyThereError, match="exists already"), new_file(target, replace=False):
        pytest.fail("the block must not start")
    assert _names(tmp_path) == ["states.npz"]


def test_without_hard_links_a_new_file_is_still_refused_if_it_exists(tmp_path, monkeypatch):
    def unsupported(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    with new_file(tmp_path / "a.npz", replace=False) as stream:
        stream.write(b"a")
    with pytest.raises(AlreadyThereError), new_file(tmp_path / "b.npz", replace=False):
        (tmp_path / "b.npz").write_text("other")
    assert (tmp_path / "a.npz").read_bytes() == b"a"
    assert (tmp_path / "b.npz").read_text() == "other"


def test_appending_is_all_or_nothing(tmp_path):
    table = tmp_path / "metrics.csv"
    append_text(table, "epoch,loss\r\n")
    with pytest.raises(CannotWriteError, match=r"metrics\.csv: cannot be written"), largest_file(20):
        append_text(table, "1,0.123456789012345\r\n")
    assert table.read_bytes() == b"epoch,loss\r\n"


def test_files_and_folders_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").mkdir()
    write_text(tmp_path / "file", "text")
    with new_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "usual file").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual file").stat().st_mode


def test_a_long_name_can_be_written(tmp_path):
    write_text(tmp_path / ("ä" * 127), "text")
    assert _names(tmp_path) == ["ä" * 127]


# ------------------------------------------------------------------------------------------------ folders


def test_a_folder_appears_complete(tmp_path):
    out = tmp_path / "deep" / "out"
    with new_folder(out) as partial:
        (partial / "file").write_text("text")
        assert not out.exists()
    assert _names(out.parent) == ["out"]
    with pytest.raises(AlreadyThereError), new_folder(out):
        pytest.fail("the block must not start")


def test_a_full_disk_leaves_no_folder(tmp_path):
    with (
        pytest.raises(CannotWriteError, match=r"out: cannot be written \(File too large\)"),
        largest_file(1000),
        new_folder(tmp_path / "out") as partial,
    ):
        (partial / "array.npy").write_bytes(bytes(5000))
    assert _names(tmp_path) == []


# ------------------------------------------------------------------------------------------------ leftovers

UNDER_WAY = """
import sys, time
from pathlib import Path
from seqsetvae.system.files import new_file, new_folder
with new_folder(Path(sys.argv[1]) / "cohort") as partial, new_file(Path(sys.argv[1]) / "best.ckpt") as stream:
    (partial / "array.npy").write_bytes(bytes(100))
    print("ready", flush=True)
    time.sleep(60)
"""


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_stay(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", UNDER_WAY, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        remove_leftovers(tmp_path)
        under_way = _names(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert [name.split(".partial-")[0] for name in under_way] == [".best.ckpt", ".cohort"]
    assert _names(tmp_path) == under_way
    write_text(tmp_path / "other", "the next one to write in this folder removes them")
    assert _names(tmp_path) == ["other"]


def test_what_another_computer_or_the_user_made_is_not_a_leftover(tmp_path):
    for name in ("cohort.partial-0123abcd-01234567", ".cohort.partial-x7x7x7x7", ".cohort.partial-00000000-01234567"):
        (tmp_path / name).mkdir()
    before = _names(tmp_path)
    remove_leftovers(tmp_path)
    assert _names(tmp_path) == before


def test_leftovers_stay_where_the_file_system_knows_no_locks(tmp_path, monkeypatch):
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    leftover = tmp_path / f".cohort.partial-{files._HOST}-01234567"
    leftover.mkdir()
    monkeypatch.setattr(files.fcntl, "flock", unsupported)
    write_text(tmp_path / "other", "written without a lock")
    assert _names(tmp_path) == [leftover.name, "other"]
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert _names(tmp_path) == ["other"]


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path):
    remove_leftovers(tmp_path / "absent")
