r"""Post-training quantisation: a trained system with int8 weights and int8 arithmetic, about four times smaller.

    1. fold      batch norm into its convolution:  w' = w g / sqrt(v + e),  b' = beta + (b - m) g / sqrt(v + e)
    2. weights   per output channel, symmetric:  w = s_w q_w,  q_w in [-127, 127]
    3. inputs    of each layer, per tensor, affine:  x = s_x (q_x - z_x),  the range being calibrated on a few batches
    4. y = s_x s_w sum (q_x - z_x) q_w + b                   low-precision products, high-precision accumulation

Ranges: `minmax` sees the extremes, `moving_average` follows each batch's (weight 0.01), `percentile` cuts off
0.1 % at each end, averaged over the batches. Convolutions and linear layers are replaced, the rest stays in float.

The integers are multiplied in floating point that holds them exactly, so figures are those of integer arithmetic,
on any machine; what is saved on disk is int8. Weights that two layers share stay in float. Differs from the paper in
that biases stay float32 and activations return to float32 between the layers.

Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2017,
arXiv:1712.05877. Krishnamoorthi: Quantizing Deep Convolutional Networks, 2018, arXiv:1806.08342.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.data.datasets import batches
from oculi.learn.evaluation import evaluate
from oculi.learn.training import cached
from oculi.ops.quantization import (
    affine_parameters,
    integer_range,
    quantize,
    quantize_symmetric,
    symmetric_scale,
)
from oculi.system import CONFIG, WEIGHTS, BadCheckpoint, System, evaluating, replacing, save
from oculi.types import Batch

_EXACT_TAPS = 2**24 // (255 * 127)  # so many products of 8-bit integers always add up exactly in float32


class Range:
    """The range of a tensor over the calibration batches."""

    def __init__(self, kind: str):
        self.kind, self.seen = kind, 0
        self.low, self.high = torch.zeros(()), torch.zeros(())

    def see(self, x: Tensor) -> None:
        """Take one batch into account."""
        low, high = torch.aminmax(x.detach())
        if self.kind == "percentile":
            flat = x.detach().flatten().float().sort().values
            cut = int(0.001 * (len(flat) - 1))
            low, high = flat[cut], flat[len(flat) - 1 - cut]
        self.seen += 1
        if self.seen == 1:
            self.low, self.high = low, high
        elif self.kind == "minmax":
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        else:
            weight = 0.01 if self.kind == "moving_average" else 1 / self.seen
            self.low, self.high = self.low + weight * (low - self.low), self.high + weight * (high - self.high)


class QuantizedLayer(nn.Module):
    """A convolution or linear layer on integers: affine 8-bit inputs, symmetric weights per output channel."""

    integers: Tensor
    scale: Tensor
    bias: Tensor | None
    input_scale: Tensor
    input_zero: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear, bits: int = 8, activation_bits: int = 8):
        super().__init__()
        self.options: dict[str, Any] = {}
        if isinstance(layer, nn.Conv2d):
            mode = layer.padding_mode
            if mode != "zeros":
                raise ValueError(f"padding_mode: expected zeros in a quantised convolution, got {mode}")
            named = ("stride", "padding", "dilation", "groups")
            self.options = {name: getattr(layer, name) for name in named}
        self.bits, self.activation_bits = bits, activation_bits
        weight = layer.weight.detach()
        scale = symmetric_scale(weight.flatten(1).abs().amax(1), bits)
        self.register_buffer("integers", quantize_symmetric(weight, _along(scale, weight), bits))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("input_zero", torch.zeros((), dtype=torch.int32))
        exact = weight[0].numel() <= _EXACT_TAPS and max(bits, activation_bits) <= 8
        self.arithmetic = torch.float32 if exact else torch.float64

    @property
    def weight(self) -> Tensor:
        """The weights that the integers stand for."""
        return self.integers * _along(self.scale, self.integers)

    def calibrate(self, seen: Range) -> None:
        """Fix the inputs' scale and zero point."""
        scale, zero = affine_parameters(seen.low, seen.high, *integer_range(self.activation_bits, signed=False))
        self.input_scale.copy_(scale)
        self.input_zero.copy_(zero)

    def forward(self, x: Float[Tensor, "*shape"]) -> Tensor:
        limits = integer_range(self.activation_bits, signed=False)
        integers = quantize(x, self.input_scale, self.input_zero, *limits) - self.input_zero
        inputs, weights = integers.to(self.arithmetic), self.integers.to(self.arithmetic)
        total = F.conv2d(inputs, weights, **self.options) if self.options else F.linear(inputs, weights)
        shape = (-1, 1, 1) if self.options else (-1,)
        result = (total * (self.input_scale * self.scale).reshape(shape)).to(x.dtype)
        return result if self.bias is None else result + self.bias.reshape(shape)


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


