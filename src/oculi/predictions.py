r"""Answers: one dataclass per kind. Each plots itself on its picture, turns into JSON values, and can be scored."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Okabe and Ito's eight colours, told apart by everyone; the first is for what is right, the second for what is wrong
PALETTE = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (240, 228, 66)]

# matplotlib's viridis at ten evenly spaced places: lightness rises evenly, so that everyone reads the same order
VIRIDIS = [
    (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
    (31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37),
]  # fmt: skip


def visible(image: Float[Tensor, "channels height width"]) -> Float[Tensor, "3 height width"]:
    """What a screen can show of a picture of any number of channels, on the CPU: the first three, or the first as grey."""
    shown = image.detach().cpu()
    return shown[:3] if len(shown) >= 3 else shown[:1].expand(3, -1, -1)


def to_pil(image: Float[Tensor, "channels height width"], scale: int = 1) -> Image.Image:
    """A float picture in [0, 1] as an RGB PIL image, each pixel enlarged to `scale` x `scale`."""
    array = (visible(image).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(array))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def viridis(values: Float[Tensor, "height width"]) -> Float[Tensor, "3 height width"]:
    """Values in [0, 1] as colours from violet (0) over green to yellow (1), on the CPU."""
    table = torch.tensor(VIRIDIS, dtype=torch.float32) / 255
    place = values.detach().cpu().float().clamp(0, 1) * (len(table) - 1)
    low = place.floor().long().clamp_max(len(table) - 2)
    part = (place - low)[..., None]
    return (table[low] * (1 - part) + table[low + 1] * part).permute(2, 0, 1)


def _enlarge(image: Tensor, at_least: int = 256) -> tuple[Image.Image, int]:
    scale = max(1, at_least // max(image.shape[-2:]))
    return to_pil(image, scale), scale


def _tinted(image: Tensor, mask: Tensor, colour: tuple[int, int, int]) -> Tensor:
    return torch.where(mask.cpu(), 0.5 * image + 0.5 * image.new_tensor(colour)[:, None, None] / 255, image)


def _name(names: list[str] | None, index: int) -> str:
    return names[index] if names and index < len(names) else str(index)


@dataclass
class Prediction:
    """What all answers share."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {f.name: _jsonable(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None}

    def plot(self, image: Float[Tensor, "channels height width"]) -> Image.Image:
        """The answer drawn on its picture."""
        raise NotImplementedError

    def cpu(self) -> Prediction:
        """The same answer with its tensors on the CPU."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{key: v.cpu() if isinstance(v, Tensor) else v for key, v in moved.items()})


def _jsonable(value: Any) -> Any:
    return value.detach().cpu().tolist() if isinstance(value, Tensor) else value


@dataclass
class Classes(Prediction):
    """A distribution over classes."""

    probabilities: Float[Tensor, " classes"]
    names: list[str] | None = None

    @property
    def label(self) -> int:
        """The most probable class."""
        return int(self.probabilities.argmax())

    @property
    def confidence(self) -> float:
        """Its probability."""
        return float(self.probabilities.max())

    def plot(self, image: Tensor) -> Image.Image:
        picture, _ = _enlarge(image)
        return _caption(picture, f"{_name(self.names, self.label)} {self.confidence:.0%}")

    def to_dict(self) -> dict[str, Any]:
        name = _name(self.names, self.label)
        return {"label": self.label, "name": name, "confidence": self.confidence, **super().to_dict()}


@dataclass
class Detections(Prediction):
    """Boxes in the network's pixels, best first, with scores in [0, 1]."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    masks: Bool[Tensor, "n height width"] | None = None
    keypoints: Float[Tensor, "n points 3"] | None = None  # x, y, score
    names: list[str] | None = None

    def to_supervision(self) -> Any:
        """As `supervision.Detections`: xyxy, mask, confidence, class_id and data["class_name"], which its trackers,
        zones and annotators take. Keypoints have no place there. Raises ImportError where supervision is missing."""
        try:
            from supervision import Detections as Theirs
        except ModuleNotFoundError as error:
            raise ImportError("to_supervision: supervision is not installed: pip install supervision") from error
        labels = self.labels.detach().cpu()
        return Theirs(
            xyxy=self.boxes.detach().cpu().float().numpy(),
            mask=None if self.masks is None else self.masks.detach().cpu().numpy(),
            confidence=self.scores.detach().cpu().float().numpy(),
            class_id=labels.numpy(),
            data={"class_name": np.array([_name(self.names, k) for k in labels.tolist()], dtype=str)},
        )

    @staticmethod
    def from_supervision(theirs: Any, names: list[str] | None = None) -> Detections:
        """From `supervision.Detections`, best first; scores are 1 and labels 0 where there are none."""
        n = len(theirs.xyxy)
        scores = np.ones(n) if theirs.confidence is None else theirs.confidence
        labels = np.zeros(n) if theirs.class_id is None else theirs.class_id
        order = np.argsort(-scores, kind="stable")
        return Detections(
            torch.from_numpy(theirs.xyxy[order]).float(),
            torch.from_numpy(scores[order]).float(),
            torch.from_numpy(labels[order]).long(),
            None if theirs.mask is None else torch.from_numpy(np.asarray(theirs.mask)[order]).bool(),
            names=names,
        )

    def plot(self, image: Tensor, threshold: float = 0.3) -> Image.Image:
        """Boxes, and masks and keypoints where there are any, of at least `threshold` with class and score, the best on
        top."""
        shown = [i for i in self.scores.argsort().tolist() if float(self.scores[i]) >= threshold]
        labels = self.labels.tolist()
        tinted = visible(image)
        for i in shown if self.masks is not None else []:
            tinted = _tinted(tinted, self.masks[i], PALETTE[labels[i] % len(PALETTE)])  # type: ignore[index]
        picture, scale = _enlarge(tinted)
        draw = ImageDraw.Draw(picture)
        for i in shown:
            left, top, right, bottom = (v * scale for v in self.boxes[i].tolist())
            draw.rectangle(
                [left, top, max(left, right), max(top, bottom)], outline=PALETTE[labels[i] % len(PALETTE)], width=3
            )
            where = (left + 3, max(0, top - 14))
            text = f"{_name(self.names, labels[i])} {float(self.scores[i]):.2f}"
            draw.rectangle(draw.textbbox(where, text), fill=(0, 0, 0))
            draw.text(where, text, fill=(255, 255, 255))
            for x, y, _ in self.keypoints[i].tolist() if self.keypoints is not None else []:
                draw.circle((x * scale, y * scale), 4, fill=PALETTE[labels[i] % len(PALETTE)], outline=(255, 255, 255))
        return picture


