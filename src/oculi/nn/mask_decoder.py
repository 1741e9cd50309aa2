r"""SAM's mask decoder: tokens and image look at each other, then a token's vector times the image's map is a mask.

    block     tokens attend to each other; tokens to the image; MLP on the tokens; the image to the tokens
    twice, then the tokens attend to the image once more. Tokens carry what they were at first as their positions, the
    image its Fourier positions, added to queries and keys in every attention. Layer norm after each residual.

    tokens    [object score (SAM 2)], IoU, four masks, then those of the prompt
    image     upscaled fourfold by two 2x2 transposed convolutions (SAM 2 adds the finer maps of its encoder)
    mask i    logits m_i = MLP_i(token i) . upscaled map
    IoU       how well each mask will fit, from the IoU token; a score in [0, 1]

Mask 0 answers prompts that leave no doubt; masks 1 to 3 answer a single click, which may mean the whole, a part or a
part of a part.

Kirillov et al.: Segment Anything, 2023, arXiv:2304.02643; Ravi et al.: SAM 2, 2024, arXiv:2408.00714.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.prompt_encoder import ChannelNorm

MASKS = 4  # one for prompts that are clear, three for those that are not


class NarrowAttention(nn.Module):
    """Multi-head attention whose queries, keys and values come from three places and are `inner` wide.

    Keys begin with the weights of the queries, so that at first everything looks at what is like it, and near it.
    """

    def __init__(self, width: int, inner: int, heads: int, context_width: int = 0):
        super().__init__()
        if heads < 1 or inner % heads:
            raise ValueError(f"heads: expected a divisor of width {inner}, got {heads}")
        self.heads = heads
        self.query = nn.Linear(width, inner)
        self.key, self.value = nn.Linear(context_width or width, inner), nn.Linear(context_width or width, inner)
        self.out = nn.Linear(inner, width)
        nn.init.xavier_uniform_(self.query.weight)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight if width == self.key.in_features else self.key.weight)

    def split(self, x: Float[Tensor, "b n inner"]) -> Float[Tensor, "b heads n d"]:
        """A sequence per head."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self, query: Float[Tensor, "b n d"], key: Float[Tensor, "b m e"], value: Float[Tensor, "b m e"]
    ) -> Float[Tensor, "b n d"]:
        parts = self.split(self.query(query)), self.split(self.key(key)), self.split(self.value(value))
        return self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Tokens learn from the image and the image from the tokens. The first block's tokens have no positions yet."""

    def __init__(self, width: int, hidden: int, heads: int, first: bool, eps: float):
        super().__init__()
        self.first = first
        self.own = NarrowAttention(width, width, heads)
        self.to_image = NarrowAttention(width, width // 2, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.to_tokens = NarrowAttention(width, width // 2, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=eps) for _ in range(4))

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        image: Float[Tensor, "b m d"],
        token_places: Float[Tensor, "b n d"],
        image_places: Float[Tensor, "m d"],
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"]]:
        placed = tokens + token_places
        tokens = self.own(tokens, tokens, tokens) if self.first else tokens + self.own(placed, placed, tokens)
        tokens = self.norms[0](tokens)
        there = image + image_places
        tokens = self.norms[1](tokens + self.to_image(tokens + token_places, there, image))
        tokens = self.norms[2](tokens + self.mlp(tokens))
        image = self.norms[3](image + self.to_tokens(there, tokens + token_places, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two blocks and a last look of the tokens at the image."""

    def __init__(self, width: int, hidden: int, heads: int, eps: float, depth: int = 2):
        super().__init__()
        self.blocks = nn.ModuleList(TwoWayBlock(width, hidden, heads, index == 0, eps) for index in range(depth))
        self.last = NarrowAttention(width, width // 2, heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Float[Tensor, "b n d"], image: Float[Tensor, "b m d"], places: Float[Tensor, "m d"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"]]:
        first = tokens
        for block in self.blocks:
            tokens, image = block(tokens, image, first, places)
        tokens = tokens + self.last(tokens + first, image + places, image)
        return self.norm(tokens), image


def three_layers(width: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, ReLU, Linear, ReLU, Linear."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


@dataclass
class Decoded:
    """All four masks of each prompt and what is said about them."""

    masks: Float[Tensor, "b p masks h w"]  # logits, four times as fine as the image's map
    quality: Float[Tensor, "b p masks"]  # predicted IoU with the truth
    tokens: Float[Tensor, "b p masks channels"]  # the masks' tokens after the transformer
    visible: Float[Tensor, "b p"] | None = None  # SAM 2: logit of whether the object is in the picture


def best_of(masks: Float[Tensor, "b p m h w"], quality: Float[Tensor, "b p m"]) -> Float[Tensor, "b p h w"]:
    """The mask of highest predicted IoU."""
    index = quality.argmax(-1)[..., None, None, None].expand(-1, -1, 1, *masks.shape[-2:])
    return masks.gather(2, index)[:, :, 0]


class MaskDecoder(nn.Module):
    """Masks for prompts. `video` is SAM 2's: an object score, finer maps, IoU through a sigmoid."""

    def __init__(self, channels: int, hidden: int = 2048, heads: int = 8, video: bool = False, quality_hidden: int = 0):
        super().__init__()
        if channels % 8:
            raise ValueError(f"channels: expected a multiple of 8, got {channels}")
        self.video = video
        self.quality_token = nn.Parameter(torch.randn(1, channels))
        self.mask_tokens = nn.Parameter(torch.randn(MASKS, channels))
        self.transformer = TwoWayTransformer(channels, hidden, heads, 1e-5 if video else 1e-6)
        self.up1 = nn.ConvTranspose2d(channels, channels // 4, 2, 2)
        self.up_norm = ChannelNorm(channels // 4, eps=1e-6)
        self.up2 = nn.ConvTranspose2d(channels // 4, channels // 8, 2, 2)
        self.mask_mlps = nn.ModuleList(three_layers(channels, channels, channels // 8) for _ in range(MASKS))
        self.quality = three_layers(channels, quality_hidden or channels, MASKS)
        if video:
            self.fine = nn.Conv2d(channels, channels // 8, 1)
            self.medium = nn.Conv2d(channels, channels // 4, 1)
            self.visible_token = nn.Parameter(torch.randn(1, channels))
            self.visible = three_layers(channels, channels, 1)

    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        places: Float[Tensor, "c h w"],
        tokens: Float[Tensor, "b p n c"],
        dense: Float[Tensor, "#b #p c #h #w"],
        finer: list[Tensor] | None = None,
    ) -> Decoded:
        """finer: SAM 2's encoder maps at four and two times the resolution, already through `fine` and `medium`."""
        prompts = tokens.shape[1]
        first = [self.visible_token] if self.video else []
        own = torch.cat([*first, self.quality_token, self.mask_tokens])
        tokens = torch.cat([own.expand(*tokens.shape[:2], -1, -1), tokens], 2).flatten(0, 1)
        mixed = (image[:, None] + dense).expand(-1, prompts, -1, -1, -1).flatten(0, 1)
        tokens, seen = self.transformer(tokens, mixed.flatten(2).transpose(1, 2), places.flatten(1).transpose(0, 1))
        upscaled = self.upscale(seen.transpose(1, 2).unflatten(2, image.shape[-2:]), finer, prompts)
        tokens = tokens.unflatten(0, (-1, prompts))
        start = int(self.video)
        answers = tokens[:, :, start + 1 : start + 1 + MASKS]
        vectors = torch.stack([mlp(answers[:, :, i]) for i, mlp in enumerate(self.mask_mlps)], 2)
        masks = (vectors.flatten(0, 1) @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        quality = self.quality(tokens[:, :, start])
        visible = self.visible(tokens[:, :, 0])[..., 0] if self.video else None
        quality = quality.sigmoid() if self.video else quality
        return Decoded(masks.unflatten(0, (-1, prompts)), quality, answers, visible)

    def upscale(
        self, x: Float[Tensor, "n c h w"], finer: list[Tensor] | None, prompts: int
    ) -> Float[Tensor, "n eighth h4 w4"]:
        """The image's map after the transformer, fourfold."""
        fine, medium = [f.repeat_interleave(prompts, 0) for f in finer] if finer else [0.0, 0.0]
        x = F.gelu(self.up_norm(self.up1(x) + medium))
        return F.gelu(self.up2(x) + fine)
