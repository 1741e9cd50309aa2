r"""Composing: new pictures with objects out of several, and their truth with them.

    mosaic   four pictures, each shrunk until it just fills its quadrant, meet at a random point
    paste    objects of another picture, cut out by their masks, moved by whole pixels, in front of what is there

Masks, boxes, label maps and keypoints follow: what the border of a tile or a pasted object hides is cut off, a box whose
mask has changed is the tight one around what is still seen, and an object of which less than the share `keep` is left goes.
Points that are hidden count as labelled but not visible (1), those outside as unlabelled (0).

    Composing(mosaic=0.5, paste=0.5)          a recipe's  training: {compose: {mosaic: 0.5, paste: 0.5}}

Bochkovskiy, Wang, Liao: YOLOv4, 2020, arXiv:2004.10934 (mosaic, there at random crops of the tiles).
Ghiasi et al.: Simple Copy-Paste is a Strong Data Augmentation Method, 2020, arXiv:2012.07177 (there with scale jitter).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.data.augment import refuse_geometry, warp
from oculi.ops.boxes import mask_boxes
from oculi.types import Batch

OBJECTS = ("boxes", "labels", "masks", "crowd", "keypoints")


@dataclass(frozen=True)
class Composing:
    """mosaic, paste: the share of pictures that become one, or get objects; keep: share of an object that must be left;
    objects: share of the other picture's objects that are pasted; move: how far at most, of the picture's side.
    """

    mosaic: float = 0.0
    paste: float = 0.0
    keep: float = 0.1
    objects: float = 0.5
    move: float = 0.25

    def __post_init__(self) -> None:
        for spec in fields(self):
            if not 0 <= getattr(self, spec.name) <= 1:
                raise ValueError(f"{spec.name}: expected a share from 0 to 1, got {getattr(self, spec.name)}")

    def __call__(self, batch: Batch) -> Batch:
        """A composed copy of the batch."""
        n, (height, width) = len(batch), batch.pictures.shape[-2:]
        if batch.label is not None:
            raise ValueError("batch.label: a picture made of several has no one label; mix is for those")
        refuse_geometry(batch)
        batch = replace(batch, caption=None, questions=None, referring=None)
        if self.paste:
            size = torch.tensor([width, height])
            shift = ((torch.rand(n, 2) * 2 - 1) * self.move * size).round().long()
            partner, happens = torch.randperm(n), torch.rand(n) < self.paste
            counts = [len(batch.boxes[k]) if batch.boxes is not None else 0 for k in partner.tolist()]
            chosen = [(torch.rand(c) < self.objects) & h for c, h in zip(counts, happens, strict=True)]
            batch = paste(batch, partner, chosen, shift, self.keep)
        if self.mosaic:
            tiles = torch.stack([torch.arange(n), *(torch.randperm(n) for _ in range(3))])
            center = (0.25 + 0.5 * torch.rand(n, 2)) * torch.tensor([width, height])
            made, happens = mosaic(batch, tiles, center.round(), self.keep), torch.rand(n) < self.mosaic
            batch = either(happens, made, batch)
        return batch


def either(which: Bool[Tensor, " b"], one: Batch, other: Batch) -> Batch:
    """Picture by picture, the first batch's where `which` is true."""
    changed: dict[str, Any] = {}
    for name in ("image", "semantic", "panoptic", *OBJECTS):
        first, second = getattr(one, name), getattr(other, name)
        if isinstance(first, Tensor):
            changed[name] = torch.where(which.to(first.device).reshape(-1, *[1] * (first.ndim - 1)), first, second)
        elif first is not None:
            changed[name] = [a if w else b for w, a, b in zip(which.tolist(), first, second, strict=True)]
    return replace(other, **changed)


def taken(batch: Batch, rows: Int[Tensor, " b"]) -> Batch:
    """The pictures of these rows with their truth."""
    changed: dict[str, Any] = {}
    for name in ("image", "semantic", "panoptic", *OBJECTS):
        value = getattr(batch, name)
        if value is not None:
            changed[name] = (
                value[rows.to(value.device)] if isinstance(value, Tensor) else [value[k] for k in rows.tolist()]
            )
    return replace(batch, **changed)


# mosaic ---------------------------------------------------------------------------------------------------------------


