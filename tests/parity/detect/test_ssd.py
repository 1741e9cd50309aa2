"""SSD with the same weights in torchvision's: default boxes, maps, losses, gradients, answers; and its parts by hand."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import oracles
from agreement import close
from oculi.detect.ssd import SSD, hardest, match_with_best
from oculi.ops.nms import greedy_nms
from oculi.types import Batch

SIZE, CLASSES = 64, 3
SCALES, RATIOS = [0.15, 0.3, 0.5, 0.8], [[2], [2, 3], [2]]


def objects(n, seed=0):
    """Random pictures, each with a different number of boxes, the last with none."""
    g = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count in range(n - 1, -1, -1):
        corner = torch.rand(count, 2, generator=g) * 40
        boxes.append(torch.cat([corner, corner + 6 + torch.rand(count, 2, generator=g) * 16], 1))
        labels.append(torch.randint(0, CLASSES, (count,), generator=g))
    return Batch(image=torch.rand(n, 3, SIZE, SIZE, generator=g), boxes=boxes, labels=labels)


def ours(seed=0):
    torch.manual_seed(seed)
    system = SSD(CLASSES, [1, 1, 1], 8, extras=[2], scales=SCALES, ratios=RATIOS, image_size=SIZE).eval()
    for layer in [*system.classes, *system.deltas]:
        nn.init.normal_(layer.weight, std=0.03)
    return system


class Backbone(nn.Module):
    """Our maps as torchvision wants them."""

    def __init__(self, system):
        super().__init__()
        self.system, self.out_channels = system, [layer.in_channels for layer in system.classes]

    def forward(self, image):
        return OrderedDict((str(i), x) for i, x in enumerate(self.system.features(image)))


def background_first(value, classes=CLASSES):
    """Our rows, background last for every default box, as torchvision's."""
    return value.unflatten(0, (-1, classes + 1)).roll(1, 1).flatten(0, 1)


@pytest.fixture(scope="module")
def pair():
    oracles.torchvision()
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD as Theirs

    oracles.implement("nms", greedy_nms)
    system = ours()
    theirs = Theirs(
        Backbone(system), DefaultBoxGenerator(RATIOS, scales=SCALES), (SIZE, SIZE), CLASSES + 1,
        image_mean=[0.0] * 3, image_std=[1.0] * 3,
    )  # fmt: skip
    with torch.no_grad():
        for mine, other in zip(system.classes, theirs.head.classification_head.module_list, strict=True):
            other.weight.copy_(background_first(mine.weight))
            other.bias.copy_(background_first(mine.bias))
        for mine, other in zip(system.deltas, theirs.head.regression_head.module_list, strict=True):
            other.load_state_dict(mine.state_dict())
    return system, theirs.eval()


