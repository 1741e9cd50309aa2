r"""Depth from one picture: the usual figures, beside those of an answer that does not look at the picture.

abs_rel, sq_rel, rmse, rmse_log, delta_1, delta_2, delta_3     of the depth said, in metres, see `oculi.metrics.depth`
scaled_...                    the same after each map has been brought to the truth's median
mean_abs_rel, mean_delta_1    of the training pictures' mean depth, pixel by pixel, as the answer to everything
rotation_error                where the system tells camera motion (`motion`) and the samples are videos with their
                              cameras: mean angle in degrees between the rotation said and the true one, for each two
                              frames that follow each other; `still_rotation_error` of saying that nothing moves;
                              `direction_error` between the directions of translation
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.data.datasets import Dataset, Splits, batches
from oculi.metrics.depth import depth_errors, measured, median_scaled
from oculi.system import System, evaluating, predict
from oculi.types import Batch

MOST = 500  # training pictures that the mean is taken over


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """Means over pictures; depth beyond the system's `farthest` counts as unknown."""
    farthest, rows, motions = getattr(system, "farthest", math.inf), [], []
    mean = mean_depth(splits.train, farthest)
    for batch in batches(getattr(splits, split), 16):
        truth = _truth(batch)
        known = measured(truth) & (truth < farthest)
        said = torch.stack([answer.depth.cpu() for answer in predict(system, batch)])  # type: ignore[attr-defined]
        row = depth_errors(said, truth, known)
        scaled = depth_errors(median_scaled(said, truth, known), truth, known)
        row |= {f"scaled_{name}": value for name, value in scaled.items()}
        unseen = depth_errors(mean.expand_as(truth), truth, known)
        rows.append(row | {f"mean_{name}": unseen[name] for name in ("abs_rel", "delta_1")})
        if hasattr(system, "motion") and batch.video is not None and batch.camera is not None:
            motions.append(_motion_errors(system, batch))
    figures = {name: float(torch.cat([row[name] for row in rows]).mean()) for name in rows[0]}
    if motions:
        names = ("rotation_error", "still_rotation_error", "direction_error")
        figures |= dict(zip(names, torch.cat(motions).mean(0).tolist(), strict=True))
    return figures


def mean_depth(dataset: Dataset, farthest: float = math.inf) -> Float[Tensor, "1 h w"]:
    """Pixel by pixel, over what is known; where it never is, the mean of all."""
    stride = max(1, len(dataset) // MOST)
    total, count = torch.zeros(()), torch.zeros(())
    for index in range(0, len(dataset), stride):
        depth = dataset[index].depth
        if depth is None:
            raise ValueError("dataset: its samples have no depth")
        known = measured(depth) & (depth < farthest)
        total, count = total + torch.where(known, depth, 0.0), count + known
    if not bool(count.any()):
        raise ValueError("dataset: expected samples of known depth, got none")
    return torch.where(count > 0, total / count.clamp_min(1), total.sum() / count.sum())[None]


def _truth(batch: Batch) -> Float[Tensor, "b h w"]:
    if batch.depth is None:
        raise ValueError("dataset: its samples have no depth")
    return batch.depth


def _motion_errors(system: Any, batch: Batch) -> Float[Tensor, "pairs 3"]:
    """Degrees between said and true rotation, of the true rotation, and between the translations, pair by pair."""
    assert batch.video is not None
    assert batch.camera is not None
    pose = batch.camera.world_to_camera
    if pose.ndim != 4:
        raise ValueError("dataset: expected the camera of every frame, got one for the whole video")
    true = (pose[:, 1:] @ torch.linalg.inv(pose[:, :-1])).flatten(0, 1).double()
    with evaluating(system):
        pairs = (batch.video[:, at].flatten(0, 1).to(system.device) for at in (slice(None, -1), slice(1, None)))
        said = system.motion(*pairs).cpu().double()
    still = torch.eye(3, dtype=torch.float64).expand(len(true), 3, 3)
    along, truly = (torch.nn.functional.normalize(T[:, :3, 3], dim=1) for T in (said, true))
    direction = torch.rad2deg(2 * ((along - truly).norm(dim=1) / 2).clamp_max(1).asin())
    turned = [angle_between(R, true[:, :3, :3]) for R in (said[:, :3, :3], still)]
    return torch.stack([*turned, direction], 1)


def angle_between(first: Float[Tensor, "*b 3 3"], second: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Degrees between two rotations, exact for small angles too: |R - S|_F = 2 sqrt(2) sin(angle / 2)."""
    half = torch.linalg.matrix_norm(first - second) / math.sqrt(8)
    return torch.rad2deg(2 * half.clamp_max(1).asin())
