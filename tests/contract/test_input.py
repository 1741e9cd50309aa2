"""One input contract: evaluation, predict, the ONNX file and the server see the same bits of the same picture."""

import io

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from oculi.data.datasets import Splits, fit_sample
from oculi.input_contract import InputContract, read_pixels
from oculi.learn.evaluation import evaluate
from oculi.predictions import Classes
from oculi.serve.onnx_export import OnnxModel, export
from oculi.serve.server import create_app
from oculi.system import System, predict
from oculi.types import Sample

CONTRACTS = [
    InputContract(24, 40),
    InputContract(33, 31, channels=1, resize="letterbox", fill=0.3),
    InputContract(20, 20, resize="crop"),
    InputContract(21, 21, resize="crop", crop_fraction=0.9, interpolation="bicubic"),
]
RULES = pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: f"{c.resize}-{c.channels}-{c.interpolation}")


class Seen(System):
    """Keeps what it is shown; its ONNX file gives it back."""

    answer = Classes

    def __init__(self):
        super().__init__(CONTRACTS[0])
        self.kept = []

    def forward(self, image):
        return image * 1.0

    def predict(self, batch):
        self.kept += list(batch.image.clone())
        return [Classes(torch.tensor([0.25, 0.75])) for _ in batch.image]


def photograph() -> np.ndarray:
    """A real one of odd size."""
    from skimage import data

    return np.ascontiguousarray(data.chelsea()[:151, :203])


def spelled(folder) -> dict[str, object]:
    """The same pixels in every spelling."""
    pixels = photograph()
    path = folder / "cat.png"
    Image.fromarray(pixels).save(path)
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return {
        "array": pixels,
        "PIL": Image.fromarray(pixels),
        "path": str(path),
        "Path": path,
        "bytes": path.read_bytes(),
        "uint8 tensor": channels_first,
        "float tensor": channels_first.float() / 255,
    }


@RULES
def test_every_spelling_of_a_picture_is_the_same_bits(contract, tmp_path):
    found = {name: contract.prepare(picture) for name, picture in spelled(tmp_path).items()}
    assert found["array"].shape == (contract.channels, contract.height, contract.width)
    assert {name for name, image in found.items() if not torch.equal(image, found["array"])} == set()


@RULES
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_evaluation_predict_onnx_and_server_see_the_same_bits(contract, kind, tmp_path):
    path = tmp_path / f"cat.{kind.lower()}"
    Image.fromarray(photograph()).save(path, kind)
    system = Seen()
    system.contract = contract
    stored = Sample(image=read_pixels(path).float() / 255, label=1)
    evaluate(system, Splits([stored], [stored], [stored], ["a", "b"]).prepared(contract))
    predict(system, [path, Image.open(io.BytesIO(path.read_bytes()))])
    with TestClient(create_app(system, auth=False)) as client:
        assert client.post("/predict", content=path.read_bytes()).status_code == 200
        pixels = {"name": "image", "datatype": "UINT8", "shape": [1, 3, 151, 203]}
        data = read_pixels(path).flatten().tolist()
        assert client.post("/v2/models/model/infer", json={"inputs": [{**pixels, "data": data}]}).status_code == 200
    assert len(system.kept) == 5
    if kind == "PNG":
        export(system, tmp_path / "seen.onnx")
        model = OnnxModel(tmp_path / "seen.onnx", threads=1)
        system.kept += [*model.prepare([path]), *model.run(model.prepare([photograph()]))[0]]
    assert all(torch.equal(image, system.kept[0]) for image in system.kept)


@RULES
def test_grey_pictures_too(contract):
    grey = photograph()[..., 1]
    first = contract.prepare(grey)
    assert torch.equal(first, contract.prepare(Image.fromarray(grey)))
    assert torch.equal(first, contract.prepare(torch.from_numpy(grey.copy())[None]))


@pytest.mark.parametrize(("height", "width"), [(40, 61), (57, 33), (50, 50)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_masks_and_boxes_follow_the_picture(resize, height, width):
    """A white rectangle stays under its mask and its box, whatever is cut or padded."""
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, 10:30, 8:28] = True
    box = torch.tensor([[8.0, 10, 28, 30]])
    contract = InputContract(31, 28, resize=resize, fill=0.0)
    fitted = fit_sample(Sample(image=mask.expand(3, -1, -1).float(), boxes=box, masks=mask), contract)
    white = fitted.image[0] > 0.5
    assert int((white != fitted.masks[0]).sum()) <= int(white.any(0).sum() + white.any(1).sum())  # half the border
    left, top, right, bottom = fitted.boxes[0].tolist()
    rows, columns = white.any(1).nonzero()[:, 0], white.any(0).nonzero()[:, 0]
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert max(abs(a - float(b)) for a, b in zip((left, top, right, bottom), found, strict=True)) <= 1
