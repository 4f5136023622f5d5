"""What a checkpoint records beside its weights, checked: architecture, variables, value transform, training data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqsetvae.batches.transform import PLAIN, ValueTransform
from seqsetvae.cohort.profile import PROFILE, Profile
from seqsetvae.cohort.variables import Variables
from seqsetvae.models import ARCHITECTURES
from seqsetvae.system.errors import InputError

ARCHITECTURE = "architecture"  # the architecture's name, in checkpoints that we write
FIRST_ARCHITECTURE = "seqsetvae"  # that of checkpoints without a name
TASK = "task"  # what a fine-tuned checkpoint predicts (tasks.spec.Spec), unless that is one binary label
MEDIAN_HOURS = "median_hours"  # of the training stays, in fine-tuned checkpoints
VARIABLES = "variables"  # the table of variables (`Variables`), in checkpoints that we write
MOST_WIDTH = 1 << 20  # of a vector that is generated
FINGERPRINTS = "variable_fingerprints"  # in checkpoints of earlier versions: {variable: hash of mean, std and vector}


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What a checkpoint records of its training data, for comparison with later data."""

    variables: Variables | None = None  # what was read of each variable; None: an earlier version
    fingerprints: dict[str, str] | None = None  # of an earlier version: {variable: hash of its mean, std and embedding}
    label_name: str | None = None  # None: it was trained without labels
    max_sets: int | None = None  # stays were shortened to this number of last sets
    transform: ValueTransform = PLAIN  # how values were changed
    median_hours: float | None = None  # from the first to the last set of a stay; None: an older file, or not positive
    profile: Profile | None = None  # how often each variable occurs, and the window; None: an older file

    @property
    def known(self) -> tuple[str, ...] | None:
        """The names of its variables, if it records them."""
        return self.variables.names if self.variables else None if self.fingerprints is None else (*self.fingerprints,)


def read_profile(recorded: Any, path: Path) -> Profile | None:
    """What a checkpoint records of its training data; None if it is older. Raises InputError where it is damaged."""
    if recorded is None:
        return None
    try:
        return Profile.from_plain(recorded)
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError):
        raise InputError(f"{path}: its {PROFILE} {str(recorded)[:60]!r} is damaged. Use another copy.") from None


def record_of(variables: Variables) -> dict[str, Any]:
    """A table of variables for a checkpoint, of plain values and perhaps one tensor."""
    mean, std = ([None if x != x else x for x in each.tolist()] for each in (variables.mean, variables.std))
    vectors = None if variables.given is None else torch.tensor(variables.given)
    return {"names": list(variables.names), "mean": mean, "std": std, "width": variables.width, "vectors": vectors}


def read_variables(recorded: Any, path: Path) -> Variables | None:
    """The table of variables that a checkpoint records; None: it has none. Raises InputError where it is damaged."""
    if recorded is None:
        return None
    try:
        names, width, vectors = tuple(recorded["names"]), recorded["width"], recorded["vectors"]
        mean, std = (np.array([np.nan if x is None else x for x in recorded[key]], float) for key in ("mean", "std"))
        given = None if vectors is None else vectors.double().numpy()
        has_none = np.isnan(mean) & np.isnan(std)
        is_good = [
            isinstance(width, int) and 0 < width < MOST_WIDTH,
            len(names) > 0 and all(isinstance(name, str) and name for name in names),
            len(set(names)) == len(names) == len(mean) == len(std),
            (has_none | (np.isfinite(mean) & np.isfinite(std) & (std > 0))).all(),
            given is None or (given.shape == (len(names), width) and np.isfinite(given).all()),
        ]
        if not all(is_good):
            raise ValueError
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        raise InputError(f"{path}: its table of {VARIABLES} is damaged. Use another copy.") from None
    return Variables(names, mean, std, given, width)


def check_fingerprints(recorded: Any, path: Path) -> dict[str, str] | None:
    """What an earlier version recorded as the hash of each variable. Raises InputError if it is something else."""
    if recorded is None:
        return None
    pairs = recorded.items() if isinstance(recorded, dict) else [(recorded, None)]
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise InputError(f"{path}: its {FINGERPRINTS} {str(recorded)[:60]!r} are damaged. Use another copy.")
    return recorded


def architecture_of(content: dict[str, Any], path: Path) -> str:
    """The name of a checkpoint's architecture.

    Raises:
        InputError: it is not among ARCHITECTURES.
    """
    saved = content.get("hyper_parameters")
    stated = content.get(ARCHITECTURE)
    if stated is None and isinstance(saved, dict):
        stated = saved.get(ARCHITECTURE)
    name = FIRST_ARCHITECTURE if stated is None else stated
    if not isinstance(name, str) or name not in ARCHITECTURES:
        shown = " ".join(repr(name).split())[:60]
        raise InputError(
            f"{path}: has the architecture {shown}, which this version does not know; it knows "
            f"{', '.join(ARCHITECTURES)}"
        )
    return name


def read_median_hours(recorded: Any, path: Path) -> float | None:
    """Median length of the training stays in hours. Raises InputError for what no stay can last."""
    if recorded is None:
        return None
    if not isinstance(recorded, int | float) or isinstance(recorded, bool) or not 0 < recorded < math.inf:
        raise InputError(f"{path}: its {MEDIAN_HOURS} is {recorded!r}; it must be a number above 0")
    return float(recorded)
