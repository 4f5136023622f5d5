"""A cohort and the model that reads it, opened and checked against each other: the one way, for every command.

Cheap checks of the data come first, then the checkpoint, then the data themselves, which may have to be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqsetvae.batches.loading import CohortDataModule, data_module
from seqsetvae.batches.transform import VALUE_TRANSFORMS, ValueTransform
from seqsetvae.batches.variables import variable_table, with_host_work
from seqsetvae.checkpoint.backbone import Loaded, LoadReport, load_backbone, read_checkpoint
from seqsetvae.checkpoint.record import TrainedOn
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.bind import bind
from seqsetvae.cohort.open import check_data, open_data
from seqsetvae.cohort.report import event_counts, most_events
from seqsetvae.cohort.variables import TRAIN_SPLIT, Variables
from seqsetvae.evaluation.drift import drift, not_compared
from seqsetvae.models import ARCHITECTURES, ArchitectureSettings
from seqsetvae.settings.groups import DataSettings, LoaderSettings, PretrainedSettings, RunSettings, ValueSettings
from seqsetvae.system.console import warn
from seqsetvae.system.errors import InputError, counted, named
from seqsetvae.system.processes import first_process_first
from seqsetvae.tasks.targets import require_targets
from seqsetvae.training.precision import Precision, prepare_device, weight_type
from seqsetvae.training.run_folder import find_checkpoint

STAYS_A_VALUE = 50  # training stays for each value that a variable must have by default, up to min_count

Load = Callable[[int], Loaded]  # of the width of the data's variable embeddings
New = Callable[[Cohort], tuple[ValueTransform, Any]]  # how a new model reads values, and the model


@dataclass(frozen=True, eq=False, kw_only=True)
class Opened:
    """A cohort as a model reads it, and the model: that of a checkpoint, or a new one with random weights."""

    data: DataSettings
    loader: LoaderSettings
    run: RunSettings
    device: torch.device
    cohort: Cohort
    model: Any  # a backbone, in pretraining with what the objective adds; or a fine-tuned model
    transform: ValueTransform
    loaded: Loaded | None = None  # None: the model is new

    @cached_property
    def variables(self) -> torch.Tensor:
        """[V, I], or what the backbone has in their place (`variable_table`), on the device."""
        return variable_table(self._backbone, self.cohort, self.run).to(self.device)

    @cached_property
    def loaders(self) -> CohortDataModule:
        """Loaders through all stays, labelled or not."""
        groups = self.data, self.loader, self.run, self.device
        loaders = data_module(self.cohort, self.transform, *groups, labelled=False)
        return with_host_work(loaders, self._backbone, self.variables.cpu())

    @cached_property
    def precision(self) -> Precision:
        return Precision.from_settings(self.run, self.device)

    @property
    def _backbone(self) -> Any:
        return getattr(self.model, "backbone", self.model)

    def ready(self) -> None:
        """Put the model on the device, to be applied and not trained."""
        self.model.to(self.device, weight_type(self.run)).eval()
        if self.run.compile_model:
            self._backbone.compile_dense_parts()

    @property
    def report(self) -> LoadReport | None:
        """Which weights of a pretrained checkpoint were loaded."""
        return None if self.loaded is None else self.loaded.report

    @property
    def trained_on(self) -> TrainedOn:
        assert self.loaded is not None, "the model is that of a checkpoint"
        return self.loaded.trained_on

    @property
    def known_variables(self) -> np.ndarray:
        """[V] bool, the variables of the cohort that the model was trained on."""
        return np.isin(self.cohort.vocabulary, self.trained_on.known or self.cohort.vocabulary)

    def drift(self, splits: Sequence[str]) -> list[str]:
        """A sentence for each way in which these splits differ from the training data."""
        not_read = getattr(self.transform, "rare", ())  # too rare in the training data
        hours, profile = self.trained_on.median_hours, self.trained_on.profile
        return drift(self.cohort, splits, self.known_variables, not_read, hours, profile)

    def not_compared(self, splits: Sequence[str]) -> list[str]:
        """A sentence about what of these splits cannot be compared with the training data."""
        return not_compared(self.cohort, splits, self.trained_on.known or (), self.trained_on.profile)


def open_run(
    data: DataSettings,
    loader: LoaderSettings,
    run: RunSettings,
    *splits: str,
    load: Load | None = None,
    new: New | None = None,
    labelled: bool = False,
    leave_out_unknown: bool = False,
    with_targets: Callable[[Cohort], Cohort] | None = None,
) -> Opened:
    """The data of the settings with the model that `load` reads from a checkpoint, or else with a `new` one.

    Args:
        data, loader, run: settings.
        splits: which the data must have; with `labelled`, or targets, they must have labels to train or evaluate on.
        load, new: where the model comes from.
        labelled: the labels are those of the cohort; without it none are needed there.
        leave_out_unknown: leave out events of variables without an embedding, where the checkpoint has a table of them.
        with_targets: adds the labels of another task to the cohort.

    Raises:
        InputError: the checkpoint, the data, or what they are together cannot be used.
    """
    device = prepare_device(run)
    width = check_data(data, *splits, labelled=labelled)
    loaded = None if load is None else load(width)
    with first_process_first():
        checkpoint_variables, root = None if loaded is None else loaded.trained_on.variables, run.output_root_dir
        # A table says which variables have an embedding. Of an incomplete cached.csv only a fine-tuned model, whose
        # training needed all of them, tells that the others were not in its training data.
        leave_out = (
            leave_out_unknown and loaded is not None and (checkpoint_variables is not None or loaded.report is None)
        )
        cohort = open_data(data, root, own=checkpoint_variables, needs_labels=labelled, leave_out_unknown=leave_out)
    for name in splits:
        cohort.split(name)
    if with_targets is not None:
        cohort = with_targets(cohort)
    if labelled or with_targets is not None:
        require_targets(cohort, *splits)
    return _paired(cohort, loaded, new, data=data, loader=loader, run=run, device=device)


def open_on(
    cohort: Cohort,
    data: DataSettings,
    loader: LoaderSettings,
    run: RunSettings,
    *,
    load: Load | None = None,
    new: New | None = None,
) -> Opened:
    """Open a model on a cohort that is open already, such as a fold of one."""
    loaded = None
    if load is not None:
        loaded = load(cohort.variables.width)
        cohort = bind(cohort, own=loaded.trained_on.variables)
    return _paired(cohort, loaded, new, data=data, loader=loader, run=run, device=prepare_device(run))


def _paired(cohort: Cohort, loaded: Loaded | None, new: New | None, **settings: Any) -> Opened:
    if loaded is None:
        assert new is not None, "a model comes from a checkpoint or is new"
        transform, model = new(cohort)
        return Opened(cohort=cohort, model=model, transform=transform, **settings)
    check_variables(cohort, loaded)
    trained_on = loaded.trained_on
    known = cohort.vocabulary if trained_on.known is None else trained_on.known
    # The data may have variables that the training did not have.
    transform = trained_on.transform.with_unknown(cohort.vocabulary, known)
    return Opened(cohort=cohort, model=loaded.model, transform=transform, loaded=loaded, **settings)


# ------------------------------------------------------------------ the checkpoint of --pretrained_ckpt


def load_pretrained(
    pretrained: PretrainedSettings,
    architecture: ArchitectureSettings,
    data: DataSettings,
    width: int,
    values: ValueSettings | None = None,
    build: Callable[[str, Any], Any] | None = None,
) -> Loaded:
    """The backbone of --pretrained_ckpt, of the architecture that the file names; prints what was loaded.

    Args:
        pretrained, architecture, data, values: settings; without `values` those of the checkpoint are not compared.
        width: of the data's variable embeddings, where the file has none of its own.
        build: makes the module from (architecture, sizes), where it is more than the backbone.

    Raises:
        InputError: unreadable, incomplete, or other sizes or values than those of the data or chosen by the user.
    """
    assert pretrained.pretrained_ckpt is not None, "settings are checked before a mode runs"
    path, _ = find_checkpoint(pretrained.pretrained_ckpt)
    checkpoint = read_checkpoint(path)
    if values is not None:
        check_value_flags(values, checkpoint.trained_on.transform, path)
    architecture.require_name(checkpoint.architecture, str(path))
    sizes = checkpoint.infer_sizes(architecture.sizes())
    architecture.require(asdict(sizes), str(path))
    if checkpoint.trained_on.variables is None:
        check_width(width, sizes.input_dim, path, data.data_dir)
    of_file = ARCHITECTURES[checkpoint.architecture]
    backbone = of_file.build(sizes) if build is None else build(checkpoint.architecture, sizes)
    report = load_backbone(backbone, checkpoint, pretrained.allow_partial_backbone)
    if build is None:
        backbone.keep_pretrained(checkpoint.weights)
    print(f"Checkpoint: {path}\n{report}")
    plain = {name: len(value) if isinstance(value, list) else value for name, value in sizes.as_dict().items()}
    listed = ", ".join(f"{name} {value}" for name, value in plain.items())
    print(f"Backbone sizes, from the checkpoint: {listed}")
    if not report.is_complete:
        warn(
            f"PARTIAL BACKBONE: these weights are randomly initialized (--allow_partial_backbone):\n"
            f"  {report.problems()}"
        )
    if report.random_in_file:
        warn(f"RANDOM WEIGHTS IN THE FILE: {of_file.explain(checkpoint.stored)}")
    if checkpoint.not_stated:
        listed = ", ".join(f"{name} = {getattr(sizes, name)}" for name in checkpoint.not_stated)
        warn(
            f"The checkpoint does not state {listed}: these values are from the settings. A wrong number of "
            "attention heads gives wrong results without an error, so compare them with the checkpoint's training."
        )
    of = checkpoint.trained_on
    return Loaded(path=path, model=backbone, input_dim=sizes.input_dim, trained_on=of, report=report)


# ------------------------------------------------------------------ a checkpoint against the data and settings


def check_width(width: int, input_dim: int, path: Path, data: Path | None) -> None:
    """Raises InputError if the data's variable embeddings have another width than those of the checkpoint."""
    if width != input_dim:
        raise InputError(
            f"{path}: was trained with variable embeddings of width {input_dim}; those of the data {data} have width "
            f"{width}. Use the cached.csv of that training: pass --embeddings_path."
        )


