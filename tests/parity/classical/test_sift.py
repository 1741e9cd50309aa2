"""SIFT held against OpenCV's: the same keypoints, the same descriptors, as repeatable and as well matched."""

import functools
import math

import cv2
import pytest
import torch

from oculi.classical.ransac import RANSAC
from oculi.classical.sift import SIFT, experiment, photographs, root_sift, warp, warps
from oculi.metrics.correspondence import corner_error, matching_score, repeatability
from oculi.ops.gaussian_blur import gaussian_blur
from oculi.ops.matching import match_descriptors
from oculi.predictions import Keypoints
from oculi.system import predict
from oculi.types import images_only

SIZE = 256
# OpenCV measures directions with y up: its bin k is our bin -k
MIRRORED = [0, 7, 6, 5, 4, 3, 2, 1]


def opencv(image: torch.Tensor) -> Keypoints:
    found, described = cv2.SIFT_create().detectAndCompute((image[0] * 255).round().byte().numpy(), None)
    descriptors = torch.nn.functional.normalize(torch.from_numpy(described).float())
    return Keypoints(
        torch.tensor([k.pt for k in found]) + 0.25,  # pixel centres at +0.5; its doubling shifts by a quarter pixel
        torch.tensor([k.size / 2 for k in found]),
        torch.tensor([math.radians(k.angle) for k in found]),
        torch.tensor([k.response for k in found]),
        descriptors.view(-1, 16, 8)[:, :, MIRRORED].flatten(1),
    )


def ours(image: torch.Tensor) -> Keypoints:
    return predict(SIFT(SIZE), images_only(image[None]))[0]


@functools.cache
def photo(index: int = 0) -> torch.Tensor:
    return photographs(SIZE, index + 1)[index]


def test_keypoints_and_descriptors_are_opencvs():
    mine, theirs = ours(photo()), opencv(photo())
    assert abs(len(mine.points) - len(theirs.points)) < 0.05 * len(theirs.points)
    near = torch.cdist(theirs.points, mine.points) < 0.5
    turn = (theirs.angles[:, None] - mine.angles + math.pi) % (2 * math.pi) - math.pi
    same = near & (turn.abs() < 0.2) & ((theirs.scales[:, None] / mine.scales).log2().abs() < 0.2)
    assert float(same.any(1).float().mean()) > 0.9
    assert float(same.any(0).float().mean()) > 0.9
    i, j = same.nonzero(as_tuple=True)
    assert float((theirs.points[i] - mine.points[j]).median(0).values.abs().max()) < 0.05
    assert float((theirs.descriptors[i] - mine.descriptors[j]).norm(dim=1).median()) < 0.1


def scores(first: Keypoints, second: Keypoints, H: torch.Tensor) -> tuple[float, float]:
    a, b = first.points.double(), second.points.double()
    pairs, _ = match_descriptors(first.descriptors, second.descriptors)
    return repeatability(a, b, H, SIZE, SIZE), matching_score(a, b, pairs, H, SIZE, SIZE)


def test_repeatability_and_matching_score_are_at_least_0_98_of_opencvs():
    mine, theirs = [], []
    for index in (0, 2):
        my_first, their_first = ours(photo(index)), opencv(photo(index))
        for H in warps(SIZE).values():
            moved = warp(photo(index), H)
            mine.append(scores(my_first, ours(moved), H))
            theirs.append(scores(their_first, opencv(moved), H))
    ratio = torch.tensor(mine).mean(0) / torch.tensor(theirs).mean(0)
    assert float(ratio.min()) >= 0.98, ratio


def test_sift_and_ransac_find_a_known_homography():
    H = warps(SIZE)["view left"]
    first, second = ours(photo()), ours(warp(photo(), H))
    pairs, _ = match_descriptors(first.descriptors, second.descriptors, ratio=0.8)
    found = RANSAC().fit(first.points[pairs[:, 0]], second.points[pairs[:, 1]])
    assert corner_error(found.model, H, SIZE, SIZE) < 1.0


def test_a_quarter_turn_turns_the_answer():
    image = photo()[:, :128, :128]
    first, second = ours(image), ours(image.rot90(-1, (1, 2)))  # clockwise: (x, y) -> (128 - y, x)
    expected = torch.stack([128 - first.points[:, 1], first.points[:, 0]], 1)
    nearest, index = torch.cdist(expected, second.points).min(1)
    # not all: an octave keeps pixels 0, 2, 4, ..., which after the turn are others than before
    assert float((nearest < 0.1).float().mean()) > 0.85
    good = nearest < 0.1
    turn = (second.angles[index[good]] - first.angles[good] - math.pi / 2 + math.pi) % (2 * math.pi) - math.pi
    assert float(turn.abs().median()) < 0.02


