"""What evaluating and predicting share: a fine-tuned checkpoint with the data that it is applied to.

Legend: N stays of a split, V variables, I embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from seqsetvae.batches.loading import CohortDataModule, SplitBatches, data_module
from seqsetvae.batches.variables import host_work, variable_table
from seqsetvae.checkpoint.data import check_variables, check_width
from seqsetvae.checkpoint.finetuned import Finetuned, load_finetuned
from seqsetvae.cohort import Cohort, is_compiled, open_cohort
from seqsetvae.cohort.imported import read_samples, read_skipped
from seqsetvae.cohort.open import check_data, open_data
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.evaluation.drift import drift, not_compared
from seqsetvae.evaluation.explain import StayLogit
from seqsetvae.evaluation.predictions import Predictions, predict, predictions_of
from seqsetvae.evaluation.prefixes import Prefixes, predict_every_set, predict_prefixes
from seqsetvae.settings.groups import DataSettings, LoaderSettings, RunSettings
from seqsetvae.system.errors import InputError
from seqsetvae.system.processes import first_process_first, own_share
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.label_file import read_label_file
from seqsetvae.tasks.spec import Spec
from seqsetvae.tasks.targets import label_file, require_targets, with_targets, without_label
from seqsetvae.training.precision import Precision, prepare_device, say_precision, weight_type
from seqsetvae.training.run_folder import CONFIG, RunFolder, find_checkpoint

UNKNOWN_VARIABLES = "none of its variables occurred in the checkpoint's training data"
NO_EMBEDDING = "none of its variables has an embedding, so none occurred in the training data"


@dataclass(frozen=True, eq=False)
class Scorer:
    """A fine-tuned model on its device, and the cohort that it is applied to."""

    folder: RunFolder | None  # the run folder of the checkpoint, if it is in one
    finetuned: Finetuned
    cohort: Cohort
    data: CohortDataModule  # its loaders go through all stays, labelled or not
    embeddings: torch.Tensor  # [V, I], or what the backbone has in their place (`variables.variable_table`)
    precision: Precision

    @property
    def path(self) -> Path:
        return self.finetuned.path

    @property
    def spec(self) -> Spec:
        """What the model predicts."""
        return self.finetuned.task

    @property
    def is_data_of_run(self) -> bool:
        """Whether the cohort is the one of the checkpoint's run."""
        return is_data_of_run(self.folder, self.cohort)

    @property
    def is_selected(self) -> bool:
        """Whether the validation split chose the epoch of the checkpoint, as it does unless its run kept the last."""
        settings = {} if self.folder is None else self.folder.read_json(CONFIG).get("settings")
        return not isinstance(settings, dict) or settings.get("keep", "best") == "best"

    def predict(self, split: str) -> Predictions:
        """Predictions for all stays of a split; without labels where those of the data are of something else.

        The batches are the same whether stays have labels or not, and so are the outputs, to the last bit.
        """
        loader = self.data.loader(split, **own_share())
        model, context = self.finetuned.model, self.precision.context()
        found = predict(self.spec, model, self.embeddings, loader, split, context)
        return predictions_of(self.spec, self.cohort, split, *found)

    def predict_every_set(self, split: str) -> np.ndarray:
        """Outputs after every set of all stays of a split, in the order of the cohort: [S, O]."""
        return predict_every_set(self.finetuned.model, self.embeddings, self.data, split, self.precision.context())

    def predict_prefixes(self, split: str, prefixes: Prefixes) -> Predictions:
        """Predictions for beginnings of stays of a split."""
        context, stays = self.precision.context(), self.cohort.split(split).stay_id[prefixes.stay]
        output = predict_prefixes(self.finetuned.model, self.embeddings, self.data, split, prefixes, context)
        return predictions_of(self.spec, self.cohort, split, stays, output)

    def without_known_variable(self, split: str) -> dict[int, str]:
        """{stay: reason} of the stays without an event of a variable that the model was trained on."""
        stays, known = self.cohort.split(split), self.known_variables
        if known.all():
            return {}
        counted = np.concatenate([[0], np.cumsum(known[stays.variable])])[stays.set_offset]  # known events before a set
        first, end = stays.stay_offset[:-1], stays.stay_offset[1:]
        if self.data.max_sets is not None:
            first = np.maximum(first, end - self.data.max_sets)
        return dict.fromkeys(stays.stay_id[counted[first] == counted[end]].tolist(), UNKNOWN_VARIABLES)

    def logit_of(self, stay_id: int, splits: Sequence[str]) -> StayLogit:
        """The logit of a stay of these splits as a function of its values.

        Raises:
            InputError: there is no such stay, or the model has no gradient for the values of events.
        """
        backbone = self.finetuned.model.backbone
        if not hasattr(backbone, "states"):
            raise InputError(
                f"explain: {self.path} has the architecture {backbone.architecture!r}, which predicts from summaries "
                "and trees; contributions are computed for seqsetvae only"
            )
        for name in splits:
            (found,) = np.nonzero(self.cohort.split(name).stay_id == stay_id)
            if len(found):
                batches = self.data.loader(name).dataset
                assert isinstance(batches, SplitBatches)
                return StayLogit(self.finetuned.model, self.embeddings, batches, int(found[0]))
        raise InputError(f"explain: received {stay_id}; {self.cohort.path} has no such stay in {', '.join(splits)}")

    def left_out(self) -> list[tuple[int, str | None, str]]:
        """(stay, split or None where its file does not show it, reason) of the stays that are not in the cohort."""
        emptied = self.cohort.manifest["report"].get("without_known_variable", {})
        return [*self._not_compiled(), *((stay, name, NO_EMBEDDING) for name in emptied for stay in emptied[name])]

    def _not_compiled(self) -> list[tuple[int, str | None, str]]:
        samples = read_samples(self.cohort)
        if samples is not None:
            missing = samples.filter(samples["reason"].is_valid()).select(["stay_id", "split", "reason"])
            return [(row["stay_id"], row["split"], row["reason"]) for row in missing.to_pylist()]
        found: dict[int, tuple[int, str | None, str]] = {}
        for skip in read_skipped(self.cohort.path):
            file = Path(skip.file)
            stay = stay_number(file.name.removesuffix(file.suffix))
            if stay is not None:
                found.setdefault(stay, (stay, file.parent.name if file.parent.name in SPLITS else None, skip.reason))
        return list(found.values())

    def drift(self, splits: Sequence[str]) -> list[str]:
        """A sentence for each way in which these splits differ from the training data."""
        of_training = self.finetuned.trained_on
        hours, profile = of_training.median_hours, of_training.profile
        return drift(self.cohort, splits, self.known_variables, self.not_read, hours, profile)

    def not_compared(self, splits: Sequence[str]) -> list[str]:
        """A sentence about what of these splits cannot be compared with the training data."""
        of_training = self.finetuned.trained_on
        return not_compared(self.cohort, splits, of_training.known, of_training.profile)

    @property
    def not_read(self) -> tuple[str, ...]:
        """Variables whose values the model does not read, because they were rare in its training data."""
        return getattr(self.data.transform, "rare", ())

    @property
    def known_variables(self) -> np.ndarray:
        """[V] bool, the variables of the cohort that the model was trained on."""
        return np.isin(self.cohort.vocabulary, self.finetuned.trained_on.known)


