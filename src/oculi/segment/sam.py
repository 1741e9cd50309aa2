r"""SAM: one look at the picture, then a mask for every click, box, rough mask or word, at once.

    image         batch x 3 x H x W
    encoder       ViT with windows (sam_image_encoder.py)        channels x H / P x W / P, once for all prompts
    prompts       tokens and a dense map (nn/prompt_encoder.py)
    decoder       two-way transformer (nn/mask_decoder.py)       four masks of 4 H / P x 4 W / P and their predicted IoUs
    answer        logits enlarged bilinearly, cut at 0

A prompt that is one point, one box or one embedding may mean the whole, a part or a part of a part: three masks answer and
the one of highest predicted IoU is taken. More points, or a mask, leave no doubt: the fourth answers. Training simulates
a user for eleven rounds (interactive_training.py). Without prompts `predict` and `forward` find all masks of the picture by
a grid of points (automatic_masks.py).

Batches to learn from have `masks`, of which PROMPTS random ones a picture are asked for; or also `prompts`, one for each
of the masks in their order, which then are the first round (this is how embeddings are learned).

Differs from the paper: all three predicted IoUs learn, not only that of the best mask (as in SAM 2); in points and boxes
pixel centres are at +0.5.

Kirillov et al.: Segment Anything, 2023, arXiv:2304.02643.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from oculi.input_contract import InputContract
from oculi.nn.mask_decoder import Decoded, MaskDecoder, best_of
from oculi.nn.prompt_encoder import PromptEncoder, ambiguous
from oculi.predictions import Masks
from oculi.segment.automatic_masks import everything
from oculi.segment.interactive_training import candidate_losses, chosen_objects, clicking, first_prompt, next_click
from oculi.segment.sam_image_encoder import ImageEncoder
from oculi.system import System
from oculi.types import Batch, Losses, Prompts

PROMPTS = 2  # objects asked for in each picture of a training batch


class SAM(System):
    """Segment Anything. The defaults are the published ViT-B.

    whole: the encoder's layers that see the whole map, the others see windows of `window` tokens; channels: of the map and
    the tokens; text_width: of embeddings as prompts, 0 = none; grid: points a side of automatic masks; keep: the least
    predicted IoU and the least stability that they need; clicks: of the simulated user, who takes three rounds more.
    """

    answer = Masks

    def __init__(
        self,
        image_size: int = 1024,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        window: int = 14,
        whole: list[int] = [2, 5, 8, 11],  # noqa: B006 - read only; a list so that JSON gives it back
        channels: int = 256,
        text_width: int = 0,
        grid: int = 32,
        keep: list[float] = [0.88, 0.95],  # noqa: B006
        clicks: int = 8,
    ):
        super().__init__(InputContract(image_size, image_size))
        if grid < 1 or clicks < 0 or len(keep) != 2:
            raise ValueError(f"grid, clicks, keep: expected >= 1, >= 0 and 2 numbers, got {grid}, {clicks}, {keep}")
        self.grid, self.keep, self.clicks = grid, keep, clicks
        self.encoder = ImageEncoder(image_size, patch, width, depth, heads, window, whole, channels)
        self.prompts = PromptEncoder(channels, image_size, text_width=text_width)
        self.decoder = MaskDecoder(channels, 8 * channels, max(1, channels // 32))

    # what a picture and a prompt give ---------------------------------------------------------------------------------

    def features(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """The encoder's map, which serves any number of prompts."""
        return [self.encoder(self.normalize(image))]

    def decode(self, features: list[Tensor], prompts: Prompts) -> Decoded:
        """All four masks for each prompt."""
        return self.decoder(features[0], self.places(features), *self.prompts(prompts))

    def places(self, features: list[Tensor]) -> Float[Tensor, "c h w"]:
        """The positions of the map's cells."""
        return self.prompts.positions.grid(*features[0].shape[-2:])

    def enlarge(self, logits: Float[Tensor, "b n h w"]) -> Float[Tensor, "b n height width"]:
        """Logits at the size of the picture."""
        size = (self.contract.height, self.contract.width)
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def best(self, features: list[Tensor], prompts: Prompts) -> tuple[Float[Tensor, "b p h w"], Float[Tensor, "b p"]]:
        """For each prompt the mask to believe, as logits, and its predicted IoU."""
        decoded = self.decode(features, prompts)
        asked = ambiguous(prompts)[..., None]
        quality = torch.where(asked, decoded.quality[..., 1:], decoded.quality[..., :1])
        masks = torch.where(asked[..., None, None], decoded.masks[:, :, 1:], decoded.masks[:, :, :1])
        return best_of(masks, quality), quality.amax(-1)

    def everything(
        self, image: Float[Tensor, "b 3 height width"]
    ) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b d"], Bool[Tensor, "b d"]]:
        """Automatic masks, best first: logits at the decoder's size, scores, and which of the d are any."""
        return everything(self, image, self.grid, *self.keep)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b d"]]:
        """Automatic masks as probabilities and their scores, best first; what follows the last is 0."""
        logits, scores, found = self.everything(image)
        return self.enlarge(logits).sigmoid() * found[..., None, None], scores

    # the two duties ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        truth, real, tokens = self._asked(batch)
        features, dense = self.features(batch.pictures), self.prompts.dense(None)
        places = self.places(features)
        masks: list[Tensor] = []
        quality: list[Tensor] = []
        said = truth
        for click in [False, *clicking(self.clicks)]:
            if click:
                tokens = torch.cat([tokens, self._click(said, truth)], 2)
            decoded = self.decoder(features[0], places, tokens, dense)
            three = slice(0, 1) if masks else slice(1, None)
            masks.append(decoded.masks[:, :, three])
            quality.append(decoded.quality[:, :, three])
            fed = best_of(masks[-1], quality[-1]).detach()
            said, dense = self.enlarge(fed) > 0, self.prompts.dense(fed)
        logits = torch.cat(masks, 2)
        full = self.enlarge(logits.flatten(1, 2)).unflatten(1, logits.shape[1:3])
        return losses_of_rounds(full, torch.cat(quality, 2), truth, real)

    def _asked(self, batch: Batch) -> tuple[Bool[Tensor, "b p h w"], Float[Tensor, "b p"], Float[Tensor, "b p n c"]]:
        """The masks that are asked for, which of them are any, and the tokens of the first prompts."""
        if batch.masks is None:
            raise ValueError("batch.masks: expected the masks of each picture's objects, got None")
        if batch.prompts is None:
            truth, real = chosen_objects(batch.masks, PROMPTS)
            points, labels = (part.unflatten(0, truth.shape[:2]) for part in first_prompt(truth.flatten(0, 1)))
            return truth, real, self.prompts.point_tokens(points, labels)
        tokens = self.prompts(batch.prompts)[0]
        truth = pad_sequence(list(batch.masks), batch_first=True)
        if truth.shape[1] != tokens.shape[1]:
            raise ValueError(f"batch.prompts: expected one for each of {truth.shape[1]} masks, got {tokens.shape[1]}")
        return truth, truth.flatten(2).any(2).float(), tokens

    def _click(self, said: Bool[Tensor, "b p h w"], truth: Bool[Tensor, "b p h w"]) -> Float[Tensor, "b p 1 c"]:
        """The token of a corrective click."""
        point, label = (
            part.unflatten(0, truth.shape[:2]) for part in next_click(said.flatten(0, 1), truth.flatten(0, 1))
        )
        return self.prompts.point_tokens(point[:, :, None], label[:, :, None])

    def predict(self, batch: Batch) -> list[Masks]:
        """For each prompt its best mask, in the prompts' order; without prompts all masks of the picture, best first."""
        if batch.prompts is None:
            logits, scores, found = self.everything(batch.pictures)
            full = self.enlarge(logits) > 0
            return [Masks(m[f], s[f].clamp(0, 1)) for m, s, f in zip(full, scores, found, strict=True)]
        logits, quality = self.best(self.features(batch.pictures), batch.prompts)
        full = self.enlarge(logits) > 0
        return [Masks(m, s.clamp(0, 1)) for m, s in zip(full, quality, strict=True)]


def losses_of_rounds(
    logits: Float[Tensor, "b p m h w"],
    quality: Float[Tensor, "b p m"],
    truth: Bool[Tensor, "b p h w"],
    real: Float[Tensor, "b p"],
) -> Losses:
    """Means over the prompts that are real, summed over the rounds; the first had three masks, the others one each."""
    first = candidate_losses(logits[:, :, :3], quality[:, :, :3], truth)
    each = truth[:, :, None].expand(-1, -1, logits.shape[2] - 3, -1, -1)
    rest = candidate_losses(logits[:, :, 3:, None], quality[:, :, 3:, None], each)
    share = real / real.sum().clamp_min(1)
    return {name: ((value + rest[name].sum(-1)) * share).sum() for name, value in first.items()}
