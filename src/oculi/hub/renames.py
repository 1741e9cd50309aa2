r"""Renaming a foreign file's tensors to ours: small tables, read line by line.

A rule is `their name: our name`. In their name `#` stands for a number and `*` for any rest; in ours `<1>` is the first
of these, `<2>` the second, `<1-1>` the first less one, `<1+1>` the first and one:

    "layer#.#.conv#.*": "stages.<1-1>.<2>.convs.<3-1>.0.<4>"      layer2.0.conv1.weight -> stages.1.0.convs.0.0.weight

The first rule that matches counts. Instead of one name there can be

    ("q.<1>", "kv.<1>")    the tensor is cut along its first axis, in the lengths that our tensors have
    "kv.<1> 1/2"           the tensor is the first of two parts, joined along the first axis
    None                   not needed (a table of positions that ours computes, an auxiliary head)

Axes of length 1 may come and go, and a convolution over a whole map is a linear layer. Everything else has to fit exactly:
a missing or surplus tensor and a wrong shape are one error that names them all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from oculi.input_contract import InputContract
from oculi.system import BadCheckpoint, System

Rules: TypeAlias = "Mapping[str, str | tuple[str, ...] | None]"
Tensors: TypeAlias = "Mapping[str, Tensor]"
SHOWN = 5  # names of each kind in an error; a file of another network would list hundreds
OURS_ALONE = ("pixel_mean", "pixel_std")  # statistics come from the source's preprocessing, not from its weights


@dataclass(frozen=True)
class Layout:
    """A published network: our class, the arguments that build it and the names its tensors have in the file.

    convert: what has to be done to the file's tensors, under their names there, before they are renamed.
    """

    system: type[System]
    arguments: Mapping[str, Any]
    rules: Rules | Callable[[Any, Iterable[str]], Rules]
    convert: Callable[[Tensors], Tensors] | None = None

    def rules_for(self, system: System, names: Iterable[str]) -> Rules:
        """The table; where the names depend on the depths it is made from the built system and the file's names."""
        return self.rules if isinstance(self.rules, Mapping) else self.rules(system, names)


@dataclass(frozen=True)
class Description:
    """A layout with all that a checkpoint says beside its tensors."""

    layout: Layout
    contract: InputContract
    mean: list[float]
    std: list[float]
    class_names: list[str] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)  # more of them, from the checkpoint's configuration


def build(described: Description, tensors: Mapping[str, Tensor], source: str) -> System:
    """The system with the file's weights, in eval mode. Raises BadCheckpoint, naming `source`, where they do not fit."""
    arguments = {**described.layout.arguments, **described.arguments}
    channels = described.contract.channels
    for name, values in (("mean", described.mean), ("std", described.std)):
        if not isinstance(values, list) or sum(isinstance(x, int | float) for x in values) != channels:
            raise BadCheckpoint(f"{source}: {name}: expected {channels} numbers, got {values}")
    try:
        system = described.layout.system(**arguments)
    except ValueError as error:
        raise BadCheckpoint(f"{source}: {described.layout.system.__name__} cannot be built: {error}") from None
    if described.class_names is not None and len(described.class_names) != arguments["num_classes"]:
        wanted, got = arguments["num_classes"], len(described.class_names)
        raise BadCheckpoint(f"{source}: class names: expected {wanted}, got {got}")
    if described.layout.convert is not None:
        tensors = described.layout.convert(tensors)
    fill(system, tensors, described.layout.rules_for(system, tensors), source)
    system.contract = described.contract
    system.class_names = described.class_names
    system.set_statistics(torch.tensor(described.mean), torch.tensor(described.std))
    return system.eval()


def fill(system: System, tensors: Mapping[str, Tensor], rules: Rules, source: str) -> None:
    """Copy the renamed tensors into the system; nothing is copied where one does not fit."""
    wanted = {name: value for name, value in system.state_dict().items() if name.rpartition(".")[2] not in OURS_ALONE}
    found, surplus = _renamed(tensors, rules, wanted)
    missing = [
        f"{name} {list(value.shape)}"
        for name, value in wanted.items()
        if name not in found and not name.endswith("num_batches_tracked")  # files from before 2018 lack it
    ]
    wrong = [
        f"{theirs}: expected {list(wanted[name].shape)}, got {list(value.shape)}"
        for name, (theirs, value) in found.items()
        if not _same(value, wanted[name])
    ]
    problems = [("surplus", surplus), ("wrong shape", wrong), ("missing", missing)]
    if any(names for _, names in problems):
        told = "; ".join(f"{kind}: {_few(names)}" for kind, names in problems if names)
        raise BadCheckpoint(f"{source}: the weights do not fit {type(system).__name__}: {told}")
    with torch.no_grad():
        for name, (_, value) in found.items():
            wanted[name].copy_(value.reshape(wanted[name].shape))


