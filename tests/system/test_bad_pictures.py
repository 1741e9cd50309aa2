"""Pictures that are not what they should be, through predict and the command line: one line that says what is wrong."""

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from oculi.cli import main
from oculi.data.datasets import Splits
from oculi.data.sources import open_data
from oculi.input_contract import BadImage, InputContract
from oculi.learn.training import build, train
from oculi.system import predict, save
from oculi.types import Batch, Sample

pytestmark = pytest.mark.unchecked


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def lying(width: int, height: int) -> bytes:
    """A PNG whose header promises pixels that do not follow."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def written(path, array):
    Image.fromarray(array).save(path)
    return path


@pytest.fixture(scope="module")
def system():
    return build("resnet", tiny=True).eval()


@pytest.fixture
def bad(tmp_path):
    """Paths by what is wrong with them."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    png, jpeg = (written(tmp_path / name, noise).read_bytes() for name in ("whole.png", "whole.jpg"))
    contents = {
        "truncated.png": png[: len(png) // 2],
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "head.png": png[:20],
        "lying.png": lying(300, 300),
        "huge.png": lying(20_000, 20_000),
        "bomb.png": lying(2_000_000, 2_000_000),
        "text.png": b"not a picture\n",
        "empty.png": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    return {name: tmp_path / name for name in [*contents, "folder.png", "nowhere.png"]}


NAMES = ["truncated.png", "truncated.jpg", "head.png", "lying.png", "huge.png", "bomb.png", "text.png", "empty.png"]


@pytest.mark.parametrize("name", [*NAMES, "folder.png", "nowhere.png"])
def test_a_bad_file_is_one_line_that_names_it(system, bad, name, tmp_path, capsys):
    with pytest.raises(BadImage, match=name):
        predict(system, bad[name])
    assert main(["predict", str(save(system, tmp_path / "run")), str(bad["text.png"].parent / name), "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert name in printed.err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 1.5])
def test_floats_that_are_no_picture(system, value):
    image = torch.full((3, 8, 8), 0.5)
    image[1, 2, 3] = value
    with pytest.raises(BadImage, match="tensor"):
        predict(system, image)


def test_a_batch_with_nan_is_refused(system):
    image = torch.full((2, 1, 16, 16), 0.5)
    image[1, 0, 2, 3] = float("nan")
    with pytest.raises(BadImage, match=r"batch.image: it holds NaN"):
        predict(system, Batch(image=image))


def test_nan_pictures_do_not_train():
    image = torch.full((1, 16, 16), float("nan"))
    data = [Sample(image=image, label=index % 10) for index in range(20)]
    with pytest.raises(BadImage, match="NaN"):
        train("resnet", splits=Splits(data, data, data, [str(i) for i in range(10)]), progress=False)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 20_000), (20_000, 2)], ids=str)
def test_one_pixel_and_twenty_thousand(resize, size, tmp_path):
    path = written(tmp_path / "odd.png", np.full((*size, 3), 200, np.uint8))
    image = InputContract(16, 24, resize=resize).prepare(path)
    assert image.shape == (3, 16, 24)
    assert (image - 200 / 255).abs().amin() < 1e-6


def test_too_long_to_be_cut(tmp_path):
    path = written(tmp_path / "line.png", np.zeros((1, 20_000, 3), np.uint8))
    with pytest.raises(BadImage, match="20000x1 is too long and thin to be cut to 224x224"):
        InputContract(224, 224, resize="crop").prepare(path)


def test_four_hundred_million_pixels_are_refused_before_they_are_decoded(tmp_path):
    array = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (20_000, 20_000, 3))  # no memory behind it
    with pytest.raises(BadImage, match="64,000,000"):
        InputContract(16, 16).prepare(array)


def test_one_pixel_gets_an_answer(system, tmp_path):
    path = written(tmp_path / "one.png", np.zeros((1, 1), np.uint8))
    (answer,) = predict(system, path)
    assert float(answer.probabilities.sum()) == pytest.approx(1)


def test_a_wrong_number_of_classes_is_named(tmp_path, capsys):
    for name in "abc":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(10):
            written(tmp_path / "photos" / name / f"{index}.png", np.full((8, 8), index, np.uint8))
    words = ["train", "resnet", "--folder", "run", "--json", "--data.name", "folder", "--data.path", "photos"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "num_classes: the data has 3 classes, the system 10" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["folder", "--data.path", "nowhere"], "nowhere: no such folder"),
        (["folder", "--data.path", "."], "expected a folder per class"),
        (["digit"], "did you mean digits"),
        (["folder"], "data: folder needs path"),
    ],
)
def test_missing_data_is_named(data, message, capsys, tmp_path):
    assert main(["train", "resnet", "--folder", "run", "--json", "--data.name", *data]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_class_without_pictures_is_named(tmp_path, capsys):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
    written(tmp_path / "photos" / "a" / "0.png", np.zeros((8, 8), np.uint8))
    assert main(["train", "resnet", "--folder", "run", "--data.name", "folder", "--data.path", "photos"]) == 2
    assert "no pictures" in capsys.readouterr().err


def coco_file(path, content) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


BARE = {"images": [], "annotations": [], "categories": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ('{"images": [', "not valid JSON"),
        ([], "a.json"),
        (BARE, "no pictures"),
        ({"images": []}, "annotations"),
        (None, "no such file"),
    ],
    ids=["empty", "torn", "list", "bare", "half", "missing"],
)
def test_an_annotation_file_without_anything_is_named(content, message, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    if content is not None:
        coco_file(tmp_path / "a.json", content)
    words = ["--data.name", "coco", "--data.path", "a.json", "--data.images", "photos"]
    assert main(["train", "faster_rcnn", "--folder", "run", "--json", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_pictures_without_any_object_can_be_learned_from(tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(12):
        written(tmp_path / "photos" / f"{index}.png", np.full((32, 32, 3), 20 * index, np.uint8))
    images = [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 32} for i in range(12)]
    coco_file(tmp_path / "a.json", {**BARE, "images": images, "categories": [{"id": 1, "name": "cat"}]})
    splits = open_data("coco", path="a.json", images="photos")
    system = build("faster_rcnn", tiny=True, num_classes=1)
    batch = Batch.of([splits.prepared(system.contract).train[i] for i in range(4)])
    losses = system.train().loss(batch)
    assert all(bool(torch.isfinite(value)) for value in losses.values())
