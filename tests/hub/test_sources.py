"""Each source proven: the oracle writes random weights in its own format, ours loads them and gives its outputs."""

import json

import pytest
import torch
from PIL import Image
from skimage import data

import oculi
from hub.checkpoints import (
    CONVNEXT_PREPROCESSOR,
    VIT_PREPROCESSOR,
    assert_equal_outputs,
    edit,
    write_timm,
    write_torchvision,
    write_transformers,
)
from oculi.backbones.resnet import ResNet
from oculi.backbones.vit import ViT
from oculi.hub.timm import describe as describe_timm
from oculi.hub.transformers import _contract
from oracles import timm


def test_timm_resnet(tmp_path):
    theirs = write_timm(tmp_path, "resnet50")
    ours = oculi.load(tmp_path)
    assert isinstance(ours, ResNet)
    assert not ours.training
    assert_equal_outputs(ours, theirs)
    contract = ours.contract
    assert (contract.height, contract.width, contract.resize) == (224, 224, "crop")
    assert contract.crop_fraction == 224 / 235
    torch.testing.assert_close(ours.pixel_mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(ours.pixel_std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    assert ours.config["num_classes"] == 7


@pytest.mark.parametrize("classes", [7, 0])
def test_timm_vit(tmp_path, classes):
    theirs = write_timm(tmp_path, "vit_tiny_patch16_224", size=32, num_classes=classes)
    ours = oculi.load(tmp_path)
    assert isinstance(ours, ViT)
    assert_equal_outputs(ours, theirs, 32)
    assert ours.pixel_mean.unique().tolist() == [0.5]
    assert ours.contract.height == ours.config["image_size"] == 32


@pytest.mark.parametrize(
    ("kind", "sizes"), [("basic", [8, 16, 32, 64]), ("bottleneck", [32, 64, 128, 256])], ids=["basic", "bottleneck"]
)
def test_transformers_resnet(tmp_path, kind, sizes):
    from transformers import ResNetConfig, ResNetForImageClassification

    names = {0: "cat", 1: "dog", 2: "rat"}
    config = ResNetConfig(depths=[1, 2, 1, 1], hidden_sizes=sizes, embedding_size=8, layer_type=kind, id2label=names)
    theirs = write_transformers(tmp_path, ResNetForImageClassification(config), CONVNEXT_PREPROCESSOR)
    ours = oculi.load(tmp_path)
    assert_equal_outputs(ours, theirs)
    assert ours.class_names == ["cat", "dog", "rat"]
    assert (ours.contract.height, ours.contract.resize, ours.contract.crop_fraction) == (224, "crop", 0.875)


def small_vit(**options):
    from transformers import ViTConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    return ViTConfig(**sizes, image_size=32, patch_size=8, **options)


def test_transformers_vit(tmp_path):
    from transformers import ViTForImageClassification

    theirs = write_transformers(tmp_path, ViTForImageClassification(small_vit(num_labels=3)), VIT_PREPROCESSOR)
    ours = oculi.load(tmp_path)
    assert_equal_outputs(ours, theirs, 32)
    assert ours.class_names is None, "LABEL_0 is no name"
    assert (ours.contract.height, ours.contract.resize) == (32, "stretch")
    assert ours.config["eps"] == 1e-12
    edit(tmp_path, id2label={"2": "cat", "0": 0, "1": "dog"})
    assert oculi.load(tmp_path).class_names == ["0", "dog", "cat"]


def test_transformers_bare_vit_gives_the_class_token(tmp_path):
    from transformers import ViTModel

    theirs = write_transformers(tmp_path, ViTModel(small_vit()), VIT_PREPROCESSOR)
    ours = oculi.load(tmp_path)
    assert_equal_outputs(ours, lambda image: theirs(image).last_hidden_state[:, 0], 32)


def test_transformers_convnext(tmp_path):
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(depths=[1, 2, 1, 1], hidden_sizes=[8, 12, 16, 20], num_labels=3)
    theirs = write_transformers(tmp_path, ConvNextForImageClassification(config), CONVNEXT_PREPROCESSOR)
    assert_equal_outputs(oculi.load(tmp_path), theirs)


def test_transformers_swin(tmp_path):
    from transformers import SwinConfig, SwinForImageClassification

    sizes = {"embed_dim": 8, "depths": [2, 1, 2], "num_heads": [2, 4, 8], "window_size": 4}
    theirs = SwinForImageClassification(SwinConfig(image_size=64, num_labels=3, **sizes))
    preprocessor = {**VIT_PREPROCESSOR, "size": {"height": 64, "width": 64}}
    write_transformers(tmp_path, theirs, preprocessor)
    ours = oculi.load(tmp_path)
    assert_equal_outputs(ours, theirs)
    assert ours.config["image_size"] == 64


def loud(network):
    """Weights that carry the picture to the end; transformers' own are so small that only biases would be seen."""
    for value in network.parameters():
        if value.dim() > 1:
            torch.nn.init.kaiming_normal_(value)
    return network


@pytest.mark.parametrize("size", [64, 70])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_transformers_mobilenets(tmp_path, version, bare, size):
    import transformers

    kind = f"MobileNetV{version}"
    config = getattr(transformers, f"{kind}Config")(depth_multiplier=0.5, num_labels=3)
    theirs = loud(getattr(transformers, f"{kind}Model" if bare else f"{kind}ForImageClassification")(config))
    write_transformers(tmp_path, theirs, {**VIT_PREPROCESSOR, "size": {"shortest_edge": 256}})
    ours = oculi.load(tmp_path)
    assert ours.config["same_padding"]
    assert_equal_outputs(ours, (lambda image: theirs(image).pooler_output) if bare else theirs, size)


def test_transformers_efficientnet(tmp_path):
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(width_coefficient=1.1, depth_coefficient=0.5, hidden_dim=1408, num_labels=3)
    std = [0.47853944, 0.4732864, 0.47434163]
    preprocessor = {**VIT_PREPROCESSOR, "resample": 0, "image_std": std, "include_top": True}
    theirs = EfficientNetForImageClassification(config)
    write_transformers(tmp_path, loud(theirs), preprocessor)
    ours = oculi.load(tmp_path)
    assert_equal_outputs(ours, theirs, 64)
    torch.testing.assert_close(ours.pixel_std.flatten(), torch.tensor([0.229, 0.224, 0.225]), rtol=1e-5, atol=0)
    oculi.save(ours, tmp_path / "ours")
    assert_equal_outputs(oculi.load(tmp_path / "ours"), theirs, 64)


def test_torchvision_resnet(tmp_path):
    theirs = write_torchvision(tmp_path / "resnet18.pth", "resnet18", num_classes=7)
    ours = oculi.load(tmp_path / "resnet18.pth")
    assert_equal_outputs(ours, theirs)
    assert (ours.contract.height, ours.contract.crop_fraction) == (224, 0.875)
    assert ours.config["num_classes"] == 7


def test_a_loaded_system_is_saved_and_loaded_like_any_other(tmp_path):
    theirs = write_timm(tmp_path / "theirs", "resnet18")
    oculi.save(oculi.load(tmp_path / "theirs"), tmp_path / "ours")
    again = oculi.load(tmp_path / "ours")
    assert_equal_outputs(again, theirs)
    assert again.contract.crop_fraction == 224 / 235


def test_files_without_the_batch_counters_load(tmp_path):
    """Published files that are older than torch 0.4.1 lack them."""
    theirs = write_torchvision(tmp_path / "resnet18.pth", "resnet18", num_classes=2)
    tensors = {k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(tensors, tmp_path / "resnet18.pth", _use_new_zipfile_serialization=False)
    assert_equal_outputs(oculi.load(tmp_path / "resnet18.pth"), theirs)


def test_pictures_of_a_pretrained_bin(tmp_path):
    """Old repositories hold `pytorch_model.bin`, read by torch's restricted reader."""
    theirs = write_timm(tmp_path, "resnet18")
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    edit(tmp_path, architecture="resnet18")
    assert_equal_outputs(oculi.load(tmp_path), theirs)


LEVELS = 2.01  # of 255: Pillow and torch round in both of two passes; one level at most where pictures shrink
PHOTOGRAPHS = pytest.mark.parametrize(("height", "width"), [(151, 203), (300, 451), (224, 224), (260, 97)])


def photograph(height, width):
    return Image.fromarray(data.astronaut()[60 : 60 + height, 20 : 20 + width])


@PHOTOGRAPHS
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "vgg11"])  # bicubic 0.95, bicubic 0.875, bilinear
def test_pictures_are_prepared_as_timm_does(name, height, width):
    library = timm()
    settings = json.loads(json.dumps(library.create_model(name, num_classes=0, pretrained=False).pretrained_cfg))
    transform = library.data.create_transform(**library.data.resolve_data_config(settings))
    described = describe_timm({"architecture": name, "num_classes": 0, "pretrained_cfg": settings}, {}, name)
    assert described.contract.interpolation == settings["interpolation"]
    mean, std = (torch.tensor(settings[key])[:, None, None] for key in ("mean", "std"))
    expected = transform(photograph(height, width)) * std + mean
    difference = described.contract.prepare(photograph(height, width)) - expected
    assert float(difference.abs().max()) * 255 < LEVELS
    assert float((difference.abs() * 255 > 0.5).float().mean()) < 0.02


@PHOTOGRAPHS
def test_pictures_are_prepared_as_transformers_does(height, width):
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    settings = {key: value for key, value in CONVNEXT_PREPROCESSOR.items() if key != "feature_extractor_type"}
    processor = ConvNextImageProcessorPil(**settings, do_rescale=True)
    expected = processor(photograph(height, width), return_tensors="np", do_normalize=False)["pixel_values"][0]
    found = _contract(CONVNEXT_PREPROCESSOR, 3, "").prepare(photograph(height, width))
    assert abs(found.numpy() - expected).max() * 255 < LEVELS
