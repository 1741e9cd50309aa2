r"""The contract: a System is an nn.Module that knows its loss and its answer. Everything else in oculi works on that.

    class Mine(System):
        answer = Classes
        def __init__(self, num_classes: int = 10, image_size: int = 64):
            super().__init__(InputContract(image_size, image_size))
            ...
        def loss(self, batch: Batch) -> Losses: ...               # named scalars; their sum is minimised
        def predict(self, batch: Batch) -> list[Prediction]: ...  # one answer per image, eval mode, no gradient

What learns without gradients has `fit` in place of `loss`; what needs no learning has `predict` alone. Systems are
final: lineage is composition. Constructor arguments are plain JSON values; `config` keeps them, so that `config.json`
and `model.safetensors` rebuild the system bit for bit.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oculi.geometry.camera import Camera
from oculi.input_contract import BadImage, InputContract, Picture
from oculi.predictions import Images, Prediction
from oculi.types import Batch, Losses, images_only


@dataclass
class Phase:
    """Parameters optimised together against one loss, `steps` times in a row before the next phase has its turn."""

    name: str
    parameters: list[nn.Parameter]
    loss: Callable[[Batch], Losses]
    steps: int = 1


class System(nn.Module):
    """Base of every system: configuration, input contract, normalisation buffers, the two duties and the hooks."""

    answer: ClassVar[type[Prediction]]
    config: dict[str, Any]
    pixel_mean: Tensor
    pixel_std: Tensor

    def __new__(cls, *args: Any, **kwargs: Any) -> System:
        self = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        bound.apply_defaults()
        # nn.Module.__init__ has not run yet, so its __setattr__ would refuse
        object.__setattr__(self, "config", {key: _plain(v) for key, v in list(bound.arguments.items())[1:]})
        return self

    def __init__(self, contract: InputContract):
        super().__init__()
        self.contract = contract
        self.class_names: list[str] | None = None
        self.register_buffer("pixel_mean", torch.zeros(contract.channels, 1, 1))
        self.register_buffer("pixel_std", torch.ones(contract.channels, 1, 1))

    # the two duties -------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        """Named scalar tensors whose sum is minimised."""
        raise NotImplementedError(f"{type(self).__name__} does not learn by gradient")

    def predict(self, batch: Batch) -> Sequence[Prediction]:
        """One answer per image. Called in eval mode without gradient by `oculi.predict`."""
        raise NotImplementedError(f"{type(self).__name__} does not answer about images")

    # the hooks, each doing nothing by default ------------------------------------------------------------------------

    def fit(self, batches: Iterable[Batch]) -> None:
        """Learn without gradients, in place of `loss` or after it (prototypes, memory banks)."""

    def adopt(self, source: System) -> None:
        """Start from another system's weights: all of them, or of a network like its own `trunk` all but the last layer.

        From a system like itself that knows another number of classes, layers that depend on it are not taken. The
        trunk's pictures come normalised, so that it does not take over the network's statistics of pixels.
        """
        trunk: Any = getattr(self, "trunk", None)
        target, others = (trunk, ("head.", "pixel_")) if type(trunk) is type(source) else (self, ())
        fitting: System = target
        classes = source.config.get("num_classes")
        if type(source) is type(self) and classes != self.config.get("num_classes"):
            fitting = type(self)(**{**self.config, "num_classes": classes})  # says which layers depend on it
        wanted, given = (
            {k: v for k, v in system.state_dict().items() if not k.startswith(others)} for system in (fitting, source)
        )
        if {k: v.shape for k, v in wanted.items()} != {k: v.shape for k, v in given.items()}:
            differing = sorted(set(wanted) ^ set(given)) or [k for k in wanted if wanted[k].shape != given[k].shape]
            raise ValueError(f"source: its weights do not fit, first at {differing[0]}")
        own = target.state_dict()
        target.load_state_dict({k: v for k, v in given.items() if v.shape == own[k].shape}, strict=False)

    def phases(self) -> list[Phase]:
        """Groups optimised in turn; one group with `loss` unless the system says otherwise (GANs, DARTS)."""
        return [Phase("all", [p for p in self.parameters() if p.requires_grad], self.loss)]

    def on_step_end(self, phase: str, step: int) -> None:
        """After every optimiser step: EMA teachers, queues, weight clipping."""

    def collect(self, environment: Any, generator: torch.Generator) -> Iterator[Batch]:
        """Make training batches from experience (reinforcement learning); one call is one iteration."""
        raise NotImplementedError(f"{type(self).__name__} learns from data, not from an environment")

    def sample(self, n: int, generator: torch.Generator | None = None) -> Images:
        """`n` new images."""
        raise NotImplementedError(f"{type(self).__name__} does not generate images")

    def render(self, cameras: Camera) -> Images:
        """One image per camera."""
        raise NotImplementedError(f"{type(self).__name__} does not render cameras")

    # shared words ----------------------------------------------------------------------------------------------------

    @classmethod
    def can(cls, name: str) -> bool:
        """Whether the class defines `loss`, `predict`, `fit`, `sample`, `render` or `collect` itself."""
        return getattr(cls, name) is not getattr(System, name)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> System:  # beartype knows no Self in a method
        """As torch's; weights that are evaluated on a CPU lie channels last, as `normalize` hands on their pictures."""
        if not mode and self.device.type == "cpu":  # ResNet-50 at 224 x 224: 85 ms in place of 104
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return super().train(mode)

    def normalize(self, image: Float[Tensor, "*batch channels height width"]) -> Tensor:
        """(x - mean) / std with the training data's statistics, saved with the weights."""
        normal = (image - self.pixel_mean).div_(self.pixel_std)  # in place: half the memory traffic of a large batch
        if normal.ndim != 4 or self.training or not normal.is_cpu:
            return normal
        return normal.contiguous(memory_format=torch.channels_last)  # a quarter less time at 800 x 1066 on a CPU

    def set_statistics(self, mean: Float[Tensor, " channels"], std: Float[Tensor, " channels"]) -> None:
        """Store the training images' mean and standard deviation per channel."""
        self.pixel_mean.copy_(mean.reshape(-1, 1, 1))
        self.pixel_std.copy_(std.clamp_min(1e-6).reshape(-1, 1, 1))


