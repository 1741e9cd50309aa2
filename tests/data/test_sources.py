"""Data by name: digits, Fashion-MNIST idx files and folders, written here and read back; what is missing is named."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from oculi.data.datasets import StepSampler, batches
from oculi.data.sources import BadData, open_data


def write_idx(path, array: np.ndarray) -> None:
    magic = {3: 2051, 1: 2049}[array.ndim]
    path.write_bytes(gzip.compress(struct.pack(f">I{array.ndim}I", magic, *array.shape) + array.tobytes()))


@pytest.fixture
def fashion(tmp_path):
    random = np.random.default_rng(0)
    for part, n in (("train", 30), ("t10k", 10)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", random.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", random.integers(0, 10, n, dtype=np.uint8))
    return tmp_path


def test_fashion_mnist_reads_idx_files(fashion):
    splits = open_data("fashion_mnist", path=str(fashion), validation=5)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [25, 5, 10]
    assert splits.test[0].image.shape == (1, 28, 28)


def test_fashion_mnist_names_what_is_broken(fashion):
    with pytest.raises(BadData, match="no such file"):
        open_data("fashion_mnist", path=str(fashion / "nowhere"))
    broken = fashion / "train-images-idx3-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:-50])
    with pytest.raises(BadData, match="not a whole idx file"):
        open_data("fashion_mnist", path=str(fashion), validation=5)


def test_digits_split_once_and_for_all():
    splits = open_data("digits")
    ids = [{s.id for s in part} for part in (splits.train, splits.validation, splits.test)]
    assert [len(i) for i in ids] == [1097, 200, 500]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    hidden = open_data("digits", labelled=40)
    assert sum(s.label >= 0 for s in hidden.train) == 40


def test_image_folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("RGB", (8, 6), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    splits = open_data("folder", path=str(tmp_path))
    assert splits.class_names == ["cat", "dog"]
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 20
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="no pictures"):
        open_data("folder", path=str(tmp_path))
    with pytest.raises(BadData, match="no such folder"):
        open_data("folder", path="nowhere")


def test_unknown_source_and_option_point_to_the_nearest():
    with pytest.raises(BadData, match="did you mean digits"):
        open_data("digts")
    with pytest.raises(BadData, match="did you mean labelled"):
        open_data("digits", labeled=3)


def test_the_order_of_steps_depends_on_seed_and_step_alone():
    whole = list(StepSampler(10, 3, 20, seed=1))
    assert list(StepSampler(10, 3, 20, seed=1, start=7)) == whole[7:]
    assert list(StepSampler(10, 3, 20, seed=2)) != whole
    epoch = [index for batch in whole[:3] for index in batch]
    assert len(set(epoch)) == 9


def test_batches_keep_or_drop_the_last():
    splits = open_data("digits")
    assert [len(b) for b in batches(splits.validation, 64)] == [64, 64, 64, 8]
    assert [len(b) for b in batches(splits.validation, 64, drop_last=True)] == [64, 64, 64]
