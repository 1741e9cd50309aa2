"""Swin against torchvision and transformers: equal outputs, maps and gradients at equal weights."""

import pytest
import torch
from torch.nn import functional as F

from oculi.backbones.swin import PatchMerging, Swin, WindowAttention, shift_mask
from oculi.nn.attention import attend
from oracles import torchvision


def from_torchvision(name):
    """Our name of one of torchvision's tensors: its odd `features` are stages, its even ones merges."""
    if name.startswith(("norm", "head")):
        return name
    _, place, rest = name.split(".", 2)
    if place == "0":
        return rest.replace("0.", "patches.", 1) if rest.startswith("0.") else rest.replace("2.", "patches_norm.", 1)
    if int(place) % 2 == 0:
        return f"merges.{int(place) // 2}.{rest.replace('reduction', 'reduce')}"
    for old, new in (
        ("norm1", "norms.0"), ("norm2", "norms.1"), ("attn.qkv", "attention.query_key_value"),
        ("attn.proj", "attention.out"), ("attn.relative_position_bias_table", "attention.table"), ("mlp.3", "mlp.2"),
    ):  # fmt: skip
        rest = rest.replace(old, new)
    return f"stages.{int(place) // 2}.{rest}"


def from_transformers(tensors):
    """transformers' tensors under our names; its queries, keys and values are three layers."""
    swaps = (
        ("embeddings.patch_embeddings.projection", "patches"), ("embeddings.norm", "patches_norm"),
        ("layernorm_before", "norms.0"), ("layernorm_after", "norms.1"), ("layernorm", "norm"), ("o_proj", "out"),
        ("relative_position_bias.relative_position_bias_table", "table"), ("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.2"),
        ("encoder.layers", "stages"),
    )  # fmt: skip
    for name, value in tensors.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            value = torch.cat([tensors[name.replace("q_proj", kind)] for kind in ("q_proj", "k_proj", "v_proj")])
            name = name.replace("q_proj", "query_key_value")
        for old, new in swaps:
            name = name.replace(old, new)
        if "downsample" in name:
            stage, rest = name.removeprefix("stages.").split(".downsample.")
            name = f"merges.{int(stage) + 1}.{rest.replace('reduction', 'reduce')}"
        yield name.replace(".blocks.", "."), value


def load(ours, tensors):
    missing, unexpected = ours.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) == {"pixel_mean", "pixel_std"}


def copy_torchvision(theirs, ours):
    kept = {k: v for k, v in theirs.state_dict().items() if not k.endswith("relative_position_index")}
    load(ours, {from_torchvision(name): value for name, value in kept.items()})


