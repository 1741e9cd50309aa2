"""torchvision's detectors: names and shapes at full size, files that it writes give equal answers, published facts."""

import pytest
import torch
from torch import nn

import oculi
import oracles
from agreement import close
from hub.checkpoints import lively, normalised
from oculi.detect.retinanet import RetinaNet
from oculi.hub import torchvision_detectors as tables
from oculi.hub.renames import Layout, build
from oculi.ops.nms import greedy_nms
from oculi.system import BadCheckpoint
from oculi.types import images_only
from oracles import torchvision
from two_stage import give_operators

CLASSES = dict.fromkeys(tables.NETWORKS, 90) | {"keypointrcnn_resnet50_fpn": 1, "retinanet_resnet50_fpn": 91}


def full(name):
    with torch.device("meta"):
        return getattr(torchvision().models.detection, name)(weights=None, weights_backbone=None).state_dict()


@pytest.mark.parametrize("name", list(tables.NETWORKS))
def test_every_network_fits(name):
    tensors = full(name)
    described = tables.describe(tables.FILES[name], tensors)
    with torch.device("meta"):
        system = build(described, tensors, name)
    assert system.config["num_classes"] == CLASSES[name] == len(system.class_names)
    assert "person" in system.class_names
    assert not system.training


CHANNELS, HIDDEN = 16, 32


def backbone(layers, extra):
    """A ResNet of one bottleneck a stage with a narrow pyramid."""
    models = torchvision().models
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    trunk = models.resnet.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1])
    names, inputs = {f"layer{n}": str(n) for n in layers}, [128 * 2**n for n in layers]
    return BackboneWithFPN(trunk, names, inputs, CHANNELS, extra)


