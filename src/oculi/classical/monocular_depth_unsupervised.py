r"""Depth and camera motion from video alone: if both are right, a picture can be made out of its neighbours.

    D = depth(I_t)                              network 1, from one picture
    T_s = motion(I_t, I_s)                      network 2, from two: 6 numbers, camera t to camera s
    p' = K T_s D(p) K^{-1} p                    where frame s shows what frame t shows at p
    I_s->t(p) = I_s(p')                         bilinear
    e(a, b) = alpha (1 - SSIM(a, b)) / 2 + (1 - alpha) |a - b|           alpha = 0.85, SSIM in 3 x 3 windows
    L = mean_p min_s [ e(I_t, I_s->t), e(I_t, I_s) ] + w sum |grad d*| exp(-|grad I|)       d* = d / mean d, d = 1 / D

The minimum over neighbours lets a pixel that one frame hides be explained by the other; with the neighbours as they are
among the choices, a pixel that does not move (with the camera, or a camera that stands) drops out: auto-masking. The
smoothness lets depth jump where the picture does.

    video     batch x F x 3 x H x W, F >= 2: the middle frame is explained by those beside it; no depth is ever read
    camera    K of the pictures; its poses are never read either
    depth     up to one common factor: 1 / D = 1 / farthest + (1 / nearest - 1 / farthest) sigmoid(network)

Differs from Monodepth2: coarse scales compare pictures made smaller, with the one depth map made smaller, which widens
the basin in which a displacement is found; both networks start from nothing.

Zhou, Brown, Snavely, Lowe: Unsupervised Learning of Depth and Ego-Motion from Video, 2017, arXiv:1704.07813; Godard,
Mac Aodha, Firman, Brostow: Digging Into Self-Supervised Monocular Depth Estimation, 2019, arXiv:1806.01260.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.geometry.camera import pixel_centers
from oculi.geometry.rotations import rotation_from_vector
from oculi.input_contract import InputContract
from oculi.nn.convolution import conv_relu, fan_in_init
from oculi.nn.skip_decoder import SkipDecoder
from oculi.ops.sampling import fast_sample
from oculi.predictions import Depth
from oculi.system import System
from oculi.types import Batch, Losses

ALPHA = 0.85
# What the motion network's 1 means, in radians and in units of depth: it starts near rest, and explains what it sees by
# translation first. Turning explains nearly as much, but then depth learns nothing, or the wrong way round.
TURN_UNIT, SHIFT_UNIT = 0.002, 0.01


class MonocularDepthUnsupervised(System):
    """Depth up to scale from one picture; `motion` tells how the camera moved between two.

    width, depths, stem: of the depth network's ResNet, see there; motion_widths: channels of the motion network, each layer
    of stride 2; nearest, farthest: range of depth, in units of its own; smoothness: w; scales: sizes of picture that are
    compared, each half of the last; automask, minimum: see above, False leaves the neighbours out of the choices, or takes
    the mean.
    """

    answer = Depth

    def __init__(
        self,
        image_size: int = 192,
        width: int = 32,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        stem: Literal["imagenet", "small"] = "imagenet",
        motion_widths: list[int] = [16, 32, 64, 128, 256],  # noqa: B006
        nearest: float = 0.1,
        farthest: float = 100.0,
        smoothness: float = 0.001,
        scales: int = 3,
        automask: bool = True,
        minimum: bool = True,
    ):
        super().__init__(InputContract(image_size, image_size))
        if not 0 < nearest < farthest:
            raise ValueError(f"nearest, farthest: expected 0 < nearest < farthest, got {nearest} and {farthest}")
        if scales < 1 or image_size % 2 ** (scales - 1) or smoothness < 0:
            raise ValueError(
                f"scales, smoothness: expected at least 1 halving of {image_size} and 0, got {scales} and {smoothness}"
            )
        self.nearest, self.deepest, self.smoothness = nearest, farthest, smoothness
        self.scales, self.automask, self.minimum = scales, automask, minimum
        self.encoder = ResNet(0, depths, width=width, stem=stem, image_size=image_size)
        self.decoder = SkipDecoder(self.encoder.channels)
        layers = [
            conv_relu(a, b, 3, stride=2, norm=True) for a, b in zip([6, *motion_widths], motion_widths, strict=False)
        ]
        self.motion_network = nn.Sequential(*layers, nn.Conv2d(motion_widths[-1], 6, 1))
        fan_in_init(self.motion_network)

    def disparity(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        """1 / depth."""
        maps = self.encoder.features(self.normalize(image))
        share = self.decoder(maps, *image.shape[-2:])[:, 0].sigmoid()
        return 1 / self.deepest + (1 / self.nearest - 1 / self.deepest) * share

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        """Depth of every pixel, up to one factor."""
        return 1 / self.disparity(image)

    def motion(self, first: Float[Tensor, "b 3 h w"], second: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 4 4"]:
        """From the first camera's coordinates to the second's; translation in the units of depth."""
        pair = torch.cat([self.normalize(first), self.normalize(second)], 1)
        turn, shift = self.motion_network(pair).mean((2, 3)).chunk(2, 1)
        upper = torch.cat([rotation_from_vector(TURN_UNIT * turn), SHIFT_UNIT * shift[..., None]], 2)
        last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(upper), 1, 4)
        return torch.cat([upper, last], 1)

    def loss(self, batch: Batch) -> Losses:
        if batch.video is None or batch.camera is None or batch.video.shape[1] < 2:
            raise ValueError(
                "batch.video, batch.camera: expected at least 2 frames and the camera, to explain one by others"
            )
        frames = batch.video.shape[1]
        middle = frames // 2
        K = batch.camera.K if batch.camera.K.ndim == 3 else batch.camera.K[:, middle]
        target = batch.video[:, middle]
        sources = [batch.video[:, k] for k in (middle - 1, middle + 1) if k < frames]
        disparity = self.disparity(target)
        moves = [self.motion(target, source) for source in sources]
        photometric = torch.zeros((), device=target.device)
        for scale in range(self.scales):
            smaller = 2**scale
            depth = 1 / F.avg_pool2d(disparity[:, None], smaller)[:, 0]
            pictures = [F.avg_pool2d(picture, smaller) for picture in (target, *sources)]
            shrunk = torch.cat([K[:, :2] / smaller, K[:, 2:]], 1)  # exact, the pixels' centres being at +0.5
            photometric = photometric + self._unexplained(pictures[0], pictures[1:], depth, moves, shrunk)
        smooth = edge_aware_smoothness(disparity, target)
        return {"photometric": photometric / self.scales, "smoothness": self.smoothness * smooth}

    def _unexplained(
        self, target: Tensor, sources: list[Tensor], depth: Tensor, moves: list[Tensor], K: Tensor
    ) -> Float[Tensor, ""]:
        """The mean over pixels of the error of the neighbour that explains it best."""
        made = [
            photometric_error(reproject(source, depth, T, K), target) for source, T in zip(sources, moves, strict=True)
        ]
        errors = torch.stack(made)
        errors = errors.amin(0) if self.minimum else errors.mean(0)
        if self.automask:
            still = torch.stack([photometric_error(source, target) for source in sources])
            still = still.amin(0) if self.minimum else still.mean(0)
            errors = torch.minimum(errors, still)
        return errors.mean()

    def predict(self, batch: Batch) -> list[Depth]:
        return [Depth(depth) for depth in self(batch.pictures)]


def reproject(
    source: Float[Tensor, "b c h w"],
    depth: Float[Tensor, "b h w"],
    T: Float[Tensor, "b 4 4"],
    K: Float[Tensor, "b 3 3"],
) -> Float[Tensor, "b c h w"]:
    """The picture that the target's camera would take of what `source` shows; its edge is repeated beyond it."""
    height, width = depth.shape[-2:]
    pixels = F.pad(pixel_centers(height, width, depth.device), (0, 1), value=1.0).T
    points = torch.linalg.inv(K) @ pixels * depth.flatten(1)[:, None]
    moved = K @ (T[:, :3, :3] @ points + T[:, :3, 3:])
    places = (moved[:, :2] / moved[:, 2:].clamp_min(1e-3)).transpose(1, 2)
    return fast_sample(source, places).unflatten(2, (height, width))


