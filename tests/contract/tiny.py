"""Tiny systems and batches for the contract tests: each system is built once per worker."""

import functools

import torch

from oculi import catalogue
from oculi.data.world.solids import VOXELS
from oculi.learn.training import build, system_class
from oculi.system import System
from oculi.types import Batch

SYSTEMS = [r for r in catalogue.recipes() if issubclass(system_class(r), System)]
LEARNERS = [r for r in SYSTEMS if system_class(r).can("loss") and not system_class(r).can("collect")]
PICTURES = [r for r in SYSTEMS if "predict" not in r.cannot and not system_class(r).can("collect")]


def fresh(recipe, seed: int = 0) -> System:
    torch.manual_seed(seed)
    return build(recipe, tiny=True)


@functools.cache
def ready(recipe_id: str) -> System:
    return fresh(catalogue.recipe(recipe_id)).eval()


def batch_for(system: System, n: int = 4, seed: int = 0) -> Batch:
    """Random pictures with every kind of truth, as the system's contract wants them."""
    from oculi.geometry.camera import Camera, intrinsics, look_at

    g = torch.Generator().manual_seed(seed)
    c = system.contract
    shape = (n, c.channels, c.height, c.width)
    classes = system.config.get("num_classes") or 2
    boxes = [torch.tensor([[2.0, 2, c.width * 0.6, c.height * 0.7], [1.0, 3, c.width * 0.9, c.height * 0.9]])] * n
    block = torch.zeros(2, VOXELS, VOXELS, VOXELS, dtype=torch.bool)
    block[:, 2:4, 2:4, 2:4] = True
    own = torch.Generator().manual_seed(seed + 1)
    corners = torch.cat([boxes[0][:, :2], boxes[0][:, 2:]], 1).reshape(2, 2, 2)
    points = corners[:, torch.arange(system.config.get("keypoints") or 2) % 2]
    eyes = torch.tensor([[3.0, 0.5 * i, 1.0] for i in range(n)])
    camera = Camera(
        intrinsics(c.width, c.width, c.width / 2, c.height / 2).expand(n, 3, 3),
        look_at(eyes, torch.zeros(n, 3), torch.tensor([0.0, 0.0, 1.0])),
        c.height,
        c.width,
    )
    image = torch.rand(shape, generator=g)
    y, x = torch.meshgrid(torch.arange(c.height) + 0.5, torch.arange(c.width) + 0.5, indexing="ij")
    masks = torch.stack([(x > x1) & (x < x2) & (y > y1) & (y < y2) for x1, y1, x2, y2 in boxes[0].tolist()])
    return Batch(
        image=image,
        next_image=image.roll(1, -1),
        depth=2 + image.mean(1),
        next_depth=2 + image.mean(1).roll(1, -1),
        next_camera=Camera(camera.K, camera.world_to_camera.roll(1, 0), c.height, c.width),
        right_image=image.roll(-1, -1),
        label=torch.arange(n) % classes,
        boxes=boxes,
        labels=[torch.tensor([0, classes - 1])] * n,
        masks=[masks] * n,
        voxels=[block] * n,
        surface=[torch.rand(2, 32, 3, generator=own) * 2 - 1] * n,
        keypoints=[torch.cat([points, torch.full_like(points[..., :1], 2)], -1)] * n,
        video=torch.stack([image, image.roll(2, -1)], 1),
        video_masks=[torch.stack([masks, masks.roll(2, -1)], 1)] * n,
        semantic=torch.randint(0, classes, (n, c.height, c.width), generator=g),
        camera=camera,
    )
