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

Differs from the paper: gradients are read by bilinear interpolation on a fixed grid in the keypoint's own frame (15
x 15 over the orientation window, 3 x 3 per descriptor cell), so that one constant matrix holds all keypoints'
spatial weights.

Lowe: Object recognition from local scale-invariant features, ICCV 1999; Distinctive image features from scale-invariant
keypoints, IJCV 60(2), 2004.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.ransac import RANSAC
from oculi.geometry.homography import solve_dlt, warp_perspective
from oculi.input_contract import InputContract
from oculi.metrics.correspondence import corner_error, matching_score, repeatability
from oculi.ops.gaussian_blur import gaussian_blur
from oculi.ops.matching import match_descriptors
from oculi.predictions import Keypoints
from oculi.system import System
from oculi.types import Batch, images_only

BORDER = 5  # no keypoint nearer to the edge of its octave, in that octave's pixels
REFINE_STEPS = 5
CELLS, DIRECTIONS, ANGLE_BINS = 4, 8, 36
STRIP = 40_000  # pixels whose extrema are looked for at a time
GRADIENTS = 2_500_000  # numbers held at a time: of much memory the system takes the pages back, which is slow
ORIENTATION_SIDE = 15  # samples across the window of the angle, two thirds of a sigma apart
PER_CELL = 3  # samples across a cell of the descriptor, a sigma apart
CAMERA_BLUR = 0.5  # sigma that a camera's picture is taken to have


