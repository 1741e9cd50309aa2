"""Losses of masks: worked numbers, segmentation_models_pytorch's, torch's cross-entropy, and what their gradients do."""

import pytest
import torch
from torch.nn import functional as F

from oculi.nn.segmentation_losses import (
    dice_loss,
    iou_loss,
    maps_of,
    pixel_cross_entropy,
    segmentation_loss,
    tversky_loss,
)
from oracles import oracle, timm

A = torch.tensor(
    [[0.01, 0.03, 0.02, 0.02], [0.05, 0.12, 0.09, 0.07], [0.89, 0.85, 0.88, 0.91], [0.99, 0.97, 0.95, 0.97]]
)
B = torch.tensor([[0.0] * 4] * 2 + [[1.0] * 4] * 2)
WORKED = (A[None, None], B[None, None])


def scene(ignored: bool = True):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 9, 7, generator=generator)
    semantic = torch.randint(0, 3, (3, 9, 7), generator=generator)  # of the fourth class there is none
    if ignored:
        semantic[:, 2:4] = 255
    return logits.requires_grad_(), semantic


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [("dice", "DiceLoss", {}), ("iou", "JaccardLoss", {}), ("tversky", "TverskyLoss", {"alpha": 0.3, "beta": 0.7})],
)
def test_equal_to_segmentation_models(name, theirs, options, ignored):
    timm()
    losses = oracle("segmentation_models_pytorch").losses
    logits, semantic = scene(ignored)
    expected = getattr(losses, theirs)("multiclass", ignore_index=255, **options)(logits, semantic)
    found = segmentation_loss(logits, semantic, name)[name]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    pair = (torch.autograd.grad(loss, logits)[0] for loss in (found, expected))
    torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(dice_loss, "DiceLoss"), (iou_loss, "JaccardLoss"), (tversky_loss, "TverskyLoss")]
)
def test_smoothing_as_segmentation_models_have_it(ours, theirs):
    timm()
    losses = oracle("segmentation_models_pytorch").losses
    expected = getattr(losses, theirs)("binary", from_logits=False, smooth=1.0)(*WORKED)
    torch.testing.assert_close(ours(*WORKED, smooth=1.0), expected)


def test_empty_masks():
    said, nothing = torch.full((1, 1, 4, 4), 0.25), torch.zeros(1, 1, 4, 4)
    for loss in (dice_loss, iou_loss, tversky_loss):
        assert float(loss(said, nothing)) == 0
        assert float(loss(nothing, nothing, smooth=1.0)) == 0
        assert 0.5 < float(loss(said, nothing, smooth=1.0)) < 1
    assert float(dice_loss(said, nothing, smooth=1.0, squared=True)) == pytest.approx(1 - 1 / 1.5)


def test_dice_is_a_function_of_iou():
    generator = torch.Generator().manual_seed(0)
    for share in torch.linspace(0.05, 0.95, 10):
        said, true = (torch.rand(2, 1, 1, 8, 8, generator=generator) < share).float()
        true[..., 0, 0] = 1
        iou = 1 - iou_loss(said, true)
        torch.testing.assert_close(1 - dice_loss(said, true), 2 * iou / (1 + iou), rtol=0, atol=1e-6)
        torch.testing.assert_close(iou, (said * true).sum() / (said + true).clamp_max(1).sum(), rtol=0, atol=1e-6)


def test_cross_entropy_is_torchs():
    logits, semantic = scene()
    torch.testing.assert_close(
        pixel_cross_entropy(logits, semantic), F.cross_entropy(logits, semantic, ignore_index=255)
    )
    nothing = torch.full_like(semantic, 255)
    assert float(pixel_cross_entropy(logits, nothing).detach()) == 0


def test_dices_gradient_grows_where_the_object_shrinks_and_cross_entropys_does_not():
    """Along the mask of an object of n pixels, a hundredth of them said: dDice/dp is about 2 / n."""
    norms = {"cross_entropy": [], "dice": []}
    for side in (1, 4, 16):
        semantic = torch.zeros(1, 32, 32, dtype=torch.int64)
        semantic[:, :side, :side] = 1
        logits = torch.zeros(1, 2, 32, 32)
        logits[:, 0] = 5.0
        for name, found in norms.items():
            given = logits.clone().requires_grad_()
            gradient = torch.autograd.grad(segmentation_loss(given, semantic, name)[name], given)[0]
            found.append(float(gradient.abs().max()))
    assert all(value <= 1 / 32**2 for value in norms["cross_entropy"])
    assert norms["cross_entropy"][0] == pytest.approx(norms["cross_entropy"][2], rel=1e-3)
    assert norms["dice"][0] > 2 * norms["dice"][1] > 8 * norms["dice"][2]


def test_ignored_pixels_are_in_neither_map():
    logits, semantic = scene()
    probability, mask = maps_of(logits, semantic)
    assert float(probability[:, :, 2:4].detach().abs().max()) == float(mask[:, :, 2:4].max()) == 0
    torch.testing.assert_close(probability.sum(1), mask.sum(1))


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"mask: expected the shape of probability \(1, 1, 4, 4\), got \(4, 4\)"):
        dice_loss(A[None, None], B)
    with pytest.raises(ValueError, match="false_positive"):
        tversky_loss(*WORKED, -1.0)
    with pytest.raises(ValueError, match=r"batch.semantic: expected a class per pixel"):
        segmentation_loss(A[None, None], None)
    with pytest.raises(ValueError, match="criterion: expected cross_entropy, dice, iou or tversky, got 'dise'"):
        segmentation_loss(*scene(), "dise")
