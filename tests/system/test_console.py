"""The terminal: one progress display, lines of their own, and train.log."""

import io
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from seqsetvae.system import console
from seqsetvae.system.console import Progress, SteadyStream, end_log, print_line, recorded_output, start_log, warn
from seqsetvae.training.callbacks import header_line, row_line
from seqsetvae.training.run_folder import Row
from tests.training.helpers import fine_tuner, run_stages

END = "<end of output>"


def _terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Make stdout and stderr a pseudo-terminal of 80 columns; the function returns what was written to it.

    Not a fixture: pytest sets stdout and stderr again between a fixture and its test.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    stream = open(theirs, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)

    def written() -> str:
        stream.write(END)
        stream.flush()
        received = b""
        while not received.endswith(END.encode()):  # it arrives in pieces
            received += os.read(ours, 2**16)
        return received.decode().removesuffix(END).replace("\r\n", "\n")

    return written


def test_a_bar_on_a_terminal_is_removed_before_a_line_is_printed(monkeypatch):
    terminal = _terminal(monkeypatch)
    with Progress("Epoch 1/4") as progress:
        progress.show(0.25, "loss 0.5000", "Epoch 2/4")
        print_line("  1/4      1      0.6000")
    text = terminal()
    assert re.search(r"Epoch 2/4 \|.+\|  25%, loss 0\.5000", text)
    assert "\r  1/4      1      0.6000\n" in text  # after the bar was overwritten, not behind it
    assert all(len(part) <= 80 for part in re.split(r"[\r\n]", re.sub("\x1b\\[[^A-Z]*[A-Z]", "", text)))


def test_elsewhere_progress_is_a_line_a_minute_without_control_codes(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(console, "monotonic", lambda: now)
    with Progress("Epoch 1/4") as progress:
        for now in range(0, 130, 10):
            if progress.is_due():
                progress.show(now / 130, f"second {now}")
    printed = capsys.readouterr()
    assert printed.out == "Epoch 1/4: 46%, second 60\nEpoch 1/4: 92%, second 120\n"
    assert printed.err == ""


def test_lines_of_validations_fit_in_80_columns_and_show_integers_as_integers():
    metrics = {"train_loss": 12345.678, "val_loss": 0.5, "val_recon": 1.0, "val_kl": 2.0, "val_active_units": 63.0}
    row = Row(1, 7, 700, metrics, {}, 1234.5, None, 1.0)
    header, line = header_line(list(metrics), 100), row_line(row, list(metrics), 100)
    assert header.split() == ["epoch", *metrics, "stays/s"]
    assert line.split() == ["7/100", "1.235e+04", "0.5000", "1.0000", "2.0000", "63", "1,234"]
    assert len(header) == len(line) <= 80


def test_the_display_counts_over_both_stages(compiled, tmp_path, monkeypatch):
    shown: list[tuple[float, str, str | None]] = []
    monkeypatch.setattr(Progress, "is_due", lambda self: True)
    monkeypatch.setattr(Progress, "show", lambda self, share, detail, label=None: shown.append((share, detail, label)))
    run_stages(fine_tuner(compiled), compiled, tmp_path, max_epochs=3, unfreeze_after=1)
    of_epochs = [(share, detail, label) for share, detail, label in shown if label]
    shares = [share for share, _, _ in of_epochs]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    labels = [label for _, _, label in of_epochs]
    assert list(dict.fromkeys(labels)) == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    first, last = of_epochs[0][1], of_epochs[-1][1]
    assert re.fullmatch(r"loss \d\.\d{4}, ETA in stage 2", first)
    assert re.fullmatch(r"(loss \d\.\d{4}, )?best val_auc \d\.\d{4}, ETA 0:00", last)


def test_the_log_holds_what_a_terminal_shows_in_the_end(tmp_path, monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with recorded_output():
        print("before there is a folder")
        start_log(tmp_path / "train.log")
        for percent in (10, 50, 100):
            print(f"\rReading {percent}%", end="", file=sys.stderr)
        print("\r             \r", end="", file=sys.stderr)
        print("\x1b[1mbold\x1b[0m and Überschuss")
        print("error: on stderr", file=sys.stderr)
        end_log()
        print("of the next run")
    assert (sys.stdout, sys.stderr) == (out, err)
    log = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert log == "before there is a folder\nbold and Überschuss\nerror: on stderr\n"
    assert "\rReading 50%" in err.getvalue()  # the terminal gets everything as it was written


def test_warnings_are_also_lines_of_a_file_beside_the_log(tmp_path, capsys):
    for part in ("first", "resumed"):
        with recorded_output():
            warn(f"before the {part}\n  folder")
            start_log(tmp_path / "train.log", append=part == "resumed")
            warn(f"after the {part}")
            end_log()
    lines = [line for part in ("first", "resumed") for line in (f"before the {part} folder", f"after the {part}")]
    assert (tmp_path / "warnings.txt").read_text(encoding="utf-8").splitlines() == lines
    assert capsys.readouterr().out.count("⚠️  ") == 4
    warn("nothing is recorded here")
    assert len((tmp_path / "warnings.txt").read_text(encoding="utf-8").splitlines()) == 4


def test_the_log_holds_the_traceback_of_a_run_that_fails(tmp_path):
    def fail() -> None:
        with recorded_output():
            start_log(tmp_path / "train.log")
            print(1 / 0)

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "ZeroDivisionError: division by zero" in (tmp_path / "train.log").read_text(encoding="utf-8")


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path, capfd):
    log = console.OutputLog()
    log.open(Path("/dev/full"))
    log.add("a line")
    log.add("another")
    assert "/dev/full is incomplete: No space left on device" in capfd.readouterr().err


CLOSED = """
import os, sys

from seqsetvae.system.console import recorded_output, steady_output
with steady_output(), recorded_output():
    file = open("file.txt", "w")
    print("out", flush=True)
    print("err", file=sys.stderr, flush=True)
    sys.stdin.read()
    os.write(1, b"of a library")
assert file.fileno() > 2
assert os.path.getsize("file.txt") == 0
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_do_not_matter_and_no_file_takes_their_place(tmp_path, closed):
    root = str(Path(__file__).parents[2])
    shell = f'exec "{sys.executable}" -c "$CODE" {closed}'
    environment = {**os.environ, "CODE": CLOSED, "PYTHONPATH": root}
    done = subprocess.run(
        ["sh", "-c", shell], env=environment, cwd=tmp_path, capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (b"" if ">&-" in closed.split() else b"out\nof a library")


def test_a_terminal_that_is_gone_and_a_full_disk_do_not_end_the_run(capfd):
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        stream = SteadyStream(full)
        stream.write("a line\n")
        stream.flush()
        stream.write("another\n")
        stream.flush()
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal:  # noqa: PTH123
        os.close(ours)
        stream = SteadyStream(terminal)
        stream.write("a line\n")
        stream.flush()


def test_half_a_character_from_a_damaged_file_is_escaped(tmp_path):
    with (tmp_path / "out.txt").open("w", encoding="utf-8") as file:
        SteadyStream(file).write("label \ud800 of a manifest\n")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "label \\ud800 of a manifest\n"
