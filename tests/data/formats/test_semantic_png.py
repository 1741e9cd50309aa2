"""Folders of PNG masks: World scenes come back exactly, and one report of everything that is wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from oculi.data.formats.semantic_png import write
from oculi.data.sources import BadData, open_data
from oculi.types import Sample


@pytest.fixture(scope="module")
def scenes():
    return open_data("world", task="segmentation", size=32, train=6, validation=3, test=3)


def test_world_scenes_come_back_exactly(scenes, tmp_path):
    lost = write({"train": scenes.train, "val": scenes.validation}, tmp_path, scenes.class_names)
    assert [line.partition(",")[0] for line in lost] == ["facts"]
    back = open_data("semantic_png", path=str(tmp_path))
    assert back.class_names == scenes.class_names
    found = {back.train[i].id: back.train[i] for i in range(6)}
    for i in range(6):
        one = scenes.train[i]
        assert torch.equal(found[one.id].semantic, one.semantic)
        assert torch.equal(found[one.id].image, one.image)
    assert len(back.validation) == len(back.test) == 3


@pytest.mark.parametrize("layout", ["train/images train/masks valid/images valid/masks", "images masks"])
def test_other_layouts(tmp_path, layout):
    for folder in layout.split():
        (tmp_path / folder).mkdir(parents=True)
        for k in range(5):
            kind = "L" if "masks" in folder else "RGB"
            Image.new(kind, (6, 4), k % 3 if kind == "L" else (k, 0, 0)).save(tmp_path / folder / f"{k}.png")
    splits = open_data("semantic_png", path=str(tmp_path), validation=0.2, test=0.2)
    assert splits.class_names == ["0", "1", "2"]
    sample = splits.validation[0]
    assert bool((sample.semantic == round(float(sample.image[0, 0, 0]) * 255) % 3).all())


def test_colours_mean_what_the_label_map_says(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nroad:10,20,30::\nsky:0,0,255::\n")
    pixels = np.array([[[10, 20, 30], [0, 0, 255], [224, 224, 192]]], dtype=np.uint8)
    for k in range(4):
        Image.new("RGB", (3, 1)).save(tmp_path / f"images/{k}.jpg")
        Image.fromarray(pixels).save(tmp_path / f"labels/{k}.png")
    splits = open_data("semantic_png", path=str(tmp_path), validation=0.25, test=0.25)
    assert splits.class_names == ["road", "sky"]
    assert splits.train[0].semantic.tolist() == [[0, 1, 255]]
    Image.fromarray(pixels + 1).save(tmp_path / "labels/2.png")
    with pytest.raises(BadData, match=r"masks with a colour that nothing has: .*2.png"):
        open_data("semantic_png", path=str(tmp_path))


def test_everything_wrong_is_named_in_one_report(scenes, tmp_path):
    write({"train": scenes.train, "val": scenes.validation}, tmp_path, scenes.class_names)
    one, two, three, four, five, _ = sorted((tmp_path / "masks/train").glob("*.png"))
    one.unlink()
    Image.new("L", (32, 31)).save(two)
    Image.new("L", (32, 32), 9).save(three)
    four.write_text("no picture")
    (tmp_path / "images/train" / five.name).unlink()
    (tmp_path / "images/val" / "odd.jpg").write_text("no picture")
    (tmp_path / "classes.txt").write_text("unused")
    with pytest.raises(BadData) as caught:
        open_data("semantic_png", path=str(tmp_path))
    for words in (
        "6 problems", "masks that are not on disk", "another size than the picture", "a number that nothing has",
        "masks that cannot be read", "masks without a picture", "pictures that cannot be read", "repair",
    ):  # fmt: skip
        assert words in str(caught.value), words
    assert len(open_data("semantic_png", path=str(tmp_path), repair=True).train) == 1


@pytest.mark.unchecked
def test_what_is_none_and_what_cannot_be_written(tmp_path):
    with pytest.raises(BadData, match="expected pictures in images and PNG files in masks, labels or annotations"):
        open_data("semantic_png", path=str(tmp_path))
    image = torch.zeros(3, 4, 4)
    bad = [Sample(image=image), Sample(image=image, semantic=torch.full((4, 4), 256))]
    with pytest.raises(BadData, match="2 problems"):
        write({"train": bad}, tmp_path)
    assert not list(tmp_path.iterdir())
