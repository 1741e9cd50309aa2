"""Random samples through every format: what does not come back as it was has been told."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.data.conversion import write
from oculi.data.recognise import recognise
from oculi.data.sources import open_data
from oculi.types import Sample

NAMES = ["cat", "dog", "a b"]
TOLD = {  # the words that announce a field's change
    "image": ("rounded to 8 bits",),
    "boxes": ("boxes", "another"),
    "labels": ("another",),
    "masks": ("masks", "another"),
    "crowd": ("crowd",),
    "keypoints": ("keypoints", "another"),
}


def sample(seed, name, whole, apart, crowd, points, masked):
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=g)

    height, width, n = int(rand(1) * 20) + 8, int(rand(1) * 20) + 8, int(rand(1) * 4)
    image = rand(3 if seed % 2 else 1, height, width)
    image = (image * 255).round() / 255 if whole else image
    masks = rand(n, height, width) < 0.4
    if apart:
        masks &= masks.cumsum(0) == 1
    masks[:, 0, :1] &= not apart
    for k in range(n):  # none is empty
        masks[:, 2 + k, 3] = False
        masks[k, 2 + k, 3] = True
    if masked:
        rows, columns = masks.any(2).int(), masks.any(1).int()
        low = torch.stack([columns.argmax(1), rows.argmax(1)], 1)
        high = torch.stack([width - columns.flip(1).argmax(1), height - rows.flip(1).argmax(1)], 1)
    else:
        low = (rand(n, 2) * torch.tensor([width - 4, height - 4])).floor()
        high = low + 1 + (rand(n, 2) * 3).floor()
    boxes = torch.cat([low, high], 1).float().reshape(n, 4)
    boxes[:, :2] += 0 if whole else 0.25
    return Sample(
        image=image, boxes=boxes, labels=torch.arange(n) if apart else torch.randint(0, 3, (n,), generator=g), id=name,
        masks=masks if masked else None, crowd=rand(n) < 0.5 if crowd else None,
        keypoints=torch.cat([rand(n, 2, 2) * 8, torch.ones(n, 2, 1) * 2], -1) if points else None,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), *[st.booleans()] * 6)
def test_what_does_not_come_back_has_been_told(
    tmp_path_factory, name, seed, whole, apart, crowd, points, masked, plain
):
    if plain:
        whole, apart, crowd, points = True, True, False, False
    options = (whole, apart, crowd, points, masked)
    parts = {part: [sample(seed + k, f"{part}-1", *options)] for k, part in enumerate(("train", "val"))}
    folder = tmp_path_factory.mktemp(name)
    lost = "\n".join(write(parts, folder, name, NAMES))
    held = {"boxes", *(["masks"] if masked else [])}
    reads = held | ({"keypoints"} if points and name != "voc" else set())
    if points and name == "yolo":
        reads -= {"masks"}
    there = [len(s.boxes) for some in parts.values() for s in some]
    splits = open_data(**recognise(folder, reads)) if all(there) or not points else None
    if splits is None:
        return
    assert splits.class_names == NAMES
    for part, back in (("val", splits.validation),):
        one, two = parts[part][0], back[0]
        two.crowd = None if one.crowd is None and not bool(two.crowd.any()) else two.crowd
        assert one.id == two.id
        for field, words in TOLD.items():
            a, b = getattr(one, field), getattr(two, field)
            same = (
                torch.equal(a, b) if a is not None and b is not None and a.shape == b.shape else a is None and b is None
            )
            close = same or (a is not None and b is not None and a.shape == b.shape and field in ("boxes", "keypoints")
                             and torch.allclose(a, b, rtol=1e-6, atol=1e-6))  # fmt: skip
            assert close or any(word in lost for word in words), (field, lost)
    if plain:
        assert lost == ""


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "semantic_png"])
def test_pictures_of_five_channels_are_refused(tmp_path, name):
    picture = sample(1, "odd", True, True, False, False, True)
    picture.image, picture.semantic = torch.rand(5, 8, 8), torch.zeros(8, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="3 channels"):
        write({"train": [picture]}, tmp_path, name, NAMES)
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_nameless_samples_of_three_splits_stay_apart(tmp_path, name):
    """Pictures without ids are numbered within each split; none may take another's file."""
    level = iter(range(9))
    box, label = torch.tensor([[1.0, 2, 6, 5]]), torch.zeros(1, dtype=torch.int64)
    parts = {
        part: [Sample(image=torch.full((3, 8, 8), next(level) / 255), boxes=box, labels=label) for _ in range(3)]
        for part in ("train", "val", "test")
    }
    write(parts, tmp_path / "out", name, ["cat"])
    found = open_data(**recognise(tmp_path / "out", {"boxes"}))
    seen = [
        round(float(part[k].image.mean()) * 255)
        for part in (found.train, found.validation, found.test)
        for k in range(3)
    ]
    assert sorted(seen) == list(range(9))
