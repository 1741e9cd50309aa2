r"""SAM 2: a mask for a prompt in a picture, and the same object in all the frames that follow, seen one at a time.

    frame           3 x H x W -> Hiera -> maps of strides s, 2 s, 4 s                               (nn/hiera.py)
    memory          the map of stride 4 s looks at what is remembered                               (nn/memory_attention.py)
    decoder         SAM's with the two finer maps added on the way up, and an object score          (nn/mask_decoder.py)
    occlusion       object score <= 0: the object is not to be seen, every logit becomes -1024
    remembered      of each frame a map of its features with its mask, and a pointer, an MLP of the mask's token

What is looked at: the memory of the prompted frame (with a mark of its own), those of up to `memories` - 1 frames before
the present one (with a mark for how long ago), and the pointers of up to 16 frames, each cut into pieces as wide as the
memory. A picture is a video of one frame without memory; a learned vector is added instead.

Training (batches with `video` and `video_masks`) takes CLIP consecutive frames of each video, clicks at or boxes OBJECTS
objects in the first of them, corrects once by another click with the mask fed back, and follows them. Losses are means
over objects and frames, mask losses only where there is a mask, of three masks the best (as in SAM):

    20 focal + dice, (predicted IoU - IoU)^2 of all candidates, binary cross-entropy of the object score

Differs from the paper: prompts in the first frame alone, squared error of the IoU, masks are always found by the decoder,
also where the prompt is a mask. As in the published code the answer to an unambiguous prompt falls back to the best of
the three when it is not stable.

Ravi et al.: SAM 2: Segment Anything in Images and Videos, 2024, arXiv:2408.00714.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.hiera import Hiera
from oculi.nn.mask_decoder import Decoded, MaskDecoder, best_of, three_layers
from oculi.nn.memory_attention import MemoryAttention, MemoryEncoder, sine_map, sine_of_age
from oculi.nn.prompt_encoder import NONE, ON, PromptEncoder, ambiguous
from oculi.predictions import Masks
from oculi.segment.automatic_masks import everything, stability
from oculi.segment.interactive_training import (
    candidate_losses,
    chosen_objects,
    jittered_boxes,
    next_click,
    random_pixel,
)
from oculi.system import System
from oculi.types import Batch, Losses, Prompts

CLIP, OBJECTS = 5, 2  # frames of each video of a training batch, and objects followed in them
POINTERS = 16  # frames whose pointers are looked at
HIDDEN = -1024.0  # logit of a mask whose object is not to be seen
SHARP, SHIFT = 20.0, -10.0  # masks in [0, 1] become -10 to 10 for the memory
STABLE, STABLE_OFFSET = 0.98, 0.05
KEEP = (0.7, 0.7)  # predicted IoU and stability of automatic masks


@dataclass
class Moment:
    """What is kept of a frame, for n objects."""

    memory: Float[Tensor, "n width rows columns"]
    pointer: Float[Tensor, "n channels"]


@dataclass
class Tracked:
    """p objects of b videos through f frames."""

    masks: Float[Tensor, "b p f h w"]  # logits, twice as coarse as the encoder's finest map is fine: see `enlarge`
    quality: Float[Tensor, "b p f"]  # predicted IoU
    visible: Float[Tensor, "b p f"]  # logit of whether the object is to be seen


@dataclass
class Seen:
    """The maps of one frame, finest first."""

    fine: Float[Tensor, "n eighth h4 w4"]
    medium: Float[Tensor, "n quarter h2 w2"]
    coarse: Float[Tensor, "n channels h w"]


class SAM2(System):
    """Segment Anything 2. The defaults are the published Hiera-T.

    stride: of the patches; width, depths, windows, whole, background: see nn/hiera.py; channels: of maps and tokens;
    memory_channels, memory_layers: of memories and of the attention to them; memories: how many frames are remembered
    (0 = none); grid: points a side of automatic masks.
    """

    answer = Masks

    def __init__(
        self,
        image_size: int = 1024,
        stride: int = 4,
        width: int = 96,
        depths: list[int] = [1, 2, 7, 2],  # noqa: B006 - read only; lists so that JSON gives them back
        windows: list[int] = [8, 4, 14, 7],  # noqa: B006
        whole: list[int] = [5, 7, 9],  # noqa: B006
        background: int = 7,
        channels: int = 256,
        memory_channels: int = 64,
        memory_layers: int = 4,
        memories: int = 7,
        grid: int = 32,
    ):
        super().__init__(InputContract(image_size, image_size))
        if memories < 1 or channels % memory_channels:
            raise ValueError(
                f"memories, memory_channels: expected at least 1 and a divisor of channels {channels}, "
                f"got {memories} and {memory_channels}"
            )
        self.memories, self.grid, self.channels, self.memory_channels = memories, grid, channels, memory_channels
        self.encoder = Hiera(stride, width, depths, windows, whole, background, channels)
        self.prompts = PromptEncoder(channels, image_size, always_none=True)
        self.decoder = MaskDecoder(channels, 8 * channels, max(1, channels // 32), video=True)
        self.memory_attention = MemoryAttention(channels, memory_channels, memory_layers, 8 * channels)
        self.memory_encoder = MemoryEncoder(channels, memory_channels, 4 * stride)
        self.pointer = three_layers(channels, channels, channels)
        self.pointer_age = nn.Linear(channels, memory_channels)
        self.no_memory = nn.Parameter(0.02 * torch.randn(channels))
        self.no_pointer = nn.Parameter(0.02 * torch.randn(channels))
        self.occluded = nn.Parameter(0.02 * torch.randn(memory_channels))
        self.age = nn.Parameter(0.02 * torch.randn(memories, memory_channels))  # the last is of the prompted frame

    # one picture ------------------------------------------------------------------------------------------------------

    def see(self, image: Float[Tensor, "b 3 h w"]) -> Seen:
        """The maps of pictures, the finer two as the decoder wants them."""
        fine, medium, coarse = self.encoder(self.normalize(image))
        return Seen(self.decoder.fine(fine), self.decoder.medium(medium), coarse)

    def features(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Maps of strides s, 2 s, 4 s for any number of prompts, nothing being remembered."""
        seen = self.see(image)
        return [seen.fine, seen.medium, seen.coarse + self.no_memory[:, None, None]]

    def decode(self, features: list[Tensor], prompts: Prompts) -> Decoded:
        """All four masks for each prompt."""
        fine, medium, coarse = features
        places = self.prompts.positions.grid(*coarse.shape[-2:])
        return self.decoder(coarse, places, *self.prompts(prompts), [fine, medium])

    def enlarge(self, logits: Float[Tensor, "b n h w"]) -> Float[Tensor, "b n height width"]:
        """Logits at the size of the picture."""
        size = (self.contract.height, self.contract.width)
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def best(self, features: list[Tensor], prompts: Prompts) -> tuple[Float[Tensor, "b p h w"], Float[Tensor, "b p"]]:
        """For each prompt the mask to believe, as logits, and its predicted IoU."""
        decoded = self.decode(features, prompts)
        masks, quality, _ = believed(decoded, ambiguous(prompts))
        return masks, quality

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b d"]]:
        """Automatic masks as probabilities and their scores, best first; what follows the last is 0."""
        logits, scores, found = everything(self, image, self.grid, *KEEP)
        return self.enlarge(logits).sigmoid() * found[..., None, None], scores

    def predict(self, batch: Batch) -> list[Masks]:
        """For pictures, as SAM: each prompt's best mask, or all masks of the picture. Videos are for `track`."""
        if batch.prompts is None:
            logits, scores, found = everything(self, batch.pictures, self.grid, *KEEP)
        else:
            logits, scores = self.best(self.features(batch.pictures), batch.prompts)
            found = torch.ones_like(scores, dtype=torch.bool)
        full = self.enlarge(logits) > 0
        return [Masks(m[f], s[f]) for m, s, f in zip(full, scores, found, strict=True)]

    # frames one after the other ---------------------------------------------------------------------------------------

    def track(self, video: Float[Tensor, "b f 3 h w"], prompts: Prompts, remember: bool = True) -> Tracked:
        """The objects that the prompts mean in the first frame, in every frame. `remember=False`: what memory is worth."""
        b, frames = video.shape[:2]
        p = _count(prompts)
        moments: list[Moment] = []
        answers = []
        for number in range(frames):
            seen = _repeated(self.see(video[:, number]), p)
            asked = _single(prompts) if number == 0 else self._nothing_said(b * p)
            decoded = self.ask(seen, moments if remember else [], asked, frames)
            three = ambiguous(asked) | (number > 0)
            masks, quality, token = believed(decoded, three)
            visible = decoded.visible[:, 0]  # type: ignore[index]
            masks = torch.where(visible[:, None, None] > 0, masks[:, 0], HIDDEN)
            moments.append(self.remember(seen, masks, token[:, 0], visible, number == 0))
            answers.append((masks, quality[:, 0], visible))
        parts = [torch.stack(part, 1).unflatten(0, (b, p)) for part in zip(*answers, strict=True)]
        return Tracked(*parts)

    def ask(self, seen: Seen, moments: list[Moment], prompts: Prompts, frames: int) -> Decoded:
        """The present frame's answer for n objects, one prompt each, given what is remembered of all frames before."""
        coarse = self.recall(seen.coarse, moments, frames) if moments else seen.coarse + self.no_memory[:, None, None]
        return self.decode([seen.fine, seen.medium, coarse], prompts)

    def recall(self, image: Float[Tensor, "n c h w"], moments: list[Moment], frames: int) -> Float[Tensor, "n c h w"]:
        """The map after looking at the memories; `moments[0]` is of the prompted frame; `frames`: of the whole video."""
        now, device = len(moments), image.device
        kept = [0, *range(max(1, now - self.memories + 1), now)]
        marks = self.age[[self.memories - 1, *(now - 1 - k for k in kept[1:])]]
        memory = torch.stack([moments[k].memory for k in kept], 1).flatten(3).transpose(2, 3)
        places = sine_map(self.memory_channels, image.shape[-2], image.shape[-1], device).flatten(1).transpose(0, 1)
        places = (places + marks[:, None]).expand(len(image), -1, -1, -1)
        most = min(frames, POINTERS)
        pointing = [0, *range(max(1, now - most + 1), now)]
        ages = torch.tensor([float(now - k) for k in pointing], device=device) / max(1, most - 1)
        pieces = self.channels // self.memory_channels
        pointers = torch.stack([moments[k].pointer for k in pointing], 1).unflatten(2, (pieces, -1)).flatten(1, 2)
        old = self.pointer_age(sine_of_age(ages, self.channels)).repeat_interleave(pieces, 0)
        return self.memory_attention(
            image,
            torch.cat([memory.flatten(1, 2), pointers], 1),
            torch.cat([places.flatten(1, 2), old.expand(len(image), -1, -1)], 1),
            pointers.shape[1],
        )

    def remember(
        self,
        seen: Seen,
        masks: Float[Tensor, "n h w"],
        token: Float[Tensor, "n c"],
        visible: Float[Tensor, " n"],
        prompted: bool,
    ) -> Moment:
        """What is kept of the frame. The mask of a prompted frame is cut at 0, but not in training."""
        full = self.enlarge(masks[:, None])[:, 0]
        said = (full > 0).to(full) if prompted and not self.training else full.sigmoid()
        there = (visible > 0).to(full)[:, None]
        memory = self.memory_encoder(seen.coarse, said * SHARP + SHIFT)
        memory = memory + ((1 - there) * self.occluded)[..., None, None]
        return Moment(memory, there * self.pointer(token) + (1 - there) * self.no_pointer)

    def _nothing_said(self, n: int) -> Prompts:
        """The prompts of frames in which nothing is said."""
        points = torch.zeros(n, 1, 1, 2, device=self.device)
        return Prompts(points, torch.full((n, 1, 1), NONE, device=self.device))

    # learning ---------------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        if batch.video is None or batch.video_masks is None:
            raise ValueError(
                "batch.video, batch.video_masks: expected videos with the masks of their objects, got None"
            )
        video, objects = clip(batch.video, batch.video_masks)
        truth, real = chosen_objects(objects, OBJECTS)
        (b, p), frames = truth.shape[:2], truth.shape[2]
        truth, real = truth.flatten(0, 1), real.flatten()
        maps = self.see(video.flatten(0, 1))
        total: dict[str, Tensor] = {}
        moments: list[Moment] = []
        for number in range(frames):
            seen = _repeated(_frame(maps, number, b), p)
            for decoded, candidates in self._answers(seen, moments, truth[:, number], number, frames):
                losses = self._frame_losses(decoded, candidates, truth[:, number], real)
                total = {name: value + total.get(name, 0.0) for name, value in losses.items()}
            masks, quality = decoded.masks[:, 0, candidates], decoded.quality[:, 0, candidates]
            best = quality.argmax(1)
            rows = torch.arange(b * p, device=best.device)
            visible = decoded.visible[:, 0]  # type: ignore[index]
            said = torch.where(visible[:, None, None] > 0, masks[rows, best], HIDDEN)
            moments.append(
                self.remember(seen, said, decoded.tokens[:, 0, candidates][rows, best], visible, number == 0)
            )
        return {name: value / frames for name, value in total.items()}

    def _answers(
        self, seen: Seen, moments: list[Moment], truth: Bool[Tensor, "n h w"], number: int, frames: int
    ) -> list[tuple[Decoded, slice]]:
        """The frame's answers and which of the four masks are candidates: two for the first frame, one for the others."""
        three, one = slice(1, None), slice(0, 1)
        if number:
            return [(self.ask(seen, moments, self._nothing_said(len(truth)), frames), three)]
        first = Prompts(boxes=jittered_boxes(truth)[:, None])
        if float(torch.rand(())) < 0.5:
            first = Prompts(random_pixel(truth)[:, None, None], torch.full((len(truth), 1, 1), ON, device=truth.device))
        decoded = self.ask(seen, [], first, frames)
        fed = best_of(decoded.masks[:, :, three], decoded.quality[:, :, three]).detach()
        point, label = next_click(self.enlarge(fed)[:, 0] > 0, truth)
        points, labels = point[:, None, None], label[:, None, None]
        if first.points is not None and first.labels is not None:
            points, labels = torch.cat([first.points, points], 2), torch.cat([first.labels, labels], 2)
        corrected = Prompts(points, labels, first.boxes, fed)
        return [(decoded, three), (self.ask(seen, [], corrected, frames), one)]

    def _frame_losses(
        self, decoded: Decoded, candidates: slice, truth: Bool[Tensor, "n h w"], real: Float[Tensor, " n"]
    ) -> Losses:
        """Of one answer: mask losses of the objects that are to be seen, and whether they are of all."""
        there = truth.flatten(1).any(1).to(real)
        full = self.enlarge(decoded.masks[:, 0, candidates])
        losses = candidate_losses(full, decoded.quality[:, 0, candidates], truth)
        share = real * there / (real * there).sum().clamp_min(1)
        summed = {name: (value * share).sum() for name, value in losses.items()}
        visible = decoded.visible[:, 0]  # type: ignore[index]
        wrong = F.binary_cross_entropy_with_logits(visible, there, reduction="none")
        return summed | {"visible": (wrong * real).sum() / real.sum().clamp_min(1)}


