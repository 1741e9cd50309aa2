"""YOLO folders: World scenes written and read back, what is lost is said, everything wrong in one report."""

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from oculi.data.datasets import batches
from oculi.data.formats.yolo import write
from oculi.data.sources import BadData, open_data
from oculi.types import Sample


@pytest.fixture(scope="module")
def scenes():
    return open_data("world", size=32, train=6, validation=3, test=3)


def parts_of(splits):
    return {"train": splits.train, "val": splits.validation, "test": splits.test}


def test_world_scenes_come_back_exactly(scenes, tmp_path):
    lost = write(parts_of(scenes), tmp_path, scenes.class_names)
    assert [line.partition(",")[0] for line in lost] == ["caption", "facts"]
    back = open_data("yolo", path=str(tmp_path / "data.yaml"), masks=True)
    assert back.class_names == scenes.class_names
    for part in ("train", "validation", "test"):
        read, written = getattr(back, part), getattr(scenes, part)
        found = {read[i].id: read[i] for i in range(len(read))}
        assert len(found) == len(written)
        for one in (written[i] for i in range(len(written))):
            two = found[one.id]
            for name in ("image", "boxes", "labels", "masks"):
                assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert next(batches(back.train, 6)).crowd is None
    assert open_data("yolo", path=str(tmp_path)).train[0].masks is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(5, 200), st.integers(5, 200))
def test_boxes_and_points_come_back_to_the_last_bit(tmp_path_factory, seed, width, height):
    g = torch.Generator().manual_seed(seed)
    side = torch.tensor([width, height])
    low = torch.rand(5, 2, generator=g) * side * 0.9
    boxes = torch.cat([low, low + (side - low) * (0.01 + 0.99 * torch.rand(5, 2, generator=g))], 1)
    seen = torch.tensor([0.0, 1, 2])[:, None].expand(5, 3, 1)
    points = torch.cat([torch.rand(5, 3, 2, generator=g) * side, seen], -1)
    image = torch.zeros(3, height, width)
    folder = tmp_path_factory.mktemp("yolo")
    one = Sample(image=image, boxes=boxes, labels=torch.arange(5), keypoints=points)
    assert write({"train": [one], "val": [one]}, folder) == []
    back = open_data("yolo", path=str(folder), keypoints=True)
    torch.testing.assert_close(back.train[0].boxes, boxes.clamp_min(0), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(back.validation[0].keypoints, points, rtol=1e-6, atol=1e-8)
    assert back.class_names == ["0", "1", "2", "3", "4"]


def test_what_is_lost_is_said(tmp_path):
    masks = torch.zeros(3, 10, 12, dtype=torch.bool)
    masks[0, 2:8, 2:8] = masks[1, 3:5, 3:5] = masks[1, 7:9, 8:10] = True
    boxes = torch.tensor([[2.2, 2.0, 8.0, 8], [3, 3, 10, 9], [1, 1, 2, 2]])
    sample = Sample(
        image=torch.zeros(3, 10, 12), boxes=boxes, labels=torch.tensor([0, 1, 1]), masks=masks,
        crowd=torch.tensor([False, True, False]), depth=torch.zeros(10, 12),
    )  # fmt: skip
    lost = "\n".join(write({"train": [sample], "val": [sample]}, tmp_path, ["cat", "dog"]))
    for words in (
        "crowd flags: objects like any other now: 000000.png object 2", "depth, which",
        "around their masks: 000000.png object 1",
        "empty masks, written as boxes: 000000.png object 3",
    ):  # fmt: skip
        assert words in lost, words
    with pytest.raises(BadData, match="without an outline"):
        open_data("yolo", path=str(tmp_path), masks=True)
    back = open_data("yolo", path=str(tmp_path), masks=True, repair=True).train[0]
    assert torch.equal(back.masks, masks[:2])  # the parts of the second one joined
    torch.testing.assert_close(back.boxes, torch.tensor([[2.0, 2, 8, 8], [3, 3, 10, 9]]))


@pytest.fixture
def place(tmp_path):
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "labels/train").mkdir(parents=True)

    def put(names=("cat", "dog"), **labels):
        for name, text in labels.items():
            Image.new("RGB", (20, 10)).save(tmp_path / f"images/train/{name}.jpg")
            (tmp_path / f"labels/train/{name}.txt").write_text(text)
        described = {"train": "images/train", "val": "../images/train", "names": names}
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(described))
        return str(tmp_path)

    return put


