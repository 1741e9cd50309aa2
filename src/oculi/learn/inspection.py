r"""`oculi inspect`: what each layer of a network gives, sees and costs, for one picture.

    print(inspect(system, 224))
    inspect(system, (256, 512)).multiply_adds

The network runs once, in eval mode without gradient, and every operation of torch is watched on its way, so that it does
not matter whether a network calls a module or a function. A row is a layer of torch, or an operation that a larger
module calls itself (`blocks.0.attention.scaled_dot_product_attention`), or a parameter that no layer owns.

    output             the shape without the batch
    receptive field    rows x columns of pixels that one output sees; all: the whole picture (see receptive_fields.py)
    stride             pixels between two neighbours of the output
    multiply-adds      of convolutions, matrix products and attention (see multiply_adds.py)
    memory             bytes of new tensors that the layer makes: what training keeps at most, per picture

Layers that did not run (auxiliary heads) are listed with their parameters, so that the rows add up to the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from oculi.learn.field_rules import follow
from oculi.learn.multiply_adds import multiply_adds, named_arguments, operation_name
from oculi.learn.receptive_fields import Field
from oculi.system import System, evaluating
from oculi.types import images_only

Pair = tuple[float, float]
_NAMES = {
    "max_pool2d_with_indices": "max_pool2d", "_adaptive_avg_pool2d": "adaptive_avg_pool2d", "mm": "linear",
    "addmm": "linear", "bmm": "matmul", "baddbmm": "matmul", "_softmax": "softmax", "native_layer_norm": "layer_norm",
    "native_batch_norm": "batch_norm", "native_group_norm": "group_norm", "convolution": "conv2d",
}  # fmt: skip
_FRESH = (
    "new_",
    "empty_like",
    "zeros_like",
    "ones_like",
    "full_like",
    "rand",
    "bernoulli",
)  # of a tensor's shape alone


@dataclass
class Layer:
    """One row. receptive_field: infinite where it is the whole picture; None: it does not see the picture, or where
    there are no places, it has no stride."""

    name: str
    kind: str
    output: tuple[int, ...] | None = None
    receptive_field: Pair | None = None
    stride: Pair | None = None
    parameters: int = 0
    multiply_adds: int = 0
    memory: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; "all" for the whole picture."""
        found = asdict(self)
        if self.receptive_field is not None:
            found["receptive_field"] = ["all" if math.isinf(n) else n for n in self.receptive_field]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


