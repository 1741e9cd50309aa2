r"""Meshes: how far the surfaces of found objects are from the true ones, and from those of the unrefined cubes.

The Chamfer distance is the mean distance of points on one surface to the nearest on the other, averaged over both ways, as
a share of the object's size (its cube's side); both are in the object's own cube, so boxes do not count here but in map50.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from oculi.data.datasets import Splits, batches
from oculi.metrics.detection import Objects, coco
from oculi.ops.boxes import box_iou
from oculi.ops.meshes import chamfer, sample_surfaces
from oculi.predictions import Detections, Meshes
from oculi.system import System, predict

OVERLAP, POINTS = 0.5, 4096  # so that distances between points are small beside those of surfaces


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """chamfer and cubes (before refinement) as shares of the object's size, chamfer_to_cubes, found (the share of objects
    that a box of their class overlaps by half), map50. What is undefined, as where nothing is found, is left out."""
    near: list[Tensor] = []
    boxes: list[Detections] = []
    truths: list[Objects] = []
    for batch in batches(getattr(splits, split), 32):
        if batch.surface is None or batch.boxes is None or batch.labels is None:
            raise ValueError("dataset: its samples have no boxes, labels or surface")
        for i, one in enumerate(predict(system, batch)):
            mesh = cast(Meshes, one.cpu())
            boxes.append(Detections(mesh.boxes, mesh.scores, mesh.labels))
            truths.append(Objects(batch.boxes[i], batch.labels[i]))
            near.append(distances(mesh, batch.boxes[i], batch.labels[i], batch.surface[i]))
    each = torch.cat(near)
    known = each[~each.isnan().any(1)].mean(0).tolist()
    classes = len(splits.class_names) if splits.class_names else 0
    figures = {"chamfer": known[0], "cubes": known[1], "chamfer_to_cubes": known[0] / max(known[1], 1e-9)}
    found = float((~each.isnan().any(1)).float().mean())
    figures |= {"found": found, "map50": coco(boxes, truths, classes).average_precision(0.5)}
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def distances(mesh: Meshes, boxes: Tensor, labels: Tensor, surface: Tensor) -> Tensor:
    """For every true object, Chamfer distance of the refined and of the rough mesh of the best detection of it; else NaN."""
    result = torch.full((len(boxes), 2), torch.nan)
    if not len(mesh.boxes) or not len(boxes):
        return result
    fits = (box_iou(boxes, mesh.boxes) >= OVERLAP) & (labels[:, None] == mesh.labels)
    best = torch.where(fits, mesh.scores, -1.0).argmax(1)
    found = fits.any(1)
    rough = mesh.vertices if mesh.rough is None else mesh.rough
    middle = (mesh.boxes[:, :2] + mesh.boxes[:, 2:]) / 2
    half = (mesh.boxes[:, 2:] - mesh.boxes[:, :2]).amax(1) / 2
    shift = torch.nn.functional.pad(middle, (0, 1))[mesh.owner]
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    for column, vertices in enumerate((mesh.vertices, rough)):
        own = (vertices - shift) / half[mesh.owner, None]
        points = sample_surfaces(own, mesh.faces, mesh.owner, len(mesh.boxes), POINTS)
        result[found, column] = chamfer(points[best[found]], surface[found]) / 2
    torch.set_rng_state(generator_state)
    return result
