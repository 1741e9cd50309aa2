"""The data engine's stages with a model that finds what is bright: who clicks how often, what is labelled."""

import pytest
import torch

from oculi.data.datasets import Splits
from oculi.flywheel.data_engine import STAGES, clicked, labelled, run
from oculi.input_contract import InputContract
from oculi.nn.mask_decoder import Decoded
from oculi.predictions import Masks
from oculi.system import System
from oculi.types import Sample


class Brightness(System):
    """Its mask is all that is brighter than `level`; learning lowers the level. Alone it finds the brightest square."""

    answer = Masks

    def __init__(self, level: float = 0.6):
        super().__init__(InputContract(16, 16))
        self.level = level

    def features(self, image):
        return [image]

    def decode(self, features, prompts):
        logits = (features[0].mean(1) - self.level)[:, None, None].expand(-1, prompts.points.shape[1], 4, -1, -1)
        return Decoded(logits, torch.ones(logits.shape[:3]), torch.zeros(*logits.shape[:3], 1))

    def best(self, features, prompts):
        point = prompts.boxes[..., :2] if prompts.points is None else prompts.points[:, :, 0]
        left = (torch.arange(16)[None, None, None] < 8) == (point[..., 0] < 8)[..., None, None]
        logits = torch.where(left, features[0].mean(1)[:, None] - self.level, -1.0)
        return logits, torch.ones(logits.shape[:2])

    def enlarge(self, logits):
        return logits

    def predict(self, batch):
        bright = [image.mean(0) > 0.9 for image in batch.image]
        return [Masks(b[None], torch.ones(1)) if b.any() else Masks(b[None][:0], torch.ones(0)) for b in bright]


def sample(seed: int = 0):
    """A bright square left and a dim one right."""
    image = torch.zeros(3, 16, 16)
    image[:, 2:7, 1:6], image[:, 5:12, 9:15] = 1.0, 0.5
    masks = torch.stack([image[0] == 1.0, image[0] == 0.5])
    return Sample(image=image, masks=masks, boxes=torch.tensor([[1.0, 2, 6, 7], [9.0, 5, 15, 12]]), id=str(seed))


def test_people_click_until_the_mask_is_good_or_patience_ends():
    system, one = Brightness(), sample()
    masks, clicks = clicked(system, one.image, one.masks, patience=4)
    assert clicks == 1 + 4  # the bright one at once, the dim one never
    assert torch.equal(masks[0], one.masks[0])
    masks, clicks = clicked(Brightness(0.3), one.image, one.masks, patience=4)
    assert clicks == 2
    assert torch.equal(masks, one.masks)
    assert clicked(system, one.image, one.masks[:0], 4)[1] == 0


def test_later_stages_cost_fewer_clicks():
    system, one = Brightness(0.3), sample()
    spent = {stage: labelled(system, one, stage, 3) for stage in STAGES}
    assert [clicks for _, clicks in spent.values()] == [2, 1, 0]
    assert [len(masks) for masks, _ in spent.values()] == [2, 2, 1]


def test_the_model_learns_between_the_stages():
    seen = []

    def learn(system, splits):
        seen.append(len(splits.train))
        system.level = 0.3

    stages = run(Brightness(), [sample(i) for i in range(6)], [sample()], learn, patience=3)
    assert seen == [2, 4, 6]
    assert [stage.name for stage in stages] == list(STAGES)
    assert [stage.clicks_a_mask for stage in stages] == [2.0, 0.5, 0.0]
    assert [stage.masks_a_picture for stage in stages] == [2.0, 2.0, 1.0]
    assert stages[-1].held_out == 1


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="stage: expected one of assisted, half, automatic, got 'none'"):
        labelled(Brightness(), sample(), "none", 1)
    with pytest.raises(ValueError, match="pictures, patience: expected at least 3 and 1, got 2 and 5"):
        run(Brightness(), [sample()] * 2, [sample()], lambda *_: Splits([], [], []))
    with pytest.raises(ValueError, match="sample: expected a picture with the masks"):
        labelled(Brightness(), Sample(image=torch.rand(3, 16, 16)), "assisted", 1)
