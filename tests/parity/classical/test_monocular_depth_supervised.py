"""The transformer for depth held against transformers' DPTForDepthEstimation at equal weights."""

import re

import pytest
import torch
from transformers import DPTConfig, DPTForDepthEstimation

from oculi.classical.monocular_depth_supervised import MonocularDepthSupervised

NECK, SIZE = [6, 8, 12, 16], 64
PLACES = {
    r"dpt\.embeddings\.cls_token": "cls",
    r"dpt\.embeddings\.position_embeddings": "positions",
    r"dpt\.embeddings\.patch_embeddings\.projection\.(\w+)": r"patches.\1",
    r"dpt\.encoder\.layer\.(\d+)\.attention\.attention\.query\.(\w+)": r"blocks.\1.attention.query.\2",
    r"dpt\.encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)": r"blocks.\1.attention.out.\2",
    r"dpt\.encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)": r"blocks.\1.mlp.0.\2",
    r"dpt\.encoder\.layer\.(\d+)\.output\.dense\.(\w+)": r"blocks.\1.mlp.3.\2",
    r"dpt\.encoder\.layer\.(\d+)\.layernorm_before\.(\w+)": r"blocks.\1.norms.0.\2",
    r"dpt\.encoder\.layer\.(\d+)\.layernorm_after\.(\w+)": r"blocks.\1.norms.1.\2",
    r"neck\.reassemble_stage\.readout_projects\.(\d)\.0\.(\w+)": r"readouts.\1.0.\2",
    r"neck\.reassemble_stage\.layers\.(\d)\.projection\.(\w+)": r"reassemble.\1.0.\2",
    r"neck\.reassemble_stage\.layers\.(\d)\.resize\.(\w+)": r"reassemble.\1.1.\2",
    r"neck\.convs\.(\d)\.weight": r"reassemble.\1.2.weight",
    r"neck\.fusion_stage\.layers\.(\d)\.projection\.(\w+)": r"fusions.\1.project.\2",
    r"neck\.fusion_stage\.layers\.([123])\.residual_layer1\.convolution1\.(\w+)": r"fusions.\1.finer.convs.0.\2",
    r"neck\.fusion_stage\.layers\.([123])\.residual_layer1\.convolution2\.(\w+)": r"fusions.\1.finer.convs.1.\2",
    r"neck\.fusion_stage\.layers\.(\d)\.residual_layer2\.convolution1\.(\w+)": r"fusions.\1.unit.convs.0.\2",
    r"neck\.fusion_stage\.layers\.(\d)\.residual_layer2\.convolution2\.(\w+)": r"fusions.\1.unit.convs.1.\2",
    r"head\.head\.(\d)\.(\w+)": r"head.\1.\2",
}
UNUSED = r"dpt\.layernorm\.|neck\.fusion_stage\.layers\.0\.residual_layer1\.|.*attention\.attention\.(key|value)\."


def renamed(weights):
    """transformers' names in ours; key and value are one layer here, and what theirs never uses is dropped."""
    found = {}
    for name, value in weights.items():
        key = re.fullmatch(r"dpt\.encoder\.layer\.(\d+)\.attention\.attention\.key\.(\w+)", name)
        if key:
            other = weights[name.replace(".key.", ".value.")]
            found[f"blocks.{key[1]}.attention.key_value.{key[2]}"] = torch.cat([value, other])
        if re.match(UNUSED, name):
            continue
        (place,) = (re.sub(theirs, ours, name) for theirs, ours in PLACES.items() if re.fullmatch(theirs, name))
        found[place] = value
    return found


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=96, image_size=SIZE, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=NECK, fusion_hidden_size=12, layer_norm_eps=1e-6,
        initializer_range=0.2, use_auxiliary_head=False,
    )  # fmt: skip
    theirs = DPTForDepthEstimation(config).eval()
    torch.nn.init.normal_(theirs.dpt.embeddings.position_embeddings)
    ours = MonocularDepthSupervised("dpt", SIZE, 24, layers=4, heads=2, neck=NECK, fusion=12).eval()
    ours.transformer.load_state_dict(renamed(theirs.state_dict()))
    return ours, theirs


def test_the_map_before_the_last_nonlinearity_is_theirs(pair):
    ours, theirs = pair
    image = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine, expected = ours.log_depth(image), theirs(image).predicted_depth
    assert float(expected.max()) > 0
    torch.testing.assert_close(mine.relu(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(image), 10 * mine.exp())


def test_gradients_are_theirs(pair):
    ours, theirs = pair
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    one, other = image.clone().requires_grad_(), image.clone().requires_grad_()
    ours.log_depth(one).relu().sum().backward()
    theirs(other).predicted_depth.sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5 * float(other.grad.abs().max()))
