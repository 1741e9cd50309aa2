"""The promptable protocols: centres, corrections, and the scores of a system that knows everything or nothing."""

import pytest
import torch

from oculi.data.datasets import Splits
from oculi.learn.protocols import promptable, video_objects
from oculi.segment.sam import SAM
from oculi.segment.sam2 import SAM2
from oculi.types import Sample


def test_the_centre_is_deep_inside():
    region = torch.zeros(2, 9, 9, dtype=torch.bool)
    region[0, 1:8, 1:8] = True
    region[1, :, 0] = True
    region[1, 4:, 4:] = True
    assert promptable.centre(region).tolist() == [[4.5, 4.5], [6.5, 6.5]]
    assert promptable.depth(region)[0].amax() == 4


def test_the_larger_error_is_corrected():
    truth, said = torch.zeros(3, 9, 9, dtype=torch.bool), torch.zeros(3, 9, 9, dtype=torch.bool)
    truth[0, :5, :5] = True  # missed
    said[1, 4:, 4:] = True  # found too much
    truth[1, 0, 0] = True
    truth[2, 3:6, 3:6] = said[2, 3:6, 3:6] = True  # right
    points, labels = promptable.correction(said, truth)
    assert labels.tolist() == [1, 0, 1]
    assert points.tolist() == [[2.5, 2.5], [6.5, 6.5], [4.5, 4.5]]


def square(image_size: int):
    masks = torch.zeros(1, image_size, image_size, dtype=torch.bool)
    masks[0, 2:9, 3:12] = True
    return masks


def test_scores_of_a_tiny_sam():
    torch.manual_seed(0)
    masks = square(16)
    sample = Sample(image=torch.rand(3, 16, 16), masks=masks, boxes=torch.tensor([[3.0, 2, 12, 9]]))
    splits = Splits([sample], [sample], [sample])
    system = SAM(16, 4, 8, 1, 2, 2, [0], 16, grid=2, keep=[-9.0, -1.0], clicks=1).eval()
    figures = promptable.score(system, splits, "test")
    shares = [figures[name] for name in figures if name.startswith("iou")]
    assert len(shares) == 6
    assert all(0 <= share <= 1 for share in shares)
    assert figures["iou_1_click_best"] >= figures["iou_1_click"]
    assert -1 <= figures["quality_correlation"] <= 1
    assert figures["automatic_masks"] > 0


def test_scores_of_a_tiny_sam2():
    torch.manual_seed(0)
    masks = square(32)
    video_masks = torch.stack([masks, masks.roll(2, -1), masks & False], 1)
    video = torch.rand(3, 3, 32, 32)
    sample = Sample(image=video[0], video=video, video_masks=video_masks)
    system = SAM2(32, 2, 8, [1] * 4, [4, 4, 4, 2], [2], 4, 16, 8, 1, 3, 2).eval()
    with torch.no_grad():
        system.decoder.visible[4].bias.fill_(-50.0)
    figures = video_objects.score(system, Splits([sample], [sample], [sample]), "test")
    assert figures["j"] == figures["occlusion_accuracy"] == figures["hidden_share"] == 0.5  # it never sees anything
    assert (figures["j_hidden"], figures["j_seen"]) == (1, 0)


@pytest.mark.unchecked
def test_bad_input_is_named():
    empty = Splits([], [], [Sample(image=torch.rand(3, 16, 16))])
    with pytest.raises(ValueError, match="no masks or no boxes"):
        promptable.score(SAM(16, 4, 8, 1, 2, 2, [0], 16, grid=2, clicks=0).eval(), empty, "test")
    with pytest.raises(ValueError, match="SAM has no `track`"):
        video_objects.score(SAM(16, 4, 8, 1, 2, 2, [0], 16, grid=2, clicks=0).eval(), empty, "test")
