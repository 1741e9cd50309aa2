"""NT-Xent against pytorch_metric_learning: equal values and gradients."""

import pytest
import torch

from oculi.nn.contrastive import nt_xent_loss
from oculi.selfsup.simclr import SimCLR
from oculi.types import Batch


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_equals_the_reference(temperature):
    from pytorch_metric_learning.losses import NTXentLoss

    torch.manual_seed(0)
    first, second = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    ours = nt_xent_loss(first, second, temperature)
    theirs = NTXentLoss(temperature)(torch.cat([first, second]), torch.arange(5).repeat(2))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    (mine,), (other,) = torch.autograd.grad(ours, [first]), torch.autograd.grad(theirs, [first])
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_views_differ_and_the_answer_does_not():
    torch.manual_seed(0)
    system = SimCLR([1], 8, 8, in_channels=1, image_size=8)
    batch = Batch(image=torch.rand(4, 1, 8, 8))
    assert float(system.loss(batch)["nt_xent"].detach()) > 0
    with torch.no_grad():
        system.eval()
        first, second = system.predict(batch)[0].vector, system.predict(batch)[0].vector
    assert torch.equal(first, second)
    assert first.shape == (8,)


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        SimCLR([1], 8, temperature=0)
    with pytest.raises(ValueError, match=r"batch.image"):
        SimCLR([1], 8).loss(Batch(label=torch.zeros(2, dtype=torch.int64)))
