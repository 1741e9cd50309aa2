"""Checkpoints as their sources write them: random weights, batch norm statistics that are not the initial ones."""

import json

import torch
from torch import nn

from oracles import timm, torchvision

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CONVNEXT_PREPROCESSOR = {  # the old spelling of many published repositories
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "size": 224,
    "crop_pct": 0.875,
    "resample": 3,
    "do_normalize": True,
    "do_resize": True,
    **IMAGENET,
}
VIT_PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_normalize": True,
    "do_resize": True,
    "do_rescale": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def lively(network: nn.Module, size: int = 64, seed: int = 0) -> nn.Module:
    """No weight left at zero or one, so that a swapped or a forgotten one shows; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.dim() < 2 or "token" in name or "pos" in name:
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
        for name, value in network.named_buffers():
            if name.endswith("running_mean"):
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
            elif name.endswith("running_var"):
                value.mul_(torch.rand(value.shape, generator=generator) + 0.5)
    return network.eval()


def write_timm(folder, name: str, size: int = 0, **options) -> nn.Module:
    timm()
    from timm.models import create_model, save_for_hf

    options = {"num_classes": 7, **options, **({"img_size": size} if size else {})}
    theirs = lively(create_model(name, **options))
    save_for_hf(theirs, folder, safe_serialization=True)
    return theirs


def write_transformers(folder, theirs: nn.Module, preprocessor: dict | None) -> nn.Module:
    lively(theirs).save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return theirs


def write_torchvision(path, name: str, **options) -> nn.Module:
    theirs = lively(getattr(torchvision().models, name)(**options))
    torch.save(theirs.state_dict(), path)
    return theirs


def edit(folder, file: str = "config.json", **changes) -> None:
    """Change some keys of a JSON file; None deletes one."""
    content = {**json.loads((folder / file).read_text()), **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / file).write_text(json.dumps(kept))


def normalised(image, ours):
    """What the source's own preprocessing would hand to its network."""
    return (image - ours.pixel_mean) / ours.pixel_std


def assert_equal_outputs(ours, theirs, size: int = 64) -> None:
    """Equal logits for one random batch, the source's network getting normalised pictures."""
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(normalised(image, ours))
        expected = getattr(expected, "logits", expected)
        got = ours(image)
    scale = expected.abs().max()
    assert scale > 1e-3
    torch.testing.assert_close(got / scale, expected / scale, rtol=1e-5, atol=1e-5)
