"""U-Net: the paper's sizes, the transposed convolution by zero insertion, skips that are concatenated."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.segment.unet import UNet, center_crop, input_size, output_size
from oculi.types import Batch


def test_the_papers_unpadded_form_turns_572_into_388():
    assert output_size(572, 5) == 388
    assert input_size(388, 5) == 572
    with torch.device("meta"):
        system = UNet(2, 64, 5, padded=False, norm=False, in_channels=1, image_size=572)
        assert system.network(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
        assert sum(p.numel() for p in system.parameters()) == 31_030_658


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_input_size_is_the_least_that_gives_the_output(levels):
    for size in range(1, 80):
        given = input_size(size, levels)
        assert output_size(given, levels) >= size
        assert output_size(given, levels) - size < 2 ** (levels - 1)


def test_padded_and_unpadded_give_a_logit_for_every_pixel():
    torch.manual_seed(0)
    image = torch.rand(2, 1, 32, 32)
    for padded in (True, False):
        assert UNet(3, 2, 2, padded, in_channels=1, image_size=32)(image).shape == (2, 3, 32, 32)


def test_the_unpadded_form_is_translation_equivariant():
    """Without padding nothing depends on where the borders are: a shift of a whole pooling cell shifts the output."""
    torch.manual_seed(0)
    system = UNet(2, 2, 2, padded=False, norm=False, in_channels=1, image_size=32).eval()
    image = torch.rand(1, 1, 46, 44)
    upper, lower = system.network(image[..., :44, :]), system.network(image[..., 2:, :])
    torch.testing.assert_close(upper[..., 2:, :], lower[..., :-2, :], rtol=1e-4, atol=1e-5)


def test_skips_are_concatenated_encoder_first():
    system = UNet(2, 4, 3, in_channels=1, image_size=16)
    assert [m[0].in_channels for m in system.merge] == [16, 8]
    without = UNet(2, 4, 3, skips=False, in_channels=1, image_size=16)
    assert [m[0].in_channels for m in without.merge] == [8, 4]
    assert without(torch.rand(2, 1, 16, 16)).shape == (2, 2, 16, 16)


@pytest.mark.parametrize(("kernel", "padding"), [(4, 1), (2, 0), (3, 0)])
def test_transposed_convolution_is_zero_insertion_and_the_adjoint(kernel, padding):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 2, kernel, 2, padding, bias=False).double()
    x = torch.randn(1, 3, 28, 28, dtype=torch.float64)
    spread = torch.zeros(1, 3, 55, 55, dtype=torch.float64)
    spread[..., ::2, ::2] = x
    by_hand = F.conv2d(spread, layer.weight.flip(2, 3).transpose(0, 1), padding=kernel - 1 - padding)
    torch.testing.assert_close(layer(x), by_hand, rtol=0, atol=1e-6)
    assert layer(x).shape[-1] == 27 * 2 - 2 * padding + kernel
    y = torch.randn_like(by_hand)
    left, right = (layer(x) * y).sum(), (x * F.conv2d(y, layer.weight, stride=2, padding=padding)).sum()
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


def test_ignored_pixels_do_not_count():
    torch.manual_seed(0)
    system = UNet(2, 2, 2, norm=False, in_channels=1, image_size=8)
    image, semantic = torch.rand(1, 1, 8, 8), torch.randint(0, 2, (1, 8, 8))
    semantic[:, :4] = 255
    expected = F.cross_entropy(system(image)[:, :, 4:], semantic[:, 4:])
    torch.testing.assert_close(system.loss(Batch(image=image, semantic=semantic))["cross_entropy"], expected)
    unknown = torch.full((1, 8, 8), 255)
    assert float(system.loss(Batch(image=image, semantic=unknown))["cross_entropy"].detach()) == 0


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="image_size: expected a multiple of 16, got 100"):
        UNet(image_size=100)
    with pytest.raises(ValueError, match="levels: expected at least 2"):
        UNet(levels=1)
    with pytest.raises(ValueError, match=r"batch.semantic"):
        UNet(2, 2, 2, image_size=8).loss(Batch(image=torch.rand(1, 3, 8, 8)))
    with pytest.raises(ValueError, match="too small to mirror"):
        UNet(2, 2, 4, padded=False, in_channels=1, image_size=16)(torch.rand(1, 1, 16, 16))
    with pytest.raises(ValueError, match="cannot halve a map of 567 pixels"):
        output_size(571, 5)


def test_center_crop_keeps_the_middle():
    assert center_crop(torch.arange(25.0).reshape(5, 5), 1, 3).tolist() == [[11, 12, 13]]
