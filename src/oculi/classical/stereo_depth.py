r"""Depth from a rectified pair: the disparity of every pixel by block or semi-global matching, then triangulation.

    cost of every disparity (`semi_global_matching`)  ->  smooth along 8 paths  ->  argmin and parabola
    -> left-right check  ->  speckles out  ->  holes filled from behind  ->  3 x 3 median  ->  Z = f T / d

A match is kept where the right picture's own best match leads back to within a pixel: what only one camera sees fails.
A speckle is a small region, cut off from all around by jumps of more than a pixel. A hole is filled by the farther one of
its neighbours in the row, since what is hidden lies behind what hides it.

    image, right_image   batch x 1 x H x W in [0, 1]: the same rows, the right camera `baseline` metres to the right
    disparity            batch x H x W, pixels in [0, disparities): left(x, y) shows what right(x - d, y) shows
    sure                 batch x H x W: found and checked, not filled in
    depth                metres along z, 0 where there is none (disparity 0: infinitely far, or no texture at all)

`method: semi_global` sums census costs along paths; `block` takes the best sum of absolute differences in a window.

Hirschmuller: Stereo processing by semiglobal matching and mutual information, PAMI 30(2), 2008 (checks and filling).
Scharstein, Szeliski: A taxonomy and evaluation of dense two-frame stereo correspondence algorithms, IJCV 47, 2002.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.semi_global_matching import aggregate, best_disparities, block_cost, census_cost
from oculi.geometry.stereo import depth_from_disparity, seen_by_both
from oculi.input_contract import InputContract
from oculi.predictions import Depth
from oculi.system import System
from oculi.types import Batch

METHODS = ("semi_global", "block")


class StereoDepth(System):
    """Block or semi-global matching of rectified pairs; nothing is learned.

    disparities: how many, from 0. small, large: prices of a slope and of a jump (census costs go to 24). window: side of
    the block matcher's square. difference: of left and right in pixels, at most. speckle: pixels in a region, at least.
    fill: give pixels without a match their background's disparity. baseline: metres. focal: pixels; the batch's camera
    knows better where there is one.
    """

    answer = Depth

    def __init__(
        self,
        image_size: int = 256,
        disparities: int = 64,
        method: str = "semi_global",
        small: int = 8,
        large: int = 25,
        paths: int = 8,
        window: int = 9,
        difference: float = 1.0,
        speckle: int = 50,
        fill: bool = True,
        baseline: float = 0.3,
        focal: float | None = None,
    ):
        super().__init__(InputContract(image_size, image_size, 1))
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        if disparities < 2:
            raise ValueError(f"disparities: expected at least 2, got {disparities}")
        if baseline <= 0 or (focal is not None and focal <= 0):
            raise ValueError(f"baseline, focal: expected positive metres and pixels, got {baseline} and {focal}")
        if difference < 0 or speckle < 0:
            raise ValueError(f"difference, speckle: expected at least 0, got {difference} and {speckle}")
        self.disparities, self.method, self.small, self.large, self.paths = disparities, method, small, large, paths
        self.window, self.difference, self.speckle, self.fill = window, difference, speckle, fill
        self.baseline, self.focal = baseline, focal

    def predict(self, batch: Batch) -> list[Depth]:
        if batch.image is None or batch.right_image is None:
            raise ValueError("batch: expected image and right_image, one is None")
        if batch.camera is not None:
            focal: float | Tensor = batch.camera.K[:, 0, 0].to(batch.image)
        elif self.focal is not None:
            focal = self.focal
        else:
            raise ValueError("focal: expected pixels, or a batch with cameras; there is neither")
        disparity, _ = self(batch.image, batch.right_image)
        depth, _ = depth_from_disparity(disparity, focal, self.baseline)
        return [Depth(one) for one in depth]

    @torch.no_grad()
    def forward(
        self, image: Float[Tensor, "b 1 h w"], right_image: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b h w"], Bool[Tensor, "b h w"]]:
        """Disparity and where it is sure; 0 where nothing is known."""
        if image.shape != right_image.shape or image.shape[1] != 1:
            shapes = tuple(image.shape), tuple(right_image.shape)
            raise ValueError(f"image, right_image: expected equal batch x 1 x H x W, got {shapes[0]} and {shapes[1]}")
        for name, picture in (("image", image), ("right_image", right_image)):
            if not bool(torch.isfinite(picture).all()):
                raise ValueError(f"{name}: expected numbers in [0, 1], got NaN or infinity")
        if self.method == "semi_global":
            cost = census_cost(image, right_image, self.disparities)
            cost = aggregate(cost, self.small, self.large, self.paths)
        else:
            cost = block_cost(image, right_image, self.disparities, self.window)
        disparity, bent, right = best_disparities(cost)
        sure = bent & agreeing(disparity, right, self.difference)
        if self.speckle > 0:
            sure &= region_sizes(disparity, sure) >= self.speckle
        known = background_filled(disparity, sure) if self.fill else disparity
        known = median_of_nine(known)
        return (known if self.fill else torch.where(sure, known, 0)), sure


def agreeing(
    left: Float[Tensor, "b h w"], right: Int[Tensor, "b h w"], difference: float = 1.0
) -> Bool[Tensor, "b h w"]:
    """Where the right picture's disparity at left(x)'s partner is left(x)'s own, but for `difference` pixels."""
    whole = left.round().long()
    partner = torch.arange(left.shape[-1], device=left.device) - whole
    back = right.gather(-1, partner.clamp_min(0))
    return (partner >= 0) & ((back - whole).abs() <= difference)


