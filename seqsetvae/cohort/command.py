"""`python data.py ...`: compile data for training, and look at data before training."""

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from seqsetvae import __version__
from seqsetvae.cohort.checks import Check, check_folder, check_source
from seqsetvae.cohort.compile import compile_cohort
from seqsetvae.cohort.export import add_export
from seqsetvae.cohort.report import summary
from seqsetvae.cohort.sidefiles import CACHED, STATS
from seqsetvae.cohort.sources import SOURCES, Origin, recognise
from seqsetvae.cohort.sources.opened import Opened, add_common, add_compile_flags, compile_flags
from seqsetvae.cohort.sources.seqsetvae_layout import DEFAULT_LABEL, SideFiles, add_label_flags
from seqsetvae.cohort.variables import DEFAULT_WIDTH
from seqsetvae.system.console import steady_output
from seqsetvae.system.environment import program
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import refuse_existing
from seqsetvae.system.resources import keep_freed_memory

INTERRUPTED = 128 + signal.SIGINT  # the exit status that shells expect after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one data command.

    Returns the exit status: 0 success, 1 a check found a problem, 2 bad input, 130 interrupted by Ctrl-C.
    """
    with steady_output(), _one_interrupt():
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        keep_freed_memory()
        try:
            return arguments.run(arguments)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted; unfinished files were removed", file=sys.stderr)
            return INTERRUPTED


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """The first Ctrl-C stops the command, further ones are ignored: they would stop the removal of unfinished files."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run_source(origin: Origin, arguments: argparse.Namespace) -> int:
    """Compile what a source opens."""
    refuse_existing(arguments.out)
    opened = origin.open_source(arguments)
    cohort = compile_cohort(**vars(opened), out=arguments.out, **compile_flags(arguments))
    print(f"{cohort.path}\n{summary(cohort)}")
    return 0


def _run_check(arguments: argparse.Namespace) -> int:
    named = SideFiles(arguments.stats, arguments.labels, arguments.embeddings)
    return _printed(check_folder(arguments.dir, arguments.label_name, named, arguments.work_dir))


def _run_check_of_source(origin: Origin, arguments: argparse.Namespace) -> int:
    """Check what a source would compile."""

    def opened(out: Path) -> Opened:
        return origin.open_source(argparse.Namespace(**vars(arguments) | {"out": out}))

    skip_bad, work_dir = arguments.skip_bad, arguments.work_dir
    return _printed(check_source(opened, arguments.command, skip_bad, work_dir, arguments.set_hours))


def _printed(check: Check) -> int:
    print(check.text())
    return 0 if check.is_ready else 1


# Flags of earlier versions, which wrote z-scores into a cohort.
_OF_MODELS = {
    **dict.fromkeys(("--stats", "--params_map_path"), "pass a stats.csv to train_optimized.py, with --params_map_path"),
    **dict.fromkeys(
        ("--embeddings", "--embeddings_path", "--new_embeddings"),
        "pass a cached.csv to train_optimized.py, with --embeddings_path",
    ),
    "--embedding_dim": f"vectors generated from names have width {DEFAULT_WIDTH}",
    "--leave_out_unknown": "name the variables with --leave_out",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors say which flag took missing paths: one of several values takes all words up to the next."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        several = [flag for action in self._actions if action.nargs == "+" for flag in action.option_strings]
        given = [flag for flag in several if flag in self._words]
        if given and any(reason in message for reason in ("are required", "invalid choice")):
            paths = " ".join(str(action.metavar) for action in self._get_positional_actions())
            message += f". {', '.join(given)}: takes all words up to the next flag; put {paths} before it"
        if message.startswith("unrecognized"):
            older = [flag for flag in (word.partition("=")[0] for word in self._words) if flag in _OF_MODELS]
            said = [f"{flag}: a cohort holds values in their units; {_OF_MODELS[flag]}" for flag in older]
            message = "; ".join(said) or message
        if self._words[:1] == ["check"] and message.startswith("unrecognized"):
            message += ". The flags of `table`, `meds` or `physionet2012` come after such data: check SRC --flag ..."
        super().error(message)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; `check SRC` has the flags of the origin that SRC is of."""
    names_data = len(argv) > 1 and argv[0] == "check" and not argv[1].startswith("-")
    name = recognise(Path(argv[1])) if names_data else None
    if name is None:
        return _parser().parse_args(argv)
    origin = SOURCES[name]
    text = f"Report problems of data before `data.py {name}` compiles them. Exit status 1 = not ready for training."
    parser = _Parser(prog=f"{program('data.py')} check", description=text, allow_abbrev=False)
    origin.add_flags(parser)
    add_compile_flags(parser)
    _add_work_dir(parser)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_work_dir(own)
    words = [argv[1], "OUT", *own.parse_known_args(argv[2:])[1]]
    parser.set_defaults(
        run=partial(_run_check_of_source, origin),
        command=f"{program('data.py')} {name} {shlex.join(words)}",
    )
    return parser.parse_args(argv[1:])


def _parser() -> argparse.ArgumentParser:
    text = "Compile patient data for training, or check them."
    parser = _Parser(prog=program("data.py"), description=text, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"SeqSetVAE fine-tuning {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, origin in SOURCES.items():
        command = commands.add_parser(name, help=origin.HELP, description=origin.HELP, allow_abbrev=False)
        origin.add_flags(command)
        add_common(command)
        command.set_defaults(run=partial(_run_source, origin))
    _add_check(commands)
    add_export(commands)
    return parser


def _add_check(commands: "argparse._SubParsersAction[Any]") -> None:
    text = "Report problems of data before training on them. Exit status 1 = not ready for training."
    more = (
        "For a long table, a MEDS data set or PhysioNet 2012: `check SRC`, then the flags of `table`, `meds` or "
        "`physionet2012`; `check SRC --help`."
    )
    parser = commands.add_parser("check", help=text, description=text, epilog=more, allow_abbrev=False)
    parser.add_argument("dir", type=Path, metavar="DIR", help="a patient_ehr folder or a compiled cohort")
    beside = "default: the {} beside patient_ehr, or in a compiled cohort, if any"
    for flag, older, file in (("--stats", "--params_map_path", STATS), ("--embeddings", "--embeddings_path", CACHED)):
        parser.add_argument(flag, older, type=Path, metavar="CSV", help=beside.format(file))
    add_label_flags(parser, "patient_ehr", None, f"default: that of a compiled cohort, else {DEFAULT_LABEL}")
    _add_work_dir(parser)
    parser.set_defaults(run=_run_check)


def _add_work_dir(parser: argparse.ArgumentParser) -> None:
    text = "where to compile data during the check (default: the system's temporary folder)"
    parser.add_argument("--work_dir", type=Path, metavar="FOLDER", help=text)
