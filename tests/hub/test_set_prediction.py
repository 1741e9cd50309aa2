"""transformers writes DETR and MaskFormer as they are published; ours reads them and gives the same numbers."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    ResNetConfig,
)

import oculi
from agreement import close
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


def test_what_ours_has_not_is_named(tmp_path):
    written(detr(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value, said in (("dilation", True, "dilation"), ("backbone_config", {"model_type": "swin"}, "ResNet")):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(BadCheckpoint, match=said):
            oculi.load(tmp_path)
