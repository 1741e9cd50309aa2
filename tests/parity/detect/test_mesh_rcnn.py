"""Mesh R-CNN: graph convolutions, looking up and frames by hand; losses, answers and their score."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.data.datasets import Splits
from oculi.data.world.dataset import World
from oculi.data.world.solids import VOXELS
from oculi.detect.mesh_rcnn import GraphConvolution, MeshRCNN, look_up, occupied, squares
from oculi.learn.evaluation import evaluate
from oculi.learn.protocols.meshes import distances
from oculi.ops.cubify import cubify
from oculi.predictions import Meshes
from oculi.types import Batch
from two_stage import lively

SIZE, CLASSES = 32, 5


def ours(**changed):
    torch.manual_seed(0)
    system = MeshRCNN(CLASSES, [1, 1], width=4, channels=4, hidden=8, anchors=[8, 16], proposals=16, points=40,
                      image_size=SIZE, **{"stages": 2} | changed)  # fmt: skip
    lively(system.detector)
    return system.eval()


@pytest.fixture(scope="module")
def world():
    return World(4, size=SIZE, seed=1, fields=("voxels", "surface"))


def test_graph_convolution_by_hand():
    layer = GraphConvolution(2, 3)
    x, links = torch.randn(4, 2), torch.tensor([[0, 1], [1, 2], [0, 2]])
    neighbours = torch.tensor([[0.0, 0.5, 0.5, 0], [0.5, 0, 0.5, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(layer(x, links), F.relu(layer.own(x) + layer.neighbours(neighbours @ x - x)))


def test_looking_up_is_bilinear():
    torch.manual_seed(0)
    maps, place, owner = torch.randn(3, 5, 12, 12), torch.rand(20, 3) * 2.4 - 1.2, torch.arange(20) % 3
    grid = place[:, None, None, :2]
    expected = F.grid_sample(maps[owner], grid, padding_mode="border", align_corners=False)[:, :, 0, 0]
    torch.testing.assert_close(look_up(maps, place, owner), expected, rtol=1e-4, atol=1e-5)


def test_the_best_voxel_is_always_there():
    logits = torch.full((2, 2, 2, 2), -3.0)
    logits[0, 1, 0, 1], logits[1] = -2.0, 4.0
    assert occupied(logits)[0].nonzero().tolist() == [[1, 0, 1]]
    assert occupied(logits)[1].all()


def test_losses_reach_every_weight_and_nothing_without_objects(world):
    system = ours()
    losses = system.loss(Batch.of([world[i] for i in range(4)]))
    names = {"rpn_objectness", "rpn_boxes", "classes", "boxes", "voxels", "chamfer", "edges"}
    assert losses.keys() == names
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in system.parameters())
    empty = Batch(image=torch.rand(1, 3, SIZE, SIZE), boxes=[torch.zeros(0, 4)], labels=[torch.zeros(0).long()],
                  voxels=[torch.zeros(0, VOXELS, VOXELS, VOXELS).bool()], surface=[torch.zeros(0, 256, 3)])  # fmt: skip
    losses = system.loss(empty)
    assert float((losses["voxels"] + losses["chamfer"] + losses["edges"]).detach()) == 0
    assert ours(stages=0).loss(empty).keys() == names - {"chamfer", "edges"}


def test_answers_are_meshes_round_their_boxes():
    system = ours()
    for stage in system.stages:
        nn.init.zeros_(stage.move.weight)
    with torch.no_grad():
        answers = system.predict(Batch(image=torch.rand(2, 3, SIZE, SIZE)))
    assert sum(len(a.boxes) for a in answers) > 2
    for answer in answers:
        assert torch.equal(answer.vertices, answer.rough), "no stage moves anything"
        assert answer.owner.unique().tolist() == list(range(len(answer.boxes)))
        around = squares(answer.boxes)[answer.owner]
        assert (answer.vertices[:, :2] >= around[:, :2] - 1e-3).all()
        assert (answer.vertices[:, :2] <= around[:, 2:] + 1e-3).all()
        answer.to_dict()


def test_the_true_voxels_score_well_and_an_offset_shows(world):
    sample = world[0]
    vertices, faces, owner = cubify(sample.voxels)
    square = squares(sample.boxes)[owner]
    half, middle = (square[:, 2:3] - square[:, :1]) / 2, F.pad((square[:, :2] + square[:, 2:]) / 2, (0, 1))
    rough = middle + half * (vertices + torch.tensor([0.0, 0, 0.5]))
    scores = torch.ones(len(sample.boxes))
    answer = Meshes(sample.boxes, scores, sample.labels, middle + half * vertices, faces, owner, rough)
    near = distances(answer, sample.boxes, sample.labels, sample.surface)
    assert (near[:, 0] < 0.05).all()
    assert (near[:, 1] > near[:, 0] + 0.02).all()
    wrong = distances(answer, sample.boxes, (sample.labels + 1) % 5, sample.surface)
    assert wrong.isnan().any()


def test_it_is_scored(world):
    figures = evaluate(ours(), Splits(world, world, world, list("abcde")))
    assert {"map50", "found"} <= figures.keys()


def test_bad_input_is_named(world):
    batch = Batch.of([world[0]])
    with pytest.raises(ValueError, match=r"batch\.voxels"):
        ours().loss(Batch(image=batch.image, boxes=batch.boxes, labels=batch.labels))
    batch.voxels = [torch.zeros(len(batch.boxes[0]), 8, 8, 8).bool()]
    with pytest.raises(ValueError, match="6 voxels"):
        ours().loss(batch)
    with pytest.raises(ValueError, match="stages"):
        MeshRCNN(stages=-1)
