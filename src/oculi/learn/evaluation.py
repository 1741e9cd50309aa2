r"""Evaluation: which protocol scores which kind of answer. The protocols are files in `oculi/learn/protocols`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from oculi.catalogue import nearest
from oculi.data.datasets import Splits
from oculi.system import System

Protocol = Callable[[System, Splits, str], dict[str, float]]

BY_ANSWER = {
    "Classes": "classification",
    "Detections": "detection",
    "Segmentation": "segmentation",
    "Panoptic": "panoptic",
    "Masks": "promptable",
    "Images": "generation",
    "Embeddings": "linear_probe",
    "Actions": "returns",
    "Flow": "flow",
    "Meshes": "meshes",
    "Pointmaps": "pointmaps",
    "Depth": "depth",
    "Keypoints": "keypoints",
}
PROTOCOLS = {*BY_ANSWER.values(), "episodes", "views", "pointing", "masks", "video_objects"}


def protocol_for(system: System, name: str = "") -> Protocol:
    """The function `score(system, splits, split)` of the protocol `name`, or of the system's kind of answer."""
    chosen = name or BY_ANSWER.get(system.answer.__name__, "")
    if chosen not in PROTOCOLS:
        raise ValueError(f"protocol: {chosen or system.answer.__name__} is none{nearest(chosen, PROTOCOLS)}")
    return import_module(f"oculi.learn.protocols.{chosen}").score


def evaluate(system: System, splits: Splits, protocol: str = "", split: str = "test") -> dict[str, float]:
    """The scores of `system` on one split of data that its contract has prepared (`splits.prepared(contract)`)."""
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split: expected train, validation or test, got {split!r}")
    was = system.training
    scores = protocol_for(system, protocol)(system.eval(), splits, split)
    system.train(was)
    return scores
