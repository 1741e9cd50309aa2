"""RetinaNet with the same weights in torchvision's: outputs, losses, gradients, answers; crowds and empty pictures."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

import oracles
from agreement import close
from oculi.detect.retinanet import RetinaNet
from oculi.nn.detection import answers
from oculi.ops.nms import greedy_nms
from oculi.types import Batch

SIZE, CLASSES = 64, 3


def objects(n, seed=0):
    """Random pictures, each with a different number of boxes, the last with none."""
    g = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count in range(n - 1, -1, -1):
        corner = torch.rand(count, 2, generator=g) * 40
        boxes.append(torch.cat([corner, corner + 6 + torch.rand(count, 2, generator=g) * 16], 1))
        labels.append(torch.randint(0, CLASSES, (count,), generator=g))
    return Batch(image=torch.rand(n, 3, SIZE, SIZE, generator=g), boxes=boxes, labels=labels)


def ours(seed=0, **arguments):
    torch.manual_seed(seed)
    system = RetinaNet(CLASSES, [1, 1], width=4, channels=6, towers=2, anchors=[8, 16, 24, 32], extra=2,
                       image_size=SIZE, **arguments)  # fmt: skip
    for tower in (system.classes, system.boxes):
        nn.init.normal_(tower.output.weight, std=0.05)
    nn.init.constant_(system.classes.output.bias, -2.0)
    return system.eval()


class Backbone(nn.Module):
    """Our trunk, pyramid and coarser levels as torchvision wants them."""

    def __init__(self, system):
        super().__init__()
        self.system, self.out_channels = system, 6

    def forward(self, image):
        return OrderedDict((str(i), x) for i, x in enumerate(self.system.features(image)))


@pytest.fixture(scope="module")
def pair():
    oracles.torchvision()
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.retinanet import RetinaNet as Theirs
    from torchvision.models.detection.retinanet import RetinaNetHead

    oracles.implement("nms", greedy_nms)
    system = ours()
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (8, 16, 24, 32))
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 4)
    head = RetinaNetHead(6, 9, CLASSES)
    for part in (head.classification_head, head.regression_head):
        part.conv = part.conv[:2]
    theirs = Theirs(
        Backbone(system), CLASSES, min_size=SIZE, max_size=SIZE, image_mean=[0.0] * 3, image_std=[1.0] * 3,
        anchor_generator=generator, head=head,
    )  # fmt: skip
    theirs.transform.size_divisible = 1
    for tower, part, output in (
        (system.classes, head.classification_head, head.classification_head.cls_logits),
        (system.boxes, head.regression_head, head.regression_head.bbox_reg),
    ):
        for mine, other in zip(tower.convs, part.conv, strict=True):
            other[0].load_state_dict(mine.state_dict())
        output.load_state_dict(tower.output.state_dict())
    return system, theirs.eval()


def test_coarser_levels_are_torchvisions():
    block = oracles.torchvision().ops.feature_pyramid_network.LastLevelP6P7(6, 6)
    system = ours()
    block.p6.load_state_dict(system.coarser[0].state_dict())
    block.p7.load_state_dict(system.coarser[1].state_dict())
    maps = system.features(torch.rand(1, 3, SIZE, SIZE))
    expected, _ = block([maps[1]], [maps[1]], ["p5"])
    for a, b in zip(maps[2:], expected[1:], strict=True):
        torch.testing.assert_close(a, b)


def test_losses_and_gradients_are_torchvisions(pair):
    system, theirs = pair
    batch = objects(4, 1)
    theirs.train()
    theirs.backbone.eval()
    targets = [{"boxes": b, "labels": k} for b, k in zip(batch.boxes, batch.labels, strict=True)]
    expected, losses = theirs(list(batch.image), targets), system.loss(batch)
    theirs.eval()
    close(losses["classes"], expected["classification"])
    close(losses["boxes"], expected["bbox_regression"])
    shared = list(system.pyramid.parameters())
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
        assert torch.equal(mine.labels, other["labels"])
        torch.testing.assert_close(mine.scores, other["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mine.boxes, other["boxes"], rtol=1e-5, atol=1e-4)


def test_the_published_size_is_torchvisions():
    oracles.torchvision()
    from torchvision.models.detection import retinanet_resnet50_fpn

    with torch.device("meta"):
        theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
        mine = RetinaNet(91, [3, 4, 6, 3], bottleneck=True)
    assert sum(p.numel() for p in mine.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_at_first_everything_is_background():
    torch.manual_seed(0)
    system = RetinaNet(CLASSES, [1], width=4, channels=6, anchors=[12], extra=0, image_size=32)
    logits, _, _ = system.dense(system.features(torch.rand(2, 3, 32, 32)))
    torch.testing.assert_close(logits[0].sigmoid().mean(), torch.tensor(0.01), rtol=0.3, atol=0)


def test_gamma_zero_is_cross_entropy():
    batch = objects(3)
    focal, plain = (ours(gamma=gamma).loss(batch) for gamma in (2.0, 0.0))
    assert float(plain["classes"].detach()) > 4 * float(focal["classes"].detach())
    assert torch.equal(plain["boxes"], focal["boxes"])


def test_crowd_regions_and_empty_pictures():
    system, batch = ours(), objects(3)
    crowd = [torch.arange(len(k)) == 0 for k in batch.labels]
    without = replace(batch, boxes=[b[1:] for b in batch.boxes], labels=[k[1:] for k in batch.labels])
    marked, dropped = system.loss(replace(batch, crowd=crowd)), system.loss(without)
    for name in dropped:
        torch.testing.assert_close(marked[name], dropped[name])
    empty = Batch(image=batch.image, boxes=[torch.zeros(0, 4)] * 3, labels=[torch.zeros(0).long()] * 3)
    losses = system.loss(empty)
    assert float(losses["boxes"].detach()) == 0 < float(losses["classes"].detach())


def test_answers_leave_out_the_filling():
    found = torch.rand(1, 3, 4), torch.tensor([[0.5, 0.2, 0.0]]), torch.tensor([[1, 0, 0]])
    (one,) = answers(found, ["a", "b"])
    assert len(one.boxes) == 2
    assert one.names == ["a", "b"]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"anchors.*1 to 2"):
        RetinaNet(depths=[1, 1], anchors=[8] * 4, extra=1)
    with pytest.raises(ValueError, match="num_classes"):
        RetinaNet(num_classes=0)
    with pytest.raises(ValueError, match=r"batch\.boxes"):
        ours().loss(Batch(image=torch.rand(1, 3, SIZE, SIZE)))
