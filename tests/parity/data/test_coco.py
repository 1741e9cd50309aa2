"""What we write, pycocotools reads as we do."""

import contextlib
import io

import pytest
import torch
from pycocotools.coco import COCO

from oculi.data.formats.coco import Coco, write
from oculi.data.sources import open_data

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, numpy 2


def test_pycocotools_reads_what_is_written(tmp_path):
    scenes = open_data("world", size=32, train=4, validation=1, test=1)
    write(scenes.train, tmp_path / "scenes.json", class_names=scenes.class_names)
    ours = Coco(tmp_path / "scenes.json", masks=True)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(tmp_path / "scenes.json"))
    assert [c["name"] for c in theirs.loadCats(theirs.getCatIds())] == scenes.class_names
    for i, key in enumerate(theirs.getImgIds()):
        rows = theirs.loadAnns(theirs.getAnnIds(imgIds=[key]))
        assert torch.tensor([row["category_id"] - 1 for row in rows]).equal(ours[i].labels)
        boxes = torch.tensor([row["bbox"] for row in rows])
        assert torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).equal(ours[i].boxes)
        masks = torch.stack([torch.from_numpy(theirs.annToMask(row)) for row in rows]).bool()
        assert masks.equal(ours[i].masks)
        assert [row["area"] for row in rows] == masks.sum((1, 2)).tolist()
