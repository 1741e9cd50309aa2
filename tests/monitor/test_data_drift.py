"""Windows, saving, the model's own view, and what is refused."""

import json

import pytest
import torch

from oculi.learn.training import build
from oculi.monitor.answers import describe
from oculi.monitor.data_drift import DataDrift
from oculi.monitor.stream import watch
from oculi.predictions import PALETTE


def images(n, seed, bright=1.0):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * bright


def test_windows_fall_due_by_size_and_stride():
    monitor = DataDrift(0.05, window=20, stride=5, resamples=50).fit(images(60, 0))
    due = [monitor.observe(image) is not None for image in images(41, 1)]
    assert [i + 1 for i, found in enumerate(due) if found] == [20, 25, 30, 35, 40]
    monitor.reset()
    assert monitor.observe(images(19, 1)) is None
    assert monitor.observe(images(1, 2)).last == 20


def test_a_stream_rings_after_the_change_and_not_before():
    monitor = DataDrift(0.02, window=20, stride=10, resamples=99).fit(images(100, 0))
    found = watch(monitor, images(50, 1), images(30, 2, 0.5))
    assert [r.last for r in found.reports] == [20, 30, 40, 50, 60, 70, 80]
    assert len(found.clean) == 4
    assert found.false_alarm_rate == 0
    assert found.alarm
    assert found.delay in (10, 20)
    assert len(found.plot().getcolors(1 << 20) or []) > 2
    assert [name for name, _ in found.rows()][1] == "alarm after the change"
    quiet = watch(monitor, images(25, 3))
    assert quiet.delay is None
    assert not quiet.alarm
    assert quiet.changed == []


def test_observed_one_by_one_or_together_it_is_the_same():
    monitor = DataDrift(0.05, window=12, stride=4, resamples=50).fit(images(40, 0))
    stream = images(16, 5)
    last = [monitor.observe(image) for image in stream][-1]
    monitor.reset()
    together = monitor.observe(stream)
    assert (together.p_value, together.worst, together.last) == (last.p_value, last.worst, last.last)
    assert all(together.features[name]["ks"] == found["ks"] for name, found in last.features.items())


def test_saved_with_the_model_it_gives_the_same_verdict(tmp_path):
    system = build("resnet", tiny=True)
    grey = images(60, 0)[:, :1].repeat(1, 1, 2, 2)
    monitor = DataDrift(0.05, window=20, resamples=50).fit(grey, **describe(system))
    assert {name.split()[0] for name in monitor.names} >= {"brightness", "embedding", "output"}
    monitor.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"drift.json", "reference.safetensors"}
    again = DataDrift.load(tmp_path, **describe(system))
    assert again.test(grey[:20] * 0.7) == monitor.test(grey[:20] * 0.7)
    with pytest.raises(ValueError, match="embed and answer"):
        DataDrift.load(tmp_path).test(grey[:20])


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="no drift monitor"):
        DataDrift.load(tmp_path)
    DataDrift(0.05, window=20, resamples=50).fit(images(60, 0)).save(tmp_path)
    described = json.loads((tmp_path / "drift.json").read_text())
    for change in ({"arguments": {"windwo": 3}}, {"names": ["one"]}):
        (tmp_path / "drift.json").write_text(json.dumps({**described, **change}))
        with pytest.raises(ValueError, match="folder"):
            DataDrift.load(tmp_path)
    (tmp_path / "reference.safetensors").write_bytes(b"cut")
    (tmp_path / "drift.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="no drift monitor"):
        DataDrift.load(tmp_path)


@pytest.mark.parametrize("name", ["resnet", "vit", "unet", "simclr", "prototypical_networks"])
def test_every_kind_of_answer_is_described(name):
    system = build(name, tiny=True)
    c = system.contract
    given = torch.rand(4, c.channels, c.height, c.width)
    found = {key: function(given) for key, function in describe(system).items() if function is not None}
    assert found
    assert all(rows.ndim == 2 and len(rows) == 4 and bool(torch.isfinite(rows).all()) for rows in found.values())


def test_the_verdict_is_drawn():
    monitor = DataDrift(0.05, window=20, resamples=50).fit(images(60, 0))
    report = monitor.test(images(20, 1, 0.5))
    colours = {colour for _, colour in report.plot(most=5).getcolors(1 << 20) or []}
    assert report.alarm
    assert PALETTE[1] in colours
    assert report.plot(most=9).height > report.plot(most=5).height


@pytest.mark.unchecked
def test_bad_input_is_named():
    for arguments, message in (
        ({"false_alarm_rate": 0}, "false_alarm_rate"),
        ({"window": 1}, "window"),
        ({"stride": 0}, "stride"),
        ({"resamples": 10}, "resamples: expected at least 100"),
    ):
        with pytest.raises(ValueError, match=message):
            DataDrift(**arguments)
    monitor = DataDrift(0.05, window=20, resamples=50)
    with pytest.raises(ValueError, match="call fit"):
        monitor.test(images(20, 0))
    with pytest.raises(ValueError, match="two windows"):
        monitor.fit(images(30, 0))
    monitor.fit(images(60, 0))
    with pytest.raises(ValueError, match="half the reference"):
        monitor.test(images(31, 0))
    for wrong in (torch.rand(20, 2, 8, 8), torch.rand(20, 3, 2, 8), torch.full((20, 3, 8, 8), float("nan"))):
        with pytest.raises(ValueError, match="image: "):
            monitor.test(wrong)
    with pytest.raises(ValueError, match="nothing to compare"):
        DataDrift(0.05, window=20, resamples=50, statistics=False).fit(images(60, 0))
