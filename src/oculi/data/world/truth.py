r"""What is true of a rendered scene: boxes, masks, keypoints, words, 3D boxes, motion and disparity, computed, not guessed.

flow       project(point moved with its object, second camera) - pixel centre
disparity  focal * baseline / depth
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.data.world.render import Rendered, rays, to_local, to_world
from oculi.data.world.scenes import COLOUR_NAMES, TEXTURE_WORDS, TEXTURES, Scenes
from oculi.data.world.shapes import SHAPES, dot, extreme, half_extents

LEAST_PIXELS = 8  # an object that shows less is not named, boxed or masked


def visible(slot: Int[Tensor, "n height width"], most: int) -> Bool[Tensor, "n k height width"]:
    """Masks of all objects by slot; those of objects that show too little are empty."""
    masks = slot[:, None] == torch.arange(most)[:, None, None]
    return masks & (masks.sum((2, 3), keepdim=True) >= LEAST_PIXELS)


def boxes3d(scenes: Scenes) -> Float[Tensor, "n k 7"]:
    """x y z of the centre, length width height along the turned x, y and the vertical, and yaw; world axes, radians."""
    extents = half_extents(scenes.kind, scenes.size)
    sides = torch.where(scenes.tilted, extents[[2, 1, 0]], extents) * 2
    return torch.cat([scenes.center, sides, scenes.yaw[None]]).permute(1, 2, 0).contiguous()


KEYPOINTS = ("top", "bottom", "left", "right", "middle")


def keypoints(scenes: Scenes, rendered: Rendered) -> Float[Tensor, "n k 5 3"]:
    """x, y in pixels of each object's extreme points up, down, left and right across the line of sight, and of its middle.

    The third number is 2 where no other thing hides the point, 1 where one does, and 0, as x and y are, outside the picture.
    """
    (n, most), size = scenes.kind.shape, rendered.depth.shape[-1]
    toward = scenes.center - scenes.eye[..., None]
    flat = (toward[0] * toward[0] + toward[1] * toward[1]).sqrt()
    level, one = torch.zeros_like(flat), torch.ones_like(flat)
    up = torch.stack([level, level, one])
    right = torch.stack([toward[1] / flat, -toward[0] / flat, level])  # across the line of sight
    axes = scenes.axes
    found = []
    for direction in (up, -up, -right, right):
        local = torch.stack([dot(axes[:, b], direction) for b in range(3)])
        point = extreme(scenes.kind, local, scenes.size)
        found.append(scenes.center + torch.stack([dot(axes[a], point) for a in range(3)]))
    offset = torch.stack([*found, scenes.center], -1) - scenes.eye[..., None, None]
    x, y, z = (dot(row[..., None, None], offset) for row in scenes.view)
    scale = (scenes.focal * size)[:, None, None] / z
    x, y = x * scale + size / 2, y * scale + size / 2
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    scene = torch.arange(n)[:, None, None]
    row, column = (v.clamp(0, size - 1).long() for v in (y, x))
    own = rendered.slot[scene, row, column] == torch.arange(most)[:, None]
    seen = own | (rendered.depth[scene, row, column] >= z)
    flag = torch.where(seen, 2.0, 1.0)
    return torch.stack([x, y, flag], -1) * inside[..., None]


def flow(first: Scenes, second: Scenes, rendered: Rendered) -> Float[Tensor, "n 2 height width"]:
    """Where each pixel's surface point is one step later, minus where it is: (dx, dy) in pixels."""
    n, size = rendered.depth.shape[:2]
    point = first.eye[:, :, None, None] + rendered.depth * rays(first, size)
    flat = point.reshape(3, -1).clone()
    owner = rendered.slot + torch.arange(n)[:, None, None] * first.kind.shape[1]
    hit = (rendered.slot >= 0).reshape(-1).nonzero()[:, 0]
    body = owner.reshape(-1)[hit]
    local = to_local(first, body, flat[:, hit])
    flat[:, hit] = to_world(second, body, local) + second.center.reshape(3, -1)[:, body]
    offset = flat.reshape(3, n, -1) - second.eye[:, :, None]
    x, y, z = (dot(second.view[row][..., None], offset) for row in range(3))
    scale = (second.focal * size)[:, None] / z
    there = torch.stack([x * scale, y * scale], 1).reshape(n, 2, size, size) + size / 2
    place = torch.arange(size) + 0.5
    here = torch.stack([place.expand(size, size), place[:, None].expand(size, size)])
    return there - here


