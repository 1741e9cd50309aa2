r"""A load test over real HTTP: what users wait and what the machine gets done, on loopback in one process.

    found = load_test(system, pictures, requests=300, clients=8)
    found.p50, found.p99                      milliseconds
    found.throughput                          answers per second of wall time
    found.answers[0]                          what the server said about pictures[0]

`clients` tasks send one request after the other on connections that stay open (a closed loop: a slow server is asked
less often, so its latency under a fixed arrival rate would be worse). `running(app)` is the server alone.
"""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image

from oculi.input_contract import BadImage, Picture, read_pixels
from oculi.metrics.latency import latency, throughput
from oculi.serve.protocol import Limits
from oculi.serve.server import create_app, listening
from oculi.system import System


@dataclass(frozen=True)
class LoadTest:
    """Milliseconds and answers per second; `refused` are the requests that were not answered with 200."""

    requests: int
    clients: int
    p50: float
    p90: float
    p99: float
    mean: float
    throughput: float
    mean_batch: float
    refused: int
    drained: bool  # whether the server ended by itself afterwards, with nothing left to answer
    answers: list[dict[str, Any]]  # one per picture

    def rows(self) -> list[tuple[str, str]]:
        """Names and figures for a report."""
        return [
            ("requests, clients at once", f"{self.requests}, {self.clients}"),
            ("median wait", f"{self.p50:.1f} ms"),
            ("99th percentile", f"{self.p99:.1f} ms"),
            ("answers per second", f"{self.throughput:.0f}"),
            ("pictures per run of the model", f"{self.mean_batch:.1f}"),
            ("refused", str(self.refused)),
        ]


def load_test(
    system: System | str | Path,
    pictures: Sequence[Picture],
    requests: int = 300,
    clients: int = 8,
    warm_up: int = 16,
    limits: Limits | None = None,
) -> LoadTest:
    """Serve `system` on loopback, ask it about the pictures in turn, drain it. The warm-up is not counted."""
    for name, value in (("pictures", len(pictures)), ("requests", requests), ("clients", clients)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    bodies = [png(picture) for picture in pictures]
    app = create_app(system, limits=limits)
    service = app.state.service
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "image/png"}
    with running(app) as server:
        ask(server.port, "/predict", [bodies[i % len(bodies)] for i in range(warm_up)], clients, headers)
        before = _batches(service)
        began = time.perf_counter()
        asked = [bodies[i % len(bodies)] for i in range(max(requests, len(bodies)))]
        found = ask(server.port, "/predict", asked, clients, headers)
        wall = time.perf_counter() - began
        runs, images = (now - then for now, then in zip(_batches(service), before))
    waits = latency([1e3 * seconds for _, _, seconds in found])
    good = [answer for status, answer, _ in found if status == 200]
    answers = [json.loads(answer) if status == 200 else {} for status, answer, _ in found[: len(bodies)]]
    figures = {key: waits[key] for key in ("p50", "p90", "p99", "mean")}
    rate, mean_batch = throughput(len(good), wall), images / max(1.0, runs)
    refused = len(found) - len(good)
    return LoadTest(
        len(found), clients, **figures, throughput=rate, mean_batch=mean_batch, refused=refused,
        drained=server.drained, answers=answers,
    )  # fmt: skip


class Running:
    """A server in a thread; `drained` once it has ended."""

    def __init__(self, app: Any):
        self._socket = listening("127.0.0.1", 0)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(app, log_level="critical", ws="none", lifespan="on", timeout_graceful_shutdown=30)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self._socket],), name="oculi-server", daemon=True)
        self.drained = False

    def start(self, seconds: float = 20.0) -> None:
        """Returns when it takes requests. Raises RuntimeError when it does not within `seconds`."""
        self.thread.start()
        deadline = time.monotonic() + seconds
        while not self.server.started:
            if not self.thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("server: it did not start")
            time.sleep(0.005)

    def stop(self, seconds: float = 30.0) -> None:
        """Take nothing new, answer what is in flight, end."""
        self.server.should_exit = True
        self.thread.join(seconds)
        self.drained = not self.thread.is_alive()
        self._socket.close()


@contextmanager
def running(app: Any) -> Iterator[Running]:
    """An ASGI application on a free loopback port, in a thread of this process."""
    server = Running(app)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def ask(
    port: int, path: str, bodies: Sequence[bytes], clients: int, headers: dict[str, str]
) -> list[tuple[int, bytes, float]]:
    """POST each body; status, answer and seconds of each, in the order of `bodies`."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    found: list[tuple[int, bytes, float]] = [(0, b"", 0.0)] * len(bodies)
    waiting = iter(range(len(bodies)))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for index in waiting:
            began = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(bodies[index])}\r\n\r\n".encode() + bodies[index])
            status, answer = await _response(reader)
            found[index] = (status, answer, time.perf_counter() - began)
        writer.close()
        await writer.wait_closed()

    async def everyone() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    with ThreadPoolExecutor(1) as pool:  # the caller may have a loop of its own
        pool.submit(asyncio.run, everyone()).result()
    return found


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one HTTP/1.1 answer that states its length."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    named = dict(line.lower().split(": ", 1) for line in lines if line)
    return int(first.split(" ")[1]), await reader.readexactly(int(named["content-length"]))


def png(picture: Picture) -> bytes:
    """The picture's own bytes where it is a file, else its pixels as PNG, which loses nothing."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        return Path(picture).read_bytes()
    pixels = read_pixels(picture)
    if len(pixels) not in (1, 3):
        raise BadImage(f"picture: a file holds 1 or 3 channels, got {len(pixels)}")
    stream = io.BytesIO()
    Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()).save(
        stream, "PNG"
    )
    return stream.getvalue()


def _batches(service: Any) -> tuple[float, float]:
    """Runs of the model and images in them so far."""
    samples = {s.name: s.value for metric in service.metrics.batch.collect() for s in metric.samples if not s.labels}
    return samples["oculi_batch_size_count"], samples["oculi_batch_size_sum"]
