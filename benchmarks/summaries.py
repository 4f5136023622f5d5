"""variable_summaries: summaries against the plain reference, and a training step with 44, 500 and 5,000 variables.

The stays of the second part are synthetic: each has about 40 of the variables, however many there are. The step is
compared with its floor: its matrix products (counted while it runs, without padding; 2 FLOP for a multiply and add) at
the rate of a plain product, and PASSES over the memory of all weights at the rate of a copy. The products alone are
compared with the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Measurement, isolated, seconds_in_turn
from benchmarks.workloads import LOSS, PRACTICE, Stays, open_stays, optimizer_step
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import collate
from seqsetvae.checkpoint.record import TrainedOn
from seqsetvae.models.variable_summaries.backbone import Backbone
from seqsetvae.models.variable_summaries.reference import plain_summaries
from seqsetvae.models.variable_summaries.sizes import RECIPE, Sizes
from seqsetvae.models.variable_summaries.summaries import summarize
from seqsetvae.ops import grouped
from seqsetvae.settings.groups import FinetuningRates, HeadSettings
from seqsetvae.tasks.model import Loss

WANTED = 10.0  # times as fast as the plain reference
BATCH_SIZE, REPEATS = RECIPE["batch_size"], 5
VOCABULARIES = (44, 500, 5000)
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")
# Over the weights in a step: read them, write the gradient, read it for its norm, read and write it to clip it; AdamW
# reads weights, gradient and two moments and writes all but the gradient.
PASSES = 12
VARIABLES_PER_STAY, SETS_PER_STAY, EVENTS_PER_SET = 40, 60, 7


def section(data_dir: Path | None, scratch: Path) -> list[Measurement]:
    """Speed of the summaries on stays of a cohort, and of a training step for each size of the vocabulary."""
    path = open_stays(data_dir, scratch).path
    steps = [isolated(training_step, n_variables, BATCH_SIZE) for n_variables in VOCABULARIES]
    return [*isolated(against_reference, path, BATCH_SIZE), *chain(*steps)]


def against_reference(cohort_path: Path, batch_size: int) -> list[Measurement]:
    """Summaries of one batch, against those of one variable of one stay at a time."""
    split, _, (stays, *_) = Stays(cohort_path, PRACTICE, batch_size, 1).read()
    batch = collate(split, stays)
    of_stays = [_events_by_variable(split, stay) for stay in stays]

    def plain() -> None:
        for end, by_variable in of_stays:
            for events in by_variable.values():
                plain_summaries(events, end)

    took, plain_took = seconds_in_turn([lambda: summarize(batch, batch.variable, batch.value), plain], REPEATS)
    note = f"{len(split.variable) / split.n_stays:.0f} events a stay"
    measurement = Measurement("summaries", len(stays) / took, "stays/s", note=note)
    return [measurement.against(len(stays) / plain_took, "one variable of one stay at a time", WANTED)]


def _events_by_variable(split: Any, stay: int) -> tuple[float, dict[int, list[tuple[float, float]]]]:
    """(hours from the first to the last set, events of each variable)."""
    first, end = split.stay_offset[stay : stay + 2]
    events: dict[int, list[tuple[float, float]]] = {}
    for row in range(first, end):
        hour = float(split.minute[row] - split.minute[first]) / 60
        for event in range(split.set_offset[row], split.set_offset[row + 1]):
            events.setdefault(int(split.variable[event]), []).append((hour, float(split.value[event])))
    return float(split.minute[end - 1] - split.minute[first]) / 60, events


def training_step(n_variables: int, batch_size: int) -> list[Measurement]:
    """One training step for a vocabulary of this size, that makes its summaries; one that has them; its products."""
    torch.manual_seed(0)
    batch = synthetic_batch(n_variables, batch_size)
    module, step = _module_and_step(n_variables, batch)
    prepared = replace(batch, prepared=module.backbone.summarizer(module.embeddings)(batch))
    with patch.object(grouped, "MANY", n_variables + 1), FlopCounterMode(display=False) as counter:
        step(prepared)
    n_pairs = len(prepared.prepared.variable)
    plain, plain_flop = plain_products(n_pairs, module.backbone.weight.shape[1:])
    values = sum(value.numel() for value in module.parameters())
    copy = partial(torch.empty(values).copy_, torch.zeros(values))
    works: list[Callable[[], object]] = [lambda: step(batch), lambda: step(prepared), plain, copy]
    took, took_prepared, took_plain, took_copy = seconds_in_turn(works, REPEATS)
    flop, plain_rate = counter.get_total_flops(), plain_flop / took_plain
    floor = flop / plain_rate + PASSES / 2 * took_copy  # a copy is two passes
    what = f"training step, {n_variables:,} variables"
    note = f"synthetic; {VARIABLES_PER_STAY} variables a stay; {values / 1e6:.1f} million values train"
    of_floor = f"{flop / batch_size / 1e6:.1f} MFLOP a stay, {PASSES} passes over {4 * values / 1e6:,.0f} MB of weights"
    rate = Measurement(f"{what}, its products", flop / seconds_in_products(step, prepared) / 1e9, "GFLOP/s")
    return [
        Measurement(what, batch_size / took, "stays/s", note=note),
        Measurement(f"{what}, summaries kept", batch_size / took_prepared, "stays/s", note=of_floor).against(
            batch_size / floor, "its floor"
        ),
        rate.against(plain_rate / 1e9, "one product of the pairs"),
    ]


def seconds_in_products(step: Callable[[Batch], None], batch: Batch) -> float:
    """Time of a training step that is spent in matrix products."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(REPEATS):
            step(batch)
    each = (event.self_cpu_time_total for event in profiler.key_averages() if event.key in PRODUCTS)
    return sum(each) / 1e6 / REPEATS


