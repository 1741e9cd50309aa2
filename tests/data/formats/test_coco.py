"""COCO files: World scenes written and read back exactly, and one report of everything that is wrong."""

import json

import pytest
import torch
from PIL import Image

from oculi.data.datasets import batches
from oculi.data.formats.coco import Coco, write
from oculi.data.sources import BadData, open_data
from oculi.types import Sample

FIELDS = ("image", "boxes", "labels", "masks", "id")


def same(one, two, fields=FIELDS):
    for name in fields:
        a, b = getattr(one, name), getattr(two, name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


@pytest.fixture(scope="module")
def scenes():
    return open_data("world", size=32, train=8, validation=4, test=4)


def test_world_scenes_come_back_exactly(scenes, tmp_path):
    write(scenes.train, tmp_path / "scenes.json", class_names=scenes.class_names)
    back = Coco(tmp_path / "scenes.json", masks=True)
    assert back.class_names == scenes.class_names
    assert len(back) == 8
    for i in range(8):
        same(scenes.train[i], back[i])
        assert not back[i].crowd.any()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_laid_out_as_coco_is(scenes, tmp_path):
    for split, part in (("train2017", scenes.train), ("val2017", scenes.validation)):
        write(part, tmp_path / f"annotations/instances_{split}.json", tmp_path / split, scenes.class_names)
    splits = open_data("coco", path=str(tmp_path), masks=True)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [8, 4, 4]
    same(splits.validation[3], scenes.validation[3])
    assert next(batches(splits.train, 8)).crowd is None
    (tmp_path / "annotations/instances_val2017.json").unlink()
    with pytest.raises(BadData, match="expected annotations/instances_train"):
        open_data("coco", path=str(tmp_path))


def test_shares_of_one_file_are_disjoint(scenes, tmp_path):
    write(scenes.train, tmp_path / "scenes.json", class_names=scenes.class_names)
    splits = open_data("coco", path=str(tmp_path / "scenes.json"), validation=0.25, test=0.25)
    parts = [{part[i].id for i in range(len(part))} for part in (splits.train, splits.validation, splits.test)]
    assert [len(p) for p in parts] == [4, 2, 2]
    assert len(set.union(*parts)) == 8
    with pytest.raises(BadData, match="too few"):
        open_data("coco", path=str(tmp_path / "scenes.json"), test=0.01)


def test_floats_crowds_and_grey_pictures_come_back(tmp_path):
    torch.manual_seed(0)
    low = torch.rand(20, 2) * 10
    boxes = torch.cat([low, low + 0.1 + torch.rand(20, 2) * 9], 1)
    grey = (torch.rand(1, 20, 24) * 255).round() / 255
    sample = Sample(image=grey, boxes=boxes, labels=torch.arange(20) % 3, crowd=torch.arange(20) == 4, id="a.b/c")
    empty = Sample(image=grey, boxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), crowd=torch.zeros(0).bool())
    write([sample, empty], tmp_path / "deep" / "x.json", tmp_path / "pictures")
    back = Coco(tmp_path / "deep" / "x.json", tmp_path / "pictures")
    same(sample, back[0], ("image", "boxes", "labels", "crowd"))
    assert (back[0].id, back[1].id) == ("a.b_c", "000001")
    assert len(back.part([0, 1], crowd=False)[0].boxes) == 19
    assert back[1].boxes.shape == (0, 4)


def document():
    """A sound file: category ids with gaps, a polygon, plain run lengths of a crowd."""
    square = [2.0, 2, 6, 2, 6, 6, 2, 6]
    return {
        "images": [{"id": 7, "file_name": "7.png", "height": 10, "width": 12}],
        "categories": [{"id": 90, "name": "kite"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [2, 2, 4, 4], "segmentation": [square], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 10], "iscrowd": 1,
             "segmentation": {"size": [10, 12], "counts": [0, 10, 110]}},
        ],
    }  # fmt: skip