def disparity(scenes: Scenes, depth: Float[Tensor, "n h w"], baseline: float) -> Float[Tensor, "n h w"]:
    """Pixels that a point moves left in a camera `baseline` metres to the right."""
    return (scenes.focal * depth.shape[-1] * baseline)[:, None, None] / depth


def words(scenes: Scenes, scene: int, slot: int) -> tuple[str, str, str]:
    """Colour, texture and shape of an object, in words; a photograph as texture has no colour."""
    texture = int(scenes.texture[scene, slot])
    shape = SHAPES[int(scenes.kind[scene, slot])]
    if texture == len(TEXTURES):
        return "", "photographic", shape
    return COLOUR_NAMES[int(scenes.colour[scene, slot])], TEXTURE_WORDS[texture], shape


def phrase(parts: tuple[str, str, str]) -> str:
    """`red striped sphere`; `plain` goes without saying."""
    return " ".join(part for part in parts if part and part != "plain")


def caption(names: list[tuple[str, str, str]]) -> str:
    """`a red striped sphere and an orange box`, in the order of the objects; `nothing` for an empty scene."""
    if not names:
        return "nothing"
    parts = [("an " if phrase(p)[0] in "aeiou" else "a ") + phrase(p) for p in names]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def questions(names: list[tuple[str, str, str]], boxes: Float[Tensor, "n 4"]) -> list[tuple[str, str]]:
    """Questions with their answers: counts, presence, colours of what is unique, the sides."""
    shapes = [shape for _, _, shape in names]
    asked = [("how many objects are there?", str(len(names)))]
    for shape in SHAPES:
        count = shapes.count(shape)
        asked.append((f"is there a {shape}?", "yes" if count else "no"))
        asked.append((f"how many {_plural(shape)} are there?", str(count)))
    for colour, texture, shape in names:
        if shapes.count(shape) == 1:
            if colour:
                asked.append((f"what colour is the {shape}?", colour))
            asked.append((f"what texture has the {shape}?", texture))
    if len(names) > 1:
        across = (boxes[:, 0] + boxes[:, 2]) / 2
        if across.min() < across.sort().values[1]:
            asked.append(("what shape is furthest left?", shapes[int(across.argmin())]))
    return asked


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith(("x", "s")) else "s")


def referring(names: list[tuple[str, str, str]], boxes: Float[Tensor, "n 4"]) -> list[tuple[str, int]]:
    """Phrases that fit one object only, with its number: by shape, by colour and shape, in full, or by side."""
    found = []
    for index, (colour, texture, shape) in enumerate(names):
        for keep in ((0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1)):
            chosen = tuple(p for p, k in zip((colour, texture, shape), keep, strict=True) if k)
            fits = [n for n in names if tuple(p for p, k in zip(n, keep, strict=True) if k) == chosen]
            if len(fits) == 1:
                found.append(("the " + " ".join(p for p in chosen if p), index))
                break
    for shape in SHAPES:
        same = [i for i, n in enumerate(names) if n[2] == shape]
        if len(same) > 1:
            across = (boxes[same, 0] + boxes[same, 2]) / 2
            order = across.argsort().tolist()
            if across[order[0]] < across[order[1]]:
                found.append((f"the {shape} furthest left", same[order[0]]))
            if across[order[-1]] > across[order[-2]]:
                found.append((f"the {shape} furthest right", same[order[-1]]))
    return found
