"""The answers of each task as answers to those that say less: exact on World scenes, and refused where nothing is held."""

import pytest
import torch

from oculi.data.sources import open_data
from oculi.data.task_taxonomy import (
    TASKS,
    convert,
    to_instances,
    to_label,
    to_panoptic,
    to_semantic,
    true_panoptic,
)
from oculi.ops.boxes import mask_boxes
from oculi.predictions import Classes, Detections, Panoptic, Segmentation

MAP = torch.tensor([[1, 1, 0, 0], [1, 2, 2, 0], [3, 3, 3, 3]])
SCENE = Panoptic(MAP, torch.tensor([2, 4, 0]), torch.tensor([0.6, 0.9, 0.8]), ["ground", "a", "b", "c", "d"])


@pytest.fixture(scope="module")
def samples():
    return open_data(
        "world", task="detection", fields=["panoptic", "semantic"], size=32, train=8, validation=1, test=1
    ).train


def test_panoptic_projects_to_semantic_and_to_instances():
    semantic = convert(SCENE, "semantic")
    assert semantic.semantic.tolist() == [[2, 2, 255, 255], [2, 4, 4, 255], [0, 0, 0, 0]]
    found = convert(SCENE, "instances")
    assert found.labels.tolist() == [3, 1]  # best first, without the ground
    assert [found.names[k] for k in found.labels] == ["d", "b"]
    assert found.boxes.tolist() == [[1, 1, 3, 2], [0, 0, 2, 2]]
    assert [m.sum().item() for m in found.masks] == [2, 3]


def test_world_scenes_lose_nothing_there_and_back(samples):
    for i in range(len(samples)):
        sample = samples[i]
        for whole in (
            true_panoptic(sample.panoptic, sample.labels),
            true_panoptic(sample.panoptic, None, sample.semantic),
        ):
            assert torch.equal(to_semantic(whole).semantic, sample.semantic)
            found = to_instances(whole)
            assert torch.equal(found.labels, sample.labels)
            assert torch.equal(found.masks, sample.masks)
            assert torch.equal(found.boxes, sample.boxes)
            again = to_panoptic(found)
            assert torch.equal(again.semantic, sample.semantic)
            assert torch.equal(to_instances(again).masks, found.masks)


def test_where_masks_overlap_the_higher_score_wins():
    masks = torch.tensor([[[1, 1, 1, 0]], [[0, 1, 0, 0]], [[0, 0, 1, 1]]]).bool()
    found = Detections(mask_boxes(masks), torch.tensor([0.5, 0.9, 0.2]), torch.tensor([0, 1, 2]), masks)
    whole = to_panoptic(found)
    assert whole.semantic.tolist() == [[1, 2, 1, 3]]
    assert to_panoptic(found, stuff=()).semantic.tolist() == [[0, 1, 0, 2]]
    assert to_panoptic(found, stuff=(1, 2)).semantic.tolist() == [[0, 3, 0, 4]]
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), torch.zeros(0, 2, 3).bool())
    assert to_panoptic(nothing).semantic.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert to_panoptic(nothing, stuff=()).panoptic.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_chain_from_panoptic_to_a_label():
    assert isinstance(convert(SCENE, "boxes"), Detections)
    assert convert(SCENE, "boxes").masks is None
    single = convert(SCENE, "single")
    assert (single.labels.tolist(), single.boxes.tolist()) == ([3], [[1, 1, 3, 2]])
    label = convert(SCENE, "label")
    assert isinstance(label, Classes)
    assert label.label == 3
    assert label.probabilities.tolist() == pytest.approx([0, 0.4, 0, 0.6])
    for answer in (SCENE, convert(SCENE, "instances"), label, convert(SCENE, "semantic")):
        own = {Panoptic: "panoptic", Detections: "instances", Classes: "label", Segmentation: "semantic"}[type(answer)]
        assert convert(answer, own) is answer


def test_stuff_and_unknown_pixels_of_the_truth():
    panoptic, semantic = torch.tensor([[1, 0, 0, 0, 2]]), torch.tensor([[7, 3, 255, 9, 255]])
    whole = true_panoptic(panoptic, None, semantic)
    assert whole.semantic.tolist() == [[7, 3, 255, 9, 255]]
    assert whole.panoptic.tolist() == [[1, 3, 0, 4, 2]]
    assert to_instances(whole, stuff=(3, 9)).labels.tolist()[0] == 6


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="task: 'semantc' is none; did you mean semantic"):
        convert(SCENE, "semantc")
    boxes = convert(SCENE, "boxes")
    for task in TASKS:
        refused = {"instances", "semantic", "panoptic"}
        if task in refused:
            with pytest.raises(ValueError, match=f"Detections without masks cannot answer the task {task}"):
                convert(boxes, task)
    with pytest.raises(ValueError, match="Segmentation cannot answer the task boxes"):
        convert(convert(SCENE, "semantic"), "boxes")
    with pytest.raises(ValueError, match="at least one detection"):
        to_label(Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long()))
    with pytest.raises(ValueError, match="answer: expected detections with masks"):
        to_panoptic(boxes)
    with pytest.raises(ValueError, match=r"panoptic: expected objects 0..1, one label each, got 3"):
        true_panoptic(MAP, torch.tensor([0]))
    with pytest.raises(ValueError, match="labels, semantic: expected one of them"):
        true_panoptic(MAP)