def theirs(name):
    """Small, with answers of every class."""
    oracles.implement("nms", greedy_nms)
    detection, ops = torchvision().models.detection, torchvision().ops
    size = {"min_size": 64, "max_size": 64}
    if name == "retinanet_resnet50_fpn":
        extra = ops.feature_pyramid_network.LastLevelP6P7(CHANNELS, CHANNELS)
        network = detection.RetinaNet(backbone([2, 3, 4], extra), 4, **size)
        nn.init.normal_(network.head.classification_head.cls_logits.weight, std=0.1)
        nn.init.constant_(network.head.classification_head.cls_logits.bias, -3.0)
        nn.init.normal_(network.head.regression_head.bbox_reg.weight, std=0.05)
        return network
    masks, points = detection.mask_rcnn, detection.keypoint_rcnn
    pool = ops.MultiScaleRoIAlign(["1", "2", "3", "4"], 14, 2)
    kind, more = {
        "fasterrcnn_resnet50_fpn": (detection.FasterRCNN, {}),
        "maskrcnn_resnet50_fpn": (
            detection.MaskRCNN,
            {
                "mask_roi_pool": pool,
                "mask_head": masks.MaskRCNNHeads(CHANNELS, [CHANNELS] * 4, 1),
                "mask_predictor": masks.MaskRCNNPredictor(CHANNELS, CHANNELS, 4),
            },
        ),
        "keypointrcnn_resnet50_fpn": (
            detection.KeypointRCNN,
            {
                "keypoint_roi_pool": pool,
                "keypoint_head": points.KeypointRCNNHeads(CHANNELS, [HIDDEN // 2] * 8),
                "keypoint_predictor": points.KeypointRCNNPredictor(HIDDEN // 2, 3),
            },
        ),
    }[name]
    predictor = detection.faster_rcnn.FastRCNNPredictor(HIDDEN, 4)
    network = kind(
        backbone([1, 2, 3, 4], ops.feature_pyramid_network.LastLevelMaxPool()),
        box_roi_pool=ops.MultiScaleRoIAlign(["1", "2", "3", "4"], 7, 2),
        box_head=detection.faster_rcnn.TwoMLPHead(CHANNELS * 49, HIDDEN),
        box_predictor=predictor, **size, **more,
    )  # fmt: skip
    nn.init.normal_(predictor.cls_score.weight, std=0.5)
    nn.init.normal_(network.rpn.head.bbox_pred.weight, std=0.05)
    return network


def small(name):
    """Arguments that give ours the shape of `theirs`."""
    if name == "ssd300_vgg16":
        return {"width": 8}
    return {"depths": [1, 1, 1, 1], "channels": CHANNELS, **({} if "retina" in name else {"hidden": HIDDEN})}


@pytest.fixture
def shrunk(monkeypatch):
    for name, layout in list(tables.NETWORKS.items()):
        changed = Layout(layout.system, {**layout.arguments, **small(name)}, layout.rules, layout.convert)
        monkeypatch.setitem(tables.NETWORKS, name, changed)


def assert_equal_answers(ours, network, monkeypatch):
    give_operators(monkeypatch)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    shift = 0 if isinstance(ours, RetinaNet) else 1
    with torch.no_grad():
        (mine,), (other,) = ours.predict(images_only(image)), network(list(image))
    assert len(mine.boxes) > 3
    assert torch.equal(mine.labels, other["labels"] - shift)
    torch.testing.assert_close(mine.scores, other["scores"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.boxes, other["boxes"], rtol=1e-4, atol=1e-3)
    if mine.masks is not None:
        assert float((mine.masks != (other["masks"][:, 0] > 0.5)).float().mean()) < 1e-4
    if mine.keypoints is not None:
        torch.testing.assert_close(mine.keypoints[..., :2], other["keypoints"][..., :2], rtol=1e-4, atol=1e-2)


@pytest.mark.usefixtures("shrunk")
@pytest.mark.parametrize("name", [name for name in tables.NETWORKS if name != "ssd300_vgg16"])
def test_a_written_file_gives_equal_answers(name, tmp_path, monkeypatch):
    network = lively(theirs(name))
    torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    ours = oculi.load(tmp_path / f"{name}.pth")
    assert_equal_answers(ours, network, monkeypatch)
    assert (ours.contract.height, ours.contract.resize) == (800, "letterbox")
    assert ours.class_names is None


def narrow_ssd():
    """torchvision's with an eighth of the channels."""
    with torch.device("meta"):
        network = torchvision().models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3)
    for path, module in network.named_modules():
        for key, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d):
                sizes = max(3, conv.in_channels // 8), conv.out_channels // (1 if "module_list" in path else 8)
                kept = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
                setattr(module, key, nn.Conv2d(*sizes, *kept))
    network.backbone.scale_weight = nn.Parameter(20 + torch.randn(64))
    return network.eval()


@pytest.mark.usefixtures("shrunk")
def test_ssd_s_file_gives_equal_outputs(tmp_path):
    network = narrow_ssd()
    torch.save(network.state_dict(), tmp_path / "ssd300_vgg16-mine.pth")
    ours = oculi.load(tmp_path / "ssd300_vgg16-mine.pth")
    image = torch.rand(1, 3, 272, 272)
    with torch.no_grad():
        logits, deltas, _ = ours.dense(image)
        expected = network.head(list(network.backbone(normalised(image, ours)).values()))
    close(logits, expected["cls_logits"].roll(-1, 2), 1e-4)
    close(deltas, expected["bbox_regression"], 1e-4)
    assert (ours.contract.height, ours.contract.resize) == (300, "stretch")


@pytest.mark.usefixtures("shrunk")
def test_published_files_have_no_epsilon():
    from torchvision.models.detection._utils import overwrite_eps
    from torchvision.ops.misc import FrozenBatchNorm2d

    name = "fasterrcnn_resnet50_fpn"
    network = lively(theirs(name))
    stem = network.backbone.body.bn1
    stem.running_var[:32], stem.weight.data[:32] = 3e-5, 0.01  # where an epsilon counts
    for module in network.modules():
        for key, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features)
                frozen.load_state_dict(norm.state_dict())
                setattr(module, key, frozen)
    overwrite_eps(network, 0.0)
    tensors = network.state_dict()
    ours = build(tables.describe(tables.FILES[name], tensors), tensors, name)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = zip(ours.features(image), network.backbone(normalised(image, ours)).values(), strict=True)
    for mine, other in maps:
        close(mine, other, 1e-4)


def test_older_names_of_retinanet():
    name = "retinanet_resnet50_fpn"
    tensors = full(name)
    older = {key: value for key, value in tensors.items() if "_head.conv." not in key}
    for part in ("classification_head", "regression_head"):
        for index in range(4):
            for kind in ("weight", "bias"):
                older[f"head.{part}.conv.{2 * index}.{kind}"] = tensors[f"head.{part}.conv.{index}.0.{kind}"]
    with torch.device("meta"):
        build(tables.describe(tables.FILES[name], older), older, name)


def test_background_goes_last():
    tensors = {
        "roi_heads.box_predictor.cls_score.bias": torch.arange(4.0),
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(4.0).repeat_interleave(4),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": torch.arange(4.0),
        "head.classification_head.module_list.0.bias": torch.arange(3.0).repeat(4),
        "head.classification_head.cls_logits.bias": torch.arange(4.0),
    }
    classes, deltas, masks, single, retina = tables.background_last(tensors).values()
    assert classes.tolist() == [1, 2, 3, 0]
    assert deltas.reshape(3, 4)[:, 0].tolist() == masks.tolist() == [1, 2, 3]
    assert single.tolist() == [1, 2, 0] * 4
    assert retina.tolist() == [0, 1, 2, 3]


def test_published_names_sizes_and_classes_are_torchvision_s_own():
    models = torchvision().models
    for name, file in tables.FILES.items():
        (weights,) = (w for w in models.get_model_weights(name) if w.name == "COCO_V1")
        assert file.name == weights.url.rpartition("/")[2]
        given = weights.meta["categories"]
        assert given == (["no person", "person"] if "keypoint" in name else tables.COCO)
    network = full_size_transform("fasterrcnn_resnet50_fpn")
    assert (network.min_size, network.image_mean, network.image_std) == ((tables.SIZE,), tables.MEAN, tables.STD)
    network = full_size_transform("ssd300_vgg16")
    assert (network.fixed_size, network.image_mean) == ((tables.SSD_SIZE,) * 2, tables.SSD_MEAN)
    assert network.image_std == pytest.approx(tables.SSD_STD)


def full_size_transform(name):
    with torch.device("meta"):
        return getattr(torchvision().models.detection, name)(weights=None, weights_backbone=None).transform


def test_what_does_not_fit_is_named(tmp_path):
    torch.save({"backbone.body.conv1.weight": torch.zeros(1)}, tmp_path / "maskrcnn_resnet50_fpn.pth")
    with pytest.raises(BadCheckpoint, match=r"cls_score\.bias, which counts the classes; it is missing"):
        oculi.load(tmp_path / "maskrcnn_resnet50_fpn.pth")
    (tmp_path / "retinanet_resnet18_fpn.pth").write_bytes(b"")
    with pytest.raises(BadCheckpoint, match="expected one of retinanet_resnet50_fpn"):
        oculi.load(tmp_path / "retinanet_resnet18_fpn.pth")
    with pytest.raises(BadCheckpoint, match="torchvision's files: expected one of maskrcnn_resnet50_fpn"):
        oculi.load("torchvision/maskrcnn_resnet18_fpn")
