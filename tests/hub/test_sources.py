"""Each source proven: the oracle writes random weights in its own format, ours loads them and gives its outputs."""

import pytest
import torch

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
from oculi.hub import timm as timm_tables
from oculi.hub import torchvision as torchvision_tables
from oculi.hub.renames import fill
from oracles import timm, torchvision


def test_timm_resnet(tmp_path):
    theirs = write_timm(tmp_path, "resnet50")
    ours = oculi.load(tmp_path)
    assert isinstance(ours, ResNet)
    assert not ours.training
    assert_equal_outputs(ours, theirs)
    contract = ours.contract
    assert (contract.height, contract.width, contract.resize, contract.crop_fraction) == (224, 224, "crop", 0.95)
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


def test_transformers_bare_vit_gives_the_class_token(tmp_path):
    from transformers import ViTModel

    theirs = write_transformers(tmp_path, ViTModel(small_vit()), VIT_PREPROCESSOR)
    ours = oculi.load(tmp_path)
    assert_equal_outputs(ours, lambda image: theirs(image).last_hidden_state[:, 0], 32)


def test_torchvision_resnet(tmp_path):
    theirs = write_torchvision(tmp_path / "resnet18.pth", "resnet18", num_classes=7)
    ours = oculi.load(tmp_path / "resnet18.pth")
    assert_equal_outputs(ours, theirs)
    assert (ours.contract.height, ours.contract.crop_fraction) == (224, 0.875)
    assert ours.config["num_classes"] == 7


def test_torchvision_vit(tmp_path):
    """At a small size, by the table alone; as the library names its layers today and as its published files do."""
    module = torchvision().models
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 16, "mlp_dim": 64, "num_classes": 7}
    theirs = module.VisionTransformer(image_size=32, patch_size=8, **sizes).eval()
    torch.nn.init.normal_(theirs.heads.head.weight)
    torch.nn.init.normal_(theirs.class_token)
    published = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for name, value in theirs.state_dict().items()
    }
    for tensors in (theirs.state_dict(), published):
        ours = ViT(7, 32, 8, 16, 2, 4).eval()
        fill(ours, tensors, torchvision_tables.VIT, "test")
        assert_equal_outputs(ours, theirs, 32)


def test_a_loaded_system_is_saved_and_loaded_like_any_other(tmp_path):
    theirs = write_timm(tmp_path / "theirs", "resnet18")
    oculi.save(oculi.load(tmp_path / "theirs"), tmp_path / "ours")
    again = oculi.load(tmp_path / "ours")
    assert_equal_outputs(again, theirs)
    assert again.contract.crop_fraction == 0.95


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


@pytest.mark.parametrize("name", list(torchvision_tables.NETWORKS))
def test_every_torchvision_network_in_the_table_fits(name):
    assert_fits(torchvision_tables.NETWORKS[name], lambda: getattr(torchvision().models, name)(), {})


KNOWN_TO_TIMM = [
    name for name in timm_tables.NETWORKS if name.startswith("resnet") or name in ("vit_base_patch16_224",)
]


@pytest.mark.parametrize("name", KNOWN_TO_TIMM)
def test_timm_networks_in_the_table_fit(name):
    assert_fits(timm_tables.NETWORKS[name], lambda: timm().create_model(name), {})


def assert_fits(layout, make, arguments):
    """Names and shapes at full size, without memory: all on the meta device."""
    with torch.device("meta"):
        theirs, ours = make(), layout.system(**layout.arguments, **arguments)
    fill(ours, theirs.state_dict(), layout.rules, "test")


def test_published_names_of_torchvision_are_the_library_s_own():
    module = torchvision()
    urls = {
        weights.url.rpartition("/")[2]
        for name in module.models.list_models(module=module.models)
        for weights in module.models.get_model_weights(name)
    }
    assert {file.name for file in torchvision_tables.FILES.values()} <= urls
    sizes = {
        weights.url.rpartition("/")[2]: (weights.transforms().crop_size, weights.transforms().resize_size)
        for name in module.models.list_models(module=module.models)
        for weights in module.models.get_model_weights(name)
    }
    for file in torchvision_tables.FILES.values():
        assert sizes[file.name] == ([file.size], [file.resize]), file
