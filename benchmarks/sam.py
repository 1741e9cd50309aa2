r"""Our SAM ViT-B beside transformers' at equal random weights: one picture of 1024 x 1024 pixels and one click, eager.

    python benchmarks/sam.py --repetitions 3

Outputs are compared first. Ours subtracts the mean and divides by the deviation inside, theirs is handed normalised
pictures. One process, interleaved, medians; a line of JSON. `--peak ours` or `--peak transformers` measures one of them
alone in a fresh process: the most memory it ever held beyond what there was before its forward pass, in MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oculi.hub.renames import fill
from oculi.hub.segment_anything import sam
from oculi.segment.sam import SAM
from oculi.types import Prompts


def pair(side: int) -> tuple[Any, SAM]:
    """transformers' network with ours of the same weights; a smaller side has smaller maps."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    config = SamConfig(vision_config={"image_size": side}, prompt_encoder_config={"image_size": side})
    theirs = SamModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.vision_encoder.parameters():  # theirs begin with next to nothing
            parameter.add_(0.02 * torch.randn_like(parameter))
    layout = sam(config.to_dict())
    ours = SAM(**layout.arguments).eval()
    fill(ours, theirs.state_dict(), layout.rules, "transformers")  # type: ignore[arg-type]
    return theirs, ours


@torch.no_grad()
def forward(which: str, theirs: Any, ours: SAM, image: Tensor) -> Tensor:
    """The three masks of a click in the middle."""
    middle, label = torch.full((1, 1, 1, 2), image.shape[-1] / 2), torch.ones(1, 1, 1, dtype=torch.int64)
    if which == "ours":
        return ours.decode(ours.features(image), Prompts(middle, label)).masks[:, :, 1:]
    return theirs(image, input_points=middle - 0.5, input_labels=label).pred_masks


def memory() -> float:
    """The most memory that this process ever held, in MiB. getrusage's figure would include what its parent held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--side", type=int, default=1024, help="of the picture, a multiple of 16")
    parser.add_argument("--peak", choices=["ours", "transformers"])
    options = parser.parse_args()
    theirs, ours = pair(options.side)
    image = torch.randn(1, 3, options.side, options.side)
    if options.peak:
        before = memory()
        forward(options.peak, theirs, ours, image)
        print(json.dumps({"model": options.peak, "side": options.side, "peak_mib": round(memory() - before)}))
        return
    seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
    masks = {}
    for repetition in range(options.repetitions + 1):
        for which in sorted(seconds, reverse=repetition % 2 == 0):  # each goes first as often as the other
            started = time.perf_counter()
            masks[which] = forward(which, theirs, ours, image)
            if repetition:  # the first is the warm-up
                seconds[which].append(time.perf_counter() - started)
    difference = float((masks["ours"] - masks["transformers"]).abs().max() / masks["transformers"].abs().max())
    medians = {which: statistics.median(values) for which, values in seconds.items()}
    found = {f"{which}_s": round(value, 3) for which, value in medians.items()}
    found |= {"ratio": round(medians["ours"] / medians["transformers"], 3), "difference": f"{difference:.1e}"}
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    print(json.dumps({"model": "SAM ViT-B", "side": options.side, **found, **machine}))


if __name__ == "__main__":
    main()