@dataclass
class Segmentation(Prediction):
    """A class per pixel."""

    semantic: Int[Tensor, "height width"]
    probabilities: Float[Tensor, "classes height width"] | None = None
    names: list[str] | None = None

    def plot(self, image: Tensor) -> Image.Image:
        colours = torch.tensor([(0, 0, 0), *PALETTE], dtype=torch.float32) / 255
        tint = colours[self.semantic.cpu() % len(colours)].permute(2, 0, 1)
        seen = visible(image)
        return _enlarge(torch.where(self.semantic.cpu() > 0, 0.4 * seen + 0.6 * tint, seen))[0]

    def to_dict(self) -> dict[str, Any]:
        return {"semantic": self.semantic.cpu().tolist(), "names": self.names}


@dataclass
class Masks(Prediction):
    """Masks without a class, best first, with scores in [0, 1]: what a prompt means, or all that is in the picture."""

    masks: Bool[Tensor, "n height width"]
    scores: Float[Tensor, " n"]

    def plot(self, image: Tensor) -> Image.Image:
        """Each mask in a colour, the best on top."""
        tinted = visible(image)
        for i in reversed(range(len(self.masks))):
            tinted = _tinted(tinted, self.masks[i], PALETTE[i % len(PALETTE)])
        return _enlarge(tinted)[0]


@dataclass
class Panoptic(Prediction):
    """A segment per pixel: `panoptic` is 0 where there is none, k where the pixel belongs to segment k - 1.

    labels: the class of each segment, numbered as in `semantic`; two segments of one class are two objects.
    """

    panoptic: Int[Tensor, "height width"]
    labels: Int[Tensor, " segments"]
    scores: Float[Tensor, " segments"]
    names: list[str] | None = None

    @property
    def semantic(self) -> Int[Tensor, "height width"]:
        """The class of each pixel, 255 where there is no segment."""
        return torch.cat([self.labels.new_tensor([255]), self.labels])[self.panoptic]

    def plot(self, image: Tensor) -> Image.Image:
        """Each segment in a colour of its own with a black border."""
        tinted = visible(image)
        segments = self.panoptic.cpu()
        for k in range(1, len(self.labels) + 1):
            tinted = _tinted(tinted, segments == k, PALETTE[(k - 1) % len(PALETTE)])
        border = torch.zeros_like(segments, dtype=torch.bool)
        border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
        border[1:] |= segments[1:] != segments[:-1]
        return _enlarge(tinted.masked_fill(border, 0))[0]


