"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from oculi.metrics.images import psnr, ssim


def test_they_equal_scikit_image():
    image = torch.rand(3, 3, 20, 24)
    other = (image + 0.1 * torch.randn_like(image)).clamp(0, 1)
    for index in range(3):
        x, y = image[index].numpy(), other[index].numpy()
        assert float(psnr(image, other)[index]) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1), abs=1e-4)
        expected = structural_similarity(
            x, y, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(ssim(image, other)[index]) == pytest.approx(expected, abs=1e-4)


def test_equal_pictures():
    image = torch.rand(2, 3, 12, 12)
    assert psnr(image, image).tolist() == [float("inf")] * 2
    torch.testing.assert_close(ssim(image, image), torch.ones(2))


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="reference: expected the image's shape"):
        psnr(torch.zeros(3, 4, 4), torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
