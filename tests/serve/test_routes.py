"""Open Inference Protocol v2, the metrics, and true labels that come later."""

import base64
import io

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from oculi.learn.training import build
from oculi.serve.protocol import Limits
from oculi.serve.server import create_app
from oculi.system import predict

TOKEN = {"Authorization": "Bearer secret-token"}
INFER = "/v2/models/model/infer"


@pytest.fixture(scope="module")
def served():
    torch.manual_seed(0)
    system = build("resnet", tiny=True).eval()
    system.class_names = list("abcdefghij")
    with TestClient(create_app(system, token="secret-token", limits=Limits(feedback=3))) as client:
        yield system, client


def pictures(n):
    return list(np.random.default_rng(0).integers(0, 256, (n, 20, 30), dtype=np.uint8))


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def infer(client, datatype, shape, data, **more):
    content = {"inputs": [{"name": "image", "datatype": datatype, "shape": shape, "data": data}], **more}
    found = client.post(INFER, json=content, headers=TOKEN)
    assert found.status_code == 200, found.text
    return found.json()


def test_what_it_is_and_takes(served):
    _, client = served
    assert client.get("/v2", headers=TOKEN).json()["name"] == "oculi"
    found = client.get("/v2/models/model", headers=TOKEN).json()
    assert found["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 16, 16]}]
    assert {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]} in found["outputs"]
    assert found["parameters"]["resize"] == "stretch"
    for path in ("/v2", "/v2/models/model", "/openapi.json", "/feedback"):
        assert client.get(path).status_code == 401
    assert INFER in client.get("/openapi.json", headers=TOKEN).json()["paths"]


def test_each_datatype_gives_pythons_answer(served):
    system, client = served
    given = pictures(3)
    expected = torch.stack([answer.probabilities for answer in predict(system, given)])
    prepared = system.contract.batch(given)
    nested = infer(client, "FP32", [3, 1, 16, 16], prepared.tolist(), id="my-request")
    flat = infer(client, "FP32", [3, 1, 16, 16], prepared.flatten().tolist())
    whole = infer(client, "UINT8", [3, 1, 20, 30], np.stack(given).flatten().tolist())
    files = infer(client, "BYTES", [3], [base64.b64encode(png(p)).decode() for p in given])
    assert (nested["id"], nested["model_name"], nested["model_version"]) == ("my-request", "model", "1")
    assert "id" not in flat
    for found in (nested, flat, whole, files):
        outputs = {one["name"]: one for one in found["outputs"]}
        assert outputs["probabilities"]["shape"] == [3, 10]
        assert outputs["probabilities"]["data"] == expected.flatten().tolist()
        assert outputs["label"] == {
            "name": "label", "datatype": "INT64", "shape": [3], "data": expected.argmax(1).tolist(),
        }  # fmt: skip


def test_metrics_count_and_are_open_unless_told(served):
    system, _ = served
    with TestClient(create_app(system, token="secret-token", open_metrics=False)) as client:
        client.post("/predict", content=png(pictures(1)[0]), headers=TOKEN)
        client.post("/predict", content=b"bad", headers=TOKEN)
        client.get("/a/b/c")
        assert client.get("/metrics").status_code == 401
        found = client.get("/metrics", headers=TOKEN)
    assert found.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in found.text.splitlines() if not line.startswith("#"))
    assert lines['oculi_requests_total{method="POST",path="/predict",status="200"}'] == "1.0"
    assert lines['oculi_requests_total{method="POST",path="/predict",status="415"}'] == "1.0"
    assert lines['oculi_requests_total{method="GET",path="other",status="404"}'] == "1.0"
    assert lines['oculi_request_seconds_count{method="POST",path="/predict"}'] == "2.0"
    assert lines["oculi_batch_size_count"] == "1.0"
    assert lines["oculi_queue_length"] == "0.0"


def test_true_labels_are_kept_replaced_and_forgotten(served):
    _, client = served
    answer = client.post("/predict", content=png(pictures(1)[0]), headers=TOKEN)
    key = answer.headers["X-Prediction-Id"]
    made = client.post("/feedback", json={"id": key, "label": 3}, headers=TOKEN)
    assert (made.status_code, made.headers["Location"]) == (201, f"/feedback/{key}")
    assert client.get(f"/feedback/{key}", headers=TOKEN).json() == {"id": key, "label": 3}
    assert client.post("/feedback", json={"id": key, "label": 4}, headers=TOKEN).status_code == 409
    assert client.put(f"/feedback/{key}", json={"label": "seven"}, headers=TOKEN).status_code == 200
    assert client.put("/feedback/other", json={"label": 1}, headers=TOKEN).status_code == 201
    everything = client.get("/feedback", headers=TOKEN).json()["feedback"]
    assert everything == [{"id": key, "label": "seven"}, {"id": "other", "label": 1}]
    assert client.delete("/feedback/other", headers=TOKEN).status_code == 204
    assert client.delete("/feedback/other", headers=TOKEN).status_code == 404
    for i in range(3):
        client.put(f"/feedback/n{i}", json={"label": i}, headers=TOKEN)
    assert client.get(f"/feedback/{key}", headers=TOKEN).status_code == 404, "the oldest goes first"


@pytest.mark.parametrize(
    "content",
    [
        *({}, {"id": "a b", "label": 1}, {"id": "a"}, {"id": "a", "label": -1}, {"id": "a", "label": True}),
        *({"id": "a", "label": ""}, {"id": "a", "label": 1.5}, {"id": 3, "label": 1}, {"id": "a" * 65, "label": 1}),
    ],
)
def test_bad_labels_are_refused(served, content):
    _, client = served
    found = client.post("/feedback", json=content, headers=TOKEN)
    assert found.status_code == 422
    assert list(found.json()) == ["error"]


def test_what_cannot_be_served_is_named():
    system = build("resnet", tiny=True)
    for words, why in (({"name": "a b"}, "name"), ({"token": "short"}, "token")):
        with pytest.raises(ValueError, match=why):
            create_app(system, **words)
    with pytest.raises(ValueError, match="nothing to serve"):
        create_app(build("ddpm", tiny=True))
    for words in ({"batch": 0}, {"queue": 1}, {"seconds": -1.0}):
        with pytest.raises(ValueError, match="expected"):
            Limits(**words)