def _module_and_step(n_variables: int, batch: Batch) -> tuple[SeqSetVAEFineTuner, Callable[[Batch], None]]:
    """A network with the recipe's head that is fitted to the batch, and its training step."""
    network = Backbone(Sizes(input_dim=1, vocabulary=tuple(map(str, range(n_variables)))))
    network.fit(SimpleNamespace(mean=np.zeros(n_variables), std=np.ones(n_variables)), [batch])  # type: ignore[arg-type]
    network.used[:] = True
    head = HeadSettings(
        head_pooling="mean",
        head_hidden=RECIPE["head_hidden"],
        head_dropout=RECIPE["head_dropout"],
        head_members=RECIPE["head_members"],
    )
    rates = FinetuningRates(lr=RECIPE["lr"], cls_head_lr=RECIPE["cls_head_lr"])
    trained_on = TrainedOn(label_name="", max_sets=None)
    variables = torch.arange(n_variables)
    module = SeqSetVAEFineTuner(network, head, Loss(LOSS), rates, RECIPE["weight_decay"], variables, trained_on)
    module.unfreeze_backbone()
    target = batch.label.repeat_interleave(head.head_members)
    return module, optimizer_step(module, lambda batch: module.loss(module(batch).flatten(0, 1), target))


def plain_products(rows: int, weight: Sequence[int]) -> tuple[Callable[[], None], int]:
    """All pairs as those of one variable: [rows, F W] x [F W, H], with the gradient of the weight; and its FLOP."""
    width, hidden = weight
    x, matrix = torch.randn(rows, width), torch.randn(width, hidden, requires_grad=True)

    def products() -> None:
        out = x @ matrix
        out.backward(torch.ones_like(out))

    return products, 2 * 2 * rows * width * hidden


def synthetic_batch(n_variables: int, batch_size: int) -> Batch:
    """Stays with a set every 48 minutes; each has its own choice of variables."""
    rng = np.random.default_rng(0)
    n_sets = batch_size * SETS_PER_STAY
    own = np.stack([rng.permutation(n_variables)[:VARIABLES_PER_STAY] for _ in range(batch_size)])
    chosen = rng.integers(VARIABLES_PER_STAY, size=(batch_size, SETS_PER_STAY * EVENTS_PER_SET))
    split: Any = SimpleNamespace(
        variable=np.take_along_axis(own, chosen, axis=1).reshape(-1).astype(np.int32),
        value=rng.normal(size=n_sets * EVENTS_PER_SET),
        set_offset=np.arange(n_sets + 1) * EVENTS_PER_SET,
        minute=np.tile(np.arange(SETS_PER_STAY) * 48.0, batch_size),
        stay_offset=np.arange(batch_size + 1) * SETS_PER_STAY,
        stay_id=np.arange(batch_size),
        label=np.zeros(batch_size, dtype=np.int8),
    )
    return collate(split, np.arange(batch_size))
