"""SAM on its own: what a click may mean, embeddings as prompts, automatic masks, bad input."""

import pytest
import torch

from oculi.nn.prompt_encoder import PromptEncoder, ambiguous
from oculi.segment.sam import SAM
from oculi.system import predict
from oculi.types import Batch, Prompts


def small(**changed):
    torch.manual_seed(0)
    arguments = {
        "image_size": 32, "patch": 4, "width": 32, "depth": 2, "heads": 2, "window": 4, "whole": [1], "channels": 32,
        "grid": 4, "keep": [0.5, 0.5], "clicks": 0,
    }  # fmt: skip
    return SAM(**{**arguments, **changed})


def test_a_click_on_and_a_click_beside_the_object_are_different_tokens():
    encoder = PromptEncoder(16, 32)
    tokens, _ = encoder(Prompts(torch.full((1, 2, 1, 2), 7.5), torch.tensor([[[1], [0]]])))
    assert tokens.shape == (1, 2, 2, 16)
    assert float((tokens[0, 0, 0] - tokens[0, 1, 0]).detach().abs().max()) > 0.1
    torch.testing.assert_close(tokens[0, 0, 1], tokens[0, 1, 1])  # the token that stands for no point


def test_one_point_box_or_embedding_is_ambiguous():
    one, two = torch.ones(1, 1, 1, dtype=torch.int64), torch.ones(1, 1, 2, dtype=torch.int64)
    assert bool(ambiguous(Prompts(torch.zeros(1, 1, 1, 2), one)))
    assert bool(ambiguous(Prompts(torch.zeros(1, 1, 2, 2), torch.tensor([[[1, -1]]]))))
    assert bool(ambiguous(Prompts(boxes=torch.zeros(1, 1, 4))))
    assert not bool(ambiguous(Prompts(torch.zeros(1, 1, 2, 2), two)))
    assert not bool(ambiguous(Prompts(torch.zeros(1, 1, 1, 2), one, torch.zeros(1, 1, 4))))
    assert not bool(ambiguous(Prompts(torch.zeros(1, 1, 1, 2), one, masks=torch.zeros(1, 1, 8, 8))))


def test_embeddings_learn_to_name_objects():
    """Two stand-ins for what CLIP would say of the objects' colours; the same picture, another embedding, another mask."""
    system = small(text_width=2, image_size=16, depth=1, whole=[0], width=16).train()
    image = torch.full((4, 3, 16, 16), 0.5)
    masks = torch.zeros(4, 2, 16, 16, dtype=torch.bool)
    for index, left in enumerate((1, 4, 7, 9)):
        masks[index, 0, 2:8, left : left + 6] = True
        masks[index, 1, 9:15, 10 - left : 16 - left] = True
        for number in range(2):
            image[index, :, masks[index, number]] = torch.tensor([1.0, 0, 0] if number else [0.0, 0, 1])[:, None]
    said = torch.eye(2)[None].expand(4, -1, -1)
    batch = Batch(image=image, masks=list(masks), prompts=Prompts(embeddings=said))
    optimizer = torch.optim.Adam(system.parameters(), lr=4e-3)
    for _ in range(130):
        optimizer.zero_grad()
        total = torch.stack(list(system.loss(batch).values())).sum()
        total.backward()
        optimizer.step()
        if float(total.detach()) < 0.4:
            break
    answers = predict(system.eval(), batch)
    found = torch.stack([answer.masks for answer in answers])
    iou = (found & masks).flatten(2).sum(2) / (found | masks).flatten(2).sum(2)
    assert float(iou.min()) > 0.7


def test_without_prompts_all_masks_best_first():
    system = small(keep=[-9.0, -1.0]).eval()
    (answer,) = predict(system, Batch(image=torch.rand(1, 3, 32, 32)))
    assert len(answer.masks) == len(answer.scores) > 0
    assert bool((answer.scores.diff() <= 0).all())


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="patch: expected a divisor of image_size 32, got 5"):
        small(patch=5)
    with pytest.raises(ValueError, match="channels: expected a multiple of 8, got 12"):
        small(channels=12)
    with pytest.raises(ValueError, match=r"batch.masks: expected the masks"):
        small().loss(Batch(image=torch.rand(1, 3, 32, 32)))
    with pytest.raises(ValueError, match=r"image: expected 32x32 pixels, got 16x32"):
        small().features(torch.rand(1, 3, 16, 32))
    with pytest.raises(ValueError, match=r"prompts.labels: expected one for each of \(1, 1, 2\) points, got None"):
        small().prompts(Prompts(torch.zeros(1, 1, 2, 2)))
    with pytest.raises(ValueError, match=r"prompts.embeddings: expected a width of 0 \(text_width\), got 3"):
        small().prompts(Prompts(embeddings=torch.zeros(1, 1, 3)))
    with pytest.raises(ValueError, match="prompts: expected points, boxes, masks or embeddings"):
        small().prompts(Prompts())
    masks = [torch.ones(2, 32, 32, dtype=torch.bool)]
    asked = Prompts(boxes=torch.tensor([[[1.0, 1, 9, 9]]]))
    with pytest.raises(ValueError, match=r"batch.prompts: expected one for each of 2 masks, got 1"):
        small().loss(Batch(image=torch.rand(1, 3, 32, 32), masks=masks, prompts=asked))
