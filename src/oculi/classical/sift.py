r"""SIFT: keypoints that survive rotation and scaling, each with 128 numbers that tell it from the others.

    L(x, y, s) = G(s) * I                  scale space: octaves of S layers, sigma doubles per octave, k = 2^(1/S)
    D(s)       = L(k s) - L(s)             difference of Gaussians, near the scale-normalised Laplacian
    x^         = -H^{-1} g                 subpixel extremum of D from its gradient g and Hessian H in (x, y, s)
    |D(x^)| = |D + g.x^ / 2| > c / S       contrast;  tr(H2)^2 / det(H2) < (r + 1)^2 / r keeps corners, drops edges

A keypoint's angle is a peak of a 36-bin histogram of gradient directions, weighted by magnitude and a Gaussian of 1.5
s; every other peak of at least 0.8 of the highest makes another keypoint. The descriptor is a 4 x 4 grid of 8-bin
histograms in the frame turned by the angle, cells 3 s wide, trilinear weights, Gaussian of half the window, unit
length, clipped at 0.2, unit length again. Descriptors are compared by Euclidean distance (`oculi.ops.matching`).

    image         batch x 1 x H x W, doubled in size first (`upsample`)
    points        n x 2, pixels, centres at +0.5
    scales        sigma in pixels;  angles in radians from +x towards +y (down)
    scores        |D(x^)|;  descriptors n x 128, unit length, cells row by row, 8 directions each

Differs from the paper: gradients are read by bilinear interpolation on a fixed grid in the keypoint's own frame (25
x 25 over the orientation window, 6 x 6 per descriptor cell), so that one constant matrix holds all keypoints'
spatial weights.

Lowe: Object recognition from local scale-invariant features, ICCV 1999; Distinctive image features from scale-invariant
keypoints, IJCV 60(2), 2004.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.ransac import RANSAC
from oculi.geometry.camera import pixel_centers
from oculi.geometry.homography import apply_homography, solve_dlt
from oculi.input_contract import InputContract
from oculi.metrics.correspondence import corner_error, matching_score, repeatability
from oculi.ops.matching import match_descriptors
from oculi.predictions import Keypoints
from oculi.system import System
from oculi.types import Batch, images_only

BORDER = 5  # no keypoint nearer to the edge of its octave, in that octave's pixels
REFINE_STEPS = 5
CELLS, DIRECTIONS, ANGLE_BINS = 4, 8, 36
CAMERA_BLUR = 0.5  # sigma that a camera's picture is taken to have


def gaussian_blur(image: Float[Tensor, "b c h w"], sigma: float) -> Float[Tensor, "b c h w"]:
    """Separable Gaussian, cut at 4 sigma, mirrored at the edge."""
    radius = max(1, round(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    mode = "reflect" if radius < min(image.shape[-2:]) else "replicate"
    flat = image.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode=mode), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode=mode), kernel.transpose(2, 3))
    return flat.view_as(image)


class SIFT(System):
    """Detector and descriptor; nothing is learned.

    layers: scales per octave. contrast, edge: thresholds c and r above. sigma: blur of the first layer.
    max_keypoints: the strongest are kept; 0 keeps all. upsample: start from the picture at twice its size.
    """

    answer = Keypoints

    def __init__(
        self,
        image_size: int = 512,
        layers: int = 3,
        contrast: float = 0.04,
        edge: float = 10.0,
        sigma: float = 1.6,
        max_keypoints: int = 0,
        upsample: bool = True,
    ):
        super().__init__(InputContract(image_size, image_size, 1, resize="letterbox"))
        if layers < 1 or max_keypoints < 0:
            raise ValueError(f"layers, max_keypoints: expected at least 1 and 0, got {layers} and {max_keypoints}")
        if not sigma > 2 * CAMERA_BLUR or contrast < 0 or edge <= 0:
            raise ValueError(f"sigma, contrast, edge: expected > 1, >= 0, > 0, got {sigma}, {contrast}, {edge}")
        self.layers, self.contrast, self.edge, self.sigma = layers, contrast, edge, sigma
        self.max_keypoints, self.upsample = max_keypoints, upsample

    def predict(self, batch: Batch) -> list[Keypoints]:
        if batch.pictures.shape[1] != 1:
            raise ValueError(f"image: expected 1 channel (grey), got {batch.pictures.shape[1]}")
        return [self.detect(image) for image in batch.pictures]

    def detect(self, image: Float[Tensor, "1 h w"]) -> Keypoints:
        """Keypoints of one grey picture in [0, 1], strongest first."""
        step = 0.5 if self.upsample else 1.0
        found = []
        for octave, gaussians in enumerate(self.scale_space(image)):
            keypoints = self._extrema(gaussians[1:] - gaussians[:-1])
            keypoints, angles = self._oriented(keypoints, gaussians)
            described = self._described(keypoints, angles, gaussians)
            # every second pixel is kept from octave to octave, so pixel i of octave o is pixel i 2^o of the first
            points = (keypoints[:, :2] * 2**octave + 0.5) * step
            scales = self.sigma * 2 ** (keypoints[:, 2] / self.layers + octave) * step
            found.append((points, scales, angles, keypoints[:, 3], described))
        points, scales, angles, scores, described = (torch.cat(parts) for parts in zip(*found))
        order = scores.argsort(descending=True, stable=True)
        if self.max_keypoints:
            order = order[: self.max_keypoints]
        return Keypoints(points[order], scales[order], angles[order], scores[order], described[order])

    def scale_space(self, image: Float[Tensor, "1 h w"]) -> list[Float[Tensor, "gaussians h2 w2"]]:
        """Per octave S + 3 Gaussian layers, the last octave being at least 12 pixels on its shorter side."""
        current, blur = image[None], CAMERA_BLUR
        if self.upsample:
            current = F.interpolate(current, scale_factor=2, mode="bilinear", align_corners=False)
            blur = 2 * CAMERA_BLUR
        current = gaussian_blur(current, math.sqrt(self.sigma**2 - blur**2))
        sigmas = [self.sigma * 2 ** (i / self.layers) for i in range(self.layers + 3)]
        octaves = []
        while True:
            stack = [current]
            for before, after in pairwise(sigmas):
                stack.append(gaussian_blur(stack[-1], math.sqrt(after**2 - before**2)))
            octaves.append(torch.cat(stack)[:, 0])
            current = stack[self.layers][..., ::2, ::2]
            if min(current.shape[-2:]) <= 2 * BORDER + 1:
                return octaves

    # detection -------------------------------------------------------------------------------------------------------

    def _extrema(self, dog: Float[Tensor, "d h w"]) -> Float[Tensor, "n 4"]:
        """Refined extrema of one octave: x, y, layer (all fractional), |D|."""
        depth, height, width = dog.shape
        loud = dog[1:-1].abs() > 0.5 * self.contrast / self.layers
        top, bottom, inner = _highest(dog), -_highest(-dog), dog[1:-1]
        peak = loud & (((inner == top) & (inner > 0)) | ((inner == bottom) & (inner < 0)))
        peak[:, :BORDER] = peak[:, height - BORDER :] = False
        peak[:, :, :BORDER] = peak[:, :, width - BORDER :] = False
        place = peak.nonzero() + peak.new_tensor([1, 0, 0], dtype=torch.int64)  # layer, y, x
        low = place.new_tensor([1, BORDER, BORDER])
        high = place.new_tensor([depth - 2, height - BORDER - 1, width - BORDER - 1])
        settled = []
        for _ in range(REFINE_STEPS):
            cube = _cubes(dog, place)
            offset, value, corner = _newton(cube, self.edge)
            done = (offset.abs() < 0.5).all(1)
            good = done & corner & (value.abs() * self.layers > self.contrast)
            settled.append(torch.cat([place[good] + offset[good], value[good, None].abs(), place[good].to(offset)], 1))
            moved = place + offset.clamp(-1e4, 1e4).round().long()
            keep = ~done & ((moved >= low) & (moved <= high)).all(1)
            place = moved[keep]
        every = torch.cat(settled)
        _, owner = torch.unique(every[:, 4:], dim=0, return_inverse=True)
        first = torch.full((len(every),), len(every), device=dog.device)
        first.scatter_reduce_(0, owner, torch.arange(len(every), device=dog.device), "amin")
        return every[first[first < len(every)]][:, [2, 1, 0, 3]]

    # orientation -----------------------------------------------------------------------------------------------------

    def _local_scale(self, keypoints: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        return self.sigma * 2 ** (keypoints[:, 2] / self.layers)

    def _oriented(self, keypoints: Tensor, gaussians: Tensor) -> tuple[Float[Tensor, "m 4"], Float[Tensor, " m"]]:
        """Keypoints repeated once per strong direction, and those directions."""
        side = torch.linspace(-1, 1, 25, device=keypoints.device)
        v, u = torch.meshgrid(side, side, indexing="ij")
        disc = torch.stack([u, v], -1)[u.square() + v.square() <= 1]  # radius of 4.5 sigma = 3 standard deviations
        places = keypoints[:, None, :2] + 4.5 * self._local_scale(keypoints)[:, None, None] * disc
        dx, dy = _gradients_at(gaussians, keypoints[:, 2], places)
        weights = torch.hypot(dx, dy) * torch.exp(-4.5 * disc.square().sum(-1))
        bins = (torch.atan2(dy, dx) * (ANGLE_BINS / (2 * math.pi))).round().long() % ANGLE_BINS
        histogram = weights.new_zeros(len(keypoints), ANGLE_BINS).scatter_add_(1, bins, weights)
        smooth = torch.zeros_like(histogram)
        for k, share in zip(range(-2, 3), (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)):
            smooth += share * histogram.roll(k, 1)
        left, right = smooth.roll(1, 1), smooth.roll(-1, 1)
        strong = (smooth > left) & (smooth > right) & (smooth >= 0.8 * smooth.amax(1, keepdim=True))
        which, peak = strong.nonzero(as_tuple=True)
        a, b, c = left[which, peak], smooth[which, peak], right[which, peak]
        position = peak + 0.5 * (a - c) / (a - 2 * b + c)
        return keypoints[which], (position * (2 * math.pi / ANGLE_BINS)) % (2 * math.pi)

    # description -----------------------------------------------------------------------------------------------------

    def _described(
        self, keypoints: Float[Tensor, "n 4"], angles: Float[Tensor, " n"], gaussians: Tensor
    ) -> Float[Tensor, "n 128"]:
        grid, cell_weights = _descriptor_grid(keypoints.device)
        histograms = []
        for chunk, turned in zip(keypoints.split(512), angles.split(512)):
            cos, sin = turned.cos(), turned.sin()
            frame = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)
            places = chunk[:, None, :2] + 3 * self._local_scale(chunk)[:, None, None] * (grid @ frame)
            dx, dy = _gradients_at(gaussians, chunk[:, 2], places)
            direction = ((torch.atan2(dy, dx) - turned[:, None]) * (DIRECTIONS / (2 * math.pi))) % DIRECTIONS
            low = direction.floor()
            share = direction - low
            low = low.long() % DIRECTIONS
            weights = torch.hypot(dx, dy)
            votes = weights.new_zeros(*weights.shape, DIRECTIONS)
            votes.scatter_(2, low[..., None], (weights * (1 - share))[..., None])
            votes.scatter_(2, ((low + 1) % DIRECTIONS)[..., None], (weights * share)[..., None])
            histograms.append((cell_weights @ votes).flatten(1))
        if not histograms:
            return keypoints.new_zeros(0, CELLS * CELLS * DIRECTIONS)
        return F.normalize(F.normalize(torch.cat(histograms)).clamp_max(0.2))


def _highest(dog: Float[Tensor, "d h w"]) -> Float[Tensor, "d2 h w"]:
    """Highest of the 27 neighbours in layer, y and x of every inner layer; one axis after the other."""
    layers = torch.maximum(torch.maximum(dog[:-2], dog[1:-1]), dog[2:])
    padded = F.pad(layers, (1, 1, 1, 1), value=-math.inf)
    rows = torch.maximum(torch.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    return torch.maximum(torch.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def _cubes(dog: Float[Tensor, "d h w"], place: Int[Tensor, "n 3"]) -> Float[Tensor, "n 3 3 3"]:
    near = torch.arange(-1, 2, device=dog.device)
    layer, y, x = (place[:, i, None] + near for i in range(3))
    return dog[layer[:, :, None, None], y[:, None, :, None], x[:, None, None, :]]


def _newton(cube: Float[Tensor, "n 3 3 3"], edge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Offset (layer, y, x) of the extremum, D there, and whether it is a corner rather than an edge."""
    centre = cube[:, 1, 1, 1]
    plus = [cube[:, 2, 1, 1], cube[:, 1, 2, 1], cube[:, 1, 1, 2]]
    minus = [cube[:, 0, 1, 1], cube[:, 1, 0, 1], cube[:, 1, 1, 0]]
    gradient = torch.stack([(p - m) / 2 for p, m in zip(plus, minus)], 1)
    ss, yy, xx = (p + m - 2 * centre for p, m in zip(plus, minus))
    sy = (cube[:, 2, 2, 1] - cube[:, 2, 0, 1] - cube[:, 0, 2, 1] + cube[:, 0, 0, 1]) / 4
    sx = (cube[:, 2, 1, 2] - cube[:, 2, 1, 0] - cube[:, 0, 1, 2] + cube[:, 0, 1, 0]) / 4
    yx = (cube[:, 1, 2, 2] - cube[:, 1, 2, 0] - cube[:, 1, 0, 2] + cube[:, 1, 0, 0]) / 4
    hessian = torch.stack([ss, sy, sx, sy, yy, yx, sx, yx, xx], 1).unflatten(1, (3, 3))
    solution, singular = torch.linalg.solve_ex(hessian, gradient)
    offset = torch.where((singular == 0)[:, None], -solution, 1e4)
    value = centre + 0.5 * (gradient * offset).sum(1)
    trace, determinant = xx + yy, xx * yy - yx.square()
    corner = (determinant > 0) & (trace.square() * edge < (edge + 1) ** 2 * determinant)
    return offset, value, corner