@dataclass(frozen=True)
class PostTrainingQuantization:
    """bits: of the weights; activation_bits: of the layers' inputs; observer: how their ranges are calibrated."""

    bits: int = 8
    activation_bits: int = 8
    observer: Literal["minmax", "moving_average", "percentile"] = "minmax"

    def __post_init__(self) -> None:
        for name in ("bits", "activation_bits"):
            if not 2 <= getattr(self, name) <= 8:
                raise ValueError(f"{name}: expected 2 to 8, got {getattr(self, name)}")
        if self.observer not in ("minmax", "moving_average", "percentile"):
            raise ValueError(f"observer: expected minmax, moving_average or percentile, got {self.observer!r}")

    def __call__(self, system: System, calibration: Iterable[Batch]) -> System:
        """A quantised copy, in eval mode, that predicts as the system does; the system itself is left as it was.

        Raises ValueError without calibration batches or without a layer to quantise.
        """
        seen = list(calibration)
        if not seen:
            raise ValueError("calibration: expected at least one batch, got none")
        small = copy.deepcopy(system).eval().requires_grad_(False)
        folded = fold_batch_norms(small, seen[0])
        ranges = self._ranges(small, seen)
        if not ranges:
            raise ValueError(f"system: {type(system).__name__} runs no convolution or linear layer to quantise")
        for name, found in ranges.items():
            layer = QuantizedLayer(small.get_submodule(name), self.bits, self.activation_bits)  # type: ignore[arg-type]
            layer.calibrate(found)
            _replace(small, name, layer)
        described = {"bits": self.bits, "activation_bits": self.activation_bits, "observer": self.observer}
        small.quantization = {**described, "folded": folded, "layers": list(ranges)}  # type: ignore[assignment]
        return small.eval()

    def _ranges(self, system: System, seen: list[Batch]) -> dict[str, Range]:
        """The input range of each layer that runs, by name."""
        ranges: dict[str, Range] = {}

        def watch(name: str) -> Any:
            return lambda module, inputs: ranges.setdefault(name, Range(self.observer)).see(inputs[0])

        handles = [m.register_forward_pre_hook(watch(n)) for n, m in _quantizable(system).items()]
        _run(system, seen, handles)
        return ranges


def _quantizable(system: nn.Module) -> dict[str, nn.Module]:
    """Convolutions and linear layers, subclasses and shared weights left out."""
    layers = {name: m for name, m in system.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}
    owners = Counter(id(p) for m in system.modules() for p in m.parameters(recurse=False))
    return {
        name: m
        for name, m in layers.items()
        if owners[id(m.weight)] == 1 and getattr(m, "padding_mode", "zeros") == "zeros"
    }


def _run(system: System, seen: list[Batch], handles: list[Any]) -> list[Any]:
    """What the system answers to each batch while hooks watch; they are removed afterwards."""
    try:
        with evaluating(system):
            return [system.predict(batch) for batch in seen]
    finally:
        for handle in handles:
            handle.remove()


