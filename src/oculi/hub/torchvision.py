r"""torchvision's published files (https://download.pytorch.org/models): state dicts whose names end in a hash.

`torchvision/resnet50` is the file of the original training, `torchvision/resnet50.v2` the later recipe's. All were
trained on ImageNet's 1000 classes; a file of your own with another head loads from its path, the classes counted there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from oculi.backbones.resnet import ResNet
from oculi.backbones.vit import ViT
from oculi.hub.renames import Description, Layout, Rules
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


RESNET: Rules = {
    "conv1.*": "stem.0.<1>",
    "bn1.*": "stem.1.<1>",
    "layer#.#.conv#.*": "stages.<1-1>.<2>.convs.<3-1>.0.<4>",
    "layer#.#.bn#.*": "stages.<1-1>.<2>.convs.<3-1>.1.<4>",
    "layer#.#.downsample.*": "stages.<1-1>.<2>.skip.<3>",
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


def resnet(depths: list[int], bottleneck: bool) -> Layout:
    """A ResNet of the paper's table 1."""
    return Layout(ResNet, {"depths": depths, "bottleneck": bottleneck}, RESNET)


def vit(patch: int, width: int, depth: int, heads: int) -> Layout:
    """A ViT of the paper's table 1."""
    return Layout(ViT, {"patch": patch, "width": width, "depth": depth, "heads": heads}, VIT)


NETWORKS = {
    "resnet18": resnet([2, 2, 2, 2], False),
    "resnet34": resnet([3, 4, 6, 3], False),
    "resnet50": resnet([3, 4, 6, 3], True),
    "resnet101": resnet([3, 4, 23, 3], True),
    "resnet152": resnet([3, 8, 36, 3], True),
    "vit_b_16": vit(16, 768, 12, 12),
    "vit_b_32": vit(32, 768, 12, 12),
    "vit_l_16": vit(16, 1024, 24, 16),
    "vit_l_32": vit(32, 1024, 24, 16),
}
FILES = {
    "resnet18": File("resnet18", "resnet18-f37072fd.pth"),
    "resnet34": File("resnet34", "resnet34-b627a593.pth"),
    "resnet50": File("resnet50", "resnet50-0676ba61.pth"),
    "resnet50.v2": File("resnet50", "resnet50-11ad3fa6.pth", resize=232),
    "resnet101": File("resnet101", "resnet101-63fe2227.pth"),
    "resnet101.v2": File("resnet101", "resnet101-cd907fc2.pth", resize=232),
    "resnet152": File("resnet152", "resnet152-394f9c45.pth"),
    "resnet152.v2": File("resnet152", "resnet152-f82ba261.pth", resize=232),
    "vit_b_16": File("vit_b_16", "vit_b_16-c867db91.pth"),
    "vit_b_32": File("vit_b_32", "vit_b_32-d86f8d99.pth"),
    "vit_l_16": File("vit_l_16", "vit_l_16-852ce7e3.pth", resize=242),
    "vit_l_32": File("vit_l_32", "vit_l_32-c7638314.pth"),
}


def file_of(path: Path) -> File:
    """What a local file is, by its name: a published one, or `<network>.pth` or `<network>-<anything>.pth`."""
    for file in FILES.values():
        if file.name == path.name:
            return file
    network = path.stem.partition("-")[0]
    if network not in NETWORKS:
        raise BadCheckpoint(f"{path}: expected a name that begins with one of {', '.join(NETWORKS)}")
    return File(network, path.name)


def describe(file: File, tensors: Mapping[str, Tensor]) -> Description:
    """All that is known of the file; the classes are counted in the last layer's bias."""
    layout = NETWORKS[file.network]
    *_, head = (name for name in tensors if name.endswith("bias"))  # the head is the last layer of each network
    contract = InputContract(file.size, file.size, resize="crop", crop_fraction=file.size / file.resize)
    arguments = {"num_classes": len(tensors[head]), "image_size": file.size}
    return Description(layout, contract, MEAN, STD, arguments=arguments)
