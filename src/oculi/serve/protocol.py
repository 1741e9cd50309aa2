r"""What goes over the wire: pictures, the tensors of the Open Inference Protocol v2, and answers as JSON.

    FP32    n x channels x height x width, prepared images in [0, 1] of exactly the contract's shape
    UINT8   n x channels x height x width, pictures of any size, prepared by the contract
    BYTES   n picture files (PNG, JPEG, ...) in base64

Every refusal is a BadRequest with its HTTP status: 413 too large, 415 not a picture, 422 a broken or wrong one.
Open Inference Protocol: https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from oculi.input_contract import BadImage, InputContract
from oculi.predictions import Classes, Prediction

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # no decoder that would call another program
_DATATYPES = {
    torch.float32: "FP32",
    torch.float64: "FP64",
    torch.int64: "INT64",
    torch.int32: "INT32",
    torch.uint8: "UINT8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Limits:
    """What one server takes: bytes and pixels of a request, images at once, waiting and being read; seconds."""

    body_bytes: int = 16 << 20
    pixels: int = 25_000_000
    batch: int = 32  # images in one request, and in one run of the model
    queue: int = 256  # images that may wait
    reading: int = 64  # requests whose body is in memory at once
    seconds: float = 30.0  # from a request's first byte to its answer
    ready_seconds: float = 10.0  # readiness is an answer of the model no older than this
    probe_seconds: float = 2.0  # how long a readiness probe may take
    feedback: int = 10_000  # true labels kept, the oldest going first

    def __post_init__(self) -> None:
        for f in fields(self):
            if not getattr(self, f.name) > 0:
                raise ValueError(f"{f.name}: expected a positive number, got {getattr(self, f.name)}")
        if self.queue < self.batch:
            raise ValueError(f"queue: expected at least batch = {self.batch}, got {self.queue}")


class BadRequest(ValueError):
    """The request cannot be served; `status` is the HTTP answer."""

    def __init__(self, status: int, message: str):
        super().__init__(" ".join(message.split()))
        self.status = status


def open_picture(body: bytes, limits: Limits) -> Image.Image:
    """A picture file whose header is read, and refused when it is too large, before a pixel is decoded."""
    if not body:
        raise BadRequest(422, "picture: it is empty")
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadRequest(415, f"picture: expected one of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadRequest(413, f"picture: more than {limits.pixels:,} pixels") from None
    except Exception as error:  # decoders raise nearly anything on hostile headers
        raise BadRequest(422, f"picture: broken ({error})") from None
    if image.width * image.height > limits.pixels:
        raise BadRequest(413, f"picture: {image.width}x{image.height} is more than {limits.pixels:,} pixels")
    return image


def decode(image: Image.Image, contract: InputContract) -> Float[Tensor, "channels height width"]:
    """The opened picture as the network's tensor. Raises BadRequest when its pixels are broken."""
    try:
        with image:
            return contract.prepare(image)
    except BadImage as error:
        raise BadRequest(422, f"picture: {error}") from None
    except Exception as error:
        raise BadRequest(422, f"picture: broken ({error})") from None


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadRequest with what is wrong."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(422, f"body: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise BadRequest(422, f"body: expected a JSON object, got {type(content).__name__}")
    return content


def input_images(content: dict[str, Any], contract: InputContract, limits: Limits) -> Float[Tensor, "n c h w"]:
    """The images of an inference request (its one input), prepared."""
    inputs = content.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise BadRequest(422, "inputs: expected a list of one tensor")
    one = inputs[0]
    shape, datatype, data = one.get("shape"), one.get("datatype"), one.get("data")
    sizes = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)
    if not isinstance(shape, list) or not sizes or len(shape) not in (1, 4):
        raise BadRequest(422, f"shape: expected [n, channels, height, width] or [n], got {_short(shape)}")
    if shape[0] > limits.batch:
        raise BadRequest(413, f"shape: expected at most {limits.batch} images, got {shape[0]}")
    if datatype == "BYTES" and len(shape) == 1:
        return torch.stack([decode(open_picture(body, limits), contract) for body in _base64(data, shape[0])])
    if len(shape) != 4 or datatype not in ("FP32", "UINT8"):
        raise BadRequest(422, f"datatype: expected FP32 or UINT8 of 4 dimensions, BYTES of 1, got {_short(datatype)}")
    if math.prod(shape[2:]) > limits.pixels:
        raise BadRequest(413, f"shape: {shape[3]}x{shape[2]} is more than {limits.pixels:,} pixels")
    values = _numbers(data, shape)
    return _float_images(values, contract) if datatype == "FP32" else _byte_images(values, contract)


def _numbers(data: Any, shape: list[int]) -> np.ndarray:
    """Flat or nested JSON numbers in the stated shape."""
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):
        raise BadRequest(422, "data: its rows have different lengths") from None
    if values.dtype.kind not in "iuf" or values.size != math.prod(shape):
        found = f"{values.size} values of {values.dtype}"
        raise BadRequest(422, f"data: expected {math.prod(shape)} numbers for shape {shape}, got {found}")
    if values.ndim != 1 and list(values.shape) != shape:
        raise BadRequest(422, f"data: nested as {list(values.shape)}, but shape says {shape}")
    return values.reshape(shape)


def _float_images(values: np.ndarray, contract: InputContract) -> Tensor:
    expected = (contract.channels, contract.height, contract.width)
    if values.shape[1:] != expected:
        raise BadRequest(422, f"shape: expected [n, {', '.join(map(str, expected))}], got {list(values.shape)}")
    if not bool(np.isfinite(values).all()):
        raise BadRequest(422, "data: it holds NaN or infinity")
    if values.min() < 0 or values.max() > 1:
        raise BadRequest(422, f"data: expected values in [0, 1], got {values.min():.3g} to {values.max():.3g}")
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _byte_images(values: np.ndarray, contract: InputContract) -> Tensor:
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 255:
        raise BadRequest(422, "data: expected whole numbers in 0..255")
    try:
        return contract.batch(list(torch.from_numpy(values.astype(np.uint8))))
    except BadImage as error:
        raise BadRequest(422, f"data: {error}") from None


def _base64(data: Any, count: int) -> Iterator[bytes]:
    if not (isinstance(data, list) and len(data) == count and all(isinstance(text, str) for text in data)):
        raise BadRequest(422, f"data: expected {count} base64 strings")
    for text in data:
        try:
            yield base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRequest(422, f"data: not base64 ({error})") from None


def outputs(answers: list[Prediction]) -> list[dict[str, Any]]:
    """Answers as v2 tensors: fields of one shape are stacked; what varies per image is BYTES, one JSON text each."""
    found = []
    for f in fields(answers[0]):
        values = [getattr(answer, f.name) for answer in answers]
        if all(isinstance(v, Tensor) and v.shape == values[0].shape for v in values):
            stacked = torch.stack(values).cpu()
            if stacked.dtype in _DATATYPES:
                found.append(
                    _tensor(f.name, _DATATYPES[stacked.dtype], list(stacked.shape), stacked.flatten().tolist())
                )
        elif f.name != "names" and all(v is not None for v in values):
            texts = [to_json(v.tolist() if isinstance(v, Tensor) else v).decode() for v in values]
            found.append(_tensor(f.name, "BYTES", [len(texts)], texts))
    if isinstance(answers[0], Classes):
        labels = [answer.label for answer in answers if isinstance(answer, Classes)]
        found.append(_tensor("label", "INT64", [len(answers)], labels))
    return found


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def to_json(value: Any) -> bytes:
    """Strict JSON on one line; NaN and infinity, which JSON has not, become null."""
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
