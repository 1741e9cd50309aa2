"""Every network of the tables: names and shapes at full size on the meta device, outputs equal to the source's.

The files themselves are read in test_sources.py; here the tensors come from the source's network in memory.
"""

import pytest
import torch

from hub.checkpoints import assert_equal_outputs, lively
from oculi.backbones.convnext import ConvNeXt
from oculi.backbones.swin import Swin
from oculi.backbones.vgg import VGG
from oculi.backbones.vit import ViT
from oculi.hub import timm as timm_tables
from oculi.hub import torchvision as torchvision_tables
from oculi.hub.renames import Layout, fill, numbered
from oracles import timm, torchvision


def filled(layout, theirs, **arguments):
    ours = layout.system(**layout.arguments, **arguments).eval()
    tensors = theirs.state_dict()
    if layout.convert is not None:
        tensors = layout.convert(tensors)
    fill(ours, tensors, layout.rules_for(ours, tensors), "test")
    return ours


def of_torchvision(name, **options):
    return getattr(torchvision().models, name)(**({"init_weights": False} if name == "googlenet" else {}), **options)


@pytest.mark.parametrize("name", list(torchvision_tables.NETWORKS))
def test_every_torchvision_network_fits(name):
    with torch.device("meta"):
        filled(torchvision_tables.NETWORKS[name], of_torchvision(name))


LARGE = [  # the largest or the odd one of each family
    *("resnet152", "resnext101_64x4d", "densenet161", "seresnet101", "vgg19_bn", "mobilenetv2_140", "efficientnet_b5"),
    *("convnext_large", "swin_small_patch4_window7_224", "swin_base_patch4_window12_384", "deit_small_patch16_224"),
    *("vit_tiny_patch16_384", "vit_small_patch8_224", "vit_base_patch32_384", "vit_large_patch16_224"),
]


@pytest.mark.parametrize("name", LARGE)
def test_timm_networks_fit(name):
    size = name.rpartition("_")[2]
    with torch.device("meta"):
        theirs = timm().create_model(name, num_classes=1000)
        filled(timm_tables.NETWORKS[name], theirs, image_size=int(size) if size in ("224", "384") else 224)


def test_the_epsilon_of_the_largest_efficientnets_is_timm_s():
    for name, wanted in (("efficientnet_b5", 1e-5), ("tf_efficientnet_b5", 1e-3)):
        with torch.device("meta"):
            theirs, layout = timm().create_model(name), timm_tables.NETWORKS[name]
            ours = layout.system(**layout.arguments)
        assert theirs.bn1.eps == wanted
        assert ours.last[1].eps == 1e-5
        assert (layout.convert is None) == (wanted == 1e-5)


def test_every_network_of_timm_s_table_is_one_of_timm_s():
    assert set(timm_tables.NETWORKS) <= set(timm().list_models())


@pytest.mark.parametrize(
    "name",
    [
        "resnext50_32x4d",
        "googlenet",
        "densenet121",
        "mobilenet_v2",
        "efficientnet_b0",
        "squeezenet1_0",
        "squeezenet1_1",
    ],
)
def test_outputs_equal_torchvision(name):
    theirs = lively(of_torchvision(name, num_classes=7))
    assert_equal_outputs(filled(torchvision_tables.NETWORKS[name], theirs, num_classes=7), theirs)


@pytest.mark.parametrize(
    "name", ["seresnet50", "legacy_xception", "mobilenetv1_100", "mobilenetv2_050", "efficientnet_b0", "densenet121",
     "tf_efficientnet_b0"]
)  # fmt: skip
def test_outputs_equal_timm(name):
    theirs = lively(timm().create_model(name, num_classes=7))
    assert_equal_outputs(filled(timm_tables.NETWORKS[name], theirs, num_classes=7), theirs)


