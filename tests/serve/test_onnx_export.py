"""ONNX export: the file decides as torch does, at any batch size, or is not written."""

import numpy as np
import pytest
import torch

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.predictions import Classes
from oculi.serve.onnx_export import ExportRefused, OnnxModel, export, sample_pictures
from oculi.system import System, predict

pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    system = ResNet(5, [1, 1], width=8, stem="small", in_channels=3, image_size=16).eval()
    system.set_statistics(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1]))
    system.class_names = ["ant", "bee", "cat", "dog", "eel"]
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return system, path, export(system, path)


def test_report_and_answers(exported):
    system, path, report = exported
    assert report.decisions_equal
    assert report.max_difference <= 1e-4
    assert report.size_bytes == path.stat().st_size
    assert "Conv" in report.operators
    assert [p.name for p in path.parent.iterdir()] == ["tiny.onnx"]
    model, pictures = OnnxModel(path, threads=1), sample_pictures(5)
    for count in (1, 3, 5):
        ours, theirs = model.predict(pictures[:count]), predict(system, pictures[:count])
        for a, b in zip(ours, theirs, strict=True):
            assert a.label == b.label
            assert a.names == system.class_names
            torch.testing.assert_close(a.probabilities, b.probabilities, rtol=1e-4, atol=1e-5)


def test_pictures_become_the_same_bits(exported):
    system, path, _ = exported
    model = OnnxModel(path, threads=1)
    assert model.contract == system.contract
    pictures = [*sample_pictures(2), np.zeros((7, 31), np.uint8), torch.rand(3, 16, 16)]
    assert torch.equal(model.prepare(pictures), system.contract.batch(pictures))


class Noisy(System):
    """Answers something else each time, so no file can answer alike."""

    answer = Classes

    def __init__(self):
        super().__init__(InputContract(8, 8))
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        return image.mean((2, 3)) * (1 + self.calls)


class Wordy(System):
    """Gives no tensors."""

    answer = Classes

    def __init__(self):
        super().__init__(InputContract(8, 8))

    def forward(self, image):
        return "a cat"


@pytest.mark.parametrize(("kind", "why"), [(Noisy, "differ from torch's"), (Wordy, "gives no tensors")])
def test_refused_files_are_not_written(kind, why, tmp_path):
    with pytest.raises(ExportRefused, match=why):
        export(kind(), tmp_path / "bad.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        OnnxModel(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not an ONNX file"):
        OnnxModel(tmp_path / "bad.onnx")
    with pytest.raises(ExportRefused, match="does not exist"):
        export(Wordy(), tmp_path / "nowhere" / "x.onnx")