def photometric_error(
    made: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"], alpha: float = ALPHA
) -> Float[Tensor, "b h w"]:
    """alpha (1 - SSIM) / 2 + (1 - alpha) |difference|, per pixel, mean over channels; 0 where both are equal.

    SSIM from means over 3 x 3 pixels, the picture mirrored at its edge.
    """
    x, y = (F.pad(picture, (1, 1, 1, 1), mode="reflect") for picture in (made, target))
    mean_x, mean_y, xx, yy, xy = (F.avg_pool2d(v, 3, 1) for v in (x, y, x * x, y * y, x * y))
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    unlike = ((1 - alike) / 2).clamp(0, 1)
    return (alpha * unlike + (1 - alpha) * (made - target).abs()).mean(1)


def edge_aware_smoothness(disparity: Float[Tensor, "b h w"], image: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """mean |d*_x| exp(-|I_x|) + mean |d*_y| exp(-|I_y|), d* being disparity over its mean: shrinking is no way out."""
    relative = disparity / disparity.mean((1, 2), keepdim=True).clamp_min(1e-7)
    across = relative.diff(dim=2).abs() * torch.exp(-image.diff(dim=3).abs().mean(1))
    down = relative.diff(dim=1).abs() * torch.exp(-image.diff(dim=2).abs().mean(1))
    return across.mean() + down.mean()
