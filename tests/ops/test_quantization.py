"""Quantisation: worked numbers, torch's own operators, error bounds."""

import pytest
import torch

from oculi.ops.quantization import (
    affine_parameters,
    dequantize,
    integer_matmul,
    integer_range,
    quantize,
    quantize_symmetric,
    symmetric_scale,
)


def away_from_ties(x, scale):
    return ((x / scale - (x / scale).floor()) - 0.5).abs() > 1e-3


def test_affine_worked_numbers():
    scale, zero = affine_parameters(torch.tensor(-1.0), torch.tensor(2.0))
    assert float(scale) == pytest.approx(3 / 255)
    assert int(zero) == 85
    assert quantize(torch.tensor([-1.0, 0, 1, 2]), scale, zero, 0, 255).tolist() == [0, 85, 170, 255]
    scale, zero = affine_parameters(torch.tensor(0.0), torch.tensor(1.0), -128, 127)
    assert quantize(torch.tensor([0, 0.25, 0.6, 1]), scale, zero, -128, 127).tolist() == [-128, -64, 25, 127]


def test_symmetric_worked_numbers():
    scale = symmetric_scale(torch.tensor(1.0))
    assert float(scale) == pytest.approx(1 / 127)
    assert quantize_symmetric(torch.tensor([-1, -0.25, 0.25, 0.6, 1]), scale).tolist() == [-127, -32, 32, 76, 127]
    assert quantize_symmetric(torch.tensor([-2.0, 2.0]), scale).tolist() == [-128, 127]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, 3.0), (-3.0, -0.2), (-0.3, 0.7)])
def test_equals_torch_and_zero_is_exact(low, high):
    x = torch.empty(2000).uniform_(low - 0.5, high + 0.5, generator=torch.Generator().manual_seed(0))
    scale, zero = affine_parameters(torch.tensor(low), torch.tensor(high))
    x = x[away_from_ties(x, scale)]
    ours = quantize(x, scale, zero, 0, 255)
    theirs = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), 0, 255)
    torch.testing.assert_close(dequantize(ours, scale, zero), theirs, rtol=1e-6, atol=1e-6)
    assert float(dequantize(quantize(torch.zeros(1), scale, zero, 0, 255), scale, zero)) == 0
    inside = (x >= min(low, 0)) & (x <= max(high, 0))
    assert float((x - dequantize(ours, scale, zero)).abs()[inside].max()) <= float(scale) * 1.0001
    middle = (x >= min(low, 0) + scale) & (x <= max(high, 0) - scale)
    assert float((x - dequantize(ours, scale, zero)).abs()[middle].max()) <= float(scale) * 0.5001


def test_per_channel_broadcasts():
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.1], [1], [10], [100]])
    scale = symmetric_scale(weight.abs().amax(1))
    integers = quantize_symmetric(weight, scale[:, None])
    assert integers.dtype == torch.int8
    assert integers.abs().amax(1).tolist() == [127] * 4
    assert bool(((weight - integers * scale[:, None]).abs() <= scale[:, None] * 0.5001).all())


def test_integer_products_equal_those_of_what_they_stand_for():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (5, 300), generator=generator, dtype=torch.int8)
    b = torch.randint(-128, 128, (300, 7), generator=generator, dtype=torch.int8)
    assert torch.equal(integer_matmul(a, b).double(), a.double() @ b.double())
    assert integer_matmul(torch.full((1, 4), 127, dtype=torch.int8), torch.full((4, 1), 127, dtype=torch.int8)) == 64516


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="bits: expected 2 to 16, got 1"):
        integer_range(1)
    with pytest.raises(ValueError, match="low <= high"):
        affine_parameters(torch.tensor(1.0), torch.tensor(0.0))
    with pytest.raises(ValueError, match="finite"):
        symmetric_scale(torch.tensor(float("inf")))
    assert integer_range(8) == (-128, 127)
    assert integer_range(8, signed=False) == (0, 255)
