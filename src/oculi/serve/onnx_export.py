r"""ONNX export: one file that any ONNX runtime runs, refused unless it decides as torch does.

    report = export(system, "digits.onnx")
    model = OnnxModel("digits.onnx")
    model.predict(["photo.png"])              the answers of oculi.predict, without the system's code

The graph holds `forward` with its normalisation, for any batch size. Class names, the kind of answer and the input
contract travel in the file's metadata, so that pictures become the same bits as in training. The file is written under
a temporary name, run by ONNX Runtime at batch 1 and 8 on real pictures, and takes its name only if every output is
within `tolerance` of torch's and every decision is the same; otherwise ExportRefused says what differs.

    input  `image`          batch x C x H x W, float32 in [0, 1]
    output `output_0`, ...   the tensors of `forward`, in its order
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from oculi.input_contract import InputContract, Picture
from oculi.nn.classification import classification_predictions
from oculi.predictions import Embeddings, Prediction, Segmentation
from oculi.system import System, evaluating, replacing

BATCHES = (1, 8)
_DECISIONS = {"Classes": 1, "Segmentation": 1, "Actions": 1}  # the axis along which the largest number decides


class ExportRefused(ValueError):
    """The file would not answer as the system does, or cannot be written; nothing was."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how near it is: max_difference is the largest of |onnx - torch| over all outputs."""

    path: str
    max_difference: float
    decisions_equal: bool
    pictures: int
    size_bytes: int
    opset: int
    operators: list[str]


class _Forward(nn.Module):
    """`forward` alone, its answer as a tuple of tensors."""

    def __init__(self, system: System):
        super().__init__()
        self.system = system

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.system(image)))


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in _tensors(value)]
    if isinstance(output, list | tuple):
        return [tensor for value in output for tensor in _tensors(value)]
    return []


def export(
    system: System, path: str | Path, pictures: Sequence[Picture] | None = None, tolerance: float = 1e-4
) -> ExportReport:
    """Write `system` to `path` (.onnx), checked on `pictures`, or on photographs and noise where none are given.

    Raises ExportRefused, with nothing written, when the system has no forward that gives tensors, an operator does not
    translate, or the answers differ.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ExportRefused(f"path: the folder {path.parent} does not exist")
    images = system.contract.batch(_enough(pictures or sample_pictures(channels=system.contract.channels))).to(
        system.device
    )
    with evaluating(system):
        expected = _forward(system, images)
        with replacing(path) as temporary:
            program = _translate(system, images[:2], len(expected), temporary)
            _describe(system, temporary)
            difference, decided = _compare(system, images, temporary)
            if not difference <= tolerance or not decided:
                wrong = "decisions differ" if not decided else "outputs differ"
                raise ExportRefused(
                    f"{path.name}: {wrong} from torch's on {len(images)} pictures, by up to {difference:.3g}"
                    f" (tolerance {tolerance:g}); nothing was written"
                )
    operators = sorted({node.op_type for node in program.graph.node})
    opset = max(entry.version for entry in program.opset_import if entry.domain == "")
    return ExportReport(str(path), difference, decided, len(images), path.stat().st_size, opset, operators)


def sample_pictures(count: int = 8, channels: int = 3) -> list[Picture]:
    """Photographs that scikit-image ships, cut into pieces; noise where they are not installed, or have not so many
    channels."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 64, 64, channels), dtype=np.uint8)
    if channels not in (1, 3):
        return list(noise)
    try:
        from skimage import data
    except ImportError:
        return list(noise)
    generator = np.random.default_rng(0)
    photographs = [data.astronaut(), data.chelsea(), data.coffee()]
    pieces: list[Picture] = []
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        side = int(generator.integers(64, 300))
        top, left = (int(generator.integers(0, limit - side)) for limit in photograph.shape[:2])
        pieces.append(np.ascontiguousarray(photograph[top : top + side, left : left + side]))
    return pieces


def _enough(pictures: Sequence[Picture]) -> list[Picture]:
    """At least as many as the largest batch, by going round."""
    return [*pictures] + [pictures[i % len(pictures)] for i in range(max(0, max(BATCHES) - len(pictures)))]