class SIFT(System):
    """Detector and descriptor; nothing is learned.

    layers: scales per octave. contrast, edge: thresholds c and r above. sigma: blur of the first layer.
    max_keypoints: the strongest are kept; 0 keeps all. upsample: start from the picture at twice its
    size. root: RootSIFT's descriptors, see `root_sift`.
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
        root: bool = False,
    ):
        super().__init__(InputContract(image_size, image_size, 1, resize="letterbox"))
        if layers < 1 or max_keypoints < 0:
            raise ValueError(f"layers, max_keypoints: expected at least 1 and 0, got {layers} and {max_keypoints}")
        if not sigma > 2 * CAMERA_BLUR or contrast < 0 or edge <= 0:
            raise ValueError(f"sigma, contrast, edge: expected > 1, >= 0, > 0, got {sigma}, {contrast}, {edge}")
        self.layers, self.contrast, self.edge, self.sigma = layers, contrast, edge, sigma
        self.max_keypoints, self.upsample, self.root = max_keypoints, upsample, root

    def predict(self, batch: Batch) -> list[Keypoints]:
        if batch.pictures.shape[1] != 1:
            raise ValueError(f"image: expected 1 channel (grey), got {batch.pictures.shape[1]}")
        return [self.detect(image) for image in batch.pictures]

    def detect(self, image: Float[Tensor, "1 h w"]) -> Keypoints:
        """Keypoints of one grey picture in [0, 1], strongest first."""
        octaves, found = self.scale_space(image), []
        for octave, (keypoints, gaussians) in enumerate(zip(self._extrema(octaves), octaves)):
            some = max(1, GRADIENTS // (2 * gaussians[0].numel()))
            layer = keypoints[:, 2].round()
            for first in range(1, self.layers + 1, some):
                last = min(first + some, self.layers + 1)
                own = keypoints[(layer >= first) & (layer < last)]
                if len(own):
                    found.append(self._read(own, _gradients(gaussians[first:last]), first, octave))
        if not found:
            none = image.new_zeros(0)
            return Keypoints(none.view(0, 2), none, none, none, none.view(0, CELLS * CELLS * DIRECTIONS))
        points, scales, angles, scores, described = (torch.cat(parts) for parts in zip(*found))
        order = scores.argsort(descending=True, stable=True)
        if self.max_keypoints:
            order = order[: self.max_keypoints]
        return Keypoints(points[order], scales[order], angles[order], scores[order], described[order])

    def scale_space(self, image: Float[Tensor, "1 h w"]) -> list[Float[Tensor, "gaussians h2 w2"]]:
        """Per octave S + 3 Gaussian layers, the last octave being at least 12 pixels on its shorter side."""
        times = 2 if self.upsample else 1
        sigmas = [self.sigma * 2 ** (i / self.layers) for i in range(self.layers + 3)]
        stack = image.new_empty(1, len(sigmas), *(times * side for side in image.shape[1:]))
        missing = math.sqrt(self.sigma**2 - (times * CAMERA_BLUR) ** 2)
        gaussian_blur(image.detach()[None], missing, out=stack[:, :1], double=self.upsample)
        octaves = []
        while True:
            for i, (before, after) in enumerate(pairwise(sigmas)):
                gaussian_blur(stack[:, i : i + 1], math.sqrt(after**2 - before**2), out=stack[:, i + 1 : i + 2])
            octaves.append(stack[0])
            smaller = stack[:, self.layers : self.layers + 1, ::2, ::2]
            if min(smaller.shape[2:]) <= 2 * BORDER + 1:
                return octaves
            stack = smaller.new_empty(1, len(sigmas), *smaller.shape[2:])
            stack[:, :1] = smaller

    # detection -------------------------------------------------------------------------------------------------------

    def _extrema(self, octaves: list[Tensor]) -> list[Float[Tensor, "n 4"]]:
        """Refined extrema of each octave: x, y, layer (all fractional), |D|; those of all octaves refined together."""
        loud = 0.5 * self.contrast / self.layers
        # octave, layer, y, x
        place = torch.cat([F.pad(_peaks(g, loud), (1, 0), value=i) for i, g in enumerate(octaves)])
        low = place.new_tensor([1, BORDER, BORDER])
        high = place.new_tensor([[self.layers + 2, *g.shape[1:]] for g in octaves]) - low - 1
        settled = []
        for _ in range(REFINE_STEPS):
            offset, value, corner = _newton(_cubes(octaves, place).double(), self.edge)
            done = (offset.abs() < 0.5).all(1)
            good = done & corner & (value.abs() * self.layers > self.contrast)
            settled.append(torch.cat([place[good], offset[good], value[good, None].abs()], 1))
            moved = place[:, 1:] + offset.clamp(-1e4, 1e4).round().long()
            keep = ~done & ((moved >= low) & (moved <= high[place[:, 0]])).all(1)
            if not bool(keep.any()):
                break
            place = torch.cat([place[:, :1], moved], 1)[keep]
        every = torch.cat(settled)  # float64 holds the places, which are whole, exactly
        _, height, width = octaves[0].shape
        key = ((every[:, 0] * (self.layers + 3) + every[:, 1]) * height + every[:, 2]) * width + every[:, 3]
        key, order = key.sort()
        every = every[order][F.pad(key.diff() > 0, (1, 0), value=True)[: len(key)]]  # two ways led to one extremum
        refined = torch.cat([(every[:, 1:4] + every[:, 4:7]).flip(1), every[:, 7:]], 1).to(octaves[0])
        return list(refined.split(every[:, 0].long().bincount(minlength=len(octaves)).tolist()))

    def _read(self, keypoints: Tensor, gradients: Tensor, first: int, octave: int) -> tuple[Tensor, ...]:
        """Points, scales, angles, scores and descriptors of one octave's keypoints in the layers from `first` on."""
        keypoints, angles = self._oriented(keypoints, gradients, first)
        described = self._described(keypoints, angles, gradients, first)
        # every second pixel is kept from octave to octave, so pixel i of octave o is pixel i 2^o of the first
        step = 0.5 if self.upsample else 1.0
        points = (keypoints[:, :2] * 2**octave + 0.5) * step
        return points, self._local_scale(keypoints) * 2**octave * step, angles, keypoints[:, 3], described

    # orientation -----------------------------------------------------------------------------------------------------

    def _local_scale(self, keypoints: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        return self.sigma * 2 ** (keypoints[:, 2] / self.layers)

    def _oriented(
        self, keypoints: Tensor, gradients: Tensor, first: int
    ) -> tuple[Float[Tensor, "m 4"], Float[Tensor, " m"]]:
        """Keypoints repeated once per strong direction, and those directions."""
        side = torch.linspace(-1, 1, ORIENTATION_SIDE, device=keypoints.device)
        v, u = torch.meshgrid(side, side, indexing="ij")
        disc = torch.stack([u, v], -1)[u.square() + v.square() <= 1]  # radius of 4.5 sigma = 3 standard deviations
        dx, dy = _gradients_at(gradients, first, keypoints, 4.5 * self._local_scale(keypoints), None, disc)
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
        self, keypoints: Float[Tensor, "n 4"], angles: Float[Tensor, " n"], gradients: Tensor, first: int
    ) -> Float[Tensor, "n 128"]:
        grid, cell_weights = _descriptor_grid(keypoints.device)
        histograms = []
        for chunk, turned in zip(keypoints.split(256), angles.split(256)):
            dx, dy = _gradients_at(gradients, first, chunk, 3 * self._local_scale(chunk), turned, grid)
            direction = (torch.atan2(dy, dx) - turned[:, None]) * (DIRECTIONS / (2 * math.pi))
            low = direction.floor()
            weights = torch.hypot(dx, dy)
            above = (direction - low) * weights
            low = low.long()
            votes = weights.new_zeros(len(chunk), DIRECTIONS, len(grid))
            votes.scatter_(1, (low & (DIRECTIONS - 1))[:, None], (weights - above)[:, None])
            votes.scatter_(1, ((low + 1) & (DIRECTIONS - 1))[:, None], above[:, None])
            histograms.append((votes @ cell_weights.T).mT.flatten(1))
        described = F.normalize(F.normalize(torch.cat(histograms)).clamp_max(0.2))
        return root_sift(described) if self.root else described


