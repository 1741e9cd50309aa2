"""Tracking: TensorBoard files by default, MLflow where asked for, each with every logged figure."""

import csv
import os

import pytest
from mlflow.tracking import MlflowClient
from tensorboardX.proto.event_pb2 import Event

from oculi.cli import main
from oculi.learn.training import train

TINY = {"arguments.depths": [1], "arguments.width": 4, "training.steps": 2, "training.warmup": 0}


def logged(folder) -> dict[tuple[int, str], float]:
    """Step and name of every figure in the run's own table."""
    with (folder / "metrics.csv").open() as rows:
        return {(int(row["step"]), row["metric"]): float(row["value"]) for row in csv.DictReader(rows)}


def tensorboard(folder) -> dict[tuple[int, str], float]:
    """The scalars of an event file: each record is its length (8 bytes), a checksum (4), the event, a checksum (4)."""
    (path,) = folder.glob("events.out.tfevents*")
    content, found = path.read_bytes(), {}
    while content:
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        content = content[16 + length :]
    return found


def test_tensorboard_has_every_figure(tmp_path):
    train("resnet", tmp_path / "run", TINY, progress=False)
    expected = logged(tmp_path / "run")
    assert {name for _, name in expected} == {"train/loss", "train/cross_entropy", "train/lr"}
    found = tensorboard(tmp_path / "run")
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's, from SQLAlchemy
def test_mlflow_has_every_figure(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    address = f"sqlite:///{tmp_path}/runs.db"
    train("resnet", tmp_path / "run", TINY, progress=False, mlflow=address)
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("oculi")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    names = {name for _, name in logged(tmp_path / "run")}
    found = {(m.step, m.key): m.value for name in names for m in client.get_metric_history(run.info.run_id, name)}
    assert found == pytest.approx(logged(tmp_path / "run"), rel=1e-5)


def test_nothing_is_tracked_unless_asked(tmp_path):
    train("resnet", tmp_path / "run", TINY, progress=False)
    assert not list(tmp_path.glob("*mlruns*"))
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_a_tracking_address_that_cannot_be_is_one_line(capsys, tmp_path):
    assert (
        main(["train", "resnet", "--folder", "run", "--json", "--training.steps", "2", "--mlflow", "gopher://x"]) == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "mlflow: gopher://x cannot be used" in error
