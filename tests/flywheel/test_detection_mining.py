"""Mining for a detector: pictures with a box that it is unsure of come first."""

import torch

from oculi.flywheel.mining import detection_hardness
from oculi.predictions import Detections


def answer(*scores):
    return Detections(torch.zeros(len(scores), 4), torch.tensor(scores), torch.zeros(len(scores)).long())


def test_the_least_sure_box_counts():
    hard = detection_hardness([answer(0.99, 0.01), answer(0.99, 0.5), answer(0.7), answer()])
    torch.testing.assert_close(hard, torch.tensor([0.02, 1.0, 0.6, 0.0]))
    assert hard.argsort(descending=True).tolist() == [1, 2, 0, 3]
