r"""Views: how close the pictures rendered for cameras that were held out come to the true ones."""

from __future__ import annotations

import torch

from oculi.data.datasets import Splits, batches
from oculi.metrics.images import psnr, ssim
from oculi.system import System, evaluating


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """Mean PSNR in decibels, that of the worst view, and mean SSIM."""
    ratios, similarities = [], []
    with evaluating(system):
        for batch in batches(getattr(splits, split), 8):
            if batch.image is None or batch.camera is None:
                raise ValueError("dataset: expected samples with an image and a camera")
            rendered = system.render(batch.camera.to(system.device)).images.cpu().clamp(0, 1)
            ratios.append(psnr(rendered, batch.image))
            similarities.append(ssim(rendered, batch.image))
    ratio, similarity = torch.cat(ratios), torch.cat(similarities)
    return {"psnr": float(ratio.mean()), "worst_psnr": float(ratio.min()), "ssim": float(similarity.mean())}
