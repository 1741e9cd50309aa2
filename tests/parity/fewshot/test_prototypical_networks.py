"""Prototypical Networks: the distance logits, the equivalent linear classifier, the reference package, the protocol."""

import pytest
import torch

from oculi.data.datasets import Splits
from oculi.data.episodes import EpisodeSampler
from oculi.fewshot.prototypical_networks import PrototypicalNetworks, class_means, first_of_each, prototype_logits
from oculi.learn.protocols.episodes import episode_accuracies, score
from oculi.system import load, save
from oculi.types import Batch, Sample
from oracles import oracle, torchvision


def tiny(classes=4, **options):
    torch.manual_seed(0)
    return PrototypicalNetworks(classes, [1], 8, 8, in_channels=1, image_size=8, **options)


def labelled(n=12, classes=4):
    torch.manual_seed(1)
    return Batch(image=torch.rand(n, 1, 8, 8), label=torch.arange(n) % classes)


def test_logits_equal_the_linear_classifier_up_to_a_constant_per_query():
    system, batch = tiny().eval(), labelled()
    system.fit([batch])
    weight, bias = system.linear()
    with torch.no_grad():
        embedding = system.embed(batch.image)
        linear, logits = embedding @ weight.T + bias, system(batch.image)
    torch.testing.assert_close(logits, linear - embedding.square().sum(1, keepdim=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits.softmax(1), linear.softmax(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight, 2 * system.prototypes)


def test_prototypes_are_means_however_the_support_is_batched():
    system, batch = tiny().eval(), labelled()
    halves = [Batch(image=batch.image[i : i + 6], label=batch.label[i : i + 6]) for i in (0, 6)]
    system.fit(halves)
    with torch.no_grad():
        expected = system.embed(batch.image)[batch.label == 2].mean(0)
    torch.testing.assert_close(system.prototypes[2], expected, rtol=1e-5, atol=1e-6)


def test_equals_the_reference():
    system, batch = tiny().eval(), labelled()
    torchvision()  # easyfsl imports it
    reference = oracle("easyfsl.methods").PrototypicalNetworks(torch.nn.Flatten()).eval()
    with torch.no_grad():
        vectors = system.embed(batch.image)
        reference.process_support_set(vectors, batch.label)
        theirs = reference(vectors + 0.1)
    ours = prototype_logits(vectors + 0.1, class_means(vectors, batch.label, 4)[0])
    torch.testing.assert_close(ours, -theirs.square(), rtol=1e-4, atol=1e-5)


def test_a_class_without_a_prototype_is_never_answered():
    system, batch = tiny().eval(), labelled(8, 2)
    system.fit([batch])
    probabilities = torch.stack([answer.probabilities for answer in system.predict(batch)])
    assert (probabilities[:, 2:] == 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(8))


def test_prototypes_are_saved(tmp_path):
    system, batch = tiny().eval(), labelled()
    system.fit([batch])
    save(system, tmp_path)
    assert torch.equal(load(tmp_path)(batch.image), system(batch.image))


def test_support_in_the_batch_and_split_from_it_give_the_same_loss():
    system, batch = tiny(shots=2), labelled(12)
    given = Batch(
        image=batch.image[8:], label=batch.label[8:], support=Batch(image=batch.image[:8], label=batch.label[:8])
    )
    torch.testing.assert_close(system.loss(given)["cross_entropy"], system.loss(batch)["cross_entropy"])


def test_the_support_is_the_first_of_each_class():
    label = torch.tensor([0, 1, 0, -1, 0, 1, 2])
    assert first_of_each(label, 1).tolist() == [True, True, False, False, False, False, True]
    assert first_of_each(label, 2).tolist() == [True, True, True, False, False, True, True]


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="no class has more than 1 samples"):
        tiny().loss(labelled(4, 4))
    with pytest.raises(ValueError, match="expected images and labels"):
        tiny().loss(Batch(image=torch.rand(2, 1, 8, 8)))
    with pytest.raises(ValueError, match="shots: expected at least 1"):
        tiny(shots=0)
    with pytest.raises(ValueError, match="batches: expected at least one"):
        tiny().fit([])


def grey_classes(n=160, classes=8):
    """Pictures of eight greys that noise blurs into each other."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(n) % classes
    image = label.float()[:, None, None, None] / classes + 0.12 * torch.randn(n, 1, 1, 1, generator=generator)
    return Batch(image=image.clamp(0, 1).expand(n, 1, 8, 8).contiguous(), label=label)


def test_more_shots_help_and_more_ways_hurt():
    system, pool = tiny(8), grey_classes()
    by_shots = [episode_accuracies(system, pool, EpisodeSampler(pool.label, 4, k, 5), 40).mean() for k in (1, 3, 12)]
    by_ways = [episode_accuracies(system, pool, EpisodeSampler(pool.label, n, 3, 5), 40).mean() for n in (2, 4, 8)]
    assert by_shots == sorted(by_shots)
    assert by_ways == sorted(by_ways, reverse=True)
    assert not bool(system.known.any())


def test_the_protocol_reports_chance():
    pool = grey_classes(n=100, classes=4)
    samples = [Sample(image=image, label=int(label)) for image, label in zip(pool.image, pool.label, strict=True)]
    figures = score(tiny(8), Splits(samples, samples, samples), "test")
    assert figures["ways"] == 4
    assert figures["chance"] == 0.25
    assert figures["accuracy_5_shot"] > figures["accuracy_1_shot"] > 0.3
