"""What a new model learns from the training stays before training: quantiles, and what the network is averaged with.

Legend: n labelled stays of a split, c columns of the table, K of targets, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from seqsetvae.batches.loading import CohortDataModule, take_stays
from seqsetvae.models import linear
from seqsetvae.models.backbone import BackboneBase
from seqsetvae.models.members import KINDS_OF_TREES, LINEAR, NETWORK, Member, Members, chosen_weights
from seqsetvae.models.trees import MAX_STAYS, BoostedTrees, lightgbm
from seqsetvae.settings.groups import TreeSettings
from seqsetvae.system.console import print_line
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.fitting import Objective, fit_each_target, mean_loss
from seqsetvae.tasks.targets import spec_of, truth

FIT_STAYS = 20_000  # that quantiles are computed from, which bounds memory


def fit_to_training_stays(backbone: BackboneBase, data: CohortDataModule) -> None:
    """Call the backbone's `fit` with at most FIT_STAYS training stays in random order."""
    backbone.fit(data.cohort, take_stays(data.loader("train", shuffle=True), FIT_STAYS))


@dataclass(frozen=True)
class OutOfFold:
    """A part of the training stays, and what was trained without it."""

    trained_on: np.ndarray  # ids of the other stays
    stay_id: np.ndarray  # of the part
    network: np.ndarray | None  # [stays, O] of a network that was trained on the other stays; None: it has no weight


def fit_members(
    settings: TreeSettings,
    backbone: BackboneBase,
    variables: torch.Tensor,
    data: CohortDataModule,
    out_of_fold: Callable[[], Sequence[OutOfFold]],
) -> Members | None:
    """The network and what it is averaged with; None: it is alone. `out_of_fold` trains what weights are chosen by."""
    if not settings.beside_network:
        backbone.drop_pretrained()
        return None
    lightgbm()  # an error if it is missing, before networks are trained out of fold
    parts = [] if settings.average == "fixed" else out_of_fold()
    stays, table = table_of_split(backbone, variables, data, "train")
    print_line(f"Boosted trees: {len(table):,} training stays, {table.shape[1]:,} columns")
    stay_id, spec = data.cohort.split("train").stay_id[stays], spec_of(data.cohort)
    task = TASKS[spec.task]
    targets, objective = task.encode(spec, truth(data.cohort, "train", spec, stay_id)), task.objective(spec)
    if not parts:
        columns = ((~np.isnan(target), target) for target in targets.T)
        fixed = [
            BoostedTrees.fit(table if has.all() else table[has], each[has], settings.tree_models, objective.trees)
            for has, each in columns
        ]
        return Members.fixed(tuple(fixed))
    members = _weighted(settings.tree_models, table, targets, objective, stay_id, parts)
    print_line(f"Average: {members}")
    return members


def _weighted(
    tree_models: int,
    table: np.ndarray,
    targets: np.ndarray,
    objective: Objective,
    stay_id: np.ndarray,
    parts: Sequence[OutOfFold],
) -> Members:
    """Members for the stays of a table [n, c]: each is fitted to all of them, weights are chosen by the parts."""
    rows = [
        (np.flatnonzero(np.isin(stay_id, part.trained_on)), np.flatnonzero(np.isin(stay_id, part.stay_id)))
        for part in parts
    ]
    fits: dict[str, Callable[..., tuple[Any, np.ndarray]]] = {}
    for place, (name, kind) in enumerate(list(KINDS_OF_TREES.items())[:tree_models]):
        models = len(range(place, tree_models, len(KINDS_OF_TREES)))  # of each kind in turn
        fits[name] = partial(
            BoostedTrees.of_best_length, kind=kind, models=models, objective=objective.trees, loss=objective.loss
        )
    fits[LINEAR] = partial(linear.fit_best, solve=objective.solve, loss=objective.loss)
    fitted = {name: fit_each_target(fit, table, targets, rows) for name, fit in fits.items()}
    outputs = {} if parts[0].network is None else {NETWORK: _of_networks(stay_id, parts)}
    outputs |= {name: out_of_fold for name, (_, out_of_fold) in fitted.items()}
    known = np.concatenate([held_out for _, held_out in rows])
    every, loss = np.stack(list(outputs.values()))[:, known], partial(mean_loss, objective, targets[known])
    informative = sum(objective.informative(target[~np.isnan(target)]) for target in targets[known].T)
    chosen = dict(zip(outputs, zip(chosen_weights(every, loss, informative), loss(every), strict=True), strict=True))
    weight, own_loss = chosen.get(NETWORK, (0.0, None))
    network = Member(NETWORK, float(weight), (), None if own_loss is None else float(own_loss))
    others = [
        Member(name, float(chosen[name][0]), tuple(models), float(chosen[name][1]))
        for name, (models, _) in fitted.items()
    ]
    return Members((network, *others))


def _of_networks(stay_id: np.ndarray, parts: Sequence[OutOfFold]) -> np.ndarray:
    """Out-of-fold outputs of the networks for these stays [n, O]; NaN for stays in no part."""
    assert parts[0].network is not None, "all parts have a network, or none has"
    outputs = np.full((len(stay_id), parts[0].network.shape[1]), np.nan)
    for part in parts:
        assert part.network is not None, "all parts have a network, or none has"
        order = part.stay_id.argsort()
        inside = np.flatnonzero(np.isin(stay_id, part.stay_id))
        outputs[inside] = part.network[order[np.searchsorted(part.stay_id, stay_id[inside], sorter=order)]]
    return outputs


def table_of_split(
    backbone: BackboneBase, variables: torch.Tensor, data: CohortDataModule, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the labelled stays of a split [n], ascending, and the backbone's table of them [n, c].

    At most MAX_STAYS of them.
    """
    position = {stay: row for row, stay in enumerate(data.cohort.split(split).stay_id.tolist())}
    places, rows = [], []
    for batch in take_stays(data.loader(split, shuffle=data.n_selected(split) > MAX_STAYS), MAX_STAYS):
        rows.append(backbone.table(batch, variables))
        places += [position[stay] for stay in batch.stay_id.tolist()]
    order = np.argsort(places)
    return np.array(places)[order], np.concatenate(rows)[order]
