r"""Semi-global matching: costs of every disparity at every pixel, made smooth along straight paths through the picture.

    C(p, d)    how unlike left(x, y) and right(x - d, y) are
    L_r(p, d)  = C(p, d) + min( L_r(p - r, d), L_r(p - r, d +- 1) + P1, min_k L_r(p - r, k) + P2 ) - min_k L_r(p - r, k)
    S(p, d)    = sum over paths r of L_r(p, d);   disparity(p) = argmin_d S(p, d)

P1 is the price of a slope, P2 that of a jump. L_r <= max C + P2, so 16 bits hold it all. A path that enters the picture
begins with L_r = C.

The cost is the Hamming distance of two census words: a bit for each neighbour that is darker than the pixel, so that
exposure and gain cancel. With n bits as numbers +-1 it would be (n - a . b) / 2; here it is an XOR and a count.

    left, right   batch x 1 x H x W
    cost, S       batch x disparities x H x W, int16
    disparity     batch x H x W, pixels: left(x, y) shows what right(x - d, y) shows

All three downward (or upward) paths advance together, one picture row after the other; the same loop over the transposed
picture serves the two horizontal ones. Nothing else loops.

Differs from the paper: census in place of mutual information; P2 is constant.

Hirschmuller: Accurate and efficient stereo processing by semi-global matching and mutual information, CVPR 2005.
Zabih, Woodfill: Non-parametric local transforms for computing visual correspondence, ECCV 1994.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Int16, Int32
from torch import Tensor
from torch.nn import functional as F

LARGEST = 32767
ROWS = 32  # of the picture handled at once, so that what is at work stays in the cache


def census(image: Float[Tensor, "b 1 h w"], radius: int = 2) -> Int32[Tensor, "b h w"]:
    """A word per pixel: a bit for each neighbour in the window that is darker, the edge repeated."""
    if radius not in (1, 2):
        raise ValueError(f"radius: expected 1 or 2 (8 or 24 bits), got {radius}")
    side = 2 * radius + 1
    height, width = image.shape[-2:]
    padded = F.pad(image, (radius,) * 4, mode="replicate")[:, 0]
    words = torch.zeros(image.shape[0], height, width, dtype=torch.int32, device=image.device)
    others = [k for k in range(side * side) if k != side * side // 2]
    for bit, k in enumerate(others):
        y, x = divmod(k, side)
        words |= (padded[:, y : y + height, x : x + width] < image[:, 0]).int() << bit
    return words


def bit_count(words: Int32[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """How many of the lower 24 bits are set, in place: sums of 2, of 4, of 8 neighbouring bits at once, then of 3 bytes.

    >>> bit_count(torch.tensor([0, 7, 0xFFFFFF], dtype=torch.int32)).tolist()
    [0, 3, 24]
    """
    words -= (words >> 1).bitwise_and_(0x555555)
    words = ((words >> 2).bitwise_and_(0x333333)).add_(words.bitwise_and_(0x333333))
    words = words.add_(words >> 4).bitwise_and_(0x0F0F0F)
    return words.mul_(0x010101).bitwise_right_shift_(16).bitwise_and_(0xFF)


def census_cost(
    left: Float[Tensor, "b 1 h w"], right: Float[Tensor, "b 1 h w"], disparities: int, radius: int = 2
) -> Int16[Tensor, "b d h w"]:
    """Hamming distances of census words; where right(x - d) is outside the picture, its first pixel stands for it."""
    one, two = census(left, radius), census(right, radius)
    batch, height, width = one.shape
    cost = torch.empty((batch, disparities, height, width), dtype=torch.int16, device=left.device)
    for top in range(0, height, ROWS):
        rows = slice(top, top + ROWS)
        edge = bit_count(one[:, rows] ^ two[:, rows, :1])
        for d in range(disparities):
            cost[:, d, rows, :d] = edge[..., :d]
            if d < width:
                cost[:, d, rows, d:] = bit_count(one[:, rows, d:] ^ two[:, rows, : width - d])
    return cost


def block_cost(
    left: Float[Tensor, "b 1 h w"], right: Float[Tensor, "b 1 h w"], disparities: int, window: int = 9
) -> Int16[Tensor, "b d h w"]:
    """Sums of absolute differences over a square window, in 255ths, each at most 31; what lies outside counts as 15."""
    if window < 1 or window % 2 == 0 or window > 31:
        raise ValueError(f"window: expected an odd number up to 31, got {window}")
    batch, _, height, width = left.shape
    one, two = 255 * left[:, 0], 255 * right[:, 0]
    cost = torch.empty((batch, disparities, height, width), dtype=torch.int16, device=left.device)
    for d in range(disparities):
        unlike = torch.full_like(one, 15)
        if d < width:
            unlike[..., d:] = (one[..., d:] - two[..., : width - d]).abs().clamp_max(31)
        padded = F.pad(unlike[:, None], (window // 2,) * 4, mode="replicate")
        rows = F.avg_pool2d(padded, (1, window), 1)
        cost[:, d] = (F.avg_pool2d(rows, (window, 1), 1)[:, 0] * window**2).round()
    return cost


def aggregate(cost: Int16[Tensor, "b d h w"], small: int, large: int, paths: int = 8) -> Int16[Tensor, "b d h w"]:
    """S, the sum of L_r over 4 or 8 paths; `small` is P1, `large` is P2. Raises ValueError where 16 bits would not do."""
    if paths not in (4, 8):
        raise ValueError(f"paths: expected 4 or 8, got {paths}")
    if not 0 <= small <= large:
        raise ValueError(f"small, large: expected 0 <= small <= large, got {small} and {large}")
    lowest, highest = (int(v) for v in cost.aminmax())
    if lowest < 0 or paths * (highest + large + small) > LARGEST:
        limit = LARGEST // paths - large - small
        raise ValueError(f"cost: expected 0 to {limit} at these penalties, got {lowest} to {highest}")
    total = torch.zeros_like(cost)
    _sweep(cost, total, (-1, 0, 1) if paths == 8 else (0,), small, large)
    across = cost.new_empty(*cost.shape[:2], cost.shape[3], cost.shape[2])
    _transpose(cost, across)
    across_total = torch.zeros_like(across)
    _sweep(across, across_total, (0,), small, large)
    _transpose(across_total, back := torch.empty_like(cost))
    return total.add_(back)


def _transpose(source: Tensor, target: Tensor) -> None:
    """Rows for columns, plane by plane: each a contiguous matrix, for which torch's copy goes block by block."""
    for out, plane in zip(target.flatten(0, 1), source.flatten(0, 1), strict=True):
        out.copy_(plane.t())


