"""A checkpoint against the data and settings of a run: a model must read the variables and values it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from seqsetvae.batches.transform import VALUE_TRANSFORMS, ValueTransform
from seqsetvae.checkpoint.backbone import Checkpoint
from seqsetvae.checkpoint.record import TrainedOn
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.report import event_counts, most_events
from seqsetvae.cohort.variables import TRAIN_SPLIT, Variables
from seqsetvae.models import ARCHITECTURES
from seqsetvae.models.settings import ArchitectureSettings
from seqsetvae.settings.groups import ValueSettings
from seqsetvae.system.console import warn
from seqsetvae.system.errors import InputError, counted, named

STAYS_A_VALUE = 50  # training stays for each value that a variable must have by default, up to min_count


def check_width(width: int, input_dim: int, path: Path, data: Path | None) -> None:
    """Raises InputError if the data's variable embeddings have another width than those of the checkpoint."""
    if width != input_dim:
        raise InputError(
            f"{path}: was trained with variable embeddings of width {input_dim}; those of the data {data} have width "
            f"{width}. Use the cached.csv of that training: pass --embeddings_path."
        )


def check_variables(cohort: Cohort, input_dim: int, of: Checkpoint | TrainedOn, path: Path) -> None:
    """The data's variables must have the mean, std and embedding that they had when the model was trained.

    Of a checkpoint with a table of its own they have these, because the data were opened with it.

    Raises:
        InputError: another embedding width, or another mean, std or embedding of some variables.
    """
    check_width(cohort.variables.width, input_dim, path, cohort.path)
    if of.known is None:
        _say_what_is_not_recorded(cohort)
        return
    if not set(cohort.vocabulary) & set(of.known):
        raise InputError(f"{path}: was trained on other variables; the data {cohort.path} contain none of them")
    changed = [] if of.variables else _changed(cohort.variables, of.fingerprints or {})
    if changed:
        raise InputError(
            f"{path}: was trained with another mean, std or embedding of {counted(len(changed), 'variable')}: "
            f"{named(changed)}. Use the stats.csv and cached.csv of that training, or its compiled cohort in "
            "place of both (--params_map_path, --embeddings_path)."
        )
    new = sorted(set(cohort.vocabulary) - set(of.known))
    if new:
        counts = dict(zip(cohort.vocabulary, event_counts(cohort).tolist(), strict=True))
        unseen = {name: counts[name] for name in new}
        warn(
            f"{len(new)} variables of {cohort.path} did not occur in the checkpoint's data "
            f"({sum(unseen.values()) / sum(counts.values()):.1%} of the events): {most_events(unseen)}"
        )


def _say_what_is_not_recorded(cohort: Cohort) -> None:
    """Warnings about a checkpoint that does not say what it read of its variables."""
    if cohort.variables.given is None:
        warn(
            "There is no cached.csv, so the variable embeddings were generated from the variable names, and the "
            "checkpoint does not record its own. If it was trained with other embeddings, its predictions are "
            "meaningless."
        )
    if cohort.variables.statistics == TRAIN_SPLIT:
        warn(
            "There was no stats.csv: mean and std of each variable are those of this cohort's train split, and "
            "the checkpoint does not say which it was trained with. With others its predictions mean nothing: if "
            "you have the stats.csv of its training, pass it (--params_map_path)."
        )


def _changed(variables: Variables, recorded: Mapping[str, str]) -> list[str]:
    """The names whose mean, std or embedding an earlier version recorded another hash of."""
    rows = np.column_stack([variables.mean, variables.std, variables.vectors]).astype("<f8")  # [V, 2 + I]
    rows[np.isnan(rows)] = np.nan  # one NaN, whatever its bits were
    ours = {name: sha256(row.tobytes()).hexdigest()[:16] for name, row in zip(variables.names, rows, strict=True)}
    return sorted(name for name in ours.keys() & recorded.keys() if ours[name] != recorded[name])


def check_value_flags(values: ValueSettings, transform: ValueTransform, path: Path) -> None:
    """A model must be given values as in its training, so a flag cannot change them.

    Raises:
        InputError: --value_transform, --value_clip or --min_count contradicts the checkpoint.
    """
    recorded, names = transform.options(), ("value_transform", "value_clip", "min_count")
    pairs = {name: (getattr(values, name), recorded.get(name)) for name in names}
    wrong = [name for name, (new, old) in pairs.items() if name in values.given and new != old]
    if wrong:
        listed = "; ".join(f"{name}: received {pairs[name][0]}; trained with {pairs[name][1]}" for name in wrong)
        flags = " and ".join(f"--{name}" for name in wrong)
        raise InputError(f"{path}: the value settings of its training cannot be changed. {listed}. Leave out {flags}.")


def value_transform(checkpoint: Checkpoint, cohort: Cohort) -> ValueTransform:
    """The checkpoint's transform, for data that may have variables that its training did not have."""
    known = cohort.vocabulary if checkpoint.known is None else checkpoint.known
    return checkpoint.transform.with_unknown(cohort.vocabulary, known)


def new_transform(architecture: ArchitectureSettings, values: ValueSettings, cohort: Cohort) -> ValueTransform:
    """The transform of a new model: that of the settings, or else the one that its architecture names.

    Where `min_count` is as shipped, it is at most one value for every STAYS_A_VALUE training stays: of a few stays no
    variable has 20 values if it is measured once a stay, and a model that reads no values sees equal stays.
    """
    name = values.value_transform or ARCHITECTURES[architecture.architecture].VALUE_TRANSFORM
    least = cohort.split("train").n_stays // STAYS_A_VALUE
    min_count = values.min_count if "min_count" in values.given else min(values.min_count, least)
    return VALUE_TRANSFORMS[name].fit(cohort, value_clip=values.value_clip, min_count=min_count)
