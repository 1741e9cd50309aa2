"""Pictures of weights and activations hold the numbers; smooth filters are told from noise."""

import numpy as np
import pytest
import torch
from torch import nn

from oculi.backbones.lenet import LeNet
from oculi.backbones.resnet import ResNet
from oculi.explain.activations import activation_picture, activations, entering, entering_picture
from oculi.explain.weights import (
    NOISE,
    filters_of,
    grid,
    noisy_filters,
    normalized_filters,
    total_variation,
    weight_picture,
)


def test_noise_is_rough_and_edges_are_smooth():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 3, 9, 9, generator=generator)
    assert float(total_variation(noise).mean()) == pytest.approx(NOISE, rel=0.03)
    assert noisy_filters(noise)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 9), indexing="ij")
    edges = torch.stack([torch.sin(2 * x), torch.sin(2 * y), torch.exp(-3 * (x**2 + y**2))])[:, None]
    assert not noisy_filters(edges)
    torch.testing.assert_close(total_variation(edges), total_variation(5 * edges + 3))
    with pytest.raises(ValueError, match="at least two pixels"):
        total_variation(torch.zeros(2, 3, 1, 1))


def test_filters_become_smoother_with_training():
    from oculi.learn.learner import fit
    from oculi.learn.training_doctor import healthy

    case = healthy(0, steps=120)
    before = float(total_variation(filters_of(case.system)).mean())
    fit(case.system, case.training, case.splits, progress=False)
    after = float(total_variation(filters_of(case.system)).mean())
    assert after < before


def test_grid_and_normalisation():
    images = torch.arange(3 * 2 * 2).reshape(3, 1, 2, 2).float()
    sheet = grid(images, columns=2)
    assert sheet.shape == (1, 5, 5)
    torch.testing.assert_close(sheet[0, :2, :2], images[0, 0])
    torch.testing.assert_close(sheet[0, :2, 3:], images[1, 0])
    torch.testing.assert_close(sheet[0, 3:, :2], images[2, 0])
    assert bool((sheet[0, 2] == 1).all())
    scaled = normalized_filters(torch.stack([images[0], torch.full((1, 2, 2), 7.0)]))
    torch.testing.assert_close(scaled[0], torch.tensor([[[0, 1 / 3], [2 / 3, 1]]]))
    assert bool((scaled[1] == 0.5).all())


def test_weight_pictures():
    torch.manual_seed(0)
    picture = weight_picture(LeNet(), at_least=1)  # six filters of 5 x 5 in colour, in three columns
    assert picture.size == (3 * 6 - 1, 2 * 6 - 1)
    assert weight_picture(LeNet(), "convs.1", at_least=1).size == (6 * 6 - 1, 16 * 6 - 1)
    with pytest.raises(ValueError, match="no convolution conv; did you mean convs"):
        filters_of(LeNet(), "conv")
    with pytest.raises(ValueError, match="Linear has no convolution"):
        filters_of(nn.Linear(2, 2))


def test_activation_pictures_are_the_activations():
    torch.manual_seed(0)
    system, image = LeNet(), torch.rand(2, 3, 32, 32)
    maps = activations(system, image, "convs.0")
    torch.testing.assert_close(maps, system.convs[0](system.normalize(image)))
    picture = np.asarray(activation_picture(system, image[0], "convs.0", at_least=1).convert("L"), np.float32) / 255
    first = normalized_filters(maps[0][:, None])[0, 0].detach().numpy()
    assert np.abs(picture[:28, :28] - first).max() < 0.01
    assert activations(system, image, "head").shape == (2, 10)
    with pytest.raises(ValueError, match="expected maps"):
        activation_picture(system, image[0], "head")
    with pytest.raises(ValueError, match=r"has no module convs\.7"):
        activations(system, image, "convs.7")


def test_what_enters_the_network_is_what_the_first_layer_gets():
    torch.manual_seed(0)
    system, image = ResNet(5, [1], width=4, image_size=16), torch.rand(2, 3, 16, 16)
    system.set_statistics(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1]))
    torch.testing.assert_close(entering(system, image), system.normalize(image))
    picture = np.asarray(entering_picture(system, image, at_least=1), np.float32) / 255
    assert np.abs(picture[:16, :16] - image[0].permute(1, 2, 0).numpy()).max() < 0.01
