"""Forecasting from history states: targets and loss equal those of a plain loop over sets, values and gradients."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.models.seqsetvae.layout import RUNNING
from seqsetvae.objectives.forecasting import Settings, build_loss
from seqsetvae.objectives.forecasting.objective import SETS_PER_STAY, StateForecasting
from tests import tiny
from tests.command import command, finetune, refused, run_of, succeeded

NEXT = 6.0


def _model() -> tuple[Backbone, StateForecasting, torch.Tensor]:
    torch.manual_seed(0)
    model = Backbone(tiny.SIZES).double().eval()
    embeddings = torch.randn(tiny.VARIABLES, tiny.SIZES.input_dim, dtype=torch.float64)
    loss = build_loss(Settings(forecast_hours=NEXT), tiny.SIZES).double()
    assert isinstance(loss, StateForecasting)
    return model, loss, embeddings


def _plain_targets(stay: list[Any], at: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Measured and mean value of each variable in the next hours and in all that follow the set `at`: [V, 2] each."""
    measured = torch.zeros(tiny.VARIABLES, 2, dtype=torch.float64)
    value = torch.full((tiny.VARIABLES, 2), torch.nan, dtype=torch.float64)
    for variable in range(tiny.VARIABLES):
        for period, hours in enumerate((NEXT, math.inf)):
            inside = [
                number
                for minute, of_set in stay[at + 1 :]
                for name, number in of_set
                if name == variable and (minute - stay[at][0]) / 60 <= hours
            ]
            measured[variable, period] = bool(inside)
            if inside:
                value[variable, period] = np.mean(np.clip(inside, -3, 3))
    return measured, value


def test_targets_and_loss_equal_a_loop_over_sets_with_gradients():
    model, loss, embeddings = _model()
    stays = tiny.ragged_stays()
    batch = tiny.batch_of(stays)
    _, evenly = loss.host_work(model, embeddings)
    target = evenly(batch)
    states = model.states(batch, embeddings)
    starts = np.cumsum([0, *(len(stay) for stay in stays)])
    entropy, huber = [], []
    for place, row in enumerate(target.row.tolist()):
        stay = place % len(stays)  # sets come place by place, each for all stays
        at = row - starts[stay]
        assert at == int((place // len(stays) + 0.5) / SETS_PER_STAY * len(stays[stay]))
        measured, value = _plain_targets(stays[stay], at)
        torch.testing.assert_close(target.measured[place].double(), measured)
        torch.testing.assert_close(target.value[place].double(), value, equal_nan=True, rtol=1e-5, atol=1e-5)
        for variable in range(tiny.VARIABLES):
            vector = embeddings[variable] / embeddings[variable].norm() * embeddings.shape[1] ** 0.5
            weights = loss.of_variable(vector).view(2, 2, -1)
            for period in range(2):
                logit, guess = weights[period] @ torch.cat([torch.ones(1, dtype=torch.float64), states[row]])
                sign = 1 if measured[variable, period] else -1
                entropy.append(torch.log(1 + torch.exp(-sign * logit)))
                if value[variable, period].isfinite():
                    miss = (guess - value[variable, period]).abs()
                    huber.append(miss**2 / 2 if miss < 1 else miss - 0.5)
    expected = torch.stack(entropy).mean() + torch.stack(huber).mean()
    found = loss.training_terms(model, replace(batch, prepared=target), embeddings, 0)["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    parameters = [model.set_encoder.embed[0].weight, model.transformer.layers[0].linear1.weight, *loss.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, parameters, retain_graph=True),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_training_draws_other_sets_each_time():
    model, loss, embeddings = _model()
    batch = tiny.batch_of(tiny.ragged_stays())
    at_random, evenly = loss.host_work(model, embeddings)
    assert torch.equal(evenly(batch).row, evenly(batch).row)
    assert not all(torch.equal(at_random(batch).row, evenly(batch).row) for _ in range(5))


@pytest.mark.parametrize("running", [False, True])
def test_seqsetvae_is_pretrained_by_forecasting_and_fine_tuned(compiled, tmp_path, running):
    flags = {"preset": "light" if running else "small", "objective": "forecasting", "max_epochs": 1, "batch_size": 16}
    flags |= {"running_statistics": running}
    printed = succeeded(command("pretrain", **flags, data_dir=compiled.path, output_root_dir=tmp_path))
    assert "val_value_of_zero" in printed
    printed = succeeded(finetune(run_of(tmp_path, "pretrain"), compiled.path, tmp_path, max_epochs=1))
    assert "skipped on purpose       2   objective (2)" in printed
    assert "missing                  0" in printed
    assert ("--running_statistics brings their recipe" in printed) is running
    weights = load_finetuned(run_of(tmp_path) / "checkpoints" / "best.ckpt").model.state_dict()
    learned = [value for name, value in weights.items() if name.endswith(RUNNING)]
    assert [bool(value.any()) for value in learned] == [True] * running  # it has been trained, and was loaded


def test_reconstruction_is_refused_without_attention_within_sets(compiled, tmp_path):
    errors = refused(command("pretrain", preset="light", data_dir=compiled.path, output_root_dir=tmp_path))
    assert "levels: received 0; allowed: 1 or more with --objective reconstruction" in errors
