r"""A system over HTTP: Open Inference Protocol v2, `POST /predict` with a picture, true labels, Prometheus metrics.

    app = create_app(system)                  a FastAPI application; its token is app.state.service.token
    serve("models/digits", port=8000)         runs it until SIGTERM, then answers what it has accepted and ends

    GET  /v2, /v2/models/{name}               what this is, what the model takes and gives
    GET  /v2/health/live, /v2/health/ready    open to all; ready means that the model answered within the last seconds
    POST /v2/models/{name}/infer              tensors or base64 pictures, several at once
    POST /predict                             one picture, raw or as a form's file; the answer's id is in `X-Prediction-Id`
    GET, POST /feedback                       true labels given later; GET, PUT, DELETE /feedback/{id} for one
    GET  /metrics                             requests, latency, batch size, queue

The answer is that of `oculi.predict`, to the bit for a request alone; in a batch the order of float32 sums may differ in
the last bits. Every accepted request gets one answer or one error within `limits.seconds`. All errors are one line of
JSON, `{"error": "..."}`. A bearer token is asked for unless `auth=False`; only loopback listens unless told otherwise.
The service keeps no state but the labels, so that copies of it may share the traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from jaxtyping import Float
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from torch import Tensor

import oculi
from oculi.hub.loading import load
from oculi.predictions import Prediction
from oculi.serve.batcher import Batcher, Refused
from oculi.serve.feedback import FeedbackStore, check_id, check_label
from oculi.serve.protocol import BadRequest, Limits, decode, input_images, open_picture, outputs, read_json, to_json
from oculi.system import System, predict
from oculi.types import Batch

logger = logging.getLogger("oculi.serve")
_INLINE = 1 << 16  # so many pixels or bytes are decoded on the spot: a trip to another thread would take longer


class Unavailable(Exception):
    """503: worth trying again in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = 1):
        super().__init__(message)
        self.retry_after = retry_after


class Metrics:
    """Prometheus figures in a registry of their own, so that several applications live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        place = ("method", "path")
        self.requests = Counter("oculi_requests", "Requests answered", (*place, "status"), registry=self.registry)
        self.seconds = Histogram("oculi_request_seconds", "From request to answer", place, registry=self.registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.batch = Histogram("oculi_batch_size", "Images in one run", buckets=sizes, registry=self.registry)
        self.queue = Gauge("oculi_queue_length", "Images that wait", registry=self.registry)


class Service:
    """One model, its worker and its limits; what the routes share."""

    def __init__(self, system: System, name: str, token: str | None, limits: Limits):
        self.system, self.name, self.token, self.limits = system.eval(), name, token, limits
        self.metrics = Metrics()
        self.feedback = FeedbackStore(limits.feedback)
        self.batcher = Batcher(self._run, limits.batch, limits.queue, self.metrics.batch.observe)
        self.metrics.queue.set_function(lambda: self.batcher.waiting)
        self.reading = 0
        self._probe = asyncio.Lock()
        self._outputs: list[dict[str, Any]] | None = None

    def _run(self, images: Float[Tensor, "batch channels height width"]) -> list[Prediction]:
        return [answer.cpu() for answer in predict(self.system, Batch(image=images))]

    async def answer(self, images: list[Tensor], seconds: float) -> list[Prediction]:
        """One prediction per image from the worker, or Unavailable; the model's own error becomes a 500."""
        try:
            futures = self.batcher.submit(images, seconds)
            async with asyncio.timeout(seconds):
                return await asyncio.gather(*map(asyncio.wrap_future, futures))
        except TimeoutError:
            raise Unavailable(f"no answer within {seconds:.3g} seconds") from None
        except Refused as error:
            raise Unavailable(str(error)) from None
        except Exception as error:
            logger.exception("the model failed")
            raise HTTPException(500, f"the model failed with {type(error).__name__}") from error

    async def ready(self) -> bool:
        """Whether the worker answered within the last `ready_seconds`, or answers a blank image now."""
        async with self._probe:
            if not self.batcher.alive or self.batcher.busy_for() > self.limits.ready_seconds:
                return False
            if time.monotonic() - self.batcher.last_answer <= self.limits.ready_seconds:
                return True
            try:
                await self.answer([self.blank()], self.limits.probe_seconds)
            except (Unavailable, HTTPException):
                return False
            return True

    def blank(self) -> Float[Tensor, "channels height width"]:
        """A grey image of the contract's shape."""
        contract = self.system.contract
        return torch.full((contract.channels, contract.height, contract.width), 0.5)

    async def description(self) -> dict[str, Any]:
        """The model's metadata; the outputs are those of a blank image."""
        if self._outputs is None:
            found = outputs(await self.answer([self.blank()], self.limits.seconds))
            kept = ("name", "datatype", "shape")
            self._outputs = [{**{key: one[key] for key in kept}, "shape": [-1, *one["shape"][1:]]} for one in found]
        contract = self.system.contract
        shape = [-1, contract.channels, contract.height, contract.width]
        return {
            "name": self.name,
            "versions": ["1"],
            "platform": "oculi_pytorch",
            "inputs": [{"name": "image", "datatype": "FP32", "shape": shape}],
            "outputs": self._outputs,
            "parameters": {"system": type(self.system).__name__, **contract.to_dict()},
        }

    async def body(self, request: Request) -> bytes:
        """The body, counted while it comes in, so that no more than the limit is ever held."""
        most = self.limits.body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            raise BadRequest(413, f"body: {declared} bytes, at most {most} are taken")
        if self.reading >= self.limits.reading:
            raise Unavailable(f"{self.reading} requests are being read already")
        self.reading += 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                received = bytearray()
                async for chunk in request.stream():
                    received += chunk
                    if len(received) > most:
                        raise BadRequest(413, f"body: at most {most} bytes are taken")
        except TimeoutError:
            raise BadRequest(408, f"body: not complete after {self.limits.seconds:g} seconds") from None
        finally:
            self.reading -= 1
        return bytes(received)

    def authorised(self, request: Request) -> None:
        """401 unless the bearer token is right, compared in constant time."""
        given = request.headers.get("authorization", "")
        scheme, _, word = given.partition(" ")
        right = self.token is None or hmac.compare_digest(word.strip().encode(), self.token.encode())
        if not right or (self.token is not None and scheme.lower() != "bearer"):
            message = "expected the header `Authorization: Bearer TOKEN` with this server's token"
            raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})


