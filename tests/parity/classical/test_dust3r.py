"""DUSt3R: layers and loss by hand, properties, pose beside scikit-image and scipy; the paper's size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from skimage.transform import SimilarityTransform

from oculi.classical.dust3r import CrossBlock, DUSt3R, PointHead, confidence_loss, regression_errors, true_pointmaps
from oculi.data.datasets import batches
from oculi.data.world.pairs import load
from oculi.geometry.pointmaps import fit_rotation, similarity
from oculi.metrics.classification import roc_area
from oculi.nn.attention import attend, layer_norm
from oculi.system import predict
from oculi.types import Batch

TINY = {"image_size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2}
TINY |= {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}


def one_pair(count: int = 2) -> Batch:
    return next(batches(load(size=32, train=count, validation=1, test=1).train, count))


def test_a_block_is_the_formula():
    torch.manual_seed(0)
    block = CrossBlock(8, 2)
    x, y, places = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(5, 8)

    def heads(v):
        return v.unflatten(-1, (2, 4)).transpose(1, 2)

    def mixed(layer, query, key, value):
        return layer.out(attend(heads(query), heads(key), heads(value)).transpose(1, 2).flatten(2))

    own = layer_norm(x, eps=1e-6)
    key, value = block.attention.key_value(own).chunk(2, -1)
    z = x + mixed(block.attention, block.attention.query(own), key, value)
    seen, cross = layer_norm(y, eps=1e-6), block.cross
    asked = layer_norm(z, eps=1e-6) + places
    z = z + mixed(cross, cross.query(asked), cross.key(seen + places), cross.value(seen))
    z = z + block.mlp(layer_norm(z, eps=1e-6))
    torch.testing.assert_close(block(x, y, places), z)


def test_the_head_puts_pixels_where_their_patch_is():
    head = PointHead(4, 2)
    torch.nn.init.zeros_(head.out.weight)
    with torch.no_grad():
        head.out.bias.copy_(torch.arange(16.0) / 10)  # 4 channels of 2 x 2 pixels
    points, confidence = head(torch.randn(1, 6, 4), 3)
    assert points.shape == (1, 6, 4, 3)
    d = torch.tensor([[0.0, 0.4, 0.8], [0.1, 0.5, 0.9], [0.2, 0.6, 1.0], [0.3, 0.7, 1.1]])
    length = d.norm(dim=-1, keepdim=True)
    expected = d / length * (length.exp() - 1)
    torch.testing.assert_close(points[0, 2:4, 2:4].reshape(4, 3), expected)
    torch.testing.assert_close(confidence[0, :2, :2].flatten(), 1 + torch.tensor([1.2, 1.3, 1.4, 1.5]).exp())


def test_decoders_differ_and_the_encoder_is_shared():
    torch.manual_seed(0)
    system, batch = DUSt3R(**TINY).eval(), one_pair()
    points, confidence = system(batch.image, batch.next_image)
    assert points.shape == (2, 2, 32, 32, 3)
    assert float(confidence.min()) > 1
    other, _ = system(batch.next_image, batch.image)
    assert not torch.allclose(points[:, 0], other[:, 1])
    changed, _ = system(batch.image, batch.next_image.flip(-1))
    assert not torch.allclose(points[:, 0], changed[:, 0])  # the first view's points depend on the second picture
    torch.testing.assert_close(system._encode(batch.next_image), system._encode(batch.next_image.clone()))
    alone, again = system(batch.image), system(batch.image, batch.image)
    torch.testing.assert_close(alone[0], again[0])
    answer = predict(system, batch)[0]
    torch.testing.assert_close(answer.points, points[0])


def test_the_papers_size():
    """ViT-L/16 at 512 pixels, two decoders of twelve blocks of width 768 and linear heads."""
    with torch.device("meta"):
        system = DUSt3R()
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in system.named_children()}
    assert round(count["encoder"] / 1e6) == 304
    assert count["decoders"] == 2 * 12 * (16 * 768**2 + 13 * 768 + 4 * 2 * 768)
    assert count["heads"] == 2 * (769 * 4 * 256 + 2 * 768)


def test_the_loss_is_the_papers_formula():
    batch = one_pair()
    true, valid = true_pointmaps(batch)
    g = torch.Generator().manual_seed(0)
    valid = valid & (torch.rand(valid.shape, generator=g) < 0.7)
    found, confidence = torch.randn(true.shape, generator=g), 1 + torch.rand(valid.shape, generator=g)
    expected = []
    for v in range(2):
        values = []
        for b in range(2):
            z, zt = (m[b][valid[b]].norm(dim=-1).mean() for m in (found, true))
            distance = (found[b, v] / z - true[b, v] / zt).norm(dim=-1)
            values.append((confidence[b, v] * distance - 0.2 * confidence[b, v].log())[valid[b, v]])
        expected.append(torch.cat(values).mean())
    torch.testing.assert_close(confidence_loss(found, confidence, true, valid, 0.2), torch.stack(expected))


def test_the_loss_knows_neither_scale_nor_what_is_unknown():
    true, valid = true_pointmaps(one_pair())
    g = torch.Generator().manual_seed(0)
    found, confidence = torch.randn(true.shape, generator=g), 1 + torch.rand(valid.shape, generator=g)
    loss = confidence_loss(found, confidence, true, valid)
    torch.testing.assert_close(confidence_loss(3 * found, confidence, 7 * true, valid), loss)
    R = torch.from_numpy(Rotation.from_euler("xyz", [0.3, -0.5, 1.0]).as_matrix()).float()
    torch.testing.assert_close(confidence_loss(found @ R.T, confidence, true @ R.T, valid), loss)
    assert float(regression_errors(2 * true, true, valid).max()) < 1e-5
    valid[:, :, :8] = False
    spoilt = torch.where(valid[..., None], true, torch.tensor(1e6))
    spoilt.requires_grad_()
    confidence_loss(found, confidence, true, valid).sum()
    value = confidence_loss(spoilt, confidence, true, valid).sum()
    value.backward()
    torch.testing.assert_close(value, confidence_loss(true, confidence, true, valid).sum())
    assert bool(torch.isfinite(spoilt.grad).all())
    assert float(spoilt.grad[~valid].abs().max()) == 0


def test_unknown_depth_is_left_out():
    batch = one_pair()
    batch.depth[:, :4], batch.next_depth[:, :, 0] = 0.0, torch.inf
    points, valid = true_pointmaps(batch)
    assert bool(torch.isfinite(points).all())
    assert not bool(valid[:, 0, :4].any())
    assert not bool(valid[:, 1, :, 0].any())
    assert int(valid.sum()) == 2 * (32 * 28 + 32 * 31)
    losses = DUSt3R(**TINY).loss(batch)
    assert all(bool(torch.isfinite(v)) for v in losses.values())


def test_confidence_is_learned_to_be_low_where_points_are_ill_defined():
    """A sky whose points are anywhere: nothing can be learned of them but that."""
    torch.manual_seed(0)
    sky = torch.rand(16, 2, 8, 8) < 0.4
    colour = torch.rand(16, 2, 8, 8, 3) * 0.4 + 0.6 * sky[..., None]
    true = torch.stack([colour[..., 0] - 0.2, colour[..., 1] - 0.2, 2 + colour[..., 2]], -1)
    true = torch.where(sky[..., None], torch.randn_like(true) + torch.tensor([0.0, 0, 3]), true)
    valid = torch.ones_like(sky)
    network = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(150):
        said = network(colour)
        loss = confidence_loss(said[..., :3], 1 + said[..., 3].exp(), true, valid).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    confidence = 1 + network(colour)[..., 3].exp().detach()
    assert roc_area(confidence.flatten(), (~sky).flatten().long()) >= 0.9


def test_pose_beside_scikit_image_and_scipy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    turn = Rotation.from_euler("xyz", [0.4, -0.2, 1.1])
    y = 1.8 * (turn.apply(x) + [0.5, -1, 2]) + 0.05 * rng.normal(size=x.shape)
    found = similarity(torch.from_numpy(x), torch.from_numpy(y))
    theirs = SimilarityTransform(dimensionality=3)
    theirs = theirs.from_estimate(x, y) if hasattr(theirs, "from_estimate") else _estimated(theirs, x, y)
    ours = found.matrix().numpy() * 1
    ours[:3] *= float(found.scale)
    np.testing.assert_allclose(ours, theirs.params, atol=1e-9)
    weight = rng.uniform(0.1, 2, size=200)
    rotation, _ = Rotation.align_vectors(y, x, weights=weight)
    R, _, _ = fit_rotation(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(weight))
    np.testing.assert_allclose(R.numpy(), rotation.as_matrix(), atol=1e-9)
    assert math.degrees((Rotation.from_matrix(found.R.numpy()) * turn.inv()).magnitude()) < 1


def _estimated(transform, x, y):
    assert transform.estimate(x, y)
    return transform


@pytest.mark.unchecked
def test_bad_input_is_named():
    for bad in ({"patch": 7}, {"decoder_width": 18, "decoder_heads": 2}, {"decoder_depth": 0}, {"alpha": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            DUSt3R(**{**TINY, **bad})
    system, batch = DUSt3R(**TINY), one_pair()
    with pytest.raises(ValueError, match="sides that 8 divides"):
        system(torch.rand(1, 3, 33, 32))
    with pytest.raises(ValueError, match="next_depth"):
        system.loss(Batch(image=batch.image, next_image=batch.next_image, depth=batch.depth))
    batch.depth, batch.next_depth = batch.depth * 0, batch.next_depth * torch.nan
    with pytest.raises(ValueError, match="one without"):
        system.loss(batch)