def believed(
    decoded: Decoded, three: Bool[Tensor, "b p"]
) -> tuple[Float[Tensor, "b p h w"], Float[Tensor, "b p"], Float[Tensor, "b p c"]]:
    """Mask, predicted IoU and token: of the best of three where `three`, else the first's, which gives way to the best of
    three where it is not stable (its token does not)."""
    masks, quality, tokens = decoded.masks, decoded.quality, decoded.tokens
    best = quality[..., 1:].argmax(-1) + 1
    firm = stability(masks[:, :, 0], STABLE_OFFSET) >= STABLE
    empty = ~(masks[:, :, 0] > -STABLE_OFFSET).flatten(2).any(2)
    index = torch.where(three | ~(firm | empty), best, 0)[..., None]
    of_token = torch.where(three, best, 0)[..., None, None].expand(-1, -1, 1, tokens.shape[-1])
    picked = masks.gather(2, index[..., None, None].expand(-1, -1, 1, *masks.shape[-2:]))
    return picked[:, :, 0], quality.gather(2, index)[..., 0], tokens.gather(2, of_token)[:, :, 0]


def clip(
    video: Float[Tensor, "b frames 3 h w"], masks: list[Bool[Tensor, "_ frames h w"]]
) -> tuple[Float[Tensor, "b clip 3 h w"], list[Bool[Tensor, "_ clip h w"]]]:
    """CLIP consecutive frames, as long as there are so many, and the objects that the first of them shows."""
    start = int(torch.randint(max(1, video.shape[1] - CLIP + 1), ()))
    cut = [objects[:, start : start + CLIP] for objects in masks]
    return video[:, start : start + CLIP], [objects[objects[:, 0].flatten(1).any(1)] for objects in cut]


def _count(prompts: Prompts) -> int:
    given = [x for x in (prompts.points, prompts.boxes, prompts.masks) if x is not None]
    if not given:
        raise ValueError("prompts: expected points, boxes or masks, got none of them")
    return given[0].shape[1]


def _single(prompts: Prompts) -> Prompts:
    """The same prompts as one for each of b x p pictures."""
    parts = {name: getattr(prompts, name) for name in ("points", "labels", "boxes", "masks")}
    return Prompts(**{name: x.flatten(0, 1)[:, None] for name, x in parts.items() if x is not None})


def _repeated(seen: Seen, times: int) -> Seen:
    """Each picture's maps for each of its objects."""
    return Seen(*(x.repeat_interleave(times, 0) for x in (seen.fine, seen.medium, seen.coarse)))


def _frame(seen: Seen, number: int, videos: int) -> Seen:
    """One frame of maps that hold all frames of the videos."""
    return Seen(*(x.unflatten(0, (videos, -1))[:, number] for x in (seen.fine, seen.medium, seen.coarse)))
