r"""Mesh R-CNN: detected objects become voxels, the voxels a mesh, and the mesh learns where its vertices belong.

    detector    Faster R-CNN: its pyramid, its proposals, its boxes and classes
    regions     the square around each box, RoI Align to 6 x 6
    voxels      two fully connected layers, then for every class how probable each of 6^3 voxels is; that of the box's class
    cubify      a cube for every voxel of probability 0.5 or more (the best one, where there is none), inner faces removed
    refinement  per stage: the region's features where the vertex lies (bilinear), its place, and what the stage before
                said; three graph convolutions;  vertex += tanh(W f)
    graph       f_i' = ReLU(W0 f_i + W1 (mean of f_j over the neighbours j of i - f_i))

The frame is the object's cube of `data/world/solids.py`: the camera's axes, [-1, 1] each way. Losses, those of Faster
R-CNN and of foreground regions

    voxels      binary cross-entropy per voxel
    chamfer     of each stage: points on the mesh to the true surface and back, squared distances
    edges       of each stage, times 0.01: mean squared length of edges, so that triangles stay small

Differs from the paper: built on Faster R-CNN (masks are not needed here), orthographic cubes, features of the region rather
than of the picture, a voxel is occupied from 0.5 (0.2 there), no loss on normals. The voxel branch has fully connected
layers in place of convolutions: how deep an object is at a place depends on where in the object that is, and three
convolutions see too little of it (entropy 0.25 a voxel, 0.18 so, 0.11 by class). Neighbours are averaged and
compared, not summed: sums of many drown a vertex's own place.

Gkioxari, Malik, Johnson: Mesh R-CNN, 2019, arXiv:1906.02739.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.detect.faster_rcnn import FasterRCNN
from oculi.input_contract import InputContract
from oculi.nn.detection import objects_of, padded
from oculi.nn.regions import Regions
from oculi.ops.cubify import cubify
from oculi.ops.meshes import edges, nearest_distances, sample_surfaces
from oculi.predictions import Meshes
from oculi.system import System
from oculi.types import Batch, Losses

VOXELS, OCCUPIED, EDGES, GRAPH_LAYERS = 6, 0.5, 0.01, 3
FIRST_LOGIT = -2.0  # of voxels: meshes start small, and so quick


class GraphConvolution(nn.Module):
    """Each vertex looks at itself and, by other weights, at how its neighbours differ from it in the mean."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.own, self.neighbours = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Float[Tensor, "v inputs"], links: Int[Tensor, "e 2"]) -> Float[Tensor, "v outputs"]:
        other = self.neighbours(x)
        total = torch.zeros_like(other).index_add(0, links[:, 0], other[links[:, 1]])
        total = total.index_add(0, links[:, 1], other[links[:, 0]])
        count = torch.bincount(links.flatten(), minlength=len(x)).clamp_min(1)[:, None]
        return F.relu(self.own(x) + total / count - other)


class Refinement(nn.Module):
    """One stage: new places of all vertices and what was found out about them, for the next stage."""

    def __init__(self, channels: int, width: int, first: bool):
        super().__init__()
        sizes = [channels + 3 + (0 if first else width)] + [width + 3] * (GRAPH_LAYERS - 1)
        self.graph = nn.ModuleList(GraphConvolution(size, width) for size in sizes)
        self.move = nn.Linear(width + 3, 3)
        nn.init.normal_(self.move.weight, std=0.01)
        nn.init.zeros_(self.move.bias)

    def forward(
        self, place: Float[Tensor, "v 3"], seen: Float[Tensor, "v channels"], links: Int[Tensor, "e 2"]
    ) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "v width"]]:
        x = seen
        for layer in self.graph:
            x = layer(torch.cat([x, place], 1), links)
        return place + torch.tanh(self.move(torch.cat([x, place], 1))), x


