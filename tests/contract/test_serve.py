"""Every system that can be served: HTTP gives Python's answer to the bit, as JSON and as v2 tensors; the others do not."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from contract.tiny import SYSTEMS, ready
from oculi.learn.verbs import cannot
from oculi.monitor.answers import describe
from oculi.monitor.data_drift import DataDrift
from oculi.serve.protocol import outputs, to_json
from oculi.serve.server import create_app
from oculi.system import predict

SERVED = [r for r in SYSTEMS if "serve" not in cannot(r)]
REFUSED = [r for r in SYSTEMS if "serve" in cannot(r)]
WATCHED = [r for r in SYSTEMS if "monitor" not in cannot(r)]
TOKEN = {"Authorization": "Bearer secret-token"}


def picture():
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((71, 43)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("recipe", SERVED, ids=lambda r: r.id)
def test_http_gives_pythons_answer(recipe):
    system, body = ready(recipe.id), picture()
    (expected,) = predict(system, body)
    with TestClient(create_app(system, token="secret-token")) as client:
        answer = client.post("/predict", content=body, headers=TOKEN)
        assert answer.status_code == 200, answer.text
        assert answer.json() == json.loads(to_json(expected.to_dict()))
        content = {
            "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(body).decode()]}]
        }
        tensors = client.post("/v2/models/model/infer", json=content, headers=TOKEN)
        assert tensors.status_code == 200, tensors.text
        assert tensors.json()["outputs"] == json.loads(to_json(outputs([expected])))
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/v2/models/model", headers=TOKEN).json()["parameters"]["system"] == type(system).__name__


@pytest.mark.parametrize("recipe", REFUSED, ids=lambda r: r.id)
def test_the_others_are_refused_or_never_ready(recipe):
    system = ready(recipe.id)
    if not system.can("predict"):
        with pytest.raises(ValueError, match="nothing to serve"):
            create_app(system)
        return
    with TestClient(create_app(system)) as client:
        assert client.get("/v2/health/ready").status_code == 503


@pytest.mark.parametrize("recipe", WATCHED, ids=lambda r: r.id)
def test_no_alarm_on_the_same_data_and_an_alarm_on_a_shift(recipe):
    system = ready(recipe.id)
    c, g = system.contract, torch.Generator().manual_seed(0)
    images = torch.rand(60, c.channels, c.height, c.width, generator=g)
    monitor = DataDrift(0.01, window=20, resamples=99).fit(images[:40], **describe(system))
    assert not monitor.test(images[40:]).alarm
    assert monitor.test(images[40:] * 0.5).alarm
