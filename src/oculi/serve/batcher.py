r"""Dynamic batching without waiting: one thread takes what has queued meanwhile, up to `max_batch`, and runs it together.

A timer that waits for a fuller batch delays an idle server and gains nothing on a busy one: while a batch runs, the next
one gathers by itself. So the batch is 1 when requests come one by one and grows with the load.

    queue      bounded; a full one refuses at once (Overloaded) instead of answering late
    order      first come, first served; the answers go back to whoever asked
    poison     when a batch fails, its members run one by one, and only those that fail alone get the error
    deadline   what has waited past its deadline is dropped unanswered by the model, with Expired
    death      when the thread ends for whatever reason, all that waits gets WorkerDied, and so does who comes later
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, stack


class Refused(RuntimeError):
    """The batcher does not take or cannot finish the request; worth trying again later."""


class Overloaded(Refused):
    """The queue is full."""


class Expired(Refused):
    """The deadline passed while the request waited."""


class WorkerDied(Refused):
    """The worker thread has ended, or was told to stop."""


@dataclass
class _Job:
    image: Tensor
    deadline: float
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """Runs `run(batch x channels x height x width) -> one answer per image` on single images handed in by `submit`.

    max_batch: most images in one run. max_queue: most that may wait. on_batch: told the size of every batch.
    """

    def __init__(
        self,
        run: Callable[[Tensor], list[Any]],
        max_batch: int = 32,
        max_queue: int = 256,
        on_batch: Callable[[int], None] | None = None,
    ):
        for name, value in (("max_batch", max_batch), ("max_queue", max_queue)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.run, self.max_batch, self.max_queue = run, max_batch, max_queue
        self.on_batch = on_batch
        self.last_answer = float("-inf")  # monotonic seconds of the last success
        self.busy_since: float | None = None  # when the batch in progress began
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="oculi-batcher", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the worker takes requests."""
        return self._thread.is_alive() and not self._closed

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._jobs)

    def busy_for(self) -> float:
        """Seconds that the batch in progress has taken so far; 0 when there is none."""
        began = self.busy_since
        return 0.0 if began is None else time.monotonic() - began

    def submit(self, images: list[Float[Tensor, "channels height width"]], seconds: float = 30.0) -> list[Future[Any]]:
        """Queue all the images or none; one future each. Raises Overloaded when they do not fit, WorkerDied when closed."""
        deadline = time.monotonic() + seconds
        jobs = [_Job(image, deadline) for image in images]
        with self._wake:
            if not self.alive:
                raise WorkerDied("the worker has stopped")
            if len(self._jobs) + len(jobs) > self.max_queue:
                raise Overloaded(f"the queue is full ({len(self._jobs)} of {self.max_queue})")
            self._jobs.extend(jobs)
            self._wake.notify()
        return [job.future for job in jobs]

    def close(self, seconds: float = 10.0) -> bool:
        """Take no more, finish what waits within `seconds`, fail the rest. Whether everything was finished."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._thread.join(seconds)
        with self._wake:
            left = list(self._jobs)
            self._jobs.clear()
        _fail(left, WorkerDied("the server is shutting down"))
        return not left and not self._thread.is_alive()

    def _work(self) -> None:
        taken: list[_Job] = []
        try:
            while taken := self._take():
                self.busy_since = time.monotonic()
                self._answer(taken)
                self.busy_since = None
        except BaseException as error:  # whatever ends the thread, nobody is left waiting
            with self._wake:
                self._closed = True
                taken = [*taken, *self._jobs]
                self._jobs.clear()
            _fail(taken, WorkerDied(f"the worker died of {type(error).__name__}"))

    def _take(self) -> list[_Job]:
        """What has queued, at most `max_batch`; empty only after `close` with nothing left."""
        with self._wake:
            while True:
                while not self._jobs and not self._closed:
                    self._wake.wait()
                now = time.monotonic()
                taken: list[_Job] = []
                while self._jobs and len(taken) < self.max_batch:
                    job = self._jobs.popleft()
                    if now > job.deadline:
                        _fail([job], Expired("the deadline passed in the queue"))
                    elif job.future.set_running_or_notify_cancel():
                        taken.append(job)
                if taken or (self._closed and not self._jobs):
                    return taken

    def _answer(self, jobs: list[_Job]) -> None:
        if self.on_batch is not None:
            self.on_batch(len(jobs))
        try:
            answers = self.run(stack([job.image for job in jobs]))
            if len(answers) != len(jobs):
                raise ValueError(f"the model gave {len(answers)} answers to {len(jobs)} images")
        except Exception as error:
            if len(jobs) == 1:
                _fail(jobs, error)
                return
            for job in jobs:
                self._answer([job])
            return
        self.last_answer = time.monotonic()
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)


def _fail(jobs: list[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)
