"""Pretraining: decoder and loss against the plain model, checkpoint layout in both directions."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from seqsetvae.checkpoint.backbone import compare, read_checkpoint
from seqsetvae.models.seqsetvae.decoder import Decoder, PretrainingModel
from seqsetvae.models.seqsetvae.reference import PlainDecoder, plain_set_distance
from seqsetvae.objectives.reconstruction import objective as losses
from seqsetvae.objectives.reconstruction.objective import PosteriorHealth
from seqsetvae.ops.ragged import ExactSizes
from tests.tiny import SIZES

RUNS = ((1, 3), (2, 2), (5, 1), (19, 2))
SET_SIZES = ExactSizes(RUNS)
N_SETS, N_EVENTS = sum(count for _, count in RUNS), sum(size * count for size, count in RUNS)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> tuple[Decoder, PlainDecoder, list[torch.Tensor]]:
    """A decoder in double precision, its plain form, and the seeds that both use, one tensor [E, D] a level."""
    fast = Decoder(SIZES).double().eval()
    plain_model = PlainDecoder(SIZES.event_dim, SIZES.latent_dim, SIZES.levels, SIZES.heads, SIZES.m).double()
    for value in fast.parameters():
        torch.nn.init.normal_(value, std=0.3)
    plain_model.load_state_dict(fast.state_dict())
    seeds = [torch.randn(N_EVENTS, SIZES.latent_dim, dtype=torch.float64) for _ in range(SIZES.levels)]
    queue = list(seeds)
    monkeypatch.setattr(Decoder, "_seeds", lambda self, like: queue.pop(0))
    return fast, plain_model, seeds


def _plain_sets(plain_model: PlainDecoder, states: torch.Tensor, seeds: list[torch.Tensor]) -> list[torch.Tensor]:
    sizes = [size for size, count in RUNS for _ in range(count)]
    of_sets = list(zip(*(level.split(sizes) for level in seeds), strict=True))
    return [plain_model(state, list(of_set)) for state, of_set in zip(states, of_sets, strict=True)]


def test_the_decoder_equals_its_plain_form_in_values_and_gradients(decoder):
    fast, plain_model, seeds = decoder
    states = torch.randn(N_SETS, SIZES.latent_dim, dtype=torch.float64, requires_grad=True)
    plain_states = states.detach().clone().requires_grad_()
    recon, expected = fast(states, SET_SIZES), torch.cat(_plain_sets(plain_model, plain_states, seeds))
    assert torch.allclose(recon, expected, atol=1e-10, rtol=0)

    direction = torch.randn_like(recon)
    (recon * direction).sum().backward()
    (expected * direction).sum().backward()
    assert torch.allclose(states.grad, plain_states.grad, atol=1e-10, rtol=1e-9)
    for (name, value), plain in zip(fast.named_parameters(), plain_model.parameters(), strict=True):
        ours = torch.zeros_like(value) if value.grad is None else value.grad
        assert plain.grad is not None
        assert torch.allclose(ours, plain.grad, atol=1e-9, rtol=1e-9), name


def test_every_parameter_that_trains_gets_a_gradient():
    decoder = Decoder(SIZES)
    decoder(torch.randn(N_SETS, SIZES.latent_dim), SET_SIZES).square().sum().backward()
    assert all((value.grad is not None) == value.requires_grad for value in decoder.parameters())


def test_the_reconstruction_loss_is_the_mean_distance_of_the_sets():
    recon = torch.randn(N_EVENTS, SIZES.event_dim, dtype=torch.float64, requires_grad=True)
    target = torch.randn(N_EVENTS, SIZES.event_dim, dtype=torch.float64)
    sizes = [size for size, count in RUNS for _ in range(count)]
    plain = torch.stack(
        [plain_set_distance(p, q) for p, q in zip(recon.split(sizes), target.split(sizes), strict=True)]
    ).mean()
    loss = losses.reconstruction(recon, target, SET_SIZES)
    assert torch.allclose(loss, plain, atol=1e-10)
    ours, theirs = torch.autograd.grad(loss, recon)[0], torch.autograd.grad(plain, recon)[0]
    assert torch.allclose(ours, theirs, atol=1e-10)


def test_the_distance_is_not_rounded_under_autocast():
    recon, target = torch.randn(2, 3, 7, SIZES.event_dim)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = losses.set_distance(recon, target)
    assert torch.equal(mixed, losses.set_distance(recon, target))


def test_many_and_large_sets_are_compared_in_bounded_pieces(monkeypatch):
    recon, target = torch.randn(2, N_EVENTS, SIZES.event_dim, dtype=torch.float64)
    whole = losses.reconstruction(recon, target, SET_SIZES)
    compared: list[int] = []
    distance = losses.set_distance

    def watched(p: torch.Tensor, q: torch.Tensor, is_event: torch.Tensor | None) -> torch.Tensor:
        compared.append(len(p) * p.shape[1] ** 2)
        return distance(p, q, is_event)

    monkeypatch.setattr(losses, "MAX_PAIRS", 19 * 19)
    monkeypatch.setattr(losses, "set_distance", watched)
    assert torch.allclose(losses.reconstruction(recon, target, SET_SIZES), whole)
    assert max(compared) <= 19 * 19
    assert len(compared) > len(RUNS)


def test_the_golden_reconstruction_losses(golden):
    numbers = np.load(golden / "losses.npz")
    for i in range(4):
        recon, target = (torch.from_numpy(numbers[f"recon{i}/{name}"]) for name in ("recon", "target"))
        assert abs(float(losses.set_distance(recon, target).mean()) - float(numbers[f"recon{i}/loss"])) < 1e-9


def test_the_kl_term_is_floored_by_free_bits_and_pulls_on_logvar():
    mu, logvar = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    mu[0], logvar[0] = 0, 0  # KL 0: the floor holds
    kl = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(dim=1)
    assert torch.allclose(losses.kl_of_dimensions(mu, logvar).sum(dim=1), kl)
    expected = torch.stack([max(k, torch.tensor(0.3 * 4)) - 0.1 * lv.mean() for k, lv in zip(kl, logvar, strict=True)])
    assert torch.allclose(losses.kl_with_free_bits(mu, logvar, free_bits=0.3), expected.mean())


def test_seeds_have_more_noise_in_training():
    decoder, like = Decoder(SIZES), torch.empty(400_000)
    assert float(decoder.train()._seeds(like).var()) == pytest.approx(1 + 0.3**2, rel=0.02)
    assert float(decoder.eval()._seeds(like).var()) == pytest.approx(1, rel=0.02)


def test_the_golden_checkpoint_fits_the_pretraining_model_exactly(golden):
    checkpoint = read_checkpoint(golden / "tiny" / "pretrain.ckpt")
    sizes = {name: checkpoint.hyper_parameters[name] for name in SIZES.as_dict()}
    report = compare(PretrainingModel(type(SIZES)(**sizes)), checkpoint)
    assert report.is_complete
    assert not report.skipped
    assert not report.unknown


def test_collapsed_dimensions_are_counted():
    health = PosteriorHealth(latent_dim=3)
    mu = torch.randn(500, 3) * torch.tensor([1.0, 0.0, 0.5])
    logvar = torch.zeros(500, 3)
    for piece in mu.split(64):
        health.update(piece, logvar[: len(piece)])
    active, kl = health.compute()
    assert active == 2
    assert float(kl) == pytest.approx(float(losses.kl_of_dimensions(mu, logvar).mean()), rel=1e-5)
