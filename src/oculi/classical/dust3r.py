r"""DUSt3R: from two pictures, without intrinsics or poses, a 3D point for every pixel of both, in the first camera's axes.

A siamese encoder sees each picture alone; two decoders, one for each, look at their own tokens and at the other's; a head
turns the tokens of each patch into its pixels' points and confidences:

    F^v = Encoder(I^v)                                             v = 1, 2; shared weights
    G^1_k = Block^1_k(G^1_{k-1}, G^2_{k-1}),  G^2_k = Block^2_k(G^2_{k-1}, G^1_{k-1}),  G^v_0 = Linear(F^v)
    Block     x = x + A(LN(x));  x = x + A(LN(x), LN(y));  x = x + MLP(LN(x))
    X^{v,1}, c^v = Head^v(G^v_B),   C^v = 1 + exp(c^v)

Depth, camera and correspondence are never asked for: they follow from the pointmaps (`oculi.geometry.pointmaps`,
`oculi.classical.global_alignment`). The maps have no scale, so both sides are divided by their mean distance from the
first camera before they are compared; confidence buys a discount on the distance and is paid by its logarithm:

    l^v_i = || X^{v,1}_i / z - Y^{v,1}_i / z' ||,     z = mean of ||X^{v,1}_i|| over the valid pixels of both views
    L = sum_v mean_i C^v_i l^v_i - alpha log C^v_i,   for one pixel least at C = alpha / l where that is above 1

    image, next_image                      batch x 3 x H x W
    points, confidence                     batch x 2 x H x W x 3, batch x 2 x H x W; view 0 is `image`
    depth, camera, next_depth, next_camera   the truth in training; depth that is not positive and finite is unknown

A picture alone is paired with itself, which leaves its depth. The defaults are the paper's: ViT-L, decoders of the size
of ViT-B, 512-pixel pictures. Differs from it: the linear head, not DPT; square pictures; positions are learned in the
encoder and sines in the cross-attention, not rotary; each loss is a mean over its view's valid pixels, not their sum.

Wang, Leroy, Cabon, Chidlovskii, Revaud: DUSt3R: Geometric 3D Vision Made Easy, 2023, arXiv:2312.14132.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.vit import ViT
from oculi.classical.ransac import Consensus
from oculi.classical.ransac_pnp import RANSACPnP
from oculi.geometry.camera import pixel_centers
from oculi.geometry.pointmaps import change_frame, pointmap
from oculi.input_contract import InputContract
from oculi.nn.attention import MultiHeadAttention
from oculi.nn.cross_attention import CrossAttention
from oculi.nn.query_decoder import sine_positions
from oculi.predictions import Pointmaps
from oculi.system import System
from oculi.types import Batch, Losses


class CrossBlock(nn.Module):
    """Self-attention, cross-attention to the other view, feed-forward; pre-norm, each with a residual."""

    def __init__(self, width: int, heads: int, eps: float = 1e-6):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=eps) for _ in range(4))
        self.attention, self.cross = MultiHeadAttention(width, heads), CrossAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, x: Float[Tensor, "b n d"], other: Float[Tensor, "b n d"], places: Float[Tensor, "n d"]
    ) -> Float[Tensor, "b n d"]:
        """places: added to what is compared across the views."""
        own, asked, seen, last = self.norms
        x = x + self.attention(own(x))
        value = seen(other)
        x = x + self.cross(asked(x) + places, value + places, value)
        return x + self.mlp(last(x))


class PointHead(nn.Module):
    """Tokens to pixels: a linear map gives every pixel of a patch x, y, z and c; X = d/|d| (e^|d| - 1), C = 1 + e^c."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.patch = patch
        self.norm, self.out = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 4 * patch**2)
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():  # begins as a plane before the camera
            self.out.bias.view(4, -1)[2] = 1.0

    def forward(self, x: Float[Tensor, "b n d"], rows: int) -> tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b h w"]]:
        """rows: of patches."""
        maps = self.out(self.norm(x)).transpose(1, 2).unflatten(2, (rows, -1))
        pixels = F.pixel_shuffle(maps, self.patch)
        direction = pixels[:, :3].permute(0, 2, 3, 1)
        length = torch.linalg.norm(direction, dim=-1, keepdim=True).clamp_min(1e-6)
        return direction * (torch.expm1(length) / length), 1 + pixels[:, 3].exp()


