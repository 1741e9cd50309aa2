"""Colours, moves, policies and mixing against torchvision's, at equal amounts."""

import math

import pytest
import torch
from torch.nn import functional as F

import oracles
from oculi.data import colour
from oculi.data.augment import warp
from oculi.data.mixing import cutmix, mixup, soft_labels, windows
from oculi.data.policies import FACTORS, MOVES, OPERATIONS, amount, apply, sub_policies
from oculi.types import Batch

N = 3


def pictures(height=40, width=32):
    torch.manual_seed(0)
    return (torch.rand(N, 3, height, width) ** 2 * 255).round() / 255


def close(mine, theirs, tolerance=2e-6):
    torch.testing.assert_close(mine.clamp(0, 1), theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.9])
def test_colours_scaled_by_a_factor(factor):
    tv, image, given = oracles.torchvision().transforms.functional, pictures(), torch.full((N,), factor)
    close(colour.brightness(image, given), tv.adjust_brightness(image, factor))
    close(colour.contrast(image, given), tv.adjust_contrast(image, factor))
    close(colour.saturation(image, given), tv.adjust_saturation(image, factor))
    close(colour.sharpness(image, given), tv.adjust_sharpness(image, factor))
    single = image[:, :1]
    close(colour.contrast(single, given), tv.adjust_contrast(single, factor))


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.1, 0.5])
def test_hue(turn):
    tv, image = oracles.torchvision().transforms.functional, pictures()
    image[0, :, :5] = 0.25  # grey has no hue
    close(colour.hue(image, torch.full((N,), turn)), tv.adjust_hue(image, turn))


def test_colours_of_eight_bits():
    tv, image, none = oracles.torchvision().transforms.functional, pictures(), torch.zeros(N)
    image[0, 1] = 0.2  # one channel is flat
    levels = (image * 255).round().to(torch.uint8)
    for bits in (1, 4, 8):
        close(colour.posterize(image, torch.full((N,), float(bits))), tv.posterize(levels, bits) / 255)
    close(colour.solarize(image, torch.full((N,), 0.6)), tv.solarize(image, 0.6))
    close(colour.auto_contrast(image * 0.5, none), tv.autocontrast(image * 0.5))
    close(colour.equalize(image, none), tv.equalize(levels) / 255)
    close(colour.invert(image, none), tv.invert(image))


@pytest.mark.parametrize(
    ("name", "strength", "options"),
    [
        ("ShearX", 0.2, {"shear": [math.degrees(math.atan(0.2)), 0.0], "center": [0, 0]}),
        ("ShearY", 0.2, {"shear": [0.0, math.degrees(math.atan(0.2))], "center": [0, 0]}),
        ("TranslateX", 5.0, {"translate": [5, 0]}),
        ("TranslateY", -3.0, {"translate": [0, -3]}),
        ("Rotate", math.radians(20), {"angle": 20.0}),
    ],
)
def test_moves(name, strength, options):
    """Inside what both see of the original: outside ours repeats the edge."""
    tv, image = oracles.torchvision().transforms.functional, pictures()
    chosen = torch.full((N,), OPERATIONS.index(name))
    mine = apply(Batch(image=image), chosen, torch.full((N,), strength)).image
    given = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **options}
    bilinear = oracles.torchvision().transforms.InterpolationMode.BILINEAR
    theirs = tv.affine(image, interpolation=bilinear, **given)
    inside = tv.affine(torch.ones_like(image), interpolation=bilinear, **given) > 0.9999
    assert float(inside.float().mean()) > 0.6
    torch.testing.assert_close(mine[inside], theirs[inside], rtol=0, atol=2e-4)


def test_flips_scaling_and_crops():
    tv, image = oracles.torchvision().transforms.functional, pictures()
    down = torch.tensor([[1.0, 0, 0], [0, -1, 40], [0, 0, 1]]).expand(N, 3, 3)
    torch.testing.assert_close(warp(Batch(image=image), down).image, tv.vflip(image), rtol=0, atol=1e-5)
    across = torch.tensor([[-1.0, 0, 32], [0, 1, 0], [0, 0, 1]]).expand(N, 3, 3)
    torch.testing.assert_close(warp(Batch(image=image), across).image, tv.hflip(image), rtol=0, atol=1e-5)
    window = torch.tensor([[2.0, 0, -16], [0, 2, -20], [0, 0, 1]]).expand(N, 3, 3)  # 16 x 20 from (8, 10) on
    mine = warp(Batch(image=image), window).image
    theirs = F.interpolate(tv.crop(image, 10, 8, 20, 16), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(mine[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], rtol=0, atol=2e-5)


def test_policies_and_magnitudes_are_the_published_ones():
    tv = oracles.torchvision().transforms.autoaugment
    for data in ("imagenet", "cifar10", "svhn"):
        theirs = tv.AutoAugment(tv.AutoAugmentPolicy(data)).policies
        assert [[(n, p, m or 0) for n, p, m in row] for row in theirs] == [list(row) for row in sub_policies(data)]
    for bins, space in ((31, tv.RandAugment()), (10, tv.AutoAugment())):
        for name, (values, both) in space._augmentation_space(bins, (40, 32)).items():
            assert both == (name in (*MOVES, *FACTORS))
            for k in range(bins if values.ndim else 0):
                scale = {"Rotate": math.pi / 180, "Solarize": 1 / 255}.get(name, 1.0)
                assert amount(name, k, bins, 40, 32) == pytest.approx(float(values[k]) * scale, abs=1e-5)


def test_mixup_and_cutmix():
    oracles.torchvision()
    from torchvision.transforms import v2

    image, label, partner = pictures(), torch.tensor([0, 2, 1]), torch.arange(N).roll(1)
    target = soft_labels(label, 4)
    theirs = v2.MixUp(num_classes=4)
    params = {"lam": 0.3, "labels": label, "batch_size": N}
    mine, soft = mixup(image, target, partner, torch.full((N,), 0.3))
    close(mine, theirs.transform(image, params))
    torch.testing.assert_close(soft, theirs._mixup_label(label, lam=0.3))
    for center in ([0.5, 0.5], [0.05, 0.9]):
        boxes = windows(torch.full((N,), 0.3), torch.tensor([center] * N), 40, 32)
        mine, soft = cutmix(image, target, partner, boxes)
        x1, y1, x2, y2 = box = boxes[0].tolist()
        kept = 1 - (x2 - x1) * (y2 - y1) / (40 * 32)
        params = {"box": box, "lam_adjusted": kept, "labels": label, "batch_size": N}
        close(mine, v2.CutMix(num_classes=4).transform(image, params), 0)
        torch.testing.assert_close(soft, theirs._mixup_label(label, lam=kept))