def open_scorer(
    ckpt: Path,
    data: DataSettings,
    loader: LoaderSettings,
    run: RunSettings,
    splits: Sequence[str],
    *,
    labelled: bool,
) -> Scorer:
    """The model of --ckpt on its device with the data of --data_dir, by default those of its run.

    `labelled`: the splits must have labels that can be evaluated, else labels are not needed.

    Raises:
        InputError: the checkpoint, the data, or what they are together cannot be used.
    """
    device = prepare_device(run)
    say_precision(run, device)
    path, folder = find_checkpoint(ckpt)
    finetuned = load_finetuned(path, weight_type(run))
    trained_on, label_in_cohort = finetuned.trained_on, TASKS[finetuned.task.task].LABEL_IN_COHORT
    given, needs_labels = data, labelled and label_in_cohort
    data = data_of_run(data, finetuned, folder, labelled=labelled)
    width = check_data(data, *splits, labelled=needs_labels)
    if trained_on.variables is None:
        check_width(width, finetuned.input_dim, path, data.data_dir)
    with first_process_first():
        # Variables without an embedding cannot have been in the training data; the drift check counts them.
        own, out = trained_on.variables, run.output_root_dir
        cohort = open_data(data, out, own=own, needs_labels=needs_labels, leave_out_unknown=True)
    check_variables(cohort, finetuned.input_dim, trained_on, path)
    if labelled and not label_in_cohort:
        file = read_label_file(label_file_of_run(given, finetuned, folder, cohort), finetuned.task.names)
        print(f"Labels: {file.path} ({', '.join(finetuned.task.names)})")
        cohort = with_targets(cohort, file, finetuned.task)
    if labelled:
        require_targets(cohort, *splits)
    model = finetuned.model.to(device)
    if run.compile_model:
        model.backbone.compile_dense_parts()
    transform = trained_on.transform.with_unknown(cohort.vocabulary, trained_on.known)
    variables = variable_table(model.backbone, cohort, run)
    module = data_module(cohort, transform, data, loader, run, device, labelled=False)
    module = module.with_prepare(host_work(model.backbone, variables))
    return Scorer(folder, finetuned, cohort, module, variables.to(device), Precision.of(run, device))