def _gradients_at(
    gaussians: Float[Tensor, "g h w"], layer: Float[Tensor, " n"], places: Float[Tensor, "n samples 2"]
) -> tuple[Float[Tensor, "n samples"], Float[Tensor, "n samples"]]:
    """Central differences of each keypoint's nearest Gaussian layer, bilinear between pixels, 0 outside."""
    height, width = gaussians.shape[1:]
    dx, dy = torch.zeros_like(gaussians), torch.zeros_like(gaussians)
    dx[:, 1:-1, 1:-1] = gaussians[:, 1:-1, 2:] - gaussians[:, 1:-1, :-2]
    dy[:, 1:-1, 1:-1] = gaussians[:, 2:, 1:-1] - gaussians[:, :-2, 1:-1]
    fields = torch.stack([dx, dy], 1)
    unit = (places + 0.5) * places.new_tensor([2 / width, 2 / height]) - 1
    read = places.new_zeros(*places.shape[:2], 2)
    nearest = layer.round().long()
    for index in nearest.unique().tolist():
        mine = nearest == index
        sampled = F.grid_sample(fields[index][None], unit[mine][None], align_corners=False)
        read[mine] = sampled[0].permute(1, 2, 0)
    return read[..., 0], read[..., 1]


def _descriptor_grid(device: torch.device) -> tuple[Float[Tensor, "samples 2"], Float[Tensor, "16 samples"]]:
    """Places in units of one cell around the keypoint, and each place's bilinear, Gaussian weight in every cell."""
    reach, per_cell = (CELLS + 1) / 2, 6
    count = (CELLS + 1) * per_cell
    side = (torch.arange(count, device=device) + 0.5) / per_cell - reach
    centres = torch.arange(CELLS, device=device) - (CELLS - 1) / 2
    triangle = (1 - (side[None] - centres[:, None]).abs()).clamp_min(0)
    triangle = triangle * torch.exp(-side.square() / (2 * (CELLS / 2) ** 2))
    v, u = torch.meshgrid(side, side, indexing="ij")
    weights = triangle[:, None, :, None] * triangle[None, :, None, :]
    return torch.stack([u, v], -1).reshape(-1, 2), weights.reshape(CELLS * CELLS, -1)


