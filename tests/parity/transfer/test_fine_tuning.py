"""Fine-tuning against torchvision's network with a new last layer, and against torch's own loop with parameter groups."""

import pytest
import torch
from torch import nn

from oculi.backbones.resnet import ResNet
from oculi.data.datasets import training_batches
from oculi.data.digits import load as digits
from oculi.learn.learner import Training, fit, seed_everything
from oculi.learn.training import build
from oculi.transfer.fine_tuning import FineTuning, advice, similarity
from oracles import torchvision

TINY = {"depths": [1, 1], "width": 8, "stem": "small", "in_channels": 1, "image_size": 16}


def test_a_new_last_layer_on_torchvisions_trunk():
    torch.manual_seed(0)
    theirs = torchvision().models.resnet18()
    theirs.train()(torch.rand(4, 3, 64, 64))  # statistics of their own
    source = ResNet(1000)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("pixel_")}
    source.load_state_dict(dict(zip(state, theirs.state_dict().values(), strict=True)), strict=False)
    ours = FineTuning(8)
    ours.adopt(source)
    theirs.fc = nn.Linear(512, 8)
    theirs.fc.load_state_dict(ours.head.state_dict())
    image = torch.rand(2, 3, 64, 64)
    for mode in (False, True):
        torch.testing.assert_close(ours.train(mode)(image), theirs.train(mode)(image), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def ready():
    seed_everything(0)
    system = FineTuning(10, **TINY)
    system.adopt(build("resnet", tiny=True))
    return system, digits().prepared(system.contract)


@pytest.mark.parametrize("freeze", [0, -1])
def test_equals_a_plain_loop_with_parameter_groups(freeze):
    options = Training(steps=5, batch_size=16, optimizer="sgd", lr=0.05, lr_decay=0.5, freeze=freeze)
    learned, splits = ready()
    fit(learned, options, splits, progress=False)
    plain, _ = ready()
    plain.to(memory_format=torch.channels_last)  # as the Learner's
    plain.train()
    layers = [plain.trunk.stem, *plain.trunk.stages, plain.head]
    if freeze:
        for layer in layers[:-1]:
            layer.requires_grad_(False).eval()
    groups = [{"params": layer.parameters(), "lr": 0.05 * 0.5 ** (3 - k)} for k, layer in enumerate(layers)]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    for batch in training_batches(splits.train, 16, 5, seed=0):
        optimizer.zero_grad()
        plain.loss(batch)["cross_entropy"].backward()
        optimizer.step()
    for mine, theirs in zip(learned.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_pictures_enter_the_trunk_as_when_it_was_trained():
    source = build("resnet", tiny=True)
    source.set_statistics(torch.tensor([0.3]), torch.tensor([0.2]))
    tuned, scratch = FineTuning(4, **TINY), FineTuning(4, **TINY, pretrained=False)
    for system in (tuned, scratch):
        before = system.trunk.stem[0].weight.detach().clone()
        system.adopt(source)
        system.set_statistics(torch.tensor([0.7]), torch.tensor([0.1]))
        assert torch.equal(system.trunk.stem[0].weight, before) == (not system.pretrained)
    assert float(tuned.trunk.pixel_mean) == pytest.approx(0.3)
    assert float(scratch.trunk.pixel_mean) == pytest.approx(0.7)


def test_another_trunk_is_refused():
    with pytest.raises(ValueError, match=r"source: its weights do not fit, first at stem"):
        FineTuning(4, **{**TINY, "width": 12}).adopt(build("resnet", tiny=True))


def test_advice():
    """Few and similar: a fixed extractor. Many, or different: fine-tuning."""
    assert advice(10, 0.9) == {"freeze": -1}
    assert advice(10, 0.1)["freeze"] == 1
    assert "freeze" not in advice(500, 0.9)
    assert advice(500, 0.1) == {"lr_decay": 1.0}
    torch.manual_seed(0)
    old = torch.randn(200, 8)
    assert similarity(old, torch.randn(200, 8)) > 0.8 > 0.3 > similarity(old, 5 + torch.randn(200, 8))
    with pytest.raises(ValueError, match="per_class, alike"):
        advice(0, 0.5)
