"""The batched backbone is the function of spec/model.md, in values and gradients, whatever else is in the batch."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.models.seqsetvae import reference as plain
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.models.seqsetvae.history_encoder import position_encoding, time_bucket_edges, time_buckets
from tests import tiny

SHAPES: list[dict[str, Any]] = [
    {},
    {"heads": 1},
    {"heads": 4},
    {"m": 1},
    {"m": 16},
    {"reduced_dim": None},
    {"levels": 0},
    {"levels": 1},
    {"levels": 3},
    {"heads": 1, "m": 1, "levels": 1},
    {"transformer_heads": 1, "transformer_layers": 1},
    {"transformer_layers": 3},
    {"running_statistics": True},
]


def _name(sizes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sizes.items()) or "usual sizes"


def _weigh(mu: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
    """A scalar that depends on every output, so that its gradient tests every path."""
    weights = torch.randn(2, *history.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(mu)
    return (weights[0] * mu).sum() + (weights[1] * history).sum()


def _fast(
    backbone: Backbone, stays: list[list[plain.PlainSet]], dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    batch = tiny.batch_of(stays, np.float64 if dtype == torch.float64 else np.float32)
    table = tiny.embeddings(dtype)
    return backbone.set_means(batch, table), backbone(batch, table)


def _slow(plain_model: plain.PlainBackbone, stays: list[list[plain.PlainSet]]) -> tuple[torch.Tensor, torch.Tensor]:
    results = [plain_model(stay, tiny.embeddings(next(plain_model.parameters()).dtype)) for stay in stays]
    return torch.cat([mu for mu, _, _ in results]), torch.cat([history for _, _, history in results])


def _dropout(backbone: Backbone, name: str) -> torch.nn.Dropout:
    module = backbone.get_submodule(name)
    assert isinstance(module, torch.nn.Dropout)
    return module


def _gradients(model: torch.nn.Module, outputs: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    _weigh(*outputs).backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("sizes", SHAPES, ids=_name)
def test_values_and_gradients_equal_the_plain_model_in_double_precision(sizes):
    backbone = tiny.tiny_backbone(dtype=torch.float64, **sizes)
    plain_model, stays = tiny.plain_model(backbone), tiny.ragged_stays()
    fast, slow = _fast(backbone, stays), _slow(plain_model, stays)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)

    fast_gradients, slow_gradients = _gradients(backbone, fast), _gradients(plain_model, slow)
    assert fast_gradients.keys() == slow_gradients.keys() == dict(backbone.named_parameters()).keys()
    for name, gradient in slow_gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-10, atol=1e-10, msg=f"gradient of {name}")


def test_a_stay_of_hundreds_of_sets_beside_short_ones_equals_the_plain_model():
    """Values and gradients, over several grids."""
    rng = np.random.default_rng(4)
    stays = [tiny.random_stay(rng, rng.integers(1, 3, length).tolist()) for length in (3, 600, 1)]
    assert tiny.batch_of(stays).grids.shapes == ((1, 600), (2, 3))
    backbone = tiny.tiny_backbone(dtype=torch.float64, levels=1, transformer_layers=1)
    plain_model = tiny.plain_model(backbone)
    fast, slow = _fast(backbone, stays), _slow(plain_model, stays)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
    torch.testing.assert_close(_gradients(backbone, fast), _gradients(plain_model, slow), rtol=1e-9, atol=1e-9)


def test_every_weight_of_the_backbone_takes_part():
    """No parameter is without a gradient; inside the last map, the half that gives logvar is."""
    backbone = tiny.tiny_backbone(dtype=torch.float64)
    gradients = _gradients(backbone, _fast(backbone, tiny.ragged_stays()))
    still = {name for name, gradient in gradients.items() if not gradient.any()}
    assert still == set()
    dim = backbone.sizes.latent_dim
    assert not gradients["set_encoder.mu_logvar.4.weight"][dim:].any()


def test_single_precision_equals_the_plain_model_in_double_precision():
    backbone, stays = tiny.tiny_backbone(), tiny.ragged_stays()
    plain_model = tiny.plain_model(tiny.tiny_backbone(dtype=torch.float64))
    for fast, slow in zip(_fast(backbone, stays, torch.float32), _slow(plain_model, stays), strict=True):
        torch.testing.assert_close(fast.double(), slow, rtol=0, atol=1e-4)


def test_logvar_equals_the_plain_model_and_is_clamped():
    backbone = tiny.tiny_backbone(dtype=torch.float64)
    with torch.no_grad():
        backbone.get_parameter("set_encoder.mu_logvar.4.weight")[-4:] *= 60  # some beyond the limits
    plain_model, stays = tiny.plain_model(backbone), tiny.ragged_stays()
    features = backbone.set_features(tiny.batch_of(stays), tiny.embeddings())
    mu, logvar = backbone.set_encoder.gaussian(features)
    torch.testing.assert_close(
        logvar, torch.cat([plain_model(stay, tiny.embeddings())[1] for stay in stays]), rtol=0, atol=1e-10
    )
    torch.testing.assert_close(mu, backbone.set_encoder.mean(features), rtol=0, atol=1e-12)
    assert logvar.max() == 10
    assert logvar.min() == -10


@pytest.mark.parametrize("order", [(0,), (2,), (4, 1), (3, 2, 1, 0), (1, 1, 4, 2, 0, 3)])
@pytest.mark.parametrize("running", [False, True])
def test_a_stay_does_not_see_its_neighbours(order, running):
    """Alone, with others, in any order, twice: the same states."""
    backbone = tiny.tiny_backbone(dtype=torch.float64, running_statistics=running)
    stays = tiny.ragged_stays()
    alone = [_fast(backbone, [stay])[1] for stay in stays]
    _, together = _fast(backbone, [stays[i] for i in order])
    torch.testing.assert_close(together, torch.cat([alone[i] for i in order]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("running", [False, True])
def test_the_order_of_events_in_a_set_does_not_matter(running):
    backbone = tiny.tiny_backbone(dtype=torch.float64, running_statistics=running)
    stays = tiny.ragged_stays()
    reversed_events = [[(minute, events[::-1]) for minute, events in stay] for stay in stays]
    torch.testing.assert_close(_fast(backbone, stays), _fast(backbone, reversed_events), rtol=0, atol=1e-12)


@pytest.mark.parametrize("running", [False, True])
def test_the_past_does_not_see_the_future(running):
    backbone = tiny.tiny_backbone(dtype=torch.float64, running_statistics=running)
    stay = tiny.ragged_stays()[2]
    minute, events = stay[4]
    changed = [*stay[:4], (minute + 500, [(variable, value + 3) for variable, value in events]), *stay[5:]]
    (_, before), (_, after) = _fast(backbone, [stay]), _fast(backbone, [changed])
    assert torch.equal(before[:4], after[:4])
    assert ((before[4:] - after[4:]).abs().amax(dim=1) > 1e-3).all()


def test_a_model_without_running_statistics_is_the_same_with_them_until_they_are_trained():
    """They are the same where a stay is cut off, too."""
    old, stays = tiny.tiny_backbone(dtype=torch.float64), tiny.ragged_stays()
    new = Backbone(replace(old.sizes, running_statistics=True)).double().eval()
    assert new.load_state_dict(old.state_dict(), strict=False).missing_keys == ["running.of_variable.weight"]
    assert torch.equal(_fast(new, stays)[1], _fast(old, stays)[1])
    trained = tiny.tiny_backbone(dtype=torch.float64, running_statistics=True)
    whole = _fast(trained, [stays[2]])[1]
    for n_sets in range(1, len(stays[2]) + 1):
        torch.testing.assert_close(_fast(trained, [stays[2][:n_sets]])[1], whole[:n_sets], rtol=0, atol=1e-12)


def test_a_new_model_with_running_statistics_starts_with_a_small_time_embedding():
    """One without starts as ever: the same random numbers."""
    drawn = []
    for running in (False, True):
        torch.manual_seed(0)
        backbone = Backbone(replace(tiny.SIZES, running_statistics=running))
        drawn.append(backbone.rel_time_bucket_embed.weight.detach())
    torch.testing.assert_close(drawn[1], 0.1 * drawn[0])
    assert drawn[0].std() == pytest.approx(1, abs=0.1)


def test_running_statistics_do_not_depend_on_the_length_of_embeddings():
    """Else their learning rate would."""
    running = tiny.tiny_backbone(dtype=torch.float64, running_statistics=True).running
    batch, table = tiny.batch_of(tiny.ragged_stays()), tiny.embeddings()
    torch.testing.assert_close(running(batch, 28 * table), running(batch, table), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sizes", SHAPES[:2] + SHAPES[5:6] + SHAPES[-1:], ids=_name)
def test_training_mode_is_evaluation_mode_with_dropout(sizes, monkeypatch):
    """With every dropout probability at 0, the training path gives the same values and gradients."""
    monkeypatch.setattr("seqsetvae.models.seqsetvae.set_encoder.EVENT_DROPOUT", 0.0)
    monkeypatch.setattr("seqsetvae.models.seqsetvae.running_statistics.DROPOUT", 0.0)
    backbone, stays = tiny.tiny_backbone(dtype=torch.float64, transformer_dropout=0.0, **sizes), tiny.ragged_stays()
    evaluated = _fast(backbone, stays)
    gradients = _gradients(backbone, evaluated)
    backbone.train()
    _dropout(backbone, "set_encoder.mu_logvar.3").p = 0.0
    trained = _fast(backbone, stays)
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=1e-10)
    torch.testing.assert_close(_gradients(backbone, trained), gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("place", ["events", "gaussian", "transformer", "statistics"])
def test_each_dropout_acts_in_training(place, monkeypatch):
    """Each of the places by itself changes the history in training mode, and none does in evaluation mode."""
    monkeypatch.setattr("seqsetvae.models.seqsetvae.set_encoder.EVENT_DROPOUT", 0.1 if place == "events" else 0.0)
    dropout, stays = 0.1 if place == "transformer" else 0.0, tiny.ragged_stays()
    has_statistics = place == "statistics"
    backbone = tiny.tiny_backbone(dtype=torch.float64, transformer_dropout=dropout, running_statistics=has_statistics)
    _dropout(backbone, "set_encoder.mu_logvar.3").p = 0.1 if place == "gaussian" else 0.0
    evaluated = _fast(backbone, stays)[1]
    assert torch.equal(evaluated, _fast(backbone, stays)[1])
    trained = _fast(backbone.train(), stays)[1]
    assert (trained - evaluated).abs().max() > 1e-3


def test_attention_to_the_history_drops_in_training_too(monkeypatch):
    """As torch's layer: besides the three Dropout modules of each layer, the attention weights themselves drop."""
    monkeypatch.setattr("seqsetvae.models.seqsetvae.set_encoder.EVENT_DROPOUT", 0.0)
    backbone, stays = tiny.tiny_backbone(dtype=torch.float64), tiny.ragged_stays()
    evaluated = _fast(backbone, stays)[1]
    dropouts = [module for module in backbone.modules() if isinstance(module, torch.nn.Dropout)]
    assert [module.p for module in dropouts] == [0.1] * (1 + 3 * 2)
    for module in dropouts:
        module.p = 0.0
    trained = _fast(backbone.train(), stays)[1]
    assert (trained - evaluated).abs().max() > 1e-3


