"""What a fine-tuned model predicts, by name. Importing this imports no torch.

A task is a module here with the names below; nothing elsewhere asks which task it is. What it learned of the training
labels (classes, mean and std) is its Spec, which is kept in the checkpoint. `output` [n, O] is what `predicted` made of
what the head gave; `target` [n, K] is in the unit of each column, NaN where a stay has no label in it.

The task itself
    HELP: what the labels are, for --help
    OFFERS: what only some tasks have: settings of the loss, flags of predict
    LABEL_IN_COHORT: labels are those of the cohort. Else they are cells of a file of labels, text [n, K], and there are
        fit(names, cells, file) → Spec: what the task is on the labelled training stays
        parse(spec, cells, file) → target
    These raise InputError naming what the task cannot have.

Training
    METRICS of a validation beside the losses, and WATCHED, the one that chooses the checkpoint; higher is better
    loss(spec, output of the head [N, O], targets of the batch, LossSettings, class weights [2]) → mean over its labels
    encode(spec, target) → [n, K] as the loss reads them, NaN where there is none
    weight(targets of the batch, class weights [2]) → what that mean divides by
    metrics(spec, output, targets as the loss reads them) → METRICS over a split, in torch
    predicted(output of the head) → output in float64, such as the log-odds of two logits

Predictions and their evaluation
    columns(spec, output, calibration) → {name: [n], or None where it needs a calibration that there is not}
    labels(spec, target) → {name: [n]} for the K columns; of stays without a label, anything
    weighted_metrics(spec, output, target, calibration, only_primary=False) → function of weights [R, n] → {name: [R]},
        the metrics of evaluation.json. primary(spec) names those whose difference to a baseline is shown; with
        `only_primary` these are enough, if they are cheaper
    LESS_IS_BETTER: metrics whose smaller values are better, without the name of a column (may be missing)
    counts(target) → what evaluation.json says of the labels of some stays besides their number
    strata(target) → [n] 1 for the stays of which every resample has as many as there are, 0 for the others
    curves(spec, output, target, calibration) → what a report draws (curves.py)
    decisions(spec, output, target, calibration) → sections of evaluation.json about what is decided: (facts, a function
        like that of weighted_metrics); decide(calibration, output, target, need, abstain) → another calibration
        (decisions.py). Both may be missing
    interactions(output, target, calibration, group [n], seed) → {test: p-value or None} of groups of stays, and
        BY_GROUP, the metrics that they are compared by (both may be missing: no tests, and those of primary)
    constant(spec, targets of training or None, target) → {CONSTANT: output}, of the best prediction that looks at no
        stay, which is no model
    objective(spec) → fitting.Objective: how members of an average are fitted to a column of targets
    baselines(spec) → {name: fit}, where fit(table and targets of training, of validation) → function of a table
    Calibration: what is fitted on validation outputs (spec.Calibration), or None; fit_calibration(output, target) → its
        numbers

Legend: N stays of a batch, n stays, K columns of labels, O outputs, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqsetvae.settings.declare import setting
from seqsetvae.settings.groups import DataSettings, LossSettings
from seqsetvae.settings.kinds import OneOf
from seqsetvae.system.errors import InputError
from seqsetvae.tasks import binary, multiclass, multilabel, regression
from seqsetvae.tasks.spec import BINARY, Spec, columns_of, one_label

TASKS: dict[str, Any] = {
    "binary": binary,
    "multilabel": multilabel,
    "multiclass": multiclass,
    "regression": regression,
}


def read_spec(recorded: Any, label_name: str, path: Path) -> Spec:
    """The task of a checkpoint; None: one binary label. Raises InputError for a damaged or a newer one."""
    if recorded is None:
        return one_label(label_name)
    name = recorded.get("task") if isinstance(recorded, dict) else recorded
    if not isinstance(name, str) or name not in TASKS:
        known = ", ".join(TASKS)
        raise InputError(f"{path}: has the task {name!r:.60}, which this version does not know; it knows {known}")
    try:
        spec = Spec.from_plain(recorded)
        if not all(isinstance(text, str) for text in (*spec.names, *spec.classes)) or not spec.names:
            raise TypeError(f"names {spec.names!r:.60}")
        return spec
    except TypeError as error:
        raise InputError(f"{path}: damaged (its task: {error}). Use another copy of the file.") from None


# ------------------------------------------------------------------ the setting that selects one


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What is predicted."""

    task: str = setting(OneOf(lambda: TASKS), default=BINARY)

    @property
    def label_in_cohort(self) -> bool:
        """Whether the labels are those of the cohort; else they are read from a file."""
        return bool(TASKS[self.task].LABEL_IN_COHORT)

    def problems_with(self, data: DataSettings, loss: LossSettings) -> list[str]:
        """What other settings do not go with the task."""
        names, rules = columns_of(data.label_name), list[tuple[bool, str]]()
        if not self.label_in_cohort:
            rules += [
                (len(set(names)) < len(names), f"label_name: received {data.label_name!r}; name each column once,"),
                (not names, "label_name: not given; names the column or, with commas, the columns"),
            ]
        if "loss" not in TASKS[self.task].OFFERS:
            rules += [
                (
                    loss.loss != "cross_entropy",
                    f"loss: received {loss.loss!r}; allowed: cross_entropy (the task's own)",
                ),
                (loss.class_weight != "none", f"class_weight: received {loss.class_weight!r}; allowed: none"),
                (loss.label_smoothing > 0, f"label_smoothing: received {loss.label_smoothing}; allowed: 0"),
            ]
        return [f"{text} with --task {self.task}" for wrong, text in rules if wrong]
