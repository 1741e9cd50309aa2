"""The batcher: the answers are the same alone as in a batch, whoever else is in it, and nobody is left waiting."""

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.learn.training import build
from oculi.serve.batcher import Batcher, Expired, Overloaded, WorkerDied
from oculi.system import predict
from oculi.types import Batch


def doubled(images):
    """Refuses negative images, all of the batch with them."""
    if bool((images < 0).any()):
        raise ValueError("negative")
    return [2 * image for image in images]


def one(value):
    return torch.full((1, 2, 2), float(value))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-2, 20), min_size=1, max_size=30), st.integers(1, 8), st.integers(1, 5))
def test_everyone_gets_their_own_answer_whoever_else_is_in_the_batch(values, most, together):
    sizes = []
    batcher = Batcher(doubled, most, 64, sizes.append)
    parts = [values[i : i + together] for i in range(0, len(values), together)]
    futures = [future for part in parts for future in batcher.submit([one(v) for v in part])]
    for value, future in zip(values, futures, strict=True):
        if value < 0:
            assert isinstance(future.exception(10), ValueError)
        else:
            assert torch.equal(future.result(10), one(2 * value))
    assert batcher.close()
    assert max(sizes) <= most


def test_a_model_answers_the_same_alone_as_in_a_batch():
    torch.manual_seed(0)
    system = build("resnet", tiny=True).eval()
    images = torch.rand(40, 1, 16, 16)
    alone = torch.cat([torch.stack([a.probabilities for a in predict(system, Batch(image=i[None]))]) for i in images])
    batcher = Batcher(lambda batch: predict(system, Batch(image=batch)), 16)
    answers = [None] * 40

    def client(first):
        for i in range(first, 40, 8):
            (future,) = batcher.submit([images[i]])
            answers[i] = future.result(10)

    threads = [threading.Thread(target=client, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert batcher.close()
    torch.testing.assert_close(torch.stack([a.probabilities for a in answers]), alone, rtol=1e-5, atol=1e-6)


@pytest.fixture
def gated():
    gate, entered = threading.Event(), threading.Event()

    def run(images):
        entered.set()
        assert gate.wait(10)
        return list(images)

    batcher = Batcher(run, 4, 6)
    held = batcher.submit([one(0)])
    assert entered.wait(5)
    yield batcher, gate, held
    gate.set()
    batcher.close()


def test_what_gathers_meanwhile_runs_together(gated):
    batcher, gate, _ = gated
    sizes = []
    batcher.on_batch = sizes.append
    futures = [future for v in range(5) for future in batcher.submit([one(v)])]
    assert batcher.waiting == 5
    assert batcher.busy_for() > 0
    gate.set()
    assert [float(f.result(5).mean()) for f in futures] == [0, 1, 2, 3, 4]
    assert sizes == [4, 1]


def test_all_or_none_are_queued(gated):
    batcher, _, _ = gated
    batcher.submit([one(1)] * 4)
    with pytest.raises(Overloaded, match="4 of 6"):
        batcher.submit([one(1)] * 3)
    assert batcher.waiting == 4


def test_the_late_and_the_cancelled_are_not_run(gated):
    batcher, gate, _ = gated
    (late,), (gone,), (kept,) = batcher.submit([one(1)], 0.01), batcher.submit([one(2)]), batcher.submit([one(3)])
    assert gone.cancel()
    time.sleep(0.02)
    gate.set()
    assert float(kept.result(5).mean()) == 3
    assert isinstance(late.exception(5), Expired)


def test_closing_finishes_what_waits_and_takes_no_more(gated):
    batcher, gate, held = gated
    waiting = batcher.submit([one(7)])
    threading.Timer(0.05, gate.set).start()
    assert batcher.close(5)
    assert all(f.done() and f.exception() is None for f in (*held, *waiting))
    assert not batcher.alive
    with pytest.raises(WorkerDied):
        batcher.submit([one(1)])


def test_closing_late_fails_the_rest(gated):
    batcher, _, _ = gated
    (waiting,) = batcher.submit([one(7)])
    assert not batcher.close(0.05)
    assert isinstance(waiting.exception(1), WorkerDied)


def test_a_worker_that_ends_fails_all_that_wait():
    def dies(images):
        raise SystemExit

    batcher = Batcher(dies)
    (future,) = batcher.submit([one(1)])
    assert isinstance(future.exception(5), WorkerDied)
    assert not batcher.alive


def test_too_few_answers_are_an_error():
    batcher = Batcher(lambda images: [])
    assert "0 answers to 1 images" in str(batcher.submit([one(1)])[0].exception(5))
    batcher.close()


@pytest.mark.parametrize("words", [{"max_batch": 0}, {"max_queue": 0}])
def test_bad_input_is_named(words):
    with pytest.raises(ValueError, match=next(iter(words))):
        Batcher(doubled, **words)


def test_a_stream_is_answered_in_order_and_sooner_in_batches():
    """Each run costs the same however many are in it: 40 requests at once, by ones and by eights."""

    def run(images):
        time.sleep(0.005)
        return doubled(images)

    seconds, answers = {}, {}
    for most in (1, 8):
        batcher, order = Batcher(run, most, 64), []
        began = time.perf_counter()
        futures = [batcher.submit([one(value)])[0] for value in range(40)]
        for value, future in enumerate(futures):
            future.add_done_callback(lambda _, value=value, order=order: order.append(value))
        answers[most] = torch.stack([future.result(10) for future in futures])
        seconds[most] = time.perf_counter() - began
        assert batcher.close()
        assert sorted(order) == list(range(40))
    assert torch.equal(answers[1], answers[8])
    assert torch.equal(answers[8][:, 0, 0, 0], 2 * torch.arange(40.0))
    assert seconds[8] < 0.5 * seconds[1]