def is_data_of_run(folder: RunFolder | None, cohort: Cohort) -> bool:
    """Whether a cohort is the one that a run read."""
    recorded = None if folder is None else folder.read_json(CONFIG).get("cohort")
    if not isinstance(recorded, dict):
        return False  # "content": of an earlier version; "events": without labels that are not in the cohort
    return cohort.data_hash in (recorded.get(key) for key in ("data", "events", "content"))


def data_of_run(data: DataSettings, finetuned: Finetuned, folder: RunFolder | None, *, labelled: bool) -> DataSettings:
    """The settings with the label and the number of sets that the checkpoint was trained on, and by default its data.

    Raises:
        InputError: they contradict the checkpoint, or the data of its run are unknown.
    """
    path, trained_on = finetuned.path, finetuned.trained_on
    if data.max_sets not in (None, trained_on.max_sets):
        raise InputError(
            f"max_sets: received {data.max_sets}; {path} was trained with max_sets {trained_on.max_sets} and is "
            "evaluated with the same value. Leave out --max_sets, or set max_sets = None in the config file."
        )
    if data.label_name not in (None, trained_on.label_name):
        raise InputError(
            f"label_name: received {data.label_name!r}; {path} was trained to predict {trained_on.label_name!r}, and "
            "can only be evaluated on that label. Leave out --label_name, or set label_name = None in the config file."
        )
    data_dir = data.data_dir or data_dir_of_run(folder, path)
    if not TASKS[finetuned.task.task].LABEL_IN_COHORT:
        return replace(without_label(data), max_sets=trained_on.max_sets, data_dir=data_dir)
    label_name = trained_on.label_name
    if is_compiled(data_dir):
        found = open_cohort(data_dir, verify=False).label_name
        if labelled and found != label_name:
            raise InputError(
                f"{path}: was trained to predict {label_name!r}; the labels of {data_dir} are {found!r}. Pass data "
                f"with the label {label_name!r}."
            )
        label_name = found
    return replace(data, label_name=label_name, max_sets=trained_on.max_sets, data_dir=data_dir)


def data_dir_of_run(folder: RunFolder | None, path: Path) -> Path:
    """The data of the checkpoint's run."""
    if folder is None:
        raise InputError(f"{path}: is not in a run folder, which would record the data; pass --data_dir")
    cohort = folder.read_json(CONFIG).get("cohort")
    recorded = cohort.get("path") if isinstance(cohort, dict) else None
    if not isinstance(recorded, str):
        raise InputError(f"{folder.path / CONFIG}: does not record the data of the run; pass --data_dir")
    data_dir = Path(recorded)
    if not data_dir.exists():
        raise InputError(f"{path}: the data of its run, {data_dir}, no longer exist; pass --data_dir")
    return data_dir


def label_file_of_run(data: DataSettings, finetuned: Finetuned, folder: RunFolder | None, cohort: Cohort) -> Path:
    """--label_path, or the file beside --data_dir, or that of the checkpoint's run."""
    recorded = {} if folder is None else folder.read_json(CONFIG).get("cohort")
    of_run = recorded.get("label_file") if isinstance(recorded, dict) else None
    if data.label_path is None and data.data_dir is None and of_run is not None:
        if not Path(of_run).is_file():
            raise InputError(f"{finetuned.path}: the labels of its run, {of_run}, no longer exist; pass --label_path")
        return Path(of_run)
    return label_file(replace(data, data_dir=data.data_dir or cohort.path))