def region_sizes(
    values: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"], tolerance: float = 1.0
) -> Int[Tensor, "b h w"]:
    """How many pixels each pixel's region has: valid neighbours belong together that differ by at most `tolerance`.

    Runs within rows are found first; then runs that touch join, each taking the least number in reach and that one's own,
    until nothing changes: a handful of rounds over some thousand runs.
    """
    height, width = values.shape[1:]
    rows, real = values.reshape(-1, width), valid.reshape(-1, width)
    beside = real[:, 1:] & real[:, :-1] & ((rows[:, 1:] - rows[:, :-1]).abs() <= tolerance)
    run = F.pad(~beside, (1, 0), value=True).reshape(-1).cumsum(0).view_as(rows) - 1
    below = real[1:] & real[:-1] & ((rows[1:] - rows[:-1]).abs() <= tolerance)
    below[height - 1 :: height] = False  # the next row is another picture's
    # where both runs are those of the pixel before, the pair is known already
    known = F.pad(below[:, 1:] & below[:, :-1] & beside[1:] & beside[:-1], (1, 0))
    one, two = run[:-1][below & ~known], run[1:][below & ~known]
    count = int(run[-1, -1]) + 1
    root = torch.arange(count, device=values.device)
    while True:
        least = torch.minimum(root[one], root[two])
        joined = root.scatter_reduce(0, root[one], least, "amin").scatter_reduce(0, root[two], least, "amin")
        joined = joined[joined]
        if torch.equal(joined, root):
            break
        root = joined
    label = root[run]
    size = torch.bincount(label[real], minlength=count)
    return (size[label] * real).view_as(values).long()


