"""COCO panoptic files: World scenes come back exactly, and one report of everything that is wrong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from oculi.data.formats.panoptic_png import read_ids, write
from oculi.data.painting import paint
from oculi.data.sources import BadData, open_data
from oculi.types import Sample


@pytest.fixture(scope="module")
def scenes():
    return open_data("world", task="segmentation", size=32, train=6, validation=3, test=3, fields=["panoptic"])


NAMES = ["background", "sphere", "box", "cylinder", "cone", "torus"]


def test_world_scenes_come_back_exactly(scenes, tmp_path):
    for split, part in (("train2017", scenes.train), ("val2017", scenes.validation)):
        file = tmp_path / f"annotations/panoptic_{split}.json"
        file.parent.mkdir(exist_ok=True)
        lost = write(part, file, tmp_path / split, NAMES)
        assert [line.partition(",")[0] for line in lost] == ["facts"]
    back = open_data("panoptic_png", path=str(tmp_path))
    assert back.class_names == NAMES
    for i in range(6):
        for name in ("image", "semantic", "panoptic", "id"):
            one, two = getattr(scenes.train[i], name), getattr(back.train[i], name)
            assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two, name
    document = json.loads((tmp_path / "annotations/panoptic_val2017.json").read_text())
    assert document["categories"][0]["isthing"] == 0
    ids = read_ids(tmp_path / "annotations/panoptic_val2017" / document["annotations"][0]["file_name"])
    for segment in document["annotations"][0]["segments_info"]:
        mask = ids == segment["id"]
        x, y, width, height = segment["bbox"]
        assert segment["area"] == int(mask.sum()) == int(mask[y : y + height, x : x + width].sum())


def test_what_is_lost_is_said(tmp_path):
    semantic = torch.tensor([[0, 1, 1, 1, 255]])
    panoptic = torch.tensor([[0, 2, 5, 0, 0]])
    one = Sample(image=torch.zeros(3, 1, 5), semantic=semantic, panoptic=panoptic)
    lost = "\n".join(write([one] * 4, tmp_path / "x.json", class_names=["sky", "car"]))
    assert "objects numbered anew" in lost
    assert "pixels of things outside objects" in lost
    back = open_data("panoptic_png", path=str(tmp_path / "x.json"), validation=0.25, test=0.25).train[0]
    assert back.panoptic.tolist() == [[0, 1, 2, 0, 0]]
    assert back.semantic.tolist() == [[0, 1, 1, 255, 255]]


def document():
    segments = [{"id": 1, "category_id": 9}, {"id": 70000, "category_id": 4, "iscrowd": 0}]
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 2, "width": 3}],
        "categories": [{"id": 9, "name": "sky", "isthing": 0}, {"id": 4, "name": "car", "isthing": 1}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
    }


@pytest.fixture
def place(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "x").mkdir()
    ids = np.array([[1, 1, 70000], [0, 70000, 70000]])

    def put(content, count=5):
        for k in range(count):
            name = "abcdefgh"[k]
            Image.new("RGB", (3, 2)).save(tmp_path / f"images/{name}.jpg")
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            Image.fromarray(colours).save(tmp_path / f"x/{name}.png")
            if k:
                content["images"].append({"id": k + 1, "file_name": f"{name}.jpg", "height": 2, "width": 3})
                note = {"image_id": k + 1, "file_name": f"{name}.png"}
                content["annotations"].append({**note, "segments_info": document()["annotations"][0]["segments_info"]})
        (tmp_path / "x.json").write_text(json.dumps(content))
        return str(tmp_path / "x.json")

    return put


def test_ids_become_places_and_crowds_are_unknown(place):
    content = document()
    splits = open_data("panoptic_png", path=place(content), validation=0.2, test=0.2)
    assert splits.class_names == ["car", "sky"]
    assert splits.train[0].semantic.tolist() == [[1, 1, 0], [255, 0, 0]]
    assert splits.train[0].panoptic.tolist() == [[0, 0, 1], [0, 1, 1]]
    content = document()
    content["annotations"][0]["segments_info"][1]["iscrowd"] = 1
    parts = open_data("panoptic_png", path=place(content), validation=0.2, test=0.2)
    whole = [part[i] for part in (parts.train, parts.validation, parts.test) for i in range(len(part))]
    crowd = next(sample for sample in whole if sample.id == "a")
    assert crowd.semantic.tolist() == [[1, 1, 255], [255, 255, 255]]
    assert not crowd.panoptic.any()


def test_everything_wrong_is_named_in_one_report(place, tmp_path):
    content = document()
    content["categories"].append({"id": 9, "name": "sea", "isthing": 0})
    content["images"] += [{"id": 90, "file_name": "gone.jpg", "height": 2, "width": 3}, {"id": 91}]
    content["images"] += [{"id": 92, "file_name": "alone.jpg", "height": 2, "width": 3}]
    content["annotations"] += [
        {"image_id": 90, "file_name": "a.png", "segments_info": []},
        {"image_id": 99, "file_name": "a.png", "segments_info": []},
        {"image_id": 1, "file_name": "a.png", "segments_info": []}, {"image_id": 1}, {"image_id": 1, "file_name": 3},
    ]  # fmt: skip
    path = place(content, 7)
    for k, change in ((6, {"file_name": "../x/a.png"}), (7, {"file_name": "gone.png"})):
        content["annotations"][k].update(change)
    bad = [
        {"id": 1, "category_id": 7}, {"id": 1, "category_id": 9}, {"id": 1, "category_id": 4}, {"id": 5, "category_id": 4}, 3,
    ]  # fmt: skip
    content["annotations"][8]["segments_info"] = bad
    Image.new("RGB", (4, 4)).save(tmp_path / "x/e.png")
    (tmp_path / "x/f.png").write_text("no picture")
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(BadData) as caught:
        open_data("panoptic_png", path=path)
    for words in (
        "categories with an id met before: 9", "images without a proper", "pictures that are not on disk", "unknown picture",
        "has one already: 1", "image_id, file_name or segments_info", "pictures without an annotation: 92", "leave the",
        "masks that are not on disk", "masks of another size", "masks that cannot be read", "of an unknown category",
        "with an id met before", "of no pixels", "proper id and category_id", "segments in the mask alone", "repair",
    ):  # fmt: skip
        assert words in str(caught.value), words
    splits = open_data("panoptic_png", path=path, repair=True, validation=0.34, test=0.34)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 3


@pytest.mark.unchecked
def test_what_cannot_be_written(tmp_path):
    image, map_ = torch.zeros(3, 1, 2), torch.tensor([[0, 1]])
    bad = [Sample(image=image), Sample(image=image, semantic=map_, panoptic=torch.ones(1, 2).long())]
    with pytest.raises(BadData, match="2 problems"):
        write(bad, tmp_path / "x.json", class_names=["a", "b"])
    assert not list(tmp_path.iterdir())


def test_masks_are_painted_the_smaller_in_front():
    masks = torch.zeros(3, 2, 4, dtype=torch.bool)
    masks[0, 0, 1] = masks[1, 0, :3] = masks[2, :, 2:] = True
    sample = Sample(image=torch.zeros(3, 2, 4), labels=torch.tensor([1, 0, 3]), masks=masks)
    assert paint(sample).semantic.tolist() == [[1, 2, 1, 4], [0, 0, 4, 4]]
    assert paint(sample).panoptic.tolist() == [[2, 1, 2, 3], [0, 0, 3, 3]]
    sample.crowd = torch.tensor([False, True, False])
    assert paint(sample).semantic.tolist() == [[255, 2, 4, 4], [0, 0, 4, 4]]
    assert paint(sample).panoptic.tolist() == [[0, 1, 3, 3], [0, 0, 3, 3]]
    with pytest.raises(ValueError, match="expected both"):
        paint(Sample())
