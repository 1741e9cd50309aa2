"""R-CNN: warping, SVMs against scikit-learn's and regressors by hand on its own features, and what it learns of blobs."""

import pytest
import torch
from torch.nn import functional as F

from oculi.detect.rcnn import RCNN
from oculi.ops.boxes import box_iou
from oculi.types import Batch
from two_stage import objects

SIZE, CLASSES = 32, 2


def ours(**changed):
    torch.manual_seed(0)
    return RCNN(CLASSES, [1], width=4, side=12, context=2, proposals=30, sampled=8, image_size=SIZE, **changed).eval()


def coloured(n, seed=0):
    """Red and blue squares on grey with a little noise, two a picture."""
    g = torch.Generator().manual_seed(seed)
    image, boxes = torch.full((n, 3, SIZE, SIZE), 0.5), []
    for i in range(n):
        corner = torch.cat([torch.randint(1, 6, (1, 2), generator=g), torch.randint(17, 22, (1, 2), generator=g)])
        box = torch.cat([corner, corner + torch.randint(7, 10, (2, 2), generator=g)], 1)
        for k, (left, top, right, bottom) in enumerate(box.tolist()):
            image[i, :, top:bottom, left:right] = 0.1
            image[i, 2 * k, top:bottom, left:right] = 0.9
        boxes.append(box.float())
    image = (image + 0.02 * torch.randn(image.shape, generator=g)).clamp(0, 1)
    return Batch(image=image, boxes=boxes, labels=[torch.tensor([0, 1])] * n)


def test_a_region_is_warped_to_a_square_with_its_surroundings():
    """On a ramp, pixel q of the inner 8 lies at x1 + (q + 0.5) / 8 of the box; two more pixels on either side."""
    system = ours()
    ramp = (torch.arange(SIZE) + 0.5).expand(1, 3, SIZE, SIZE)
    (square,) = system.warp(ramp, torch.tensor([[[8.0, 10, 24, 14]]]))
    expected = 8 + (torch.arange(12) - 2 + 0.5) * 2
    torch.testing.assert_close(square[0, 5], expected)


def test_regions_do_not_see_each_other():
    system, batch = ours(), objects(1, SIZE, CLASSES)
    boxes = torch.tensor([[[2.0, 2, 12, 14], [8, 8, 30, 28]]])
    together = system.embed_regions(batch.image, boxes)
    torch.testing.assert_close(together[1:], system.embed_regions(batch.image, boxes[:, 1:]))


def test_machines_equal_sklearns_and_movers_ridge_regression():
    svm = pytest.importorskip("sklearn.svm")
    linear_model = pytest.importorskip("sklearn.linear_model")
    system, g = ours(cost=0.1), torch.Generator().manual_seed(0)
    length = system.normal.shape[0]
    features, kinds = torch.randn(120, length, generator=g), torch.arange(120) % CLASSES
    deltas, overlaps = torch.randn(120, 4, generator=g), torch.ones(120, CLASSES)
    positive = F.one_hot(kinds, CLASSES).bool()
    system._fit_machines(features, positive, ~positive)
    system._fit_movers(features, overlaps, deltas, kinds)
    theirs = svm.LinearSVC(C=0.1, loss="hinge", tol=1e-6, max_iter=100_000).fit(
        features.numpy(), positive[:, 0].numpy()
    )
    scores = features @ system.normal + system.offset
    expected = torch.tensor(theirs.decision_function(features.numpy())).float()
    assert (scores[:, 0] - expected).abs().max() < 0.05
    ridge = linear_model.Ridge(1000.0).fit(features[kinds == 1].numpy(), deltas[kinds == 1].numpy())
    moved = (features @ system.movers[:-1] + system.movers[-1]).reshape(120, CLASSES, 4)[:, 1]
    torch.testing.assert_close(moved, torch.tensor(ridge.predict(features.numpy())), rtol=1e-3, atol=1e-4)


def test_fitted_it_tells_red_from_blue():
    pytest.importorskip("skimage")
    system = ours(cost=1.0)  # for few examples
    system.set_statistics(torch.full((3,), 0.5), torch.full((3,), 0.3))
    torch.manual_seed(1)
    system.fit([coloured(6, seed) for seed in range(2)])
    test = coloured(4, 9)
    right = 0
    for answer, boxes in zip(system.predict(test), test.boxes, strict=True):
        for label in (0, 1):
            best = answer.boxes[answer.labels == label][:1]
            right += bool(len(best) and box_iou(best, boxes[label : label + 1]) > 0.5)
    assert right >= 6


def test_kinds_that_never_occur_leave_their_machines_alone_and_bad_input_is_named():
    system, batch = ours(), objects(2, SIZE, CLASSES)
    batch.labels = [torch.zeros_like(k) for k in batch.labels]
    system.fit([batch])
    assert system.normal[:, 0].any()
    assert not system.normal[:, 1].any()
    assert not system.movers.unflatten(1, (CLASSES, 4))[:, 1].any()
    with pytest.raises(ValueError, match="context"):
        RCNN(side=8, context=4)
    with pytest.raises(ValueError, match="proposals"):
        RCNN(proposals=0)
