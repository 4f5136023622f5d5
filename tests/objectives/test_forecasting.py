"""Forecasting: targets and loss equal those of a plain loop over stays, values and gradients; nothing later is read."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.batches.batch import Batch
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cohort import Cohort
from seqsetvae.models import trees, variable_summaries
from seqsetvae.models.variable_summaries.backbone import Backbone
from seqsetvae.models.variable_summaries.reference import plain_summaries
from seqsetvae.models.variable_summaries.sizes import Sizes
from seqsetvae.objectives.forecasting import Settings, build_loss
from seqsetvae.objectives.forecasting.objective import Forecast, Forecasting, fixed_hours, random_hours
from tests import tiny
from tests.command import command, finetune, refused, run_of, succeeded

NAMES = tuple(f"v{row}" for row in range(tiny.VARIABLES))
VARIABLES = torch.arange(tiny.VARIABLES)
NEXT = 6.0


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> tuple[Backbone, Forecasting, list[Any], Batch]:
    """A network without dropout in double precision, fitted to stays that a batch holds, and the objective."""
    stays = tiny.ragged_stays() + tiny.ragged_stays(seed=1)
    batch = tiny.batch_of(stays)
    torch.manual_seed(0)
    none = {"summary_dropout": 0.0, "variable_dropout": 0.0, "hidden_dropout": 0.0}
    sizes = Sizes(input_dim=12, vocabulary=NAMES, summary_width=6, **none)
    network = variable_summaries.build(sizes).double()
    cohort: Any = SimpleNamespace(vocabulary=NAMES, mean=np.zeros(len(NAMES)), std=np.ones(len(NAMES)))
    network.fit(cohort, [batch])
    return network, build_loss(Settings(forecast_hours=NEXT), network.sizes).double(), stays, batch


def _cut(network: Backbone, stays: list[Any], until: list[float]) -> list[tuple[dict[int, Any], list[Any]]]:
    """Of each stay the events of each variable up to its hour, and those after it: (variable, hour, value)."""
    found = []
    for stay, hour_of_cut in zip(stays, until, strict=True):
        before: dict[int, list[tuple[float, float]]] = {}
        after = []
        for minute, of_set in stay:
            hour = (minute - stay[0][0]) / 60
            for variable, value in of_set:
                low, high = network.bounds[:, variable].tolist()
                clipped = min(max(value, low), high)
                if hour <= hour_of_cut:
                    before.setdefault(variable, []).append((hour, clipped))
                else:
                    after.append((variable, hour, clipped))
        found.append((before, after))
    return found


def _plain_targets(network: Backbone, after: list[Any], until: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Measured and mean value of each variable in the next hours and in all that follow: [V, 2] each."""
    measured = torch.zeros(tiny.VARIABLES, 2, dtype=torch.float64)
    value = torch.full((tiny.VARIABLES, 2), torch.nan, dtype=torch.float64)
    for variable in range(tiny.VARIABLES):
        edges = network.edges[variable, 1].double().numpy()  # of the means over training stays
        low, middle, high = np.quantile(edges, (0.1, 0.5, 0.9))
        spread = (high - low) / 2.563
        for period, end in enumerate((until + NEXT, math.inf)):
            inside = [x for v, hour, x in after if v == variable and hour <= end]
            measured[variable, period] = bool(inside)
            if inside and network.used[variable, 1] and spread > 0:
                value[variable, period] = np.mean(np.clip([(x - middle) / spread for x in inside], -3, 3))
    return measured, value


def _forecast(network: Backbone, objective: Forecasting, batch: Batch) -> tuple[Forecast, list[float]]:
    _, fixed = objective.host_work(network, VARIABLES)
    return fixed(batch), fixed_hours(batch, float(network.length)).tolist()


def test_summaries_end_at_the_hour_and_targets_begin_there(fitted):
    network, objective, stays, batch = fitted
    forecast, until = _forecast(network, objective, batch)
    pairs = dict(
        zip(
            zip(forecast.before.stay.tolist(), forecast.before.variable.tolist(), strict=True),
            forecast.before.values.tolist(),
            strict=True,
        )
    )
    both = 0
    for row, (before, after) in enumerate(_cut(network, stays, until)):
        assert {variable for stay, variable in pairs if stay == row} == before.keys()
        for variable, events in before.items():
            np.testing.assert_allclose(pairs[row, variable], plain_summaries(events, until[row]), rtol=1e-6, atol=1e-6)
        measured, value = _plain_targets(network, after, until[row])
        torch.testing.assert_close(forecast.measured[row].double(), measured)
        torch.testing.assert_close(forecast.value[row].double(), value, equal_nan=True, rtol=1e-5, atol=1e-5)
        both += bool(before) and bool(after)
    assert both > 3
    assert forecast.value.isfinite().any()
    assert forecast.measured[..., 0].sum() < forecast.measured[..., 1].sum()


