"""Pictures of four channels through the verbs: what is learned, answered, saved, exported and served is of all four."""

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from oculi.backbones.resnet import ResNet
from oculi.data.datasets import Splits
from oculi.input_contract import BadImage
from oculi.learn.evaluation import evaluate
from oculi.learn.training import train
from oculi.predictions import Classes, Segmentation, to_pil
from oculi.serve.onnx_export import OnnxModel, export
from oculi.serve.server import create_app
from oculi.system import load, predict, save
from oculi.types import Batch, Sample

ARGUMENTS = {"num_classes": 2, "depths": [1], "width": 8, "stem": "small", "in_channels": 4, "image_size": 12}


def pictures(n: int = 24) -> list[Sample]:
    """Noise whose fourth channel alone, bright or dark, says the class."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(n, 4, 12, 12, generator=generator)
    image[1::2, 3] *= 0.3
    return [Sample(image=x, label=k % 2) for k, x in enumerate(image)]


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    made = ResNet(**ARGUMENTS)
    made.set_statistics(torch.tensor([0.5, 0.5, 0.5, 0.3]), torch.tensor([0.3, 0.3, 0.3, 0.2]))
    return made.eval()


def test_the_fourth_channel_is_learned_from():
    splits = Splits(pictures(), pictures(), pictures(), ["bright", "dark"])
    arguments = {f"arguments.{key}": value for key, value in ARGUMENTS.items()}
    options = {"training.steps": 25, "training.warmup": 2, "training.lr": 0.05, "training.batch_size": 12}
    run = train("resnet", splits=splits, overrides={**arguments, **options, "training.augment": {}}, progress=False)
    assert run.system.pixel_mean.shape == (4, 1, 1)
    assert float(run.system.pixel_mean[3]) < 0.4 < float(run.system.pixel_mean[0])
    assert evaluate(run.system, run.splits)["accuracy"] == 1


def test_every_channel_has_a_say(system):
    image = torch.rand(1, 4, 12, 12)
    loss = system.loss(Batch(image=image.requires_grad_(), label=torch.tensor([1])))["cross_entropy"]
    assert bool((torch.autograd.grad(loss, image)[0].abs().amax((0, 2, 3)) > 0).all())


def test_arrays_and_tensors_are_answered_and_files_refused(system, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (20, 17, 4), dtype=np.uint8)
    given = [array, torch.from_numpy(array).permute(2, 0, 1), torch.from_numpy(array).permute(2, 0, 1) / 255]
    answers = predict(system, given)
    assert all(torch.equal(answer.probabilities, answers[0].probabilities) for answer in answers)
    to_pil(torch.rand(3, 8, 8)).save(tmp_path / "photo.png")
    with pytest.raises(BadImage, match="channels: 4"):
        predict(system, tmp_path / "photo.png")


def test_saved_and_exported_it_answers_the_same(system, tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (12, 12, 4), dtype=np.uint8)
    expected = predict(system, array)[0].probabilities
    again = load(save(system, tmp_path / "run"))
    assert again.contract.channels == 4
    assert torch.equal(predict(again, array)[0].probabilities, expected)
    assert export(system, tmp_path / "four.onnx").decisions_equal
    model = OnnxModel(tmp_path / "four.onnx", threads=1)
    torch.testing.assert_close(model.predict([array])[0].probabilities, expected, rtol=0, atol=1e-5)


def test_the_server_takes_tensors_and_refuses_files(system, tmp_path):
    array = np.random.default_rng(2).integers(0, 256, (4, 12, 12), dtype=np.uint8)
    expected = predict(system, torch.from_numpy(array))[0].probabilities
    to_pil(torch.rand(3, 8, 8)).save(tmp_path / "photo.png")
    given = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 12, 12], "data": array.flatten().tolist()}
    with TestClient(create_app(system, auth=False)) as client:
        answer = client.post("/v2/models/model/infer", json={"inputs": [given]}).json()
        assert answer["outputs"][0]["data"] == pytest.approx(expected.tolist(), abs=1e-6)
        refused = client.post("/predict", content=(tmp_path / "photo.png").read_bytes())
        assert refused.status_code == 422
        assert "channels: 4" in refused.text


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_answers_are_drawn_on_what_a_screen_can_show(channels):
    image = torch.rand(channels, 8, 8)
    shown = np.asarray(to_pil(image))
    for k in range(3):
        wanted = (image[k if channels >= 3 else 0] * 255).round().to(torch.uint8)
        assert np.array_equal(shown[..., k], wanted.numpy())
    assert Classes(torch.tensor([0.2, 0.8])).plot(image).mode == "RGB"
    nothing = Segmentation(torch.zeros(8, 8, dtype=torch.int64)).plot(image)
    assert nothing.getpixel((0, 0)) == to_pil(image).getpixel((0, 0))
