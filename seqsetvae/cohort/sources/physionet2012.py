"""PhysioNet/CinC Challenge 2012, as published: set-a, set-b, set-c (folders or archives) and Outcomes-<set>.txt."""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqsetvae.cohort.sidefiles import Labels, read_labels, require_match
from seqsetvae.cohort.sources.divide import choose_fractions, divide
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.sources.physionet_files import ARCHIVES, read_set
from seqsetvae.cohort.tidy import SPLITS, Rows, Skip, Stay, Stays, UnnamedRows
from seqsetvae.system.errors import InputError

HELP = "Compile the PhysioNet/CinC Challenge 2012 as published (set-a, set-b, set-c, Outcomes-*.txt)."
LABEL_NAME = "in_hospital_mortality"


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py physionet2012`."""
    add = parser.add_argument
    add("src", type=Path, metavar="SRC", help="folder with the sets (folders or archives) and outcomes")
    for split in SPLITS:
        how: dict[str, Any] = {"action": "extend", "nargs": "+", "choices": "abc", "default": []}
        add(f"--{split}_sets", **how, help=f"whole sets for the {split} split")
    shares = (
        "how to divide the stays of the sets that are not assigned; a split with whole sets of its own gets none of "
    )
    shares += "them (default 0.7 0.15 0.15; with --test_sets 0.8 0.2 0; with other whole sets the same without "
    names = tuple(split.upper() for split in SPLITS)
    add("--fractions", nargs=3, type=float, metavar=names, help=shares + "their splits, scaled to sum to 1)")
    until = "leave out events from hour H on, so that the outcome is predicted at that time (default: keep all 48 h)"
    add("--until_hour", type=float, metavar="H", help=until)
    over = "label: whether the hospital stay was longer than DAYS (default label: death in hospital)"
    add("--stay_over_days", type=float, metavar="DAYS", help=over)
    add("--seed", type=int, default=0, help="of that division (default %(default)s)")


def open_source(arguments: Namespace) -> Opened:
    """The sets that these flags name."""
    assigned = {split: getattr(arguments, f"{split}_sets") for split in SPLITS}
    for flag in ("until_hour", "stay_over_days"):
        value = getattr(arguments, flag)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{flag} {value:g}: allowed: a number above 0")
    over = arguments.stay_over_days
    task = Task(arguments.until_hour, over)
    source = PhysioNet2012(arguments.src, assigned, arguments.fractions, arguments.seed, task=task)
    return Opened(
        source=source,
        label_name=LABEL_NAME if over is None else f"hospital_stay_over_{over:g}_days",
        labels=source.labels,
    )


class Task(NamedTuple):
    """What is predicted, and when."""

    until_hour: float | None = None  # events from this hour on are left out; None: keep all
    stay_over_days: float | None = None  # the label is whether the hospital stay was longer; None: death in hospital

    def label(self, cell: str) -> str:
        """The label of a stay from its length in days; a length of -1 is unknown. What is no number is no label."""
        assert self.stay_over_days is not None
        try:
            days = float(cell)
        except ValueError:
            return cell.strip()  # refused with its line, as any other cell that is neither 0 nor 1
        return "" if days < 0 else str(int(days > self.stay_over_days))

    def sample(self, stay: Stay) -> Stay:
        """The stay with its prediction time."""
        return stay if self.until_hour is None else stay._replace(prediction_minute=60 * self.until_hour)


class PhysioNet2012:
    """The stays of the challenge, divided into splits; see the Source protocol. Held in memory, 30 MB per set."""

    def __init__(
        self,
        src: str | Path,
        assigned: Mapping[str, Sequence[str]] | None = None,
        fractions: Sequence[float] | None = None,
        seed: int = 0,
        progress: bool = True,
        task: Task = Task(),  # noqa: B008  (immutable)
    ) -> None:
        """Read and divide the sets that SRC holds.

        Args:
            src: the folder with the sets and the outcomes.
            assigned: whole sets by split, such as {"test": ["c"]}; the stays of all other sets are divided at random.
            fractions: shares of train, valid and test in that division, which keeps the death rate of each equal;
                a split with whole sets of its own gets none. Default 0.7, 0.15, 0.15, or 0.8, 0.2, 0 if whole sets are
                the test split; of that, only the splits without whole sets, scaled to sum to 1.
            seed: of the division, which does not depend on the order of files.
            progress: show a progress bar if stderr is a terminal.
            task: what is predicted, and when.

        Raises:
            InputError: a set or its outcomes are missing, a set is assigned twice, or the fractions are not valid.
        """
        src = Path(src)
        sets = _find_sets(src)
        split_of_set = _check_assigned(src, sets, assigned or {})
        self.description = f"PhysioNet/CinC Challenge 2012, sets {', '.join(sets)} of {src.resolve()}"
        self.labels: dict[int, int] = {}  # by stay
        self.skips: list[Skip] = []
        self.unnamed_rows = UnnamedRows()
        self._code_of: dict[str, int] = {}  # variables of all sets
        self._rows_of: dict[Stay, tuple[Rows, int, int]] = {}  # the rows of its set, first and last of its own
        self.stays: dict[str, list[Stay]] = {split: [] for split in SPLITS}
        loose: list[Stay] = []
        for name, path in sets.items():
            labels = _read_outcomes(src, name, task)
            self.labels.update(labels)
            rows, unnamed = read_set(name, path, self._code_of, progress)
            stays = [task.sample(stay) for stay in rows.stays]
            require_match(src / f"Outcomes-{name}.txt", labels, rows.stays.stay_id)
            self.skips += rows.skips
            self.unnamed_rows = UnnamedRows(*map(sum, zip(self.unnamed_rows, unnamed, strict=True)))
            ends = np.cumsum(rows.n_rows)
            spans = zip(stays, (ends - rows.n_rows).tolist(), ends.tolist(), strict=True)
            self._rows_of |= {stay: (rows, start, end) for stay, start, end in spans}
            (self.stays[split_of_set[name]] if name in split_of_set else loose).extend(stays)
        if fractions is not None and not loose:
            raise InputError("--fractions divides sets that are in no split yet, but all are assigned. Leave it out.")
        if loose:
            chosen = choose_fractions(fractions, set(split_of_set.values()))
            for split, of_split in divide(loose, self.labels, chosen, seed).items():
                self.stays[split] += of_split
        self.stays = {split: sorted(of_split) for split, of_split in self.stays.items() if of_split}

    def read(self, stays: Stays) -> Rows:
        """The rows of these stays, which may be of different sets."""
        found = [self._rows_of[stay] for stay in stays]
        variable, value, minute = (
            np.concatenate([getattr(rows, column)[start:end] for rows, start, end in found])
            for column in ("variable", "value", "minute")
        )
        n_rows = np.array([end - start for _, start, end in found], dtype=np.int64)
        return Rows(stays, n_rows, list(self._code_of), variable, value, minute, None, np.zeros(len(stays), dtype=bool))


def _find_sets(src: Path) -> dict[str, Path]:
    """The folder or archive of each set that SRC has, by its letter."""
    found = {}
    for name in "abc":
        paths = (src / f"set-{name}{suffix}" for suffix in ("", *ARCHIVES))
        path = next((path for path in paths if path.exists()), None)
        if path is not None:
            found[name] = path
    if not found:
        raise InputError(f"{src}: holds no set of the challenge: set-a, set-b or set-c as a folder, .tar.gz or .zip.")
    return found


def _check_assigned(src: Path, sets: Iterable[str], assigned: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The split of each set that is assigned as a whole."""
    split_of: dict[str, str] = {}
    for split, names in assigned.items():
        for name in names:
            if name not in sets:
                raise InputError(f"--{split}_sets {name}: {src} has no set {name}; it has {', '.join(sets)}.")
            if split_of.setdefault(name, split) != split:
                raise InputError(f"set {name} is given to {split_of[name]} and to {split}. Give it to one of them.")
    return split_of


def _read_outcomes(src: Path, name: str, task: Task) -> Labels:
    file = src / f"Outcomes-{name}.txt"
    if not file.is_file():
        raise InputError(f"{file}: not found. The outcomes of set {name} are published beside it; put the file there.")
    if task.stay_over_days is None:
        return read_labels(file, "In-hospital_death", stay_column="RecordID")
    return read_labels(file, "Length_of_stay", "RecordID", task.label)
