r"""Our server beside a plain FastAPI endpoint: the same model, decoding and token check, no batching; loopback, one process.

python benchmarks/serving.py [clients] [requests] [rounds]

The plain endpoint is what one writes in ten lines: a `def` route, which FastAPI runs in its thread pool, that decodes
the picture and calls `oculi.predict`. The two take turns, round by round; figures are medians over the rounds,
one line of JSON per model.
"""

from __future__ import annotations

import io
import json
import platform
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from fastapi import Body, FastAPI, Header, HTTPException
from PIL import Image

from oculi.backbones.resnet import ResNet
from oculi.metrics.latency import latency
from oculi.serve.load_test import ask, running
from oculi.serve.server import create_app
from oculi.system import System, predict

TOKEN = "benchmark-token"


def plain(system: System) -> FastAPI:
    """One picture, one run of the model."""
    app = FastAPI()

    @app.post("/predict")
    def answer(body: bytes = Body(media_type="image/png"), authorization: str = Header("")) -> dict[str, Any]:
        if authorization != f"Bearer {TOKEN}":
            raise HTTPException(401)
        return predict(system, body)[0].to_dict()

    return app


def pictures(count: int, side: int = 64) -> list[bytes]:
    """PNG files of noise."""
    generator, found = np.random.default_rng(0), []
    for _ in range(count):
        stream = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "PNG")
        found.append(stream.getvalue())
    return found


def one_round(app: FastAPI, bodies: list[bytes], clients: int) -> dict[str, float]:
    """Answers per second and milliseconds, after a warm-up."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}
    with running(app) as server:
        ask(server.port, "/predict", bodies[: 4 * clients], clients, headers)
        began = time.perf_counter()
        found = ask(server.port, "/predict", bodies, clients, headers)
        wall = time.perf_counter() - began
    wrong = [status for status, _, _ in found if status != 200]
    if wrong:
        raise SystemExit(f"{len(wrong)} requests failed, first with {wrong[0]}")
    waits = latency([1e3 * seconds for _, _, seconds in found])
    return {"per_second": len(found) / wall, "p50_ms": waits["p50"], "p99_ms": waits["p99"]}


MODELS = {
    "digits": {"depths": [1, 1, 1], "width": 24, "stem": "small", "image_size": 16},  # overhead: batching pays
    "resnet18 at 32": {"depths": [2, 2, 2, 2], "width": 32, "stem": "small", "image_size": 32},  # arithmetic: little
}


def main(clients: int = 16, requests: int = 200, rounds: int = 5) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bodies = pictures(requests)
    for model, arguments in MODELS.items():
        system = ResNet(10, **arguments).eval()  # type: ignore[arg-type]
        figures: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
        for _ in range(rounds):
            figures["ours"].append(one_round(create_app(system, token=TOKEN), bodies, clients))
            figures["plain"].append(one_round(plain(system), bodies, clients))
        medians = {
            name: {key: round(statistics.median(one[key] for one in found), 2) for key in found[0]}
            for name, found in figures.items()
        }
        ratio = round(medians["ours"]["per_second"] / medians["plain"]["per_second"], 2)
        told = {"clients": clients, "requests": requests, "rounds": rounds, "machine": platform.machine(), "threads": 1}
        print(json.dumps({"model": model, "throughput_ratio": ratio, **medians, **told}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