def _forward(system: System, images: Tensor) -> list[Tensor]:
    try:
        outputs = _tensors(system(images))
    except (NotImplementedError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ExportRefused(f"{type(system).__name__}: its forward does not take pictures alone ({reason})") from None
    if not outputs:
        raise ExportRefused(f"{type(system).__name__}: its forward gives no tensors, so there is nothing to export")
    return outputs


def _translate(system: System, images: Tensor, outputs: int, path: Path) -> Any:
    """Write the graph to `path` and return it. torch's exporter prints and warns as it goes; that is kept quiet."""
    import onnx

    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Forward(system).eval(),
                (images,),
                str(path),
                input_names=["image"],
                output_names=[f"output_{index}" for index in range(outputs)],
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter has no one kind of error; its first line says which operator
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise ExportRefused(f"{type(system).__name__}: does not translate to ONNX ({reason})") from error
    finally:
        log.setLevel(level)
    return onnx.load(str(path))


def _describe(system: System, path: Path) -> None:
    """Put the contract, the kind of answer and the class names into the file's metadata."""
    import onnx

    program = onnx.load(str(path))
    described = {
        "oculi.system": f"{type(system).__module__}.{type(system).__qualname__}",
        "oculi.answer": system.answer.__name__,
        "oculi.input": json.dumps(system.contract.to_dict()),
        "oculi.class_names": json.dumps(system.class_names),
    }
    onnx.helper.set_model_props(program, described)
    onnx.save(program, str(path))


def _compare(system: System, images: Tensor, path: Path) -> tuple[float, bool]:
    """The largest difference over all outputs at each batch size, and whether all decisions are the same."""
    session = _session(path)
    axis = _DECISIONS.get(system.answer.__name__)
    worst, decided = 0.0, True
    for size in BATCHES:
        for first in range(0, len(images) - size + 1, size):
            part = images[first : first + size]
            expected = [tensor.detach().cpu() for tensor in _tensors(system(part))]
            given = [torch.from_numpy(value) for value in session.run(None, {"image": part.cpu().numpy()})]
            if [t.shape for t in expected] != [t.shape for t in given]:
                return float("inf"), False
            gaps = [(a.double() - b.double()).abs().max() for a, b in zip(expected, given, strict=True) if a.numel()]
            worst = max([worst, *(float(gap) for gap in gaps)], key=lambda gap: float("inf") if gap != gap else gap)
            if axis is not None and not torch.equal(expected[0].argmax(axis), given[0].argmax(axis)):
                decided = False
    return worst, decided


def _session(path: Path, threads: int = 0) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxModel:
    """An exported file: prepares pictures by the contract in its metadata and answers as the system does.

    Raises ValueError when the file is missing, not an ONNX file, or not one of ours.
    """

    def __init__(self, path: str | Path, threads: int = 0):
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"path: no such file {path}")
        try:
            self.session = _session(path, threads)
        except Exception as error:  # onnxruntime's errors share no base
            raise ValueError(
                f"path: {path.name} is not an ONNX file that runs ({' '.join(str(error).split())[:200]})"
            ) from None
        metadata = self.session.get_modelmeta().custom_metadata_map
        if "oculi.input" not in metadata:
            raise ValueError(f"path: {path.name} has no input contract in its metadata; it was not exported by oculi")
        self.contract = InputContract(**json.loads(metadata["oculi.input"]))
        self.class_names: list[str] | None = json.loads(metadata["oculi.class_names"])
        self.answer = metadata["oculi.answer"]

    def prepare(self, pictures: Sequence[Picture]) -> Float[Tensor, "b c h w"]:
        """The tensors that the system itself would see, bit for bit."""
        return self.contract.batch(pictures)

    def run(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The outputs of `forward` for prepared pictures."""
        return [torch.from_numpy(value) for value in self.session.run(None, {"image": images.cpu().numpy()})]

    def predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """One answer per picture. Raises ValueError for kinds of answer that need the system's own decoding."""
        outputs = self.run(self.prepare(pictures))
        if self.answer == "Classes":
            return list(classification_predictions(outputs[0], self.class_names))
        if self.answer == "Segmentation":
            shares = outputs[0].softmax(1)
            return [Segmentation(share.argmax(0), share, self.class_names) for share in shares]
        if self.answer == "Embeddings":
            return [Embeddings(vector) for vector in outputs[0]]
        raise ValueError(f"answer: {self.answer} needs the system's own decoding; use run(prepare(pictures)) instead")
