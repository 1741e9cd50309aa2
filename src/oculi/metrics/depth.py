r"""How far depth said is from depth measured, over the pixels where it was measured; y said, y* true.

    abs_rel     mean |y - y*| / y*             sq_rel      mean (y - y*)^2 / y*
    rmse        sqrt mean (y - y*)^2           rmse_log    sqrt mean (log y - log y*)^2
    delta_k     share of pixels with max(y / y*, y* / y) < 1.25^k

What was learned from pictures alone knows no metre: `median_scaled` brings each map to the truth's median first.

Eigen, Puhrsch, Fergus: Depth Map Prediction from a Single Image using a Multi-Scale Deep Network, 2014, arXiv:1406.2283.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def depth_errors(
    said: Float[Tensor, "b h w"], truth: Float[Tensor, "b h w"], known: Bool[Tensor, "b h w"] | None = None
) -> dict[str, Float[Tensor, " b"]]:
    """Each figure per picture. Raises ValueError for unequal shapes, depth said that is not positive, or a picture in
    which nothing is known.

    >>> errors = depth_errors(torch.full((1, 1, 2), 2.0), torch.tensor([[[2.0, 4.0]]]))
    >>> float(errors["abs_rel"]), float(errors["delta_1"])
    (0.25, 0.5)
    """
    if said.shape != truth.shape:
        raise ValueError(f"said: expected the truth's shape {tuple(truth.shape)}, got {tuple(said.shape)}")
    known = measured(truth) if known is None else known & measured(truth)
    if not bool(known.flatten(1).any(1).all()):
        raise ValueError("known: expected at least one pixel of known depth in every picture, got none")
    if not bool((said[known] > 0).all()):
        raise ValueError("said: expected depth above 0, got some that is not")
    y, t = torch.where(known, said, 1.0).double(), torch.where(known, truth, 1.0).double()
    difference, logs = (y - t).abs(), y.log() - t.log()
    ratio = torch.maximum(y / t, t / y)

    def mean(values: Tensor) -> Tensor:
        return (values * known).flatten(1).sum(1) / known.flatten(1).sum(1)

    figures = {
        "abs_rel": mean(difference / t),
        "sq_rel": mean(difference.square() / t),
        "rmse": mean(difference.square()).sqrt(),
        "rmse_log": mean(logs.square()).sqrt(),
    }
    return figures | {f"delta_{k}": mean((ratio < 1.25**k).double()) for k in (1, 2, 3)}


def measured(depth: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Where depth is known: finite and above 0."""
    return torch.isfinite(depth) & (depth > 0)


def median_scaled(
    said: Float[Tensor, "b h w"], truth: Float[Tensor, "b h w"], known: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, "b h w"]:
    """Each map times the ratio of the medians over its known pixels."""
    known = measured(truth) if known is None else known & measured(truth)
    medians = [value.masked_fill(~known, float("nan")).flatten(1).nanmedian(1).values for value in (truth, said)]
    return said * (medians[0] / medians[1])[:, None, None]