@dataclass
class Inspection:
    """The layers in the order in which they ran, and the totals. parameters: each once, however often it is used."""

    system: str
    size: tuple[int, int] | None
    parameters: int
    trainable: int
    layers: list[Layer] = field(default_factory=list)

    @property
    def multiply_adds(self) -> int:
        """Of the whole network, for one picture."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def memory(self) -> int:
        """Bytes of all activations, for one picture."""
        return sum(layer.memory for layer in self.layers)

    @property
    def receptive_field(self) -> Pair | None:
        """The largest, which the last layers have."""
        seen = [layer.receptive_field for layer in self.layers if layer.receptive_field is not None]
        return (max(r for r, _ in seen), max(c for _, c in seen)) if seen else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "system": self.system,
            "size": None if self.size is None else list(self.size),
            "parameters": self.parameters,
            "trainable": self.trainable,
            "multiply_adds": self.multiply_adds,
            "memory": self.memory,
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def table(self, every: bool = False) -> str:
        """Text; without `every` only rows that have parameters or multiply-adds or another stride than the one before."""
        head = ["layer", "kind", "output", "receptive field", "stride", "parameters", "multiply-adds", "memory"]
        rows, stride = [head], None
        for layer in self.layers:
            moved = layer.stride != stride and layer.output is not None
            if every or layer.parameters or layer.multiply_adds or moved:
                rows.append(_cells(layer))
                stride = layer.stride if layer.output is not None else stride
        rows.append(["total", self.system, "", "", "", f"{self.parameters:,}", _short(self.multiply_adds),
                     _short(self.memory) + "B"])  # fmt: skip
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines = []
        for row in rows:
            cells = [cell.ljust(w) if k < 3 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def inspect(
    system: nn.Module, size: int | tuple[int, int] | None = None, inputs: Tensor | tuple[Any, ...] | None = None
) -> Inspection:
    """Run one grey picture of `size` (a side, or rows and columns; a System's own size where None) through the network.

    inputs: what `forward` is called with instead, where it takes something other than one picture of three channels
    (a System: of its own); the first tensor of four dimensions is the picture. A System whose forward does not take
    pictures alone is asked to `predict`.
    Raises ValueError where the network cannot run with it.
    """
    given = (_picture(system, size),) if inputs is None else (inputs,) if isinstance(inputs, Tensor) else inputs
    picture = next((x for x in given if isinstance(x, Tensor) and x.ndim == 4), None)
    shape = None if picture is None else (int(picture.shape[-2]), int(picture.shape[-1]))
    counted = {id(p): p for p in system.parameters()}
    result = Inspection(
        type(system).__name__,
        shape,
        sum(p.numel() for p in counted.values()),
        sum(p.numel() for p in counted.values() if p.requires_grad),
    )
    watch = _Watch(system)
    if picture is not None:
        watch.fields[picture] = Field.of_picture(picture.shape)
    try:
        with evaluating(system), _no_fast_path(), watch.modules(), watch:
            _call(system, given)
    except (RuntimeError, TypeError, NotImplementedError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"inputs: {result.system} cannot run with {_described(given)} ({reason})") from None
    result.layers = watch.rows()
    return result


def _picture(system: nn.Module, size: int | tuple[int, int] | None) -> Tensor:
    contract = getattr(system, "contract", None)
    if size is None:
        if contract is None:
            raise ValueError(f"size: {type(system).__name__} does not say what size it takes, so give one")
        size = (contract.height, contract.width)
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size: expected positive rows and columns, got {height} x {width}")
    channels = 3 if contract is None else contract.channels
    reference = next(iter(system.parameters()), torch.zeros(()))
    return torch.full((1, channels, height, width), 0.5, device=reference.device, dtype=reference.dtype)


def _call(system: nn.Module, given: tuple[Any, ...]) -> None:
    if isinstance(system, System) and len(given) == 1 and "forward" not in vars(type(system)):
        system.predict(images_only(given[0]))
    else:
        system(*given)


def _described(given: tuple[Any, ...]) -> str:
    return ", ".join("x".join(map(str, x.shape)) if isinstance(x, Tensor) else repr(x) for x in given)


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """torch's fused encoder hides its matrix products."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


class _Watch(TorchDispatchMode):
    """Sees every operation, knows which module runs, and keeps the rows."""

    def __init__(self, system: nn.Module):
        super().__init__()
        self.system = system
        self.fields = WeakTensorKeyDictionary()
        self.found: list[Layer] = []
        self.stack: list[tuple[str, Layer | None]] = []  # name and, for a layer, its row
        self.used: set[int] = set()  # parameters that a row has
        self.times: dict[str, int] = {}

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Hooks that tell which module runs."""
        handles = []
        for name, module in self.system.named_modules():
            handles.append(module.register_forward_pre_hook(lambda m, args, name=name: self._enter(m, name)))
            handles.append(module.register_forward_hook(lambda m, args, out: self._leave(out)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, name: str) -> None:
        row = None
        if (
            not (self.stack and self.stack[-1][1] is not None)
            and _is_layer(module)
            and (module is not self.system or type(module).__module__.startswith("torch.nn"))
        ):
            row = Layer(self._numbered(name or type(module).__name__), type(module).__name__)
            row.parameters = self._owned(module.parameters())
            self.found.append(row)
        elif self.stack and self.stack[-1][1] is not None:
            row = self.stack[-1][1]
        self.stack.append((name, row))

    def _leave(self, output: Any) -> None:
        _, row = self.stack.pop()
        tensor = _first(output)
        if row is not None and tensor is not None and not (self.stack and self.stack[-1][1] is row):
            self._describe(row, tensor)

    def _owned(self, parameters: Any) -> int:
        new = {id(p): p.numel() for p in parameters if id(p) not in self.used}
        self.used |= set(new)
        return sum(new.values())

    def _numbered(self, name: str) -> str:
        self.times[name] = self.times.get(name, 0) + 1
        return name if self.times[name] == 1 else f"{name} ({self.times[name]})"

    def _describe(self, row: Layer, output: Tensor) -> None:
        row.output = tuple(output.shape[1:])
        seen = self.fields.get(output)
        if seen is not None:
            row.receptive_field, row.stride = seen.extent, seen.stride

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name, given = operation_name(func), named_arguments(func, args, kwargs)
        outputs = [x for x in (output if isinstance(output, tuple | list) else [output]) if isinstance(x, Tensor)]
        known = [(x, self.fields[x]) for x in _tensors(given) if x in self.fields]
        if known and not name.startswith(_FRESH):
            for tensor in outputs:
                self.fields[tensor] = follow(name, given, known, tensor)
        work, memory = multiply_adds(name, given, output), _new_bytes(func, outputs)
        row = self.stack[-1][1] if self.stack else None
        if row is None and outputs and (work or (memory and known)):
            kind = "scaled_dot_product_attention" if "dot_product" in name else _NAMES.get(name, name.strip("_"))
            inside = self.stack[-1][0] if self.stack else ""
            row = Layer(self._numbered(f"{inside}.{kind}" if inside else kind), kind)
            self.found.append(row)
            self._describe(row, outputs[0])
        if row is not None:
            row.multiply_adds += work
            row.memory += memory
        return output

    def rows(self) -> list[Layer]:
        """What ran, after the parameters that no layer owns, before the layers that did not run."""
        loose, idle = [], []
        for name, module in self.system.named_modules():
            if _is_layer(module) and module is not self.system:
                owned = self._owned(module.parameters())
                idle += [Layer(name, f"{type(module).__name__} (did not run)", parameters=owned)] if owned else []
                continue
            for key, parameter in module.named_parameters(recurse=False):
                owned = self._owned([parameter])
                loose += [Layer(f"{name}.{key}" if name else key, "Parameter", parameters=owned)] if owned else []
        return [*loose, *self.found, *idle]


def _is_layer(module: nn.Module) -> bool:
    """A row of its own: no modules in it, or one of torch's that computes with those in it as its weights."""
    return next(module.children(), None) is None or isinstance(module, nn.MultiheadAttention)


def _new_bytes(function: Any, outputs: list[Tensor]) -> int:
    """Bytes of the outputs that are neither views nor written in place."""
    returned = function._schema.returns
    if len(returned) == 1:  # a tensor, or a list of them
        returned = returned * len(outputs)
    return sum(x.numel() * x.element_size() for x, r in zip(outputs, returned) if r.alias_info is None)


def _first(output: Any) -> Tensor | None:
    """The first tensor in what a module gives."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return next((found for found in map(_first, values) if found is not None), None)


def _tensors(given: dict[str, Any]) -> list[Tensor]:
    """The tensors among an operation's arguments."""
    found = []
    for value in given.values():
        found += [x for x in (value if isinstance(value, tuple | list) else [value]) if isinstance(x, Tensor)]
    return found


def _cells(layer: Layer) -> list[str]:
    shape = "" if layer.output is None else " x ".join(map(str, layer.output))
    return [layer.name, layer.kind, shape, _pair(layer.receptive_field), _pair(layer.stride),
            f"{layer.parameters:,}" if layer.parameters else "", _short(layer.multiply_adds),
            _short(layer.memory) + "B" if layer.memory else ""]  # fmt: skip


def _pair(values: Pair | None) -> str:
    if values is None:
        return ""
    words = ["all" if math.isinf(n) else f"{n:g}" for n in values]
    return words[0] if words[0] == words[1] else " x ".join(words)


def _short(number: int) -> str:
    """Three digits and a unit: 4.09 G."""
    if not number:
        return ""
    power = min(4, int(math.log10(number)) // 3)
    return f"{number / 1000**power:.{0 if power == 0 else 2}f} {' kMGT'[power]}".rstrip() + (" " if power == 0 else "")