def root_sift(descriptors: Float[Tensor, "n 128"]) -> Float[Tensor, "n 128"]:
    """sqrt(d / ||d||_1): the dot product of two becomes the Hellinger kernel, their length stays 1.

    Arandjelovic, Zisserman: Three things everyone should know to improve object retrieval, CVPR 2012.
    """
    if descriptors.ndim != 2 or bool((descriptors < 0).any()):
        raise ValueError(f"descriptors: expected n x d numbers, none negative, got {tuple(descriptors.shape)}")
    return F.normalize(descriptors, p=1).sqrt()


def _peaks(gaussians: Float[Tensor, "g h w"], loud: float) -> Int[Tensor, "n 3"]:
    """(layer, y, x) where |D| > loud and no one of the 26 neighbours is more extreme.

    D is made in strips of rows that the processor's cache holds, and thrown away. The 26 are read only where D turns along
    layer, y and x alike.
    """
    height, width = gaussians.shape[1:]
    rows, found = max(8, STRIP // width), [torch.zeros(0, 3, dtype=torch.int64, device=gaussians.device)]
    near = torch.arange(-1, 2, device=gaussians.device)
    around = torch.cartesian_prod(near, near, near)
    for first in range(BORDER, height - BORDER if width > 2 * BORDER else 0, rows):
        strip = gaussians[:, first - 1 : min(first + rows, height - BORDER) + 1, BORDER - 1 : width - BORDER + 1]
        dog = strip[1:] - strip[:-1]
        stride = near.new_tensor(dog.stride())
        place = _where(_turns(dog)) + 1
        centre = (place * stride).sum(1)
        some = (dog.flatten()[centre].abs() > loud).nonzero()[:, 0]
        cube = dog.flatten()[centre[some] + (around * stride).sum(1)[:, None]]
        most = torch.where(cube[13] > 0, cube.amax(0), cube.amin(0))
        found.append(place[some[most == cube[13]]] + near.new_tensor([0, first - 1, BORDER - 1]))
    return torch.cat(found)


def _where(truths: Bool[Tensor, "d h w"]) -> Int[Tensor, "n 3"]:
    """As `nonzero`, but eight truths are one whole number: most of these are 0, and it passes over them at once."""
    eights = F.pad(truths.flatten(), (0, -truths.numel() % 8)).view(-1, 8)
    some = eights.view(torch.int64)[:, 0].nonzero()[:, 0]
    which, bit = eights[some].nonzero(as_tuple=True)
    at, (_, height, width) = some[which] * 8 + bit, truths.shape
    return torch.stack([at // (height * width), at // width % height, at % width], 1)


def _turns(dog: Float[Tensor, "d h w"]) -> Bool[Tensor, "d2 h2 w2"]:
    """Whether D, within its border, rises before and falls after along all three axes, or the reverse."""
    layer, y, x = (
        dog[1:, 1:-1, 1:-1] > dog[:-1, 1:-1, 1:-1],
        dog[1:-1, 1:, 1:-1] > dog[1:-1, :-1, 1:-1],
        dog[1:-1, 1:-1, 1:] > dog[1:-1, 1:-1, :-1],
    )
    before, after = x[..., :-1], x[..., 1:]
    turns = before ^ after
    for rises, falls in ((layer[:-1], layer[1:]), (y[:, :-1], y[:, 1:])):
        turns &= (rises == before) & (falls == after)
    return turns


def _cubes(octaves: list[Tensor], place: Int[Tensor, "n 4"]) -> Float[Tensor, "27 n"]:
    """D at the 3 x 3 x 3 neighbours in layer, y and x of places in order of octave; the place itself is the 13th."""
    near = torch.arange(-1, 3, device=place.device)
    steps = torch.cartesian_prod(near, near[:3], near[:3])  # D of a layer is between its Gaussian and the next
    cubes = []
    for gaussians, own in zip(octaves, place[:, 1:].split(place[:, 0].bincount(minlength=len(octaves)).tolist())):
        stride = own.new_tensor(gaussians.stride())
        read = gaussians.flatten()[(own * stride).sum(1) + (steps * stride).sum(1)[:, None]]
        cubes.append(read.unflatten(0, (4, 9)).diff(dim=0).flatten(0, 1))
    return torch.cat(cubes, 1)


def _newton(cube: Float[Tensor, "27 n"], edge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Offset (layer, y, x) of the extremum, D there, and whether it is a corner rather than an edge."""
    c = cube.unflatten(0, (3, 3, 3))
    centre = c[1, 1, 1]
    gs, gy, gx = (c[2, 1, 1] - c[0, 1, 1]) / 2, (c[1, 2, 1] - c[1, 0, 1]) / 2, (c[1, 1, 2] - c[1, 1, 0]) / 2
    ss, yy = c[2, 1, 1] + c[0, 1, 1] - 2 * centre, c[1, 2, 1] + c[1, 0, 1] - 2 * centre
    xx = c[1, 1, 2] + c[1, 1, 0] - 2 * centre
    sy = (c[2, 2, 1] - c[2, 0, 1] - c[0, 2, 1] + c[0, 0, 1]) / 4
    sx = (c[2, 1, 2] - c[2, 1, 0] - c[0, 1, 2] + c[0, 1, 0]) / 4
    yx = (c[1, 2, 2] - c[1, 2, 0] - c[1, 0, 2] + c[1, 0, 0]) / 4
    flat = yy * xx - yx.square()  # the determinant of the Hessian in the plane
    # the adjugate of the symmetric 3 x 3 Hessian
    a, b, d = yx * sx - sy * xx, sy * yx - yy * sx, sy * sx - ss * yx
    e, f = ss * xx - sx.square(), ss * yy - sy.square()
    determinant = ss * flat + sy * a + sx * b
    solution = torch.stack([flat * gs + a * gy + b * gx, a * gs + e * gy + d * gx, b * gs + d * gy + f * gx], 1)
    offset = torch.where((determinant != 0)[:, None], -solution / determinant[:, None], 1e4)
    value = centre + 0.5 * (gs * offset[:, 0] + gy * offset[:, 1] + gx * offset[:, 2])
    corner = (flat > 0) & ((xx + yy).square() * edge < (edge + 1) ** 2 * flat)
    return offset, value, corner


def _gradients(gaussians: Float[Tensor, "s h w"]) -> Float[Tensor, "2 s h w"]:
    """Central differences of each layer in x and y, 0 along the edge."""
    made = gaussians.new_empty(2, *gaussians.shape)
    made[..., 0] = made[..., -1] = made[..., 0, :] = made[..., -1, :] = 0
    torch.sub(gaussians[:, 1:-1, 2:], gaussians[:, 1:-1, :-2], out=made[0, :, 1:-1, 1:-1])
    torch.sub(gaussians[:, 2:, 1:-1], gaussians[:, :-2, 1:-1], out=made[1, :, 1:-1, 1:-1])
    return made


def _gradients_at(
    gradients: Float[Tensor, "2 s h w"],
    first: int,
    keypoints: Float[Tensor, "n 4"],
    unit: Float[Tensor, " n"],
    angles: Float[Tensor, " n"] | None,
    grid: Float[Tensor, "samples 2"],
) -> Float[Tensor, "2 n samples"]:
    """The gradient (dx, dy) on a grid around each keypoint, `unit` pixels wide and turned, in its nearest layer.

    Bilinear between pixels, 0 outside. The layers, from `first` on, lie below each other in one tall picture; the zeros
    along their edges keep them apart.
    """
    count, height, width = gradients.shape[1:]
    zero = torch.zeros_like(unit)
    cos, sin = (unit, zero) if angles is None else (unit * angles.cos(), unit * angles.sin())
    corners = F.pad(grid, (0, 1), value=1.0).T  # u, v, 1: places are one product with each keypoint's turn and middle
    x = torch.stack([cos, -sin, keypoints[:, 0] + 0.5], 1) @ corners
    y = (torch.stack([sin, cos, keypoints[:, 1]], 1) @ corners).clamp_(0, height - 1)
    y += ((keypoints[:, 2].round() - first) * height + 0.5)[:, None]
    places = torch.stack([x * (2 / width) - 1, y * (2 / (count * height)) - 1], -1)
    return F.grid_sample(gradients.flatten(1, 2)[None], places[None], align_corners=False)[0]


def _descriptor_grid(device: torch.device) -> tuple[Float[Tensor, "samples 2"], Float[Tensor, "16 samples"]]:
    """Places in units of one cell around the keypoint, and each place's bilinear, Gaussian weight in every cell."""
    reach = (CELLS + 1) / 2
    count = (CELLS + 1) * PER_CELL
    side = (torch.arange(count, device=device) + 0.5) / PER_CELL - reach
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
    return warp_perspective(image, H, *image.shape[1:])[0].clamp(0, 1)


def experiment(size: int = 384, photos: int = 5, ratio: float = 0.8, seed: int = 0) -> dict[str, float]:
    """Photographs against their warps: repeatability, matching scores (RootSIFT's too), and RANSAC's homography."""
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
                rooted, _ = match_descriptors(root_sift(before.descriptors), root_sift(after.descriptors))
                sure, _ = match_descriptors(before.descriptors, after.descriptors, ratio)
                found = ransac.fit(points[sure[:, 0]], targets[sure[:, 1]])
                rows.append((
                    repeatability(points, targets, H, size, size),
                    matching_score(points, targets, mutual, H, size, size),
                    matching_score(points, targets, rooted, H, size, size),
                    corner_error(found.model, H, size, size),
                ))  # fmt: skip
    repeated, matched, rooted, errors = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return {
        "repeatability": float(repeated.mean()),
        "matching_score": float(matched.mean()),
        "root_matching_score": float(rooted.mean()),
        "root_gain": float((rooted - matched).mean()),
        "median_corner_error": float(errors.median()),
        "worst_corner_error": float(errors.max()),
        "pairs": float(len(rows)),
    }
