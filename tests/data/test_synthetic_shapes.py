"""Synthetic shapes: corners where the picture has them, the same picture every time, bad options named."""

import pytest
import torch

from oculi.data.sources import open_data
from oculi.data.synthetic_shapes import FIGURES, SyntheticShapes, inside, paint


def shapes(kinds, noise=0.0, blur=0.0, length=6):
    return SyntheticShapes(length, 64, 0, 0, kinds, noise, blur)


def test_a_square_is_inside_itself_and_nowhere_else():
    square = torch.tensor([[2.0, 2], [6, 2], [6, 5], [2, 5]])
    points = torch.tensor([[4.0, 3], [1, 3], [7, 3], [4, 1], [4, 6], [5.9, 4.9]])
    assert inside(square, points).tolist() == [True, False, False, False, False, True]


def test_later_polygons_are_painted_over_and_edges_are_averaged():
    ground = torch.zeros(8, 8)
    big = torch.tensor([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    small = torch.tensor([[1.0, 1], [2.5, 1], [2.5, 2], [1, 2]])
    picture = paint(ground, [big, small], [0.4, 1.0])
    assert picture.shape == (4, 4)
    torch.testing.assert_close(picture[1], torch.tensor([0.4, 1.0, 0.7, 0.4]))


@pytest.mark.parametrize("kind", FIGURES)
def test_every_kind_has_its_corners_and_pictures_in_range(kind):
    data = shapes([kind])
    for index in range(4):
        sample = data[index]
        assert sample.image.shape == (1, 64, 64)
        assert 0 <= float(sample.image.min()) <= float(sample.image.max()) <= 1
        corners = sample.keypoints[0]
        assert bool(((corners[:, :2] >= 0) & (corners[:, :2] < 64)).all())
        assert (len(corners) == 0) == (kind in ("ellipse", "noise"))
        again = shapes([kind])[index]
        assert torch.equal(sample.image, again.image)
        assert torch.equal(corners, again.keypoints[0])


@pytest.mark.parametrize("kind", ["polygon", "checkerboard", "cube", "star", "line", "stripes"])
def test_pictures_change_in_two_directions_at_corners(kind):
    """The smaller eigenvalue of the gradients' matrix around a corner is far above that of the picture's middle value."""
    sample = shapes([kind])[1]
    image = torch.nn.functional.avg_pool2d(sample.image[None], 3, 1, 1)[0, 0]
    gy, gx = torch.gradient(image)
    terms = torch.nn.functional.avg_pool2d(torch.stack([gx * gx, gx * gy, gy * gy])[None], 5, 1, 2)[0]
    a, b, c = terms
    least = (a + c) / 2 - (((a - c) / 2) ** 2 + b * b).sqrt()
    corners = sample.keypoints[0][:, :2].long()
    at = torch.nn.functional.max_pool2d(least[None], 5, 1, 2)[0][corners[:, 1], corners[:, 0]]
    assert float((at > 4 * least.median().clamp_min(1e-6)).float().mean()) > 0.8


def test_splits_differ_and_open_by_name():
    splits = open_data("synthetic_shapes", train=3, validation=2, test=2)
    ids = {part[i].id for part in (splits.train, splits.validation, splits.test) for i in range(len(part))}
    assert len(ids) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["polygon", "circle"]}, "kinds.*circle"),
        ({"kinds": []}, "kinds.*none"),
        ({"train": 0}, "length"),
        ({"size": 16}, "size"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        open_data("synthetic_shapes", **options)
