"""Weights of our layers into transformers' of the DETR line."""

from __future__ import annotations


def order_blocks(keys):
    """transformers lists a block's shortcut before its convolutions, we after them."""
    blocks, ordered = {}, []
    for key in keys:
        parts = key.split(".")
        place = tuple(parts[: parts.index("layers") + 2]) if "layers" in parts else ()
        blocks.setdefault(place, []).append(key)
    for names in blocks.values():
        ordered += sorted(names, key=lambda name: "shortcut" in name)
    return ordered


def copy(source, target):
    target.load_state_dict(source.state_dict())


def attention(mine, other):
    for one, name in ((mine.query, "q_proj"), (mine.key, "k_proj"), (mine.value, "v_proj"), (mine.out, "o_proj")):
        copy(one, getattr(other, name))


def tail(layer, other):
    copy(layer.feed_forward.first, other.mlp.fc1)
    copy(layer.feed_forward.second, other.mlp.fc2)
    copy(layer.feed_forward.norm, other.final_layer_norm)
