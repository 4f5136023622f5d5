"""Loads a fine-tuned model for use; its optimizer and loss settings are not needed.

Legend: N stays, V variables, I embedding width.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seqsetvae.batches.batch import Batch
from seqsetvae.batches.transform import VALUE_TRANSFORM, read_transform
from seqsetvae.checkpoint.backbone import Loaded, stored_shapes
from seqsetvae.checkpoint.file import check_kinds, check_types, read_file
from seqsetvae.checkpoint.record import (
    FINGERPRINTS,
    MEDIAN_HOURS,
    TASK,
    VARIABLES,
    TrainedOn,
    architecture_of,
    check_fingerprints,
    read_median_hours,
    read_profile,
    read_variables,
)
from seqsetvae.cohort.profile import PROFILE
from seqsetvae.models import ARCHITECTURES, variable_summaries
from seqsetvae.models.beside import SUMMARIES, BesideSummaries, summaries_part
from seqsetvae.models.head import EnsembleHead, Head, build_head, head_settings
from seqsetvae.models.members import TREES, Members, read_members
from seqsetvae.settings.declare import check_recorded
from seqsetvae.settings.groups import DataSettings, HeadSettings
from seqsetvae.system.errors import InputError
from seqsetvae.tasks import read_spec
from seqsetvae.tasks.spec import Spec, one_label

REQUIRED = {"sizes", "head", "label_name", "max_sets"}  # hyper_parameters of a fine-tuned checkpoint


class FinetunedModel(nn.Module):
    """A backbone and a head; the names of its weights are those of a fine-tuned checkpoint."""

    def __init__(
        self,
        backbone: Any,
        head: Head | EnsembleHead,
        pooling: str,
        members: Members | None = None,
        spec: Spec = one_label(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.pooling, self.members, self.spec = backbone, head, pooling, members, spec

    def forward(self, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """Outputs of each stay, logits [N, 2] for one binary label.

        `embeddings` is `variables.variable_table` of the batch's cohort.
        """
        logits = self.head(self.backbone.pooled(batch, embeddings, self.pooling))
        if self.members is None:
            return logits
        return self.members.average(logits, lambda: self.backbone.table(batch, embeddings))

    def score(self, output: torch.Tensor) -> torch.Tensor:
        """The one number of a task that has one, log-odds or in the unit of the label: [N, O] → [N], with gradients."""
        number = (output.diff(dim=1) if self.spec.outputs is None else output)[:, 0].double()
        return number * self.spec.std[0] + self.spec.mean[0] if self.spec.std else number

    def contributions(self, batch: Batch, variables: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Contribution of each of the `inputs` of summaries to the score [N, I], and a base [N].

        They add up to the score. The base is the score of a mean training stay; where summaries are beside a backbone,
        this reads the values of the stay as if all were their training mean. Raises InputError for a backbone that an
        earlier version fitted.
        """
        network, start = summaries_part(self.backbone), batch.value.new_zeros(batch.n_stays, 0)
        end = start
        if network is not self.backbone:
            with torch.no_grad():
                start, end = (
                    self.backbone.main.pooled(replace(batch, value=value), variables, self.pooling)
                    for value in (torch.zeros_like(batch.value), batch.value)
                )

        def score(units: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
            known = start.repeat(len(units) // len(start), 1) + beside
            return self.score(self.head(torch.cat([known, units], dim=1)))

        values, base = network.inputs.network_contributions(network.summaries(batch, variables), end - start, score)
        if self.members is not None:
            table = self.backbone.table(batch, variables)
            unit = (self.spec.std[0], self.spec.mean[0]) if self.spec.std else (1.0, 0.0)
            values, base = self.members.contributions((values, base), table, network.inputs.table_contributions, unit)
        return values, np.broadcast_to(base, batch.n_stays)


def load_finetuned(path: Path, dtype: torch.dtype = torch.float32) -> Loaded:
    """The model of a checkpoint of a fine-tuning run, of any version, on the CPU in evaluation mode.

    Raises:
        InputError: unreadable, or a checkpoint of something else.
    """
    content = read_file(path)
    saved = content.get("hyper_parameters")
    if not isinstance(saved, dict) or not saved.keys() >= REQUIRED or "state_dict" not in content:
        why = ARCHITECTURES[architecture_of(content, path)].explain(stored_shapes(content))
        raise InputError(
            f"{path}: not a checkpoint of a fine-tuning run of this program; --mode evaluate and predict need one "
            f"(a pretrained checkpoint must first be fine-tuned, with --mode finetune).{why and ' ' + why}"
        )
    model = _fitting(content, saved, read_spec(saved.get(TASK), saved["label_name"], path), path).to(dtype)
    model.load_state_dict(content["state_dict"])
    check_recorded(DataSettings, {name: saved[name] for name in ("label_name", "max_sets")}, path)
    trained_on = TrainedOn(
        variables=read_variables(content.get(VARIABLES), path),
        fingerprints=check_fingerprints(saved.get(FINGERPRINTS), path),
        label_name=saved["label_name"],
        max_sets=saved["max_sets"],
        transform=read_transform(saved.get(VALUE_TRANSFORM), path),
        median_hours=read_median_hours(saved.get(MEDIAN_HOURS), path),
        profile=read_profile(saved.get(PROFILE), path),
    )
    return Loaded(path=path, model=model.eval(), input_dim=saved["sizes"]["input_dim"], trained_on=trained_on)


def _fitting(content: dict[str, Any], saved: dict[str, Any], spec: Spec, path: Path) -> FinetunedModel:
    """The model that a checkpoint describes, with random weights, into which its weights fit.

    It is built without memory first, so that sizes which the weights do not have are an error and fill no memory.

    Raises:
        InputError: sizes or settings of the head that are not allowed, or that the weights do not have.
    """
    name, state = architecture_of(content, path), content["state_dict"]
    for key, of_part in (("sizes", ARCHITECTURES[name]), (SUMMARIES, variable_summaries)):
        if key in saved:
            check_recorded(of_part.Sizes, saved[key], path)
            current_sizes = getattr(of_part, "current_sizes", lambda sizes, _: sizes)
            saved = {**saved, key: current_sizes(saved[key], str(path))}
    try:
        check_recorded(HeadSettings, vars(head_settings(saved["head"])), path)
        if isinstance(state, dict):  # else the next line says so
            check_kinds({key: value for key, value in state.items() if isinstance(value, torch.Tensor)}, path)
        without_trees = {key: value for key, value in saved.items() if key != TREES}
        with torch.device("meta"):
            model = _build(without_trees, name, spec)
            check_types(state, model.state_dict(), path)
            # A plain dict: torch notes `assign` in the metadata of `state`, and would assign in the real load, too.
            model.load_state_dict(dict(state), assign=True)
        return _build(saved, name, spec)
    except InputError:
        raise
    except Exception as error:  # of any kind: sizes of the wrong type reach far into torch
        raise InputError(f"{path}: its weights and its hyper_parameters do not fit together ({error})") from error


def is_finetuned(path: Path) -> bool:
    """Whether a file is the checkpoint of a fine-tuning run. Raises InputError where it cannot be read."""
    saved = read_file(path).get("hyper_parameters")
    return isinstance(saved, dict) and saved.keys() >= REQUIRED


def _build(saved: dict[str, Any], name: str, spec: Spec) -> FinetunedModel:
    """The model of these hyper_parameters, with random weights."""
    architecture, head = ARCHITECTURES[name], head_settings(saved["head"])
    backbone = architecture.build(architecture.Sizes(**saved["sizes"]))
    if SUMMARIES in saved:
        backbone = BesideSummaries(backbone, variable_summaries.Sizes(**saved[SUMMARIES]))
    width = backbone.pooled_width(head.head_pooling)
    head_module = build_head(width, head, spec.outputs)
    return FinetunedModel(backbone, head_module, head.head_pooling, read_members(saved), spec)
