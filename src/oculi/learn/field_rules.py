r"""What each operation of torch does to the receptive field of its argument: filters, resampling, views, sums, products.

See receptive_fields.py for the equations. What is not known here may look everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from oculi.learn.receptive_fields import NO_AXIS, Dimension, Field, Run, union


def follow(name: str, given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """The field of `output`, which the operation `name` made of its arguments `given`.

    fields: the argument tensors that see the picture, in order, with what they see.
    """
    rule = _RULES.get(name.rstrip("_") if name.endswith("_") and not name.startswith("__") else name, _elementwise)
    if output.ndim == 0:
        rule = _unknown
    return rule(given, fields, output)


Rule = Callable[[dict[str, Any], list[tuple[Tensor, Field]], Tensor], Field]


def _plain(size: int) -> Dimension:
    return (Run(NO_AXIS, size),)


def _has_places(dim: Dimension) -> bool:
    return any(run.axis != NO_AXIS for run in dim)


def _unknown(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """Nothing is known about the operation, so it may look everywhere."""
    return replace(fields[0][1], dims=tuple(_plain(n) for n in output.shape), whole=(True, True))


def _elementwise(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """Broadcasting: of each dimension the positions of the first argument that has some there."""
    dims: list[Dimension] = [_plain(n) for n in output.shape]
    for tensor, field in fields:
        shift = output.ndim - tensor.ndim
        if shift < 0 or any(n not in (1, output.shape[k + shift]) for k, n in enumerate(tensor.shape)):
            return _unknown(given, fields, output)
        for k, dim in enumerate(field.dims):
            if tensor.shape[k] > 1 and not _has_places(dims[k + shift]):
                dims[k + shift] = dim
    return union([field for _, field in fields], tuple(dims))


def _spatial(field: Field, output: Tensor, windows: list[tuple[Fraction, Fraction, Fraction]]) -> Field:
    """A window [first, last] in input steps for the output at 0, and the stride, for each of the last dimensions."""
    dims = [*field.dims[: output.ndim - len(windows)]]
    for dim, (first, last, stride) in zip(field.dims[-len(windows) :], windows):
        runs = [run for run in dim if run.axis != NO_AXIS]
        count = output.shape[len(dims)]
        if len(runs) == 1:
            run = runs[0]
            field = field.moved(run.axis, first * run.step, last * run.step)
            dims.append((replace(run, count=count, step=run.step * stride),))
        else:  # a filter along a flattened map jumps from row to row
            field = field if first == last == 0 else field.mixed([len(dims)])
            dims.append(dim if stride == 1 else _plain(count))
    if len(dims) > 1 and len(windows) < output.ndim:
        dims[output.ndim - len(windows) - 1] = _plain(output.shape[output.ndim - len(windows) - 1])
    return replace(field, dims=tuple(dims))


def _each(value: Any, count: int, default: int = 1) -> list[int]:
    """One number per dimension."""
    listed = [value] if isinstance(value, int) else list(value or [default])
    return listed * count if len(listed) == 1 else listed


def _filter(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """Convolution (also transposed), pooling, unfolding by their stride, padding and dilation."""
    kernel = list(given["weight"].shape[2:]) if "weight" in given else _each(given["kernel_size"], 2)
    count = len(kernel)
    stride = _each(given.get("stride") or ([1] * count if "weight" in given else kernel), count)
    padding, dilation = _each(given.get("padding"), count, 0), _each(given.get("dilation"), count)
    windows = []
    for f, s, p, d in zip(kernel, stride, padding, dilation):
        if given.get("transposed"):
            m = s // math.gcd(s, d)
            reach = Fraction((math.ceil(f / m) - 1) * m * d, s)
            middle = Fraction(2 * p - d * (f - 1), 2 * s)
            windows.append((middle - reach / 2, middle + reach / 2, Fraction(1, s)))
        else:
            windows.append((Fraction(-p), Fraction(d * (f - 1) - p), Fraction(s)))
    field = fields[0][1] if len(fields) == 1 else union([f for _, f in fields], fields[0][1].dims)
    if given.get("groups") == 1 and len(field.dims) == count + 2:
        field = field.mixed([1])  # places among the channels
    return _spatial(field, output, windows)


def _unfold(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """Patches as columns: `batch x channels F² x places`."""
    tensor, kernel = fields[0][0], given["kernel_size"]
    sides = [
        (n + 2 * p - d * (f - 1) - 1) // s + 1
        for n, f, d, p, s in zip(tensor.shape[-2:], kernel, given["dilation"], given["padding"], given["stride"])
    ]
    maps = _filter(given, fields, output.new_empty((*output.shape[:-1], *sides), device="meta"))
    return replace(maps, dims=(*maps.dims[:-2], maps.dims[-2] + maps.dims[-1]))


def _adaptive_pool(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    tensor, field = fields[0]
    windows = []
    for k, (before, after) in enumerate(zip(tensor.shape[-2:], output.shape[-2:])):
        if after == 1 and before > 1:
            field = field.mixed([tensor.ndim - 2 + k])
            windows.append((Fraction(0), Fraction(0), Fraction(before)))
        else:
            widest = max(-(-(i + 1) * before // after) - i * before // after for i in range(after))
            windows.append((Fraction(0), Fraction(widest - 1), Fraction(before, after)))
    return _spatial(field, output, windows)


def _resample(taps: int) -> Rule:
    """Enlarge or shrink with `taps` neighbours along each side; with antialiasing as many as the shrinking asks for."""

    def rule(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
        tensor, field = fields[0]
        windows = []
        for before, after in zip(tensor.shape[-2:], output.shape[-2:]):
            scale = Fraction(before, after)
            reach = Fraction(abs(taps) - 1)
            if taps < 0 and scale > 1:
                reach = abs(taps) * scale - 1
            middle = (scale - 1) / 2
            windows.append((middle - reach / 2, middle + reach / 2, scale))
        return _spatial(field, output, windows)

    return rule


def _shuffle(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    before, after = fields[0][0].shape[-1], output.shape[-1]
    reach = Fraction(max(0, before // after - 1))
    return _spatial(fields[0][1], output, [(Fraction(0), reach, Fraction(before, after))] * 2)


def _pad(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    field = fields[0][1]
    padding = list(given["pad"] if "pad" in given else given["padding"])
    dims = list(field.dims)
    for k, before in enumerate(padding[::2]):
        position = len(dims) - 1 - k
        if dims[position] and len(dims[position]) == 1:
            run = dims[position][0]
            dims[position] = (replace(run, count=output.shape[position]),)
            if run.axis != NO_AXIS:
                field = field.moved(run.axis, -before * run.step, -before * run.step)
    return replace(field, dims=tuple(dims))


def _view(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """Regroup the positions: dimensions whose sizes multiply to the same number hold the same runs."""
    tensor, field = fields[0]
    if tensor.numel() == 0:
        return _unknown(given, fields, output)
    dims: list[Dimension] = [_plain(n) for n in output.shape]
    ins, outs = ([k for k, n in enumerate(t.shape) if n > 1] for t in (tensor, output))
    while outs:
        inside, outside = [ins.pop(0)], [outs.pop(0)]
        before, after = tensor.shape[inside[0]], output.shape[outside[0]]
        while before != after:
            if before < after:
                inside.append(ins.pop(0))
                before *= tensor.shape[inside[-1]]
            else:
                outside.append(outs.pop(0))
                after *= output.shape[outside[-1]]
        runs = [run for k in inside for run in field.dims[k]]
        for k, dim in zip(outside, _regroup(runs, before, [output.shape[k] for k in outside])):
            dims[k] = dim
    return replace(field, dims=tuple(dims))


def _regroup(runs: list[Run], total: int, sizes: list[int]) -> list[Dimension]:
    """Runs in row-major order, cut where the new dimensions begin."""
    runs = [run for run in runs if run.count > 1]
    if len(sizes) == 1:
        return [tuple(runs) or _plain(sizes[0])]
    if math.prod(run.count for run in runs) != total:  # with a class token among the patches
        return [tuple(runs) if size > 1 and runs else _plain(size) for size in sizes]
    dims, left = [], list(runs)
    for size in sizes:
        taken, need = [], size
        while need > 1 and left:
            run = left.pop(0)
            share = math.gcd(run.count, need)
            if share < run.count:
                if share != need:
                    return [tuple(runs) if s > 1 else _plain(s) for s in sizes]
                inner = run.count // share
                left.insert(0, replace(run, count=inner))
                run = Run(run.axis, share, run.step * inner)
            taken.append(run)
            need //= share
        dims.append(tuple(taken) or _plain(size))
    return dims


def _permute(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    field = fields[0][1]
    order = list(range(output.ndim))
    if "dims" in given:
        order = [int(d) % output.ndim for d in given["dims"]]
    elif output.ndim > 1:
        a, b = given.get("dim0", 0), given.get("dim1", 1)
        order[a], order[b] = order[b], order[a]
    return replace(field, dims=tuple(field.dims[k] for k in order))


def _insert(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """unsqueeze and stack."""
    field = union([f for _, f in fields], fields[0][1].dims)
    place = int(given.get("dim", 0)) % output.ndim
    dims = list(field.dims)
    dims.insert(place, _plain(output.shape[place]))
    return replace(field, dims=tuple(dims))


def _drop(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """squeeze, select, unbind: dimensions that are gone."""
    tensor, field = fields[0]
    chosen = given.get("dim", [k for k, n in enumerate(tensor.shape) if n == 1] if "index" not in given else 0)
    gone = {int(d) % tensor.ndim for d in ([chosen] if isinstance(chosen, int) else chosen)}
    if output.ndim == tensor.ndim:
        return field
    return replace(field, dims=tuple(dim for k, dim in enumerate(field.dims) if k not in gone))


def _slice(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    tensor, field = fields[0]
    place, every = int(given.get("dim", 0)) % output.ndim, int(given.get("step", 1))
    start = given.get("start") or 0
    start = start + tensor.shape[place] if start < 0 else start
    dims = list(field.dims)
    if len(dims[place]) == 1 and dims[place][0].count == tensor.shape[place]:
        run = dims[place][0]
        dims[place] = (Run(run.axis, output.shape[place], run.step * every),)
        if run.axis != NO_AXIS:
            field = field.moved(run.axis, start * run.step, start * run.step)
    return replace(field, dims=tuple(dims))


def _split(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    place = int(given.get("dim", 0)) % output.ndim
    dims = list(fields[0][1].dims)
    if len(dims[place]) == 1:
        dims[place] = (replace(dims[place][0], count=output.shape[place]),)
    return replace(fields[0][1], dims=tuple(dims))


def _cat(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    place = int(given.get("dim", 0)) % output.ndim
    best = max((f.dims for _, f in fields), key=lambda dims: sum(run.count for dim in dims for run in dim))
    dims = list(best)
    if not _has_places(dims[place]):
        dims[place] = _plain(output.shape[place])
    return union([f for _, f in fields], tuple(dims))


def _reduce(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    tensor, field = fields[0]
    chosen = given.get("dim")
    places = list(range(tensor.ndim)) if chosen is None or chosen == [] else _each(chosen, 1)
    gone = {int(d) % tensor.ndim for d in places}
    field = field.mixed(gone)
    if output.ndim == tensor.ndim:
        return replace(field, dims=tuple(_plain(1) if k in gone else dim for k, dim in enumerate(field.dims)))
    return replace(field, dims=tuple(dim for k, dim in enumerate(field.dims) if k not in gone))


def _mix(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """softmax and norms: the same shape, each element depending on all along some dimensions."""
    count = output.ndim
    if "normalized_shape" in given:
        places = range(count - len(given["normalized_shape"]), count)
    elif "group" in given:
        places = range(1, count)
    elif "dim" in given:
        places = range(int(given["dim"]) % count, int(given["dim"]) % count + 1)
    else:  # batch norm looks at the other places only while it learns
        places = range(2, count) if given.get("training", given.get("train")) else range(0)
    return _elementwise(given, [(tensor, f.mixed(places) if k == 0 else f) for k, (tensor, f) in enumerate(fields)],
                        output)  # fmt: skip


def _product(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    """Matrix products: rows of the left, columns of the right, everything between them summed."""
    known = {id(tensor): field for tensor, field in fields}
    names = ("batch1", "batch2") if "batch1" in given else ("mat1" if "mat1" in given else "self", "mat2")
    left, right = given[names[0]], given[names[1]]
    seen, dims = [], [_plain(n) for n in output.shape]
    for tensor, summed, kept in ((left, -1, -2), (right, -2, -1)):
        field = known.get(id(tensor))
        if field is not None:
            seen.append(field.mixed([tensor.ndim + summed]))
            dims[kept] = field.dims[kept]
            if output.ndim == 3 and _has_places(field.dims[0]):
                dims[0] = field.dims[0]
    if not seen:  # only the addend sees the picture
        return _elementwise(given, fields, output)
    return union(seen, tuple(dims))


def _attention(given: dict[str, Any], fields: list[tuple[Tensor, Field]], output: Tensor) -> Field:
    known = {id(tensor): field for tensor, field in fields}
    query, key, value = (known.get(id(given[name])) for name in ("query", "key", "value"))
    seen = [f for f in (query,) if f is not None]
    seen += [f.mixed([output.ndim - 2]) for f in (key, value) if f is not None]
    dims = list((query or seen[0]).dims)
    if query is None:
        dims[-2] = _plain(output.shape[-2])
    return union(seen, tuple(dims)) if seen else _elementwise(given, fields, output)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("convolution", "max_pool2d_with_indices", "avg_pool2d", "avg_pool3d", "max_pool2d"), _filter),
    "max_pool3d_with_indices": _filter,
    "im2col": _unfold,
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pool),
    **dict.fromkeys(("upsample_nearest2d", "_upsample_nearest_exact2d"), _resample(1)),
    "upsample_bilinear2d": _resample(2),
    "upsample_bicubic2d": _resample(4),
    "_upsample_bilinear2d_aa": _resample(-2),
    "_upsample_bicubic2d_aa": _resample(-4),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffle),
    **dict.fromkeys(("constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _pad),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _view),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    **dict.fromkeys(("unsqueeze", "stack"), _insert),
    **dict.fromkeys(("squeeze", "select", "unbind"), _drop),
    "slice": _slice,
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "cat": _cat,
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "std", "var", "prod", "linalg_vector_norm", "logsumexp", "argmax", "max", "min"),
        _reduce,
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "native_layer_norm", "native_group_norm", "cumsum", "sort"), _mix),
    **dict.fromkeys(("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training"), _mix),
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _product),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_attention_math",
        ),
        _attention,
    ),
}  # fmt: skip
