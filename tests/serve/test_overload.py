"""Too much at once, a worker that dies or hangs, and a server that is told to end."""

import io
import socket
import threading
import time

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from oculi.input_contract import InputContract
from oculi.predictions import Classes
from oculi.serve.load_test import ask, load_test, running
from oculi.serve.protocol import Limits
from oculi.serve.server import create_app
from oculi.system import System

TOKEN = {"Authorization": "Bearer secret-token", "Content-Type": "image/png"}


class Gated(System):
    """Answers when the gate is open; raises what it is told to."""

    answer = Classes

    def __init__(self):
        super().__init__(InputContract(8, 8))
        self.gate, self.entered = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.gate.set()

    def predict(self, batch):
        self.entered.set()
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return [Classes(torch.stack([image.mean(), 1 - image.mean()])) for image in batch.image]


def png():
    stream = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), 51, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def app_for(system, **limits):
    return create_app(system, token="secret-token", limits=Limits(**{"batch": 1, "queue": 2, "seconds": 20, **limits}))


def batches(client):
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("oculi_batch_size_count")).split()[1])


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    system = Gated()
    with TestClient(app_for(system)) as client:
        batcher = client.app.state.service.batcher
        system.gate.clear()
        held = batcher.submit([torch.zeros(3, 8, 8)])
        assert system.entered.wait(5)
        held += batcher.submit([torch.zeros(3, 8, 8)] * 2)
        began = time.monotonic()
        refused = client.post("/predict", content=png(), headers=TOKEN)
        assert time.monotonic() - began < 2
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json() == {"error": "the queue is full (2 of 2)"}
        system.gate.set()
        assert all(future.result(5) for future in held)
        assert client.post("/predict", content=png(), headers=TOKEN).status_code == 200


def test_under_a_burst_everyone_gets_an_answer_or_a_refusal():
    with running(app_for(Gated(), queue=3)) as server:
        found = ask(server.port, "/predict", [png()] * 60, 20, TOKEN)
    assert {status for status, _, _ in found} <= {200, 503}
    assert sum(status == 200 for status, _, _ in found) > 0
    assert server.drained


def test_ready_is_a_real_answer_of_the_model():
    with TestClient(app_for(Gated())) as client:
        assert batches(client) == 0
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert batches(client) == 1
        assert client.get("/v2/models/model/ready").status_code == 200
        assert batches(client) == 1, "a fresh answer is not asked for again"


def not_ready(client):
    found = client.get("/v2/health/ready")
    assert found.status_code == 503
    assert found.json() == {"ready": False}
    assert found.headers["Retry-After"] == "1"
    assert client.get("/v2/health/live").status_code == 200


def test_a_killed_worker_is_not_ready_and_leaves_nobody_waiting():
    system = Gated()
    with TestClient(app_for(system)) as client:
        system.error = SystemExit()
        found = client.post("/predict", content=png(), headers=TOKEN)
        assert found.status_code == 503
        assert found.json() == {"error": "the worker died of SystemExit"}
        not_ready(client)
        assert client.post("/predict", content=png(), headers=TOKEN).status_code == 503


def test_a_failing_model_is_not_ready_until_it_answers_again():
    system = Gated()
    with TestClient(app_for(system)) as client:
        system.error = RuntimeError("out of something\nprivate")
        found = client.post("/predict", content=png(), headers=TOKEN)
        assert found.status_code == 500
        assert found.json() == {"error": "the model failed with RuntimeError"}
        not_ready(client)
        system.error = None
        assert client.get("/v2/health/ready").status_code == 200


def test_a_hanging_model_is_not_ready_and_its_request_ends():
    system = Gated()
    with TestClient(app_for(system, seconds=0.2, ready_seconds=0.1, probe_seconds=0.1)) as client:
        system.gate.clear()
        found = client.post("/predict", content=png(), headers=TOKEN)
        assert found.status_code == 503
        assert "no answer within" in found.json()["error"]
        not_ready(client)
        system.gate.set()


def test_draining_answers_what_is_in_flight_and_takes_nothing_new():
    system = Gated()
    with running(app_for(system)) as server:
        system.gate.clear()
        found = []
        asking = threading.Thread(target=lambda: found.extend(ask(server.port, "/predict", [png()], 1, TOKEN)))
        asking.start()
        assert system.entered.wait(5)
        server.server.should_exit = True
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", server.port), timeout=1):
                    time.sleep(0.02)
            except OSError:
                break
        else:
            pytest.fail("it still takes connections")
        assert asking.is_alive()
        system.gate.set()
        asking.join(10)
        assert [status for status, _, _ in found] == [200]
    assert server.drained


def test_load_test_counts_what_it_sent():
    found = load_test(Gated(), [png(), np.zeros((5, 7, 3), np.uint8)], requests=20, clients=3, warm_up=2)
    assert (found.requests, found.refused, found.drained) == (20, 0, True)
    assert 0 < found.p50 <= found.p90 <= found.p99
    assert found.throughput > 0
    assert 1 <= found.mean_batch <= 3
    assert [answer["probabilities"][0] for answer in found.answers] == pytest.approx([0.2, 0.0])
    assert found.rows()[0] == ("requests, clients at once", "20, 3")


@pytest.mark.parametrize("words", [{"pictures": []}, {"requests": 0}, {"clients": 0}])
def test_load_test_names_bad_input(words):
    with pytest.raises(ValueError, match=next(iter(words))):
        load_test(Gated(), **{"pictures": [png()], **words})
