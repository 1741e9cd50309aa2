"""The server gives Python's answer, asks for its token, and names bad pictures without falling over."""

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from oculi.learn.training import build
from oculi.serve.server import create_app
from oculi.system import predict


@pytest.fixture
def served():
    system = build("resnet", tiny=True).eval()
    with TestClient(create_app(system, token="secret-token")) as client:
        yield system, client


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_predict_gives_pythons_answer(served):
    system, client = served
    answer = client.post(
        "/predict", content=png(), headers={"Authorization": "Bearer secret-token", "Content-Type": "image/png"}
    )
    assert answer.status_code == 200, answer.text
    expected = predict(system, png())[0].to_dict()["probabilities"]
    found = answer.json()
    found = found.get("prediction", found)["probabilities"]
    assert found == pytest.approx(expected, abs=1e-6)


def test_token_and_health(served):
    _, client = served
    assert client.post("/predict", content=png()).status_code == 401
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200


def test_broken_pictures_are_refused(served):
    _, client = served
    for bad in (b"", b"no picture", png()[:80]):
        answer = client.post(
            "/predict", content=bad, headers={"Authorization": "Bearer secret-token", "Content-Type": "image/png"}
        )
        assert 400 <= answer.status_code < 500
