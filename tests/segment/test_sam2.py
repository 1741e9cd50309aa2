"""SAM 2 on its own: what is remembered, what hiding does, bad input."""

import pytest
import torch

from oculi.nn.memory_attention import axial_angles, sine_map, turned
from oculi.nn.windows import from_windows, to_windows
from oculi.segment.sam2 import CLIP, HIDDEN, SAM2, clip
from oculi.types import Batch, Prompts


def small(**changed):
    torch.manual_seed(0)
    arguments = {
        "image_size": 32, "stride": 2, "width": 8, "depths": [1, 1, 1, 1], "windows": [4, 4, 4, 2], "whole": [2],
        "background": 4, "channels": 16, "memory_channels": 8, "memory_layers": 1, "memories": 3, "grid": 2,
    }  # fmt: skip
    return SAM2(**{**arguments, **changed}).eval()


def click(b: int = 1, p: int = 1):
    return Prompts(torch.full((b, p, 1, 2), 11.5), torch.ones(b, p, 1, dtype=torch.int64))


def test_the_bank_forgets_all_but_the_prompted_frame_and_the_last_ones(monkeypatch):
    system, sizes = small(), []
    attention = system.memory_attention.forward

    def watched(image, memory, places, loose):
        sizes.append((memory.shape[1] - loose, loose))
        return attention(image, memory, places, loose)

    monkeypatch.setattr(system.memory_attention, "forward", watched)
    with torch.no_grad():
        system.track(torch.rand(1, 6, 3, 32, 32), click())
    area = 4 * 4
    assert [count // area for count, _ in sizes] == [1, 2, 3, 3, 3]
    assert [loose // 2 for _, loose in sizes] == [1, 2, 3, 4, 5]  # pointers, two pieces of 8 each


def test_training_clips_are_consecutive_and_start_with_their_objects():
    frames = torch.arange(9.0).reshape(1, 9, 1, 1, 1).expand(1, 9, 3, 4, 4)
    masks = torch.zeros(2, 9, 4, 4, dtype=torch.bool)
    masks[0], masks[1, 3, 0, 0] = True, True  # always there, and in the fourth frame alone
    starts = set()
    for seed in range(40):
        torch.manual_seed(seed)
        cut, (objects,) = clip(frames, [masks])
        start = int(cut[0, 0, 0, 0, 0])
        starts.add(start)
        assert cut[0, :, 0, 0, 0].tolist() == list(range(start, start + CLIP))
        assert len(objects) == (2 if start == 3 else 1)
    assert starts == set(range(9 - CLIP + 1))
    short, (objects,) = clip(frames[:, :2], [masks[:, :2]])
    assert short.shape[1] == objects.shape[1] == 2


def test_objects_and_videos_do_not_mix():
    system, video = small(), torch.rand(2, 3, 3, 32, 32)
    points = torch.rand(2, 3, 1, 2) * 32
    labels = torch.ones(2, 3, 1, dtype=torch.int64)
    with torch.no_grad():
        together = system.track(video, Prompts(points, labels))
        alone = system.track(video[1:], Prompts(points[1:, 2:], labels[1:, 2:]))
    torch.testing.assert_close(together.masks[1, 2], alone.masks[0, 0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together.visible[1, 2], alone.visible[0, 0], rtol=1e-3, atol=1e-4)


def test_memory_changes_the_next_frame_only_where_there_is_one():
    system, video = small(), torch.rand(1, 3, 3, 32, 32)
    with torch.no_grad():
        with_it, without = (system.track(video, click(), remember) for remember in (True, False))
    assert torch.equal(with_it.quality[..., 0], without.quality[..., 0])
    assert not torch.allclose(with_it.quality[..., 1:], without.quality[..., 1:])


def test_a_hidden_object_has_no_mask_and_another_pointer():
    system = small()
    with torch.no_grad():
        system.decoder.visible[4].bias.fill_(-100.0)
        found = system.track(torch.rand(1, 2, 3, 32, 32), click())
        assert bool((found.masks == HIDDEN).all())
        seen = system.see(torch.rand(2, 3, 32, 32))
        masks, token = torch.randn(2, 8, 8), torch.randn(2, 16)
        moment = system.remember(seen, masks, token, torch.tensor([1.0, -1.0]), False)
    torch.testing.assert_close(moment.pointer[1], system.no_pointer)
    torch.testing.assert_close(moment.pointer[0], system.pointer(token[0]))


def test_rotary_products_depend_on_the_offset_alone():
    torch.manual_seed(0)
    angles = axial_angles(8, 4, 5, torch.device("cpu"))
    query, key = torch.randn(8).expand(20, -1), torch.randn(8).expand(20, -1)
    product = (turned(query, angles) @ turned(key, angles).T).view(4, 5, 4, 5)
    torch.testing.assert_close(product[0, 0, 1, 2], product[2, 1, 3, 3])
    torch.testing.assert_close(product[3, 4, 2, 0], product[2, 4, 1, 0])
    torch.testing.assert_close(turned(query, angles).norm(dim=1), query.norm(dim=1))


def test_sines_of_places():
    found = sine_map(8, 3, 4, torch.device("cpu"))
    assert found.shape == (8, 3, 4)
    turn = torch.tensor(2 * torch.pi / 3)  # the first of three rows
    torch.testing.assert_close(found[:2, 0, 0], torch.stack([turn.sin(), turn.cos()]), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[:4, :, 0], found[:4, :, 3])  # y alone
    assert torch.equal(found[4:, 0], found[4:, 2])  # x alone


def test_windows_there_and_back():
    x = torch.rand(2, 5, 7, 3)
    parts = to_windows(x, 3)
    assert parts.shape == (2 * 2 * 3, 3, 3, 3)
    assert torch.equal(parts[0], x[0, :3, :3])
    assert float(parts[-1][2:].abs().max()) == 0
    assert torch.equal(from_windows(parts, 5, 7), x)


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"memories, memory_channels: .* got 3 and 5"):
        small(memory_channels=5)
    with pytest.raises(ValueError, match=r"depths, windows: expected four stages"):
        small(depths=[1, 1])
    with pytest.raises(ValueError, match=r"image: expected sides of a multiple of 16, got \(24, 32\)"):
        small().features(torch.rand(1, 3, 24, 32))
    with pytest.raises(ValueError, match=r"batch.video, batch.video_masks: expected videos"):
        small().loss(Batch(image=torch.rand(1, 3, 32, 32)))
    with pytest.raises(ValueError, match="prompts: expected points, boxes or masks, got none"):
        small().track(torch.rand(1, 2, 3, 32, 32), Prompts())
