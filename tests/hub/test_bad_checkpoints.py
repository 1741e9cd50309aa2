"""What does not fit is one BadCheckpoint that names the file, the tensor or the setting, and what was expected."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import oculi
from hub.checkpoints import CONVNEXT_PREPROCESSOR, VIT_PREPROCESSOR, edit
from oculi.backbones.resnet import ResNet
from oculi.hub import timm, torchvision
from oculi.hub.renames import Layout, fill, translate
from oculi.input_contract import InputContract
from oculi.system import BadCheckpoint

THEIRS = [("stem.0.", "conv1."), ("stem.1.", "bn1."), ("head.", "fc.")]
THEIRS += [
    (f"stages.0.0.convs.{i}.{j}.", f"layer1.0.{kind}{i + 1}.") for i in (0, 1) for j, kind in enumerate(("conv", "bn"))
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint in timm's format, of a network so small that it is quickly written."""
    small = Layout(ResNet, {"depths": [1], "width": 4}, torchvision.RESNET)
    monkeypatch.setattr(timm, "NETWORKS", {"resnet18": small})
    tensors = {name: value for name, value in ResNet(2, [1], width=4).state_dict().items() if "pixel" not in name}
    for ours, theirs in THEIRS:
        tensors = {name.replace(ours, theirs): value for name, value in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    pictures = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": pictures}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert oculi.load(tmp_path).config["num_classes"] == 2
    return tmp_path


def change(folder, edited):
    tensors = load_file(folder / "model.safetensors")
    edited(tensors)
    save_file(tensors, folder / "model.safetensors")


def rename(tensors):
    tensors["layer5.weight"] = tensors.pop("layer1.0.conv1.weight")


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def settings(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    edit(folder, pretrained_cfg={**config["pretrained_cfg"], **changes})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: change(folder, rename),
            r"the weights do not fit ResNet: surplus: layer5.weight \[4, 4, 3, 3\]; "
            r"missing: stages.0.0.convs.0.0.weight \[4, 4, 3, 3\]$",
        ),
        (
            lambda folder: change(folder, lambda tensors: tensors.update({"fc.weight": torch.zeros(3, 4)})),
            r"wrong shape: fc.weight: expected \[2, 4\], got \[3, 4\]$",
        ),
        (
            lambda folder: edit(folder, num_classes=5),
            r"wrong shape: fc.bias: expected \[5\], got \[2\], fc.weight: expected \[5, 4\], got \[2, 4\]$",
        ),
        (lambda folder: change(folder, dict.clear), r"missing: stem.0.weight \[4, 3, 7, 7\], .* and \d+ more$"),
        (truncate, r"model.safetensors: broken weights"),
        (lambda folder: (folder / "model.safetensors").unlink(), "expected model.safetensors or pytorch_model.bin"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: expected an object, got list"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (
            lambda folder: edit(folder, architecture="resnet19"),
            "architecture: expected one of resnet18, ...; got resnet19",
        ),
        (lambda folder: edit(folder, pretrained_cfg=None), "configuration: KeyError: 'pretrained_cfg'"),
        (lambda folder: edit(folder, model_args={"stem_type": "deep"}), "model_args: stem_type cannot be set"),
        (lambda folder: edit(folder, global_pool="max"), "global_pool: expected avg, got max"),
        (lambda folder: settings(folder, mean=[0.5]), r"mean: expected 3 numbers, got \[0.5\]"),
        (lambda folder: settings(folder, label_names=["cat"]), "class names: expected 2, got 1"),
        (lambda folder: settings(folder, crop_pct=2.0), "crop_fraction: expected more than 0 and at most 1, got 2.0"),
        (lambda folder: edit(folder, model_type="bert", architecture=None), "preprocessor_config.json is missing"),
    ],
)
def test_broken_folders(folder, damage, message):
    damage(folder)
    with pytest.raises(BadCheckpoint, match=message):
        oculi.load(folder)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("config", "preprocessor", "message"),
    [
        ({"model_type": "bert"}, {}, "model_type: expected one of .*detr.*; got bert"),
        ({"model_type": ["vit"]}, {}, "model_type: expected one of .*vit.*; got"),
        (
            {"model_type": "resnet", "depths": [1], "hidden_sizes": [7]},
            {},
            r"hidden_sizes: expected \[256\], got \[7\]",
        ),
        ({"model_type": "vit", "hidden_act": "relu"}, {}, "hidden_act: expected 'gelu', got 'relu'"),
        ({"model_type": "vit"}, {}, "configuration: KeyError: 'size'"),
        ({"model_type": "vit"}, {**VIT_PREPROCESSOR, "size": {"longest_edge": 9}}, "size: expected height and width"),
        ({"model_type": "vit"}, {**CONVNEXT_PREPROCESSOR, "image_std": None}, "std: expected 3 numbers, got None"),
        ({"model_type": "vit", "patch_size": 5}, VIT_PREPROCESSOR, "ViT cannot be built: patch: expected a divisor"),
    ],
)
def test_transformers_configurations(tmp_path, config, preprocessor, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=message):
        oculi.load(tmp_path)


