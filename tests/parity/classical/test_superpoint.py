"""SuperPoint held against transformers': at equal weights the same scores, keypoints and descriptors."""

import pytest
import torch
from transformers import SuperPointConfig, SuperPointForKeypointDetection

from oculi.classical.superpoint import SuperPoint, suppress
from oculi.nn.interest_points import pixel_scores
from oculi.system import predict
from oculi.types import images_only

SMALL = {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 32, "descriptor_decoder_dim": 32}
RADIUS = 4


def renamed(weights):
    """transformers' names in ours."""
    heads = {"keypoint_decoder.conv_score_": "detector.", "descriptor_decoder.conv_descriptor_": "descriptor."}
    places = {"a": "0.0.", "b": "1."}
    found = {}
    for name, value in weights.items():
        if name.startswith("encoder.conv_blocks."):
            _, _, block, conv, kind = name.split(".")
            found[f"encoder.{block}.{'ab'.index(conv[-1])}.0.{kind}"] = value
            continue
        for theirs, ours in heads.items():
            if name.startswith(theirs):
                letter, kind = name.removeprefix(theirs).split(".")
                found[ours + places[letter] + kind] = value
    return found


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    threshold = 0.0155
    theirs = SuperPointForKeypointDetection(
        SuperPointConfig(**SMALL, keypoint_threshold=threshold, nms_radius=RADIUS, initializer_range=0.3)
    ).eval()
    theirs.to(memory_format=torch.channels_last)  # as ours is once evaluated
    ours = SuperPoint(64, [8, 8, 16, 16], 32, threshold=threshold, radius=RADIUS, published=True).eval()
    missing, unexpected = ours.load_state_dict(renamed(theirs.state_dict()), strict=False)
    assert set(missing) == {"pixel_mean", "pixel_std"}
    assert not unexpected
    return ours, theirs


def test_scores_are_theirs(pair):
    ours, theirs = pair
    image = torch.rand(2, 1, 64, 72, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine = suppress(pixel_scores(ours(image)[0]), RADIUS)
        expected = theirs.keypoint_decoder._get_pixel_scores(theirs.encoder(image)[0])
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def test_keypoints_and_descriptors_are_theirs(pair):
    """Theirs cut the border above and on the left only (they take the picture to be eight times as large)."""
    ours, theirs = pair
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        said = theirs(image.expand(-1, 3, -1, -1))
    for i, mine in enumerate(predict(ours, images_only(image))):
        real = said.mask[i].bool()
        places = said.keypoints[i][real] * 64
        inside = (places < 64 - RADIUS).all(1)
        places, scores = places[inside], said.scores[i][real][inside]
        assert len(mine.points) == len(places) > 5
        mine_order = (mine.points[:, 1] * 64 + mine.points[:, 0]).argsort()
        their_order = (places[:, 1] * 64 + places[:, 0]).argsort()
        torch.testing.assert_close(mine.points[mine_order] - 0.5, places[their_order])
        torch.testing.assert_close(mine.scores[mine_order], scores[their_order], rtol=1e-4, atol=1e-6)
        described = said.descriptors[i][real][inside][their_order]
        torch.testing.assert_close(mine.descriptors[mine_order], described, rtol=1e-3, atol=1e-4)
