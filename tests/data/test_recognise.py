"""What lies at a path is recognised, converted, and trained on from the command line."""

import json

import pytest
import torch
from PIL import Image

from oculi import catalogue
from oculi.cli import main
from oculi.data.conversion import FORMATS, convert, write
from oculi.data.recognise import recognise
from oculi.data.sources import BadData, open_data
from oculi.learn.own_data import fields_read, on_own_data


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """World scenes in every format."""
    root = tmp_path_factory.mktemp("formats")
    scenes = open_data(
        "world", size=32, train=6, validation=3, test=3, task="detection", fields=["semantic", "panoptic"]
    )
    parts = {"train": scenes.train, "val": scenes.validation, "test": scenes.test}
    for name in FORMATS:
        with_ground = name in ("semantic_png", "panoptic_png")
        names = ["background"] * with_ground + list(scenes.class_names)
        write(parts, root / name, name, names)
    for k in range(12):
        folder = root / "folder" / ("bright" if k % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), (200 * (k % 2), k, 0)).save(folder / f"{k}.jpg")
    return root


@pytest.mark.parametrize("name", [*FORMATS, "folder"])
def test_each_format_is_recognised_by_what_lies_there(places, name):
    assert recognise(places / name) == {"name": name, "path": str(places / name)}
    splits = open_data(**recognise(places / name))
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 12


def test_files_are_recognised_too(places):
    assert recognise(places / "coco/annotations/instances_train.json")["name"] == "coco"
    assert recognise(places / "panoptic_png/annotations/panoptic_train.json")["name"] == "panoptic_png"
    assert recognise(places / "yolo/data.yaml")["name"] == "yolo"


def test_what_the_system_reads_is_read(places):
    assert recognise(places / "coco", {"boxes", "masks"})["masks"]
    assert recognise(places / "yolo", {"semantic"}) | {"path": ""} == {
        "name": "yolo", "path": "", "masks": True, "semantic": True,
    }  # fmt: skip
    assert recognise(places / "voc", {"semantic"}) | {"path": ""} == {"name": "voc", "path": "", "semantic": True}
    objects = recognise(places / "coco", {"boxes", "semantic", "panoptic"})
    assert open_data(**objects).class_names == ["sphere", "box", "cylinder", "cone", "torus"]
    with pytest.raises(BadData, match="recognised as semantic_png; it holds semantic, but boxes"):
        recognise(places / "semantic_png", {"boxes"})
    assert fields_read(catalogue.recipe("resnet")) == {"label"}
    assert fields_read(catalogue.recipe("faster_rcnn")) == {"boxes"}
    assert fields_read(catalogue.recipe("unet")) == {"semantic"}


def test_what_is_none_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(BadData) as caught:
        recognise(tmp_path)
    for words in ("not recognised", "COCO", "VOC", "YOLO", "a folder of pictures per class", "PNG"):
        assert words in str(caught.value)
    with pytest.raises(BadData, match="no such file or folder"):
        recognise(tmp_path / "nowhere")


@pytest.mark.parametrize("there", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("back", ["coco", "voc", "yolo"])
def test_from_one_to_another_nothing_but_what_is_said_is_lost(places, tmp_path, there, back):
    count, lost = convert(places / there, tmp_path / "new", back)
    assert count == 12
    assert all(line.startswith("keypoints: none") for line in lost), lost
    first, second = (open_data(**recognise(p, {"boxes", "masks"})) for p in (places / there, tmp_path / "new"))
    assert first.class_names == second.class_names
    for one, two in ((first.train, second.train), (first.test, second.test)):
        found = {two[i].id: two[i] for i in range(len(two))}
        for sample in (one[i] for i in range(len(one))):
            for name in ("image", "boxes", "labels", "masks"):
                assert torch.equal(getattr(sample, name), getattr(found[sample.id], name)), name


def test_maps_from_objects(places, tmp_path):
    convert(places / "coco", tmp_path / "maps", "semantic_png")
    splits, truth = open_data(**recognise(tmp_path / "maps")), open_data(**recognise(places / "semantic_png"))
    assert splits.class_names == truth.class_names
    assert torch.equal(splits.train[0].semantic, truth.train[0].semantic)


def test_the_verb_tells_what_is_lost(places, tmp_path, capsys):
    assert main(["convert", str(places / "coco"), str(tmp_path / "new"), "--to", "yolo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 12
    assert main(["convert", str(places / "coco"), str(tmp_path / "new"), "--to", "yolo"]) == 2
    assert "expected a new or an empty folder" in capsys.readouterr().err
    assert main(["convert", str(places / "coco"), str(tmp_path / "other"), "--to", "yola"]) == 2
    assert "did you mean yolo" in capsys.readouterr().err


SMALL = [
    "--arguments.depths", "[1,1]", "--arguments.width", "4", "--arguments.channels", "4", "--arguments.hidden", "8",
    "--arguments.proposals", "16", "--arguments.anchors", "[8,16]",
]  # fmt: skip


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_a_newcomer_trains_a_detector(places, tmp_path, capsys, name):
    run = str(tmp_path / "run")
    words = ["train", "faster_rcnn", "--data", str(places / name), "--folder", run, "--json", *SMALL]
    assert main([*words, "--training.steps", "2", "--training.batch_size", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == run
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["class_names"] == ["sphere", "box", "cylinder", "cone", "torus"]
    assert config["arguments"]["image_size"] == 32
    assert main(["evaluate", run, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["evaluate", run, "--data", str(places / name), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    pictures = places / "coco" / "test"
    assert main(["predict", run, str(pictures), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


@pytest.mark.parametrize(("system", "name"), [("unet", "coco"), ("unet", "semantic_png"), ("resnet", "folder")])
def test_other_systems_take_other_data(places, tmp_path, capsys, system, name):
    run = tmp_path / "run"
    words = ["train", system, "--data", str(places / name), "--folder", str(run), "--json", "--arguments.width", "4"]
    assert main([*words, "--training.steps", "2", "--training.batch_size", "2"]) == 0
    config = json.loads((run / "config.json").read_text())
    assert config["arguments"]["num_classes"] == (2 if name == "folder" else 6)
    assert config["class_names"][0] == ("bright" if name == "folder" else "background")


def test_other_classes_are_refused(places, tmp_path, capsys):
    overrides, splits = on_own_data(catalogue.recipe("faster_rcnn"), str(places / "coco"), {})
    assert overrides["arguments.anchors"] == [6, 10, 16]  # half the recipe's, as the pictures
    assert overrides["arguments.num_classes"] == 5
    assert len(splits.train) == 6
    assert main(["train", "faster_rcnn", "--data", str(places / "semantic_png")]) == 2
    assert "boxes is what the system learns from" in capsys.readouterr().err
    assert main(["train", "faster_rcnn", "--data", "digitz"]) == 2
    assert "neither a file nor a folder, and no source; did you mean digits?" in capsys.readouterr().err
    assert main(["train", "faster_rcnn", "--data", str(tmp_path)]) == 2
    assert "not recognised" in capsys.readouterr().err


def test_pictures_of_a_folder_are_checked(places, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{k}.png")
    (tmp_path / "a/0.png").write_text("no picture")
    with pytest.raises(BadData, match="pictures that cannot be read"):
        open_data("folder", path=str(tmp_path))
    splits = open_data("folder", path=str(tmp_path), repair=True)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 9
