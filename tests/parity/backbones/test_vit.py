"""ViT against torchvision: equal outputs and gradients at equal weights, ViT-B/16's number of parameters."""

import pytest
import torch

from oculi.backbones.vit import ViT
from oracles import torchvision


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


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="patch: expected a divisor of image_size 30, got 4"):
        ViT(10, 30, 4, 8, 1, 2)
    with pytest.raises(ValueError, match="expected 4 patches, got 9"):
        ViT(10, 8, 4, 8, 1, 2)(torch.rand(1, 3, 12, 12))