def test_numbers_are_relative_to_the_sides(place, tmp_path):
    path = place({0: "cat", 1: "dog"}, a="1 0.5 0.5 0.2 0.4\n\n0 0.1 0.1 0.9 0.1 0.9 0.8\n", b="")
    Image.new("L", (20, 10)).save(tmp_path / "images/train/c.png")
    (tmp_path / "val.txt").write_text("./images/train/b.jpg\nimages/train/c.png\n")
    described = yaml.safe_load((tmp_path / "data.yaml").read_text()) | {"val": "val.txt", "train": ["images/train"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(described))
    splits = open_data("yolo", path=path, repair=True)
    assert splits.train[0].boxes.tolist() == [[8, 3, 12, 7], [2, 1, 18, 8]]
    assert splits.train[0].labels.tolist() == [1, 0]
    assert [splits.validation[i].id for i in range(2)] == ["b", "c"]
    assert splits.validation[0].boxes.shape == (0, 4)


def test_everything_wrong_is_named_in_one_report(place, tmp_path):
    lines = [
        "0 0.5 0.5 0.2 0.4", "0 0.5 0.5 0.2 0.4", "0 0.5 0.5 0 0.4", "0 0.5 0.5 -0.1 0.4", "0 0.9 0.5 0.4 0.4", "cat 1 2 3 4",
        "7 0.5 0.5 0.2 0.4", "0.5 0.5 0.5 0.2 0.4", "0 nan 0.5 0.2 0.4", "0 0.5 0.5", "0 0.1 0.1 0.9 0.9 0.9 0.1 0.1 0.9",
    ]  # fmt: skip
    path = place({0: "cat", 2: "cat"}, a="\n".join(lines), gone="", broken="")
    (tmp_path / "images/train/broken.jpg").write_text("no picture")
    (tmp_path / "labels/train/gone.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "all.txt").write_text("images/train/nowhere.jpg\nimages/train/a.jpg\nimages/train/a.jpg\n")
    described = yaml.safe_load((tmp_path / "data.yaml").read_text()) | {"val": "all.txt"}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(BadData) as caught:
        open_data("yolo", path=path, masks=True)
    report = str(caught.value)
    for words in (
        "names met twice: cat", "jumps over: 1", "met twice in val", "met in two splits", "not on disk", "cannot be read",
        "that are no text", "without an outline: ", "a.txt:1", "unknown class", "no numbers",
        "a.txt:9", "with 2 numbers after the class", "crosses itself",
    ):  # fmt: skip
        assert words in report, words
    with pytest.raises(BadData) as caught:
        open_data("yolo", path=path)
    report = str(caught.value)
    for words in ("met before: ", "no or negative width or height", "outside the picture", "not finite"):
        assert words in report, words
    splits = open_data("yolo", path=path, repair=True)
    assert splits.class_names == ["cat", "1", "cat"]
    assert len(splits.train[0].boxes) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not YAML"),
        ("train: x", "expected the keys train and names"),
        ("{train: x, names: 3}", "names: expected a list"),
        ("{train: x, names: {a: b}}", "numbers with their names"),
        ("{train: nowhere, val: x, names: [a]}", "train: there is no"),
        ("{train: images, names: [a]}", "train: no pictures"),
        ("{train: images, names: [a], kpt_shape: 3}", "kpt_shape"),
    ],
)
def test_what_is_no_yolo_folder(tmp_path, content, message):
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(BadData, match=message):
        open_data("yolo", path=str(tmp_path / "data.yaml"))
    with pytest.raises(BadData, match="no such file"):
        open_data("yolo", path=str(tmp_path / "other.yaml"))
    with pytest.raises(BadData, match="expected one YAML file"):
        open_data("yolo", path=str(tmp_path / "images"))
