r"""A detector on real pictures with boxes drawn by hand: tree crowns from the air, as the package deepforest ships them.

    pip download --no-deps deepforest==1.5.2 && unzip deepforest-1.5.2-*.whl 'deepforest/data/*'
    python benchmarks/tree_crowns.py deepforest/data --out trees
    oculi train faster_rcnn --data trees --folder runs/trees

Pascal VOC's files as their annotators left them, pictures of 400 to 2,500 pixels a side at 0.1 m each, some 950 trees
(NEON; Weinstein et al.: Individual tree-crown detection in RGB imagery, Remote Sensing 2019, doi:10.3390/rs11111309). They
are cut into tiles, one site's for testing, the others' to learn from, and written as a VOC folder; the last command is
what a user would type. Trees of which less than half lies in a tile are left out there.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from pathlib import Path

import torch

from oculi.data.formats import voc
from oculi.types import Sample

TEST_SITE = "2019_YELL_2_541000"
LEAST = 0.5  # of a tree's box


def tiles(sample: Sample, side: int) -> list[Sample]:
    """The whole squares of a picture that show a tree; all trees are of one class."""
    assert sample.image is not None
    assert sample.boxes is not None
    area = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1)
    found = []
    for top in range(0, sample.image.shape[1] - side + 1, side):
        for left in range(0, sample.image.shape[2] - side + 1, side):
            boxes = (sample.boxes - torch.tensor([left, top, left, top])).clamp(0, side)
            boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).prod(1) >= LEAST * area]
            if len(boxes):
                image = sample.image[:, top : top + side, left : left + side]
                found.append(Sample(image=image, boxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.int64)))
    return found


def main() -> None:
    """Read, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder deepforest/data")
    parser.add_argument("--out", type=Path, default=Path("trees"))
    parser.add_argument("--side", type=int, default=160, help="of a tile, in pixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, suffix in (("JPEGImages", ".png"), ("Annotations", ".xml")):
            (Path(folder) / name).mkdir()
            for path in options.data.glob("*.xml"):
                shutil.copy(path.with_suffix(suffix), Path(folder) / name)
        found = voc.load(folder, validation=0.25, test=0.25, repair=True)  # all of them are wanted
        pictures = [part[index] for part in (found.train, found.validation, found.test) for index in range(len(part))]
    learn: list[Sample] = []
    test: list[Sample] = []
    for picture in sorted(pictures, key=lambda one: str(one.id)):
        cut = tiles(picture, options.side)
        print(
            f"{picture.id}: {len(cut)} tiles with {sum(len(one.boxes) for one in cut if one.boxes is not None)} trees"
        )
        (test if TEST_SITE in str(picture.id) else learn).extend(cut)
    random.Random(0).shuffle(learn)
    held_out = len(learn) // 10
    parts = {"train": learn[held_out:], "val": learn[:held_out], "test": test}
    for line in voc.write(parts, options.out, ["tree"]):
        print(line)


if __name__ == "__main__":
    main()
