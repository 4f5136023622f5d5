"""`python data.py ...`: compile data for training, and look at data before training."""

import argparse
import math
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from seqsetvae import __version__
from seqsetvae.cohort.checks import check_folder
from seqsetvae.cohort.compile import DEFAULT_WIDTH, compile_cohort
from seqsetvae.cohort.find import DEFAULT_LABEL, compile_layout, locate_layout
from seqsetvae.cohort.format import Cohort, is_compiled, open_cohort
from seqsetvae.cohort.report import summary
from seqsetvae.cohort.sidefiles import Embeddings, Stats, read_embeddings, read_stats
from seqsetvae.cohort.sources.physionet2012 import LABEL_NAME, PhysioNet2012
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.errors import InputError
from seqsetvae.files import refuse_existing
from seqsetvae.memory import keep_freed_memory

INTERRUPTED = 128 + signal.SIGINT  # the exit status that shells expect after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one data command.

    Returns the exit status: 0 good, 1 a check found what would stop training, 2 bad input, 130 interrupted by Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    keep_freed_memory()
    with _one_interrupt():
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
    """The first Ctrl-C ends the work, further ones are ignored: they would stop the removal of unfinished files."""
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


def _run_physionet2012(arguments: argparse.Namespace) -> int:
    refuse_existing(arguments.out)
    if arguments.embeddings and arguments.embedding_dim:
        raise InputError(f"--embedding_dim {arguments.embedding_dim} makes embeddings, but --embeddings gives them.")
    stats = _stats_of(arguments.stats) if arguments.stats else None
    embeddings, width = _embeddings_of(arguments.embeddings, arguments.embedding_dim or DEFAULT_WIDTH)
    assigned = {split: getattr(arguments, f"{split}_sets") for split in SPLITS}
    source = PhysioNet2012(arguments.src, assigned, arguments.fractions, arguments.seed)
    cohort = compile_cohort(
        source,
        arguments.out,
        label_name=LABEL_NAME,
        labels=source.labels,
        stats=stats,
        embeddings=embeddings,
        embedding_dim=width,
        skip_bad=arguments.skip_bad,
        jobs=arguments.jobs,
    )
    return _tell(cohort)


def _stats_of(path: Path) -> Stats:
    """Statistics of a stats.csv, or those that an earlier cohort was normalised with."""
    if not is_compiled(path):
        return read_stats(path)
    cohort = open_cohort(path)
    pairs = zip(cohort.vocabulary, cohort.mean.tolist(), cohort.std.tolist(), strict=True)
    return {name: (mean, std) for name, mean, std in pairs if not math.isnan(mean)}


def _embeddings_of(path: Path | None, width: int) -> tuple[Embeddings | None, int]:
    """Vectors of a cached.csv or of an earlier cohort, and the width of those made from names where there are none."""
    if path is None:
        return None, width
    if not is_compiled(path):
        return read_embeddings(path), width
    cohort = open_cohort(path)
    if cohort.embeddings_generated:  # made from names, they are the same in every cohort, for new variables too
        return None, cohort.embeddings.shape[1]
    return Embeddings({name: row for row, name in enumerate(cohort.vocabulary)}, cohort.embeddings), width


def _run_compile(arguments: argparse.Namespace) -> int:
    refuse_existing(arguments.out)
    files = locate_layout(arguments.patient_ehr, arguments.stats, arguments.labels, arguments.embeddings)
    cohort = compile_layout(
        files,
        arguments.out,
        label_name=arguments.label_name,
        embedding_dim=arguments.embedding_dim,
        skip_bad=arguments.skip_bad,
        jobs=arguments.jobs,
    )
    return _tell(cohort)


def _run_check(arguments: argparse.Namespace) -> int:
    findings = check_folder(
        arguments.dir,
        arguments.label_name,
        stats_path=arguments.stats,
        label_path=arguments.labels,
        embeddings_path=arguments.embeddings,
        work_dir=arguments.work_dir,
    )
    print(findings.text())
    return 1 if findings.problems else 0


