"""DDIM against diffusers: the deterministic step, and what follows from it."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from oculi.diffusion.ddim import DDIM
from oculi.ops.diffusion import ddim_step, linear_betas, signal_levels


@pytest.mark.parametrize(("steps", "index"), [(50, 0), (50, 30), (10, 4)])
@pytest.mark.parametrize("clip", [True, False])
def test_a_step_equals_diffusers(steps: int, index: int, clip: bool) -> None:
    bars = signal_levels(linear_betas(50))
    scheduler = DDIMScheduler(50, clip_sample=clip, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    now = int(scheduler.timesteps[index])
    before = now - 50 // steps
    x, eps = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(index))
    theirs = scheduler.step(eps, now, x, use_clipped_model_output=clip).prev_sample
    t, s = (torch.full((2,), v) for v in (now, before))
    ours = ddim_step(x, eps, t, s, bars, clip=1.0 if clip else None)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_same_noise_gives_the_same_pictures_and_other_noise_others() -> None:
    torch.manual_seed(0)
    system = DDIM(image_size=8, width=8, steps=20, sample_steps=5).eval()
    one, two, other = (system.sample(2, torch.Generator().manual_seed(seed)).images for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
