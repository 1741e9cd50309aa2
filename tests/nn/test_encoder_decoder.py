"""The encoder-decoder pattern: input -> encoder -> state -> decoder -> output, in three shapes of state.

A pyramid of maps (U-Net), a vector (the autoencoder), the last hidden state of a sequence (Cho 2014, arXiv:1406.1078).
"""

import torch
from torch import nn
from torch.nn import functional as F

from oculi.generate.vae import VAE
from oculi.segment.unet import UNet


def test_the_u_nets_decoder_needs_the_state_alone():
    torch.manual_seed(0)
    system = UNet(3, 4, 3, image_size=16).eval()
    image = torch.rand(2, 3, 16, 16)
    state = system.features(image)
    assert [tuple(m.shape[1:]) for m in state] == [(4, 16, 16), (8, 8, 8), (16, 4, 4)]
    expected = system(image)
    image.zero_()  # the picture is gone
    assert torch.equal(system.decode(state), expected)
    assert not torch.equal(system.decode([m.flip(0) for m in state]), expected)


def test_the_two_halves_of_a_u_net_share_no_weights_and_are_learned_together():
    torch.manual_seed(0)
    system = UNet(3, 4, 3, image_size=16)
    state = system.features(torch.rand(2, 3, 16, 16))
    held = [m.detach().requires_grad_() for m in state]
    system.decode(held).square().mean().backward()
    second = {name.split(".")[0] for name, p in system.named_parameters() if p.grad is not None}
    assert second == {"up", "merge", "head"}
    torch.autograd.backward(state, [m.grad for m in held])  # the gradient passes through the state
    assert all(p.grad is not None for p in system.parameters())


def test_the_autoencoders_state_is_a_vector():
    torch.manual_seed(0)
    system = VAE().eval()
    c = system.contract
    mean, _ = system.encode(torch.rand(2, c.channels, c.height, c.width))
    assert mean.ndim == 2
    assert mean[0].numel() < c.channels * c.height * c.width
    assert system.decode(mean).shape == (2, c.channels, c.height, c.width)


class Sequences(nn.Module):
    """Two recurrent networks; all that the second knows of the first's sequence is its last state."""

    def __init__(self, symbols: int, width: int):
        super().__init__()
        self.embed = nn.Embedding(symbols + 1, width)
        self.encoder, self.decoder = (nn.GRU(width, width, batch_first=True) for _ in range(2))
        self.head = nn.Linear(width, symbols)

    def forward(self, source, target):
        _, state = self.encoder(self.embed(source))
        given = torch.cat([torch.full_like(target[:, :1], self.embed.num_embeddings - 1), target[:, :-1]], 1)
        return self.head(self.decoder(self.embed(given), state)[0])


def test_a_sequence_comes_out_at_another_length_than_it_went_in():
    """What goes in has six symbols; the first two of them are asked for, last first."""
    torch.manual_seed(0)
    network = Sequences(5, 32)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(150):
        source = torch.randint(0, 5, (64, 6))
        target = source[:, :2].flip(1)
        loss = F.cross_entropy(network(source, target).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    source = torch.randint(0, 5, (200, 6))
    target = source[:, :2].flip(1)
    said = network(source, target).argmax(2)
    assert said.shape == (200, 2)
    assert float((said == target).float().mean()) > 0.9