def randomised(network):
    """Norms, biases and tables away from where they begin."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if parameter.dim() == 1 or "table" in name else 0.02))
    return network


def test_equals_torchvision():
    torch.manual_seed(0)
    theirs = randomised(torchvision().models.swin_t()).eval()
    ours = Swin().eval()
    copy_torchvision(theirs, ours)
    for image in (
        torch.rand(2, 3, 64, 64),
        torch.rand(1, 3, 75, 101),
    ):  # maps are padded, merges too; 26 wide is shifted
        with torch.no_grad():
            whole = F.pad(image, (0, -image.shape[-1] % 4, 0, -image.shape[-2] % 4))  # theirs drops what is left over
            torch.testing.assert_close(ours(image), theirs(whole), rtol=1e-5, atol=1e-5)


def small():
    """A Swin of two stages by both."""
    kind = torchvision().models.SwinTransformer
    theirs = randomised(kind([4, 4], 8, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.0, num_classes=7))
    ours = Swin(7, 8, [2, 2], [2, 4], window=4)
    copy_torchvision(theirs, ours)
    return theirs, ours


@pytest.mark.parametrize("size", [(48, 64), (36, 44), (16, 64)], ids=str)  # whole windows, padded, shifted one way only
def test_learns_as_torchvision_does(size):
    torch.manual_seed(0)
    theirs, ours = small()
    image = torch.rand(3, 3, *size)
    for network in (ours.train(), theirs.train()):
        network(image).square().mean().backward()
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-5)
    found = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(found[from_torchvision(name)].grad, parameter.grad, rtol=1e-4, atol=1e-6)


def test_equals_transformers():
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(0)
    config = SwinConfig(image_size=60, embed_dim=8, depths=[2, 2, 2], num_heads=[2, 4, 8], window_size=3)
    config.layer_norm_eps = 1e-5
    theirs = randomised(SwinModel(config)).eval()
    ours = Swin(0, 8, [2, 2, 2], [2, 4, 8], window=3).eval()
    load(ours, dict(from_transformers(theirs.state_dict())))
    image = torch.rand(2, 3, 60, 60)  # 15, 8 and 4 tokens wide: merged from odd, padded to 9 and 6
    with torch.no_grad():
        answer = theirs(image, output_hidden_states=True)
        torch.testing.assert_close(ours(image), answer.pooler_output, rtol=1e-5, atol=1e-5)
        maps = ours.features(image)
    assert [tuple(x.shape) for x in maps] == [(2, 8, 15, 15), (2, 16, 8, 8), (2, 32, 4, 4)]
    torch.testing.assert_close(maps[-1], answer.reshaped_hidden_states[-1], rtol=1e-5, atol=1e-5)


def test_a_token_sees_its_window_alone():
    attention = WindowAttention(4, 2, 2, 1)
    x = torch.rand(1, 4, 4, 4)
    far = x.clone()
    far[0, 3, 3] += 1
    changed = (attention(x) - attention(far)).abs().sum(-1)[0] > 1e-7
    assert changed.nonzero().tolist() == [[3, 3]]  # alone: rolled together with three corners that the mask hides
    plain = WindowAttention(4, 2, 2, 0)
    changed = (plain(x) - plain(far)).abs().sum(-1)[0] > 1e-7
    assert changed.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_attention_equals_its_definition():
    torch.manual_seed(0)
    attention, x = WindowAttention(6, 3, 3, 0), torch.rand(2, 3, 3, 6)
    query, key, value = attention.query_key_value(x).flatten(1, 2).unflatten(-1, (3, 3, 2)).permute(2, 0, 3, 1, 4)
    offsets = [(a // 3 - b // 3 + 2) * 5 + a % 3 - b % 3 + 2 for a in range(9) for b in range(9)]
    bias = attention.table[offsets].view(9, 9, 3).permute(2, 0, 1)
    expected = attention.out(attend(query, key, value, bias).transpose(1, 2).flatten(2)).view(2, 3, 3, 6)
    torch.testing.assert_close(attention(x), expected)


def test_every_token_of_a_shifted_picture_keeps_to_its_neighbours():
    mask = shift_mask(6, 9, 3, (1, 1))
    assert mask.shape == (6, 9, 9)
    assert bool((mask == mask.transpose(1, 2)).all())
    regions = [int((window == 0).sum()) for window in mask]
    assert regions == [81, 81, 36 + 9, 36 + 9, 36 + 9, 16 + 4 + 4 + 1]


def test_merging_puts_two_by_two_tokens_side_by_side():
    merge = PatchMerging(1)
    merge.norm = torch.nn.Identity()
    torch.nn.init.eye_(merge.reduce.weight)
    x = torch.arange(1.0, 7).view(1, 2, 3, 1)
    assert merge(x).flatten(0, 2).tolist() == [[1, 4], [3, 6]]


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="heads: expected one for each of 2 depths, got 1"):
        Swin(5, 8, [1, 1], [2])
    with pytest.raises(ValueError, match="heads: expected a divisor of width 8, got 3"):
        Swin(5, 8, [1], [3])
    with pytest.raises(ValueError, match="window: expected at least 2 tokens, got 1"):
        Swin(5, 8, [1], [2], window=1)