def mosaic(batch: Batch, tiles: Int[Tensor, "4 b"], center: Float[Tensor, "b 2"], keep: float = 0.0) -> Batch:
    """Pictures `tiles` at the upper left, upper right, lower left and lower right of the whole pixels `center` (x, y)."""
    image = batch.pictures
    height, width = image.shape[-2:]
    size, zero = torch.tensor([width, height]), torch.zeros_like(center)
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    parts: list[Batch] = []
    insides = []
    for q, rows in enumerate(tiles):
        right, lower = q % 2, q // 2
        low = torch.stack([center[:, 0] if right else zero[:, 0], center[:, 1] if lower else zero[:, 1]], 1)
        high = torch.where(torch.tensor([bool(right), bool(lower)]), size.to(center), center)
        scale = ((high - low) / size).amax(1)
        shift = torch.where(torch.tensor([bool(right), bool(lower)]), center, center - scale[:, None] * size)
        matrices = torch.zeros(len(rows), 3, 3)
        matrices[:, 0, 0] = matrices[:, 1, 1] = scale
        matrices[:, :2, 2], matrices[:, 2, 2] = shift, 1
        given = taken(batch, rows)
        moved = warp(replace(given, boxes=None), matrices.to(image))
        (x1, y1), (x2, y2) = low.T[:, :, None, None], high.T[:, :, None, None]
        inside = ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).to(image.device)
        if given.boxes is not None:
            boxes = [b * s + t.repeat(2) for b, s, t in zip(given.boxes, scale.to(image), shift.to(image), strict=True)]
            moved = _cut(replace(moved, boxes=boxes), inside, torch.cat([low, high], 1).to(image), keep)
        parts.append(moved)
        insides.append(inside)
    return _joined(batch, parts, insides)


def _joined(batch: Batch, parts: list[Batch], insides: list[Tensor]) -> Batch:
    """One picture of each tile's part."""
    changed: dict[str, Any] = {"image": sum(p.pictures * i[:, None] for p, i in zip(parts, insides, strict=True))}
    if batch.semantic is not None:
        changed["semantic"] = sum(p.semantic * i for p, i in zip(parts, insides, strict=True))  # type: ignore[misc, operator]
    if batch.panoptic is not None:
        most, joined = torch.zeros(len(batch), 1, 1).to(batch.panoptic), torch.zeros_like(batch.panoptic)
        for part, inside in zip(parts, insides, strict=True):
            joined = torch.where(inside & (part.panoptic > 0), part.panoptic + most, joined)  # type: ignore[operator]
            most = torch.maximum(most, joined.amax((1, 2), keepdim=True))
        changed["panoptic"] = joined
    for name in OBJECTS:
        if getattr(batch, name) is not None:
            changed[name] = [torch.cat(some) for some in zip(*(getattr(p, name) for p in parts), strict=True)]
    return replace(batch, **changed)


def _cut(batch: Batch, inside: Bool[Tensor, "b h w"], windows: Float[Tensor, "b 4"], keep: float) -> Batch:
    """Objects as far as they lie in their window; what is left of them must be enough."""
    changed: dict[str, list[Tensor]] = {name: [] for name in OBJECTS if getattr(batch, name) is not None}
    for i, (boxes, window) in enumerate(zip(batch.boxes or [], windows, strict=True)):
        cut = torch.maximum(torch.minimum(boxes, window[2:].repeat(2)), window[:2].repeat(2))
        share = (cut[:, 2:] - cut[:, :2]).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp_min(1e-9)
        stays = (cut[:, 2:] - cut[:, :2] >= 1).all(1) & (share >= keep)
        parts = {name: getattr(batch, name)[i] for name in changed}
        if batch.masks is not None:
            parts["masks"] = batch.masks[i] & inside[i]
            cut, stays = mask_boxes(parts["masks"]), stays & parts["masks"].flatten(1).any(1)
        if batch.keypoints is not None:
            parts["keypoints"] = _unlabelled_outside(batch.keypoints[i], window)
        parts["boxes"] = cut.to(boxes)
        for name, value in parts.items():
            changed[name].append(value[stays])
    return replace(batch, **changed)  # type: ignore[arg-type]


def _unlabelled_outside(points: Float[Tensor, "n k 3"], window: Float[Tensor, "4"]) -> Float[Tensor, "n k 3"]:
    place = points[..., :2]
    return points * ((place >= window[:2]) & (place < window[2:])).all(-1, keepdim=True)


