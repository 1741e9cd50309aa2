r"""Augmentation policies: RandAugment, two numbers instead of a search, and AutoAugment, the published results of one.

RandAugment draws for each picture N of fourteen operations, all at magnitude M. AutoAugment draws one of 25 sub-policies,
each two operations with a probability and a magnitude, found by reinforcement learning on ImageNet, CIFAR-10 or SVHN.

    operation                   at the largest magnitude       sign
    ShearX, ShearY              0.3                            random
    TranslateX, TranslateY      150/331 of the side            random
    Rotate                      30 degrees                     random
    Brightness, Color,
    Contrast, Sharpness         factor 1 +- 0.9                random
    Posterize                   8 to 4 bits
    Solarize                    threshold 1 to 0
    AutoContrast, Equalize, Invert, Identity: no magnitude

Magnitudes are indices: 0 to 30 in RandAugment, 0 to 9 in AutoAugment. Boxes, masks, label maps and keypoints move with
their picture. Differs from the paper as torchvision does in those ranges, and from both in that what a move lets in
repeats the picture's edge instead of being black or grey.

Cubuk, Zoph, Shlens, Le: RandAugment, 2019, arXiv:1909.13719.
Cubuk, Zoph, Mane, Vasudevan, Le: AutoAugment, 2018, arXiv:1805.09501.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.catalogue import nearest
from oculi.data import colour
from oculi.data.augment import refuse_geometry, warp
from oculi.types import Batch

MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
COLOURS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Brightness": colour.brightness,
    "Color": colour.saturation,
    "Contrast": colour.contrast,
    "Sharpness": colour.sharpness,
    "Posterize": colour.posterize,
    "Solarize": colour.solarize,
    "AutoContrast": colour.auto_contrast,
    "Equalize": colour.equalize,
    "Invert": colour.invert,
}
OPERATIONS = (*MOVES, *COLOURS, "Identity")
FACTORS = ("Brightness", "Color", "Contrast", "Sharpness")
_RANDAUGMENT = tuple(name for name in OPERATIONS if name != "Invert")

# operation, probability, magnitude, and again; 0 where an operation has no magnitude
_SUB_POLICIES = {
    "imagenet": """
        Posterize 0.4 8 Rotate 0.6 9; Solarize 0.6 5 AutoContrast 0.6 0; Equalize 0.8 0 Equalize 0.6 0;
        Posterize 0.6 7 Posterize 0.6 6; Equalize 0.4 0 Solarize 0.2 4; Equalize 0.4 0 Rotate 0.8 8;
        Solarize 0.6 3 Equalize 0.6 0; Posterize 0.8 5 Equalize 1.0 0; Rotate 0.2 3 Solarize 0.6 8;
        Equalize 0.6 0 Posterize 0.4 6; Rotate 0.8 8 Color 0.4 0; Rotate 0.4 9 Equalize 0.6 0;
        Equalize 0.0 0 Equalize 0.8 0; Invert 0.6 0 Equalize 1.0 0; Color 0.6 4 Contrast 1.0 8;
        Rotate 0.8 8 Color 1.0 2; Color 0.8 8 Solarize 0.8 7; Sharpness 0.4 7 Invert 0.6 0;
        ShearX 0.6 5 Equalize 1.0 0; Color 0.4 0 Equalize 0.6 0; Equalize 0.4 0 Solarize 0.2 4;
        Solarize 0.6 5 AutoContrast 0.6 0; Invert 0.6 0 Equalize 1.0 0; Color 0.6 4 Contrast 1.0 8;
        Equalize 0.8 0 Equalize 0.6 0""",
    "cifar10": """
        Invert 0.1 0 Contrast 0.2 6; Rotate 0.7 2 TranslateX 0.3 9; Sharpness 0.8 1 Sharpness 0.9 3;
        ShearY 0.5 8 TranslateY 0.7 9; AutoContrast 0.5 0 Equalize 0.9 0; ShearY 0.2 7 Posterize 0.3 7;
        Color 0.4 3 Brightness 0.6 7; Sharpness 0.3 9 Brightness 0.7 9; Equalize 0.6 0 Equalize 0.5 0;
        Contrast 0.6 7 Sharpness 0.6 5; Color 0.7 7 TranslateX 0.5 8; Equalize 0.3 0 AutoContrast 0.4 0;
        TranslateY 0.4 3 Sharpness 0.2 6; Brightness 0.9 6 Color 0.2 8; Solarize 0.5 2 Invert 0.0 0;
        Equalize 0.2 0 AutoContrast 0.6 0; Equalize 0.2 0 Equalize 0.6 0; Color 0.9 9 Equalize 0.6 0;
        AutoContrast 0.8 0 Solarize 0.2 8; Brightness 0.1 3 Color 0.7 0; Solarize 0.4 5 AutoContrast 0.9 0;
        TranslateY 0.9 9 TranslateY 0.7 9; AutoContrast 0.9 0 Solarize 0.8 3; Equalize 0.8 0 Invert 0.1 0;
        TranslateY 0.7 9 AutoContrast 0.9 0""",
    "svhn": """
        ShearX 0.9 4 Invert 0.2 0; ShearY 0.9 8 Invert 0.7 0; Equalize 0.6 0 Solarize 0.6 6;
        Invert 0.9 0 Equalize 0.6 0; Equalize 0.6 0 Rotate 0.9 3; ShearX 0.9 4 AutoContrast 0.8 0;
        ShearY 0.9 8 Invert 0.4 0; ShearY 0.9 5 Solarize 0.2 6; Invert 0.9 0 AutoContrast 0.8 0;
        Equalize 0.6 0 Rotate 0.9 3; ShearX 0.9 4 Solarize 0.3 3; ShearY 0.8 8 Invert 0.7 0;
        Equalize 0.9 0 TranslateY 0.6 6; Invert 0.9 0 Equalize 0.6 0; Contrast 0.3 3 Rotate 0.8 4;
        Invert 0.8 0 TranslateY 0.0 2; ShearY 0.7 6 Solarize 0.4 8; Invert 0.6 0 Rotate 0.8 4;
        ShearY 0.3 7 TranslateX 0.9 3; ShearX 0.1 6 Invert 0.6 0; Solarize 0.7 2 TranslateY 0.6 7;
        ShearY 0.8 4 Invert 0.8 0; ShearX 0.7 9 TranslateY 0.8 3; ShearY 0.8 5 AutoContrast 0.7 0;
        ShearX 0.7 2 Invert 0.1 0""",
}


@dataclass(frozen=True)
class RandAugment:
    """operations: how many are drawn for each picture; magnitude: of all of them, 0 to 30."""

    operations: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.operations < 0 or not 0 <= self.magnitude <= 30:
            got = f"{self.operations} and {self.magnitude}"
            raise ValueError(f"operations, magnitude: expected 0 or more, and 0 to 30, got {got}")

    def __call__(self, batch: Batch) -> Batch:
        """An augmented copy of the batch."""
        n, (height, width) = len(batch), batch.pictures.shape[-2:]
        strength = torch.tensor([amount(name, self.magnitude, 31, height, width) for name in _RANDAUGMENT])
        places = torch.tensor([OPERATIONS.index(name) for name in _RANDAUGMENT])
        for _ in range(self.operations):
            drawn = torch.randint(len(_RANDAUGMENT), (n,))
            batch = apply(batch, places[drawn], signed(places[drawn], strength[drawn]))
        return batch


@dataclass(frozen=True)
class AutoAugment:
    """data: the data set that the policy was found on, imagenet, cifar10 or svhn."""

    data: Literal["imagenet", "cifar10", "svhn"] = "imagenet"

    def __post_init__(self) -> None:
        if self.data not in _SUB_POLICIES:
            raise ValueError(f"data: no policy was published for {self.data}{nearest(self.data, _SUB_POLICIES)}")

    def __call__(self, batch: Batch) -> Batch:
        """An augmented copy of the batch."""
        n, (height, width) = len(batch), batch.pictures.shape[-2:]
        table = sub_policies(self.data)
        drawn = torch.randint(len(table), (n,)).tolist()
        for turn in range(2):
            rows = [table[k][turn] for k in drawn]
            strength = torch.tensor([amount(name, magnitude, 10, height, width) for name, _, magnitude in rows])
            happens = torch.rand(n) < torch.tensor([probability for _, probability, _ in rows])
            named = torch.tensor([OPERATIONS.index(name) for name, _, _ in rows])
            chosen = torch.where(happens, named, OPERATIONS.index("Identity"))
            batch = apply(batch, chosen, signed(chosen, strength))
        return batch


def policy_for(options: Mapping[str, Any]) -> Callable[[Batch], Batch]:
    """The policy that a recipe's `policy:` asks for: `{name: randaugment, magnitude: 9}` or `{name: autoaugment}`."""
    policies: dict[str, Callable[..., Any]] = {"randaugment": RandAugment, "autoaugment": AutoAugment}
    arguments = dict(options)
    name = arguments.pop("name", "")
    if name not in policies:
        raise ValueError(f"policy: there is none called {name or 'nothing'}{nearest(name, policies)}")
    return policies[name](**arguments)


