"""DeepLabv3+ against segmentation_models_pytorch, v3 against torchvision, the resolutions on the way, the CRF's option."""

import pytest
import torch
from torch.nn import functional as F

from agreement import close, copy_in_order
from oculi.segment.deeplabv3plus import DeepLabV3Plus
from oculi.segment.dense_crf import dense_crf
from oculi.system import predict
from oculi.types import Batch
from oracles import oracle, timm, torchvision

SMALL = {"num_classes": 5, "channels": 16, "depths": [1, 1, 1, 1], "bottleneck": False, "width": 8, "image_size": 64}


@pytest.mark.parametrize("output_stride", [8, 16])
def test_equals_segmentation_models(output_stride):
    timm()
    models = oracle("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = models.DeepLabV3Plus(
        "resnet18", encoder_weights=None, encoder_output_stride=output_stride, decoder_channels=256,
        decoder_atrous_rates=(2, 4, 6), decoder_aspp_dropout=0.0, classes=5,
    )  # fmt: skip
    rate = 1
    for stage in (theirs.encoder.layer3, theirs.encoder.layer4)[-1 if output_stride == 16 else 0 :]:
        first = stage[0].conv1  # they spread this one too, though what it looks at is no finer than before
        first.dilation = first.padding = (rate, rate)
        rate *= 2
    ours = DeepLabV3Plus(5, "v3plus", output_stride, [2, 4, 6], 256, [2, 2, 2, 2], False)
    ours.encoder[0].project[3].p = 0.0
    copy_in_order(theirs, ours)
    image, semantic = torch.rand(2, 3, 64, 96), torch.randint(0, 5, (2, 64, 96))
    close(ours.eval()(image), theirs.eval()(image))
    expected = F.cross_entropy(theirs.train()(image), semantic)
    found = ours.train().loss(Batch(image=image, semantic=semantic))["cross_entropy"]
    torch.testing.assert_close(found, expected)
    expected.backward()
    found.backward()
    close(ours.backbone.stem[0].weight.grad, theirs.encoder.conv1.weight.grad, 1e-3)
    close(ours.head.weight.grad, theirs.segmentation_head[0].weight.grad, 1e-4)


def test_v3_equals_torchvision():
    torch.manual_seed(0)
    theirs = torchvision().models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=5, aux_loss=True
    )
    ours = DeepLabV3Plus(5, "v3", 8, [12, 24, 36])
    copy_in_order(theirs, ours)
    image = torch.rand(2, 3, 64, 48)
    close(ours.eval()(image), theirs.eval()(image)["out"])
    maps = ours.features(image)
    aux = F.interpolate(ours.auxiliary(maps[-2]), size=(64, 48), mode="bilinear")
    close(aux, theirs(image)["aux"])


def test_from_a_sixteenth_to_a_quarter_to_all_of_it():
    system = DeepLabV3Plus(**SMALL).eval()
    seen = {}
    for name in ("backbone.stages", "encoder", "reduce", "fuse", "head"):
        layer = system.get_submodule(name)
        layer = layer[-1] if name == "backbone.stages" else layer
        layer.register_forward_hook(lambda m, i, o, name=name: seen.update({name: tuple(o.shape[-2:])}))
    assert system(torch.rand(1, 3, 64, 128)).shape == (1, 5, 64, 128)
    assert seen["backbone.stages"] == seen["encoder"] == (4, 8)
    assert seen["reduce"] == seen["fuse"] == seen["head"] == (16, 32)


@pytest.mark.parametrize("version", ["v1", "v3", "v3plus"])
def test_pictures_of_any_size(version):
    system = DeepLabV3Plus(**SMALL, version=version, rates=[1, 2]).eval()
    for size in ((64, 64), (96, 80), (33, 70)):
        assert system(torch.rand(1, 3, *size)).shape == (1, 5, *size)


def test_v3plus_is_separable_and_v1_one_convolution():
    last, first = DeepLabV3Plus(**SMALL), DeepLabV3Plus(**SMALL, version="v1", rates=[12])
    assert [b[0].depthwise.dilation[0] for b in last.encoder[0].branches[1:]] == [6, 12, 18]
    assert first.encoder[0].dilation == (12, 12)
    assert set(first.eval().loss(Batch(image=torch.rand(2, 3, 64, 64), semantic=torch.zeros(2, 64, 64).long()))) == {
        "cross_entropy"
    }
    assert first.auxiliary is None


@pytest.mark.parametrize("version", ["v1", "v3plus"])
def test_the_crf_refines_answers_and_leaves_logits_alone(version):
    torch.manual_seed(0)
    plain = DeepLabV3Plus(**SMALL, version=version, rates=[1, 2]).eval()
    refined = DeepLabV3Plus(**SMALL, version=version, rates=[1, 2], crf=True).eval()
    refined.load_state_dict(plain.state_dict())
    image = torch.full((1, 3, 64, 64), 0.7)
    image[..., 20:, 32:] = 0.2
    assert torch.equal(plain(image), refined(image))
    expected = dense_crf(image, plain(image).softmax(1))[0]
    answer = predict(refined, Batch(image=image))[0]
    torch.testing.assert_close(answer.probabilities, expected.detach())
    assert torch.equal(answer.semantic, expected.argmax(0))


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="version: expected v1, v3 or v3plus, got 'v2'"):
        DeepLabV3Plus(version="v2")
    with pytest.raises(ValueError, match="output_stride: expected one of 4, 8, 16, 32, got 2"):
        DeepLabV3Plus(output_stride=2)
    with pytest.raises(ValueError, match="channels: expected at least 8, got 4"):
        DeepLabV3Plus(channels=4)