# copy and paste -------------------------------------------------------------------------------------------------------


def paste(
    batch: Batch, partner: Int[Tensor, " b"], chosen: list[Tensor], shift: Int[Tensor, "b 2"], keep: float = 0.0
) -> Batch:
    """Into each picture the `chosen` objects of its partner's (no crowd regions), moved by `shift` pixels (x, y)."""
    if batch.masks is None or batch.boxes is None or batch.labels is None:
        raise ValueError("batch.masks, batch.boxes, batch.labels: expected all to cut objects out by, got None")
    rows = [
        _pasted(batch, i, k, which.to(batch.pictures.device), shift[i].tolist(), keep)
        for i, (k, which) in enumerate(zip(partner.tolist(), chosen, strict=True))
    ]
    changed: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        changed[name] = values if name in OBJECTS else torch.stack(values)
    return replace(batch, **changed)


def _pasted(batch: Batch, i: int, k: int, which: Tensor, shift: list[int], keep: float) -> dict[str, Tensor]:
    """Picture `i` with objects of picture `k`."""
    assert batch.masks is not None
    assert batch.boxes is not None
    height, width = batch.pictures.shape[-2:]
    if batch.crowd is not None:
        which = which & ~batch.crowd[k]
    cut = batch.masks[k][which]
    new = shifted(cut, shift)
    there = new.flatten(1).any(1)
    whole = new.flatten(1).sum(1) == cut.flatten(1).sum(1)
    front = new.any(0)
    old = batch.masks[i] & ~front
    before, after = batch.masks[i].flatten(1).sum(1), old.flatten(1).sum(1)
    stays = (after > 0) & (after >= keep * before) | (before == 0)
    moved = torch.where(
        whole[:, None], batch.boxes[k][which] + torch.tensor([*shift] * 2).to(batch.boxes[k]), mask_boxes(new)
    )
    boxes = torch.where((after < before)[:, None], mask_boxes(old).to(batch.boxes[i]), batch.boxes[i])
    row: dict[str, Tensor] = {
        "image": torch.where(front, shifted(batch.pictures[k], shift), batch.pictures[i]),
        "boxes": torch.cat([boxes[stays], moved[there].to(boxes)]),
        "masks": torch.cat([old[stays], new[there]]),
    }
    for name in ("labels", "crowd"):
        value = getattr(batch, name)
        if value is not None:
            row[name] = torch.cat([value[i][stays], value[k][which][there]])
    if batch.semantic is not None:
        row["semantic"] = torch.where(front, shifted(batch.semantic[k], shift), batch.semantic[i])
    if batch.panoptic is not None:
        other = shifted(batch.panoptic[k], shift)
        above = torch.where(other > 0, other + batch.panoptic[i].max(), 0)
        row["panoptic"] = torch.where(front, above, batch.panoptic[i])
    if batch.keypoints is not None:
        window = torch.tensor([0, 0, width, height]).to(batch.pictures)
        points = batch.keypoints[k][which] + torch.tensor([*shift, 0]).to(batch.keypoints[k])
        here = _hidden(batch.keypoints[i], front)
        row["keypoints"] = torch.cat([here[stays], _unlabelled_outside(points, window)[there]])
    return row


def _hidden(points: Float[Tensor, "n k 3"], front: Bool[Tensor, "h w"]) -> Float[Tensor, "n k 3"]:
    """Visible points (2) behind what is in front become 1."""
    x, y = points[..., 0].long().clamp(0, front.shape[1] - 1), points[..., 1].long().clamp(0, front.shape[0] - 1)
    seen = torch.where(front[y, x], points[..., 2].clamp_max(1), points[..., 2])
    return torch.cat([points[..., :2], seen[..., None]], -1)


def shifted(value: Tensor, shift: list[int]) -> Tensor:
    """Moved by whole pixels (x, y); zeros come in."""
    height, width = value.shape[-2:]
    x, y = shift
    moved = torch.zeros_like(value)
    if abs(x) < width and abs(y) < height:
        to_y, to_x = slice(max(y, 0), height + min(y, 0)), slice(max(x, 0), width + min(x, 0))
        from_y, from_x = slice(max(-y, 0), height + min(-y, 0)), slice(max(-x, 0), width + min(-x, 0))
        moved[..., to_y, to_x] = value[..., from_y, from_x]
    return moved
