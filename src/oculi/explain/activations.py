r"""Pictures of what happens inside a network: what enters it, each channel's activation, and the dead ones.

Later layers answer to more specific and better localised things. A map that is zero for many pictures is a dead filter
(`oculi.learn.dead_units`). What enters the network, shown right before the forward call, is the only source of truth
about preprocessing.

Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, 2013, arXiv:1311.2901.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from oculi.catalogue import nearest
from oculi.explain.weights import grid, normalized_filters
from oculi.learn.dead_units import dead_units
from oculi.predictions import to_pil
from oculi.system import System, evaluating

__all__ = ["activation_picture", "activations", "dead_report", "entering", "entering_picture"]


def activations(
    system: nn.Module, image: Float[Tensor, "b c h w"], layer: str
) -> Float[Tensor, "b maps h2 w2"] | Float[Tensor, "b tokens width"] | Float[Tensor, "b units"]:
    """What the module `layer` (a dotted name) gives for the pictures."""
    modules = dict(system.named_modules())
    modules.pop("", None)
    if layer not in modules:
        raise ValueError(f"layer: {type(system).__name__} has no module {layer}{nearest(layer, modules)}")
    kept: list[Tensor] = []
    handle = modules[layer].register_forward_hook(lambda module, inputs, output: kept.append(output.clone()))
    try:
        with evaluating(system):
            system(image)
    finally:
        handle.remove()
    if not kept:
        raise ValueError(f"layer: {layer} does not run for pictures")
    return kept[-1]


def activation_picture(
    system: nn.Module, image: Float[Tensor, "c h w"], layer: str, at_least: int = 256
) -> Image.Image:
    """One grey picture per channel, each from its least (black) to its largest value (white)."""
    maps = activations(system, image[None], layer)
    if maps.ndim != 4:
        raise ValueError(f"layer: expected maps (batch x maps x height x width) from {layer}, got {tuple(maps.shape)}")
    sheet = grid(normalized_filters(maps[0][:, None].cpu().float()))
    return to_pil(sheet, max(1, at_least // max(sheet.shape[-2:])))


def dead_report(system: nn.Module, images: Float[Tensor, "n c h w"]) -> dict[str, list[int]]:
    """The indices of units that stay at zero for all `images`, after each layer that has some."""
    dead = dead_units(system, images)
    return {name: units.nonzero().flatten().tolist() for name, units in dead.items() if bool(units.any())}


def entering(system: System, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The very tensor that the first layer with weights gets."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[object, ...]) -> None:
        if not kept and inputs and isinstance(inputs[0], Tensor):
            kept.append(inputs[0].clone())

    layers = [
        m for m in system.modules() if next(m.children(), None) is None and next(m.parameters(), None) is not None
    ]
    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        with evaluating(system):
            system(image)
    finally:
        for handle in handles:
            handle.remove()
    if not kept:
        raise ValueError(f"system: {type(system).__name__} has no layer with weights that takes the picture")
    return kept[0]


def entering_picture(system: System, image: Float[Tensor, "b c h w"], at_least: int = 256) -> Image.Image:
    """What enters the first layer, decoded: normalisation undone."""
    decoded = entering(system, image) * system.pixel_std + system.pixel_mean
    sheet = grid(torch.nan_to_num(decoded).cpu().float())
    return to_pil(sheet, max(1, at_least // max(sheet.shape[-2:])))
