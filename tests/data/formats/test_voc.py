"""VOC folders: World scenes written and read back, what is lost is said, everything wrong in one report."""

import pytest
import torch
from PIL import Image

from oculi.data.datasets import batches
from oculi.data.formats.label_maps import palette, read_map
from oculi.data.formats.voc import NAMES, find, read_xml, write
from oculi.data.sources import BadData, open_data
from oculi.types import Sample


@pytest.fixture(scope="module")
def scenes():
    return open_data("world", size=32, train=6, validation=3, test=3, fields=["semantic"])


def test_world_scenes_come_back_exactly(scenes, tmp_path):
    lost = write({"train": scenes.train, "val": scenes.validation, "test": scenes.test}, tmp_path, scenes.class_names)
    assert [line.partition(",")[0] for line in lost] == ["caption", "facts"]
    back = open_data("voc", path=str(tmp_path), masks=True, semantic=True)
    assert back.class_names == ["background", *scenes.class_names]
    for part in ("train", "validation", "test"):
        assert len(getattr(back, part)) == len(getattr(scenes, part))
        for one, two in zip(getattr(scenes, part), getattr(back, part), strict=False):
            for name in ("image", "boxes", "labels", "masks", "semantic"):
                assert torch.equal(getattr(one, name), getattr(two, name)), name
            assert one.id == two.id
    assert next(batches(back.train, 6)).crowd is None
    assert open_data("voc", path=str(tmp_path)).train[0].masks is None


def test_what_is_lost_is_said(tmp_path):
    image = torch.full((3, 10, 12), 0.3)
    masks = torch.zeros(2, 10, 12, dtype=torch.bool)
    masks[0, 2:8, 2:8] = masks[1, 3:5, 3:5] = True
    boxes = torch.tensor([[2.2, 2.0, 8.0, 7.7], [3, 3, 5, 5]])
    sample = Sample(
        image=image, boxes=boxes, labels=torch.tensor([0, 1]), masks=masks, crowd=torch.tensor([False, True]),
        keypoints=torch.zeros(2, 1, 3), id="a/b",
    )  # fmt: skip
    lost = "\n".join(write({"train": [sample]}, tmp_path, ["cat", "dog"]))
    for words in (
        "ids that are no file names: a/b", "keypoints, which this format does not hold", "rounded to 8 bits",
        "rounded to whole pixels: a_b.png object 1", "written as difficult objects: a_b.png object 2", "lie over each",
    ):  # fmt: skip
        assert words in lost, words
    objects = read_map(tmp_path / "SegmentationObject" / "a_b.png")
    assert objects.flatten().bincount().tolist() == [84, 32, 4]


def xml(objects="", width=12, height=10):
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


def thing(name="cat", box=(3, 3, 6, 6), difficult="0"):
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


@pytest.fixture
def place(tmp_path):
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)

    def put(**annotations):
        for name, content in annotations.items():
            Image.new("RGB", (12, 10)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
            (tmp_path / "Annotations" / f"{name}.xml").write_text(content)
        return str(tmp_path)

    return put


def test_the_folder_may_lie_below(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        for name in ("JPEGImages", "Annotations"):
            (tmp_path / "VOCdevkit" / year / name).mkdir(parents=True)
        if year == "VOC2007":
            assert find(tmp_path) == tmp_path / "VOCdevkit" / year
    with pytest.raises(BadData, match="expected one folder"):
        find(tmp_path)


def test_pixels_are_counted_from_one_and_names_are_vocs(place, tmp_path):
    path = place(a=xml(thing(box=(1, 1, 12, 10)) + thing("dog", (3, 4, 3, 4), "1")), b=xml(thing()), c=xml())
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("b -1\nc 1\n")
    splits = open_data("voc", path=path)
    assert splits.class_names == NAMES
    assert splits.train[0].boxes.tolist() == [[0, 0, 12, 10]]
    assert splits.train.part([0])[0].crowd.tolist() == [False, True]
    assert splits.train.part([0])[0].boxes[1].tolist() == [2, 3, 3, 4]
    assert splits.validation[1].boxes.shape == (0, 4)
    assert len(splits.test) == 2


def test_everything_wrong_is_named_in_one_report(place, tmp_path):
    bad = [
        thing(), thing(), thing(box=(6, 3, 3, 6)), thing(box=(3, 3, "x", 6)), thing(box=(-9, 3, 3, 6)), thing(""),
        thing(difficult="maybe"), thing(box=(3, 3, "nan", 6)),
    ]  # fmt: skip
    bomb = '<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    path = place(a=xml("".join(bad)), bomb=bomb, broken="<annotation>", size=xml(width=13), gone=xml(), b=xml(thing()))
    (tmp_path / "JPEGImages/gone.jpg").unlink()
    (tmp_path / "JPEGImages/a.png").write_bytes((tmp_path / "JPEGImages/a.jpg").read_bytes())
    (tmp_path / "JPEGImages/b.jpg").write_text("no picture")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\na\nbomb\nbroken\nsize\ngone\n../../x\nb\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("a\nnowhere\n")
    with pytest.raises(BadData) as caught:
        open_data("voc", path=path)
    report = str(caught.value)
    for words in (
        "problems", "listed twice in train.txt: a", "listed in two splits: a", "nowhere.xml", "x.xml",
        "declaration is refused",
        "not valid XML", "one name and two endings: a", "another size than the file says", "pictures that are not on disk",
        "met before: a object 2", "no or negative width or height: a object 3", "four finite numbers: a object 4, a object 8",
        "outside the picture: a object 5", "of an unknown class: a object 6", "neither 0 nor 1: a object 7", "cannot be read",
        "repair",
    ):  # fmt: skip
        assert words in report, words
    splits = open_data("voc", path=path, repair=True)
    assert len(splits.train) == 1
    assert splits.train[0].boxes.tolist() == [[2, 2, 6, 6]]
    assert len(splits.train.left_out) >= 14


def test_masks_are_checked_too(scenes, tmp_path):
    write({"train": scenes.train, "val": scenes.validation}, tmp_path, scenes.class_names)
    first, second, third, *_ = sorted((tmp_path / "SegmentationClass").glob("*.png"))
    Image.new("L", (32, 31)).save(first)
    Image.new("L", (32, 32), 9).save(second)
    third.unlink()
    with pytest.raises(BadData) as caught:
        open_data("voc", path=str(tmp_path), semantic=True)
    for words in (
        "3 problems",
        "masks of another size",
        "masks with a number that nothing has",
        "masks that are not on disk",
    ):
        assert words in str(caught.value)
    assert open_data("voc", path=str(tmp_path), semantic=True, repair=True).train[0].semantic is not None


def test_what_is_no_voc_folder(tmp_path):
    with pytest.raises(BadData, match="expected the folders JPEGImages and Annotations"):
        open_data("voc", path=str(tmp_path))
    with pytest.raises(ValueError, match="not valid XML"):
        read_xml(b"")
    assert palette().shape == (256, 3)
