r"""The input contract: how a picture becomes the network's tensor, the same bits in training, predict, ONNX and server.

A contract travels with the weights (`config.json`, the ONNX file's metadata). Pictures come in as paths, bytes, PIL
images, HWC uint8 arrays or float tensors; `prepare` gives float32 in [0, 1], `channels x height x width`. Normalisation
is not here: it is a buffer inside the model, so nobody can forget it. One resize everywhere: torch's antialiased uint8
interpolation, which equals Pillow's to one level.

Files and PIL images are grey or RGB, and either becomes the other. Pictures of any other number of channels (depth beside
colour, infrared, many spectral bands) come as arrays or tensors of just as many channels as the contract has.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

Picture: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray | Tensor"
MAX_PIXELS = 64_000_000  # a decompression bomb is refused before it is decoded; 64 million pixels are 192 MB of RGB


class BadImage(ValueError):
    """The picture cannot be read: missing, truncated, not an image, too large, or of an impossible shape."""


@dataclass(frozen=True)
class InputContract:
    """`height`, `width` and `channels` (1 grey, 3 RGB, or any other number) of the tensor and the rule that gets a picture
    there.

    resize: `stretch` changes the aspect ratio; `letterbox` keeps it and pads with `fill` right and below;
    `crop` scales the shorter side and cuts the centre, which is `crop_fraction` of that side (1 = all of it).
    interpolation: bilinear, or bicubic where published weights were trained so.
    """

    height: int
    width: int
    channels: int = 3
    resize: Literal["stretch", "letterbox", "crop"] = "stretch"
    fill: float = 0.5
    crop_fraction: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 pixel, got {getattr(self, name)}")
        if self.channels < 1:
            raise ValueError(f"channels: expected at least 1, got {self.channels}")
        if self.resize not in ("stretch", "letterbox", "crop"):
            raise ValueError(f"resize: expected stretch, letterbox or crop, got {self.resize!r}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation: expected bilinear or bicubic, got {self.interpolation!r}")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction: expected more than 0 and at most 1, got {self.crop_fraction}")

    def to_dict(self) -> dict[str, int | float | str]:
        """Plain values for JSON."""
        return asdict(self)

    def prepare(self, picture: Picture) -> Float[Tensor, "channels height width"]:
        """Read, resize and scale one picture to [0, 1]. Raises BadImage with what is wrong."""
        pixels = self._as_channels(read_pixels(picture))
        return self._fit(pixels).to(torch.float32) / 255.0

    def batch(self, pictures: Sequence[Picture]) -> Float[Tensor, "batch channels height width"]:
        """Prepare several pictures and stack them."""
        if not pictures:
            raise BadImage("pictures: expected at least one, got none")
        return torch.stack([self.prepare(picture) for picture in pictures])

    def scale(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(scale_x, scale_y, shift_x, shift_y): original pixel coordinates * scale + shift = network coordinates."""
        inner_h, inner_w = self._inner_size(height, width)
        top, left = self._corner(inner_h, inner_w) if self.resize == "crop" else (0, 0)
        return inner_w / width, inner_h / height, 0.0 - left, 0.0 - top

    def boxes_to_input(self, boxes: Float[Tensor, "n 4"], height: int, width: int) -> Float[Tensor, "n 4"]:
        """Boxes on the original `height` x `width` picture, in the network's pixels."""
        scale_x, scale_y, shift_x, shift_y = self.scale(height, width)
        return boxes * boxes.new_tensor([scale_x, scale_y] * 2) + boxes.new_tensor([shift_x, shift_y] * 2)

    def boxes_to_original(self, boxes: Float[Tensor, "n 4"], height: int, width: int) -> Float[Tensor, "n 4"]:
        """The inverse: boxes in the network's pixels, back on the original picture."""
        scale_x, scale_y, shift_x, shift_y = self.scale(height, width)
        return (boxes - boxes.new_tensor([shift_x, shift_y] * 2)) / boxes.new_tensor([scale_x, scale_y] * 2)

    def _inner_size(self, height: int, width: int) -> tuple[int, int]:
        """Before padding or cutting. The side that is cut beyond `crop_fraction` is rounded down, as torchvision does."""
        if self.resize == "stretch":
            return self.height, self.width
        tall, wide = self.height / height, self.width / width
        if self.resize == "letterbox":
            return max(1, round(height * min(tall, wide))), max(1, round(width * min(tall, wide)))
        if tall >= wide:
            inner = round(self.height / self.crop_fraction)
            return inner, max(self.width, int(inner * width / height))
        inner = round(self.width / self.crop_fraction)
        return max(self.height, int(inner * height / width)), inner

    def _corner(self, inner_h: int, inner_w: int) -> tuple[int, int]:
        """Where the centre that is cut out begins, (top, left); a half is rounded to even, as torchvision does."""
        return round((inner_h - self.height) / 2), round((inner_w - self.width) / 2)

    def _as_channels(self, pixels: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "channels h w"]:
        if pixels.shape[0] == self.channels:
            return pixels
        if (len(pixels), self.channels) not in ((1, 3), (3, 1)):
            count, (height, width) = self.channels, pixels.shape[1:]
            wanted = f"{count} (an array of height x width x {count} or a tensor of {count} x height x width)"
            raise BadImage(
                f"picture: shape {len(pixels)} x {height} x {width}, but this system takes channels: {wanted}"
            )
        if self.channels == 3:
            return pixels.expand(3, -1, -1)
        # ITU-R 601 luma in Pillow's own integer arithmetic, so that grey pictures agree with Pillow's convert("L")
        red, green, blue = pixels.to(torch.int32)
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[None]

    def _fit(self, pixels: UInt8[Tensor, "channels h w"]) -> UInt8[Tensor, "channels height width"]:
        inner = self._inner_size(pixels.shape[1], pixels.shape[2])
        if inner[0] * inner[1] > MAX_PIXELS:
            size, wanted = f"{pixels.shape[2]}x{pixels.shape[1]}", f"{self.width}x{self.height}"
            raise BadImage(f"picture: {size} is too long and thin to be cut to {wanted}")
        if tuple(pixels.shape[1:]) != inner:
            pixels = F.interpolate(pixels[None], size=inner, mode=self.interpolation, antialias=True)[0]
        if self.resize == "letterbox":
            pad = (0, self.width - inner[1], 0, self.height - inner[0])
            return F.pad(pixels, pad, value=round(self.fill * 255))
        top, left = self._corner(*inner)
        return pixels[:, top : top + self.height, left : left + self.width]


