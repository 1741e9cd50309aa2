r"""Grad-CAM: where in the picture the evidence for a class lies, for any architecture with feature maps.

    a_k = mean over positions of dy_c / dA_k        how much the class score y_c rises with map k
    L_c = ReLU(sum_k a_k A_k)                        what speaks for the class, not against it

A are the maps of one layer, y_c the logit of the class, before the softmax. L_c is enlarged to the picture (bilinear)
and divided by its maximum.

    image        batch x C x H x W
    A            batch x K x h x w, or tokens batch x n x K, those of the grid laid out as h x w
    heat map     batch x H x W in [0, 1], all zero where nothing speaks for the class

The layer is by default the last one whose maps the score still depends on at their places: the last block of a
convolutional network, the last attention's input of a transformer that reads its class token.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra: Grad-CAM, 2016, arXiv:1610.02391.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.catalogue import nearest
from oculi.learn.training import cached
from oculi.predictions import to_pil, viridis
from oculi.system import System, evaluating


@dataclass(frozen=True)
class GradCAM:
    """Heat maps for any System whose forward gives class logits. layer: a module's dotted name; chosen where empty."""

    layer: str = ""

    def __call__(
        self, system: System, image: Float[Tensor, "b c h w"], target: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b h w"]:
        """Heat maps in [0, 1] for the class indices `target`, or for each picture's most probable class.

        Raises ValueError when the system has no logits, no such layer, or no layer with places.
        """
        raw = self.maps(system, image, target)
        heat = F.interpolate(raw[:, None], size=image.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        most = heat.amax((1, 2), keepdim=True)
        return torch.where(most > 0, heat / most.clamp_min(torch.finfo(heat.dtype).tiny), 0.0).clamp(0, 1)

    def maps(
        self, system: System, image: Float[Tensor, "b c h w"], target: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b h2 w2"]:
        """ReLU(sum_k a_k A_k) at the layer's own resolution, as in the paper's equation."""
        with evaluating(system), torch.enable_grad():
            scores, outputs = _record(system, image.detach().clone().requires_grad_(), self.layer)
            chosen = _class_scores(system, scores, target)
            gradients = torch.autograd.grad(chosen.sum(), outputs, allow_unused=True)
        # the last that still matters at its places: what only the class token of a transformer reads has no gradient
        for output, gradient in zip(reversed(outputs), reversed(gradients)):
            if gradient is None:
                continue
            slopes, values = _as_maps(gradient, image), _as_maps(output.detach(), image)
            if self.layer or bool((slopes != 0).any()):
                return F.relu((slopes.mean((2, 3), keepdim=True) * values).sum(1))
        raise ValueError(f"layer: the class score of {type(system).__name__} depends on no map; name one with layer=")


def _record(system: System, image: Tensor, layer: str) -> tuple[Tensor, list[Tensor]]:
    """The forward's answer and the maps of the named layer, or of all modules in the order in which they ran."""
    modules = dict(system.named_modules())
    modules.pop("", None)
    if layer and layer not in modules:
        raise ValueError(f"layer: {type(system).__name__} has no module {layer}{nearest(layer, modules)}")
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.requires_grad or not _has_places(output, image):
            return None
        outputs.append(output)
        return output.clone()  # an in-place ReLU that follows changes the copy

    handles = [modules[name].register_forward_hook(keep) for name in ([layer] if layer else modules)]
    try:
        scores = system(image)
    except (NotImplementedError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"system: {type(system).__name__}'s forward does not take pictures alone ({reason})") from None
    finally:
        for handle in handles:
            handle.remove()
    if not outputs:
        found = f"{layer} gives no feature maps" if layer else f"{type(system).__name__} has no feature maps"
        raise ValueError(f"layer: {found} (batch x maps x height x width, or tokens that form a grid)")
    width = outputs[-1].shape[-1]  # a transformer's stream; wider tokens are the inside of a block
    return scores, [kept for kept in outputs if kept.ndim == 4 or kept.shape[-1] == width]


def _class_scores(system: System, scores: object, target: Tensor | None) -> Tensor:
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"system: expected class logits (batch x classes) from {type(system).__name__}, got {got}")
    if target is None:
        target = scores.detach().argmax(1)
    if target.shape != scores.shape[:1] or int(target.min()) < 0 or int(target.max()) >= scores.shape[1]:
        raise ValueError(f"target: expected {len(scores)} class indices below {scores.shape[1]}, got {target.tolist()}")
    return scores.gather(1, target[:, None].to(scores.device))


def _grid(tokens: int, image: Tensor) -> tuple[int, int]:
    """Rows and columns of the patches, up to 8 tokens in front of them being special; (0, 0) when there is no grid."""
    for special in range(9):
        rows = round(math.sqrt((tokens - special) * image.shape[-2] / image.shape[-1])) if tokens > special else 0
        columns = rows * image.shape[-1] // image.shape[-2]
        if rows * columns == tokens - special and rows * columns > 1:
            return rows, columns
    return 0, 0


def _has_places(output: Tensor, image: Tensor) -> bool:
    if output.ndim == 4:
        return output.shape[2] * output.shape[3] > 1 and len(output) == len(image)
    return output.ndim == 3 and len(output) == len(image) and _grid(output.shape[1], image) != (0, 0)


def _as_maps(values: Tensor, image: Tensor) -> Float[Tensor, "b k h w"]:
    if values.ndim == 4:
        return values
    rows, columns = _grid(values.shape[1], image)
    return values[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def overlay(
    image: Float[Tensor, "c h w"], heatmap: Float[Tensor, "h w"], strength: float = 0.6, at_least: int = 256
) -> Image.Image:
    """The heat map in viridis over the grey picture, the longer side at least about `at_least` pixels."""
    grey = image.detach().cpu().float().mean(0, keepdim=True)
    return to_pil((1 - strength) * grey + strength * viridis(heatmap), max(1, at_least // max(image.shape[-2:])))


def _canvases(
    images: Float[Tensor, "n c s s"], size: int, noise: float, seed: int
) -> tuple[Float[Tensor, "n c size size"], Int[Tensor, "n 2"]]:
    """Each picture somewhere on a canvas of noise, and the (row, column) of its corner."""
    generator = torch.Generator().manual_seed(seed)
    count, channels, side, _ = images.shape
    corners = torch.randint(0, size - side + 1, (count, 2), generator=generator)
    canvas = torch.rand(count, channels, size, size, generator=generator) * noise
    rows = corners[:, 0, None, None] + torch.arange(side)[:, None]
    columns = corners[:, 1, None, None] + torch.arange(side)
    which = torch.arange(count)[:, None, None]
    canvas.permute(0, 2, 3, 1)[which, rows, columns] = images.permute(0, 2, 3, 1)
    return canvas, corners


def _pointing_game(
    system: System, digits: Float[Tensor, "n c s s"], labels: Int[Tensor, " n"], size: int, noise: float, seed: int
) -> tuple[float, Float[Tensor, "n size size"]]:
    """The share of canvases whose hottest pixel is on the digit, and the heat maps."""
    canvas, corners = _canvases(digits, size, noise, seed)
    heat = GradCAM()(system, canvas, labels)
    hottest = heat.flatten(1).argmax(1)
    place = torch.stack([hottest // size, hottest % size], 1)
    inside = ((place >= corners) & (place < corners + digits.shape[-1])).all(1)
    return float(inside.float().mean()), heat


def experiment(
    size: int = 48, noise: float = 0.1, harder: float = 0.3, pictures: int = 500, seed: int = 0
) -> dict[str, float]:
    """The pointing game with the digits ResNet: is the hottest pixel on the digit, somewhere on a canvas of noise?

    `pointing_game_harder` is the same in noise of amplitude `harder`, `chance` what a random pixel would reach,
    `kept_when_randomised` the mean correlation of the heat maps with those of the same network with fresh weights.
    """
    run = cached("resnet")
    samples = [run.splits.test[i] for i in range(min(pictures, len(run.splits.test)))]
    digits = torch.stack([sample.image for sample in samples if sample.image is not None])
    labels = torch.tensor([sample.label for sample in samples])
    found, heat = _pointing_game(run.system, digits, labels, size, noise, seed)
    found_harder, _ = _pointing_game(run.system, digits, labels, size, harder, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = copy.deepcopy(run.system)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
    _, other = _pointing_game(fresh, digits, labels, size, noise, seed)
    a, b = (maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True) for maps in (heat, other))
    return {
        "pointing_game": found,
        "pointing_game_harder": found_harder,
        "chance": (digits.shape[-1] / size) ** 2,
        "kept_when_randomised": float(F.cosine_similarity(a, b, dim=1).mean()),
    }