@pytest.fixture
def place(tmp_path):
    Image.new("RGB", (12, 10), (255, 0, 0)).save(tmp_path / "7.png")

    def put(content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "x.json").write_text(text)
        return tmp_path / "x.json"

    return put


def test_gaps_between_category_ids_close_and_boxes_turn(place):
    coco = Coco(place(document()), masks=True)
    assert coco.class_names == ["car", "kite"]
    assert coco[0].labels.tolist() == [1, 0]
    assert coco[0].boxes.tolist() == [[2, 2, 6, 6], [0, 0, 1, 10]]
    assert coco[0].crowd.tolist() == [False, True]
    assert coco[0].masks.sum((1, 2)).tolist() == [16, 10]
    assert bool(coco[0].masks[0, 2:6, 2:6].all())


def test_everything_wrong_is_named_in_one_report(place, tmp_path):
    Image.new("RGB", (5, 5)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_text("no picture")
    wrong = document()
    wrong["images"] += [
        {"id": 7, "file_name": "again.png", "height": 10, "width": 12},
        {"id": 8, "file_name": "gone.png", "height": 10, "width": 12},
        {"id": 9, "file_name": "small.png", "height": 10, "width": 12},
        {"id": 10, "file_name": "broken.png", "height": 10, "width": 12},
        {"id": 11, "file_name": "../out.png", "height": 10, "width": 12},
        {"id": 12, "file_name": "nosize.png"},
        "not an object",
    ]
    wrong["categories"] += [{"id": 90, "name": "bat"}, {"id": 4, "name": "car"}]
    good = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2], "segmentation": [[1, 1, 3, 1, 3, 3]]}
    faults = [
        {"image_id": 99}, {"category_id": 1}, {"bbox": [1, 1, 0, 2]}, {"bbox": [1, 1, 2, -2]}, {"bbox": [9, 1, 5, 2]},
        {"bbox": [1, 1, 2]}, {"bbox": [1, 1, 2, float("nan")]}, {"iscrowd": 2}, {"segmentation": []},
        {"segmentation": {"size": [12, 10], "counts": [120]}}, {"segmentation": {"size": [10, 12], "counts": [119]}},
        {"segmentation": {"size": [10, 12], "counts": "#?"}}, {"segmentation": [[1, 1, 3, 1, 3]]},
        {"segmentation": [["a"]]}, {"bbox": "box"}, {"id": 1},
    ]  # fmt: skip
    wrong["annotations"] += [{"id": 100 + i, **good, **fault} for i, fault in enumerate(faults)]
    path = place(wrong)
    with pytest.raises(BadData) as caught:
        Coco(path, masks=True)
    report = str(caught.value)
    assert report.startswith(f"{path}: 25 problems")
    expected = [
        "images with an id met before: 7", "not on disk", "gone.png", "small.png is 5 x 5, said to be 12 x 10",
        "cannot be read", "leave the folder of pictures: ../out.png", "images without a proper height, width",
        "images that are no objects", "categories with an id met before: 90", "category names met twice: car",
        "of an unknown picture: 100", "of an unknown category: 101", "no or negative width or height: 102, 103",
        "outside the picture: 104", "four finite numbers: 105, 106", "crowd flag that is neither 0 nor 1: 107",
        "without a segmentation: 108", "another size than the picture: 109", "do not fill the picture: 110, 111",
        "half a corner: 112", "not a list of numbers: 113", "annotations without a proper bbox, by place: 16",
        "annotations with an id met before: 1", "repair",
    ]  # fmt: skip
    for words in expected:
        assert words in report, words
    repaired = Coco(path, masks=True, repair=True)
    same(repaired[0], Coco(place(document()), masks=True)[0], ("image", "boxes", "masks", "crowd"))
    assert len(repaired.left_out) >= 20


