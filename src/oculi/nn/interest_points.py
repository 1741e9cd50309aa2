r"""Interest points on a grid of 8 x 8 cells: what each cell is to say, and how wrong it is, as SuperPoint learns it.

    cell       65 channels: the 64 pixels of the cell row by row, and the dustbin, for a cell without a point
    detector   L_p = mean over cells of -log softmax(x)[y]      one class of 65, not 64 binary questions
    descriptor L_d = 1 / (Hc Wc)^2 sum_{h,w,h',w'} [ l_d s max(0, m_p - d.d') + (1 - s) max(0, d.d' - m_n) ]
               s = 1 where |H p_hw - p_h'w'| <= 8: the centre of cell (h, w), moved by H, lies within 8 pixels

Cells that show what lies outside the picture can be left out; the means are then over the others.

DeTone, Malisiewicz, Rabinovich: SuperPoint: Self-Supervised Interest Point Detection and Description, 2018,
arXiv:1712.07629, section 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.geometry.camera import pixel_centers
from oculi.geometry.homography import apply_homography

CELL = 8
DUSTBIN = CELL * CELL


def cell_labels(points: Bool[Tensor, "b h w"]) -> Int[Tensor, "b rows columns"]:
    """The channel that each cell is to choose; of several points in a cell one, by chance."""
    chance = points * (1 + torch.rand(points.shape, device=points.device))
    most, place = F.pixel_unshuffle(chance[:, None], CELL).max(1)
    return torch.where(most > 0, place, DUSTBIN)


def pixel_scores(logits: Float[Tensor, "b 65 rows columns"]) -> Float[Tensor, "b h w"]:
    """The probability of each pixel to be a point: softmax over 65, the dustbin dropped, cells laid out."""
    return F.pixel_shuffle(logits.softmax(1)[:, :-1], CELL)[:, 0]


def detector_loss(
    logits: Float[Tensor, "b 65 rows columns"],
    labels: Int[Tensor, "b rows columns"],
    known: Bool[Tensor, "b rows columns"] | None = None,
) -> Float[Tensor, ""]:
    """L_p over the cells that are `known`."""
    each = F.cross_entropy(logits, labels, reduction="none")
    return each.mean() if known is None else (each * known).sum() / known.sum().clamp_min(1)


def matching_cells(H: Float[Tensor, "b 3 3"], rows: int, columns: int) -> Bool[Tensor, "b rows columns rows columns"]:
    """s: which cells of the second picture each cell of the first lands on, within 8 pixels between centres."""
    centres = (pixel_centers(rows, columns) * CELL).to(H)
    moved = apply_homography(H, centres.expand(len(H), -1, 2))
    near = torch.linalg.norm(moved[:, :, None] - centres, dim=-1) <= CELL
    return near.unflatten(2, (rows, columns)).unflatten(1, (rows, columns))


def descriptor_hinge_loss(
    first: Float[Tensor, "b d rows columns"],
    second: Float[Tensor, "b d rows columns"],
    matching: Bool[Tensor, "b rows columns rows columns"],
    positive_weight: float = 250.0,
    positive_margin: float = 1.0,
    negative_margin: float = 0.2,
    known: Bool[Tensor, "b rows columns"] | None = None,
) -> Float[Tensor, ""]:
    """L_d of unit descriptors over all pairs of cells, of the second picture those that are `known`."""
    dot = torch.einsum("bdhw,bdij->bhwij", first, second)
    pull = positive_weight * (positive_margin - dot).clamp_min(0)
    push = (dot - negative_margin).clamp_min(0)
    each = torch.where(matching, pull, push)
    if known is None:
        return each.mean()
    seen = known[:, None, None].expand_as(each)
    return (each * seen).sum() / seen.sum().clamp_min(1)
