"""What a stranger may send: every wrong request gets a 4xx with one clear line, never a 500."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from oculi.learn.training import build
from oculi.serve.protocol import Limits
from oculi.serve.server import create_app

TOKEN = {"Authorization": "Bearer secret-token"}
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def client():
    system = build("resnet", tiny=True).eval()
    with TestClient(create_app(system, token="secret-token", limits=Limits(body_bytes=1 << 18))) as client:
        yield client


def encoded(kind, image=None, **options):
    stream = io.BytesIO()
    (Image.fromarray(PIXELS) if image is None else image).save(stream, kind, **options)
    return stream.getvalue()


def chunk(name, data, checksum=None):
    right = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", right if checksum is None else checksum)


def lying_png(width, height, rows=b"\x00" * 100):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PNG, JPEG = encoded("PNG"), encoded("JPEG")
BAD_FILES = {
    "empty": b"",
    "text": b"not a picture at all",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "zip": b"PK\x03\x04" + b"\x00" * 60,
    "zeros": b"\x00" * 1000,
    "signature alone": PNG[:8],
    "png cut in its header": PNG[:20],
    "png cut in its pixels": PNG[: len(PNG) // 2],
    "jpeg cut in its header": JPEG[:30],
    "jpeg cut in its pixels": JPEG[: len(JPEG) // 2],
    "gif cut": encoded("GIF")[:40],
    "tiff cut": encoded("TIFF")[:200],
    "webp cut": encoded("WEBP")[:60],
    "bmp cut": encoded("BMP")[:80],
    "png with a wrong checksum": PNG[:20] + b"\xff" + PNG[21:],
    "png of no width": lying_png(0, 10),
    "png that claims more rows than it has": lying_png(400, 400),
    "png of 20,000 x 20,000 pixels": lying_png(20_000, 20_000),
    "png of 4 billion squared": lying_png(2**31 - 1, 2**31 - 1),
    "gif of 65,535 squared": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"\x3b",
    "bmp of 30,000 squared": encoded("BMP")[:18] + struct.pack("<ii", 30_000, 30_000) + encoded("BMP")[26:],
    "sixteen bits": encoded("PNG", Image.fromarray(np.zeros((5, 5), np.uint16))),
}


def refused(answer):
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:200])
    content = answer.json()
    assert list(content) == ["error"]
    assert content["error"]
    assert "\n" not in content["error"]
    assert "Traceback" not in content["error"]
    assert len(content["error"]) < 400
    return content["error"]


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_raw_and_in_base64(client, name):
    body = BAD_FILES[name]
    refused(client.post("/predict", content=body, headers={**TOKEN, "Content-Type": "image/png"}))
    text = base64.b64encode(body).decode()
    content = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    refused(client.post("/v2/models/model/infer", json=content, headers=TOKEN))


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (3, 2000)])
def test_odd_but_honest_pictures_are_answered(client, shape):
    body = encoded("PNG", Image.fromarray(np.zeros((*shape, 3), np.uint8)))
    assert client.post("/predict", content=body, headers=TOKEN).status_code == 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_colour_modes_are_answered(client, mode):
    body = encoded("TIFF" if mode == "CMYK" else "PNG", Image.fromarray(PIXELS).convert(mode))
    assert client.post("/predict", content=body, headers=TOKEN).status_code == 200


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([PNG, JPEG]), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6))
def test_no_change_of_bytes_breaks_it(client, body, changes):
    broken = bytearray(body)
    for place, value in changes:
        broken[place % len(broken)] = value
    answer = client.post("/predict", content=bytes(broken), headers=TOKEN)
    if answer.status_code != 200:
        refused(answer)


GOOD = {"name": "image", "shape": [1, 1, 16, 16], "datatype": "FP32", "data": [0.5] * 256}
WRONG = {
    "no tensor": {"inputs": []},
    "two tensors": {"inputs": [GOOD, GOOD]},
    "inputs as an object": {"inputs": GOOD},
    "a tensor that is a number": {"inputs": [3]},
    "no inputs": {},
    "a list": [1, 2],
    "a string": "image",
    "null": None,
    **{
        f"{key} = {value!r}"[:60]: {"inputs": [{**GOOD, key: value}]}
        for key, value in [
            ("shape", None),
            ("shape", "1"),
            ("shape", []),
            ("shape", [1, 1, 16]),
            ("shape", [1, 3, 16, 16]),
            ("shape", [-1, 1, 16, 16]),
            ("shape", [0, 1, 16, 16]),
            ("shape", [1.0, 1, 16, 16]),
            ("shape", [True, 1, 16, 16]),
            ("shape", [2, 1, 16, 16]),
            ("shape", [1000, 1, 16, 16]),
            ("shape", [1, 1, 2**30, 2**30]),
            ("shape", [1, 1, 10**30, 1]),
            ("datatype", "FP64"),
            ("datatype", "STRING"),
            ("datatype", 32),
            ("datatype", None),
            ("datatype", "BYTES"),
            ("data", None),
            ("data", "0.5"),
            ("data", [0.5] * 255),
            ("data", [1.5] * 256),
            ("data", [-0.1] * 256),
            ("data", ["0.5"] * 256),
            ("data", [None] * 256),
            ("data", [True] * 256),
            ("data", [[0.5], [0.5, 0.5]]),
            ("data", [[0.5] * 16] * 16),
            ("data", {"0": 0.5}),
            ("data", [1e400] * 256),
            ("data", [10**400] * 256),
        ]
    },
    "bytes of a half": {"inputs": [{**GOOD, "datatype": "UINT8"}]},
    "bytes over 255": {"inputs": [{**GOOD, "datatype": "UINT8", "data": [256] * 256}]},
    "four channels": {"inputs": [{**GOOD, "datatype": "UINT8", "shape": [1, 4, 8, 8], "data": [1] * 256}]},
    "not base64": {"inputs": [{**GOOD, "datatype": "BYTES", "shape": [1], "data": ["%%%"]}]},
    "base64 that is too few": {"inputs": [{**GOOD, "datatype": "BYTES", "shape": [2], "data": ["AAAA"]}]},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tensors_are_refused(client, name):
    refused(client.post("/v2/models/model/infer", content=json.dumps(WRONG[name]), headers=TOKEN))


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 50_000, b"nul", PNG])
def test_what_is_not_json_is_refused(client, body):
    refused(client.post("/v2/models/model/infer", content=body, headers=TOKEN))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_not_a_number_is_named(client, number):
    text = json.dumps({"inputs": [GOOD]}).replace("0.5]", f"{number}]")
    assert "NaN or infinity" in refused(client.post("/v2/models/model/infer", content=text, headers=TOKEN))


def test_too_large_bodies_are_refused_stated_or_not(client):
    large = b"x" * ((1 << 18) + 1)
    for path in ("/predict", "/v2/models/model/infer", "/feedback"):
        assert client.post(path, content=large, headers=TOKEN).status_code == 413
        unstated = client.post(path, content=iter([large[:1000], large]), headers=TOKEN)
        assert unstated.status_code == 413
        refused(unstated)


def test_wrong_forms_types_and_places(client):
    assert client.post("/predict", content=PNG, headers={**TOKEN, "Content-Type": "text/html"}).status_code == 415
    refused(
        client.post("/predict", data={"a": "b"}, files={}, headers={**TOKEN, "Content-Type": "multipart/form-data"})
    )
    refused(client.post("/predict", files={"a": PNG, "b": PNG}, headers=TOKEN))
    assert client.post("/predict", files={"file": ("a.png", PNG)}, headers=TOKEN).status_code == 200
    for method, path in (("get", "/predict"), ("get", "/nowhere"), ("post", "/v2/models/other/infer")):
        refused(getattr(client, method)(path, headers=TOKEN))
    for given_token in ("", "Bearer", "Bearer wrong", "Basic secret-token", "Bearer sécret".encode("latin-1")):
        answer = client.post("/predict", content=PNG, headers={"Authorization": given_token})
        assert answer.status_code == 401
        assert "secret-token" not in refused(answer)
