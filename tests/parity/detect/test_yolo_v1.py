"""YOLO v1 by hand: the grid's targets and back, sizes of the paper, each term of the loss, answers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.detect.yolo_v1 import YOLOv1, from_grid, to_grid, wanted_of
from oculi.nn.detection import Truth
from oculi.ops.boxes import box_iou
from oculi.types import Batch


def tiny(**arguments):
    torch.manual_seed(0)
    return YOLOv1(3, 4, 2, [[4], [8]], "small", 16, 0.0, image_size=32, **arguments).eval()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([(64, 64), (48, 96)]))
def test_targets_go_through_the_grid_and_back(seed, grid, size):
    g = torch.Generator().manual_seed(seed)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float64)
    a, b = (torch.rand(2, 20, 2, generator=g, dtype=torch.float64) * limit).unbind(0)
    boxes = torch.cat([torch.minimum(a, b), torch.maximum(a, b)], 1)
    cell, values = to_grid(boxes, grid, *size)
    assert ((values >= 0) & (values <= 1)).all()
    torch.testing.assert_close(from_grid(values, cell, grid, *size), boxes, rtol=0, atol=1e-9)


def test_whole_pixels_come_back_exactly():
    boxes = torch.tensor([[0.0, 0, 16, 8], [20, 30, 40, 62], [56, 8, 64, 16]])
    cell, values = to_grid(boxes, 8, 64, 64)
    assert cell.tolist() == [0 + 1, 5 * 8 + 3, 1 * 8 + 7]
    assert torch.equal(from_grid(values, cell, 8, 64, 64), boxes)


def test_the_papers_network_gives_1470_numbers():
    with torch.device("meta"):
        system = YOLOv1()
        assert sum(isinstance(m, torch.nn.Conv2d) for m in system.trunk) == 24
        assert system.output.out_features == 7 * 7 * (2 * 5 + 20) == 1470
        boxes, classes = system.dense(torch.rand(2, 3, 448, 448, device="meta"))
    assert boxes.shape == (2, 49, 2, 5)
    assert classes.shape == (2, 49, 20)


def test_a_cell_answers_for_its_largest_object():
    boxes = torch.tensor([[[0.0, 0, 8, 8], [1, 1, 9, 7], [20, 20, 30, 30], [0, 0, 31, 31]]])
    truth = Truth(boxes, torch.zeros(1, 4).long(), torch.tensor([[True, True, True, False]]))
    wanted = wanted_of(truth, 4, 32, 32)
    assert wanted.filled[0].nonzero()[:, 0].tolist() == [0, 15]
    assert wanted.own[0, 0] == 0
    assert wanted.own[0, 15] == 2


def test_losses_by_hand():
    """Cell by cell, box by box, as section 2.2 writes the sums."""
    system = tiny()
    said = torch.randn(2, 16, 2, 5, generator=torch.Generator().manual_seed(1))
    classes = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(2))
    system.dense = lambda image: (said, classes)
    boxes = [torch.tensor([[2.0, 3, 12, 9], [20, 16, 30, 28]]), torch.tensor([[5.0, 20, 9, 31]])]
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    losses = system.loss(Batch(image=torch.rand(2, 3, 32, 32), boxes=boxes, labels=labels))
    expected = {"boxes": 0.0, "confidence": 0.0, "classes": 0.0}
    for picture in range(2):
        objects = {}
        for box, label in zip(boxes[picture], labels[picture], strict=True):
            x, y = (box[0] + box[2]) / 2 / 32 * 4, (box[1] + box[3]) / 2 / 32 * 4
            objects[int(y) * 4 + int(x)] = (box, int(label), x % 1, y % 1)
        for cell in range(16):
            predicted = said[picture, cell]
            chosen = -1
            if cell in objects:
                box, label, x, y = objects[cell]
                row, column = divmod(cell, 4)
                middle = torch.stack([(predicted[:, 0] + column) * 8, (predicted[:, 1] + row) * 8], 1)
                half = predicted[:, 2:4] ** 2 * 32 / 2
                overlap = box_iou(torch.cat([middle - half, middle + half], 1), box[None])[:, 0]
                chosen = int(overlap.argmax())
                own = predicted[chosen]
                sides = [((box[2 + k] - box[k]) / 32) ** 0.5 for k in (0, 1)]
                terms = (own[0] - x) ** 2 + (own[1] - y) ** 2 + (own[2] - sides[0]) ** 2 + (own[3] - sides[1]) ** 2
                expected["boxes"] += 5 * terms
                expected["confidence"] += (own[4] - overlap[chosen]) ** 2
                expected["classes"] += sum((classes[picture, cell, k] - float(k == label)) ** 2 for k in range(3))
            for k in range(2):
                expected["confidence"] += 0.5 * predicted[k, 4] ** 2 * (k != chosen)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value / 2)


def test_answers_are_what_the_cells_say():
    system = tiny()
    said, classes = torch.zeros(1, 16, 2, 5), torch.zeros(1, 16, 3)
    said[0, 5, 1] = torch.tensor([0.5, 0.5, 0.5, 0.25**0.5 * 0.5, 0.9])
    classes[0, 5] = torch.tensor([0.0, 0.8, -0.3])
    system.dense = lambda image: (said, classes)
    (answer,) = system.predict(Batch(image=torch.zeros(1, 3, 32, 32)))
    torch.testing.assert_close(answer.boxes, torch.tensor([[8.0, 11, 16, 13]]))
    torch.testing.assert_close(answer.scores, torch.tensor([0.72]))
    assert answer.labels.tolist() == [1]


def test_pictures_without_objects_teach_confidence_alone():
    losses = tiny().loss(
        Batch(image=torch.rand(1, 3, 32, 32), boxes=[torch.zeros(0, 4)], labels=[torch.zeros(0).long()])
    )
    assert float(losses["boxes"].detach()) == float(losses["classes"].detach()) == 0
    assert float(losses["confidence"].detach()) > 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="grid"):
        YOLOv1(grid=0, stages=[[4]])
    with pytest.raises(ValueError, match="image_size"):
        YOLOv1(stages=[[4]] * 5, stem="small", image_size=8)
    with pytest.raises(ValueError, match=r"batch\.boxes"):
        tiny().loss(Batch(image=torch.rand(1, 3, 32, 32)))
