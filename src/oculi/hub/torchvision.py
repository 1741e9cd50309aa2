r"""torchvision's published files (https://download.pytorch.org/models): state dicts whose names end in a hash.

`torchvision/resnet50` is the file of the original training, `torchvision/resnet50.v2` the later recipe's. All were
trained on ImageNet's 1000 classes; a file of your own with another head loads from its path, the classes counted there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from oculi.backbones.alexnet import AlexNet
from oculi.backbones.convnext import ConvNeXt
from oculi.backbones.densenet import DenseNet
from oculi.backbones.efficientnet import VARIANTS, EfficientNet
from oculi.backbones.googlenet import GoogLeNet
from oculi.backbones.mobilenet_v2 import MobileNetV2
from oculi.backbones.resnet import ResNet
from oculi.backbones.resnext import ResNeXt
from oculi.backbones.squeezenet import SqueezeNet
from oculi.backbones.swin import Swin
from oculi.backbones.vgg import VGG
from oculi.backbones.vit import ViT
from oculi.hub.renames import Description, Layout, Rules, nearest, numbered
from oculi.input_contract import InputContract
from oculi.system import BadCheckpoint

URL = "https://download.pytorch.org/models/"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class File:
    """One published file: its network, its name with the hash's first digits, and the size that pictures get.

    resize: what the shorter side is scaled to before the centre is cut to `size`.
    """

    network: str
    name: str
    size: int = 224
    resize: int = 256
    centred: bool = False  # pixels from -1 to 1 in place of ImageNet's statistics


ALEXNET: Rules = {
    **{f"features.{theirs}.*": f"convs.{ours}.0.<1>" for ours, theirs in enumerate((0, 3, 6, 8, 10))},
    "classifier.1.*": "hidden.0.<1>",
    "classifier.4.*": "hidden.1.<1>",
    "classifier.6.*": "head.<1>",
}
RESNET: Rules = {
    "conv1.*": "stem.0.<1>",
    "bn1.*": "stem.1.<1>",
    "layer#.#.conv#.*": "stages.<1-1>.<2>.convs.<3-1>.0.<4>",
    "layer#.#.bn#.*": "stages.<1-1>.<2>.convs.<3-1>.1.<4>",
    "layer#.#.downsample.*": "stages.<1-1>.<2>.skip.<3>",
    "fc.*": "head.<1>",
}
RESNEXT: Rules = {
    "conv1.*": "stem.0.<1>",
    "bn1.*": "stem.1.<1>",
    "layer#.#.conv1.*": "stages.<1-1>.<2>.reduce.0.<3>",
    "layer#.#.bn1.*": "stages.<1-1>.<2>.reduce.1.<3>",
    "layer#.#.conv2.*": "stages.<1-1>.<2>.transform.0.<3>",
    "layer#.#.bn2.*": "stages.<1-1>.<2>.transform.1.<3>",
    "layer#.#.conv3.*": "stages.<1-1>.<2>.expand.0.<3>",
    "layer#.#.bn3.*": "stages.<1-1>.<2>.expand.1.<3>",
    "layer#.#.downsample.*": "stages.<1-1>.<2>.skip.<3>",
    "fc.*": "head.<1>",
}
DENSENET: Rules = {
    "features.conv0.*": "stem.0.<1>",
    "features.norm0.*": "stem.1.<1>",
    "features.denseblock#.denselayer#.norm#.*": "blocks.<1-1>.layers.<2-1>.<3-1>.norm.<4>",
    "features.denseblock#.denselayer#.conv#.*": "blocks.<1-1>.layers.<2-1>.<3-1>.conv.<4>",
    "features.denseblock#.denselayer#.norm.#.*": "blocks.<1-1>.layers.<2-1>.<3-1>.norm.<4>",  # so in the old files
    "features.denseblock#.denselayer#.conv.#.*": "blocks.<1-1>.layers.<2-1>.<3-1>.conv.<4>",
    "features.transition#.*": "transitions.<1-1>.<2>",
    "features.norm5.*": "norm.<1>",
    "classifier.*": "head.<1>",
}
CONVNEXT: Rules = {
    **{f"features.{2 * stage}.#.*": f"entries.{stage}.<1>.<2>" for stage in range(4)},
    **{
        f"features.{2 * stage + 1}.#.{theirs}": f"stages.{stage}.<1>.{ours}"
        for stage in range(4)
        for theirs, ours in {
            "block.0.*": "depthwise.<2>",
            "block.2.*": "norm.<2>",
            "block.3.*": "mlp.0.<2>",
            "block.5.*": "mlp.2.<2>",
            "layer_scale": "scale",
        }.items()
    },
    "classifier.0.*": "norm.<1>",
    "classifier.2.*": "head.<1>",
}
SWIN: Rules = {
    "features.0.0.*": "patches.<1>",
    "features.0.2.*": "patches_norm.<1>",
    **{f"features.{2 * stage}.reduction.*": f"merges.{stage}.reduce.<1>" for stage in range(1, 4)},
    **{f"features.{2 * stage}.norm.*": f"merges.{stage}.norm.<1>" for stage in range(1, 4)},
    **{
        f"features.{2 * stage + 1}.#.{theirs}": ours and f"stages.{stage}.<1>.{ours}"
        for stage in range(4)
        for theirs, ours in {
            "norm#.*": "norms.<2-1>.<3>",
            "attn.qkv.*": "attention.query_key_value.<2>",
            "attn.proj.*": "attention.out.<2>",
            "attn.relative_position_bias_table": "attention.table",
            "attn.relative_position_index": None,
            "mlp.0.*": "mlp.0.<2>",
            "mlp.3.*": "mlp.2.<2>",
        }.items()
    },
    "norm.*": "norm.<1>",
    "head.*": "head.<1>",
}
_MODULES = ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
_PLACES = ["0.0", "0.1", "1.0", "1.1", "1.2", "1.3", "1.4", "2.0", "2.1"]
GOOGLENET: Rules = {
    f"{theirs}.{kind}.*": f"{ours}.conv.{index}.<1>"
    for index, kind in enumerate(("conv", "bn"))
    for theirs, ours in [
        ("conv1", "stem.0"),
        ("conv2", "stem.2"),
        ("conv3", "stem.3"),
        *((f"inception{a}.branch1", f"stages.{b}.single") for a, b in zip(_MODULES, _PLACES)),
        *((f"inception{a}.branch2.{i}", f"stages.{b}.medium.{i}") for a, b in zip(_MODULES, _PLACES) for i in (0, 1)),
        *((f"inception{a}.branch3.{i}", f"stages.{b}.large.{i}") for a, b in zip(_MODULES, _PLACES) for i in (0, 1)),
        *((f"inception{a}.branch4.1", f"stages.{b}.pooled.1") for a, b in zip(_MODULES, _PLACES)),
    ]
} | {
    "aux#.conv.conv.*": "auxiliary.<1-1>.conv.0.<2>",
    "aux#.conv.bn.*": "auxiliary.<1-1>.conv.1.<2>",
    "aux#.fc1.*": "auxiliary.<1-1>.hidden.<2>",
    "aux#.fc2.*": "auxiliary.<1-1>.head.<2>",
    "fc.*": "head.<1>",
}
VIT: Rules = {
    "class_token": "cls",
    "encoder.pos_embedding": "positions",
    "conv_proj.*": "patches.<1>",
    "encoder.layers.encoder_layer_#.ln_#.*": "blocks.<1>.norms.<2-1>.<3>",
    "encoder.layers.encoder_layer_#.self_attention.in_proj_*": (
        "blocks.<1>.attention.query.<2>",
        "blocks.<1>.attention.key_value.<2>",
    ),
    "encoder.layers.encoder_layer_#.self_attention.out_proj.*": "blocks.<1>.attention.out.<2>",
    "encoder.layers.encoder_layer_#.mlp.linear_1.*": "blocks.<1>.mlp.0.<2>",  # so named in the published files
    "encoder.layers.encoder_layer_#.mlp.linear_2.*": "blocks.<1>.mlp.3.<2>",
    "encoder.layers.encoder_layer_#.mlp.#.*": "blocks.<1>.mlp.<2>.<3>",
    "encoder.ln.*": "norm.<1>",
    "heads.head.*": "head.<1>",
}


def vgg_rules(system: VGG, names: Iterable[str]) -> Rules:
    """Convolutions (and batch norms) in the order of their numbers in the file."""
    layers = zip(numbered(names, "features.#"), numbered(system.state_dict(), "stages.#.#.#"))
    return {
        **{f"{theirs}.*": f"{ours}.<1>" for theirs, ours in layers},
        "classifier.0.*": "hidden.0.<1>",
        "classifier.3.*": "hidden.1.<1>",
        "classifier.6.*": "head.<1>",
    }


def squeezenet_rules(system: SqueezeNet, names: Iterable[str]) -> Rules:
    """The fires in the order of their numbers in the file."""
    rules = {"features.0.*": "stem.0.<1>", "classifier.1.*": "head.<1>"}
    squeezes = zip(numbered(names, "features.#.squeeze"), numbered(system.state_dict(), "stages.#.#.squeeze"))
    for theirs, ours in squeezes:
        rules[f"{theirs}.*"] = f"{ours}.0.<1>"
        for size in (1, 3):
            rules[f"{theirs.removesuffix('squeeze')}expand{size}x{size}.*"] = (
                f"{ours.removesuffix('squeeze')}expand{size}.<1>"
            )
    return rules


def mobilenet_v2_rules(system: MobileNetV2, names: Iterable[str]) -> Rules:
    """Blocks are counted through in the file; those without an expansion begin with the depthwise convolution."""
    blocks = numbered(system.state_dict(), "stages.#.#")
    rules = {
        "features.0.#.*": "stem.<1>.<2>",
        f"features.{len(blocks) + 1}.#.*": "last.<1>.<2>",
        "classifier.1.*": "head.1.<1>",
    }
    for theirs, ours in zip(numbered(names, "features.#.conv"), blocks):
        parts = ["depthwise"] if system.get_submodule(ours).expand is None else ["expand", "depthwise"]
        rules |= {f"{theirs}.{index}.#.*": f"{ours}.{part}.<1>.<2>" for index, part in enumerate(parts)}
        rules |= {f"{theirs}.{len(parts) + index}.*": f"{ours}.project.{index}.<1>" for index in (0, 1)}
    return rules


def efficientnet_rules(system: EfficientNet, names: Iterable[str]) -> Rules:
    """As MobileNetV2's, with squeeze and excitation in each block."""
    rules = {"features.0.#.*": "stem.<1>.<2>", "features.8.#.*": "last.<1>.<2>", "classifier.1.*": "head.1.<1>"}
    for theirs, ours in zip(numbered(names, "features.#.#.block"), numbered(system.state_dict(), "stages.#.#")):
        parts = ["depthwise", "reweight", "project"]
        if system.get_submodule(ours).expand is not None:
            parts.insert(0, "expand")
        rules |= {f"{theirs}.{index}.#.*": f"{ours}.{part}.<1>.<2>" for index, part in enumerate(parts)}
        rules |= {f"{theirs}.{len(parts) - 2}.fc1.*": f"{ours}.reweight.reduce.<1>"}
        rules |= {f"{theirs}.{len(parts) - 2}.fc2.*": f"{ours}.reweight.expand.<1>"}
    return rules


