r"""Augmentation on whole batches: pictures, boxes, masks, label maps and keypoints move together.

    Augment(flip=0.5, shift=0.1, rotate=0.2, scale=0.1, brightness=0.2, contrast=0.2, noise=0.02)

Each image gets one random affine map; boxes become the tight upright box around their four moved corners, clipped to
the picture, and objects that leave it are dropped. What comes in from outside repeats the picture's edge, is ignored in
label maps and empty in masks. Random numbers come from torch's generator. Mixing pictures is `oculi.data.mixing`, learned
policies are `oculi.data.policies`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oculi.data import colour
from oculi.types import IGNORE, Batch


@dataclass(frozen=True)
class Augment:
    """flip, flip_vertical: probability of a mirror image; shift: of the side; rotate: radians; scale: relative; crop: least
    side of a random window, of the picture's, which then fills the picture (0 = none); keep: share of a box that must stay
    inside, or the object is dropped; brightness, contrast, saturation: relative; hue: in turns; noise: standard deviation;
    erase: largest side of a grey rectangle, of the picture's.
    """

    flip: float = 0.0
    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    erase: float = 0.0
    flip_vertical: float = 0.0
    crop: float = 0.0
    keep: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "flip_vertical", "crop", "keep"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")

    def __call__(self, batch: Batch) -> Batch:
        """An augmented copy of the batch."""
        if batch.image is None:
            raise ValueError("batch.image: there is nothing to augment")
        if self._moves():
            refuse_geometry(batch)
            batch = warp(batch, self._matrices(len(batch), *batch.image.shape[-2:]).to(batch.image), self.keep)
        return replace(batch, image=self._colour(batch.pictures))

    def _moves(self) -> bool:
        return any((self.flip, self.shift, self.rotate, self.scale, self.flip_vertical, self.crop))

    def _matrices(self, n: int, height: int, width: int) -> Float[Tensor, "n 3 3"]:
        """Maps from original to augmented pixels, about the picture's centre."""
        angle = _uniform(n) * self.rotate
        size = 1 + _uniform(n) * self.scale
        mirror = torch.where(torch.rand(n) < self.flip, -1.0, 1.0)
        cos, sin = angle.cos() * size, angle.sin() * size
        matrix = torch.zeros(n, 3, 3)
        matrix[:, 0, 0], matrix[:, 0, 1] = cos * mirror, -sin
        matrix[:, 1, 0], matrix[:, 1, 1] = sin * mirror, cos
        matrix[:, 2, 2] = 1
        center = torch.tensor([width / 2, height / 2])
        moved = _uniform(n, 2) * self.shift * torch.tensor([width, height])
        matrix[:, :2, 2] = center + moved - (matrix[:, :2, :2] @ center[:, None])[..., 0]
        if self.flip_vertical:
            upside = torch.eye(3).repeat(n, 1, 1)
            down = torch.rand(n) < self.flip_vertical
            upside[down, 1, 1], upside[down, 1, 2] = -1.0, float(height)
            matrix = matrix @ upside
        if self.crop:
            matrix = matrix @ _windows(n, height, width, self.crop)
        return matrix

    def _colour(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        n = len(image)
        if self.contrast:
            image = colour.contrast(image, 1 + self.contrast * _uniform(n).to(image))
        if self.brightness:
            image = colour.brightness(image, 1 + self.brightness * _uniform(n).to(image))
        if self.saturation:
            image = colour.saturation(image, 1 + self.saturation * _uniform(n).to(image))
        if self.hue:
            image = colour.hue(image, self.hue * _uniform(n).to(image))
        if self.noise:
            image = image + self.noise * torch.randn_like(image)
        if self.erase:
            image = _erase(image, self.erase)
        return image.clamp(0, 1)


def _uniform(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1


def _windows(n: int, height: int, width: int, least: float) -> Float[Tensor, "n 3 3"]:
    """Maps that let a random window, its sides `least` to all of the picture's, fill the picture."""
    share = least + (1 - least) * torch.rand(n)
    corner = torch.rand(n, 2) * (1 - share)[:, None] * torch.tensor([width, height])
    matrix = torch.zeros(n, 3, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / share
    matrix[:, :2, 2] = -corner / share[:, None]
    matrix[:, 2, 2] = 1
    return matrix


def _erase(image: Float[Tensor, "b c h w"], largest: float) -> Float[Tensor, "b c h w"]:
    n, _, height, width = image.shape
    y, x = torch.arange(height), torch.arange(width)
    sizes, centers = torch.rand(n, 2) * largest / 2, torch.rand(n, 2)
    inside_y = ((y + 0.5) / height - centers[:, :1]).abs() < sizes[:, :1]
    inside_x = ((x + 0.5) / width - centers[:, 1:]).abs() < sizes[:, 1:]
    hole = (inside_y[:, :, None] & inside_x[:, None, :])[:, None].to(image.device)
    return torch.where(hole, image.mean((2, 3), keepdim=True), image)


def refuse_geometry(batch: Batch) -> None:
    """Raise ValueError when the batch holds what an affine map of the picture would make wrong."""
    exact = (
        "depth",
        "normals",
        "flow",
        "disparity",
        "camera",
        "next_depth",
        "next_camera",
        "voxels",
        "surface",
        "video",
    )
    for name in exact:
        if getattr(batch, name) is not None:
            raise ValueError(f"batch.{name}: exact geometry cannot be warped; use colour augmentation alone")


def warp(batch: Batch, matrices: Float[Tensor, "b 3 3"], keep: float = 0.0) -> Batch:
    """Apply one affine map per image (original to new pixel coordinates) to everything that the batch holds; objects of
    which less than the share `keep` stays inside are dropped."""
    assert batch.image is not None
    height, width = batch.image.shape[-2:]
    grid = _sampling_grid(matrices, height, width)
    changed: dict[str, object] = {
        "image": F.grid_sample(batch.image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    }
    for name, fill in (("semantic", IGNORE), ("panoptic", 0)):
        value = getattr(batch, name)
        if value is not None:
            changed[name] = _sample_labels(value[:, None], grid, fill)[:, 0]
    if batch.masks is not None:
        changed["masks"] = [
            _sample_labels(m[None], grid[i : i + 1], 0)[0] if len(m) else m for i, m in enumerate(batch.masks)
        ]
    if batch.keypoints is not None:
        changed["keypoints"] = [
            torch.cat([_move(k[..., :2], m), k[..., 2:]], -1) for k, m in zip(batch.keypoints, matrices, strict=True)
        ]
    if batch.boxes is not None:
        changed |= _warp_boxes(replace(batch, **changed), matrices, height, width, keep)  # type: ignore[arg-type]
    return replace(batch, **changed)  # type: ignore[arg-type]


def smaller(batch: Batch, share: float) -> Batch:
    """Pictures with only so much of their side, and boxes, masks, maps and points with them; objects whose box or mask
    vanishes (less than a pixel) go."""
    refuse_geometry(batch)
    before = batch.pictures.shape[-2:]
    size = [max(1, round(share * side)) for side in before]
    changed: dict[str, object] = {"image": F.interpolate(batch.pictures, size=size, mode="bilinear", antialias=True)}
    for name in ("semantic", "panoptic"):
        value = getattr(batch, name)
        if value is not None:
            changed[name] = _shrunk(value, size)
    factor = torch.tensor([size[1] / before[1], size[0] / before[0], 1.0]).to(batch.pictures)
    if batch.keypoints is not None:
        changed["keypoints"] = [points * factor for points in batch.keypoints]
    if batch.masks is not None:
        changed["masks"] = [_shrunk(masks, size) for masks in batch.masks]
    if batch.boxes is not None:
        changed["boxes"] = [boxes * factor[[0, 1, 0, 1]] for boxes in batch.boxes]
        changed |= _still_there(replace(batch, **changed))  # type: ignore[arg-type]
    return replace(batch, **changed)  # type: ignore[arg-type]


def _shrunk(maps: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(maps[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(maps.dtype)


def _still_there(batch: Batch) -> dict[str, list[Tensor]]:
    names = [name for name in ("boxes", "labels", "masks", "crowd", "keypoints") if getattr(batch, name) is not None]
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    for i, boxes in enumerate(batch.boxes or []):
        stays = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        if batch.masks is not None:
            stays = stays & batch.masks[i].flatten(1).any(1)
        for name in names:
            kept[name].append(getattr(batch, name)[i][stays])
    return kept


def _sampling_grid(matrices: Tensor, height: int, width: int) -> Float[Tensor, "b h w 2"]:
    """For every new pixel, where to look in the original, in grid_sample's [-1, 1]."""
    to_unit = torch.tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1.0]]).to(matrices)
    unit = to_unit @ torch.linalg.inv(matrices) @ torch.linalg.inv(to_unit)
    return F.affine_grid(unit[:, :2], [len(matrices), 1, height, width], align_corners=False)


def _sample_labels(value: Tensor, grid: Tensor, fill: int) -> Tensor:
    shifted = value.to(torch.float32) - fill  # so that grid_sample's zero padding means `fill`
    return (F.grid_sample(shifted, grid, mode="nearest", align_corners=False) + fill).round().to(value.dtype)


def _move(points: Float[Tensor, "*n 2"], matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "*n 2"]:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def _warp_boxes(batch: Batch, matrices: Tensor, height: int, width: int, keep: float) -> dict[str, list[Tensor]]:
    """Moved boxes; what has left the picture (less than one pixel wide or high) goes, with all that belongs to it."""
    moved: dict[str, list[Tensor]] = {"boxes": []}
    companions = [name for name in ("labels", "masks", "crowd", "keypoints") if getattr(batch, name) is not None]
    for name in companions:
        moved[name] = []
    for index, (boxes, matrix) in enumerate(zip(batch.boxes or [], matrices, strict=True)):
        corners = _move(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), matrix)
        limit = boxes.new_tensor([width, height])
        low = torch.minimum(corners.amin(1).clamp_min(0), limit)
        high = torch.minimum(corners.amax(1).clamp_min(0), limit)
        whole = (corners.amax(1) - corners.amin(1)).prod(1)
        stays = ((high - low) >= 1).all(1) & ((high - low).prod(1) >= keep * whole)
        moved["boxes"].append(torch.cat([low, high], 1)[stays])
        for name in companions:
            moved[name].append(getattr(batch, name)[index][stays])
    return moved
