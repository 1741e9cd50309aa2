"""ConvNeXt against torchvision and transformers: equal outputs, maps and gradients at equal weights."""

import pytest
import torch

from oculi.backbones.convnext import ConvNeXt
from oracles import torchvision


def from_torchvision(name):
    """Our name of one of torchvision's tensors: its even `features` are entries, its odd ones stages."""
    if name.startswith("classifier"):
        return name.replace("classifier.0", "norm").replace("classifier.2", "head")
    _, place, rest = name.split(".", 2)
    if int(place) % 2 == 0:
        return f"entries.{int(place) // 2}.{rest}"
    block, _, rest = rest.partition(".")
    for old, new in (("block.0", "depthwise"), ("block.2", "norm"), ("block.3", "mlp.0"), ("block.5", "mlp.2")):
        rest = rest.replace(old, new)
    return f"stages.{int(place) // 2}.{block}.{rest.replace('layer_scale', 'scale')}"


def from_transformers(name):
    """Our name of one of transformers' tensors."""
    if not name.startswith("encoder"):
        swaps = (("embeddings.patch_embeddings", "entries.0.0"), ("embeddings.layernorm", "entries.0.1"))
        for old, new in (*swaps, ("layernorm", "norm")):
            if name.startswith(old):
                return name.replace(old, new)
    _, _, stage, kind, index, rest = name.split(".", 5)
    if kind == "downsampling_layer":
        return f"entries.{stage}.{index}.{rest}"
    swaps = (("dwconv", "depthwise"), ("layernorm", "norm"), ("pwconv1", "mlp.0"), ("pwconv2", "mlp.2"))
    for old, new in (*swaps, ("layer_scale_parameter", "scale")):
        rest = rest.replace(old, new)
    return f"stages.{stage}.{index}.{rest}"


def copy_weights(theirs, ours, rename):
    renamed = {rename(name): value for name, value in theirs.state_dict().items()}
    shapes = ours.state_dict()
    missing, unexpected = ours.load_state_dict({k: v.view_as(shapes[k]) for k, v in renamed.items()}, strict=False)
    assert not unexpected
    assert set(missing) == {"pixel_mean", "pixel_std"}


def randomised(network):
    """Norms and scales away from one and zero, as after training."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if parameter.dim() == 1 else 0.02))
    return network


def test_equals_torchvision():
    torch.manual_seed(0)
    theirs = randomised(torchvision().models.convnext_tiny())
    ours = ConvNeXt()
    copy_weights(theirs, ours, from_torchvision)
    for image in (torch.rand(2, 3, 64, 64), torch.rand(1, 3, 75, 101)):
        expected = theirs.eval()(image)
        torch.testing.assert_close(
            ours.eval()(image), expected, rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max())
        )


def test_learns_as_torchvision_does():
    torch.manual_seed(0)
    models = torchvision().models.convnext
    sizes = [(8, 12, 1), (12, 16, 2), (16, None, 1)]
    theirs = randomised(models.ConvNeXt([models.CNBlockConfig(*size) for size in sizes], num_classes=7))
    ours = ConvNeXt(7, [1, 2, 1], [8, 12, 16])
    copy_weights(theirs, ours, from_torchvision)
    image = torch.rand(3, 3, 32, 48)
    for network in (ours.train(), theirs.train()):
        network(image).square().mean().backward()
    found = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(
            found[from_torchvision(name)].grad.view_as(parameter), parameter.grad, rtol=1e-4, atol=1e-6
        )


def test_equals_transformers():
    from transformers import ConvNextConfig, ConvNextModel

    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1], layer_norm_eps=1e-6)
    theirs = randomised(ConvNextModel(config)).eval()
    ours = ConvNeXt(0, [1, 1, 2, 1], [8, 12, 16, 20]).eval()
    copy_weights(theirs, ours, from_transformers)
    image = torch.rand(2, 3, 64, 96)
    answer = theirs(image, output_hidden_states=True)
    torch.testing.assert_close(ours(image), answer.pooler_output, rtol=1e-5, atol=1e-5)
    maps = ours.features(image)
    assert [tuple(x.shape[1:]) for x in maps] == [(8, 16, 24), (12, 8, 12), (16, 4, 6), (20, 2, 3)]
    for mine, expected in zip(maps, answer.hidden_states[-4:], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_stochastic_depth_skips_whole_blocks_in_training_alone():
    torch.manual_seed(0)
    ours = ConvNeXt(5, [1, 1], [4, 8], layer_scale=1.0, stochastic_depth=1.0)
    assert [block.drop.rate for stage in ours.stages for block in stage] == [0.0, 1.0]
    image = torch.rand(2, 3, 16, 16)
    entered = ours.entries[1](ours.features(image)[0])
    torch.testing.assert_close(ours.train().features(image)[1], entered)
    assert not torch.equal(ours.eval().features(image)[1], entered)


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="widths: expected one for each of 2 depths, got 3"):
        ConvNeXt(5, [1, 1], [4, 8, 16])
    with pytest.raises(ValueError, match="kernel: expected an odd number, got 4"):
        ConvNeXt(5, [1, 1], [4, 8], kernel=4)
    with pytest.raises(ValueError, match="image_size: expected at least 32 pixels, got 16"):
        ConvNeXt(image_size=16)
