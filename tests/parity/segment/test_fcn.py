"""FCN: torchvision's form at equal weights, transposed convolutions that interpolate, skips that are summed, any size."""

import pytest
import torch
from torch.nn import functional as F

from agreement import close, copy_in_order
from oculi.segment.fcn import FCN, transposed_bilinear
from oculi.types import Batch
from oracles import torchvision

SMALL = {"num_classes": 5, "depths": [1, 1, 1, 1], "bottleneck": False, "width": 8, "image_size": 64}


def test_equals_torchvision():
    torch.manual_seed(0)
    theirs = torchvision().models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=5, aux_loss=True
    )
    ours = FCN(5, upsampling="bilinear", auxiliary=True)
    copy_in_order(theirs, ours)
    image, semantic = torch.rand(2, 3, 64, 48), torch.randint(0, 5, (2, 64, 48))
    close(ours.eval()(image), theirs.eval()(image)["out"])
    given = theirs(image)
    expected = F.cross_entropy(given["out"], semantic), 0.5 * F.cross_entropy(given["aux"], semantic)
    found = ours.loss(Batch(image=image, semantic=semantic))
    torch.testing.assert_close(torch.stack(list(found.values())), torch.stack(expected))
    sum(expected).backward()
    sum(found.values()).backward()
    close(ours.backbone.stem[0].weight.grad, theirs.backbone.conv1.weight.grad, 1e-3)


def test_the_published_size():
    with torch.device("meta"):
        system = FCN(21, upsampling="bilinear", auxiliary=True)
        assert sum(p.numel() for p in system.parameters()) == 35_322_218


@pytest.mark.parametrize(("stride", "stages"), [(32, 1), (16, 2), (8, 3), (4, 4)])
def test_upsampling_in_stages(stride, stages):
    system = FCN(**SMALL, stride=stride)
    assert len(system.skips) == len(system.twice) == stages - 1
    assert system.enlarge.stride == (stride, stride)
    assert system.enlarge.kernel_size == (2 * stride, 2 * stride)
    assert not system.enlarge.weight.requires_grad
    assert all(layer.weight.requires_grad for layer in system.twice)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("learned", [True, False])
def test_a_transposed_convolution_begins_as_bilinear_interpolation(factor, learned):
    x = torch.rand(2, 3, 7, 5)
    given = transposed_bilinear(3, factor, learned)(x)
    wanted = F.interpolate(x, scale_factor=factor, mode="bilinear")
    inner = slice(factor, -factor)  # at the border interpolation repeats the edge
    torch.testing.assert_close(given[..., inner, inner], wanted[..., inner, inner])


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_one_set_of_weights_for_pictures_of_any_size(stride):
    torch.manual_seed(0)
    system = FCN(**SMALL, stride=stride).eval()
    for size in ((64, 64), (96, 80), (33, 70)):
        assert system(torch.rand(1, 3, *size)).shape == (1, 5, *size)


def test_no_layer_is_linear_and_scores_are_those_of_a_window():
    """Far from the border, the picture moved by 32 pixels has its scores moved by 32 pixels."""
    torch.manual_seed(0)
    system = FCN(**SMALL, stride=32).eval()
    assert not [m for m in system.modules() if isinstance(m, torch.nn.Linear)]
    image = torch.rand(1, 3, 576, 32 * 7)
    low, high = system(image[:, :, :544]), system(image[:, :, 32:])
    torch.testing.assert_close(low[:, :, 288:320], high[:, :, 256:288], rtol=1e-3, atol=1e-4)


def test_skips_are_summed_and_begin_at_zero():
    torch.manual_seed(0)
    fine = FCN(**SMALL, stride=16).eval()
    maps = fine.features(torch.rand(1, 3, 64, 64))
    doubled = fine.twice[0](fine.head(maps[-1]))
    torch.testing.assert_close(fine.decode(maps, (64, 64)), fine.enlarge(doubled))
    with torch.no_grad():
        fine.skips[0].bias.fill_(1.0)
    torch.testing.assert_close(fine.decode(maps, (64, 64)), fine.enlarge(doubled + 1))


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="stride: expected one of 4, 8, 16, 32, got 2"):
        FCN(stride=2)
    with pytest.raises(ValueError, match="upsampling: expected transposed or bilinear, got 'nearest'"):
        FCN(upsampling="nearest")
    with pytest.raises(ValueError, match=r"batch.semantic"):
        FCN(**SMALL).eval().loss(Batch(image=torch.rand(1, 3, 64, 64)))
