"""ViT against torchvision, transformers and timm: equal outputs and gradients, published numbers of parameters."""

import pytest
import torch

from oculi.backbones.vit import ViT
from oracles import timm, torchvision


def renamed(theirs, width):
    """torchvision's weights under our names."""
    names = {"class_token": "cls", "encoder.pos_embedding": "positions"}
    parts = [("conv_proj", "patches"), ("encoder.ln", "norm"), ("heads.head", "head")]
    for name, value in theirs.items():
        if name in names:
            yield names[name], value
            continue
        for old, new in parts:
            if name.startswith(old + "."):
                yield name.replace(old, new), value
        if name.startswith("encoder.layers.encoder_layer_"):
            index, _, rest = name.removeprefix("encoder.layers.encoder_layer_").partition(".")
            prefix = f"blocks.{index}."
            if "in_proj" in rest:
                kind = rest.rpartition("_")[2]
                yield f"{prefix}attention.query.{kind}", value[:width]
                yield f"{prefix}attention.key_value.{kind}", value[width:]
                continue
            for old, new in (
                ("self_attention.out_proj", "attention.out"),
                ("ln_1", "norms.0"),
                ("ln_2", "norms.1"),
                ("mlp.0", "mlp.0"),
                ("mlp.3", "mlp.3"),
            ):
                if rest.startswith(old):
                    yield prefix + rest.replace(old, new), value


def test_equals_torchvision():
    torch.manual_seed(0)
    theirs = torchvision().models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=40, num_classes=7
    )
    torch.nn.init.normal_(theirs.heads.head.weight)
    torch.nn.init.normal_(theirs.class_token)
    ours = ViT(7, 32, 8, 16, 2, 4, 40)
    missing, unexpected = ours.load_state_dict(dict(renamed(theirs.state_dict(), 16)), strict=False)
    assert not unexpected
    assert set(missing) == {"pixel_mean", "pixel_std"}
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)
    ours(image).square().sum().backward()
    theirs(image).square().sum().backward()
    torch.testing.assert_close(ours.patches.weight.grad, theirs.conv_proj.weight.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.positions.grad, theirs.encoder.pos_embedding.grad, rtol=1e-3, atol=1e-5)


def test_b_16_has_the_published_number_of_parameters_and_tokens():
    with torch.device("meta"):
        ours = ViT()
        assert sum(p.numel() for p in ours.parameters()) == 86_567_656
        assert ours.tokens(torch.empty(1, 3, 224, 224)).shape == (1, 197, 768)
        assert ours.features(torch.empty(1, 3, 224, 224))[0].shape == (1, 768, 14, 14)


@pytest.mark.parametrize(
    ("width", "depth", "heads", "parameters"),
    [(192, 12, 3, 5_717_416), (384, 12, 6, 22_050_664), (1024, 24, 16, 304_326_632)],
    ids=["Ti", "S", "L"],
)
def test_the_published_sizes_are_arguments(width, depth, heads, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in ViT(1000, 224, 16, width, depth, heads).parameters()) == parameters


def from_transformers(tensors):
    """transformers' tensors under our names; its keys and values are two layers."""
    swaps = (
        ("embeddings.cls_token", "cls"), ("embeddings.position_embeddings", "positions"),
        ("embeddings.patch_embeddings.projection", "patches"), ("layernorm_before", "norms.0"),
        ("layernorm_after", "norms.1"), ("layernorm", "norm"), ("q_proj", "query"), ("o_proj", "out"),
        ("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.3"), ("layers.", "blocks."),
    )  # fmt: skip
    for name, value in tensors.items():
        if ".v_proj." in name:
            continue
        if ".k_proj." in name:
            value = torch.cat([value, tensors[name.replace("k_proj", "v_proj")]])
            name = name.replace("k_proj", "key_value")
        for old, new in swaps:
            name = name.replace(old, new)
        yield name, value


def test_equals_transformers_at_other_sizes():
    """DINO's networks are this model: no head, no pooling layer, positions interpolated."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = ViTConfig(image_size=32, patch_size=8, layer_norm_eps=1e-6, **sizes)
    theirs = ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = ViT(0, 32, 8, 16, 2, 4)
    missing, unexpected = ours.load_state_dict(dict(from_transformers(theirs.state_dict())), strict=False)
    assert not unexpected
    assert set(missing) == {"pixel_mean", "pixel_std"}
    for height, width in ((32, 32), (48, 40), (16, 64), (24, 24)):  # 16 x 64 has as many patches as 32 x 32
        image = torch.rand(2, 3, height, width)
        expected = theirs(image, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(ours.tokens(image), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours(image), expected[:, 0], rtol=1e-5, atol=1e-5)
        assert ours.features(image)[0].shape == (2, 16, height // 8, width // 8)
    beside = torch.cat([image, torch.rand(2, 3, 24, 5)], 3)
    torch.testing.assert_close(ours(beside), ours(image))


def test_equals_timm_at_another_size():
    """timm's own interpolation antialiases; given ours, the rest is equal."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "num_classes": 5, "dynamic_img_size": True}
    theirs = timm().create_model("vit_tiny_patch16_224", depth=2, **sizes).eval()
    ours = ViT(5, 32, 8, 192, 2, 3).eval()
    swaps = (("cls_token", "cls"), ("pos_embed", "positions"), ("patch_embed.proj", "patches"), ("norm1", "norms.0"))
    swaps += (("norm2", "norms.1"), ("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.3"), ("attn.proj", "attention.out"))
    renamed = {}
    for name, value in theirs.state_dict().items():
        for old, new in swaps:
            name = name.replace(old, new)
        if "attn.qkv" in name:
            renamed[name.replace("attn.qkv", "attention.query")] = value[:192]
            renamed[name.replace("attn.qkv", "attention.key_value")] = value[192:]
        else:
            renamed[name] = value
    assert not ours.load_state_dict(renamed, strict=False).unexpected_keys
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)
    wide = torch.rand(2, 3, 40, 48)
    theirs.pos_embed = torch.nn.Parameter(ours._positions_on(5, 6).detach())
    theirs.patch_embed.grid_size, theirs.patch_embed.img_size = (5, 6), (40, 48)
    torch.testing.assert_close(ours(wide), theirs(wide), rtol=1e-4, atol=1e-5)


def test_positions_learn_at_another_size_too():
    ours = ViT(5, 16, 4, 8, 1, 2)
    ours(torch.rand(1, 3, 20, 12)).sum().backward()
    assert bool((ours.positions.grad.abs().sum(-1) > 0).all())


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="patch: expected a divisor of image_size 30, got 4"):
        ViT(10, 30, 4, 8, 1, 2)
    with pytest.raises(ValueError, match=r"image: expected at least 4x4 pixels, got \(12, 3\)"):
        ViT(10, 8, 4, 8, 1, 2)(torch.rand(1, 3, 12, 3))