def test_losses_and_gradients_are_torchvisions(pair):
    system, theirs = pair
    batch = objects(4, 1)
    targets = [{"boxes": b, "labels": k + 1} for b, k in zip(batch.boxes, batch.labels, strict=True)]
    expected, losses = theirs.train()(list(batch.image), targets), system.eval().loss(batch)
    theirs.eval()
    close(losses["classes"], expected["classification"])
    close(losses["boxes"], expected["bbox_regression"])
    shared = [system.fc[0].weight, system.length, system.extras[0][0][0].weight]
    for a, b in zip(*(torch.autograd.grad(sum(v.values()), shared) for v in (losses, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_answers_are_torchvisions(pair, monkeypatch):
    system, theirs = pair
    monkeypatch.setattr(oracles.torchvision().ops.boxes, "_assert_has_ops", lambda: None)
    batch = objects(3, 2)
    with torch.no_grad():
        answered, expected = system.predict(batch), theirs(list(batch.image))
    assert sum(len(a.boxes) for a in answered) > 10
    for mine, other in zip(answered, expected, strict=True):
        assert torch.equal(mine.labels, other["labels"] - 1)
        torch.testing.assert_close(mine.scores, other["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mine.boxes, other["boxes"], rtol=1e-5, atol=1e-4)


def copied_layers(theirs, system):
    """The weights of torchvision's extractor in ours; its convolutions come in the same order."""
    copies = [m for part in (theirs.features, theirs.extra) for m in part.modules() if isinstance(m, nn.Conv2d)]
    parts = (system.stages, system.fc, system.extras)
    own = [m for part in parts for m in part.modules() if isinstance(m, nn.Conv2d)]
    for mine, other in zip(own, copies, strict=True):
        mine.load_state_dict(other.state_dict())


def test_maps_of_the_published_network_are_torchvisions():
    oracles.torchvision()
    from torchvision.models.detection import ssd300_vgg16

    with torch.device("meta"):
        full = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91)
        system = SSD(90, strides=[8, 16, 32, 64, 100, 300])
        assert sum(p.numel() for p in system.parameters()) == sum(p.numel() for p in full.parameters()) == 35_641_826
        maps = system.features(torch.rand(1, 3, 300, 300, device="meta"))
    assert [x.shape[-1] for x in maps] == [38, 19, 10, 5, 3, 1]
    assert [x.shape[1] for x in maps] == [512, 1024, 512, 256, 256, 256]


def test_default_boxes_of_the_published_network_are_torchvisions():
    oracles.torchvision()
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    system = SSD(1, [1, 1], width=2, strides=[8, 16, 32, 64, 100, 300])
    maps = [torch.zeros(1, 1, side, side) for side in (38, 19, 10, 5, 3, 1)]
    image = torch.zeros(1, 3, 300, 300)
    generator = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]], scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )  # fmt: skip
    (expected,) = generator(ImageList(image, [(300, 300)]), maps)
    assert len(expected) == 8732
    torch.testing.assert_close(system.anchors(maps, image), expected, rtol=0, atol=1e-3)


def test_maps_of_one_side_equal_torchvisions_extractor():
    """SSD300's own layers and weights at 64 pixels: ceiling pooling, scaled length, dilated fc6 and the first extras."""
    oracles.torchvision()
    from torchvision.models.detection.ssd import SSDFeatureExtractorVGG
    from torchvision.models.vgg import make_layers

    torch.manual_seed(0)
    system = SSD(1, width=64, extras=[2, 2], scales=[0.1, 0.2, 0.4, 0.6, 0.8], ratios=[[2]] * 4, image_size=36)
    plan = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
    theirs = SSDFeatureExtractorVGG(make_layers(plan, False), highres=False)
    theirs.extra = theirs.extra[:3]
    copied_layers(theirs, system)
    image = torch.rand(1, 3, 36, 36)
    with torch.no_grad():
        for mine, other in zip(system.features(image), theirs(image).values(), strict=True):
            close(mine, other)


def test_each_object_has_a_box_by_hand():
    overlaps = torch.tensor([[[0.6, 0.2, 0.1, 0.0], [0.3, 0.4, 0.1, 0.0], [0.1, 0.45, 0.2, 0.0], [-1.0] * 4]])
    real = torch.tensor([[True, True, True, False]])
    assert match_with_best(overlaps, real).tolist() == [[0, 2, -1, -1]], "the later of two that want one box"


def test_hard_negatives_are_three_to_one():
    torch.manual_seed(0)
    losses, positive = torch.rand(3, 40), torch.zeros(3, 40).bool()
    positive[0, :4] = positive[1, 3] = True
    chosen = hardest(losses, positive)
    assert chosen.sum(1).tolist() == [12, 3, 0]
    assert not (chosen & positive).any()
    left = losses[0][~positive[0] & ~chosen[0]]
    assert float(losses[0][chosen[0]].min()) >= float(left.max())


def test_pictures_without_objects_give_no_loss_but_gradients():
    system = ours()
    batch = Batch(image=torch.rand(2, 3, SIZE, SIZE), boxes=[torch.zeros(0, 4)] * 2, labels=[torch.zeros(0).long()] * 2)
    losses = system.loss(batch)
    assert all(float(v.detach()) == 0 for v in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"scales.*5 for 4 levels"):
        SSD(extras=[2, 1], scales=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"ratios"):
        SSD(extras=[], scales=[0.1, 0.2, 0.3], ratios=[[2]])
    with pytest.raises(ValueError, match="strides"):
        SSD(strides=[8])
    with pytest.raises(ValueError, match=r"batch\.boxes"):
        ours().loss(Batch(image=torch.rand(1, 3, SIZE, SIZE)))