def resnet(depths: list[int], bottleneck: bool) -> Layout:
    """A ResNet of the paper's table 1."""
    return Layout(ResNet, {"depths": depths, "bottleneck": bottleneck}, RESNET)


def vit(patch: int, width: int, depth: int, heads: int) -> Layout:
    """A ViT of the paper's table 1."""
    return Layout(ViT, {"patch": patch, "width": width, "depth": depth, "heads": heads}, VIT)


_VGGS = {"vgg11": [1, 1, 2, 2, 2], "vgg13": [2, 2, 2, 2, 2], "vgg16": [2, 2, 3, 3, 3], "vgg19": [2, 2, 4, 4, 4]}
NETWORKS = {
    "alexnet": Layout(AlexNet, {}, ALEXNET),
    **{name: Layout(VGG, {"depths": depths}, vgg_rules) for name, depths in _VGGS.items()},
    **{f"{name}_bn": Layout(VGG, {"depths": depths, "norm": True}, vgg_rules) for name, depths in _VGGS.items()},
    "squeezenet1_0": Layout(SqueezeNet, {}, squeezenet_rules),
    "squeezenet1_1": Layout(SqueezeNet, {"version": "1_1"}, squeezenet_rules),
    "resnet18": resnet([2, 2, 2, 2], False),
    "resnet34": resnet([3, 4, 6, 3], False),
    "resnet50": resnet([3, 4, 6, 3], True),
    "resnet101": resnet([3, 4, 23, 3], True),
    "resnet152": resnet([3, 8, 36, 3], True),
    "resnext50_32x4d": Layout(ResNeXt, {}, RESNEXT),
    "resnext101_32x8d": Layout(ResNeXt, {"depths": [3, 4, 23, 3], "group_width": 8}, RESNEXT),
    "resnext101_64x4d": Layout(ResNeXt, {"depths": [3, 4, 23, 3], "cardinality": 64}, RESNEXT),
    "googlenet": Layout(GoogLeNet, {}, GOOGLENET),
    "densenet121": Layout(DenseNet, {}, DENSENET),
    "densenet169": Layout(DenseNet, {"depths": [6, 12, 32, 32]}, DENSENET),
    "densenet201": Layout(DenseNet, {"depths": [6, 12, 48, 32]}, DENSENET),
    "densenet161": Layout(DenseNet, {"depths": [6, 12, 36, 24], "growth": 48, "stem_channels": 96}, DENSENET),
    "mobilenet_v2": Layout(MobileNetV2, {}, mobilenet_v2_rules),
    **{f"efficientnet_{name}": Layout(EfficientNet, {"variant": name}, efficientnet_rules) for name in VARIANTS},
    "convnext_tiny": Layout(ConvNeXt, {}, CONVNEXT),
    "convnext_small": Layout(ConvNeXt, {"depths": [3, 3, 27, 3]}, CONVNEXT),
    "convnext_base": Layout(ConvNeXt, {"depths": [3, 3, 27, 3], "widths": [128, 256, 512, 1024]}, CONVNEXT),
    "convnext_large": Layout(ConvNeXt, {"depths": [3, 3, 27, 3], "widths": [192, 384, 768, 1536]}, CONVNEXT),
    "swin_t": Layout(Swin, {}, SWIN),
    "swin_s": Layout(Swin, {"depths": [2, 2, 18, 2]}, SWIN),
    "swin_b": Layout(Swin, {"width": 128, "depths": [2, 2, 18, 2], "heads": [4, 8, 16, 32]}, SWIN),
    "vit_b_16": vit(16, 768, 12, 12),
    "vit_b_32": vit(32, 768, 12, 12),
    "vit_l_16": vit(16, 1024, 24, 16),
    "vit_l_32": vit(32, 1024, 24, 16),
}
FILES = {
    "alexnet": File("alexnet", "alexnet-owt-7be5be79.pth"),
    "vgg11": File("vgg11", "vgg11-8a719046.pth"),
    "vgg11_bn": File("vgg11_bn", "vgg11_bn-6002323d.pth"),
    "vgg13": File("vgg13", "vgg13-19584684.pth"),
    "vgg13_bn": File("vgg13_bn", "vgg13_bn-abd245e5.pth"),
    "vgg16": File("vgg16", "vgg16-397923af.pth"),
    "vgg16_bn": File("vgg16_bn", "vgg16_bn-6c64b313.pth"),
    "vgg19": File("vgg19", "vgg19-dcbb9e9d.pth"),
    "vgg19_bn": File("vgg19_bn", "vgg19_bn-c79401a0.pth"),
    "squeezenet1_0": File("squeezenet1_0", "squeezenet1_0-b66bff10.pth"),
    "squeezenet1_1": File("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"),
    "resnet18": File("resnet18", "resnet18-f37072fd.pth"),
    "resnet34": File("resnet34", "resnet34-b627a593.pth"),
    "resnet50": File("resnet50", "resnet50-0676ba61.pth"),
    "resnet50.v2": File("resnet50", "resnet50-11ad3fa6.pth", resize=232),
    "resnet101": File("resnet101", "resnet101-63fe2227.pth"),
    "resnet101.v2": File("resnet101", "resnet101-cd907fc2.pth", resize=232),
    "resnet152": File("resnet152", "resnet152-394f9c45.pth"),
    "resnet152.v2": File("resnet152", "resnet152-f82ba261.pth", resize=232),
    "resnext50_32x4d": File("resnext50_32x4d", "resnext50_32x4d-7cdf4587.pth"),
    "resnext50_32x4d.v2": File("resnext50_32x4d", "resnext50_32x4d-1a0047aa.pth", resize=232),
    "resnext101_32x8d": File("resnext101_32x8d", "resnext101_32x8d-8ba56ff5.pth"),
    "resnext101_32x8d.v2": File("resnext101_32x8d", "resnext101_32x8d-110c445d.pth", resize=232),
    "resnext101_64x4d": File("resnext101_64x4d", "resnext101_64x4d-173b62eb.pth", resize=232),
    "googlenet": File("googlenet", "googlenet-1378be20.pth", centred=True),
    "densenet121": File("densenet121", "densenet121-a639ec97.pth"),
    "densenet169": File("densenet169", "densenet169-b2777c0a.pth"),
    "densenet201": File("densenet201", "densenet201-c1103571.pth"),
    "densenet161": File("densenet161", "densenet161-8d451a50.pth"),
    "mobilenet_v2": File("mobilenet_v2", "mobilenet_v2-b0353104.pth"),
    "mobilenet_v2.v2": File("mobilenet_v2", "mobilenet_v2-7ebf99e0.pth", resize=232),
    "efficientnet_b0": File("efficientnet_b0", "efficientnet_b0_rwightman-7f5810bc.pth"),
    "efficientnet_b1": File("efficientnet_b1", "efficientnet_b1_rwightman-bac287d4.pth", 240),
    "efficientnet_b1.v2": File("efficientnet_b1", "efficientnet_b1-c27df63c.pth", 240, 255),
    "efficientnet_b2": File("efficientnet_b2", "efficientnet_b2_rwightman-c35c1473.pth", 288, 288),
    "efficientnet_b3": File("efficientnet_b3", "efficientnet_b3_rwightman-b3899882.pth", 300, 320),
    "efficientnet_b4": File("efficientnet_b4", "efficientnet_b4_rwightman-23ab8bcd.pth", 380, 384),
    "efficientnet_b5": File("efficientnet_b5", "efficientnet_b5_lukemelas-1a07897c.pth", 456, 456),
    "efficientnet_b6": File("efficientnet_b6", "efficientnet_b6_lukemelas-24a108a5.pth", 528, 528),
    "efficientnet_b7": File("efficientnet_b7", "efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 600),
    "convnext_tiny": File("convnext_tiny", "convnext_tiny-983f1562.pth", resize=236),
    "convnext_small": File("convnext_small", "convnext_small-0c510722.pth", resize=230),
    "convnext_base": File("convnext_base", "convnext_base-6075fbad.pth", resize=232),
    "convnext_large": File("convnext_large", "convnext_large-ea097f82.pth", resize=232),
    "swin_t": File("swin_t", "swin_t-704ceda3.pth", resize=232),
    "swin_s": File("swin_s", "swin_s-5e29d889.pth", resize=246),
    "swin_b": File("swin_b", "swin_b-68c6b09e.pth", resize=238),
    "vit_b_16": File("vit_b_16", "vit_b_16-c867db91.pth"),
    "vit_b_32": File("vit_b_32", "vit_b_32-d86f8d99.pth"),
    "vit_l_16": File("vit_l_16", "vit_l_16-852ce7e3.pth", resize=242),
    "vit_l_32": File("vit_l_32", "vit_l_32-c7638314.pth"),
}


def file_of(path: Path, files: Mapping[str, File] = FILES, networks: Mapping[str, Layout] = NETWORKS) -> File:
    """What a local file is, by its name: a published one, or `<network>.pth` or `<network>-<anything>.pth`."""
    for file in files.values():
        if file.name == path.name:
            return file
    network = path.stem.partition("-")[0]
    if network not in networks:
        raise BadCheckpoint(f"{path}: the name has to begin with a network's: {nearest(networks, network)}")
    return File(network, path.name)


def describe(file: File, tensors: Mapping[str, Tensor]) -> Description:
    """All that is known of the file; the classes are counted in the last layer's bias."""
    layout = NETWORKS[file.network]
    *_, head = (name for name in tensors if name.endswith("bias"))  # the head is the last layer of each network
    contract = InputContract(file.size, file.size, resize="crop", crop_fraction=file.size / file.resize)
    arguments: dict[str, float] = {"num_classes": len(tensors[head]), "image_size": file.size}
    if layout.system is GoogLeNet and not any(name.startswith("aux") for name in tensors):
        arguments["auxiliary"] = 0.0
    mean, std = ([0.5] * 3, [0.5] * 3) if file.centred else (MEAN, STD)
    return Description(layout, contract, mean, std, arguments=arguments)
