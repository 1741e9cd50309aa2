"""SuperPoint's worked numbers: labels of cells, both losses, homographic adaptation by the identity."""

import itertools
import math

import torch
from torch.nn import functional as F

from oculi.classical.superpoint import SuperPoint, adapt
from oculi.geometry.homography import random_homography
from oculi.nn.interest_points import (
    DUSTBIN,
    cell_labels,
    descriptor_hinge_loss,
    detector_loss,
    matching_cells,
    pixel_scores,
)


def test_a_cell_chooses_its_point_or_the_dustbin():
    points = torch.zeros(1, 16, 16, dtype=torch.bool)
    points[0, 3, 10] = True  # cell (0, 1), row 3, column 2
    assert cell_labels(points).tolist() == [[[DUSTBIN, 3 * 8 + 2], [DUSTBIN, DUSTBIN]]]
    points[0, 7, 15] = True
    assert {int(cell_labels(points)[0, 0, 1]) for _ in range(40)} == {26, 63}


def test_perfect_labels_cost_nothing_and_knowing_nothing_costs_log_65():
    labels = torch.tensor([[[DUSTBIN, 5], [0, 63]]])
    logits = 100 * F.one_hot(labels, 65).permute(0, 3, 1, 2).float()
    assert float(detector_loss(logits, labels)) == 0
    assert math.isclose(float(detector_loss(logits * 0, labels)), math.log(65), rel_tol=1e-6)
    scores = pixel_scores(logits)
    assert (scores > 0.5).nonzero().tolist() == [[0, 0, 13], [0, 8, 0], [0, 15, 15]]
    known = torch.tensor([[[True, False], [False, False]]])
    wrong = logits.clone()
    wrong[..., 1, 1] = 0
    assert float(detector_loss(wrong, labels, known)) == 0


def test_hinge_of_one_pair():
    one, other = torch.tensor([1.0, 0]).view(1, 2, 1, 1), torch.tensor([0.0, 1]).view(1, 2, 1, 1)
    match = torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)
    for second, same, expected in ((one, match, 0), (other, match, 250), (one, ~match, 0.8), (other, ~match, 0)):
        assert math.isclose(float(descriptor_hinge_loss(one, second, same)), expected, rel_tol=1e-6)


def test_hinge_is_the_fourfold_sum():
    torch.manual_seed(0)
    first, second = (F.normalize(torch.randn(1, 4, 2, 3), dim=1) for _ in range(2))
    H = torch.tensor([[[1.0, 0, 6], [0, 1, -3], [0, 0, 1]]])
    total = 0.0
    for h, w, i, j in itertools.product(range(2), range(3), range(2), range(3)):
        dot = float(first[0, :, h, w] @ second[0, :, i, j])
        near = math.hypot(8 * (w - j) + 6, 8 * (h - i) - 3) <= 8
        assert bool(matching_cells(H, 2, 3)[0, h, w, i, j]) == near
        total += 250 * max(0, 1 - dot) if near else max(0, dot - 0.2)
    loss = descriptor_hinge_loss(first, second, matching_cells(H, 2, 3))
    assert math.isclose(float(loss), total / 36, rel_tol=1e-5)


def test_adaptation_by_the_identity_alone_is_the_detector_itself():
    torch.manual_seed(0)
    system = SuperPoint(32, [4, 4, 8, 8], 8).eval()
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(adapt(system.scores, image, torch.eye(3)[None]), system.scores(image))


def test_adaptation_brings_detections_back_to_where_they_are():
    """A detector that says how bright a pixel is sees the same picture through every warp."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    image = (0.5 + 0.4 * torch.sin(x / 7) * torch.cos(y / 6))[None, None]
    H = random_homography(8, 48, 48, torch.Generator().manual_seed(0)).float()
    seen = adapt(lambda picture: picture[:, 0], image, H)
    middle = (slice(None), slice(12, 36), slice(12, 36))
    assert float((seen[middle] - image[:, 0][middle]).abs().max()) < 0.02