VGG_SIZES = [4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"]
SMALL_VGG = {"depths": [1, 1, 2, 2, 2], "width": 4}


@pytest.mark.parametrize("norm", [False, True])
def test_torchvision_vgg(norm):
    models = torchvision().models.vgg
    theirs = models.VGG(models.make_layers(VGG_SIZES, norm), num_classes=7, init_weights=False)
    for index, sizes in ((0, (32 * 49, 16)), (3, (16, 12)), (6, (12, 7))):
        theirs.classifier[index] = torch.nn.Linear(*sizes)
    layout = Layout(VGG, {**SMALL_VGG, "norm": norm, "hidden": [16, 12]}, torchvision_tables.vgg_rules)
    assert_equal_outputs(filled(layout, lively(theirs), num_classes=7), theirs)


def test_timm_vgg():
    timm()
    from timm.models.vgg import VGG as TheirVGG

    theirs = lively(TheirVGG(VGG_SIZES, num_classes=7))
    layout = Layout(VGG, SMALL_VGG, timm_tables.vgg_rules)
    assert_equal_outputs(filled(layout, theirs, num_classes=7), theirs)


def test_torchvision_alexnet():
    theirs = lively(of_torchvision("alexnet", num_classes=7))
    assert_equal_outputs(filled(torchvision_tables.NETWORKS["alexnet"], theirs, num_classes=7), theirs)


def test_torchvision_convnext():
    models = torchvision().models.convnext
    sizes = [(8, 12, 1), (12, 16, 2), (16, 20, 1), (20, None, 1)]
    theirs = lively(models.ConvNeXt([models.CNBlockConfig(*size) for size in sizes], num_classes=7))
    layout = Layout(ConvNeXt, {"depths": [1, 2, 1, 1], "widths": [8, 12, 16, 20]}, torchvision_tables.CONVNEXT)
    assert_equal_outputs(filled(layout, theirs, num_classes=7), theirs)


def test_timm_convnext():
    sizes = {"depths": [1, 2, 1, 1], "dims": [8, 12, 16, 20]}
    theirs = lively(timm().create_model("convnext_tiny", num_classes=7, **sizes))
    layout = Layout(ConvNeXt, {"depths": [1, 2, 1, 1], "widths": [8, 12, 16, 20]}, timm_tables.CONVNEXT)
    assert_equal_outputs(filled(layout, theirs, num_classes=7), theirs)


SWIN = {"width": 8, "depths": [2, 1, 2], "heads": [2, 4, 8], "window": 4}


def test_torchvision_swin():
    theirs = torchvision().models.SwinTransformer([4, 4], 8, [2, 1, 2], [2, 4, 8], [4, 4], num_classes=7)
    assert_equal_outputs(filled(Layout(Swin, SWIN, torchvision_tables.SWIN), lively(theirs), num_classes=7), theirs)


def test_timm_swin():
    sizes = {"embed_dim": 8, "depths": [2, 1, 2], "num_heads": [2, 4, 8], "window_size": 4, "img_size": 64}
    theirs = lively(timm().create_model("swin_tiny_patch4_window7_224", num_classes=7, **sizes))
    assert_equal_outputs(filled(Layout(Swin, SWIN, timm_tables.SWIN), theirs, num_classes=7), theirs)


def test_torchvision_vit_as_the_library_names_its_layers_today_and_as_its_published_files_do():
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 16, "mlp_dim": 64, "num_classes": 7}
    theirs = torchvision().models.VisionTransformer(image_size=32, patch_size=8, **sizes).eval()
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


def test_old_names_of_densenet():
    theirs = lively(of_torchvision("densenet121", num_classes=2))
    renamed = {
        name.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2."): value
        for name, value in theirs.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in renamed
    layout = torchvision_tables.NETWORKS["densenet121"]
    ours = layout.system(2).eval()
    fill(ours, renamed, layout.rules, "test")
    assert_equal_outputs(ours, theirs)


def test_published_names_sizes_and_statistics_are_torchvision_s_own():
    models = torchvision().models
    theirs = {
        weights.url.rpartition("/")[2]: weights.transforms()
        for name in models.list_models(module=models)
        for weights in models.get_model_weights(name)
    }
    for short, file in torchvision_tables.FILES.items():
        pictures = theirs[file.name]
        assert short.partition(".")[0] == file.network
        assert (pictures.crop_size, pictures.resize_size) == ([file.size], [file.resize]), file
        assert (pictures.mean, pictures.std) == (torchvision_tables.MEAN, torchvision_tables.STD), file
    assert set(torchvision_tables.NETWORKS) == {file.network for file in torchvision_tables.FILES.values()}


def test_blocks_are_counted_by_their_numbers():
    assert numbered(["f.10.2.w", "f.9.1.w", "f.10.1.b", "f.10.1.w", "g.1.1"], "f.#.#") == ["f.9.1", "f.10.1", "f.10.2"]