def _sweep(cost: Tensor, total: Tensor, shifts: tuple[int, ...], small: int, large: int) -> None:
    """Add to `total` the paths that come from the row above, `shifts` pixels to the side, and their mirrors from below.

    `before` holds L_r - min L_r of the row before with a margin: P2 beyond the disparities, which is no choice at all,
    and 0 beside the picture, from where a path begins with L_r = C. A path that comes from the side is written there
    shifted, so that all are read at one place.
    """
    batch, disparities, height, width = cost.shape
    before = cost.new_empty(len(shifts), batch, disparities + 2, width + 2)
    path = cost.new_empty(len(shifts), batch, disparities, width)
    least = cost.new_empty(len(shifts), batch, 1, width)
    above, below, same = (before[:, :, k : k + disparities, 1:-1] for k in (2, 0, 1))
    written = [before[k, :, 1:-1, 1 + s : 1 + s + width] for k, s in enumerate(shifts)]
    each, each_least = list(path), list(least)
    costs, totals = cost.unbind(2), total.unbind(2)
    for rows in (range(height), range(height - 1, -1, -1)):
        before.zero_()
        before[:, :, [0, -1]] = large
        for y in rows:
            torch.minimum(above, below, out=path)
            torch.minimum(path.add_(small), same, out=path)
            path.clamp_max_(large).add_(costs[y])
            torch.amin(path, 2, keepdim=True, out=least)
            least.neg_()
            for one, negative, out in zip(each, each_least, written, strict=True):
                totals[y].add_(one)
                torch.add(one, negative, out=out)


def best_disparities(
    total: Int16[Tensor, "b d h w"],
) -> tuple[Float[Tensor, "b h w"], Bool[Tensor, "b h w"], Int[Tensor, "b h w"]]:
    """The left picture's disparities to a fraction of a pixel, whether S bends there, and the right's whole ones.

    right(x) is argmin_d S(x + d, d), of the same S. The fraction is where a parabola through S at d - 1, d, d + 1 is
    lowest; where all three are equal, as in a picture of one colour, the disparity says nothing.
    """
    batch, disparities, _, width = total.shape
    left, right = [], []
    for rows in total.split(ROWS // 8, 2):
        # S and d in one number, so that the least number says both
        index = torch.arange(disparities, dtype=torch.int32, device=total.device).view(1, -1, 1, 1)
        keys = torch.full(
            (batch, disparities, rows.shape[2], width + disparities), 2**31 - 1, dtype=torch.int32, device=total.device
        )
        torch.add(index, rows, alpha=disparities, out=keys[..., :width])
        left.append(keys[..., :width].amin(1) % disparities)
        plane = rows.shape[2] * (width + disparities)
        slanted = keys.as_strided(
            (batch, disparities, rows.shape[2], width), (disparities * plane, plane + 1, width + disparities, 1)
        )
        right.append(slanted.amin(1) % disparities)
    best = torch.cat(left, 1).long()
    fraction, bent = _fraction(total, best)
    return best + fraction, bent, torch.cat(right, 1).long()


def _fraction(
    total: Int16[Tensor, "b d h w"], best: Int[Tensor, "b h w"]
) -> tuple[Float[Tensor, "b h w"], Bool[Tensor, "b h w"]]:
    last = total.shape[1] - 1
    here, low, high = (total.gather(1, (best + k).clamp(0, last)[:, None])[:, 0].float() for k in (0, -1, 1))
    bend = low + high - 2 * here
    inner = (best > 0) & (best < last) & (bend > 0)
    return torch.where(inner, (low - high) / (2 * bend.clamp_min(1)), 0), bend > 0