def test_the_loss_equals_a_loop_over_variables_with_gradients(fitted):
    network, objective, stays, batch = fitted
    forecast, until = _forecast(network, objective, batch)
    found = objective.training_terms(network, replace(batch, prepared=forecast), VARIABLES, 0)
    pooled = network.pooled(replace(batch, prepared=forecast.before), VARIABLES, "mean")
    output = (pooled @ objective.head.weight.T + objective.head.bias).view(len(stays), tiny.VARIABLES, 2, 2)
    entropy, huber = [], []
    for row, (_, after) in enumerate(_cut(network, stays, until)):
        measured, value = _plain_targets(network, after, until[row])
        for variable in range(tiny.VARIABLES):
            for period in range(2):
                logit, guess = output[row, variable, period]
                is_measured = float(measured[variable, period])
                probability = 1 / (1 + torch.exp(-logit))
                entropy.append(-is_measured * torch.log(probability) - (1 - is_measured) * torch.log(1 - probability))
                target = float(value[variable, period])
                if math.isfinite(target):
                    miss = (guess - target).abs()
                    huber.append(miss**2 / 2 if miss < 1 else miss - 0.5)
    measured_loss, value_loss = torch.stack(entropy).mean(), torch.stack(huber).mean()
    torch.testing.assert_close(found["measured"], measured_loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found["value"], value_loss, rtol=1e-5, atol=1e-6)
    weights = [network.weight, network.combination_weight, network.bias, *objective.parameters()]
    own = torch.autograd.grad(found["loss"], weights, retain_graph=True)
    for one, other in zip(own, torch.autograd.grad(measured_loss + value_loss, weights), strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_later_values_change_targets_but_not_what_the_forecast_is_made_from(fitted):
    network, objective, _, batch = fitted
    forecast, until = _forecast(network, objective, batch)
    cutter, _ = objective.host_work(network, VARIABLES)
    hour = torch.tensor([hour for stay in tiny_hours(batch) for hour in stay])
    later = hour > torch.tensor(until)[batch.stay_of_set]
    of_event = later[_set_of_event(batch)]
    moved = replace(batch, value=torch.where(of_event, batch.value + 0.5, batch.value))
    other = replace(cutter, hours=fixed_hours)(moved)
    torch.testing.assert_close(other.before.values, forecast.before.values, equal_nan=True, rtol=0, atol=0)
    assert not torch.equal(other.value.nan_to_num(), forecast.value.nan_to_num())


def tiny_hours(batch: Batch) -> list[list[float]]:
    """Hours of the sets of each stay since its first."""
    minutes = batch.minute.split(batch.sets_per_stay.tolist())
    return [((minute - minute[0]) / 60).tolist() for minute in minutes]


def _set_of_event(batch: Batch) -> torch.Tensor:
    sizes = batch.sizes.events_per_set(batch.minute.device)
    by_size = torch.argsort(batch.set_row)  # the set in each row of the order by size
    return by_size.repeat_interleave(sizes)


def test_validation_cuts_a_stay_always_at_the_same_hour_and_training_does_not(fitted):
    network, objective, stays, batch = fitted
    assert torch.equal(fixed_hours(batch, 48.0), fixed_hours(batch, 48.0))
    alone = tiny.batch_of(stays[3:4])
    alone.stay_id = batch.stay_id[3:4]
    assert torch.equal(fixed_hours(alone, 48.0), fixed_hours(batch, 48.0)[3:4])
    assert not torch.equal(random_hours(batch, 48.0), random_hours(batch, 48.0))
    hours = torch.cat([random_hours(tiny.batch_of([[(0.0, [(0, 1.0)])]]), 48.0) for _ in range(200)])
    assert 0.1 * 48 <= hours.min() < 8
    assert 40 < hours.max() <= 0.9 * 48
    training, validation = objective.host_work(network, VARIABLES)
    assert torch.equal(validation(batch).measured, validation(batch).measured)
    assert not all(torch.equal(training(batch).measured, validation(batch).measured) for _ in range(5))


def _flags(compiled: Cohort, root: Path, **flags: Any) -> dict[str, Any]:
    usual = {"architecture": "variable_summaries", "data_dir": compiled.path, "output_root_dir": root}
    return {**usual, "summary_width": 16, "batch_size": 16, **flags}


def test_a_pretrained_network_is_probed_and_fine_tuned(compiled, tmp_path, monkeypatch):
    printed = succeeded(command("pretrain", **_flags(compiled, tmp_path), objective="forecasting", max_epochs=3))
    checkpoint = run_of(tmp_path, "pretrain")
    network_alone = {"tree_models": 0, "head_members": 2, "max_epochs": 2}
    flags = {"architecture": "variable_summaries", "batch_size": 16, "summary_width": 16, **network_alone}
    for after in ("none", 0, 1):
        printed = succeeded(finetune(checkpoint, compiled.path, tmp_path, unfreeze_after=after, **flags))
        assert "skipped on purpose       2   objective (2)" in printed
        assert "not recognised           0" in printed


def test_trees_learn_from_what_was_learned_in_pretraining(compiled, tmp_path, monkeypatch):
    """And the checkpoint holds all of it: evaluate and predict need no other file."""
    pytest.importorskip("lightgbm", reason="boosted trees need lightgbm")
    monkeypatch.setattr(trees, "ROUNDS", 15)
    assert command("pretrain", **_flags(compiled, tmp_path), objective="forecasting", max_epochs=2)[0] == 0
    pretrained = run_of(tmp_path, "pretrain")
    flags = {"architecture": "variable_summaries", "batch_size": 16, "head_members": 2, "max_epochs": 2}
    printed = succeeded(finetune(pretrained, compiled.path, tmp_path, tree_models=1, unfreeze_after=0, **flags))
    shutil.rmtree(pretrained)
    run = run_of(tmp_path)
    backbone = load_finetuned(run / "checkpoints" / "best.ckpt").model.backbone
    n_summaries = int(backbone.in_table.sum() + backbone.combination_used.sum())
    learned = 16 + 4 * int(backbone.in_table[:, 1].sum())
    assert f"{n_summaries + learned:,} columns" in printed
    assert not torch.equal(backbone.weight, backbone.learned_weight)  # one was fine-tuned, the other was not
    assert command("evaluate", ckpt=run, split="test", output=tmp_path)[0] == 0
    said = tmp_path / "risks.csv"
    assert command("predict", ckpt=run, data_dir=compiled.path, split="test", output=said)[0] in (0, 3)
    assert said.read_bytes() == (tmp_path / "predictions.csv").read_bytes()


def test_other_objectives_are_refused_before_anything_is_read(tmp_path):
    errors = refused(
        command("pretrain", architecture="variable_summaries", data_dir=tmp_path, output_root_dir=tmp_path)
    )
    assert "it trains only seqsetvae, not variable_summaries; pass --objective forecasting" in errors


def test_the_table_has_the_units_and_forecasts_of_the_pretrained_network_whatever_is_trained_later(fitted):
    network, objective, _, batch = fitted
    network.eval()
    network.in_table[2, 1] = False  # as if the mean of a variable were rare
    summaries = network.table(batch, VARIABLES)
    network.keep_pretrained({f"objective.{name}": weight for name, weight in objective.state_dict().items()})
    hidden = network.pooled(batch, VARIABLES, "mean").detach()
    forecasts = objective.head(hidden).detach().view(len(hidden), tiny.VARIABLES, 4)
    measured = network.in_table[:, 1]  # variables whose mean is a column
    assert 0 < measured.sum() < tiny.VARIABLES
    expected = np.hstack([summaries, hidden, forecasts[:, measured].flatten(1)])
    np.testing.assert_allclose(network.table(batch, VARIABLES), expected, rtol=1e-6, equal_nan=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    network.train()
    np.testing.assert_allclose(network.table(batch, VARIABLES), expected, rtol=1e-6, equal_nan=True)
    copy = variable_summaries.build(network.sizes).double()
    copy.load_state_dict(network.state_dict())
    np.testing.assert_array_equal(copy.table(batch, VARIABLES), network.table(batch, VARIABLES))
    copy.drop_pretrained()
    np.testing.assert_array_equal(copy.table(batch, VARIABLES), summaries)
    assert copy.state_dict().keys() == variable_summaries.build(copy.sizes).state_dict().keys()


def test_a_checkpoint_without_a_forecast_adds_no_columns(fitted):
    network, _, _, batch = fitted
    before = network.table(batch, VARIABLES).shape
    network.keep_pretrained(network.state_dict())
    assert network.table(batch, VARIABLES).shape == before
    assert network.sizes.forecasts == 0
