r"""What the largest batch is worth: a stream of requests through the batcher, throughput and waits for each `max_batch`.

python benchmarks/batching.py [requests] [per second]

Requests arrive at random (exponential gaps) at a rate that single runs cannot keep up with; the model is a ResNet of
digits on one thread. One line of JSON per `max_batch`.
"""

from __future__ import annotations

import json
import random
import sys
import time

import torch

from oculi.backbones.resnet import ResNet
from oculi.metrics.latency import latency
from oculi.serve.batcher import Batcher
from oculi.system import predict
from oculi.types import Batch


def stream(batcher: Batcher, images: list[torch.Tensor], gaps: list[float]) -> tuple[float, list[float]]:
    """Answers per second, and each request's milliseconds from arrival to answer."""
    done: list[float] = [0.0] * len(images)
    arrived, futures, began = [], [], time.perf_counter()
    for index, (image, gap) in enumerate(zip(images, gaps, strict=True)):
        time.sleep(gap)
        arrived.append(time.perf_counter())
        (future,) = batcher.submit([image])
        future.add_done_callback(lambda _, index=index: done.__setitem__(index, time.perf_counter()))
        futures.append(future)
    for future in futures:
        future.result()
    return len(images) / (max(done) - began), [1e3 * (end - start) for end, start in zip(done, arrived, strict=True)]


def main(requests: int = 600, per_second: float = 1500.0) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    system = ResNet(10, depths=[1, 1, 1], width=24, stem="small", in_channels=1, image_size=16).eval()
    images = [torch.rand(1, 16, 16) for _ in range(requests)]
    chance = random.Random(0)
    gaps = [chance.expovariate(per_second) for _ in range(requests)]
    for most in (1, 2, 4, 8, 16, 32):
        batcher = Batcher(lambda batch: predict(system, Batch(image=batch)), most, max_queue=requests)
        stream(batcher, images[:50], gaps[:50])
        rate, waits = stream(batcher, images, gaps)
        batcher.close()
        found = latency(waits)
        figures = {"per_second": round(rate), "p50_ms": round(found["p50"], 1), "p95_ms": round(found["p95"], 1)}
        print(json.dumps({"max_batch": most, **figures, "arrivals_per_second": per_second}), flush=True)


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, float), sys.argv[1:])))
