"""Ways of fine-tuning: which parameters train, at which learning rates, and what the checkpoints hold."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model_optimized import SeqSetVAEPretrainer
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cohort import Cohort
from seqsetvae.models import ARCHITECTURES
from seqsetvae.models.seqsetvae.sizes import RUNNING_LR, RUNNING_TIMES_LR, RUNNING_TIMES_PRETRAIN_LR
from seqsetvae.objectives import forecasting
from seqsetvae.settings.tuning import TuningSettings
from seqsetvae.system.errors import InputError
from seqsetvae.training.optimizer import check_layers, layers_of
from seqsetvae.training.stages import Run
from tests import tiny
from tests.training.helpers import BACKBONE_LR, HEAD_LR, Scripted, fine_tuner, load, make_run, scripted_run

LAYERS = ("projection", "set_encoder", "history_1", "history_2")  # of the tiny backbone
LORA = TuningSettings(tuning="lora", lora_rank=3, lora_alpha=6.0, lora_lr=5e-4)


def _tuned(cohort: Cohort, folder: Path, tuning: TuningSettings, **options: Any) -> tuple[Scripted, Run]:
    """One frozen epoch, then two of this tuning; the last is the best."""
    options = {"max_epochs": 3, "unfreeze_after": 1, **options}
    return scripted_run(cohort, folder, [0.6, 0.7, 0.8], tuning, **options)


def _changed(module: Scripted) -> set[str]:
    """The weights that stage 2 changed."""
    start, end = module.starts[-1], module.weights[-1]
    return {name for name in end if not torch.equal(end[name], start[name])}


def test_every_parameter_is_in_exactly_one_layer():
    for sizes in ({}, {"reduced_dim": None}, {"transformer_layers": 1, "levels": 1}):
        backbone = tiny.tiny_backbone(**sizes)
        parameters = [id(value) for layer in layers_of(backbone).values() for value in layer.parameters()]
        assert sorted(parameters) == sorted(id(value) for value in backbone.parameters())
    assert tuple(layers_of(tiny.tiny_backbone())) == LAYERS
    assert "layers" in ARCHITECTURES["seqsetvae"].OFFERS


@pytest.mark.parametrize("last", [1, 3])
def test_the_last_layers_train_and_the_others_stay_as_they_are(compiled, tmp_path, last):
    module, run = _tuned(compiled, tmp_path, TuningSettings(tuning="last_layers", tuned_layers=last))
    layers = layers_of(module.backbone)
    own = {id(value) for name in LAYERS[-last:] for value in layers[name].parameters()}
    expected = {name for name, value in module.named_parameters() if id(value) in own or name.startswith("head.")}
    assert _changed(module) == expected
    n_values = sum(value.numel() for name in LAYERS[-last:] for value in layers[name].parameters())
    assert run.state.trained[2]["backbone"] == n_values
    assert [row.rates["lr_backbone"] for row in run.state.rows] == [0, BACKBONE_LR, BACKBONE_LR]


def test_layers_that_do_not_train_have_no_dropout(compiled):
    module = fine_tuner(compiled, tuning=TuningSettings(tuning="last_layers", tuned_layers=2))
    module.unfreeze_backbone()
    in_training = {
        name: {each.training for part in layer for each in part.modules()}
        for name, layer in module.backbone.layers().items()
    }
    assert in_training == {name: {name.startswith("history")} for name in LAYERS}
    module.eval()
    assert not any(part.training for part in module.modules())


def test_more_layers_than_there_are_is_an_error_that_names_them():
    check_layers(TuningSettings(tuning="last_layers", tuned_layers=4), tiny.tiny_backbone())
    with pytest.raises(InputError, match=r"tuned_layers: received 5; allowed: at most 4.*projection, set_enc"):
        check_layers(TuningSettings(tuning="last_layers", tuned_layers=5), tiny.tiny_backbone())


def test_each_layer_has_its_own_learning_rate(compiled, tmp_path):
    module, run = _tuned(compiled, tmp_path, TuningSettings(tuning="layer_decay", layer_lr_factor=0.5))
    rates = {f"lr_{name}": BACKBONE_LR * 0.5**below for below, name in enumerate(reversed(LAYERS))}
    assert run.state.rows[0].rates == {"lr_head": HEAD_LR} | dict.fromkeys(rates, 0.0)
    assert run.state.rows[-1].rates == pytest.approx({"lr_head": HEAD_LR} | rates)
    assert _changed(module) == {name for name, _ in module.named_parameters()}
    groups = module.configure_optimizers().param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.01}
    by_parameter = {id(value): group["lr"] for group in groups for value in group["params"]}
    for name, layer in layers_of(module.backbone).items():
        (rate,) = {by_parameter[id(value)] for value in layer.parameters()}
        assert rate == pytest.approx(rates[f"lr_{name}"])


@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("tuning", ["two_stage", "full", "layer_decay", "lora"])
def test_running_statistics_train_at_a_rate_of_their_own_until_they_are_trained(compiled, tuning, is_trained):
    """LoRA alone adds to their map as to any other matrix."""
    module = fine_tuner(compiled, tuning=TuningSettings(tuning=tuning), running_statistics=True)
    torch.nn.init.constant_(module.backbone.running.of_variable.weight, float(is_trained))
    module.backbone.before_finetuning()
    torch.nn.init.ones_(module.backbone.running.of_variable.weight)  # as where a run is resumed
    rate = RUNNING_TIMES_LR * module.learning_rates.lr if is_trained else RUNNING_LR
    assert [group["part"] for group in module.configure_optimizers().param_groups] == ["head", "head"]  # frozen
    module.unfreeze_backbone()
    groups = module.configure_optimizers().param_groups
    placed = [id(value) for group in groups for value in group["params"]]
    assert sorted(placed) == sorted(id(value) for value in module.parameters() if value.requires_grad)
    own = [group for group in groups if group["part"] == "running_statistics"]
    assert [(len(group["params"]), group["lr"]) for group in own] == ([] if tuning == "lora" else [(1, rate)])
    assert {group["part"] for group in groups} == set(module.parts)


def test_running_statistics_learn_faster_in_pretraining():
    model = tiny.tiny_backbone(running_statistics=True)
    objective = forecasting.build_loss(forecasting.Settings(), model.sizes)
    module = SeqSetVAEPretrainer(model, objective, 1e-3, 0.01, tiny.embeddings())
    groups = module.configure_optimizers().param_groups
    placed = [id(value) for group in groups for value in group["params"]]
    assert sorted(placed) == sorted(map(id, module.parameters()))
    rates = {group["part"]: group["lr"] for group in groups}
    assert rates == {"model": 1e-3, "running_statistics": RUNNING_TIMES_PRETRAIN_LR * 1e-3, "objective": 1e-3}


def test_without_decay_all_layers_train_as_in_two_stages(compiled, tmp_path):
    weights = []
    for tuning in (TuningSettings(), TuningSettings(tuning="layer_decay", layer_lr_factor=1.0)):
        torch.manual_seed(0)
        weights.append(_tuned(compiled, tmp_path, tuning)[0].weights[-1])
    # The norm of the gradient is summed in another order. Key biases have no gradient but rounding errors, which Adam
    # makes as large as any other.
    for name in weights[0].keys() - {name for name in weights[0] if name.endswith("in_proj_bias")}:
        assert torch.allclose(weights[1][name], weights[0][name], atol=1e-6), name


# ------------------------------------------------------------------ LoRA


def test_lora_trains_the_added_matrices_and_the_head_alone(compiled, tmp_path):
    module, run = _tuned(compiled, tmp_path, LORA)
    added = {name for name, value in module.named_parameters() if value.requires_grad and name.startswith("backbone.")}
    assert {name.rsplit(".", 1)[1] for name in added} == {"A", "B"}
    assert _changed(module) == added | {name for name, _ in module.named_parameters() if name.startswith("head.")}
    assert run.state.trained[1]["backbone"] == 0
    assert run.state.trained[2]["backbone"] == sum(dict(module.named_parameters())[name].numel() for name in added)
    assert [row.rates["lr_backbone"] for row in run.state.rows] == [0, LORA.lora_lr, LORA.lora_lr]


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_checkpoint_of_a_run_with_lora_is_an_ordinary_one(compiled, tmp_path, ema_decay):
    """It loads without knowing of LoRA, and computes what was validated, to the last bit."""
    module, run = _tuned(compiled, tmp_path, LORA, ema_decay=ema_decay)
    state = load(run.folder.best)["state_dict"]
    assert {name for name in state if name.startswith("backbone.")} == {
        f"backbone.{name}" for name in tiny.tiny_backbone().state_dict()
    }
    batch = next(iter(run.data.loader("valid")))
    model = load_finetuned(run.folder.best).model
    with torch.no_grad():
        logits = model(batch, module.embeddings)
        assert torch.equal(logits, module.eval()(batch))
        module.freeze_backbone()  # merges
        assert torch.equal(logits, module(batch))
    module.load_state_dict(state)


def test_a_run_with_lora_goes_on_from_its_checkpoint(compiled, tmp_path):
    """The file also has what the merged weights do not show: the frozen weights and the added matrices."""
    module, run = _tuned(compiled, tmp_path, LORA)
    checkpoint = load(run.folder.last)
    other = fine_tuner(compiled, tuning=LORA)
    other.unfreeze_backbone()
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in other.state_dict().items())


def test_a_run_without_lora_writes_no_adapters(compiled, tmp_path):
    _, run = _tuned(compiled, tmp_path, TuningSettings())
    assert "lora" not in load(run.folder.last)


def test_stage_2_of_lora_begins_at_the_function_of_stage_1(compiled, tmp_path):
    module = fine_tuner(compiled, tuning=LORA).eval()
    batch = next(iter(make_run(module, compiled, tmp_path).data.loader("valid")))
    with torch.no_grad():
        before = module(batch)
        module.unfreeze_backbone()
        assert torch.equal(module.eval()(batch), before)
