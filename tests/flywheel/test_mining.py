"""Mining finds what the system is unsure of."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.data.digits import load as digits
from oculi.flywheel.mining import hard_cases, hardness, near_failures


def test_the_unsure_come_first():
    p = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.35, 0.25], [0.5, 0.49, 0.01]])
    assert hard_cases(p, 2).tolist() == [2, 1]
    assert hard_cases(p, 1, "entropy").tolist() == [1]
    assert hardness(torch.tensor([[1.0, 0.0]])).item() == 0


def test_an_impossible_budget_is_named():
    with pytest.raises(ValueError, match="budget"):
        hard_cases(torch.ones(2, 2) / 2, 3)


def test_the_nearest_to_a_failure_come_first():
    features = torch.tensor([[0.0, 0], [5, 5], [1, 0], [9, 9]])
    assert near_failures(features, torch.tensor([[5.0, 6], [0, 0]]), 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="budget"):
        near_failures(features, features, 5)
    with pytest.raises(ValueError, match="failures"):
        near_failures(features, features[:0], 1)


def learned(image: torch.Tensor, label: torch.Tensor) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(network(image), label).backward()
        optimizer.step()
    return network.requires_grad_(False)


def turned(image: torch.Tensor) -> torch.Tensor:
    return image.reshape(-1, 8, 8).rot90(1, (1, 2)).flatten(1)


def pictures(dataset) -> tuple[torch.Tensor, torch.Tensor]:
    samples = [dataset[i] for i in range(len(dataset))]
    return torch.stack([s.image for s in samples]).flatten(1), torch.tensor([s.label for s in samples])


@pytest.mark.parametrize("seed", range(3))
def test_mined_labels_teach_more_than_random_ones(seed):
    """Real digits; 2 % of the stream come from a camera that somebody turned, and eight of its failures are known."""
    g = torch.Generator().manual_seed(seed)
    image, label = pictures(digits().train)
    test, true = pictures(digits().test)
    order = torch.randperm(len(image), generator=g)
    start, known, rest = order[:400], order[400:408], order[408:]
    picked = rest[torch.randint(len(rest), (2000,), generator=g)]
    stream, answer = image[picked].clone(), label[picked]
    stream[:40] = turned(stream[:40])
    stream = (stream + 0.05 * torch.randn(stream.shape, generator=g)).clamp(0, 1)
    failures = turned(image[known])

    first = learned(image[start], label[start])
    features = first[:2]
    assert float((first(turned(test)).argmax(1) == true).float().mean()) < 0.3

    def taught(chosen: torch.Tensor) -> float:
        pixels = torch.cat([image[start], failures, stream[chosen]])
        second = learned(pixels, torch.cat([label[start], label[known], answer[chosen]]))
        return float((second(turned(test)).argmax(1) == true).float().mean())

    mined = near_failures(features(stream), features(failures), 60)
    assert taught(mined) >= taught(torch.randperm(2000, generator=g)[:60]) + 0.1
