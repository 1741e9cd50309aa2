"""transformers writes DETR, RT-DETR and its kin as they are published; ours reads them and gives the same numbers."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    SwinConfig,
)

import oculi
from agreement import close
from hub.checkpoints import edit, lively
from oculi.predictions import Detections, Panoptic
from oculi.system import BadCheckpoint

PREPROCESSOR = {"size": {"shortest_edge": 64}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
STAGES = ["stage1", "stage2"]
BACKBONE = ResNetConfig(embedding_size=8, hidden_sizes=[32, 64], depths=[1, 2], out_features=STAGES)
TRANSFORMER = {
    "backbone_config": BACKBONE, "use_timm_backbone": False, "num_queries": 5, "d_model": 32, "encoder_layers": 1,
    "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "dropout": 0.0,
}  # fmt: skip


def written(model, folder, **preprocessor):
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, **preprocessor}))
    return model


def detr():
    torch.manual_seed(0)
    return DetrForObjectDetection(DetrConfig(**TRANSFORMER, num_labels=3))


def test_detr_reads_and_answers_the_same(tmp_path):
    model = written(detr(), tmp_path)
    system = oculi.load(tmp_path)
    assert system.contract.resize == "letterbox"
    assert system.class_names == ["LABEL_0", "LABEL_1", "LABEL_2"]
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        output = model(system.normalize(image))
        logits, boxes = system.answers(system.decoded(image)[-1])
    close(logits, output.logits, 1e-5)
    close(boxes, output.pred_boxes, 1e-5)


def timms(name):
    """The published files have timm's names in the trunk."""
    name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")

    def block(found):
        stage, index, part, kind = int(found[1]) + 1, found[2], found[3], found[4]
        if part == "shortcut":
            return f"layer{stage}.{index}.downsample.{0 if kind == 'convolution' else 1}"
        return f"layer{stage}.{index}.{'conv' if kind == 'convolution' else 'bn'}{int(part.split('.')[1]) + 1}"

    pattern = r"encoder\.stages\.(\d)\.layers\.(\d)\.(shortcut|layer\.\d)\.(convolution|normalization)"
    return re.sub(pattern, block, name)


def test_timms_names_are_read_too(tmp_path, monkeypatch):
    from oculi.hub import set_prediction

    written(detr(), tmp_path)
    expected = oculi.load(tmp_path).state_dict()
    file = tmp_path / "model.safetensors"
    renamed = {timms(name): value for name, value in load_file(file).items()}
    assert "model.backbone.conv_encoder.model.layer2.1.bn3.weight" in renamed
    save_file(renamed, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone_config"], config["backbone"] = None, "resnet50"
    (tmp_path / "config.json").write_text(json.dumps(config))
    small = {"depths": [1, 2], "bottleneck": True, "width": 8}
    monkeypatch.setattr(set_prediction, "_resnet", lambda config, source: small)
    for name, value in oculi.load(tmp_path).state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_maskformer_reads_and_answers_the_same(tmp_path):
    torch.manual_seed(0)
    config = MaskFormerConfig(
        backbone_config=BACKBONE, decoder_config=DetrConfig(**TRANSFORMER), num_labels=3, fpn_feature_size=32,
        mask_feature_size=32,
    )  # fmt: skip
    model = written(MaskFormerForInstanceSegmentation(config), tmp_path, size=64)
    system = oculi.load(tmp_path)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        output = model(system.normalize(image))
        logits, masks = system.answers(image, last=True)
    close(logits, output.class_queries_logits, 1e-5)
    close(masks, output.masks_queries_logits, 1e-5)


def rt_detr(backbone):
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [32, 64, 128], "depths": [1, 2, 1]}
    config = RTDetrConfig(
        backbone_config=backbone(**sizes, out_features=["stage1", "stage2", "stage3"]), num_labels=3, num_queries=7,
        encoder_hidden_dim=16, encoder_in_channels=[32, 64, 128], feat_strides=[4, 8, 16], encoder_ffn_dim=24,
        encoder_attention_heads=2, d_model=16, decoder_in_channels=[16] * 3, decoder_ffn_dim=24, decoder_layers=2,
        decoder_attention_heads=2, num_denoising=8,
    )  # fmt: skip
    model = RTDetrForObjectDetection(config)
    for value in model.parameters():
        if value.dim() > 1 and not value.any():  # heads that begin with zeros
            torch.nn.init.normal_(value, std=0.2)
    return lively(model)


