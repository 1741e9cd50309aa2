r"""Prompts as tokens: where somebody clicked, drew a box, gave a rough mask, or what was said.

    gamma(p) = [sin(2 pi G^T (2 p - 1)), cos(the same)]       p in [0, 1]^2, G random (2 x channels / 2) and never learned

    point         gamma(p) + e_kind, the kind being on the object or beside it
    box           two tokens, gamma(corner) + e_kind, the kind being first or last corner
    no point      e_none alone; it stands beside points that come without a box
    mask          logits, four times as fine as the image's map: two 2x2 convolutions of stride 2 and a 1x1, a dense map
                  added to the image's; where there is no mask a learned vector takes its place
    embedding     of a text or picture (CLIP's), made one token by a linear layer

Coordinates are continuous, pixel centres at +0.5.

Kirillov et al.: Segment Anything, 2023, arXiv:2304.02643; Tancik et al.: Fourier Features Let Networks Learn High
Frequency Functions in Low Dimensional Domains, 2020, arXiv:2006.10739.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.types import Prompts

NONE, BESIDE, ON, FIRST_CORNER, LAST_CORNER = -1, 0, 1, 2, 3  # labels of points


class FourierPositions(nn.Module):
    """gamma(p) of places in [0, 1]^2; the frequencies are a buffer."""

    frequencies: Tensor

    def __init__(self, channels: int, scale: float = 1.0):
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels: expected an even number, got {channels}")
        self.register_buffer("frequencies", scale * torch.randn(2, channels // 2))

    def forward(self, place: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b channels"]:
        angle = 2 * math.pi * ((2 * place - 1) @ self.frequencies)
        return torch.cat([angle.sin(), angle.cos()], -1)

    def grid(self, rows: int, columns: int) -> Float[Tensor, "channels rows columns"]:
        """gamma of the cell centres of a map."""
        y = (torch.arange(rows, device=self.frequencies.device) + 0.5) / rows
        x = (torch.arange(columns, device=self.frequencies.device) + 0.5) / columns
        return self(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)).permute(2, 0, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map `batch x channels x height x width`."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PromptEncoder(nn.Module):
    """Tokens and a dense map for prompts on pictures of `image_size` pixels.

    text_width: of the embeddings that may come as prompts, 0 = none; always_none: the token `no point` stands beside
    boxes too (SAM 2).
    """

    def __init__(
        self, channels: int, image_size: int, mask_channels: int = 16, text_width: int = 0, always_none: bool = False
    ):
        super().__init__()
        self.image_size, self.always_none = image_size, always_none
        self.positions = FourierPositions(channels)
        self.kinds = nn.Parameter(torch.randn(5, channels))  # no point, beside, on, first corner, last corner
        self.no_mask = nn.Parameter(torch.randn(channels))
        self.mask = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, 2),
            ChannelNorm(mask_channels // 4, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, 2),
            ChannelNorm(mask_channels, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_channels, channels, 1),
        )
        self.text = nn.Linear(text_width, channels) if text_width else None

    def point_tokens(
        self, points: Float[Tensor, "b p n 2"], labels: Int[Tensor, "b p n"]
    ) -> Float[Tensor, "b p n channels"]:
        """One token for each point, box corner or missing point."""
        place = self.positions(points / self.image_size)
        return torch.where((labels >= 0)[..., None], place, 0.0) + self.kinds[labels + 1]

    def dense(self, masks: Float[Tensor, "b p h w"] | None) -> Float[Tensor, "#b #p channels #rows #columns"]:
        """The map to add to the image's, for each prompt."""
        if masks is None:
            return self.no_mask[:, None, None].expand(1, 1, -1, 1, 1)
        return self.mask(masks.flatten(0, 1)[:, None]).unflatten(0, masks.shape[:2])

    def forward(
        self, prompts: Prompts
    ) -> tuple[Float[Tensor, "b p n channels"], Float[Tensor, "#b #p channels #rows #columns"]]:
        """Tokens and dense map. Raises ValueError where the prompts are incomplete or of a kind that was not foreseen."""
        tokens, points = [], prompts.points
        if points is not None:
            labels = prompts.labels
            if labels is None or labels.shape != points.shape[:-1]:
                got = None if labels is None else tuple(labels.shape)
                raise ValueError(
                    f"prompts.labels: expected one for each of {tuple(points.shape[:-1])} points, got {got}"
                )
            if prompts.boxes is None and not self.always_none:
                points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=NONE)
            tokens.append(self.point_tokens(points, labels))
        if prompts.boxes is not None:
            corners = prompts.boxes.unflatten(-1, (2, 2))
            kinds = torch.tensor([FIRST_CORNER, LAST_CORNER], device=corners.device)
            tokens.append(self.point_tokens(corners, kinds.expand(corners.shape[:-1])))
        if prompts.embeddings is not None:
            if self.text is None or prompts.embeddings.shape[-1] != self.text.in_features:
                known, width = self.text.in_features if self.text is not None else 0, prompts.embeddings.shape[-1]
                raise ValueError(f"prompts.embeddings: expected a width of {known} (text_width), got {width}")
            tokens.append(self.text(prompts.embeddings)[..., None, :])
        if self.always_none or not tokens:
            like = tokens[0] if tokens else prompts.masks
            if like is None:
                raise ValueError("prompts: expected points, boxes, masks or embeddings, got none of them")
            count = 1 if self.always_none else 0
            tokens.append(self.kinds[0].expand(*like.shape[:2], count, -1))
        return torch.cat(tokens, 2), self.dense(prompts.masks)


def ambiguous(prompts: Prompts) -> Bool[Tensor, "b p"]:
    """Which prompts are one point, one box or one embedding alone."""
    given = [x for x in (prompts.points, prompts.boxes, prompts.embeddings, prompts.masks) if x is not None]
    if not given:
        raise ValueError("prompts: expected points, boxes, masks or embeddings, got none of them")
    count = torch.zeros(given[0].shape[:2], dtype=torch.int64, device=given[0].device)
    if prompts.labels is not None:
        count = count + (prompts.labels >= 0).sum(-1)
    count = count + int(prompts.boxes is not None) + int(prompts.embeddings is not None)
    return (count == 1) & (prompts.masks is None)