class DUSt3R(System):
    """Pointmaps of a pair of pictures by two decoders that look at each other.

    width, depth, heads: of the encoder, and decoder_...: of each decoder. alpha: what confidence costs.
    """

    answer = Pointmaps

    def __init__(
        self,
        image_size: int = 512,
        patch: int = 16,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        decoder_width: int = 768,
        decoder_depth: int = 12,
        decoder_heads: int = 12,
        alpha: float = 0.2,
    ):
        super().__init__(InputContract(image_size, image_size))
        if decoder_width % 4:
            raise ValueError(f"decoder_width: expected a multiple of 4, got {decoder_width}")
        if decoder_depth < 1:
            raise ValueError(f"decoder_depth: expected at least 1, got {decoder_depth}")
        if not alpha > 0:
            raise ValueError(f"alpha: expected a positive number, got {alpha}")
        self.patch, self.alpha = patch, alpha
        self.encoder = ViT(0, image_size, patch, width, depth, heads)
        self.narrow = nn.Linear(width, decoder_width)
        self.decoders = nn.ModuleList(
            nn.ModuleList(CrossBlock(decoder_width, decoder_heads) for _ in range(decoder_depth)) for _ in range(2)
        )
        self.heads = nn.ModuleList(PointHead(decoder_width, patch) for _ in range(2))

    def forward(
        self, image: Float[Tensor, "b 3 h w"], next_image: Float[Tensor, "b 3 h w"] | None = None
    ) -> tuple[Float[Tensor, "b 2 h w 3"], Float[Tensor, "b 2 h w"]]:
        """Points in the first camera's axes and their confidence, for both views; `image` is its own pair if alone."""
        tokens = [self._encode(image)]
        tokens.append(tokens[0] if next_image is None else self._encode(next_image))
        rows, columns = (side // self.patch for side in image.shape[-2:])
        first, second = tokens
        places = sine_positions(rows, columns, first.shape[-1], first.device).to(first)
        for one, two in zip(*self.decoders):
            first, second = one(first, second, places), two(second, first, places)
        maps = [head(x, rows) for head, x in zip(self.heads, (first, second))]
        return torch.stack([points for points, _ in maps], 1), torch.stack([c for _, c in maps], 1)

    def _encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        if image.shape[-2] % self.patch or image.shape[-1] % self.patch:
            raise ValueError(f"image: expected sides that {self.patch} divides, got {tuple(image.shape[-2:])}")
        return self.narrow(self.encoder.tokens(self.normalize(image))[:, 1:])

    def embed(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """What the encoder sees in a picture alone: the mean of its patches' tokens."""
        return self._encode(image).mean(1)

    def loss(self, batch: Batch) -> Losses:
        points, valid = true_pointmaps(batch)
        found, confidence = self(batch.pictures, batch.next_image)
        first, second = confidence_loss(found, confidence, points, valid, self.alpha)
        return {"first": first, "second": second}

    def predict(self, batch: Batch) -> list[Pointmaps]:
        points, confidence = self(batch.pictures, batch.next_image)
        return [Pointmaps(*one) for one in zip(points, confidence)]


def true_pointmaps(batch: Batch) -> tuple[Float[Tensor, "b 2 h w 3"], Bool[Tensor, "b 2 h w"]]:
    """Both views' points in the first camera's axes, from depths and cameras, and where the depth is known."""
    if batch.next_image is None or batch.depth is None or batch.next_depth is None:
        raise ValueError("batch: expected next_image, depth and next_depth, one is None")
    if batch.camera is None or batch.next_camera is None:
        raise ValueError("batch: expected camera and next_camera, one is None")
    depth = torch.stack([batch.depth, batch.next_depth], 1)
    valid = torch.isfinite(depth) & (depth > 0)
    depth = torch.where(valid, depth, 1.0)
    second = pointmap(depth[:, 1], batch.next_camera.K)
    second = change_frame(second, batch.next_camera, batch.camera)
    return torch.stack([pointmap(depth[:, 0], batch.camera.K), second], 1), valid


def swapped(batch: Batch) -> Batch:
    """The same pairs with the second view first."""
    return Batch(
        image=batch.next_image, depth=batch.next_depth, camera=batch.next_camera,
        next_image=batch.image, next_depth=batch.depth, next_camera=batch.camera,
    )  # fmt: skip


def pnp_pose(
    points: Float[Tensor, "h w 3"],
    K: Float[Tensor, "3 3"],
    confidence: Float[Tensor, "h w"] | None = None,
    threshold: float = 2.0,
    share: float = 0.5,
    seed: int = 0,
) -> Consensus:
    """The pose `model` (4 x 4, from the pointmap's axes) of the camera that took a picture, from its pixels and their points
    in any frame: PnP inside RANSAC. Takes the `share` of points that are the surest, where `confidence` is given.

    threshold: pixels. Raises ValueError where too few points are finite, or no more agree than by chance.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number in (0, 1], got {share}")
    height, width = points.shape[:2]
    pixels = pixel_centers(height, width, points.device)
    kept = torch.isfinite(points).all(-1).flatten().nonzero()[:, 0]
    if confidence is not None:
        order = confidence.flatten()[kept].argsort(descending=True, stable=True)
        kept = kept[order[: max(1, round(share * len(kept)))]]
    return RANSACPnP(threshold, seed=seed).fit(points.reshape(-1, 3)[kept], pixels[kept], K)


def mean_distance(points: Float[Tensor, "b 2 h w 3"], valid: Bool[Tensor, "b 2 h w"]) -> Float[Tensor, " b"]:
    """z: the mean of ||X_i|| over the valid pixels of both views. Raises ValueError for a pair without any."""
    count = valid.flatten(1).sum(1)
    if bool((count == 0).any()):
        raise ValueError("depth: expected a known depth in every pair, got one without")
    length = torch.linalg.norm(torch.where(valid[..., None], points, points.new_ones(())), dim=-1)
    return torch.where(valid, length, 0.0).flatten(1).sum(1) / count


def regression_errors(
    found: Float[Tensor, "b 2 h w 3"], true: Float[Tensor, "b 2 h w 3"], valid: Bool[Tensor, "b 2 h w"]
) -> Float[Tensor, "b 2 h w"]:
    """l: distances between the maps, each divided by its own mean distance; 0 where the truth is unknown."""
    scaled = (
        found / mean_distance(found, valid).clamp_min(1e-8)[:, None, None, None, None]
        - true / mean_distance(true, valid).clamp_min(1e-8)[:, None, None, None, None]
    )
    # the gradient of a norm is undefined at 0, so what does not count is kept away from it
    return torch.linalg.norm(torch.where(valid[..., None], scaled, scaled.new_ones(())), dim=-1) * valid


def confidence_loss(
    found: Float[Tensor, "b 2 h w 3"],
    confidence: Float[Tensor, "b 2 h w"],
    true: Float[Tensor, "b 2 h w 3"],
    valid: Bool[Tensor, "b 2 h w"],
    alpha: float = 0.2,
) -> Float[Tensor, "2"]:
    """mean_i C_i l_i - alpha log C_i over the valid pixels of each view."""
    each = confidence * regression_errors(found, true, valid) - alpha * confidence.log()
    return torch.where(valid, each, 0.0).sum((0, 2, 3)) / valid.sum((0, 2, 3)).clamp_min(1)
