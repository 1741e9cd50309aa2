"""DDIM's step against diffusers, and its map from noise to pictures."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from oculi.diffusion.ddim import DDIM
from oculi.diffusion.ddpm import DDPM
from oculi.ops.diffusion import ddim_step, linear_betas, signal_levels


@pytest.mark.parametrize(("clip", "step"), [(False, 7), (True, 7), (False, 0), (False, 49)])
def test_a_step_equals_diffusers(clip: bool, step: int) -> None:
    bars = signal_levels(linear_betas(50))
    scheduler = DDIMScheduler(50, clip_sample=clip, set_alpha_to_one=True)
    scheduler.set_timesteps(50)
    x, eps = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    # diffusers adds its own noise to the clipped picture only when told to use it again
    theirs = scheduler.step(eps, step, x, use_clipped_model_output=clip).prev_sample
    t = torch.tensor([step])
    ours = ddim_step(x, eps, t, t - 1, bars, clip=1.0 if clip else None)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_step_that_skips_equals_diffusers() -> None:
    bars = signal_levels(linear_betas(50))
    scheduler = DDIMScheduler(50, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    x, eps = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(6))
    theirs = scheduler.step(eps, 40, x).prev_sample
    ours = ddim_step(x, eps, torch.tensor([40]), torch.tensor([35]), bars)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_same_noise_gives_the_same_picture_whatever_else_is_drawn() -> None:
    system = DDIM(image_size=8, width=8, steps=8, sample_steps=4)
    first = system.sample(2, torch.Generator().manual_seed(0)).images
    torch.randn(3)
    torch.testing.assert_close(system.sample(2, torch.Generator().manual_seed(0)).images, first, atol=0, rtol=0)


def test_with_the_exact_noise_few_steps_keep_mean_and_spread() -> None:
    bars = signal_levels(linear_betas(1000)).double()
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.linspace(999, -1, 201).round().long()
    for now, then in pairwise(times):
        t, before = now[None], then[None]
        bar = bars[t]
        eps = (1 - bar).sqrt() * (x - bar.sqrt() * 0.5) / (bar * 0.09 + 1 - bar)
        x = ddim_step(x, eps, t, before, bars)
    assert float(x.mean()) == pytest.approx(0.5, rel=0.02)
    assert float(x.std()) == pytest.approx(0.3, rel=0.02)


def test_weights_are_ddpms() -> None:
    ours, theirs = DDIM(image_size=8, width=8, steps=4, sample_steps=2), DDPM(image_size=8, width=8, steps=4)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.alpha_bars, theirs.alpha_bars)


def test_more_sampling_steps_than_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="sample_steps"):
        DDIM(steps=4, sample_steps=5)
