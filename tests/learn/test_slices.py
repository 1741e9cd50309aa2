"""Slices: a planted failing slice is flagged, and none is where nothing is wrong, in 19 of 20 seeds."""

import math

import pytest
import torch
from scipy.stats import fisher_exact
from sklearn.metrics import accuracy_score, precision_score, recall_score

from oculi.data.world.dataset import World
from oculi.data.world.scenes import Knobs
from oculi.learn.slices import slice_scores, sliced_metrics


def flagged(seed: int, planted: float) -> list[str]:
    g = torch.Generator().manual_seed(seed)
    size = torch.rand(600, generator=g)
    members = {f"size {i}": (size >= i / 5) & (size < (i + 1) / 5) for i in range(5)}
    chance = torch.where(members["size 0"], torch.tensor(planted), torch.tensor(0.9))
    right = torch.rand(600, generator=g) < chance
    return [s.name for s in slice_scores(right, members) if s.worse]


def test_a_planted_slice_is_flagged_and_no_other():
    assert sum(flagged(seed, 0.65) == ["size 0"] for seed in range(20)) >= 19


def test_nothing_is_flagged_without_a_fault():
    assert sum(not flagged(seed, 0.9) for seed in range(20)) >= 19


def test_tiny_slices_are_left_out():
    right = torch.ones(50, dtype=torch.bool)
    assert slice_scores(right, {"few": torch.arange(50) < 3}) == []


def test_the_probability_is_fishers():
    for seed in range(20):
        right = torch.rand(60, generator=torch.Generator().manual_seed(seed)) < 0.8
        inside = torch.arange(60) < 15
        table = [[int((right & part).sum()), int((~right & part).sum())] for part in (inside, ~inside)]
        expected = fisher_exact(table, alternative="less").pvalue
        assert slice_scores(right, {"it": inside})[0].p_value == pytest.approx(expected, abs=1e-9)


AGES = {  # true positives, false negatives, false positives, true negatives
    "age <18": (150, 17, 19, 86),
    "age 18-45": (55, 15, 8, 76),
    "age 45+": (900, 100, 47, 791),
    "unknown": (1200, 155, 154, 1377),
}
GOLDEN = {"age <18": (87, 89, 90), "age 18-45": (85, 87, 79), "age 45+": (92, 95, 90)}  # accuracy, precision, recall


def patients():
    """Answers whose counts give the golden table."""
    predicted, label, group = [], [], []
    for index, counts in enumerate(AGES.values()):
        for (said, true), count in zip(((1, 1), (0, 1), (1, 0), (0, 0)), counts, strict=True):
            predicted += [said] * count
            label += [true] * count
            group += [index] * count
    predicted, label, group = map(torch.tensor, (predicted, label, group))
    return predicted, label, {name: group == index for index, name in enumerate(AGES) if name != "unknown"}


def test_the_golden_table_flags_one_recall():
    predicted, label, members = patients()
    found = sliced_metrics(predicted, label, members)
    assert [round(100 * found[name][0]) for name in ("accuracy", "precision", "recall")] == [90, 91, 89]
    tables = {name: {s.name: s for s in slices} for name, (_, slices) in found.items()}
    for group, expected in GOLDEN.items():
        assert tuple(round(100 * tables[name][group].score) for name in tables) == expected
    worse = {(name, s.name) for name, (_, slices) in found.items() for s in slices if s.worse}
    assert worse == {("recall", "age 18-45")}


def test_sliced_metrics_are_scikit_learns():
    predicted, label, members = patients()
    found = sliced_metrics(predicted, label, members)
    theirs = {"accuracy": accuracy_score, "precision": precision_score, "recall": recall_score}
    for name, score in theirs.items():
        assert found[name][0] == pytest.approx(score(label, predicted))
        for one in found[name][1]:
            inside = members[one.name]
            assert one.score == pytest.approx(score(label[inside], predicted[inside]))


def test_without_positives_there_is_no_recall():
    zeros = torch.zeros(40, dtype=torch.int64)
    found = sliced_metrics(zeros, zeros, {"half": torch.arange(40) < 20})
    assert found["accuracy"][0] == 1
    assert math.isnan(found["recall"][0])
    assert found["recall"][1] == []


@pytest.mark.unchecked
def test_answers_without_labels_are_refused():
    with pytest.raises(ValueError, match="predicted: expected one answer for each label"):
        sliced_metrics(torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), {})


@pytest.fixture(scope="module")
def sides() -> torch.Tensor:
    """The side in pixels of every object in 128 scenes."""
    world = World(128, "detection", 64, knobs=Knobs(radius=(0.4, 1.2)))
    boxes = torch.cat([sample.boxes for sample in world.make(range(128))])
    return ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()


def test_objects_that_a_detector_misses_by_size(sides):
    """A detector that misses small objects, and one that misses each alike."""
    members = {"under 8": sides < 8, "8 to 12": (sides >= 8) & (sides < 12), "12 to 16": (sides >= 12) & (sides < 16)}
    members["above"] = sides >= 16
    assert int(members["under 8"].sum()) >= 20

    def flags(seed: int, planted: float) -> list[str]:
        g = torch.Generator().manual_seed(seed)
        chance = torch.where(sides < 8, torch.tensor(planted), torch.tensor(0.9))
        found = torch.rand(len(sides), generator=g) < chance
        return [s.name for s in slice_scores(found, members) if s.worse]

    assert sum("under 8" in flags(seed, 0.5) for seed in range(20)) >= 19
    assert sum(not flags(seed, 0.9) for seed in range(20)) >= 19
