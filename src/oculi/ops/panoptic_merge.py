r"""Things and stuff in one map without overlap: the merging rule of panoptic segmentation.

    instances, best first:   rest_i = mask_i minus the kept masks before it;  kept if |rest_i| >= share * |mask_i|
    stuff                    what is left goes to its class, unless that class then has less than `least` of the picture

Whether an instance is kept depends on those before it alone, so sweeps over all instances at once settle one more each
time at least, as for non-maximum suppression, and mostly all of them in two or three.

Kirillov, He, Girshick, Rother, Dollar: Panoptic Segmentation, 2018, arXiv:1801.00868.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop


def merge(
    masks: Bool[Tensor, "b n h w"],
    wanted: Bool[Tensor, "b n"],
    stuff: Int[Tensor, "b h w"],
    kinds: int,
    share: float = 0.5,
    least: float = 0.005,
) -> Int[Tensor, "b h w"]:
    """The segment of every pixel: 0 none, 1 .. n instances in the order given, n + 1 .. n + kinds stuff.

    masks: instances, best first, of which only the `wanted` count; stuff: its class, `kinds` or more where it is none.

    >>> masks = torch.tensor([[[[True, True, False, False]], [[False, True, True, False]]]])
    >>> merge(masks, torch.tensor([[True, True]]), torch.zeros(1, 1, 4).long(), 1)
    tensor([[[1, 1, 2, 3]]])
    """
    if not 0 <= share <= 1 or not 0 <= least <= 1:
        raise ValueError(f"share, least: expected 0 to 1, got {share} and {least}")
    solid = (masks & wanted[..., None, None]).to(torch.float32)
    area = solid.sum((2, 3))

    def swept(keep: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        rest = solid * (_covered(solid, keep) == 0)
        return ((rest.sum((2, 3)) >= share * area) & (area > 0)).to(keep), keep.clone()

    def moving(keep: Tensor, before: Tensor) -> Tensor:
        return (keep != before).any()

    keep, before = torch.ones_like(area), torch.zeros_like(area)
    if torch.compiler.is_exporting():
        keep = while_loop(moving, swept, (keep, before))[0]  # a loop of the exported graph
    else:
        while moving(keep, before):
            keep, before = swept(keep, before)
    mine = solid * (_covered(solid, keep) == 0) * keep[..., None, None]
    number = torch.arange(1, masks.shape[1] + 1, device=masks.device)
    things = (mine * number[:, None, None]).sum(1).long()
    free = (things == 0) & (stuff < kinds)
    classes = torch.arange(kinds, device=masks.device)[:, None, None]
    regions = free[:, None] & (stuff[:, None] == classes)
    enough = regions.sum((2, 3), keepdim=True) >= least * stuff.shape[-1] * stuff.shape[-2]
    return things + (regions * enough * (classes + masks.shape[1] + 1)).sum(1)


def _covered(solid: Float[Tensor, "b n h w"], keep: Float[Tensor, "b n"]) -> Float[Tensor, "b n h w"]:
    """How many kept masks before each one cover a pixel."""
    kept = solid * keep[..., None, None]
    return kept.cumsum(1) - kept