def test_what_is_no_coco_file_is_refused(place, tmp_path):
    with pytest.raises(BadData, match="no such file"):
        Coco(tmp_path / "nowhere.json")
    with pytest.raises(BadData, match=r"not valid JSON .*line 1"):
        Coco(place("{broken"))
    with pytest.raises(BadData, match="expected an object"):
        Coco(place([]))
    with pytest.raises(BadData, match="none called categories, annotations"):
        Coco(place({"images": []}))
    with pytest.raises(BadData, match="no pictures"):
        Coco(place({"images": [], "categories": [], "annotations": []}))


def test_borders_exceeded_by_rounding_are_cut(place):
    content = document()
    content["annotations"][0]["bbox"] = [2, 2, 10.4, 8.2]
    assert Coco(place(content))[0].boxes[0].tolist() == [2, 2, 12, 10]


@pytest.mark.unchecked
def test_nothing_is_written_of_what_cannot_be(tmp_path):
    image = torch.zeros(3, 4, 4)
    bad = [
        Sample(image=image),
        Sample(image=image, boxes=torch.tensor([[0.0, 0, 0, 2]]), labels=torch.tensor([0])),
        Sample(image=image, boxes=torch.tensor([[0.0, 0, 1, 2]]), labels=torch.tensor([5])),
        Sample(image=image, boxes=torch.tensor([[0.0, 0, 1, 2]]), labels=torch.tensor([0, 0])),
    ]
    with pytest.raises(ValueError, match="dataset: 4 problems"):
        write(bad, tmp_path / "x.json", class_names=["one"])
    assert not list(tmp_path.iterdir())


def test_a_failure_half_way_leaves_no_half_file(tmp_path, monkeypatch, scenes):
    monkeypatch.setattr("oculi.data.formats.coco.json.dumps", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(scenes.test, tmp_path / "x.json", class_names=scenes.class_names)
    assert not (tmp_path / "x.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_keypoints_come_back_and_are_checked(tmp_path):
    points = torch.tensor([[[1.5, 2, 2], [0, 0, 0]], [[3.0, 4, 1], [5, 6, 2]]])
    boxes = torch.tensor([[1.0, 1, 4, 4], [2, 3, 7, 8]])
    sample = Sample(image=torch.zeros(3, 10, 10), boxes=boxes, labels=torch.tensor([0, 0]), keypoints=points)
    assert write([sample], tmp_path / "x.json", class_names=["person"]) == []
    same(Coco(tmp_path / "x.json", keypoints=True)[0], sample, ("boxes", "keypoints"))
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["annotations"][0]["num_keypoints"] == 1
    content["annotations"][1]["keypoints"] = [1, 2, 2]
    content["annotations"].append({**content["annotations"][0], "id": 3, "keypoints": ["x"] * 6})
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(BadData) as caught:
        Coco(tmp_path / "x.json", keypoints=True)
    for words in ("with more or fewer points than others: 2", "without points x y v: 3"):
        assert words in str(caught.value)


def test_pictures_beside_their_file_and_maps_out_of_masks(scenes, tmp_path):
    for split, part in (("train", scenes.train), ("valid", scenes.validation)):
        write(part, tmp_path / split / "_annotations.coco.json", tmp_path / split, scenes.class_names)
    splits = open_data("coco", path=str(tmp_path), semantic=True)
    assert splits.class_names == ["background", *scenes.class_names]
    one, two = splits.train[2], scenes.train[2]
    assert torch.equal(one.semantic > 0, two.masks.any(0))
    for mask, label in zip(two.masks, two.labels.tolist(), strict=True):
        assert bool((one.semantic[mask] == label + 1).all())


def test_what_is_lost_is_said(scenes, tmp_path):
    lost = write(scenes.test, tmp_path / "x.json", class_names=scenes.class_names)
    assert [line.partition(",")[0] for line in lost] == ["caption", "facts"]


def test_a_polygon_that_crosses_itself_is_named(place):
    content = document()
    content["annotations"][0]["segmentation"] = [[2.0, 2, 6, 6, 6, 2, 2, 6]]
    with pytest.raises(BadData, match="with a polygon that crosses itself: 1"):
        Coco(place(content), masks=True)
