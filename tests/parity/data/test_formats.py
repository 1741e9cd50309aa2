"""What we write, other libraries read: pycocotools COCO, supervision YOLO and Pascal VOC."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO

import oracles
from oculi.data.conversion import write
from oculi.data.sources import open_data

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools, numpy 2
    pytest.mark.filterwarnings("ignore::DeprecationWarning:supervision"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def scenes():
    splits = open_data("world", size=32, train=4, validation=2, test=2)
    return splits.class_names, [splits.train[i] for i in range(4)]


def test_pycocotools_reads_our_coco(scenes, tmp_path, capsys):
    names, samples = scenes
    write({"train": samples}, tmp_path, "coco", names)
    theirs = COCO(tmp_path / "annotations/instances_train.json")
    assert [c["name"] for c in theirs.loadCats(theirs.getCatIds())] == names
    for image, sample in zip(theirs.loadImgs(theirs.getImgIds()), samples, strict=True):
        rows = theirs.loadAnns(theirs.getAnnIds(image["id"]))
        assert [row["category_id"] - 1 for row in rows] == sample.labels.tolist()
        for row, mask, box in zip(rows, sample.masks, sample.boxes.tolist(), strict=True):
            assert np.array_equal(theirs.annToMask(row), mask.numpy())
            x, y, width, height = row["bbox"]
            assert [x, y, x + width, y + height] == box


def compared(theirs, names, samples):
    """supervision's data set against ours."""
    assert len(theirs) == len(samples)
    by_stem = {path.rpartition("/")[2].partition(".")[0]: found for path, _, found in theirs}
    for sample in samples:
        found = by_stem[sample.id]
        assert [theirs.classes[k] for k in found.class_id] == [names[k] for k in sample.labels.tolist()]
        np.testing.assert_allclose(found.xyxy, sample.boxes.numpy(), atol=1e-3)


def test_supervision_reads_our_yolo(scenes, tmp_path):
    oracles.torchvision()
    data = oracles.oracle("supervision").DetectionDataset
    names, samples = scenes
    write({"train": [replace(sample, masks=None) for sample in samples]}, tmp_path, "yolo", names)
    folders = {
        "images_directory_path": f"{tmp_path}/images/train",
        "annotations_directory_path": f"{tmp_path}/labels/train",
    }
    compared(data.from_yolo(**folders, data_yaml_path=f"{tmp_path}/data.yaml"), names, samples)


def test_supervision_reads_our_voc(scenes, tmp_path):
    oracles.torchvision()
    data = oracles.oracle("supervision").DetectionDataset
    names, samples = scenes
    write({"train": samples}, tmp_path, "voc", names)
    theirs = data.from_pascal_voc(f"{tmp_path}/JPEGImages", f"{tmp_path}/Annotations")
    compared(theirs, names, samples)


def test_we_read_supervisions_yolo_and_coco(scenes, tmp_path):
    oracles.torchvision()
    data = oracles.oracle("supervision").DetectionDataset
    names, samples = scenes
    write({"train": [replace(sample, masks=None) for sample in samples]}, tmp_path / "ours", "yolo", names)
    ours = tmp_path / "ours"
    theirs = data.from_yolo(f"{ours}/images/train", f"{ours}/labels/train", f"{ours}/data.yaml")
    there = tmp_path / "theirs"
    theirs.as_yolo(f"{there}/images", f"{there}/labels", f"{there}/data.yaml")
    text = (there / "data.yaml").read_text()
    (there / "data.yaml").write_text(text + "train: images\nval: images\n")
    back = open_data("yolo", path=str(there), repair=True)
    theirs.as_coco(f"{tmp_path}/coco/images", f"{tmp_path}/coco/x.json")
    second = open_data("coco", path=str(tmp_path / "coco/x.json"), validation=0.25, test=0.25)
    whole = [part[i] for part in (second.train, second.validation, second.test) for i in range(len(part))]
    for found in ([back.train[i] for i in range(4)], whole):
        by_id = {sample.id: sample for sample in found}
        for sample in samples:
            np.testing.assert_allclose(by_id[sample.id].boxes, sample.boxes, atol=0.02)  # it writes five decimals