def test_time_bucket_edges_are_the_float32_numbers_of_the_specification():
    edges = time_bucket_edges()
    assert edges.dtype == torch.float64
    assert edges[-1] == 1439.9996337890625  # not 1440
    assert torch.equal(edges, torch.logspace(math.log10(0.5), math.log10(1440), 63, dtype=torch.float32).double())


def test_time_buckets_follow_the_specification():
    gaps = [0.0, 0.4, 0.5, 0.51, 1.0, 30.0, 60.0, 1439.0, 1440.0, 1440.5, 1e6]
    expected = [0, 0, 1, 1, *(plain.bucket(gap) for gap in gaps[4:7]), 62, 63, 63, 63]
    assert _buckets(gaps) == expected == [plain.bucket(gap) for gap in gaps]


def test_a_gap_of_an_edge_is_below_it_and_the_next_larger_number_above():
    edges = time_bucket_edges().tolist()
    above = [math.nextafter(edge, math.inf) for edge in edges]
    assert _buckets(edges) == list(range(63))
    assert _buckets(above) == list(range(1, 64))
    assert [plain.bucket(edge) for edge in edges] == list(range(63))


def test_every_gap_of_whole_minutes_and_seconds_has_the_bucket_of_the_plain_model():
    gaps = [*range(0, 3000, 7), *(second / 60 for second in range(0, 300, 7)), 720, 1439, 1440, 1441, 2880]
    assert _buckets(gaps) == [plain.bucket(gap) for gap in gaps]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_daily_sets_equal_the_plain_model_in_double_precision(dtype):
    """A gap of exactly 24 h is in the last bucket, in every precision of the model."""
    stays: list[list[plain.PlainSet]] = [[(1440.0 * day, [(day, 1.0)]) for day in range(5)]]
    backbone = tiny.tiny_backbone(dtype=dtype)
    _, _, expected = tiny.plain_model(tiny.tiny_backbone(dtype=torch.float64))(stays[0], tiny.embeddings())
    torch.testing.assert_close(_fast(backbone, stays, dtype)[1].double(), expected, rtol=0, atol=1e-5)


