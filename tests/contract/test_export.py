"""Every system whose forward takes pictures: the ONNX file decides as torch does; the others refuse, nothing written."""

import pytest
import torch

from contract.tiny import SYSTEMS, batch_for, ready
from oculi.learn.verbs import cannot
from oculi.serve.onnx_export import ExportRefused, OnnxModel, export

EXPORTED = [r for r in SYSTEMS if "export" not in cannot(r)]
REFUSED = [r for r in SYSTEMS if "export" in cannot(r)]


@pytest.mark.unchecked  # the exporter cannot trace through type checks inside a loop
@pytest.mark.parametrize("recipe", EXPORTED, ids=lambda r: r.id)
def test_the_file_decides_as_torch_does(recipe, tmp_path):
    system = ready(recipe.id)
    report = export(system, tmp_path / "model.onnx")
    assert report.decisions_equal
    assert report.max_difference <= 1e-4
    model = OnnxModel(tmp_path / "model.onnx", threads=1)
    assert model.contract == system.contract
    for count in (1, 3):  # batches that the exporter did not see
        image = batch_for(system, count).image
        with torch.no_grad():
            expected = system(image)
        expected = expected if isinstance(expected, torch.Tensor) else next(iter(expected))
        torch.testing.assert_close(model.run(image)[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("recipe", REFUSED, ids=lambda r: r.id)
def test_the_others_refuse_and_write_nothing(recipe, tmp_path):
    with pytest.raises(ExportRefused, match=type(ready(recipe.id)).__name__):
        export(ready(recipe.id), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
