r"""A detector of one class out of a region proposal network alone.

With a single class "object or not" is the class, so the second stage of Faster R-CNN can be left out: the RPN's scores
and boxes, then NMS over all levels together, are the answer, for the price of the first stage.

    score = sigmoid(objectness) above 0.05, the best 1000;   NMS at 0.5;   the best 100

Ren, He, Girshick, Sun: Faster R-CNN, 2015, arXiv:1506.01497.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.detect.faster_rcnn import FasterRCNN
from oculi.nn.detection import Found, best_of, separate
from oculi.ops.boxes import clip, decode

LEAST_SCORE, OVERLAP, MOST_CANDIDATES, MOST_DETECTIONS = 0.05, 0.5, 1000, 100


def rpn_detections(system: FasterRCNN, image: Float[Tensor, "b c h w"]) -> Found:
    """Boxes, scores and labels (all 0) of what the first stage finds, best first; what follows the last is 0.

    Raises ValueError where the system knows several classes, which its first stage does not tell apart.
    """
    classes = system.config["num_classes"]
    if classes != 1:
        raise ValueError(f"system: expected one class, got {classes}, which proposals do not tell apart")
    maps = system.features(image)
    scores, deltas = system.rpn(maps)
    score, place, label = best_of(scores.sigmoid()[..., None], LEAST_SCORE, MOST_CANDIDATES)
    rows = torch.arange(image.shape[0], device=image.device)[:, None]
    boxes = clip(decode(deltas[rows, place], torch.cat(system.anchors(maps))[place]), *image.shape[-2:])
    return separate(boxes, score, label, OVERLAP, MOST_DETECTIONS)