# the experiment ------------------------------------------------------------------------------------------------------

PHOTOS = ("astronaut", "camera", "coffee", "chelsea", "coins")  # those that scikit-image carries with it


def photographs(size: int, count: int = len(PHOTOS)) -> list[Float[Tensor, "1 size size"]]:
    """Grey photographs from scikit-image's own folder, nothing downloaded."""
    import skimage.data

    contract = InputContract(size, size, 1, resize="crop")
    return [contract.prepare(getattr(skimage.data, name)()) for name in PHOTOS[:count]]


def warps(size: int) -> dict[str, Float[Tensor, "3 3"]]:
    """Known maps of a `size` x `size` picture: two turns, two scales about the centre, two changes of viewpoint."""
    half, corners = size / 2, size * torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    made = {}
    for name, degrees, scale in (("turn 30", 30, 1), ("turn 90", 90, 1), ("shrink", 10, 0.7), ("enlarge", -20, 1.4)):
        a = math.radians(degrees)
        c, s = scale * math.cos(a), scale * math.sin(a)
        matrix = [[c, -s, half - c * half + s * half], [s, c, half - s * half - c * half], [0, 0, 1]]
        made[name] = torch.tensor(matrix, dtype=torch.float64)
    views = {"view left": [[0, 0], [-0.1, 0.12], [-0.06, -0.15], [0.04, 0]],
             "view below": [[0.12, 0.05], [-0.2, 0.1], [0.02, -0.05], [0.03, 0]]}  # fmt: skip
    for name, shifts in views.items():
        made[name] = solve_dlt(corners, corners + size * torch.tensor(shifts, dtype=torch.float64))[0]
    return made