@dataclass
class Meshes(Prediction):
    """Detected objects as triangle meshes, all in one: vertices x, y, z in the network's pixels, z from the object's middle
    away from the camera; faces by vertex number, counter-clockwise from outside; `owner`: the object of each vertex.

    rough: the vertices before they were refined.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    owner: Int[Tensor, " v"]
    rough: Float[Tensor, "v 3"] | None = None
    names: list[str] | None = None

    def plot(self, image: Tensor, threshold: float = 0.3) -> Image.Image:
        """The triangles of objects of at least `threshold` that face the camera, as wires."""
        picture, scale = _enlarge(image)
        draw = ImageDraw.Draw(picture)
        corners = self.vertices[self.faces].cpu() * scale
        a, b, c = corners.unbind(1)
        toward = torch.linalg.cross(b - a, c - a)[:, 2] < 0
        owner = self.owner[self.faces[:, 0]].cpu()
        shown = toward & (self.scores.cpu()[owner] >= threshold) if len(owner) else toward
        for triangle, k in zip(corners[shown].tolist(), self.labels.cpu()[owner[shown]].tolist(), strict=True):
            draw.polygon([(x, y) for x, y, _ in triangle], outline=PALETTE[k % len(PALETTE)])
        return picture


@dataclass
class Images(Prediction):
    """Pictures in [0, 1]: samples, renderings, reconstructions."""

    images: Float[Tensor, "n channels height width"]

    def plot(self, image: Tensor | None = None) -> Image.Image:
        """A grid of the pictures, after `image` when one is given."""
        shown = self.images if image is None else torch.cat([image[None].to(self.images), self.images])
        return grid(shown)


@dataclass
class Depth(Prediction):
    """Metres along z."""

    depth: Float[Tensor, "height width"]

    def plot(self, image: Tensor | None = None) -> Image.Image:
        """Nearness, 1 / depth, in viridis from the nearest 2 % (yellow) to the farthest (violet), in metres below; black
        where depth is unknown, that is not finite or 0."""
        depth = self.depth.detach().cpu().float()
        known = torch.isfinite(depth) & (depth > 0)
        if not bool(known.any()):
            return _enlarge(torch.zeros(1, *depth.shape))[0]
        near, far = np.percentile(depth[known].numpy(), [2, 98]).tolist()
        nearness = (1 / depth.where(known, torch.tensor(far)) - 1 / far) / max(1 / near - 1 / far, 1e-9)
        picture, _ = _enlarge(viridis(nearness) * known)
        framed = Image.new("RGB", (picture.width, picture.height + 24), "white")
        framed.paste(picture)
        draw = ImageDraw.Draw(framed)
        places = ((4, near, VIRIDIS[-1]), (picture.width // 2, far, VIRIDIS[0]))
        for x, metres, colour in places:
            draw.rectangle([x, picture.height + 5, x + 14, picture.height + 19], fill=colour)
            draw.text((x + 20, picture.height + 5), f"{metres:.3g} m", fill="black", font=ImageFont.load_default(12))
        return framed


@dataclass
class Pointmaps(Prediction):
    """A 3D point for every pixel of one or more pictures, all in the axes of the first one's camera (x right, y down, z
    forward), up to a common scale; confidence above 1, the higher the surer."""

    points: Float[Tensor, "views height width 3"]
    confidence: Float[Tensor, "views height width"]

    def plot(self, image: Tensor | None = None) -> Image.Image:
        """The first picture's depth, which is its points' z."""
        return Depth(self.points[0, ..., 2]).plot()


@dataclass
class Flow(Prediction):
    """Motion (dx, dy) in pixels to the next picture; `valid` is false where the window had no texture."""

    flow: Float[Tensor, "2 height width"]
    valid: Bool[Tensor, "height width"]

    def plot(self, image: Tensor) -> Image.Image:
        """Arrows on a grid of 16 by 16 places, their colour another where the window had no texture."""
        picture, scale = _enlarge(image)
        draw = ImageDraw.Draw(picture)
        flow, valid = self.flow.detach().cpu().numpy() * scale, self.valid.cpu().numpy()
        step = max(1, max(image.shape[-2:]) // 16)
        for y in range(step // 2, image.shape[-2], step):
            for x in range(step // 2, image.shape[-1], step):
                colour = PALETTE[5] if valid[y, x] else PALETTE[4]
                _arrow(draw, np.array([x + 0.5, y + 0.5]) * scale, flow[:, y, x], colour)
        return picture


def _arrow(draw: ImageDraw.ImageDraw, start: np.ndarray, motion: np.ndarray, colour: tuple[int, int, int]) -> None:
    """A line with a head, edged in black so that it shows on every picture; a dot where nothing moves."""
    length = float(np.hypot(*motion))
    along = motion / max(length, 1e-9)
    end, side, head = start + motion, along[::-1] * (-1, 1), min(7.0, length / 2)
    tip = [tuple(end), *(tuple(end - head * along + sign * head / 2 * side) for sign in (1, -1))]
    for width, fill in ((4, (0, 0, 0)), (2, colour)):
        draw.line([tuple(start), tuple(end)], fill=fill, width=width)
    draw.polygon(tip, fill=colour, outline=(0, 0, 0))


@dataclass
class Keypoints(Prediction):
    """Places (x, y), their scale in pixels and angle in radians, and a descriptor of each."""

    points: Float[Tensor, "n 2"]
    scales: Float[Tensor, " n"]
    angles: Float[Tensor, " n"]
    scores: Float[Tensor, " n"]
    descriptors: Float[Tensor, "n dimensions"]

    def plot(self, image: Tensor) -> Image.Image:
        """Circles as large as the keypoints' scale with a line for the angle."""
        picture, scale = _enlarge(image)
        draw = ImageDraw.Draw(picture)
        for (x, y), size, angle in zip(self.points.tolist(), self.scales.tolist(), self.angles.tolist(), strict=True):
            x, y, radius = x * scale, y * scale, size * scale
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=PALETTE[0])
            draw.line([(x, y), (x + radius * np.cos(angle), y + radius * np.sin(angle))], fill=PALETTE[1])
        return picture


