r"""SuperPoint: keypoints and descriptors from one network that nobody labelled a point for.

    encoder       VGG blocks of two 3x3 convolutions, three 2x2 max poolings: one feature vector per 8 x 8 cell
    detector      3x3 and 1x1 convolution to 65 channels a cell, softmax: 64 places and a dustbin
    descriptor    3x3 and 1x1 convolution to D channels a cell, unit length, read between cells by bilinear interpolation

How it comes to know points, each stage starting from the one before (`training.init_from`):

    1  MagicPoint                the detector alone (`descriptor_weight: 0`) on synthetic shapes, corners known exactly
    2  homographic adaptation    its detections on unlabelled pictures become their labels, aggregated over N random warps
                                     F(I) = 1/N sum_i H_i^{-1} f(H_i I)        H_1 = identity
    3  the same again            with the detector of stage 2 as teacher; and now both heads, on a picture I and its warp
                                     L = L_p(I) + L_p(H I) + lambda L_d        see `oculi.nn.interest_points`

What a system starts from is its teacher: it labels every batch that comes without `keypoints`, with N new warps each time.

    image          batch x 1 x H x W, sides multiples of 8
    points         n x 2, pixels, centres at +0.5: pixels that survive non-maximum suppression, best first, moved to the
                   mean of the 5 x 5 probabilities about them
    descriptors    n x D, unit length

Differs from the paper: labels are not stored but made anew for every batch; aggregation counts, for each pixel, the
warps that show it; cells that show what lies outside the picture are left out of L_p(H I) and L_d; lambda is 1 by
default, since with L_d divided by the number of pairs, as it is written, 0.0001 is nothing. Points lie between pixels,
and descriptors are read where the point is; `published` answers as the authors' code does, whole pixels and descriptors
up to 3 pixels beside them, for weights trained so.
`norm` puts batch norm after the 3x3 convolutions, which the published network has not.

DeTone, Malisiewicz, Rabinovich: SuperPoint: Self-Supervised Interest Point Detection and Description, 2018,
arXiv:1712.07629; MagicPoint: Toward Geometric Deep SLAM, 2017, arXiv:1707.07410.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.geometry.homography import apply_homography, random_homography, warp_by_homography
from oculi.input_contract import InputContract
from oculi.nn.convolution import conv_relu, fan_in_init
from oculi.nn.interest_points import (
    CELL,
    cell_labels,
    descriptor_hinge_loss,
    detector_loss,
    matching_cells,
    pixel_scores,
)
from oculi.predictions import Keypoints
from oculi.system import System
from oculi.types import Batch, Losses

REACH = 2  # pixels about a keypoint whose probabilities say where in between it lies
MARGIN = 3  # pixels from the edge of a warped picture in which detections are not believed


class SuperPoint(System):
    """Detector and descriptor. The defaults are the published network.

    widths: channels of the encoder's blocks; dimensions: D, and the heads' hidden channels; threshold: least probability
    of a keypoint; radius: of suppression, and of the border without keypoints; max_keypoints: the best are kept, 0 keeps
    all; descriptor_weight: lambda, 0 trains the detector alone; positive_weight: l_d; warps: N; adapted: `predict`
    aggregates over N fixed warps too, slower and more repeatable.
    """

    answer = Keypoints

    def __init__(
        self,
        image_size: int = 240,
        widths: list[int] = [64, 64, 128, 128],  # noqa: B006 - read only; a list so that JSON gives it back
        dimensions: int = 256,
        norm: bool = False,
        threshold: float = 0.015,
        radius: int = 4,
        max_keypoints: int = 0,
        descriptor_weight: float = 1.0,
        positive_weight: float = 250.0,
        warps: int = 32,
        adapted: bool = False,
        published: bool = False,
    ):
        super().__init__(InputContract(image_size, image_size, 1))
        if image_size % CELL or image_size < CELL:
            raise ValueError(f"image_size: expected a multiple of {CELL}, got {image_size}")
        if len(widths) != 4:
            raise ValueError(f"widths: expected 4, one for each block, got {widths}")
        if not 0 <= threshold < 1 or radius < 0 or max_keypoints < 0 or warps < 1:
            given = (threshold, radius, max_keypoints, warps)
            raise ValueError(f"threshold, radius, max_keypoints, warps: expected 0 to 1, >= 0, >= 0, >= 1, got {given}")
        self.threshold, self.radius, self.max_keypoints = threshold, radius, max_keypoints
        self.descriptor_weight, self.positive_weight = descriptor_weight, positive_weight
        self.warps, self.adapted, self.published = warps, adapted, published
        self.encoder = nn.ModuleList(
            nn.Sequential(conv_relu(a, b, 3, norm=norm), conv_relu(b, b, 3, norm=norm))
            for a, b in zip([1, *widths], widths)
        )
        heads = (CELL * CELL + 1, dimensions)
        self.detector, self.descriptor = (
            nn.Sequential(conv_relu(widths[-1], dimensions, 3, norm=norm), nn.Conv2d(dimensions, outputs, 1))
            for outputs in heads
        )
        fan_in_init(self)
        self._teacher: list[SuperPoint] = []  # not a part of the weights

    def adopt(self, source: System) -> None:
        """Start from another SuperPoint's weights, which from now on labels what has no keypoints."""
        super().adopt(source)
        teacher = type(self)(**{**source.config, "adapted": False})
        teacher.load_state_dict(source.state_dict())
        self._teacher = [teacher.eval().requires_grad_(False)]

    def encode(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b width rows columns"]:
        """One feature vector per cell. Raises ValueError for sides that are not multiples of 8."""
        if image.shape[1] != 1 or image.shape[-2] % CELL or image.shape[-1] % CELL:
            raise ValueError(f"image: expected 1 channel and sides that {CELL} divides, got {tuple(image.shape[1:])}")
        x = self.normalize(image)
        for index, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if index else x)
        return x

    def forward(
        self, image: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b 65 rows columns"], Float[Tensor, "b d rows columns"]]:
        """Logits of the 65 channels, and unit descriptors, of every cell."""
        x = self.encode(image)
        return self.detector(x), F.normalize(self.descriptor(x), dim=1)

    def scores(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b h w"]:
        """Each pixel's probability to be a point."""
        return pixel_scores(self.detector(self.encode(image)))

    # learning --------------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        image = batch.pictures
        where = self._points(batch)
        owner, points = where[:, 0].long(), where[:, 1:]
        H = random_homography(len(image), *image.shape[-2:]).to(image)
        warped, inside = warp_by_homography(image, H)
        known = F.avg_pool2d(inside[:, None].float(), CELL)[:, 0] > 0.99
        moved = apply_homography(H[owner], points[:, None])[:, 0]
        marks = [cell_labels(mark(owner, at, len(image), *image.shape[-2:])) for at in (points, moved)]
        if not self.descriptor_weight:
            features = self.encode(torch.cat([image, warped]))
            first, second = self.detector(features).chunk(2)
        else:
            logits, descriptors = self(torch.cat([image, warped]))
            first, second = logits.chunk(2)
        losses = {"detector": detector_loss(first, marks[0]), "warped_detector": detector_loss(second, marks[1], known)}
        if self.descriptor_weight:
            one, other = descriptors.chunk(2)
            matching = matching_cells(H, *one.shape[-2:])
            hinge = descriptor_hinge_loss(one, other, matching, self.positive_weight, known=known)
            losses["descriptor"] = self.descriptor_weight * hinge
        return losses

    def _points(self, batch: Batch) -> Float[Tensor, "n 3"]:
        """Number of the picture, x and y of every point to learn: the known ones, or the teacher's."""
        image = batch.pictures
        if batch.keypoints is not None:
            flat = [k.flatten(0, 1) for k in batch.keypoints]
            owner = torch.arange(len(flat)).repeat_interleave(torch.tensor([len(k) for k in flat])).to(image)
            every = torch.cat(flat).to(image)
            return torch.cat([owner[:, None], every[:, :2]], 1)[every[:, 2] > 0]
        if not self._teacher:
            raise ValueError(
                "batch.keypoints: expected points, or a detector to start from (init_from) that finds them"
            )
        teacher = self._teacher[0].to(image.device)
        height, width = image.shape[-2:]
        with torch.no_grad():
            scores = adapt(teacher.scores, image, self._views(height, width).to(image))
            found = self.peaks(scores).nonzero()
        return torch.stack([found[:, 0], found[:, 2] + 0.5, found[:, 1] + 0.5], 1).to(image)

    def _views(self, height: int, width: int, generator: torch.Generator | None = None) -> Float[Tensor, "warps 3 3"]:
        """The identity and other random homographies, to aggregate over."""
        H = random_homography(self.warps, height, width, generator)
        H[0] = torch.eye(3)
        return H

    # answering -------------------------------------------------------------------------------------------------------

    def peaks(self, scores: Float[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
        """Pixels that are keypoints: above the threshold, away from the border, highest around."""
        keep = (suppress(scores, self.radius) > self.threshold) & torch.isfinite(scores)
        edge = self.radius
        if edge:
            keep[:, :edge] = keep[:, -edge:] = False
            keep[..., :edge] = keep[..., -edge:] = False
        return keep

    def predict(self, batch: Batch) -> list[Keypoints]:
        image = batch.pictures
        logits, descriptors = self(image)
        scores = pixel_scores(logits)
        if self.adapted:
            height, width = image.shape[-2:]
            H = self._views(height, width, torch.Generator().manual_seed(0))
            scores = adapt(self.scores, image, H.to(image))
        return [self._answer(s, k, d) for s, k, d in zip(scores, self.peaks(scores), descriptors)]

    def _answer(
        self, scores: Float[Tensor, "h w"], keep: Bool[Tensor, "h w"], descriptors: Float[Tensor, "d rows columns"]
    ) -> Keypoints:
        place = keep.nonzero()
        value = scores[keep]
        order = value.argsort(descending=True, stable=True)
        order = order[: self.max_keypoints] if self.max_keypoints else order
        place, value = place[order], value[order]
        points = place.flip(1) + 0.5
        if not self.published:
            points = points + away(scores, place)
        size = torch.full_like(value, self.radius)
        read = read_descriptors(descriptors, points, self.published)
        return Keypoints(points, size, torch.zeros_like(value), value, read)


def suppress(scores: Float[Tensor, "b h w"], radius: int) -> Float[Tensor, "b h w"]:
    """Scores that are the highest within a square of `radius`, the others 0. Two more rounds bring back what only a pixel
    that was itself suppressed had suppressed."""

    def highest(x: Tensor) -> Tensor:
        return F.max_pool2d(x[:, None], 2 * radius + 1, 1, radius)[:, 0]

    kept = scores == highest(scores)
    for _ in range(2):
        near = highest(kept.to(scores)) > 0
        others = scores.masked_fill(near, 0)
        kept = kept | ((others == highest(others)) & ~near)
    return scores.masked_fill(~kept, 0)


def away(scores: Float[Tensor, "h w"], place: Int[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """From pixels (row, column) to the mean, by probability, of the places REACH pixels about them; x, y."""
    steps = torch.arange(-REACH, REACH + 1, device=scores.device)
    steps = torch.cartesian_prod(steps, steps)
    row, column = (place[:, None] + REACH + steps).unbind(-1)
    share = F.pad(scores, (REACH,) * 4)[row, column]
    return (share / share.sum(1, keepdim=True)) @ steps.flip(1).to(share)


def read_descriptors(
    descriptors: Float[Tensor, "d rows columns"], points: Float[Tensor, "n 2"], published: bool = False
) -> Float[Tensor, "n d"]:
    """Descriptors between the cells' centres by bilinear interpolation, unit length again."""
    size = points.new_tensor([descriptors.shape[2], descriptors.shape[1]]) * CELL
    if published:  # cells are taken to be (size - 4.5) / (cells - 1) pixels apart, and not 8
        unit = (points - CELL / 2) / (size - CELL / 2 - 0.5) * 2 - 1
        read = F.grid_sample(descriptors[None], unit[None, None], align_corners=True)
    else:
        unit = points / size * 2 - 1
        read = F.grid_sample(descriptors[None], unit[None, None], padding_mode="border", align_corners=False)
    return F.normalize(read[0, :, 0].T, dim=1)


# homographic adaptation -----------------------------------------------------------------------------------------------


def believed(inside: Bool[Tensor, "b h w"], margin: int = MARGIN) -> Bool[Tensor, "b h w"]:
    """Pixels of warped pictures that are `margin` pixels away from where the picture ends."""
    return F.max_pool2d((~inside)[:, None].float(), 2 * margin + 1, 1, margin)[:, 0] == 0


def mark(
    owner: Tensor, points: Float[Tensor, "n 2"], count: int, height: int, width: int
) -> Bool[Tensor, "count height width"]:
    """The pixels that points (x, y) of picture `owner` lie in; points outside are left out."""
    place = points.nan_to_num(-1).floor().clamp(-1, max(height, width)).long()
    x, y = place.unbind(1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    marked = torch.zeros(count, height, width, dtype=torch.bool, device=points.device)
    marked[owner[inside], y[inside], x[inside]] = True
    return marked


def adapt(
    detect: Callable[[Tensor], Tensor], image: Float[Tensor, "b 1 h w"], H: Float[Tensor, "n 3 3"]
) -> Float[Tensor, "b h w"]:
    """Homographic adaptation: the mean of what `detect` says of the picture's warps, brought back, over those that show
    the pixel."""
    count = len(image)
    there, back = H.repeat(count, 1, 1), torch.linalg.inv(H).repeat(count, 1, 1)
    warped, inside = warp_by_homography(image.repeat_interleave(len(H), 0), there)
    shown = believed(inside).to(image)
    brought = warp_by_homography(torch.stack([detect(warped) * shown, shown], 1), back)[0]
    total, times = brought.unflatten(0, (count, len(H))).sum(1).unbind(1)
    return total / times.clamp_min(0.5)
