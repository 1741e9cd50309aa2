"""Panoptic quality against torchmetrics on random maps. Where the answer leaves pixels without a segment the two differ:
torchmetrics also excuses true segments that lie there, the paper does not; so the answers here cover every pixel."""

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality

from oculi.metrics.panoptic import panoptic_quality
from oculi.predictions import Panoptic

STUFF, CLASSES = {0, 1}, 5


def random_map(generator, void):
    """Blocks of 4 x 4 pixels that belong to some segment; one segment for each class of stuff."""
    segments = torch.randint(0 if void else 1, 9, (4, 5), generator=generator)
    labels = torch.cat([torch.arange(2), torch.randint(2, CLASSES, (6,), generator=generator)])
    return Panoptic(segments.repeat_interleave(4, 0).repeat_interleave(4, 1), labels, torch.ones(8))


def disturbed(generator, true):
    """Most pixels as they are, void filled, some blocks and labels changed."""
    other = random_map(generator, void=False).panoptic
    kept = torch.rand(4, 5, generator=generator).repeat_interleave(4, 0).repeat_interleave(4, 1) < 0.8
    noise = torch.rand(16, 20, generator=generator) < 0.9
    segments = torch.where(kept & noise & (true.panoptic > 0), true.panoptic, other)
    labels = true.labels.clone()
    labels[7] = 2
    return Panoptic(segments, labels, true.scores)


def pairs(one, void_class):
    """Class and number of each pixel, as torchmetrics wants them; stuff has no number."""
    labels = torch.cat([torch.tensor([void_class]), one.labels])[one.panoptic]
    return torch.stack([labels, one.panoptic * (labels >= len(STUFF))], -1)


@pytest.mark.parametrize("seed", range(5))
def test_equals_torchmetrics(seed):
    generator = torch.Generator().manual_seed(seed)
    truths = [random_map(generator, void=True) for _ in range(6)]
    answers = [disturbed(generator, true) for true in truths]
    theirs = PanopticQuality(
        things=set(range(2, CLASSES)), stuffs=STUFF, allow_unknown_preds_category=True,
        return_sq_and_rq=True, return_per_class=True,
    )  # fmt: skip
    theirs.update(torch.stack([pairs(a, 99) for a in answers]), torch.stack([pairs(t, 99) for t in truths]))
    ours = panoptic_quality(answers, truths, CLASSES)
    each = torch.stack([ours.quality(), ours.segmentation(), ours.recognition()], 1).nan_to_num(0)
    order = [*range(2, CLASSES), *sorted(STUFF)]  # torchmetrics puts things first
    np.testing.assert_allclose(each[order].numpy(), theirs.compute().numpy().reshape(-1, 3), atol=1e-9)
    assert 0 < ours.summary(STUFF)["pq"] < 1