class Stranger(nn.Module):
    """What only an unsafe reader would build."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Stranger(), "not a plain state dict"),
        ({"weight": "text"}, "expected a dictionary of tensors"),
        ([torch.zeros(1)], "expected a dictionary of tensors, got list"),
        ({}, "configuration: ValueError"),
    ],
)
def test_the_reader_of_pth_takes_tensors_alone(tmp_path, content, message):
    torch.save(content, tmp_path / "resnet18.pth")
    with pytest.raises(BadCheckpoint, match=message):
        oculi.load(tmp_path / "resnet18.pth")


def test_other_broken_files(tmp_path):
    for content in (b"", b"text", b"PK\x03\x04"):
        (tmp_path / "resnet18.pth").write_bytes(content)
        with pytest.raises(BadCheckpoint, match=r"resnet18.pth: (not a plain state dict|broken weights) \(.+\)"):
            oculi.load(tmp_path / "resnet18.pth")
    (tmp_path / "mine.pth").write_bytes(b"")
    with pytest.raises(
        BadCheckpoint, match=r"mine.pth: the name has to begin with a network's: expected one of .*; got mine"
    ):
        oculi.load(tmp_path / "mine.pth")
    torch.save({}, tmp_path / "resnet18-12345678.pth")
    with pytest.raises(BadCheckpoint, match="expected a SHA-256 that begins with 12345678"):
        oculi.load(tmp_path / "resnet18-12345678.pth")


def test_rules_read_as_documented():
    rules = {"a#.*.weight": "<1-1>.<2>.w", "a#.*": None, "q": ("x", "y"), "k": "z 1/2", "a.b": "dot"}
    assert translate("a12.b.3.weight", rules) == ("11.b.3.w",)
    assert translate("a12.bias", rules) == ()
    assert translate("q", rules) == ("x", "y")
    assert translate("k", rules) == ("z 1/2",)
    assert translate("a.b", rules) == ("dot",)
    assert translate("axb", rules) is None


def test_nothing_is_copied_where_something_does_not_fit():
    ours = ResNet(2, [1], width=4)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    tensors = {name: value + 1 for name, value in ours.state_dict().items() if not name.startswith("pixel")}
    tensors["head.weight"] = torch.zeros(3, 4)
    with pytest.raises(BadCheckpoint, match=r"test: .*wrong shape: head.weight"):
        fill(ours, tensors, {"*": "<1>"}, "test")
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_two_tensors_for_one_place_are_surplus():
    ours = ResNet(2, [1], width=4)
    tensors = {f"{prefix}stem.0.weight": torch.zeros(4, 3, 7, 7) for prefix in "xy"}
    with pytest.raises(
        BadCheckpoint, match=r"surplus: ystem.0.weight \[4, 3, 7, 7\] \(as well as xstem.0.weight\); missing"
    ):
        fill(ours, tensors, {"x*": "<1>", "y*": "<1>"}, "test")


def test_a_centre_crop_keeps_its_part_of_the_shorter_side():
    contract = InputContract(224, 224, resize="crop", crop_fraction=0.875)
    picture = torch.zeros(3, 512, 1024, dtype=torch.uint8)
    picture[:, 32:480, 288:736] = 255  # the central 448 of 512 pixels
    prepared = contract.prepare(picture)
    assert prepared[:, 1:-1, 1:-1].min() == 1
    assert contract.scale(512, 1024) == (0.5, 0.5, -144.0, -16.0)
    with pytest.raises(ValueError, match="crop_fraction: expected more than 0"):
        InputContract(8, 8, crop_fraction=0.0)
