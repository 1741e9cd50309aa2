"""Post-training quantisation against torch's observers and integer arithmetic by hand."""

import pytest
import torch
from torch import nn
from torch.ao.quantization.observer import MinMaxObserver, MovingAverageMinMaxObserver
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.compress.post_training_quantization import (
    PostTrainingQuantization,
    QuantizedLayer,
    Range,
    fold_batch_norms,
    load_quantized,
    save_quantized,
    size,
)
from oculi.ops.quantization import affine_parameters
from oculi.system import BadCheckpoint, predict
from oculi.types import Batch


def tiny(width=8):
    torch.manual_seed(0)
    system = ResNet(5, [1, 1], width=width, stem="small", in_channels=3, image_size=16)
    with torch.no_grad():
        for module in system.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return system.eval()


def data(n=3):
    generator = torch.Generator().manual_seed(1)
    return [Batch(image=torch.rand(4, 3, 16, 16, generator=generator)) for _ in range(n)]


@pytest.mark.parametrize(
    ("kind", "theirs"), [("minmax", MinMaxObserver), ("moving_average", MovingAverageMinMaxObserver)]
)
def test_calibration_equals_torchs_observers(kind, theirs):
    observer = theirs(dtype=torch.quint8, qscheme=torch.per_tensor_affine, reduce_range=False)
    mine, generator = Range(kind), torch.Generator().manual_seed(0)
    for step in range(5):
        x = torch.randn(50, generator=generator) * (step + 1)
        observer(x)
        mine.see(x)
    torch.testing.assert_close(mine.low, observer.min_val)
    torch.testing.assert_close(mine.high, observer.max_val)
    scale, zero = affine_parameters(mine.low, mine.high)
    expected_scale, expected_zero = observer.calculate_qparams()
    torch.testing.assert_close(scale, expected_scale[0])
    assert int(zero) == int(expected_zero)


def test_percentile_ignores_a_rare_outlier():
    x = torch.cat([torch.linspace(-1, 1, 10_000), torch.tensor([100.0])])
    wide, narrow = Range("minmax"), Range("percentile")
    wide.see(x)
    narrow.see(x)
    assert float(wide.high) == 100
    assert float(narrow.high) == pytest.approx(1, abs=0.01)


def test_layer_equals_integer_arithmetic():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.randn(2, 3, 9, 9)
    seen = Range("minmax")
    seen.see(x)
    small = QuantizedLayer(layer)
    small.calibrate(seen)
    integers = (x.double() / small.input_scale.double()).round().clamp(-small.input_zero, 255 - small.input_zero)
    patches = F.unfold(integers, 3, padding=1, stride=2).to(torch.int32)
    total = small.integers.flatten(1).to(torch.int32) @ patches
    expected = total * (small.input_scale * small.scale)[:, None] + layer.bias.detach()[:, None]
    torch.testing.assert_close(small(x).flatten(2), expected, rtol=1e-6, atol=1e-6)
    assert (small(x) - layer(x)).abs().max() < 0.05


def test_folding_changes_nothing():
    system, batch = tiny(), data(1)[0]
    before = system(batch.image)
    pairs = fold_batch_norms(system, batch)
    assert len(pairs) == sum(isinstance(m, nn.Conv2d) for m in system.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in system.modules())
    torch.testing.assert_close(system(batch.image), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "percentile"])
def test_quantised_copy_answers_nearly_alike(observer):
    system, batches = tiny(), data()
    state = {key: value.clone() for key, value in system.state_dict().items()}
    small = PostTrainingQuantization(observer=observer)(system, batches)
    assert all(torch.equal(value, state[key]) for key, value in system.state_dict().items())
    a, b = predict(system, batches[0]), predict(small, batches[0])
    assert max(float((x.probabilities - y.probabilities).abs().max()) for x, y in zip(a, b, strict=True)) < 0.06
    again = PostTrainingQuantization(observer=observer)(system, batches)
    assert torch.equal(small(batches[0].image), again(batches[0].image))


def test_fewer_bits_are_less_exact():
    system, batches = tiny().requires_grad_(False), data()
    errors = []
    for bits in (8, 4, 2):
        small = PostTrainingQuantization(bits)(system, batches)
        errors.append(float((small(batches[0].image) - system(batches[0].image)).square().mean()))
    assert errors == sorted(errors)


def test_four_times_smaller_on_disk_and_the_same_when_loaded(tmp_path):
    system, batches = tiny(width=32), data(1)
    small = PostTrainingQuantization()(system, batches)
    assert 3.5 <= size(system) / size(small) <= 4.2
    save_quantized(small, tmp_path)
    again = load_quantized(tmp_path, system)
    assert torch.equal(again(batches[0].image), small(batches[0].image))


@pytest.mark.unchecked
def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="bits: expected 2 to 8, got 16"):
        PostTrainingQuantization(bits=16)
    with pytest.raises(ValueError, match="calibration: expected at least one batch"):
        PostTrainingQuantization()(tiny(), [])
    with pytest.raises(ValueError, match="in float"):
        save_quantized(tiny(), tmp_path)
    with pytest.raises(BadCheckpoint, match=r"config\.json is missing"):
        load_quantized(tmp_path, tiny())