@dataclass
class Embeddings(Prediction):
    """A vector that stands for the picture."""

    vector: Float[Tensor, " dimensions"]

    def plot(self, image: Tensor) -> Image.Image:
        """The picture above its vector as a strip of grey."""
        picture, _ = _enlarge(image)
        low, high = self.vector.min(), self.vector.max()
        strip = to_pil(((self.vector - low) / (high - low).clamp_min(1e-9))[None, None])
        joined = Image.new("RGB", (picture.width, picture.height + 16))
        joined.paste(picture, (0, 0))
        joined.paste(strip.resize((picture.width, 16), Image.Resampling.NEAREST), (0, picture.height))
        return joined


@dataclass
class Actions(Prediction):
    """What an agent would do: a distribution over discrete actions and the value of the state."""

    probabilities: Float[Tensor, " actions"]
    value: float

    @property
    def action(self) -> int:
        """The most probable action."""
        return int(self.probabilities.argmax())

    def plot(self, image: Tensor | None = None) -> Image.Image:
        picture = Image.new("RGB", (256, 64), (255, 255, 255)) if image is None else _enlarge(image)[0]
        return _caption(picture, f"action {self.action} ({self.probabilities.max():.0%})")


def grid(images: Float[Tensor, "n channels height width"], columns: int = 8, scale: int = 2) -> Image.Image:
    """Pictures side by side, `columns` in a row, two pixels apart."""
    tiles = [to_pil(image, scale) for image in images]
    width, height = tiles[0].width + 2, tiles[0].height + 2
    columns = min(columns, len(tiles))
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), (255, 255, 255))
    for index, tile in enumerate(tiles):
        sheet.paste(tile, ((index % columns) * width, (index // columns) * height))
    return sheet


def _caption(picture: Image.Image, text: str) -> Image.Image:
    joined = Image.new("RGB", (picture.width, picture.height + 36), (0, 0, 0))
    joined.paste(picture, (0, 36))
    ImageDraw.Draw(joined).text((6, 4), text, fill=(255, 255, 255), font=ImageFont.load_default(26))
    return joined
