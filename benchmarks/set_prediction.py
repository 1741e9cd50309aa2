r"""DETR and Mask2Former beside transformers' at equal random weights: eager forward pass in eval mode, without gradient.

    python benchmarks/set_prediction.py --models detr mask2former --height 800 --width 1066

DETR with ResNet-50 and Mask2Former with Swin-T, both of their papers' sizes. The tests' own hands carry the weights over;
the outputs are compared first. Ours subtracts the mean and divides by the deviation inside, theirs is handed normalised
pictures. One process, interleaved, medians; peak: the most memory that the process had held after each had run alone,
in a process of its own with `--peak`. A line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sam import memory
from torch import Tensor, nn

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "parity" / "detect"), str(TESTS / "parity" / "segment")]
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


def detr() -> tuple[nn.Module, nn.Module]:
    """Ours and transformers' with its weights."""
    import test_detr
    from transformers import DetrConfig, ResNetConfig

    from oculi.detect.detr import DETR

    torch.manual_seed(0)
    system = DETR().eval()
    config = DetrConfig(backbone_config=ResNetConfig(out_features=["stage4"]), num_labels=91)
    return system, test_detr.theirs(system, config)


def mask2former() -> tuple[nn.Module, nn.Module]:
    """Ours and transformers' with its weights."""
    import test_mask2former
    from transformers import Mask2FormerConfig, SwinConfig

    from oculi.segment.mask2former import Mask2Former

    torch.manual_seed(0)
    system = Mask2Former().eval()
    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = Mask2FormerConfig(backbone_config=SwinConfig(out_features=stages), num_labels=133)
    return system, test_mask2former.theirs(system, config)


PAIRS = {"detr": detr, "mask2former": mask2former}


def forwards(name: str) -> dict[str, Forward]:
    """Both passes, from a picture in [0, 1] to class scores and boxes or masks."""
    system, model = PAIRS[name]()

    def theirs(image: Tensor) -> Any:
        return model(system.normalize(image).contiguous())  # laid out as their own processor would

    if name == "detr":
        return {
            "ours": lambda image: system.answers(system.decoded(image)[-1]),
            "transformers": lambda image: (out := theirs(image)) and (out.logits, out.pred_boxes),
        }
    return {
        "ours": lambda image: system.answers(image, last=True),
        "transformers": lambda image: (out := theirs(image)) and (out.class_queries_logits, out.masks_queries_logits),
    }


def compare(both: dict[str, Forward], image: Tensor, repetitions: int) -> dict[str, float]:
    """Medians in milliseconds, their ratio, and the largest difference relative to the largest output."""
    seconds: dict[str, list[float]] = {name: [] for name in both}
    outputs = {}
    for repetition in range(repetitions + 1):
        for name in sorted(both, reverse=repetition % 2 == 0):  # each goes first as often as the other
            started = time.perf_counter()
            outputs[name] = both[name](image)
            if repetition:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - started)
    gaps = [
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(outputs["ours"], outputs["transformers"], strict=True)
    ]
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    return {f"{name}_ms": round(value, 1) for name, value in medians.items()} | {
        "ratio": round(medians["ours"] / medians["transformers"], 3),
        "difference": max(gaps),
    }


def peak(name: str, whose: str, options: argparse.Namespace) -> float:
    """MiB that a process of its own holds at most, less what it held before the pass."""
    size = ["--height", str(options.height), "--width", str(options.width)]
    command = [sys.executable, __file__, "--models", name, "--peak", whose, *size]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1066)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--peak", choices=["ours", "transformers"], help="print the peak memory of one pass, in MiB")
    options = parser.parse_args()
    image = torch.rand(1, 3, options.height, options.width)
    with torch.no_grad():
        for name in options.models:
            both = forwards(name)
            if options.peak:
                before = memory()
                both[options.peak](image)
                print(memory() - before)
                return
            found = compare(both, image, options.repetitions)
            peaks = {f"{whose}_peak_mib": round(peak(name, whose, options)) for whose in ("ours", "transformers")}
            print(json.dumps({"model": name, "size": [options.height, options.width], **found, **peaks}), flush=True)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
