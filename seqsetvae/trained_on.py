"""A checkpoint against the data and settings of a run: a model must read the variables and values it was trained on."""

from __future__ import annotations

from pathlib import Path

from seqsetvae.architectures import ARCHITECTURES
from seqsetvae.architectures.settings import ArchitectureSettings
from seqsetvae.checkpoint import Checkpoint
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.imported import IMPORT
from seqsetvae.cohort.meaning import variables_changed
from seqsetvae.cohort.report import event_counts, most_events
from seqsetvae.cohort.skipped import counted
from seqsetvae.cohort.transform import VALUE_TRANSFORMS, ValueTransform
from seqsetvae.errors import InputError
from seqsetvae.settings.groups import ValueSettings


def check_width(width: int, input_dim: int, path: Path, data: Path | None) -> None:
    """Raises InputError if the data's variable embeddings have another width than those of the checkpoint."""
    if width != input_dim:
        raise InputError(
            f"{path}: was trained with variable embeddings of width {input_dim}; those of the data {data} have width "
            f"{width}. Use the cached.csv of that training: pass --embeddings_path, or compile the data with it."
        )


def check_embeddings(cohort: Cohort, input_dim: int, fingerprints: dict[str, str] | None, path: Path) -> None:
    """The data's variables must have the mean, std and embedding that they had when the model was trained.

    Raises:
        InputError: another embedding width, or another mean, std or embedding of some variables.
    """
    check_width(cohort.embeddings.shape[1], input_dim, path, cohort.path)
    if fingerprints is None:
        if cohort.embeddings_generated:
            print(
                "⚠️  There is no cached.csv, so the variable embeddings were generated from the variable names, and the "
                "checkpoint does not record its own. If it was trained with other embeddings, its predictions are "
                "meaningless."
            )
        if cohort.manifest["statistics"] == "train split":
            print(
                "⚠️  There was no stats.csv: mean and std of each variable are those of this cohort's train split, and "
                "the checkpoint does not say which it was trained with. With others its predictions mean nothing: if "
                "you have the stats.csv of its training, pass it (--params_map_path)."
            )
        return
    ours = cohort.fingerprints()
    if not ours.keys() & fingerprints.keys():
        raise InputError(f"{path}: was trained on other variables; the data {cohort.path} contain none of them")
    changed = variables_changed(cohort, fingerprints)
    if changed:
        raise InputError(
            f"{path}: was trained with another mean, std or embedding of {counted(len(changed), 'variable')}: "
            f"{', '.join(changed[:8])}. Use the stats.csv and cached.csv of that training, or its compiled cohort in "
            "place of both: with a patient_ehr folder pass --params_map_path and --embeddings_path, or compile the "
            "data again (data.py) with --stats and --embeddings."
        )
    new = sorted(ours.keys() - fingerprints.keys())
    if new:
        counts = event_counts(cohort)
        unseen = {name: int(counts[cohort.vocabulary.index(name)]) for name in new}
        share = sum(unseen.values()) / counts.sum()
        advice = "; import with --leave_out_unknown to leave them out" if IMPORT in cohort.manifest else ""
        print(
            f"⚠️  {len(new)} variables of {cohort.path} did not occur in the checkpoint's data ({share:.1%} of the "
            f"events{advice}): {most_events(unseen)}"
        )


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
    known = cohort.vocabulary if checkpoint.fingerprints is None else checkpoint.fingerprints
    return checkpoint.transform.with_unknown(cohort.vocabulary, known)


def new_transform(architecture: ArchitectureSettings, values: ValueSettings, cohort: Cohort) -> ValueTransform:
    """The transform of a new model: that of the settings, or else the one that its architecture names."""
    name = values.value_transform or ARCHITECTURES[architecture.architecture].VALUE_TRANSFORM
    return VALUE_TRANSFORMS[name].fit(cohort, value_clip=values.value_clip, min_count=values.min_count)