def read_pixels(picture: Picture) -> UInt8[Tensor, "channels height width"]:
    """Any picture as uint8, 1 or 3 channels unless it is an array or a tensor of more. Raises BadImage for what is none."""
    if isinstance(picture, Tensor):
        return _from_tensor(picture)
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if isinstance(picture, Image.Image):
        return _from_pil(picture, "the PIL image")
    if isinstance(picture, bytes):
        return _decode(io.BytesIO(picture), f"{len(picture)} bytes")
    if isinstance(picture, str | Path):
        path = Path(picture)
        if not path.is_file():
            raise BadImage(f"{path}: no such file")
        with path.open("rb") as stream:
            return _decode(stream, str(path))
    raise BadImage(f"picture: expected a path, bytes, PIL image, array or tensor, got {type(picture).__name__}")


def _decode(stream, name: str) -> UInt8[Tensor, "channels height width"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                return _from_pil(image, name)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{name}: not a picture that Pillow can read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"{name}: more than {MAX_PIXELS:,} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError) as error:
        raise BadImage(f"{name}: broken picture ({error})") from None


def _from_pil(image: Image.Image, name: str) -> UInt8[Tensor, "channels height width"]:
    _check_size(name, image.height, image.width)
    if image.mode in ("I;16", "I", "F"):
        raise BadImage(f"{name}: mode {image.mode} has more than 8 bits a channel; convert it to 8 bits first")
    mode = "L" if image.mode in ("L", "1") else "RGB"
    array = np.array(image if image.mode == mode else image.convert(mode))
    return torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))


def _check_size(name: str, height: int, width: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(f"{name}: {width}x{height} is more than {MAX_PIXELS:,} pixels")


def _from_array(array: np.ndarray) -> UInt8[Tensor, "channels height width"]:
    if array.dtype != np.uint8:
        raise BadImage(f"array: expected uint8 in 0..255, got {array.dtype}; floats in [0, 1] come as a CHW tensor")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise BadImage(f"array: expected height x width x channels, got shape {array.shape}")
    _check_size("array", *array.shape[:2])
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _from_tensor(tensor: Tensor) -> UInt8[Tensor, "channels height width"]:
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise BadImage(f"tensor: expected channels x height x width, got shape {tuple(tensor.shape)}")
    _check_size("tensor", *tensor.shape[1:])
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise BadImage(f"tensor: expected uint8 or floats in [0, 1], got {tensor.dtype}")
    if not bool(torch.isfinite(tensor).all()):
        raise BadImage("tensor: it holds NaN or infinity")
    if float(tensor.min()) < 0 or float(tensor.max()) > 1:
        raise BadImage(f"tensor: expected floats in [0, 1], got {float(tensor.min()):.3g} to {float(tensor.max()):.3g}")
    return (tensor * 255).round().to(torch.uint8)
