r"""Meshes of several objects side by side: vertices V x 3 of all of them, faces by vertex number, the owner of each.

    edges     every side of a triangle once                 neighbours of a vertex: the other ends of its edges
    points    on the surface, by area: a triangle with probability area / total, in it (1 - sqrt u) a + sqrt u (1 - v) b +
              sqrt u v c; differentiable in the vertices
    chamfer   mean distance from each point to the nearest of the other set, both ways

Osada et al.: Shape Distributions, 2002. Gkioxari, Malik, Johnson: Mesh R-CNN, 2019, arXiv:1906.02739.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def edges(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "e 2"]:
    """Every edge once, the smaller number first.

    >>> edges(torch.tensor([[0, 1, 2], [2, 1, 3]])).tolist()
    [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
    """
    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    most = int(faces.max()) + 1 if len(faces) else 1
    key = (ends.amin(1) * most + ends.amax(1)).unique()  # quicker than unique rows
    return torch.stack([key // most, key % most], 1)


def surface_areas(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, " f"]:
    """Half the length of each triangle's cross product."""
    a, b, c = vertices[faces].unbind(1)
    return ((torch.linalg.cross(b - a, c - a) ** 2).sum(1) + 1e-20).sqrt() / 2


def sample_surfaces(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], owner: Int[Tensor, " v"], objects: int, count: int
) -> Float[Tensor, "objects count 3"]:
    """`count` random points on each object's surface. Every object needs a face."""
    mine = owner[faces[:, 0]]
    order = mine.argsort(stable=True)
    faces, mine = faces[order], mine[order]
    share = torch.bincount(mine, minlength=objects)
    if not bool((share > 0).all()):
        raise ValueError(
            f"faces: expected at least one of each of {objects} objects, got none of {int(share.argmin())}"
        )
    with torch.no_grad():
        area = surface_areas(vertices, faces).double()
        total = area.cumsum(0)
        last = share.cumsum(0)
        end = total[last - 1]
        start = torch.cat([end.new_zeros(1), end[:-1]])
        at = start[:, None] + (end - start)[:, None] * torch.rand(objects, count, dtype=area.dtype, device=area.device)
        chosen = torch.searchsorted(total, at.flatten()).reshape(objects, count)
        chosen = torch.minimum(torch.maximum(chosen, (last - share)[:, None]), (last - 1)[:, None])
    a, b, c = vertices[faces[chosen]].unbind(2)
    u, v = torch.rand(2, objects, count, 1, device=vertices.device)
    root = u.sqrt()
    return (1 - root) * a + root * (1 - v) * b + root * v * c


def nearest_distances(
    one: Float[Tensor, "n p 3"], other: Float[Tensor, "n q 3"]
) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n q"]]:
    """From every point to the nearest of the other set, both ways, squared. Gradients are of the nearest pairs."""
    with torch.no_grad():
        apart = torch.cdist(one, other)
        there, back = apart.argmin(2), apart.transpose(1, 2).contiguous().argmin(2)  # along memory: 15 times quicker
    nearest, backwards = (
        points.gather(1, index[..., None].expand(-1, -1, 3)) for points, index in ((other, there), (one, back))
    )
    return ((one - nearest) ** 2).sum(2), ((other - backwards) ** 2).sum(2)


def chamfer(one: Float[Tensor, "n p 3"], other: Float[Tensor, "n q 3"]) -> Float[Tensor, " n"]:
    """Mean distance to the nearest point of the other set, averaged over both ways.

    >>> chamfer(torch.zeros(1, 1, 3), torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]]))
    tensor([2.])
    """
    there, back = nearest_distances(one, other)
    return (there.sqrt().mean(1) + back.sqrt().mean(1)) / 2
