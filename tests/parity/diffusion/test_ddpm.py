"""DDPM's parts against diffusers, and against what is known exactly for Gaussian data."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from oculi.diffusion.ddpm import DDPM
from oculi.nn.embeddings import timestep_embedding
from oculi.ops.diffusion import add_noise, ancestral_step, clean_from_noise, linear_betas, posterior, signal_levels
from oculi.types import Batch


def schedule(steps: int = 50) -> tuple[Tensor, Tensor]:
    betas = linear_betas(steps)
    return betas, signal_levels(betas)


@pytest.mark.parametrize("step", [0, 7, 49])
def test_noising_equals_diffusers(step: int) -> None:
    _, bars = schedule()
    generator = torch.Generator().manual_seed(step)
    x, eps = torch.randn(2, 3, 1, 4, 4, generator=generator)
    t = torch.tensor([step] * 3)
    theirs = DDPMScheduler(50).add_noise(x, eps, t)
    torch.testing.assert_close(add_noise(x, eps, t, bars), theirs, atol=1e-6, rtol=0)


def test_single_steps_compose_to_the_shortcut() -> None:
    betas, bars = schedule()
    generator = torch.Generator().manual_seed(0)
    x = torch.full((200_000,), 0.6, dtype=torch.float64)
    for beta in betas[:20].double():
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(len(x), generator=generator, dtype=torch.float64)
    assert float(x.mean()) == pytest.approx(0.6 * float(bars[19]) ** 0.5, abs=0.005)
    assert float(x.var()) == pytest.approx(1 - float(bars[19]), rel=0.01)


@pytest.mark.parametrize(("clip", "step"), [(True, 7), (False, 7), (False, 0), (False, 49)])
def test_a_step_equals_diffusers(clip: bool, step: int) -> None:
    _, bars = schedule()
    t = torch.tensor([step])
    x, eps = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    scheduler = DDPMScheduler(50, clip_sample=clip, variance_type="fixed_small")
    theirs = scheduler.step(eps, step, x, generator=torch.Generator().manual_seed(0)).prev_sample
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    ours = ancestral_step(x, eps, t, bars, noise, clip=1.0 if clip else None)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_posterior_is_bayes_rule_on_a_grid() -> None:
    betas, bars = (v.double() for v in schedule(10))
    t, x0, x = 6, torch.tensor([0.4]).double(), torch.tensor([-0.3]).double()
    grid = torch.linspace(-6, 6, 24_001).double()
    prior = torch.distributions.Normal(bars[t - 1].sqrt() * x0, (1 - bars[t - 1]).sqrt()).log_prob(grid)
    likelihood = torch.distributions.Normal((1 - betas[t]).sqrt() * grid, betas[t].sqrt()).log_prob(x)
    weight = (prior + likelihood).softmax(0)
    mean, variance = posterior(x0, x, torch.tensor([t]), bars)
    assert float(mean) == pytest.approx(float((weight * grid).sum()), abs=1e-6)
    assert float(variance) == pytest.approx(float((weight * (grid - mean).square()).sum()), rel=1e-4)


def test_the_noise_form_of_the_posterior_mean_equals_the_picture_form() -> None:
    betas = linear_betas(50).double()
    bars = signal_levels(betas)
    x, eps = torch.randn(2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    t = torch.tensor([1, 5, 20, 49])
    mean, _ = posterior(clean_from_noise(x, eps, t, bars), x, t, bars)
    beta, bar = (v[t].reshape(-1, 1, 1, 1) for v in (betas, bars))
    torch.testing.assert_close(mean, (x - beta / (1 - bar).sqrt() * eps) / (1 - beta).sqrt(), atol=1e-6, rtol=0)


def best_noise(x: Tensor, t: Tensor, bars: Tensor, mean: float, std: float) -> Tensor:
    """E[eps | x_t] where x_0 ~ N(mean, std²)."""
    bar = bars[t].reshape(-1, *[1] * (x.ndim - 1))
    return (1 - bar).sqrt() * (x - bar.sqrt() * mean) / (bar * std**2 + 1 - bar)


def test_with_the_exact_noise_the_samples_are_the_datas() -> None:
    # the paper's thousand steps: with 400 larger ones the chain itself is 3.5 % too narrow
    bars = signal_levels(linear_betas(1000)).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=generator, dtype=torch.float64)
    for step in range(999, -1, -1):
        t = torch.full((1,), step)
        noise = torch.randn(len(x), generator=generator, dtype=torch.float64)
        x = ancestral_step(x, best_noise(x, t, bars, 0.5, 0.3), t, bars, noise, clip=None)
    assert float(x.mean()) == pytest.approx(0.5, rel=0.02)
    assert float(x.std()) == pytest.approx(0.3, rel=0.02)


class PerStepLine(nn.Module):
    """The least network that can be right about Gaussian data: slope and offset for every step."""

    def __init__(self, steps: int):
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.zeros(steps)), nn.Parameter(torch.zeros(steps))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.slope[t].reshape(-1, 1, 1, 1) * x + self.offset[t].reshape(-1, 1, 1, 1)


def test_what_minimises_the_loss_is_the_expected_noise() -> None:
    torch.manual_seed(0)
    system = DDPM(image_size=8, width=8, steps=10)
    system.network = PerStepLine(10)  # type: ignore[assignment]
    optimizer = torch.optim.Adam(system.network.parameters(), lr=0.05)
    for _ in range(300):
        picture = 0.6 + 0.1 * torch.randn(64, 1, 8, 8)  # in [-1, 1]: mean 0.2, deviation 0.2
        loss = sum(system.loss(Batch(image=picture)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    t = torch.arange(10).repeat_interleave(200)
    x0 = 0.2 + 0.2 * torch.randn(2000, 1, 8, 8)
    x = add_noise(x0, torch.randn_like(x0), t, system.alpha_bars)
    wanted = best_noise(x, t, system.alpha_bars, 0.2, 0.2)
    with torch.no_grad():
        off = (system.network(x, t) - wanted).square().mean()
    assert 1 - float(off / wanted.var()) >= 0.98


@pytest.mark.parametrize("width", [8, 9, 32])
def test_timesteps_equal_diffusers(width: int) -> None:
    t = torch.tensor([0, 1, 7, 199])
    theirs = get_timestep_embedding(t, width, downscale_freq_shift=1)
    torch.testing.assert_close(timestep_embedding(t, width), theirs, atol=1e-6, rtol=0)


def test_group_norm_by_its_definition_whatever_the_batch() -> None:
    torch.manual_seed(0)
    layer = nn.GroupNorm(4, 8)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(3, 8, 5, 5)
    groups = x.reshape(3, 4, -1)
    normal = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    by_hand = normal.reshape(x.shape) * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), by_hand, atol=1e-5, rtol=0)
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]))
    unet = DDPM(image_size=8, width=8).network
    assert any(isinstance(module, nn.GroupNorm) for module in unet.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in unet.modules())
