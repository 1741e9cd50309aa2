"""The input contract: pictures of every kind in, the same bits out, one clear error for what cannot be a picture."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from oculi.input_contract import BadImage, InputContract, read_pixels

CONTRACT = InputContract(16, 24)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def picture(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_all_kinds_of_picture_give_the_same_bits(tmp_path):
    array = picture()
    (tmp_path / "a.png").write_bytes(png(array))
    expected = CONTRACT.prepare(array)
    assert expected.shape == (3, 16, 24)
    assert expected.dtype == torch.float32
    floats = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    for kind in (png(array), Image.fromarray(array), tmp_path / "a.png", str(tmp_path / "a.png"), floats):
        assert torch.equal(CONTRACT.prepare(kind), expected)


@pytest.mark.parametrize("size", [(7, 9), (16, 24), (40, 31), (1, 1)])
def test_resize_equals_pillow_to_one_level(size):
    array = picture(*size)
    theirs = np.asarray(Image.fromarray(array).resize((24, 16), Image.Resampling.BILINEAR)).astype(int)
    ours = (CONTRACT.prepare(array) * 255).round().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_grey_equals_pillow():
    array = picture()
    theirs = np.asarray(Image.fromarray(array).convert("L"))
    ours = InputContract(20, 30, channels=1).prepare(array)
    assert np.array_equal((ours[0] * 255).round().numpy(), theirs)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), resize=st.sampled_from(["stretch", "letterbox", "crop"]),
    box=st.tuples(*[st.floats(0, 60, width=32)] * 4),
)  # fmt: skip
def test_boxes_go_there_and_back(height, width, resize, box):
    contract = InputContract(32, 48, resize=resize)
    assert contract.prepare(np.zeros((height, width, 3), np.uint8)).shape == (3, 32, 48)
    boxes = torch.tensor([box])
    back = contract.boxes_to_original(contract.boxes_to_input(boxes, height, width), height, width)
    torch.testing.assert_close(back, boxes, rtol=1e-4, atol=1e-3)


def test_letterbox_keeps_the_aspect_and_fills_with_grey():
    white = np.full((10, 40, 3), 255, np.uint8)
    image = InputContract(32, 32, resize="letterbox").prepare(white)
    assert bool((image[:, :8] == 1).all())
    assert bool((image[:, 8:] == 128 / 255).all())


def lying_png() -> bytes:
    """A header that promises 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (png(picture())[:100], "broken picture"),
        (b"not a picture", "not a picture"),
        (b"", "not a picture"),
        (lying_png(), "pixels"),
        ("nowhere.png", "no such file"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), "shape 2 x 4 x 4, but this system takes channels: 3"),
        (np.zeros((4, 4, 4), np.uint8), "shape 4 x 4 x 4"),
        (np.zeros((3, 4, 5), np.uint8), "an array of height x width x 3"),
        (torch.zeros(2, 4, 4), "a tensor of 3 x height x width"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (torch.full((3, 4, 4), float("nan")), "NaN"),
        (torch.full((3, 4, 4), 2.0), r"\[0, 1\]"),
        (torch.zeros(4, 4), "shape"),
    ],
)
def test_what_is_no_picture_gets_one_clear_error(bad, message):
    with pytest.raises(BadImage, match=message):
        CONTRACT.prepare(bad)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("channels", [2, 4, 7])
def test_any_number_of_channels_each_as_a_grey_picture_alone(channels, resize):
    array = np.random.default_rng(1).integers(0, 256, (33, 21, channels), dtype=np.uint8)
    prepared = InputContract(16, 24, channels, resize).prepare(array)
    assert prepared.shape == (channels, 16, 24)
    alone = InputContract(16, 24, 1, resize)
    assert all(torch.equal(prepared[k], alone.prepare(array[..., k])[0]) for k in range(channels))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert torch.equal(InputContract(16, 24, channels, resize).prepare(tensor.float() / 255), prepared)


@pytest.mark.parametrize("kind", ["RGB", "L", "RGBA"])
def test_a_picture_file_has_no_fourth_channel(kind, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture()).convert(kind).save(path)
    for spelled in (path, path.read_bytes(), Image.open(path)):
        with pytest.raises(BadImage, match="an array of height x width x 4 or a tensor of 4 x height"):
            InputContract(16, 24, channels=4).prepare(spelled)


def test_one_pixel_is_a_picture():
    assert read_pixels(png(np.zeros((1, 1, 3), np.uint8))).shape == (3, 1, 1)


@pytest.mark.parametrize("wrong", [{"height": 0}, {"channels": 0}, {"resize": "squash"}])
@pytest.mark.unchecked
def test_impossible_contracts_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InputContract(**{"height": 8, "width": 8, **wrong})