def _tell(cohort: Cohort) -> int:
    print(f"{cohort.path}\n{summary(cohort)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    text = "Compile patient data for training, or check them."
    parser = argparse.ArgumentParser(prog="data.py", description=text, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_physionet2012(commands)
    _add_compile(commands)
    _add_check(commands)
    return parser


def _add_physionet2012(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Compile the PhysioNet/CinC Challenge 2012 as published (set-a, set-b, set-c, Outcomes-*.txt)."
    parser = commands.add_parser("physionet2012", help=text, description=text, allow_abbrev=False)
    parser.add_argument("src", type=Path, metavar="SRC", help="folder with the sets (folders or archives) and outcomes")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the compiled cohort")
    for split in SPLITS:
        flag = f"--{split}_sets"
        parser.add_argument(flag, nargs="+", choices="abc", default=[], help=f"whole sets for the {split} split")
    parser.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        metavar=tuple(split.upper() for split in SPLITS),
        help="how to divide the stays of the sets that are not assigned; a split with whole sets of its own gets none "
        "of them (default 0.7 0.15 0.15; with --test_sets 0.8 0.2 0; with other whole sets the same without their "
        "splits, scaled to sum to 1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of that division (default %(default)s)")
    _add_stats(
        parser, "mean and std of each variable: a stats.csv, or a compiled cohort (default: from the train split alone)"
    )
    _add_common(parser, "made from the names; a compiled cohort stands for those it holds")
    parser.set_defaults(run=_run_physionet2012)


def _add_compile(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Compile the SeqSetVAE layout (a patient_ehr folder)."
    parser = commands.add_parser("compile", help=text, description=text, allow_abbrev=False)
    parser.add_argument("patient_ehr", type=Path, metavar="PATIENT_EHR", help="folder with train/, valid/ or test/")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the compiled cohort")
    _add_stats(
        parser, "mean and std of each variable (default: the stats.csv beside PATIENT_EHR, else from the train split)"
    )
    _add_labels(parser, "default: the oc.csv beside PATIENT_EHR, if any")
    _add_label_name(parser, DEFAULT_LABEL, f"default {DEFAULT_LABEL}")
    _add_common(parser, "the cached.csv beside PATIENT_EHR, else made from the names")
    parser.set_defaults(run=_run_compile)


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Print what to know about data before training on them. Status 1 = not ready for training."
    parser = commands.add_parser("check", help=text, description=text, allow_abbrev=False)
    parser.add_argument("dir", type=Path, metavar="DIR", help="a patient_ehr folder or a compiled cohort")
    _add_stats(
        parser, "mean and std of each variable (default: the stats.csv beside patient_ehr, else from the train split)"
    )
    _add_labels(parser, "default: the oc.csv beside patient_ehr, if any")
    _add_embeddings(parser, "the cached.csv beside patient_ehr, if any")
    _add_label_name(parser, None, f"default: that of a compiled cohort, else {DEFAULT_LABEL}")
    parser.add_argument(
        "--work_dir",
        type=Path,
        metavar="FOLDER",
        help="where to compile a patient_ehr folder for the time of the check (default: the system's temporary folder)",
    )
    parser.set_defaults(run=_run_check)


def _add_stats(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--stats", "--params_map_path", type=Path, metavar="STATS_CSV", help=text)


def _add_labels(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--labels", "--label_path", type=Path, metavar="OC_CSV", help=text)


def _add_label_name(parser: argparse.ArgumentParser, default: str | None, text: str) -> None:
    parser.add_argument("--label_name", default=default, help=f"column of oc.csv ({text})")


def _add_embeddings(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--embeddings",
        "--embeddings_path",
        type=Path,
        metavar="CACHED_CSV",
        help=f"a vector for each variable (default: {default})",
    )


def _add_common(parser: argparse.ArgumentParser, default: str) -> None:
    _add_embeddings(parser, default)
    width = f"width of vectors made from the names (default {DEFAULT_WIDTH})"
    parser.add_argument("--embedding_dim", type=_positive, metavar="I", help=width)
    parser.add_argument("--skip_bad", action="store_true", help="leave faulty files out, listed in OUT/skipped.csv")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="threads (default: one per core)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
