"""The blur by banded matrices against scipy's filter, with gradients, written where it is told to."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate

from oculi.ops.gaussian_blur import gaussian_blur


@pytest.mark.parametrize(("height", "width", "sigma"), [(40, 50, 1.7), (96, 48, 0.6), (131, 97, 3.3), (49, 200, 5.0)])
def test_it_is_scipys(height, width, sigma):
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)).double()
    expected = gaussian_filter(image.numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=round(4 * sigma) / sigma)
    np.testing.assert_allclose(gaussian_blur(image, sigma).numpy(), expected, atol=1e-10)


def test_smaller_than_the_kernel_keeps_a_constant():
    flat = torch.full((1, 1, 3, 5), 0.25)
    torch.testing.assert_close(gaussian_blur(flat, 4.0), flat)


def test_gradients_are_those_of_a_linear_map():
    image = torch.rand(1, 2, 9, 11, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gaussian_blur(x, 1.0), image)


@pytest.mark.parametrize("sigma", [0.4, 1.2490, 3.3, 7.0])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (40, 50), (77, 101), (131, 300), (300, 64)])
def test_doubled_first_it_is_the_same_of_the_doubled_picture(height, width, sigma):
    image = torch.rand(2, 2, height, width, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    twice = interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    expected, found = gaussian_blur(twice, sigma), gaussian_blur(image, sigma, double=True)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    weights = torch.rand(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    (one,), (two,) = (torch.autograd.grad((v * weights).sum(), image) for v in (expected, found))
    torch.testing.assert_close(two, one, atol=1e-12, rtol=0)


def test_out_is_written():
    image, stack = torch.rand(1, 1, 20, 30, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 3, 20, 30)
    gaussian_blur(image, 1.5, out=stack[:, 1:2])
    torch.testing.assert_close(stack[:, 1:2], gaussian_blur(image, 1.5))
    assert float(stack[:, 0].abs().max()) == 0


def test_bad_sigma():
    with pytest.raises(ValueError, match="sigma"):
        gaussian_blur(torch.zeros(1, 1, 4, 4), 0.0)