@pytest.mark.parametrize("backbone", [RTDetrResNetConfig, ResNetConfig])
def test_rt_detr_reads_and_answers_the_same(tmp_path, backbone):
    model = written(rt_detr(backbone), tmp_path, size={"height": 64, "width": 64}, do_normalize=False)
    system = oculi.load(tmp_path)
    assert system.config["stem"] == ("deep" if backbone is RTDetrResNetConfig else "imagenet")
    assert (system.contract.resize, system.pixel_mean.max(), system.pixel_std.min()) == ("stretch", 0, 1)
    assert_boxes_are_theirs(system, model, torch.rand(2, 3, 64, 64))
    assert_boxes_are_theirs(system, model, torch.rand(1, 3, 96, 64))
    oculi.save(system, tmp_path / "ours")
    assert_boxes_are_theirs(oculi.load(tmp_path / "ours"), model, torch.rand(1, 3, 64, 64))


def assert_boxes_are_theirs(system, model, image):
    with torch.no_grad():
        output = model(image)
        logits, boxes = system.last(image)
    close(logits, output.logits, 1e-4)
    close(boxes, output.pred_boxes, 1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_expansion": 0.5}, "hidden_expansion: expected 1.0, got 0.5"),
        ({"encoder_hidden_dim": 24}, "encoder_hidden_dim: expected 16, got 24"),
        ({"backbone_config": {"model_type": "rt_detr_resnet", "layer_type": "basic"}}, "layer_type"),
        ({"num_queries": 0}, "RTDETR cannot be built"),
        ({"decoder_layers": 1}, "surplus: model.decoder"),
    ],
)
def test_what_rt_detr_has_otherwise_is_named(tmp_path, changes, said):
    written(rt_detr(RTDetrResNetConfig), tmp_path, size={"height": 64, "width": 64})
    edit(tmp_path, **changes)
    with pytest.raises(BadCheckpoint, match=said):
        oculi.load(tmp_path)


@pytest.fixture(scope="module")
def universal(tmp_path_factory):
    """A Mask2Former of 3 classes, published by the name of an instance and of a panoptic one."""
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 1, 1, 2], window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"], drop_path_rate=0.0,
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, num_labels=3, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_layers=1,
        decoder_layers=4, num_attention_heads=1, encoder_feedforward_dim=24, dim_feedforward=48, num_queries=6,
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    folder = tmp_path_factory.mktemp("universal")
    for name in ("mask2former-swin-tiny-instance", "mask2former-swin-tiny-panoptic"):
        (folder / name).mkdir()
        written(model, folder / name, size={"height": 256, "width": 256})
    return model, folder


def test_mask2former_reads_and_answers_the_same(universal):
    model, folder = universal
    system = oculi.load(folder / "mask2former-swin-tiny-panoptic")
    image = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        output = model(system.normalize(image))
        logits, masks = system.answers(image, last=True)
    close(logits, output.class_queries_logits, 1e-4)
    close(masks, output.masks_queries_logits, 1e-4)
    assert system.config["stuff"] == []
    assert system.config["layers"] == [1, 3]
    assert isinstance(oculi.predict(system, image[0])[0], Panoptic)


def test_its_name_says_that_it_answers_by_instances(universal):
    _, folder = universal
    system = oculi.load(folder / "mask2former-swin-tiny-instance")
    assert system.config["stuff"] is None
    (answer,) = oculi.predict(system, torch.rand(3, 256, 256))
    assert isinstance(answer, Detections)
    assert system.answer is Detections
    assert answer.masks.shape[1:] == (256, 256)


def test_what_ours_has_not_of_mask2former_is_named(universal, tmp_path):
    model, _ = universal
    written(model, tmp_path, size={"height": 256, "width": 256})
    config = json.loads((tmp_path / "config.json").read_text())
    for changes, said in (({"window_size": 12}, "window_size: expected 7, got 12"), ({"model_type": "resnet"}, "swin")):
        edit(tmp_path, backbone_config={**config["backbone_config"], **changes})
        with pytest.raises(BadCheckpoint, match=said):
            oculi.load(tmp_path)


def test_what_ours_has_not_is_named(tmp_path):
    written(detr(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value, said in (("dilation", True, "dilation"), ("backbone_config", {"model_type": "swin"}, "ResNet")):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(BadCheckpoint, match=said):
            oculi.load(tmp_path)