def test_a_blob_is_found_at_its_place_and_scale():
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    blob = torch.exp(-((x - 30.3).square() + (y - 33.8).square()) / (2 * 4.0**2))
    found = ours(blob[None])
    assert found.points[0].tolist() == pytest.approx([30.3, 33.8], abs=0.1)
    # scale-normalised: the Laplacian of a blob of sigma 4 answers most at sigma 4, D = L(ks) - L(s) a little below
    assert 2.8 < float(found.scales[0]) < 4.4


def test_descriptors_have_unit_length_and_128_numbers():
    found = ours(photo()[:, :96, :96])
    assert found.descriptors.shape[1] == 128
    torch.testing.assert_close(found.descriptors.norm(dim=1), torch.ones(len(found.points)))
    assert bool((found.scores.diff() <= 0).all())


def test_brightness_and_contrast_do_not_change_descriptors():
    image = photo()[:, :96, :96]
    a, b = ours(image), ours(0.8 * image + 0.1)
    pairs, distances = match_descriptors(a.descriptors, b.descriptors, ratio=0.8)
    assert len(pairs) > 0.8 * len(b.points)
    assert float(distances.median()) < 0.01


def test_nothing_to_see_gives_nothing():
    found = ours(torch.full((1, 48, 64), 0.5))
    assert found.points.shape == (0, 2)
    assert found.descriptors.shape == (0, 128)


def test_max_keypoints_keeps_the_strongest():
    image = photo()[None, :, :96, :96]
    every, few = predict(SIFT(96), images_only(image))[0], predict(SIFT(96, max_keypoints=7), images_only(image))[0]
    assert len(few.points) == 7
    assert torch.equal(few.points, every.points[:7])


def test_blur_is_scipys():
    from scipy.ndimage import gaussian_filter

    image = photo()[None, :, :40, :50]
    expected = gaussian_filter(image[0, 0].double().numpy(), 1.7, mode="mirror", truncate=4.0)
    torch.testing.assert_close(gaussian_blur(image, 1.7)[0, 0].double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"sigma": 0.5}, {"contrast": -1.0}, {"max_keypoints": -1}])
@pytest.mark.unchecked
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SIFT(**wrong)


def test_colour_is_refused():
    with pytest.raises(ValueError, match="1 channel"):
        SIFT(32).predict(images_only(torch.rand(1, 3, 32, 32)))


def test_experiment_at_a_small_size():
    figures = experiment(size=192, photos=1)
    assert figures["median_corner_error"] < 1.0
    assert figures["repeatability"] > 0.5


def test_root_sift_is_the_hellinger_kernel():
    found = ours(photo()[:, :96, :96]).descriptors
    rooted = root_sift(found)
    torch.testing.assert_close(rooted.norm(dim=1), torch.ones(len(found)))
    a, b = (d / d.sum(1, keepdim=True) for d in (found[:10], found[10:20]))
    torch.testing.assert_close(rooted[:10] @ rooted[10:20].T, a.sqrt() @ b.sqrt().T)
    assert torch.equal(root_sift(torch.zeros(1, 128)), torch.zeros(1, 128))
    with pytest.raises(ValueError, match="negative"):
        root_sift(-found)


def test_root_sift_is_kornias():
    from oracles import oracle

    oracle("kornia")
    from kornia.feature import SIFTDescriptor

    patches = photo()[:, :64, :64].unfold(1, 32, 32).unfold(2, 32, 32).reshape(-1, 1, 32, 32)
    plain, rooted = (SIFTDescriptor(32, rootsift=root)(patches) for root in (False, True))
    torch.testing.assert_close(root_sift(plain), rooted, atol=1e-4, rtol=0)


def test_root_sift_matches_at_least_as_well():
    first, H = ours(photo()), warps(SIZE)["view left"]
    second = ours(warp(photo(), H))
    scored = []
    for change in (lambda d: d, root_sift):
        pairs, _ = match_descriptors(change(first.descriptors), change(second.descriptors))
        scored.append(matching_score(first.points.double(), second.points.double(), pairs, H, SIZE, SIZE))
    assert scored[1] >= scored[0] - 0.005


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 30), (7, 9), (12, 12)])
def test_pictures_that_are_too_small_have_nothing(height, width):
    image = torch.rand(1, height, width, generator=torch.Generator().manual_seed(0))
    assert SIFT(32).detect(image).descriptors.shape[1] == 128
