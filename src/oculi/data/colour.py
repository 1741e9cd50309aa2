r"""What can be done to the colours of a batch of pictures, each picture by its own amount; what it shows stays in place.

Pictures are `batch x channels x height x width` in [0, 1], amounts one number a picture. Nothing is clamped here. Grey is
0.2989 R + 0.587 G + 0.114 B; pictures without three channels are their own grey and have no hue.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Pictures = Float[Tensor, "b c h w"]
Amounts = Float[Tensor, " b"]


def grey(image: Pictures) -> Float[Tensor, "b lumas h w"]:
    """The luma of colour pictures, one channel; others as they are."""
    if image.shape[1] != 3:
        return image
    return torch.einsum("bchw,c->bhw", image, image.new_tensor([0.2989, 0.587, 0.114]))[:, None]


def brightness(image: Pictures, factor: Amounts) -> Pictures:
    """Every value times the factor."""
    return image * _each(factor)


def contrast(image: Pictures, factor: Amounts) -> Pictures:
    """Distances from the picture's mean grey times the factor."""
    mean = grey(image).mean((1, 2, 3), keepdim=True)
    return (image - mean) * _each(factor) + mean


def saturation(image: Pictures, factor: Amounts) -> Pictures:
    """Distances from the pixel's grey times the factor: 0 is a grey picture."""
    if image.shape[1] != 3:
        return image
    base = grey(image)
    return (image - base) * _each(factor) + base


def hue(image: Pictures, turn: Amounts) -> Pictures:
    r"""The hue turned on the colour wheel, in turns; value and saturation stay.

    With V the largest channel and C its distance from the smallest, channel n = 5, 3, 1 (R, G, B) of hue H in [0, 6) is
    V - C clamp(min(k, 4 - k), 0, 1),  k = (n + H) mod 6.
    """
    if image.shape[1] != 3:
        return image
    r, g, b = image.unbind(1)
    value, low = image.amax(1), image.amin(1)
    chroma = value - low
    over = torch.where(chroma > 0, chroma, 1.0)
    angle = torch.where(value == r, (g - b) / over, torch.where(value == g, 2 + (b - r) / over, 4 + (r - g) / over))
    k = (angle + 6 * turn[:, None, None])[:, None] + image.new_tensor([5.0, 3.0, 1.0])[:, None, None]
    k = k.remainder(6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def sharpness(image: Pictures, factor: Amounts) -> Pictures:
    """Distances from the picture smoothed by 3x3 (1 around, 5 in the middle, over 13) times the factor; borders stay."""
    if min(image.shape[-2:]) < 3:
        return image
    kernel = image.new_tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = image.clone()
    weight = kernel.expand(image.shape[1], 1, 3, 3)
    smooth[..., 1:-1, 1:-1] = F.conv2d(image, weight, groups=image.shape[1])
    return (image - smooth) * _each(factor) + smooth


def posterize(image: Pictures, bits: Amounts) -> Pictures:
    """Only the highest `bits` of the eight bits of a value."""
    step = 2 ** (8 - _each(bits.round()))
    return ((image * 255).round() / step).floor() * step / 255


def solarize(image: Pictures, threshold: Amounts) -> Pictures:
    """Values from the threshold on inverted."""
    return torch.where(image >= _each(threshold), 1 - image, image)


def invert(image: Pictures, amount: Amounts) -> Pictures:
    """Light becomes dark; `amount` says nothing."""
    return 1 - image


def auto_contrast(image: Pictures, amount: Amounts) -> Pictures:
    """Each channel stretched to [0, 1]; a flat one stays. `amount` says nothing."""
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    flat = high <= low
    return torch.where(flat, image, (image - low) / torch.where(flat, 1.0, high - low))


def equalize(image: Pictures, amount: Amounts) -> Pictures:
    """Each channel's 256 levels mapped so that all become about as frequent, as Pillow does. `amount` says nothing."""
    levels = (image * 255).round().long().clamp(0, 255).flatten(2)
    count = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=image.device)
    count.scatter_add_(2, levels, torch.ones_like(levels))
    highest = count.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - highest) // 255
    before = count.cumsum(2) - count  # how many pixels are darker than each level
    table = ((before + step // 2) // step.clamp_min(1)).clamp(0, 255)
    changed = table.gather(2, levels).to(image) / 255
    return torch.where(step > 0, changed, image.flatten(2)).reshape(image.shape)


def _each(amount: Amounts) -> Float[Tensor, "b 1 1 1"]:
    return amount[:, None, None, None]
