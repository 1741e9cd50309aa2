"""The merging rule of panoptic segmentation, by hand and against the paper's loop."""

import pytest
import torch

from oculi.ops.panoptic_merge import merge


def loop(masks, wanted, stuff, kinds, share, least):
    """The paper's rule, instance by instance."""
    out = torch.zeros_like(stuff)
    for b in range(len(masks)):
        for i, mask in enumerate(masks[b]):
            rest = mask & (out[b] == 0)
            if wanted[b, i] and mask.any() and rest.sum() >= share * mask.sum():
                out[b][rest] = i + 1
        free = out[b] == 0
        for k in range(kinds):
            region = free & (stuff[b] == k)
            if region.sum() >= least * stuff[b].numel():
                out[b][region] = masks.shape[1] + 1 + k
    return out


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_loop(seed):
    g = torch.Generator().manual_seed(seed)
    low, side = torch.randint(0, 10, (2, 9, 2), generator=g), torch.randint(0, 9, (2, 9, 2), generator=g)
    y, x = torch.arange(16)[:, None], torch.arange(16)
    (top, left), (tall, wide) = low[..., None, None].unbind(2), side[..., None, None].unbind(2)
    masks = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    wanted, stuff = torch.rand(2, 9, generator=g) < 0.8, torch.randint(0, 4, (2, 16, 16), generator=g)
    for share, least in ((0.5, 0.1), (0.8, 0.0), (0.0, 1.0)):
        found = merge(masks, wanted, stuff, 3, share, least)
        assert torch.equal(found, loop(masks, wanted, stuff, 3, share, least))


def test_who_lost_to_a_dropped_one_is_back():
    """The second loses most of its mask to the first and goes, so the third keeps what the second covered."""
    line = torch.zeros(1, 3, 1, 10, dtype=torch.bool)
    line[0, 0, 0, :4] = True
    line[0, 1, 0, 1:5] = True
    line[0, 2, 0, 4:6] = True
    merged = merge(line, torch.ones(1, 3).bool(), torch.full((1, 1, 10), 7), 1)
    assert merged[0, 0].tolist() == [1, 1, 1, 1, 3, 3, 0, 0, 0, 0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="share"):
        merge(torch.zeros(1, 1, 2, 2).bool(), torch.ones(1, 1).bool(), torch.zeros(1, 2, 2).long(), 1, share=2)
