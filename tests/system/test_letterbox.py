"""Letterbox: the whole picture, its aspect kept, and boxes that map back to where they were."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from oculi.data.datasets import fit_sample
from oculi.input_contract import InputContract
from oculi.types import Sample

SIDE = st.integers(1, 900)


@settings(max_examples=200, deadline=None)
@given(SIDE, SIDE, st.integers(1, 640), st.integers(1, 640), st.integers(0, 2**31))
def test_boxes_map_back_exactly(height, width, to_height, to_width, seed):
    contract = InputContract(to_height, to_width, resize="letterbox")
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(20, 4, generator=g, dtype=torch.float64) * torch.tensor([width, height] * 2)
    there = contract.boxes_to_input(boxes, height, width)
    torch.testing.assert_close(contract.boxes_to_original(there, height, width), boxes, rtol=0, atol=1e-9)
    single = contract.boxes_to_original(contract.boxes_to_input(boxes.float(), height, width), height, width)
    torch.testing.assert_close(single.double(), boxes, rtol=0, atol=1e-4 * max(1.0, max(height, width) / 500))
    whole = contract.boxes_to_input(torch.tensor([[0.0, 0, width, height]]), height, width)[0]
    assert float(whole[2]) <= to_width + 1e-3
    assert float(whole[3]) <= to_height + 1e-3
    assert min(to_width - float(whole[2]), to_height - float(whole[3])) < 0.51  # one side fits
    scale_x, scale_y, *_ = contract.scale(height, width)
    assert (
        abs(scale_x - scale_y) * min(height, width) <= 1.0 or min(to_width, to_height) == 1
    )  # rounding to whole pixels


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (30, 77), (64, 64)])
def test_the_picture_equals_pillows_and_the_rest_is_filled(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    contract = InputContract(64, 64, resize="letterbox", fill=0.25)
    made = (contract.prepare(pixels) * 255).round()
    scale_x, scale_y, *_ = contract.scale(height, width)
    w, h = round(width * scale_x), round(height * scale_y)
    theirs = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(made[:, :h, :w].permute(1, 2, 0).numpy() - theirs).max() <= 1
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[:h, :w] = False
    assert bool((made[:, outside] == 64).all())


def test_boxes_masks_and_maps_go_along():
    mask = torch.zeros(1, 20, 40, dtype=torch.bool)
    mask[0, 4:12, 8:24] = True
    sample = Sample(
        image=mask.float().expand(3, -1, -1), boxes=torch.tensor([[8.0, 4, 24, 12]]), labels=torch.tensor([0]), masks=mask,
        semantic=mask[0].long(), keypoints=torch.tensor([[[8.0, 4, 2], [24, 12, 1]]]),
    )  # fmt: skip
    fitted = fit_sample(sample, InputContract(80, 80, resize="letterbox", fill=0.0))
    assert fitted.boxes.tolist() == [[16, 8, 48, 24]]
    assert fitted.keypoints.tolist() == [[[16, 8, 2], [48, 24, 1]]]
    assert torch.equal(fitted.masks[0], fitted.semantic == 1)
    assert int(fitted.masks.sum()) == 32 * 16
    assert bool((fitted.semantic[40:] == 255).all())