@contextmanager
def evaluating(system: nn.Module) -> Iterator[None]:
    """Eval mode without gradient; afterwards each module has its own mode again (frozen layers rest while others learn)."""
    modes = [(module, module.training) for module in system.modules()]
    if any(mode for _, mode in modes):  # a server's system is in eval mode already
        system.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(system: System, pictures: Picture | Sequence[Picture] | Batch) -> list[Prediction]:
    """Answers for pictures (paths, bytes, PIL images, arrays, tensors) or for a ready batch, one per image."""
    if not isinstance(pictures, Batch):
        several = list(pictures) if isinstance(pictures, list | tuple) else [cast(Picture, pictures)]
        pictures = images_only(system.contract.batch(several))
    elif pictures.image is not None and not bool(torch.isfinite(pictures.image).all()):
        raise BadImage("batch.image: it holds NaN or infinity")
    with evaluating(system):
        return list(system.predict(pictures.to(system.device)))


# saving and loading --------------------------------------------------------------------------------------------------

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class BadCheckpoint(ValueError):
    """The folder does not hold a system that this version can rebuild."""


def save(system: System, folder: str | Path) -> Path:
    """Write `config.json` and `model.safetensors`, each under a temporary name first, so none is ever half-written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "system": f"{type(system).__module__}.{type(system).__qualname__}",
        "arguments": system.config,
        "input": system.contract.to_dict(),
        "class_names": system.class_names,
    }
    tensors = {name: value.detach().contiguous() for name, value in system.state_dict().items()}
    with replacing(folder / WEIGHTS) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{folder}: the weights cannot be written ({error})") from None
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return folder


def load(folder: str | Path, system: type[System] | None = None) -> System:
    """Rebuild a saved system, in eval mode. Only oculi's own classes are imported by name; pass `system` for yours.

    Raises BadCheckpoint when files are missing or broken, or the weights do not fit.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        name, arguments = described["system"], described["arguments"]
        contract = InputContract(**described["input"])
    except FileNotFoundError as error:
        raise BadCheckpoint(f"{folder}: {Path(error.filename or WEIGHTS).name} is missing") from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BadCheckpoint(f"{folder}: not a saved system ({type(error).__name__}: {error})") from None
    built = (system or _own_class(name, folder))(**arguments)
    built.contract = contract
    built.class_names = described.get("class_names")
    try:
        built.load_state_dict(tensors)
    except RuntimeError as error:
        raise BadCheckpoint(f"{folder}: the weights do not fit {name}: {' '.join(str(error).split())}") from None
    return built.eval()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if the block succeeds and vanishes if it fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say for what
    finally:
        temporary.unlink(missing_ok=True)


def _own_class(name: str, folder: Path) -> type[System]:
    module, _, qualname = name.rpartition(".")
    if not module.startswith("oculi."):
        raise BadCheckpoint(f"{folder}: {name} is not part of oculi; pass its class as load(folder, system=...)")
    try:
        found = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError):
        raise BadCheckpoint(f"{folder}: this version of oculi has no {name}") from None
    if not (isinstance(found, type) and issubclass(found, System)):
        raise BadCheckpoint(f"{folder}: {name} is not a System")
    return found


def _plain(value: Any) -> Any:
    """Lists for tuples, so that a configuration equals itself after a trip through JSON."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