def check_variables(cohort: Cohort, loaded: Loaded) -> None:
    """The data's variables must have the mean, std and embedding that they had when the model was trained.

    Of a checkpoint with a table of its own they have these, because the data were opened with it.

    Raises:
        InputError: another embedding width, or another mean, std or embedding of some variables.
    """
    path, of = loaded.path, loaded.trained_on
    check_width(cohort.variables.width, loaded.input_dim, path, cohort.path)
    if of.known is None:
        _say_what_is_not_recorded(cohort)
        return
    if not set(cohort.vocabulary) & set(of.known):
        raise InputError(
            f"{path}: was trained on other variables; the data {cohort.path} contain none of them. "
            "If they have other names there, --variable_map of data.py maps them."
        )
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


def new_transform(architecture: ArchitectureSettings, values: ValueSettings, cohort: Cohort) -> ValueTransform:
    """The transform of a new model: that of the settings, or else the one that its architecture names.

    Where `min_count` is as shipped, it is at most one value for every STAYS_A_VALUE training stays: of a few stays no
    variable has 20 values if it is measured once a stay, and a model that reads no values sees equal stays.
    """
    name = values.value_transform or ARCHITECTURES[architecture.architecture].VALUE_TRANSFORM
    least = cohort.split("train").n_stays // STAYS_A_VALUE
    min_count = values.min_count if "min_count" in values.given else min(values.min_count, least)
    return VALUE_TRANSFORMS[name].fit(cohort, value_clip=values.value_clip, min_count=min_count)
