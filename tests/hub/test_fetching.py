"""Names, caches, pins and hashes, with a hub that is a folder: no test touches the network."""

import hashlib
import http.server
import json
import threading

import httpx
import pytest
import torch

import oculi
from hub.checkpoints import lively
from oculi.backbones.resnet import ResNet
from oculi.hub import fetching
from oculi.hub import torchvision as torchvision_tables
from oculi.hub.renames import Layout
from oculi.system import BadCheckpoint

COMMIT = "a" * 40
SMALL = {"depths": [1], "width": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OCULI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_same(ours, theirs):
    """The same weights, statistics aside."""
    for name, value in theirs.state_dict().items():
        if "pixel" not in name:
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """huggingface_hub's cache with one repository in it, laid out as a download leaves it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    theirs = lively(ResNet(3, [1], width=4))
    written = oculi.save(theirs, tmp_path / "written")
    repository = tmp_path / "hub" / "models--me--small.one"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in written.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        (snapshot / file.name).symlink_to(blob)
    return theirs, snapshot


def test_a_name_of_the_hub_loads_from_its_cache_and_is_pinned(hub, cache):
    theirs, snapshot = hub
    ours = oculi.load("me/small.one", offline=True)
    assert_same(ours, theirs)
    pins = json.loads((cache / "pins.json").read_text())
    stated = {file.name: file.resolve().name for file in snapshot.iterdir()}
    assert pins == {"me/small.one": {"revision": COMMIT, "sha256": stated}}
    oculi.load(f"me/small.one@{COMMIT}")
    assert set(json.loads((cache / "pins.json").read_text())) == {
        "me/small.one",
        f"me/small.one@{COMMIT}",
    }


def test_the_pinned_revision_stays_when_the_branch_moves(hub):
    _, snapshot = hub
    oculi.load("me/small.one")
    (snapshot.parents[1] / "refs" / "main").write_text("b" * 40)
    oculi.load("me/small.one")
    with pytest.raises(BadCheckpoint, match=r"me/small.one@main: config.json: not in the cache, and offline"):
        oculi.load("me/small.one@main", offline=True)


def test_other_bits_than_at_the_first_load_are_refused(hub, cache):
    _, snapshot = hub
    oculi.load("me/small.one")
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").write_text(json.dumps({**config, "class_names": ["a", "b", "c"]}))
    with pytest.raises(BadCheckpoint, match=r"config.json: expected the SHA-256 .* of the first load.*delete"):
        oculi.load("me/small.one")
    (cache / "pins.json").unlink()
    oculi.load("me/small.one")


def test_a_broken_blob_is_found_at_the_first_load(hub, cache):
    _, snapshot = hub
    blob = (snapshot / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"model.safetensors: broken in the cache"):
        oculi.load("me/small.one")
    assert not (cache / "pins.json").exists(), "what did not load is not pinned"


def test_a_torn_record_of_pins_is_named(hub, cache):
    cache.mkdir()
    (cache / "pins.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"pins.json: not readable"):
        oculi.load("me/small.one")


def test_weights_in_several_files_come_with_their_index(hub):
    _, snapshot = hub
    part = "model-00001-of-00001.safetensors"
    (snapshot / "model.safetensors").rename(snapshot / part)
    (snapshot / fetching.INDEX).write_text(json.dumps({"weight_map": {"head.bias": part}}))
    assert set(fetching.from_hub("me/small.one", offline=True).files) == {"config.json", fetching.INDEX, part}
    (snapshot / part).unlink()
    with pytest.raises(BadCheckpoint, match=rf"me/small.one@{COMMIT}: {part}: not in the cache, and offline"):
        fetching.from_hub("me/small.one", offline=True)


def refused(kind, message):
    def download(*arguments, **options):
        raise kind(message, response=httpx.Response(404, request=httpx.Request("GET", "https://example.org")))

    return download


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RepositoryNotFoundError", "me/small.one@main: config.json cannot be fetched: No such repository"),
        ("GatedRepoError", "me/small.one@main: config.json cannot be fetched: No such repository"),
        ("RevisionNotFoundError", "me/small.one@main: config.json cannot be fetched: No such repository"),
        ("RemoteEntryNotFoundError", "me/small.one@main: config.json: No such repository"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, kind, message):
    errors = pytest.importorskip("huggingface_hub.errors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused(getattr(errors, kind), "No such repository\nat all"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(BadCheckpoint, match=f"{message}$"):
        oculi.load("me/small.one")


def test_a_repository_without_weights(hub):
    _, snapshot = hub
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(
        BadCheckpoint, match=rf"me/small.one@{COMMIT}: model.safetensors: not in the cache, and offline"
    ):
        oculi.load("me/small.one")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """torchvision's server, on this machine: one small published file and a damaged one."""
    folder = tmp_path / "models"
    folder.mkdir()
    theirs = lively(ResNet(3, [1], width=4))
    tensors = {name: value for name, value in theirs.state_dict().items() if "pixel" not in name}
    torch.save(tensors, folder / "x.pth")
    monkeypatch.setattr(torchvision_tables, "NETWORKS", {"small": Layout(ResNet, SMALL, {"*": "<1>"})})
    digest = fetching.sha256(folder / "x.pth")
    files = {}
    for short, stated in (("resnet18", digest[:8]), ("resnet34", "0" * 8)):
        name = f"resnet18-{stated}.pth"
        (folder / name).write_bytes((folder / "x.pth").read_bytes())
        files[short] = torchvision_tables.File("small", name)
    files["resnet50"] = torchvision_tables.File("resnet50", "resnet50-0676ba61.pth")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(torchvision_tables, "FILES", files)
    monkeypatch.setattr(torchvision_tables, "URL", f"http://127.0.0.1:{running.server_port}/")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield theirs, files
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_published_file_is_fetched_once_checked_and_kept(server, cache, monkeypatch):
    theirs, files = server
    assert_same(oculi.load("torchvision/resnet18"), theirs)
    assert sorted(path.name for path in cache.iterdir()) == ["pins.json", files["resnet18"].name]
    monkeypatch.setattr(torchvision_tables, "URL", "http://127.0.0.1:9/")
    assert_same(oculi.load("torchvision/resnet18"), theirs)
    assert_same(oculi.load("torchvision/resnet18", offline=True), theirs)
    (cache / files["resnet18"].name).write_bytes(b"other")
    with pytest.raises(BadCheckpoint, match="broken or changed: expected a SHA-256 that begins with"):
        oculi.load("torchvision/resnet18")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "torchvision/resnet34",
            "resnet18-00000000.pth: broken or changed: expected a SHA-256 that begins with 00000000",
        ),
        ("torchvision/resnet50", r"torchvision/resnet50: http://.*resnet50-0676ba61.pth cannot be fetched: .*404"),
    ],
)
def test_nothing_half_written_is_left(server, cache, name, message):
    with pytest.raises(BadCheckpoint, match=message):
        oculi.load(name)
    assert list(cache.iterdir()) == []


