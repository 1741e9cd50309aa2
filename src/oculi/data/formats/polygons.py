r"""Outlines: polygons around a bitmap's pixels, which `run_length.fill` turns into the same bitmap again.

    . 1 1     the border runs along the pixels' edges:   1 0  3 0  3 2  2 2  2 1  1 1
    . . 1

A hole joins the border around it by a bridge that is walked both ways, so it is crossed twice and changes nothing; COCO's
tools fill such a polygon as we do. Pixels that touch only at a corner are two outlines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from torch import Tensor

_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])  # right, down, left, up: the pixel lies to the right hand


def polygons(mask: Bool[Tensor, "height width"]) -> list[list[float]]:
    """One polygon x1 y1 x2 y2 ... for each connected region, its holes bridged."""
    loops = [np.concatenate([loop, loop[:1]]) for loop in _loops(mask.cpu().numpy())]
    outer = [k for k, loop in enumerate(loops) if _area(loop) > 0]
    holes = sorted(set(range(len(loops))) - set(outer), key=lambda k: -int(loops[k][0, 1]))
    for k in holes:  # the lowest first, so that a hole brings along those that hang on it
        x, y = loops[k][0]
        above = [(int(c[(c[:, 0] == x) & (c[:, 1] < y), 1].max(initial=-1)), j) for j, c in enumerate(loops) if j != k]
        level, parent = max(above)
        border = loops[parent]
        place = int(np.flatnonzero((border == (x, level)).all(1))[0])
        loops[parent] = np.concatenate([border[: place + 1], loops[k], border[place:]])
        loops[k] = np.zeros((0, 2), dtype=np.int64)
    return [_corners(loops[k]).ravel().astype(float).tolist() for k in outer]


def joined(parts: Sequence[Sequence[float]]) -> list[float]:
    """Several polygons as one: each hangs on what is joined so far by a bridge between their nearest corners.

    >>> joined([[0, 0, 1, 0, 1, 1], [2, 0, 3, 0, 3, 1]])
    [0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 3.0, 1.0, 2.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    """
    whole = np.zeros((0, 2))
    for part in (np.asarray(one, dtype=np.float64).reshape(-1, 2) for one in parts):
        if not len(whole):
            whole = part
            continue
        far = ((whole[:, None] - part[None]) ** 2).sum(-1)
        at, start = divmod(int(far.argmin()), len(part))
        turned = np.roll(part, -start, 0)
        whole = np.concatenate([whole[: at + 1], turned, turned[:1], whole[at:]])
    return whole.ravel().tolist()


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether two of its edges cross inside both; touching is fine, and so are bridges, edges that are walked both ways.

    >>> crosses_itself([0, 0, 2, 2, 2, 0, 0, 2]), crosses_itself([0, 0, 2, 0, 2, 2, 0, 2])
    (True, False)
    """
    start = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    end = np.roll(start, -1, 0)
    if not _cross(start, end):
        return False
    walked = set(map(tuple, np.concatenate([start, end], 1).tolist()))
    single = np.array([(*e, *s) not in walked for s, e in zip(start.tolist(), end.tolist(), strict=True)])
    return _cross(start[single], end[single])


def _cross(start: np.ndarray, end: np.ndarray) -> bool:
    along = end - start
    sides = []
    for point in (start, end):
        offset = point[None] - start[:, None]
        sides.append(np.sign(along[:, None, 0] * offset[..., 1] - along[:, None, 1] * offset[..., 0]))
    apart = sides[0] * sides[1] < 0  # edge j has its ends on both sides of edge i
    return bool((apart & apart.T).any())


def polygon_box(parts: Sequence[Sequence[float]]) -> list[float]:
    """x1 y1 x2 y2 around polygons."""
    corners = np.concatenate([np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in parts])
    return [*corners.min(0).tolist(), *corners.max(0).tolist()]


def _loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed walks along the borders, each from its highest, then leftmost corner, a corner per pixel edge."""
    tails, directions = _edges(mask)
    if not len(tails):
        return []
    following = _following(tails, directions, mask.shape[1] + 2)
    leader, distance = _ranked(following, np.lexsort((tails[:, 0], tails[:, 1])).argsort())
    order = np.lexsort((distance, leader))
    starts = np.flatnonzero(np.diff(leader[order], prepend=-1))
    return np.split(tails[order], starts[1:])


def _edges(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (x, y) where unit edges begin, and the edges' directions, clockwise around what is true."""
    framed = np.pad(mask, 1)
    inner = framed[1:-1, 1:-1]
    tails, directions = [], []
    neighbours = (framed[:-2, 1:-1], framed[1:-1, 2:], framed[2:, 1:-1], framed[1:-1, :-2])
    for direction, (other, (dx, dy)) in enumerate(zip(neighbours, ((0, 0), (1, 0), (1, 1), (0, 1)), strict=True)):
        y, x = np.nonzero(inner & ~other)
        tails.append(np.stack([x + dx, y + dy], 1))
        directions.append(np.full(len(x), direction))
    return np.concatenate(tails), np.concatenate(directions)


def _following(tails: np.ndarray, directions: np.ndarray, stride: int) -> np.ndarray:
    """The edge after each one: at a corner of two pixels that only touch, the walk turns right and stays at its own."""
    heads = tails + _STEPS[directions]
    key = (tails[:, 1] * stride + tails[:, 0]) * 4 + directions
    order = np.argsort(key)
    table, best = key[order], np.full(len(tails), -1)
    for turn in (3, 0, 1):  # left, straight on, right: the last one found wins
        wanted = (heads[:, 1] * stride + heads[:, 0]) * 4 + (directions + turn) % 4
        place = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
        best = np.where(table[place] == wanted, order[place], best)
    return best


def _ranked(following: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each edge of closed walks the least rank on its walk and how many steps it comes after that edge."""
    least, jump = rank.copy(), following.copy()
    for _ in range(int(np.ceil(np.log2(len(rank)))) + 1):
        least, jump = np.minimum(least, least[jump]), jump[jump]
    leads = least == rank
    ahead, jump = np.where(leads, 0, 1), np.where(leads, np.arange(len(rank)), following)
    for _ in range(int(np.ceil(np.log2(len(rank)))) + 1):
        ahead, jump = ahead + ahead[jump], jump[jump]
    length = np.bincount(least, minlength=len(rank))[least]
    return least, (length - ahead) % length


def _area(loop: np.ndarray) -> float:
    x, y = loop[:, 0].astype(float), loop[:, 1].astype(float)
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def _corners(walk: np.ndarray) -> np.ndarray:
    """The walk without its last corner, which is the first, and without those that it passes straight on."""
    walk = walk[:-1]
    walk = walk[(walk != np.roll(walk, 1, 0)).any(1)]
    before, after = walk - np.roll(walk, 1, 0), np.roll(walk, -1, 0) - walk
    return walk[(np.sign(before) != np.sign(after)).any(1)]
