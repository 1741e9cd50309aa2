r"""The dataset protocol, splits, preparation by an input contract, and batches whose order a seed and a step fix.

A data set has `__len__` and `__getitem__ -> Sample`, nothing else; a list of samples is one. Random access makes
workers, resume and slices trivial: the batch of step k depends on (seed, k) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler

from oculi.input_contract import InputContract
from oculi.types import Batch, Sample


@runtime_checkable
class Dataset(Protocol):
    """Random access to samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass
class Splits:
    """Training, validation and test data with the names of the classes; or an environment to act in."""

    train: Dataset
    validation: Dataset
    test: Dataset
    class_names: list[str] | None = None
    environment: Any = None

    def prepared(self, contract: InputContract) -> Splits:
        """The same splits as the network sees them."""
        return replace(
            self,
            train=Prepared(self.train, contract),
            validation=Prepared(self.validation, contract),
            test=Prepared(self.test, contract),
        )


def consecutive(make: Callable[[int, int], Dataset], train: int, validation: int, test: int) -> Splits:
    """Splits of generated samples that follow each other: `make(length, start)` gives those from number `start` on."""
    return Splits(make(train, 0), make(validation, train), make(test, train + validation))


class Prepared:
    """A data set seen through an input contract: pictures, boxes, masks and maps resized together, kept in memory."""

    def __init__(self, dataset: Dataset, contract: InputContract, keep_bytes: int = 2 << 30):
        self.dataset, self.contract, self.keep_bytes = dataset, contract, keep_bytes
        self.kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if index in self.kept:
            return self.kept[index]
        sample = fit_sample(self.dataset[index], self.contract)
        if self.keep_bytes > 0:
            self.kept[index] = sample
            self.keep_bytes -= sum(v.nbytes for v in vars(sample).values() if isinstance(v, Tensor))
        return sample


def fit_sample(sample: Sample, contract: InputContract) -> Sample:
    """One sample as the contract wants it. Geometry (camera, depth, flow) is only passed on when the size stays."""
    if sample.image is None:
        return sample
    height, width = sample.image.shape[-2:]
    changed: dict[str, Any] = {"image": contract.prepare(sample.image)}
    for name in ("next_image", "right_image"):
        if getattr(sample, name) is not None:
            changed[name] = contract.prepare(getattr(sample, name))
    if (height, width) == (contract.height, contract.width):
        return replace(sample, **changed)
    for name in ("camera", "depth", "next_camera", "next_depth", "flow", "disparity", "normals", "video"):
        if getattr(sample, name) is not None:
            raise ValueError(f"{name}: cannot be resized from {height}x{width} to {contract.height}x{contract.width}")
    if sample.boxes is not None:
        boxes = contract.boxes_to_input(sample.boxes, height, width)
        limits = boxes.new_tensor([contract.width, contract.height] * 2)
        changed["boxes"] = torch.minimum(boxes.clamp_min(0), limits)
    if sample.keypoints is not None:
        scale_x, scale_y, shift_x, shift_y = contract.scale(height, width)
        factor, shift = (sample.keypoints.new_tensor(v) for v in ((scale_x, scale_y, 1), (shift_x, shift_y, 0)))
        changed["keypoints"] = sample.keypoints * factor + shift
    for name, fill in (("masks", 0), ("semantic", 255), ("panoptic", 0)):
        value = getattr(sample, name)
        if value is not None:
            changed[name] = _fit_map(value, contract, fill)
    return replace(sample, **changed)


def _fit_map(value: Tensor, contract: InputContract, fill: int) -> Tensor:
    """Nearest-neighbour resize of masks or label maps by the same rule as the picture."""
    maps = value[None] if value.ndim == 2 else value
    scale_x, scale_y, shift_x, shift_y = contract.scale(maps.shape[1], maps.shape[2])
    inner = (round(maps.shape[1] * scale_y), round(maps.shape[2] * scale_x))
    resized = F.interpolate(maps[None].float(), size=inner, mode="nearest-exact")[0].to(value.dtype)
    if contract.resize == "letterbox":
        resized = F.pad(resized, (0, contract.width - inner[1], 0, contract.height - inner[0]), value=fill)
    top, left = round(-shift_y), round(-shift_x)
    resized = resized[:, top : top + contract.height, left : left + contract.width]
    return resized[0] if value.ndim == 2 else resized


class StepSampler(Sampler[list[int]]):
    """Indices of the batches of steps `start` to `steps`, in an order that only `seed` decides; epochs follow on.

    The last incomplete batch of an epoch is dropped unless the data set is smaller than a batch.
    """

    def __init__(self, length: int, batch_size: int, steps: int, seed: int, start: int = 0):
        if length < 1:
            raise ValueError("dataset: expected at least one sample to train on, got none")
        self.length, self.batch_size = length, min(batch_size, length)
        self.steps, self.seed, self.start = steps, seed, start
        self.per_epoch = length // self.batch_size

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for step in range(self.start, self.steps):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = torch.randperm(
                    self.length, generator=torch.Generator().manual_seed(self.seed * 100_003 + epoch)
                )
            first = (step % self.per_epoch) * self.batch_size
            yield order[first : first + self.batch_size].tolist()


def training_batches(
    dataset: Dataset, batch_size: int, steps: int, seed: int, start: int = 0, workers: int = 0
) -> DataLoader:
    """Shuffled batches for the steps `start` to `steps`."""
    sampler = StepSampler(len(dataset), batch_size, steps, seed, start)
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=Batch.of,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def batches(dataset: Dataset, batch_size: int = 64, drop_last: bool = False) -> Iterator[Batch]:
    """All samples in order, the last batch being smaller (or dropped)."""
    for first in range(0, len(dataset), batch_size):
        chosen = [dataset[i] for i in range(first, min(first + batch_size, len(dataset)))]
        if len(chosen) == batch_size or not drop_last:
            yield Batch.of(chosen)


def channel_statistics(dataset: Dataset, most: int = 2000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel over at most `most` evenly spaced images of the training data."""
    stride = max(1, len(dataset) // most)
    total, square, count = torch.zeros(()), torch.zeros(()), 0
    for index in range(0, len(dataset), stride):
        image = dataset[index].image
        if image is None:
            raise ValueError("dataset: its samples have no image, so there are no channel statistics")
        pixels = image.flatten(1).double()
        total, square, count = total + pixels.sum(1), square + (pixels**2).sum(1), count + pixels.shape[1]
    mean = total / count
    return mean.float(), (square / count - mean**2).clamp_min(0).sqrt().float()
