"""PLY: what is written is read back, and the bytes are those of the format."""

import math

import pytest
import torch

from oculi.geometry.reconstruction_export import read_ply, write_ply


def test_round_trip(tmp_path):
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    colours = torch.arange(60, dtype=torch.uint8).view(20, 3)
    path = write_ply(tmp_path / "cloud.ply", points, colours)
    again, shades = read_ply(path)
    assert torch.equal(again, points)
    assert torch.equal(shades, colours)
    assert [p.name for p in tmp_path.iterdir()] == ["cloud.ply"]


def test_floats_are_shades_and_no_colour_is_white(tmp_path):
    _, shades = read_ply(write_ply(tmp_path / "a.ply", torch.zeros(1, 3), torch.tensor([[0.0, 0.5, 2.0]])))
    assert shades.tolist() == [[0, 128, 255]]
    _, shades = read_ply(write_ply(tmp_path / "b.ply", torch.zeros(0, 3)))
    assert shades.shape == (0, 3)


def test_bytes_of_one_point(tmp_path):
    body = write_ply(tmp_path / "a.ply", torch.tensor([[1.0, -2.0, 0.5]])).read_bytes().partition(b"end_header\n")[2]
    assert body.hex() == "0000803f" + "000000c0" + "0000003f" + "ffffff"


@pytest.mark.unchecked  # shapes are part of what is wrong
def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="points: expected n x 3"):
        write_ply(tmp_path / "a.ply", torch.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        write_ply(tmp_path / "a.ply", torch.full((1, 3), math.nan))
    with pytest.raises(ValueError, match="colours"):
        write_ply(tmp_path / "a.ply", torch.zeros(2, 3), torch.zeros(1, 3))
    (tmp_path / "text.ply").write_text("ply\nformat ascii 1.0\nelement vertex 0\nend_header\n")
    with pytest.raises(ValueError, match="not a binary PLY"):
        read_ply(tmp_path / "text.ply")
    assert [p.name for p in tmp_path.iterdir()] == ["text.ply"]