class MeshRCNN(System):
    """Mesh R-CNN on Faster R-CNN. stages: of refinement; points: on each surface for the loss; the rest: see FasterRCNN."""

    answer = Meshes

    def __init__(
        self,
        num_classes: int = 9,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = False,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        channels: int = 256,
        hidden: int = 1024,
        anchors: list[int] = [32, 64, 128, 256, 512],  # noqa: B006
        proposals: int = 1000,
        stages: int = 3,
        points: int = 256,
        image_size: int = 512,
    ):
        super().__init__(InputContract(image_size, image_size))
        if stages < 0 or points < 1:
            raise ValueError(f"stages, points: expected at least 0 and 1, got {stages} and {points}")
        self.points = points
        self.detector = FasterRCNN(
            num_classes, depths, bottleneck, width, stem, channels, hidden, anchors, proposals, image_size=image_size
        )
        self.voxels = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * VOXELS**2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes * VOXELS**3),
            nn.Unflatten(1, (num_classes, VOXELS, VOXELS, VOXELS)),
        )
        nn.init.constant_(self.voxels[-2].get_parameter("bias"), FIRST_LOGIT)
        self.stages = nn.ModuleList(Refinement(channels, channels, stage == 0) for stage in range(stages))

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The pyramid's maps, finest first."""
        return self.detector.features(self.normalize(image))

    def regions(self, maps: list[Tensor], boxes: Float[Tensor, "b p 4"]) -> Float[Tensor, "n c bins bins"]:
        """The features of the square around each box, n = b * p."""
        return self.detector.pool(maps, squares(boxes), VOXELS)

    def voxels_of(self, regions: Float[Tensor, "n c bins bins"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n z y x"]:
        """Logits of the voxels of objects of these classes."""
        own = labels[:, None, None, None, None].expand(-1, -1, VOXELS, VOXELS, VOXELS)
        return self.voxels(regions).gather(1, own)[:, 0]

    def meshes(
        self, regions: Float[Tensor, "n c bins bins"], voxels: Bool[Tensor, "n d h w"]
    ) -> tuple[list[Float[Tensor, "v 3"]], Int[Tensor, "f 3"], Int[Tensor, " v"]]:
        """Vertices after 0, 1, ... stages, faces, and the region of each vertex."""
        place, faces, owner = cubify(voxels)
        links, seen, places = edges(faces), None, [place]
        for stage in self.stages:
            looked = look_up(regions, place, owner)
            place, seen = stage(place, looked if seen is None else torch.cat([looked, seen], 1), links)
            places.append(place)
        return places, faces, owner

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"], Float[Tensor, "b d z y x"]]:
        """Boxes, scores, labels and voxels (how probable each is) of d detections; what follows the last is 0."""
        maps = self.features(image)
        boxes, scores, labels = self.detector.detect(maps, list(image.shape[-2:]))
        voxels = self.voxels_of(self.regions(maps, boxes), labels.flatten()).sigmoid().unflatten(0, scores.shape)
        return boxes, scores, labels, voxels * (scores > 0)[..., None, None, None]

    def loss(self, batch: Batch) -> Losses:
        if batch.voxels is None or batch.surface is None:
            raise ValueError("batch.voxels, batch.surface: expected the shape of each object, got None")
        if any(len(v) and v.shape[1:] != (VOXELS,) * 3 for v in batch.voxels):
            raise ValueError(f"batch.voxels: expected {VOXELS} voxels each way, got {tuple(batch.voxels[0].shape[1:])}")
        truth, maps = objects_of(batch), self.features(batch.pictures)
        losses, regions = self.detector.learn(maps, truth, list(batch.pictures.shape[-2:]))
        surface = padded(batch.surface)
        return losses | self.shape_losses(maps, regions.foreground(), truth.kinds, padded(batch.voxels), surface)

    def shape_losses(
        self,
        maps: list[Tensor],
        regions: Regions,
        kinds: Int[Tensor, "b g"],
        voxels: Bool[Tensor, "b g d h w"],
        surface: Float[Tensor, "b g points 3"],
    ) -> Losses:
        """The losses of foreground regions' shapes; 0 where there is none."""
        chosen = regions.positive
        rows = torch.arange(len(voxels), device=chosen.device)[:, None].expand_as(chosen)[chosen]
        own = regions.object[chosen]
        seen = self.regions(maps, regions.boxes)[chosen.flatten()]
        logits, wanted = self.voxels_of(seen, kinds[rows, own]), voxels[rows, own]
        total = F.binary_cross_entropy_with_logits(logits, wanted.to(logits), reduction="sum")
        losses = {"voxels": total / max(1, logits.numel())}
        if not self.stages:
            return losses
        if not len(own):  # nothing to refine: nought times every weight, so that each has a gradient
            nothing = torch.stack([p.sum() for p in self.stages.parameters()]).sum() * 0
            return losses | {"chamfer": nothing, "edges": nothing}
        places, faces, owner = self.meshes(seen, occupied(logits.detach()))
        links, near, long = edges(faces), [], []
        for place in places[1:]:
            some = torch.randperm(surface.shape[2], device=place.device)[: self.points]
            there, back = nearest_distances(
                sample_surfaces(place, faces, owner, len(own), self.points), surface[:, :, some][rows, own]
            )
            near.append(there.mean() + back.mean())
            long.append(((place[links[:, 0]] - place[links[:, 1]]) ** 2).sum(1).mean())
        return losses | {"chamfer": torch.stack(near).mean(), "edges": EDGES * torch.stack(long).mean()}

    def predict(self, batch: Batch) -> list[Meshes]:
        maps = self.features(batch.pictures)
        found = self.detector.detect(maps, list(batch.pictures.shape[-2:]))
        return [self._shape([x[i : i + 1] for x in maps], *(x[i] for x in found)) for i in range(len(batch))]

    def _shape(self, maps: list[Tensor], boxes: Tensor, scores: Tensor, labels: Tensor) -> Meshes:
        some = scores > 0
        boxes = boxes[some]
        seen = self.regions(maps, boxes[None])
        places, faces, owner = self.meshes(seen, occupied(self.voxels_of(seen, labels[some])))
        square = squares(boxes)[owner]
        half = (square[:, 2:3] - square[:, :1]) / 2
        middle = F.pad((square[:, :2] + square[:, 2:]) / 2, (0, 1))
        rough, refined = (middle + half * place for place in (places[0], places[-1]))
        return Meshes(boxes, scores[some], labels[some], refined, faces, owner, rough, self.class_names)


def squares(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """The square around the middle of each box, as wide as its longer side."""
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]).amax(-1, keepdim=True) / 2
    return torch.cat([middle - half, middle + half], -1)


def occupied(logits: Float[Tensor, "n d h w"]) -> Bool[Tensor, "n d h w"]:
    """Voxels of probability 0.5 or more, and the best one of each region."""
    best = logits.flatten(1).amax(1)[:, None, None, None] if len(logits) else logits
    return (logits.sigmoid() >= OCCUPIED) | (logits == best)


def look_up(
    regions: Float[Tensor, "n c h w"], place: Float[Tensor, "v 3"], owner: Int[Tensor, " v"]
) -> Float[Tensor, "v c"]:
    """Each vertex's features from the map of its region, bilinear at its x and y."""
    size = regions.shape[-1]
    at = ((place[:, :2] + 1) * size / 2 - 0.5).clamp(0, size - 1)
    low = at.floor().long().clamp_max(size - 2)
    share = at - low
    flat = regions.permute(0, 2, 3, 1)
    (x, y), (u, v) = low.unbind(1), share[..., None].unbind(1)
    above = flat[owner, y, x] * (1 - u) + flat[owner, y, x + 1] * u
    below = flat[owner, y + 1, x] * (1 - u) + flat[owner, y + 1, x + 1] * u
    return above * (1 - v) + below * v
