"""The command: `python train_optimized.py --mode finetune --pretrained_ckpt CKPT --data_dir DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from seqsetvae.cli import MODES
from seqsetvae.cli.command_line import processes_of, resolve
from seqsetvae.cli.config import find_config, load_config
from seqsetvae.system.console import recorded_output, steady_output
from seqsetvae.system.environment import program, require_usable
from seqsetvae.system.errors import InputError, Terminated
from seqsetvae.system.interrupt import StopRequest, handling
from seqsetvae.system.processes import check_processes, launch, lost_another, other_output, read_slurm, this_process
from seqsetvae.system.resources import keep_freed_memory

CONFIG_FILE = Path(__file__).with_name("finetune_config_optimized.py")
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve flags and config into settings and run the mode.

    Returns:
        The exit status: 0 done, 1 the run failed, 2 bad input, 3 predicted, but the data differ from the training data,
        75 stopped by SIGTERM or a like signal, 130 interrupted.
    """
    _replace_unprintable_characters()
    with steady_output(), other_output(), recorded_output():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    try:
        require_usable()
        file, others = find_config(words, CONFIG_FILE)
        if argv is None and (file != CONFIG_FILE or program("train_optimized.py") == "seqsetvae"):
            print(f"Settings: {file}", file=sys.stderr)  # before they are read, since they may be wrong
        call = resolve(load_config(file), others, MODES)
        devices, num_nodes = processes_of(call.settings)
        read_slurm(devices, num_nodes)
        check_processes(devices, num_nodes)
        if devices > 1 and this_process().world_size == 1:
            return launch([__file__, *words], devices)
        keep_freed_memory()
        with handling(StopRequest()):  # runs have one of their own, which saves
            result = call.run()  # imports torch only now, so that --help and a mistyped flag do not wait seconds for it
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            print(
                f"error: {str(error).splitlines()[0]} Often memory ran out, or /dev/shm is full: pass --num_workers 0.",
                file=sys.stderr,
            )
            return 1
        if not lost_another(error):
            raise
        print("error: another process of this run has ended; its own error says why", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130
    except Terminated as stopped:
        print(stopped, file=sys.stderr)
        return STOPPED
    return getattr(result, "exit_status", 0)  # a mode may have one of its own


def _replace_unprintable_characters() -> None:
    """A terminal or log file whose encoding lacks a character (✅, umlauts in paths) must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test or a notebook has replaced the stream
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
