r"""Learning from simulated clicks: eleven rounds (by default) with the truth as the user.

    round 1           a random pixel of the object or its box (the corners moved by noise of a tenth of its side)
    rounds 2 to 11    eight of them bring a click, two bring none: the last, and one at random among the others.
                      Each is given all that was said before and the mask of the round before, as logits.
    a click           a random pixel of where the last mask is wrong: on the object where it was missed, beside it where
                      too much was found

One backward pass goes through the sum of all rounds' losses; the mask that is fed back is a constant. Losses of a mask,
each a mean over the prompts:

    mask      20 focal + dice                 focal: (1 - p_t)^2 of binary cross-entropy, a quarter weight on the object
    quality   (predicted IoU - IoU)^2

In the first round the prompt may mean several things: three masks answer, only the lowest loss L = min_i L_i is
propagated (the other masks get no gradient), and the three predicted IoUs all learn. Later one mask answers.

Kirillov et al.: Segment Anything, 2023, arXiv:2304.02643 (section 3, appendix A); Lin et al.: Focal Loss for Dense Object
Detection, 2017, arXiv:1708.02002; Milletari et al.: V-Net, 2016, arXiv:1606.04797.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from oculi.nn.focal_loss import focal_loss
from oculi.nn.prompt_encoder import BESIDE, FIRST_CORNER, LAST_CORNER, NONE, ON
from oculi.ops.boxes import mask_boxes, paired_mask_iou
from oculi.types import Losses

FOCAL_WEIGHT = 20.0
JITTER, MOST_JITTER = 0.1, 20.0  # standard deviation, of the box's side, and its limit in pixels


def random_pixel(region: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 2"]:
    """The centre (x, y) of a random pixel of each region, of any pixel where the region is empty."""
    chance = region.flatten(1).float()
    chance = chance + (chance.sum(1, keepdim=True) == 0)
    index = torch.multinomial(chance, 1)[:, 0]
    return torch.stack([index % region.shape[2], index // region.shape[2]], 1) + 0.5


def jittered_boxes(truth: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 4"]:
    """The boxes of the masks as a hand might draw them."""
    boxes = mask_boxes(truth)
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = torch.randn_like(boxes) * JITTER * side
    return boxes + noise.clamp(-MOST_JITTER, MOST_JITTER)


def first_prompt(truth: Bool[Tensor, "n h w"]) -> tuple[Float[Tensor, "n 2 2"], Int[Tensor, "n 2"]]:
    """A point or a box for each mask, with equal chances, as two points and their labels."""
    boxes, place = jittered_boxes(truth), random_pixel(truth)
    boxed = torch.rand(len(truth), device=truth.device) < 0.5
    clicked = torch.stack([place, torch.zeros_like(place)], 1)
    points = torch.where(boxed[:, None, None], boxes.unflatten(1, (2, 2)), clicked)
    kinds = torch.tensor([[ON, NONE], [FIRST_CORNER, LAST_CORNER]], device=truth.device)
    return points, kinds[boxed.long()]


def next_click(
    said: Bool[Tensor, "n h w"], truth: Bool[Tensor, "n h w"]
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
    """A random pixel where the mask is wrong and what is true there; where all is right, a pixel of the object."""
    wrong = said ^ truth
    place = random_pixel(torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, truth))
    column, row = place.long().unbind(1)
    on = truth[torch.arange(len(truth), device=truth.device), row, column]
    return place, torch.where(on, ON, BESIDE)


def mask_loss(logits: Float[Tensor, "*n h w"], truth: Float[Tensor, "*n h w"]) -> tuple[Tensor, Tensor]:
    """Focal loss (mean over the pixels) and Dice loss of each mask."""
    logits, truth = logits.flatten(-2), truth.flatten(-2)
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * truth).sum(-1) + 1) / (chance.sum(-1) + truth.sum(-1) + 1)
    return focal_loss(logits, truth).mean(-1), dice


def candidate_losses(
    logits: Float[Tensor, "*n m h w"], quality: Float[Tensor, "*n m"], truth: Bool[Tensor, "*n h w"]
) -> Losses:
    """For each prompt the losses of the best of m masks, and the mean error of all m predicted IoUs."""
    wanted = truth[..., None, :, :].expand_as(logits)
    focal, dice = mask_loss(logits, wanted.to(logits))
    focal = FOCAL_WEIGHT * focal
    best = (focal + dice).argmin(-1, keepdim=True)
    return {
        "focal": focal.gather(-1, best)[..., 0],
        "dice": dice.gather(-1, best)[..., 0],
        "quality": (quality - paired_mask_iou(logits > 0, wanted)).square().mean(-1),
    }


def chosen_objects(masks: list[Tensor], most: int) -> tuple[Bool[Tensor, "b p ..."], Float[Tensor, "b p"]]:
    """Up to `most` random objects of each picture (or video), and 1 for those that are any."""
    blank = torch.zeros(most, *masks[0].shape[1:], dtype=torch.bool, device=masks[0].device)
    padded = pad_sequence([torch.cat([one, blank]) for one in masks], batch_first=True)
    solid = padded.flatten(2).any(2)
    chance = torch.rand(solid.shape, device=solid.device) + solid
    chosen = chance.topk(most, 1).indices
    rows = torch.arange(len(masks), device=solid.device)[:, None]
    return padded[rows, chosen], solid[rows, chosen].float()


def clicking(clicks: int) -> list[bool]:
    """For each round after the first, whether it brings a click: `clicks` of them do, the last and a random one do not."""
    silent = int(torch.randint(clicks + 1, ()))
    return [index != silent for index in range(clicks + 1)] + [False]