def warp(image: Float[Tensor, "c h w"], H: Float[Tensor, "3 3"]) -> Float[Tensor, "c h w"]:
    """The picture that shows at H(p) what `image` shows at p; the edge is repeated outside. Bicubic."""
    height, width = image.shape[-2:]
    pixels = pixel_centers(height, width).double()
    unit = apply_homography(torch.linalg.inv(H), pixels) * pixels.new_tensor([2 / width, 2 / height]) - 1
    grid = unit.view(1, height, width, 2).to(image)
    return F.grid_sample(image[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0].clamp(0, 1)


def experiment(size: int = 384, photos: int = 5, ratio: float = 0.8, seed: int = 0) -> dict[str, float]:
    """Photographs against their warps: repeatability, matching score, and the homography that RANSAC finds."""
    system, rows = SIFT(size).eval(), []
    ransac = RANSAC(threshold=2.0, seed=seed)
    with torch.no_grad():
        for photo in photographs(size, photos):
            known = warps(size)
            pictures = torch.stack([photo, *(warp(photo, H) for H in known.values())])
            before, *others = system.predict(images_only(pictures))
            points = before.points.double()
            for H, after in zip(known.values(), others):
                targets = after.points.double()
                mutual, _ = match_descriptors(before.descriptors, after.descriptors)
                sure, _ = match_descriptors(before.descriptors, after.descriptors, ratio)
                found = ransac.fit(points[sure[:, 0]], targets[sure[:, 1]])
                rows.append((
                    repeatability(points, targets, H, size, size),
                    matching_score(points, targets, mutual, H, size, size),
                    corner_error(found.model, H, size, size),
                ))  # fmt: skip
    repeated, matched, errors = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return {
        "repeatability": float(repeated.mean()),
        "matching_score": float(matched.mean()),
        "median_corner_error": float(errors.median()),
        "worst_corner_error": float(errors.max()),
        "pairs": float(len(rows)),
    }
