r"""Pointmaps: how far the points are from the true ones after one scale per pair, and what follows from them.

Both orders of each pair are asked, so that the same picture's points are known in both cameras' axes. The scene's size is
the diagonal of the box that holds the true points of both views.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculi.classical.dust3r import mean_distance, pnp_pose, swapped, true_pointmaps
from oculi.data.datasets import Splits, batches
from oculi.geometry.camera import intrinsics, pixel_centers
from oculi.geometry.pointmaps import focal_length, pointmap_depth, reciprocal_matches, relative_pose
from oculi.geometry.rotations import rotation_error
from oculi.metrics.classification import roc_area
from oculi.system import System, predict
from oculi.types import Batch

VISIBLE = 0.05  # of the depth: nearer than that to the surface which the other view sees, a point is seen by it


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """pointmap_error (mean, as a share of the scene's size), first_error and second_error (of each view), beside
    mean_map_error (of the split's mean map, which looks at no picture); depth_absrel (after median scaling); focal_error
    (relative, mean); rotation_error, direction_error of the pose, and pnp_rotation_error by PnP with the focal length found
    (degrees, medians; pnp_found: share of pairs where it was possible); match_error (pixels, median over reciprocal matches
    of points seen in both) and matches_near (within a twentieth of the side); confidence_auc (that of two pixels of which
    one errs by more than its pair's median the other is the surer)."""
    rows: dict[str, list[Tensor]] = {}
    maps, masks = [], []
    for batch in batches(getattr(splits, split), 16):
        true, valid = true_pointmaps(batch)
        there, confidence = _answers(system, batch)
        back, back_confidence = _answers(system, swapped(batch))
        found = {"error": errors(there, true, valid), "valid": valid.float(), "confidence": confidence}
        found["focal"] = (focal_length(there[:, 0], confidence[:, 0]) / _focal(batch) - 1).abs()
        pose = relative_pose(there[:, 0], back[:, 1], confidence[:, 0], back_confidence[:, 1])
        found["rotation"], found["direction"] = pose_errors(pose.R, pose.t, batch)
        focal = focal_length(back[:, 0], back_confidence[:, 0])
        turned = torch.stack([by_pnp(*one) for one in zip(there[:, 1], focal, confidence[:, 1])])
        found["pnp"], _ = pose_errors(turned, pose.t, batch)
        found["absrel"] = absrel(pointmap_depth(there[:, 0]), pointmap_depth(true[:, 0]), valid[:, 0])
        found["match"] = torch.cat([match_errors(there[i], true[i], batch, i) for i in range(len(batch))])
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
        maps.append(true / mean_distance(true, valid)[:, None, None, None, None])
        masks.append(valid)
    table = {name: torch.cat(values) for name, values in rows.items()}
    true, valid = torch.cat(maps), torch.cat(masks)
    typical = true.mean(0, keepdim=True).expand_as(true)
    return _figures(table, errors(typical, true, valid), true.shape[-2])


def _figures(table: dict[str, Tensor], typical: Tensor, side: int) -> dict[str, float]:
    error, known = table["error"], table["valid"] > 0
    middle = error.masked_fill(~known, torch.nan).flatten(1).nanmedian(1).values[:, None, None, None]
    near = (error <= middle)[known][::8]
    figures = {
        "pointmap_error": _mean(error, known),
        "first_error": _mean(error[:, 0], known[:, 0]),
        "second_error": _mean(error[:, 1], known[:, 1]),
        "mean_map_error": _mean(typical, known),
        "depth_absrel": float(table["absrel"].mean()),
        "focal_error": float(table["focal"].mean()),
        "rotation_error": float(table["rotation"].median()),
        "direction_error": float(table["direction"].median()),
        "pnp_rotation_error": float(table["pnp"].nanmedian()),
        "pnp_found": float(table["pnp"].isfinite().float().mean()),
        "confidence_auc": roc_area(table["confidence"][known][::8], near.long()),
    }
    if len(table["match"]):
        figures["match_error"] = float(table["match"].median())
        figures["matches_near"] = float((table["match"] <= side / 20).float().mean())
    return figures


def _answers(system: System, batch: Batch) -> tuple[Float[Tensor, "b 2 h w 3"], Float[Tensor, "b 2 h w"]]:
    answers = [answer.cpu() for answer in predict(system, batch)]
    points = torch.stack([answer.points for answer in answers])  # type: ignore[attr-defined]
    return points, torch.stack([answer.confidence for answer in answers])  # type: ignore[attr-defined]


def _mean(values: Tensor, known: Tensor) -> float:
    return float(values[known].mean())


def _focal(batch: Batch) -> Float[Tensor, " b"]:
    if batch.camera is None:
        raise ValueError("dataset: expected samples with cameras")
    return batch.camera.K[:, 0, 0]


def errors(
    found: Float[Tensor, "b 2 h w 3"], true: Float[Tensor, "b 2 h w 3"], valid: Bool[Tensor, "b 2 h w"]
) -> Float[Tensor, "b 2 h w"]:
    """Distances after the scale of least squares, as shares of the scene's size."""
    mask = valid[..., None]
    along = (found * true * mask).flatten(1).sum(1) / (found.square() * mask).flatten(1).sum(1).clamp_min(1e-12)
    far = torch.tensor(torch.inf)
    low = torch.where(mask, true, far).flatten(1, 3).amin(1)
    high = torch.where(mask, true, -far).flatten(1, 3).amax(1)
    size = torch.linalg.norm(high - low, dim=-1).clamp_min(1e-12)
    distance = torch.linalg.norm(along[:, None, None, None, None] * found - true, dim=-1)
    return distance / size[:, None, None, None]


def pose_errors(
    R: Float[Tensor, "b 3 3"], t: Float[Tensor, "b 3"], batch: Batch
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Angles in degrees between rotations, and between directions of translation, from camera 1 to camera 2."""
    if batch.camera is None or batch.next_camera is None:
        raise ValueError("dataset: expected samples with both cameras")
    one, two = batch.camera.world_to_camera.double(), batch.next_camera.world_to_camera.double()
    motion = two @ torch.linalg.inv(one)
    straight = torch.nn.functional.cosine_similarity(t.double(), motion[:, :3, 3], dim=1)
    direction = torch.rad2deg(straight.clamp(-1, 1).acos())
    return rotation_error(R, motion[:, :3, :3]).float(), direction.float()


def by_pnp(
    points: Float[Tensor, "h w 3"], focal: Float[Tensor, ""], confidence: Float[Tensor, "h w"]
) -> Float[Tensor, "3 3"]:
    """The rotation to the camera of a pointmap's picture; NaN where there is no consensus."""
    height, width = confidence.shape
    K = intrinsics(float(focal), float(focal), width / 2, height / 2)
    try:
        return pnp_pose(points, K, confidence, threshold=height / 20, share=0.25).model[:3, :3].to(points)
    except ValueError:
        return torch.full((3, 3), torch.nan)


def absrel(
    depth: Float[Tensor, "b h w"], true: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"]
) -> Float[Tensor, " b"]:
    """Mean of |d - d*| / d* after the medians were made equal."""
    middle = [torch.where(valid, d, torch.nan).flatten(1).nanmedian(1).values for d in (depth, true)]
    scaled = depth * (middle[1] / middle[0])[:, None, None]
    relative = torch.where(valid, (scaled - true).abs() / true.clamp_min(1e-9), 0.0)
    return relative.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp_min(1)


def match_errors(
    found: Float[Tensor, "2 h w 3"], true: Float[Tensor, "2 h w 3"], batch: Batch, i: int
) -> Float[Tensor, " matches"]:
    """Pixels between where a match says that a pixel of the first view is in the second and where it is, for those that
    are seen in both."""
    if batch.camera is None or batch.next_camera is None or batch.next_depth is None:
        raise ValueError("dataset: expected samples with both cameras and next_depth")
    height, width = true.shape[1:3]
    pairs = reciprocal_matches(found[0].reshape(-1, 3), found[1].reshape(-1, 3))
    camera, other = batch.camera[i], batch.next_camera[i]
    world = (true[0].reshape(-1, 3)[pairs[:, 0]] - camera.t) @ camera.R
    pixel, depth = other.project(world)
    inside = ((pixel >= 0) & (pixel < pixel.new_tensor([width, height]))).all(-1) & (depth > 0)
    x, y = torch.where(inside[:, None], pixel, 0.0).long().unbind(-1)
    seen = inside & ((batch.next_depth[i, y, x] - depth).abs() <= VISIBLE * depth)
    said = pixel_centers(height, width)[pairs[:, 1]]
    return torch.linalg.norm(said - pixel, dim=-1)[seen]
