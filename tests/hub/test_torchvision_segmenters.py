"""torchvision's segmenters: files that it writes load, with equal answers; names, classes and sizes are its own."""

import pytest
import torch

import oculi
from hub.checkpoints import assert_equal_outputs, lively
from oculi.hub import torchvision_segmenters as tables
from oculi.hub.renames import fill
from oculi.system import BadCheckpoint
from oracles import torchvision


def made(name: str, **options):
    models = torchvision().models.segmentation
    return getattr(models, name)(weights=None, weights_backbone=None, **{"aux_loss": True, **options})


class Out(torch.nn.Module):
    """Only what counts of the answer."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image)["out"]


@pytest.mark.parametrize("name", list(tables.NETWORKS))
def test_every_network_fits(name):
    layout = tables.NETWORKS[name]
    with torch.device("meta"):
        auxiliary = {"auxiliary": True} if name.startswith("fcn") else {}
        fill(layout.system(**layout.arguments, **auxiliary), made(name).state_dict(), layout.rules, "test")


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_a_written_file_gives_equal_answers(name, tmp_path):
    theirs = lively(made(name, num_classes=21))
    torch.save(theirs.state_dict(), tmp_path / f"{name}.pth")
    ours = oculi.load(tmp_path / f"{name}.pth")
    assert_equal_outputs(ours, Out(theirs))
    assert (ours.contract.height, ours.contract.resize) == (520, "letterbox")
    assert ours.class_names[15] == "person"


def test_an_fcn_without_the_second_head(tmp_path):
    theirs = lively(made("fcn_resnet50", num_classes=3, aux_loss=False))
    torch.save(theirs.state_dict(), tmp_path / "fcn_resnet50-mine.pth")
    ours = oculi.load(tmp_path / "fcn_resnet50-mine.pth")
    assert ours.auxiliary is None
    assert ours.class_names is None
    assert_equal_outputs(ours, Out(theirs))


def test_published_names_sizes_and_classes_are_torchvision_s_own():
    models = torchvision().models
    for short, file in tables.FILES.items():
        (weights,) = models.get_model_weights(f"{short}")
        pictures = weights.transforms()
        assert file.name == weights.url.rpartition("/")[2]
        assert pictures.resize_size == [tables.SIZE]
        assert (pictures.mean, pictures.std) == (tables.MEAN, tables.STD)
        assert weights.meta["categories"] == tables.CLASSES


def test_a_file_without_its_head_is_named(tmp_path):
    torch.save({"backbone.conv1.weight": torch.zeros(1)}, tmp_path / "fcn_resnet50.pth")
    with pytest.raises(BadCheckpoint, match=r"classifier\.4\.bias is missing"):
        oculi.load(tmp_path / "fcn_resnet50.pth")
    (tmp_path / "fcn_resnet5.pth").write_bytes(b"")
    with pytest.raises(BadCheckpoint, match="expected one of fcn_resnet50"):
        oculi.load(tmp_path / "fcn_resnet5.pth")
