r"""All masks of a picture: ask at every point of a grid, keep what is sure and firm, drop what was found twice.

    grid         n x n points at the centres of n x n cells, three masks for each
    sure         predicted IoU above a threshold
    firm         stability above a threshold: IoU of the mask cut at logit +1 with the mask cut at logit -1
    once         NMS at 0.7 of the boxes around the masks, the best predicted IoU first

Differs from the published generator: no crops, no removal of small holes and islands, and firmness is judged on the
decoder's own grid, a quarter of the picture's, so that only masks which are kept are enlarged.

Kirillov et al.: Segment Anything, 2023, arXiv:2304.02643 (appendix B).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculi.nn.prompt_encoder import ON
from oculi.ops.boxes import mask_boxes
from oculi.ops.nms import surviving
from oculi.types import Prompts

OVERLAP, MOST_MASKS, OFFSET = 0.7, 100, 1.0
POINTS_AT_ONCE = 64  # of the grid


def point_grid(side: int) -> Float[Tensor, "points 2"]:
    """`side`^2 places in [0, 1], row by row.

    >>> point_grid(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    along = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(along, along, indexing="xy"), -1).flatten(0, 1)


def stability(logits: Float[Tensor, "*n h w"], offset: float = OFFSET) -> Float[Tensor, "*n"]:
    """How little the mask depends on where its logits are cut; 0 for a mask that is empty either way.

    >>> stability(torch.tensor([[[5.0, 0.5, -5.0]]]))
    tensor([0.5000])
    """
    inner, outer = ((logits > cut).flatten(-2).sum(-1).to(logits.dtype) for cut in (offset, -offset))
    return inner / outer.clamp_min(1)


def everything(
    system: Any, image: Float[Tensor, "b 3 height width"], side: int, least_quality: float, least_stability: float
) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b d"], Bool[Tensor, "b d"]]:
    """What `select` leaves of the three masks at each point of the grid, `system` having `features` and `decode`."""
    features = system.features(image)
    places = point_grid(side).to(image) * image.new_tensor([image.shape[-1], image.shape[-2]])
    masks, quality = [], []
    for points in places.split(POINTS_AT_ONCE):
        asked = points[None, :, None].expand(image.shape[0], -1, -1, -1)
        decoded = system.decode(features, Prompts(asked, torch.full(asked.shape[:-1], ON, device=image.device)))
        masks.append(decoded.masks[:, :, 1:].flatten(1, 2))
        quality.append(decoded.quality[:, :, 1:].flatten(1, 2))
    return select(torch.cat(masks, 1), torch.cat(quality, 1), least_quality, least_stability)


def select(
    logits: Float[Tensor, "b n h w"], quality: Float[Tensor, "b n"], least_quality: float, least_stability: float
) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b d"], Bool[Tensor, "b d"]]:
    """The masks that stay, best first, as logits, with their scores and which of the d are any: d is the same for all."""
    good = (quality > least_quality) & (stability(logits) > least_stability)
    score = torch.where(good, quality, -torch.inf)
    score, order = score.topk(score.shape[1], 1)
    rows = torch.arange(logits.shape[0], device=logits.device)[:, None]
    logits = logits[rows, order]
    boxes = mask_boxes(logits > 0)
    first = surviving(boxes, score, torch.zeros_like(order), OVERLAP) & (score > -torch.inf)
    score = torch.where(first, score, -torch.inf)
    score, order = score.topk(min(MOST_MASKS, score.shape[1]), 1)
    found = score > -torch.inf
    return logits[rows, order], torch.where(found, score, 0.0), found
