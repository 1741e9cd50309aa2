"""Some classes of a source, numbered from 0, few of each to train on and all of them to be judged by."""

import pytest

from oculi.data.digits import load as digits
from oculi.data.sources import open_data


def test_classes_are_renumbered_and_counted():
    splits, whole = open_data("class_split", source="digits", first=7, last=10, per_class=5), digits()
    assert splits.class_names == ["7", "8", "9"]
    labels = [sample.label for sample in splits.train]
    assert sorted(labels) == [0] * 5 + [1] * 5 + [2] * 5
    for mine, theirs in ((splits.test, whole.test), (splits.validation, whole.validation)):
        assert [s.id for s in mine] == [s.id for s in theirs if s.label >= 7]
        assert [s.label + 7 for s in mine] == [s.label for s in theirs if s.label >= 7]


def test_two_ranges_share_nothing():
    old = open_data("class_split", source="digits", first=0, last=6)
    new = open_data("class_split", source="digits", first=6, last=10, options={"seed": 0})
    assert len(old.train) + len(new.train) == len(digits().train)
    assert not {s.id for s in old.train} & {s.id for s in new.train}


def test_bad_ranges():
    for first, last in ((3, 3), (-1, 2), (8, 11)):
        with pytest.raises(ValueError, match="first, last: expected a range of the 10 classes"):
            open_data("class_split", source="digits", first=first, last=last)
    with pytest.raises(ValueError, match="per_class"):
        open_data("class_split", source="digits", per_class=-1)
