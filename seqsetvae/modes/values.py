"""Which value transform a run uses: a checkpoint's own, or for a new model that of the settings."""

from __future__ import annotations

from pathlib import Path

from seqsetvae.checkpoint import Checkpoint
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.transform import ValueTransform, choose_transform
from seqsetvae.errors import InputError
from seqsetvae.settings import Settings


def check_value_flags(settings: Settings, transform: ValueTransform, path: Path) -> None:
    """A model must be given values as in its training, so a flag cannot change them.

    Raises:
        InputError: --value_clip or --min_count contradicts the checkpoint.
    """
    recorded = {"value_clip": transform.clip, "min_count": transform.min_count}
    wrong = [name for name in recorded if name in settings.given_flags and getattr(settings, name) != recorded[name]]
    if wrong:
        pairs = [f"{name}: received {getattr(settings, name)}; trained with {recorded[name]}" for name in wrong]
        flags = " and ".join(f"--{name}" for name in wrong)
        raise InputError(
            f"{path}: the value settings of its training cannot be changed. {'; '.join(pairs)}. Leave out {flags}."
        )


def value_transform(settings: Settings, checkpoint: Checkpoint | None, cohort: Cohort) -> ValueTransform:
    """The transform for a run on this cohort, with a model of this checkpoint or a new one (None)."""
    if checkpoint is None:
        return choose_transform(cohort, settings.value_clip, settings.min_count)
    known = cohort.vocabulary if checkpoint.fingerprints is None else checkpoint.fingerprints
    return checkpoint.transform.with_unknown(cohort.vocabulary, known)