def fold_batch_norms(system: System, batch: Batch) -> dict[str, str]:
    """Fold, in place, each batch norm whose input is a convolution's output; returns {norm's name: convolution's name}.

    Which follows which is seen in one forward of `batch`, so the system may be written in any way.
    """
    made: dict[int, tuple[str, Tensor]] = {}
    pairs: dict[str, str] = {}
    uses: Counter[str] = Counter()

    def after_convolution(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            uses[name] += 1
            made[id(output)] = (name, output)  # kept alive, so that no other tensor takes its identity

        return hook

    def before_norm(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            uses[name] += 1
            if id(inputs[0]) in made:
                pairs[name] = made[id(inputs[0])][0]

        return hook

    handles = [m.register_forward_hook(after_convolution(n)) for n, m in _quantizable(system).items()]
    norms = {n: m for n, m in system.named_modules() if type(m) is nn.BatchNorm2d and m.running_var is not None}
    handles += [m.register_forward_pre_hook(before_norm(n)) for n, m in norms.items()]
    _run(system, [batch], handles)
    readers = Counter(pairs.values())
    pairs = {n: c for n, c in pairs.items() if uses[n] == uses[c] == 1 and readers[c] == 1}
    for norm, convolution in pairs.items():
        _fold(system.get_submodule(convolution), norms[norm])  # type: ignore[arg-type]
        _replace(system, norm, nn.Identity())
    return pairs


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = torch.rsqrt(norm.running_var + norm.eps)
    gain = gain if norm.weight is None else gain * norm.weight
    bias = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
    shift = bias * gain if norm.bias is None else bias * gain + norm.bias
    convolution.weight = nn.Parameter((convolution.weight * _along(gain, convolution.weight)).detach(), False)
    convolution.bias = nn.Parameter(shift.detach(), False)


def _replace(system: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(system.get_submodule(parent) if parent else system, child, module)


# on disk --------------------------------------------------------------------------------------------------------------


def save_quantized(system: System, folder: str | Path) -> Path:
    """Write a quantised system: int8 tensors in `model.safetensors`, and what to rebuild in `config.json`."""
    quantization = getattr(system, "quantization", None)
    if quantization is None:
        raise ValueError(f"system: expected one from PostTrainingQuantization, got a {type(system).__name__} in float")
    path = save(system, folder)
    described = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    with replacing(path / CONFIG) as temporary:
        temporary.write_text(json.dumps({**described, "quantization": quantization}, indent=2) + "\n", encoding="utf-8")
    return path


def size(system: System) -> int:
    """Bytes of the system's weights on disk."""
    with tempfile.TemporaryDirectory() as folder:
        return (save(system, folder) / WEIGHTS).stat().st_size


def load_quantized(folder: str | Path, system: System) -> System:
    """The quantised system that `save_quantized` wrote, from its folder and a float system built with its arguments.

    Raises BadCheckpoint when files are missing or do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    small = copy.deepcopy(system).eval().requires_grad_(False)
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        options = described["quantization"]
        tensors = load_file(folder / WEIGHTS)
        for norm, convolution in options["folded"].items():
            layer = small.get_submodule(convolution)
            if layer.bias is None:
                layer.bias = nn.Parameter(torch.zeros(layer.weight.shape[0]), False)
            _replace(small, norm, nn.Identity())
        for name in options["layers"]:
            layer = small.get_submodule(name)
            _replace(small, name, QuantizedLayer(layer, options["bits"], options["activation_bits"]))  # type: ignore[arg-type]
        small.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise BadCheckpoint(f"{folder}: {Path(error.filename or WEIGHTS).name} is missing") from None
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
        raise BadCheckpoint(
            f"{folder}: not a quantised {type(system).__name__} ({' '.join(str(error).split())})"
        ) from None
    small.class_names = described.get("class_names")
    small.quantization = options
    return small


def experiment(bits: int = 8, observer: str = "minmax", calibration: int = 4) -> dict[str, float]:
    """Accuracy of the digits ResNet before and after, and how many times smaller its weights are on disk."""
    run = cached("resnet")
    data = list(batches(run.splits.train, 64))[:calibration]
    small = PostTrainingQuantization(bits, observer=observer)(run.system, data)  # type: ignore[arg-type]
    before = evaluate(run.system, run.splits)["accuracy"]
    after = evaluate(small, run.splits)["accuracy"]
    ratio = size(run.system) / size(small)
    return {"accuracy_float": before, "accuracy": after, "accuracy_drop": before - after, "size_ratio": ratio}
