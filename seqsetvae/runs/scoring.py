"""What evaluating and predicting share: a fine-tuned checkpoint with the data that it is applied to.

Legend: N stays of a split, V variables, I embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seqsetvae.batches.loading import SplitBatches
from seqsetvae.checkpoint.backbone import Loaded
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cohort import Cohort, is_compiled, open_cohort
from seqsetvae.cohort.imported import read_samples, read_skipped
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.evaluation.explain import Explainer, explainer
from seqsetvae.evaluation.predictions import (
    Predictions,
    Prefixes,
    predict,
    predict_every_set,
    predict_prefixes,
    predictions_of,
)
from seqsetvae.runs.opening import Opened, check_width, open_run
from seqsetvae.settings.groups import DataSettings, LoaderSettings, RunSettings
from seqsetvae.system.errors import InputError
from seqsetvae.system.processes import own_share
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Spec
from seqsetvae.tasks.targets import label_file, read_label_file, with_targets, without_label
from seqsetvae.training.precision import prepare_device, say_precision, weight_type
from seqsetvae.training.run_folder import CONFIG, RunFolder, find_checkpoint

UNKNOWN_VARIABLES = "none of its variables occurred in the checkpoint's training data"
NO_EMBEDDING = "none of its variables has an embedding, so none occurred in the training data"


@dataclass(frozen=True, eq=False, kw_only=True)
class Scorer(Opened):
    """A fine-tuned model on its device, and the cohort that it is applied to."""

    path: Path  # of the checkpoint
    folder: RunFolder | None  # its run folder, if it is in one

    @property
    def spec(self) -> Spec:
        """What the model predicts."""
        return self.model.spec

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
        loader = self.loaders.loader(split, **own_share())
        outputs = predict(self.spec, self.model, self.variables, loader, split, self.precision.context())
        return predictions_of(self.spec, self.cohort, split, *outputs)

    def predict_members(self, split: str) -> dict[str, Predictions]:
        """Predictions of each member of an average alone, by its name; none of a model that is no average."""
        average, predictions = self.model.members, {}
        try:
            for member in () if average is None else average.of:
                self.model.members = average.alone(member.name)
                predictions[member.name] = self.predict(split)
        finally:
            self.model.members = average
        return predictions

    def predict_every_set(self, split: str) -> np.ndarray:
        """Outputs after every set of all stays of a split, in the order of the cohort: [S, O]."""
        return predict_every_set(self.model, self.variables, self.loaders, split, self.precision.context())

    def predict_prefixes(self, split: str, prefixes: Prefixes) -> Predictions:
        """Predictions for beginnings of stays of a split."""
        context, stays = self.precision.context(), self.cohort.split(split).stay_id[prefixes.stay]
        output = predict_prefixes(self.model, self.variables, self.loaders, split, prefixes, context)
        return predictions_of(self.spec, self.cohort, split, stays, output)

    def without_known_variable(self, split: str) -> dict[int, str]:
        """{stay: reason} of the stays without an event of a variable that the model was trained on."""
        stays, known = self.cohort.split(split), self.known_variables
        if known.all():
            return {}
        counted = np.concatenate([[0], np.cumsum(known[stays.variable])])[stays.set_offset]  # known events before a set
        first, end = stays.stay_offset[:-1], stays.stay_offset[1:]
        if self.loaders.max_sets is not None:
            first = np.maximum(first, end - self.loaders.max_sets)
        return dict.fromkeys(stays.stay_id[counted[first] == counted[end]].tolist(), UNKNOWN_VARIABLES)

    def explainer(self, split: str) -> Explainer:
        """The explainer for the scores of a split.

        Raises:
            InputError: the task has more than one score, or an earlier version fitted the model.
        """
        if self.spec.width > 1:
            raise InputError(
                f"--explain, --reasons: contributions are to one score, and {self.path} (--task {self.spec.task}) "
                f"predicts {self.spec.width} for each stay. Leave them out."
            )
        batches = self.loaders.loader(split).dataset
        assert isinstance(batches, SplitBatches)
        return explainer(self.model, self.variables, batches, self.cohort)

    def positions(self, stays: Sequence[int], splits: Sequence[str]) -> list[tuple[str, int]]:
        """(split, position in it) of each of these stays. Raises InputError if one is in none of these splits."""
        position_of = {
            stay: (name, at) for name in splits for at, stay in enumerate(self.cohort.split(name).stay_id.tolist())
        }
        unknown = [stay for stay in stays if stay not in position_of]
        if unknown:
            where = ", ".join(splits)
            raise InputError(f"explain: received {unknown[0]}; {self.cohort.path} has no such stay in {where}")
        return [position_of[stay] for stay in stays]

    def left_out(self) -> list[tuple[int, str | None, str]]:
        """(stay, split or None where its file does not show it, reason) of the stays that are not in the cohort."""
        emptied = self.cohort.manifest["report"].get("without_known_variable", {})
        return [*self._not_compiled(), *((stay, name, NO_EMBEDDING) for name in emptied for stay in emptied[name])]

    def _not_compiled(self) -> list[tuple[int, str | None, str]]:
        samples = read_samples(self.cohort)
        if samples is not None:
            missing = samples.filter(samples["reason"].is_valid()).select(["stay_id", "split", "reason"])
            return [(row["stay_id"], row["split"], row["reason"]) for row in missing.to_pylist()]
        stays: dict[int, tuple[int, str | None, str]] = {}
        for skip in read_skipped(self.cohort.path):
            file = Path(skip.file)
            stay = stay_number(file.name.removesuffix(file.suffix))
            if stay is not None:
                stays.setdefault(stay, (stay, file.parent.name if file.parent.name in SPLITS else None, skip.reason))
        return list(stays.values())


def open_scorer(
    ckpt: Path,
    data: DataSettings,
    loader: LoaderSettings,
    run: RunSettings,
    splits: Sequence[str],
    *,
    labelled: bool,
    called: str | None = None,
) -> Scorer:
    """The model of --ckpt on its device with the data of --data_dir, by default those of its run.

    `labelled`: the splits must have labels that can be evaluated, else labels are not needed. `called`: the name that
    the data may have for the one binary label that the checkpoint predicts.

    Raises:
        InputError: the checkpoint, the data, or what they are together cannot be used.
    """
    say_precision(run, prepare_device(run))
    path, folder = find_checkpoint(ckpt)
    finetuned = load_finetuned(path, weight_type(run))
    spec, given = finetuned.model.spec, data
    in_cohort = TASKS[spec.task].LABEL_IN_COHORT
    data = data_of_run(data, finetuned, folder, labelled=labelled, called=called)

    def load(width: int) -> Loaded:
        if finetuned.trained_on.variables is None:
            check_width(width, finetuned.input_dim, path, data.data_dir)
        return finetuned

    def targets(cohort: Cohort) -> Cohort:
        file = read_label_file(label_file_of_run(given, path, folder, cohort), spec.names)
        print(f"Labels: {file.path} ({', '.join(spec.names)})")
        return with_targets(cohort, file, spec)

    opened = open_run(
        data,
        loader,
        run,
        *splits,
        load=load,
        labelled=labelled and in_cohort,
        leave_out_unknown=True,  # the drift check counts them
        with_targets=targets if labelled and not in_cohort else None,
    )
    opened.ready()
    if called is not None and in_cohort and opened.cohort.label_name == called:
        opened = replace(opened, cohort=replace(opened.cohort, label_name=spec.title))
    return Scorer(path=path, folder=folder, **vars(opened))


def is_data_of_run(folder: RunFolder | None, cohort: Cohort) -> bool:
    """Whether a cohort is the one that a run read."""
    recorded = None if folder is None else folder.read_json(CONFIG).get("cohort")
    if not isinstance(recorded, dict):
        return False  # "content": of an earlier version; "events": without labels that are not in the cohort
    return cohort.data_hash in (recorded.get(key) for key in ("data", "events", "content"))


def data_of_run(
    data: DataSettings, finetuned: Loaded, folder: RunFolder | None, *, labelled: bool, called: str | None = None
) -> DataSettings:
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
    if not TASKS[finetuned.model.spec.task].LABEL_IN_COHORT:
        return replace(without_label(data), max_sets=trained_on.max_sets, data_dir=data_dir)
    label_name = trained_on.label_name if called is None else called
    if is_compiled(data_dir):
        there = open_cohort(data_dir, verify=False).label_name
        if labelled and there not in (label_name, trained_on.label_name):
            raise InputError(
                f"{path}: was trained to predict {trained_on.label_name!r}; the labels of {data_dir} are {there!r}. "
                f"Pass data with the label {label_name!r}. If it is the same outcome under another name, evaluate "
                "--external takes it with --label_name."
            )
        label_name = there
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


def label_file_of_run(data: DataSettings, path: Path, folder: RunFolder | None, cohort: Cohort) -> Path:
    """--label_path, or the file beside --data_dir, or that of the checkpoint's run."""
    recorded = {} if folder is None else folder.read_json(CONFIG).get("cohort")
    of_run = recorded.get("label_file") if isinstance(recorded, dict) else None
    if data.label_path is None and data.data_dir is None and of_run is not None:
        if not Path(of_run).is_file():
            raise InputError(f"{path}: the labels of its run, {of_run}, no longer exist; pass --label_path")
        return Path(of_run)
    return label_file(replace(data, data_dir=data.data_dir or cohort.path))
