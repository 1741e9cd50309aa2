"""Protocols: each kind of answer has a file that scores it, and the figures are what they say."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from oculi.classical.lucas_kanade import LucasKanade, shifted_photographs
from oculi.data.datasets import Splits
from oculi.learn.evaluation import BY_ANSWER, PROTOCOLS, evaluate


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_every_protocol_named_is_there(name: str) -> None:
    assert callable(import_module(f"oculi.learn.protocols.{name}").score)


def test_a_prediction_for_every_protocol() -> None:
    predictions = import_module("oculi.predictions")
    assert all(issubclass(getattr(predictions, answer), predictions.Prediction) for answer in BY_ANSWER)


def test_flow_is_scored_in_pixels_against_standing_still() -> None:
    batch = shifted_photographs(64, photos=2)
    samples = [batch[i] for i in range(2)]
    scores = evaluate(LucasKanade(image_size=64), Splits(samples, samples, samples))
    assert scores["zero_flow"] == pytest.approx(0.5 * 2**0.5, rel=1e-5)
    assert scores["endpoint_error"] < 0.2
    assert 0.3 < scores["valid_share"] <= 1


@pytest.mark.unchecked
def test_data_without_the_truth_is_refused() -> None:
    blank = [shifted_photographs(64, photos=1)[0]]
    blank[0].flow = None
    with pytest.raises(ValueError, match="next image and the flow"):
        evaluate(LucasKanade(image_size=64), Splits(blank, blank, blank))
    assert torch.is_tensor(blank[0].image)
