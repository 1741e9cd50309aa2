"""`oculi serve` and `oculi monitor`: what they are told, what they print, with which status they end."""

import json
import re
from dataclasses import asdict

import pytest
import torch
import yaml
from PIL import Image

import oculi.serve.server as server
from oculi import catalogue
from oculi.cli import main
from oculi.learn.training import build
from oculi.system import save


@pytest.fixture
def folder(tmp_path):
    save(build("resnet", tiny=True), tmp_path / "run")
    return "run"


@pytest.fixture
def served(monkeypatch):
    """What uvicorn would have been given."""
    found = []
    monkeypatch.setattr(
        server.uvicorn.Server, "run", lambda self, sockets: found.append((self.config, sockets[0].getsockname()))
    )
    return found


def test_serve_listens_on_loopback_and_shows_a_fresh_token_once(folder, served, capsys):
    assert main(["serve", folder, "--port", "0"]) == 0
    shown = capsys.readouterr()
    ((config, (host, port)),) = served
    token = config.app.state.service.token
    assert host == "127.0.0.1"
    assert re.fullmatch(rf"http://127.0.0.1:{port}/v2/models/model  token {re.escape(token)}\n", shown.err)
    assert shown.out == ""
    assert main(["serve", folder, "--port", "0"]) == 0
    assert served[1][0].app.state.service.token != token


def test_a_given_token_is_not_shown(folder, served, capsys):
    assert main(["serve", folder, "--port", "0", "--token", "my-own-secret", "--name", "digits"]) == 0
    shown = capsys.readouterr().err
    assert "my-own-secret" not in shown
    assert shown.rstrip().endswith("/v2/models/digits")
    assert main(["serve", folder, "--port", "0", "--no_token"]) == 0
    assert served[1][0].app.state.service.token is None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nowhere"], "no such folder"),
        (["run", "--token", "short"], "at least 8"),
        (["run", "--name", "a/b"], "name"),
        (["run", "--no_token", "--host", "0.0.0.0"], "expected a token"),
        (["run", "--port", "70000"], "cannot listen"),
    ],
)
def test_bad_words_are_one_line(folder, served, capsys, words, why):
    assert main(["serve", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert why in error
    assert served == []


def test_a_taken_port_is_named(folder, served, capsys):
    with server.listening("127.0.0.1", 0) as taken:
        taken.listen()
        assert main(["serve", folder, "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path):
    recipe = catalogue.recipe("resnet").with_overrides({"arguments.width": 4, "arguments.depths": [1, 1]})
    save(build(recipe), tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(asdict(recipe)))
    return tmp_path / "run"


def test_monitor_tells_drift_by_its_status(run, tmp_path, capsys):
    assert main(["monitor", "run", "digits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["alarm"] is False
    assert found["images"] == 350
    assert {name.split()[0] for name in found["features"]} >= {"brightness", "embedding", "output"}
    assert (run / "reference.safetensors").is_file()
    (tmp_path / "new").mkdir()
    for i in range(30):
        noise = torch.randint(0, 256, (9, 9), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(tmp_path / "new" / f"{i}.png")
    before = (run / "reference.safetensors").read_bytes()
    assert main(["monitor", "run", "new", "--out", "drift.png"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("alarm")
    assert "wasserstein" in shown.out
    assert shown.err.startswith("oculi: drift: ")
    with Image.open("drift.png") as drawn:
        assert drawn.width > 300
    assert (run / "reference.safetensors").read_bytes() == before
    for words, why in (
        (["monitor", "run", "digts"], "did you mean digits"),
        (["monitor", "run", "new/1.png"], "expected a folder"),
        (["monitor", "run", "drawn"], "no source called"),
        (["monitor", "run", "new", "--rate", "2"], "false_alarm_rate"),
        (["monitor", "nowhere", "new"], "no such folder"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert why in error