def translate(name: str, rules: Rules) -> tuple[str, ...] | None:
    """Our names for theirs (several: to be cut), () where it is not needed, None where no rule knows it."""
    for pattern, target in rules.items():
        matched = _expression(pattern).fullmatch(name)
        if matched:
            targets = (target,) if isinstance(target, str) else target or ()
            return tuple(_expanded(template, matched) for template in targets)
    return None


def projections(theirs: str, ours: str) -> dict[str, str]:
    """Rules for the four layers of one attention of transformers."""
    number = theirs.count("#") + 1
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out", "o_proj": "out"}
    return {f"{theirs}.{old}.*": f"{ours}.{new}.<{number}>" for old, new in names.items()}


def with_epsilon(tensors: Tensors, theirs: float, ours: float = 1e-5) -> Tensors:
    """Batch norms that add `theirs` to the variance, for layers that add `ours`: the weights make up for it exactly.

    >>> found = with_epsilon({"n.weight": torch.ones(1), "n.running_var": torch.tensor([0.03])}, theirs=0.01, ours=0.06)
    >>> found["n.weight"]
    tensor([1.5000])
    """
    changed = dict(tensors)
    for name, variance in tensors.items():
        weight = name.removesuffix("running_var") + "weight"
        if name.endswith(".running_var") and weight in tensors and tensors[weight].shape == variance.shape:
            least = torch.finfo(torch.float32).tiny
            changed[weight] = tensors[weight] * ((variance + ours) / (variance + theirs).clamp_min(least)).sqrt()
    return changed


def numbered(names: Iterable[str], pattern: str) -> list[str]:
    """The beginnings of names that match the pattern, in the order of their numbers.

    >>> numbered(["a.10.w", "a.2.w", "a.2.b", "c.w"], "a.#")
    ['a.2', 'a.10']
    """
    expression = re.compile(re.escape(pattern).replace(r"\#", r"(\d+)"))
    found = (expression.match(name) for name in names)
    order = {match[0]: [int(number) for number in match.groups()] for match in found if match}
    return sorted(order, key=lambda name: order[name])


def _renamed(
    tensors: Mapping[str, Tensor], rules: Rules, wanted: Mapping[str, Tensor]
) -> tuple[dict[str, tuple[str, Tensor]], list[str]]:
    """Our name: (their name, tensor), and the names of the tensors for which there is no place."""
    found: dict[str, tuple[str, Tensor]] = {}
    parts: dict[str, dict[int, tuple[str, Tensor]]] = {}
    surplus = []
    for theirs, tensor in tensors.items():
        targets = translate(theirs, rules)
        if targets is None or any(target.partition(" ")[0] not in wanted for target in targets):
            surplus.append(f"{theirs} {list(tensor.shape)}")
            continue
        for target, piece in zip(targets, _cut(tensor, targets, wanted), strict=True):
            name, _, part = target.partition(" ")
            if part:
                parts.setdefault(name, {})[int(part.partition("/")[0])] = (theirs, piece)
            elif name in found:
                surplus.append(f"{theirs} {list(tensor.shape)} (as well as {found[name][0]})")
            else:
                found[name] = (theirs, piece)
    for name, pieces in parts.items():
        ordered = [pieces[index] for index in sorted(pieces)]
        fits = len({piece.shape[1:] for _, piece in ordered}) == 1 and ordered[0][1].dim() > 0
        joined = torch.cat([piece for _, piece in ordered]) if fits else ordered[0][1]
        found[name] = (" + ".join(theirs for theirs, _ in ordered), joined)
    return found, surplus


def _cut(tensor: Tensor, targets: tuple[str, ...], wanted: Mapping[str, Tensor]) -> Iterator[Tensor]:
    if len(targets) < 2:
        return iter([tensor] * len(targets))
    lengths = [len(wanted[target]) for target in targets]
    if tensor.dim() == 0 or len(tensor) != sum(lengths):
        return iter([tensor] * len(targets))  # the shapes will be found wrong
    return iter(tensor.split(lengths))


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


def _expanded(template: str, matched: re.Match[str]) -> str:
    def number(place: re.Match[str]) -> str:
        text = matched[int(place[1])]
        return text if place[2] is None else str(int(text) + int(place[2]))

    return re.sub(r"<(\d)([+-]\d+)?>", number, template)


def _same(theirs: Tensor, ours: Tensor) -> bool:
    """Whether one is a reshaped view of the other, in the ways that leave its meaning alone."""
    if [length for length in theirs.shape if length != 1] == [length for length in ours.shape if length != 1]:
        return True
    convolution_as_linear = theirs.dim() == 4 and ours.dim() == 2
    return convolution_as_linear and theirs.flatten(1).shape == ours.shape


def nearest(known: Iterable[str], got: object) -> str:
    """What to say of a name that is not known: the most similar ones that are."""
    close = difflib.get_close_matches(str(got), list(known), SHOWN, 0.0)
    return f"expected one of {', '.join(close)}, ...; got {got}"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