def create_app(
    system: System | str | Path,
    name: str = "model",
    token: str | None = None,
    limits: Limits | None = None,
    auth: bool = True,
    open_metrics: bool = True,
) -> FastAPI:
    """The application for a system or the folder of a saved one.

    token: generated where None, see `app.state.service.token`. auth: False asks for none.
    open_metrics: whether /metrics is read without it.
    """
    system = system if isinstance(system, System) else load(system)
    if not system.can("predict"):
        raise ValueError(f"system: {type(system).__name__} does not answer about images, so there is nothing to serve")
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) is None:
        raise ValueError(f"name: expected 1 to 64 letters, digits, dots, - or _, got {name!r}")
    if token is not None and not re.fullmatch(r"[!-~]{8,}", token):
        raise ValueError("token: expected at least 8 printable ASCII characters; auth=False serves without one")
    chosen = (token or secrets.token_urlsafe(24)) if auth else None
    service = Service(system, name, chosen, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close, service.limits.seconds)

    app = FastAPI(
        title="oculi", version=oculi.__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.service = service
    guarded = [Depends(service.authorised)]
    app.include_router(_health(service))
    app.include_router(_metrics(service), dependencies=[] if open_metrics else guarded)
    app.include_router(_inference(service, app), dependencies=guarded)
    app.include_router(_labels(service), dependencies=guarded)
    _one_line_errors(app)
    app.add_middleware(_Counted, metrics=service.metrics)
    return app


def serve(
    system: System | str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    name: str = "model",
    limits: Limits | None = None,
    auth: bool = True,
    show: Callable[[str], Any] = lambda line: sys.stderr.write(line + "\n"),
) -> None:
    """Serve until SIGINT or SIGTERM; `show` is told the address and, where it was generated, the token. Port 0 is any."""
    if not auth and host not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"auth: expected a token for an address that others reach, got auth=False on {host}")
    app = create_app(system, name, token, limits, auth)
    service: Service = app.state.service
    with listening(host, port) as listener:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        show(f"{address}/v2/models/{name}" + (f"  token {service.token}" if auth and token is None else ""))
        grace = max(1, round(service.limits.seconds))
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=grace, server_header=False, ws="none"
        )
        with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn once all is answered
            uvicorn.Server(config).run([listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises ValueError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # stated, or asyncio leaves 40 ms of Nagle on
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        raise ValueError(f"port: cannot listen on {host}:{port} ({error})") from None
    return made


# routes --------------------------------------------------------------------------------------------------------------


def _reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, "application/json")


def _health(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v2")

    async def ready() -> Response:
        able = await service.ready()
        return _reply({"ready": able}, 200 if able else 503, None if able else {"Retry-After": "1"})

    @router.get("/health/live")
    async def live() -> Response:
        return _reply({"live": True})

    router.add_api_route("/health/ready", ready, methods=["GET"])
    router.add_api_route(f"/models/{service.name}/ready", ready, methods=["GET"])
    return router


def _metrics(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


def _inference(service: Service, app: FastAPI) -> APIRouter:
    router = APIRouter()
    contract, limits = service.system.contract, service.limits

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return _reply(app.openapi())

    @router.get("/v2")
    async def server() -> Response:
        return _reply({"name": "oculi", "version": oculi.__version__, "extensions": []})

    @router.get(f"/v2/models/{service.name}")
    async def model() -> Response:
        return _reply(await service.description())

    @router.post("/predict")
    async def predict_picture(request: Request) -> Response:
        began = time.monotonic()
        body = await _picture_body(request, await service.body(request))
        opened = open_picture(body, limits)
        image = await _prepared(lambda: decode(opened, contract), opened.width * opened.height)
        (answer,) = await service.answer([image], _left(began, limits))
        return _reply(answer.to_dict(), headers={"X-Prediction-Id": uuid.uuid4().hex})

    @router.post(f"/v2/models/{service.name}/infer")
    async def infer(request: Request) -> Response:
        began = time.monotonic()
        body = await service.body(request)

        def read() -> tuple[object, Tensor]:
            content = read_json(body)
            return content.get("id"), input_images(content, contract, limits)

        key, images = await _prepared(read, _INLINE + 1 if b"BYTES" in body else len(body))
        answers = await service.answer(list(images), _left(began, limits))
        named = {"id": key} if isinstance(key, str) else {}
        return _reply({"model_name": service.name, "model_version": "1", **named, "outputs": outputs(answers)})

    return router


def _labels(service: Service) -> APIRouter:
    router = APIRouter(prefix="/feedback")
    store = service.feedback

    @router.get("")
    async def all_labels() -> Response:
        return _reply({"feedback": [kept.to_dict() for kept in store.all()]})

    @router.post("")
    async def create(request: Request) -> Response:
        content = read_json(await service.body(request))
        made = store.create(check_id(content.get("id")), check_label(content.get("label")))
        return _reply(made.to_dict(), 201, {"Location": f"/feedback/{made.id}"})

    @router.get("/{key}")
    async def one(key: str) -> Response:
        return _reply(store.get(check_id(key)).to_dict())

    @router.put("/{key}")
    async def replace(key: str, request: Request) -> Response:
        content = read_json(await service.body(request))
        kept, new = store.put(check_id(key), check_label(content.get("label")))
        return _reply(kept.to_dict(), 201 if new else 200)

    @router.delete("/{key}")
    async def delete(key: str) -> Response:
        store.delete(check_id(key))
        return Response(status_code=204)

    return router


async def _prepared(work: Callable[[], Any], size: int) -> Any:
    """Decode what is small on the spot and the rest in another thread, so that the loop keeps answering."""
    return work() if size <= _INLINE else await asyncio.to_thread(work)


def _left(began: float, limits: Limits) -> float:
    return max(0.001, limits.seconds - (time.monotonic() - began))


async def _picture_body(request: Request, body: bytes) -> bytes:
    """The picture file: the body itself, or the one file of a form. 415 for any other content type."""
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return body
    if kind != "multipart/form-data":
        raise BadRequest(415, f"content type: expected image/*, application/octet-stream or a form, got {kind[:60]}")

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, replay).form(max_files=1, max_fields=8) as form:
            files = [value for value in form.values() if not isinstance(value, str)]
            if len(files) != 1:
                raise BadRequest(422, "form: expected one file, got none")
            return await files[0].read()
    except (HTTPException, MultiPartException) as error:
        raise BadRequest(422, f"form: {getattr(error, 'detail', error)}") from None


def _one_line_errors(app: FastAPI) -> None:
    @app.exception_handler(BadRequest)
    async def bad(request: Request, error: BadRequest) -> Response:
        return _reply({"error": str(error)}, error.status)

    @app.exception_handler(Unavailable)
    async def unavailable(request: Request, error: Unavailable) -> Response:
        return _reply({"error": str(error)}, 503, {"Retry-After": str(error.retry_after)})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _reply({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))


class _Counted:
    """ASGI middleware: status and duration of every request, under its route's path, so that labels stay few."""

    def __init__(self, app: Callable[..., Awaitable[None]], metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), "500"

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "POST", "PUT", "DELETE") else "other"
            self.metrics.requests.labels(method, path, status).inc()
            self.metrics.seconds.labels(method, path).observe(time.perf_counter() - began)