def _two_sets(gaps: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """A stay of two sets for each gap, flat: (minute, set index); the gap begins at 0 and so is exact."""
    minute = torch.tensor([minute for gap in gaps for minute in (0.0, float(gap))], dtype=torch.float64)
    return minute, torch.tensor([0, 1] * len(gaps))


def _buckets(gaps: Sequence[float]) -> list[int]:
    return time_buckets(*_two_sets(gaps), time_bucket_edges())[1::2].tolist()


def test_the_first_set_of_a_stay_and_a_step_back_count_as_no_time():
    minute = torch.tensor([5.0, 65.0, 3000.0, 2000.0], dtype=torch.float64)
    index = torch.tensor([0, 1, 0, 1])
    assert time_buckets(minute, index, time_bucket_edges()).tolist() == [0, plain.bucket(60.0), 0, 0]


def test_positions_are_exact_far_into_a_stay():
    """Thousands of sets: the sine of a float32 angle would be off in the fourth digit."""
    index = torch.tensor([0, 1, 9999])
    plain_model = tiny.plain_model(tiny.tiny_backbone(dtype=torch.float64))
    expected = torch.stack([plain_model.position(int(i)) for i in index])
    torch.testing.assert_close(position_encoding(index, 32, torch.float64), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(position_encoding(index, 32, torch.float32).double(), expected, rtol=0, atol=1e-7)


def test_minutes_since_an_epoch_keep_their_gaps():
    """A late origin of time (minutes since 1970) changes nothing, also in single precision."""
    backbone, stays = tiny.tiny_backbone(), tiny.ragged_stays()
    late = [[(minute + 28_000_000, events) for minute, events in stay] for stay in stays]
    torch.testing.assert_close(
        _fast(backbone, late, torch.float32), _fast(backbone, stays, torch.float32), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_backbone_may_be_cast_and_still_knows_its_time_buckets(dtype):
    backbone = tiny.tiny_backbone()
    stays: list[list[plain.PlainSet]] = [
        [(minute, [(0, 1.0)]) for minute in (0.0, 0.5, 1440.5, 1441.0)]
    ]  # on two edges
    there_and_back = tiny.tiny_backbone().to(torch.float64 if dtype == torch.float32 else torch.float32).to(dtype)
    torch.testing.assert_close(
        _fast(there_and_back, stays, dtype)[1].float(), _fast(backbone, stays, torch.float32)[1], rtol=0, atol=1e-5
    )


def test_the_state_dict_has_the_names_of_a_pretrained_checkpoint():
    backbone = tiny.tiny_backbone()
    plain_model = plain.PlainBackbone(backbone.sizes)
    ours = {name: value.shape for name, value in backbone.state_dict().items()}
    assert ours == {name: value.shape for name, value in plain_model.state_dict().items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_mixed_precision_stays_close(dtype, tolerance):
    backbone, stays = tiny.tiny_backbone(), tiny.ragged_stays()
    with torch.autocast("cpu", dtype=dtype):
        _, mixed = _fast(backbone, stays, torch.float32)
    _, exact = _fast(backbone, stays, torch.float32)
    assert (mixed.float() - exact).abs().max() < tolerance
    assert mixed.isfinite().all()


def test_an_abnormal_value_beyond_all_measure_stays_finite():
    backbone = tiny.tiny_backbone()
    stay: list[plain.PlainSet] = [(0.0, [(1, 1e6), (2, -1e6)]), (1.0, [(1, 0.0)])]
    for output in itertools.chain(_fast(backbone, [stay], torch.float32)):
        assert output.isfinite().all()