def sub_policies(data: str) -> list[tuple[tuple[str, float, int], tuple[str, float, int]]]:
    """The 25 pairs of (operation, probability, magnitude).

    >>> sub_policies("svhn")[0]
    (('ShearX', 0.9, 4), ('Invert', 0.2, 0))
    """
    rows = [row.split() for row in _SUB_POLICIES[data].split(";")]
    return [((r[0], float(r[1]), int(r[2])), (r[3], float(r[4]), int(r[5]))) for r in rows]


def amount(name: str, magnitude: int, bins: int, height: int, width: int) -> float:
    """What an operation takes at one of `bins` magnitudes: a slope, pixels, radians, a factor's distance from 1, bits, a
    threshold."""
    share = magnitude / (bins - 1)
    if name in ("ShearX", "ShearY"):
        return 0.3 * share
    if name in ("TranslateX", "TranslateY"):
        return share * 150 / 331 * (width if name == "TranslateX" else height)
    if name == "Posterize":
        return 8.0 - round(4 * share)
    return {"Rotate": math.radians(30) * share, "Solarize": 1 - share}.get(name, 0.9 * share)


def signed(chosen: Int[Tensor, " n"], strength: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """A random sign for the operations that have one."""
    both = torch.tensor([name in MOVES or name in FACTORS for name in OPERATIONS])[chosen]
    return torch.where(both & (torch.rand(len(chosen)) < 0.5), -strength, strength)


def apply(batch: Batch, chosen: Int[Tensor, " n"], strength: Float[Tensor, " n"]) -> Batch:
    """To each picture its operation, an index into OPERATIONS, with its amount."""
    image = batch.pictures
    moved = chosen < len(MOVES)
    if bool(moved.any()):
        refuse_geometry(batch)
        batch = warp(batch, moves(chosen, strength, *image.shape[-2:]).to(image))
        image = torch.where(moved.to(image.device)[:, None, None, None], batch.pictures, image)
    image = image.clone()
    for name, change in COLOURS.items():
        which = (chosen == OPERATIONS.index(name)).nonzero()[:, 0]
        if len(which):
            given = 1 + strength[which] if name in FACTORS else strength[which]
            image[which] = change(image[which], given.to(image)).clamp(0, 1)
    return replace(batch, image=image)


def moves(chosen: Int[Tensor, " n"], strength: Float[Tensor, " n"], height: int, width: int) -> Float[Tensor, "n 3 3"]:
    """Maps from original to new pixels: shears about the upper left corner, turns about the middle."""
    given = {name: torch.where(chosen == k, strength, 0.0) for k, name in enumerate(MOVES)}
    cos, sin = given["Rotate"].cos(), given["Rotate"].sin()
    matrix = torch.zeros(len(chosen), 3, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = cos, -given["ShearX"] - sin
    matrix[:, 1, 0], matrix[:, 1, 1] = sin - given["ShearY"], cos
    matrix[:, 0, 2] = given["TranslateX"] + width / 2 * (1 - cos) + height / 2 * sin
    matrix[:, 1, 2] = given["TranslateY"] + height / 2 * (1 - cos) - width / 2 * sin
    matrix[:, 2, 2] = 1
    return matrix
