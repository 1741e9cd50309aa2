"""Optical flow: the mean distance in pixels between the motion said and the true one."""

from __future__ import annotations

import torch

from oculi.data.datasets import Splits, batches
from oculi.system import System, predict


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """endpoint_error over the pixels the system calls valid, their share, and the error over all; zero_flow: no answer."""
    errors, valid, still = [], [], []
    for batch in batches(getattr(splits, split), 8):
        if batch.flow is None or batch.next_image is None:
            raise ValueError("dataset: expected samples with a next image and the flow to it")
        answers = predict(system, batch)
        said = torch.stack([answer.flow.cpu() for answer in answers])  # type: ignore[attr-defined]
        errors.append(torch.linalg.norm(said - batch.flow, dim=1))
        valid.append(torch.stack([answer.valid.cpu() for answer in answers]))  # type: ignore[attr-defined]
        still.append(torch.linalg.norm(batch.flow, dim=1))
    error, sure = torch.cat(errors), torch.cat(valid)
    return {
        "endpoint_error": float(error[sure].mean()),
        "valid_share": float(sure.float().mean()),
        "endpoint_error_all": float(error.mean()),
        "zero_flow": float(torch.cat(still)[sure].mean()),
    }