def background_filled(
    disparity: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:  # fmt: skip
    """Each invalid pixel takes the smaller disparity of the nearest valid ones to its left and right; 0 in empty rows."""
    width = disparity.shape[-1]
    place = torch.arange(width, device=disparity.device).expand_as(disparity)
    before = torch.where(valid, place, -1).cummax(-1).values
    after = width - 1 - torch.where(valid.flip(-1), place, -1).cummax(-1).values.flip(-1)
    sides = [
        torch.where((k >= 0) & (k < width), disparity.gather(-1, k.clamp(0, width - 1)), torch.inf)
        for k in (before, after)
    ]
    filled = torch.minimum(*sides)
    return torch.where(valid, disparity, torch.where(torch.isfinite(filled), filled, 0))


def median_of_nine(image: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Median of 3 x 3 pixels, the edge repeated: columns sorted, then the middle of largest low, middle, smallest high."""
    padded = F.pad(image[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    top, middle, bottom = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
    small, large = torch.minimum(top, middle), torch.maximum(top, middle)
    low, high = torch.minimum(small, bottom), torch.maximum(large, bottom)
    middle = torch.maximum(small, torch.minimum(large, bottom))
    lows, middles, highs = ([v[..., :-2], v[..., 1:-1], v[..., 2:]] for v in (low, middle, high))
    largest = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
    smallest = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
    return _middle(largest, _middle(*middles), smallest)


def _middle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


# the experiment ------------------------------------------------------------------------------------------------------


def bad_share(
    disparity: Float[Tensor, "*shape"], truth: Float[Tensor, "*shape"], counted: Bool[Tensor, "*shape"], limit: float
) -> float:
    """Share of the counted pixels whose disparity is off by more than `limit` pixels."""
    return float(((disparity - truth).abs() > limit)[counted].double().mean())


def textured(image: Float[Tensor, "b 1 h w"], contrast: float = 0.02) -> Bool[Tensor, "b h w"]:
    """Where neighbours in the rows of the 5 x 5 pixels around differ by at least `contrast`, root mean square.

    Edges along the rows are no texture for a pair whose pixels move along the rows.
    """
    step = F.pad(image[..., 1:] - image[..., :-1], (1, 0)).square()
    return (F.avg_pool2d(step, 5, 1, 2, count_include_pad=False) >= contrast**2)[:, 0]


def world_pairs(scenes: int, size: int, seed: int, background: str = "checker") -> Batch:
    """World stereo pairs in grey, with disparity, depth and camera; on checkered ground unless said otherwise."""
    from oculi.data.world.dataset import World
    from oculi.data.world.scenes import Knobs
    from oculi.geometry.camera import Camera

    knobs = Knobs(background=background)
    samples = World(scenes, "stereo", size, seed, fields=("depth", "camera"), knobs=knobs).make(range(scenes))
    grey = InputContract(size, size, 1)
    stacked: dict[str, Any] = {
        name: torch.stack([getattr(s, name) for s in samples]) for name in ("disparity", "depth")
    }
    pictures: dict[str, Any] = {
        n: torch.stack([grey.prepare(getattr(s, n)) for s in samples]) for n in ("image", "right_image")
    }
    return Batch(**pictures, **stacked, camera=Camera.stack([s.camera for s in samples if s.camera is not None]))


def motorcycle() -> tuple[Tensor, Tensor, Tensor]:
    """Middlebury's motorcycle as scikit-image has it: left and right in grey, and disparity, infinite where unknown."""
    from skimage.data import stereo_motorcycle

    left, right, truth = stereo_motorcycle()
    height, width = truth.shape
    grey = InputContract(height, width, 1)
    return grey.prepare(left)[None], grey.prepare(right)[None], torch.from_numpy(truth).float()[None]


def _world_scores(system: StereoDepth, batch: Batch) -> tuple[float, float, float]:
    """Bad pixels of more than one: of the visible and textured, of all; the median relative error of sure depth."""
    assert batch.disparity is not None
    assert batch.depth is not None
    assert batch.camera is not None
    disparity, sure = system(batch.image, batch.right_image)
    fair = seen_by_both(batch.disparity) & textured(batch.pictures)
    depth, valid = depth_from_disparity(disparity, batch.camera.K[:, 0, 0], system.baseline)
    error = ((depth - batch.depth).abs() / batch.depth)[sure & valid & fair]
    everything = torch.ones_like(fair)
    return (
        bad_share(disparity, batch.disparity, fair, 1.0),
        bad_share(disparity, batch.disparity, everything, 1.0),
        float(error.median()),
    )


def experiment(scenes: int = 8, size: int = 256, disparities: int = 64, seed: int = 0) -> dict[str, float]:
    """Bad pixels on World pairs and, after filling, on a real one: beyond the first `disparities` columns, and of all.

    `plain_` are the World's own scenes, much of which shows no texture at all; the scored ones have checkered ground.
    """
    system, block = (StereoDepth(size, disparities, method).eval() for method in METHODS)
    batch = world_pairs(scenes, size, seed)
    world, whole, depth = _world_scores(system, batch)
    plain, plain_whole, _ = _world_scores(system, world_pairs(scenes, size, seed, "varied"))
    left, right, truth = motorcycle()
    real, sure = system(left, right)
    known = torch.isfinite(truth)
    beyond = known & (torch.arange(truth.shape[-1]) >= disparities)
    return {
        "world_bad_1": world,
        "world_bad_1_all": whole,
        "world_depth_error": depth,
        "world_block_bad_1": _world_scores(block, batch)[0],
        "plain_world_bad_1": plain,
        "plain_world_bad_1_all": plain_whole,
        "motorcycle_bad_2": bad_share(real, truth, beyond, 2.0),
        "motorcycle_bad_2_all": bad_share(real, truth, known, 2.0),
        "motorcycle_bad_2_sure": bad_share(real, truth, beyond & sure, 2.0),
        "motorcycle_sure_share": float((sure & beyond).sum() / beyond.sum()),
        "motorcycle_block_bad_2": bad_share(block(left, right)[0], truth, beyond, 2.0),
    }
