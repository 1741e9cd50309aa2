"""Non-maximum suppression: the fast form against the greedy definition, ties and empty sets included, and ONNX Runtime's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.ops import nms as module
from oculi.ops.boxes import box_iou
from oculi.ops.nms import batched_nms, greedy_nms, nms, surviving, surviving_of_few, surviving_of_many


def random_boxes(n, seed, whole=False):
    g = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(n, 2, generator=g) * 20, torch.rand(n, 2, generator=g) * 12
    boxes = torch.cat([corner, corner + size], 1)
    scores = torch.rand(n, generator=g)
    return (boxes.round(), (scores * 4).round()) if whole else (boxes, scores)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]), st.booleans())
def test_fast_and_greedy_keep_the_same(n, seed, threshold, whole):
    boxes, scores = random_boxes(n, seed, whole)  # whole numbers: many equal scores, empty and identical boxes
    kept = nms(boxes, scores, threshold)
    assert torch.equal(kept, greedy_nms(boxes, scores, threshold))
    assert torch.equal(scores[kept], scores[kept].sort(descending=True).values)
    overlaps = box_iou(boxes[kept], boxes[kept]).fill_diagonal_(0)
    assert not (overlaps > threshold).any()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 90), st.integers(1, 3), st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans()
)
def test_the_two_ways_keep_the_same(n, sets, seed, threshold, whole):
    """Ties, empty and identical boxes, absent ones, several sets and labels, blocks smaller than the sets."""
    many = [random_boxes(n, seed + k, whole) for k in range(sets)]
    boxes, scores = torch.stack([b for b, _ in many]), torch.stack([s for _, s in many])
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 2, (sets, n), generator=g)
    scores = scores.masked_fill(torch.rand(sets, n, generator=g) < 0.1, -torch.inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEAST_BLOCK", 4)
        patch.setattr(module, "PAIRS_AT_ONCE", 64)
        fast = surviving_of_many(boxes, scores, labels, threshold)
    assert torch.equal(fast, surviving_of_few(boxes, scores, labels, threshold))
    for keep, box, score, label in zip(fast, boxes, scores, labels, strict=True):
        for kind in (-1, 0, 1):
            own = ((label == kind) & (score > -torch.inf)).nonzero()[:, 0]
            expected = own[greedy_nms(box[own], score[own], threshold)]
            assert torch.equal((keep & (label == kind)).nonzero()[:, 0], expected.sort().values)


def test_many_boxes_go_the_fast_way(monkeypatch):
    boxes, scores = random_boxes(400, 1)
    expected = greedy_nms(boxes, scores, 0.5)
    monkeypatch.setattr(module, "surviving_of_few", None)
    assert torch.equal(nms(boxes, scores, 0.5), expected)


def test_a_thousand_sets_at_once():
    many = [random_boxes(12, seed) for seed in range(1000)]
    boxes, scores = torch.stack([b for b, _ in many]), torch.stack([s for _, s in many])
    keep = surviving(boxes, scores, torch.zeros(1000, 12, dtype=torch.int64), 0.5)
    for one, (b, s) in zip(keep, many, strict=True):
        assert sorted(greedy_nms(b, s, 0.5).tolist()) == one.nonzero()[:, 0].tolist()


def test_a_long_chain_is_settled_to_its_end():
    """Each box overlaps the next alone: greedy keeps every other one."""
    x = torch.arange(50.0)
    boxes = torch.stack([x * 4, x * 0, x * 4 + 10, x * 0 + 10], 1)
    assert nms(boxes, -x, 0.3).tolist() == list(range(0, 50, 2))


def test_labels_do_not_meet():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 9, 10]])
    scores = torch.tensor([0.5, 0.9, 0.7, 0.6])
    assert nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert batched_nms(boxes, scores, torch.tensor([0, 1, 0, 1]), 0.5).tolist() == [1, 2, 0]
    assert batched_nms(boxes[:0], scores[:0], torch.tensor([], dtype=torch.int64), 0.5).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_labels_one_by_one_are_the_same(seed):
    boxes, scores = random_boxes(80, seed)
    labels = torch.arange(80) % 3
    parts = [(labels == k).nonzero()[:, 0][greedy_nms(boxes[labels == k], scores[labels == k], 0.4)] for k in range(3)]
    kept = batched_nms(boxes, scores, labels, 0.4)
    assert torch.equal(kept.sort().values, torch.cat(parts).sort().values)
    assert torch.equal(scores[kept], scores[kept].sort(descending=True).values)


def test_onnx_runtime_keeps_the_same():
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    h, kind = onnx.helper, onnx.TensorProto
    names = ["boxes", "scores", "most", "iou"]
    node = h.make_node("NonMaxSuppression", names, ["kept"])
    shapes = [(kind.FLOAT, [1, None, 4]), (kind.FLOAT, [1, 1, None]), (kind.INT64, [1]), (kind.FLOAT, [1])]
    inputs = [h.make_tensor_value_info(name, *shape) for name, shape in zip(names, shapes, strict=True)]
    output = h.make_tensor_value_info("kept", kind.INT64, [None, 3])
    model = h.make_model(h.make_graph([node], "g", inputs, [output]), opset_imports=[h.make_opsetid("", 18)])
    model.ir_version = 9
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for seed in range(100):
        boxes, scores = random_boxes(40, seed)
        given = {
            "boxes": boxes[None].numpy(), "scores": scores[None, None].numpy(),
            "most": np.array([40]), "iou": np.array([0.5], dtype=np.float32),
        }  # fmt: skip
        assert session.run(None, given)[0][:, 2].tolist() == nms(boxes, scores, 0.5).tolist()


def test_bad_threshold_is_named():
    with pytest.raises(ValueError, match="threshold"):
        nms(torch.zeros(1, 4), torch.zeros(1), 1.5)