def test_no_network_is_one_error(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(torchvision_tables, "URL", "http://127.0.0.1:9/")
    with pytest.raises(BadCheckpoint, match=r"torchvision/resnet18: http.* cannot be fetched: .*refused"):
        oculi.load("torchvision/resnet18")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet18", r"torchvision/resnet18: .*resnet18-f37072fd.pth: not in the cache, and offline"),
        (
            "torchvision/resnet19",
            r"torchvision/resnet19: torchvision's files: expected one of resnet1.*, ...; got resnet19",
        ),
        ("timm/resnet50.a1_in1k", r"timm/resnet50.a1_in1k@main: config.json: not in the cache, and offline"),
        ("microsoft/resnet-50", r"microsoft/resnet-50@main: config.json: not in the cache, and offline"),
        ("a/b--c", r"a/b--c@main: config.json cannot be fetched: "),
        ("resnet50", r"resnet50: no such folder or file, nor a published name such as"),
        ("./runs/mine", r"./runs/mine: no such folder or file"),
        ("runs/mine/best", r"runs/mine/best: no such folder or file"),
    ],
)
def test_unknown_names_and_offline(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(BadCheckpoint, match=message):
        oculi.load(name)


def test_the_digits_in_a_file_name(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2's example
    assert fetching.sha256(tmp_path / "x") == digest
    fetching.check_stated("net-ba7816bf.pth", tmp_path / "x")
    fetching.check_stated("net-mine.pth", tmp_path / "x")
    fetching.check_stated("net.pth", tmp_path / "x")
    with pytest.raises(BadCheckpoint, match="begins with ba7816b0"):
        fetching.check_stated("net-ba7816b0.pth", tmp_path / "x")
