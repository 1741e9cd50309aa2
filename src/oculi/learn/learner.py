r"""The Learner: the one file that knows Lightning. It turns any System into steps, optimisers, schedules and logs.

One training step is one optimiser step of one phase; phases take turns (`Phase.steps` each). Precision, devices, DDP,
checkpoints and progress bars are Lightning's. The order of batches depends on (seed, step), and random states are part
of the checkpoint, as is the environment of what learns by acting, so a run that was killed and resumed gives the same
bits as one that was not.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import random
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from oculi.data.augment import Augment, smaller
from oculi.data.datasets import Splits, training_batches
from oculi.data.mixing import Mixing
from oculi.data.mosaic import Composing
from oculi.data.policies import policy_for
from oculi.learn.kept_weights import Best, settle_batch_norms, validation_loss
from oculi.learn.optimisation import Freezing, Training, layer_rates, optimizer_for, schedule_for, side_share
from oculi.system import System, replacing
from oculi.types import Batch, Losses


class Learner(pl.LightningModule):
    """A System under training."""

    def __init__(self, system: System, training: Training, splits: Splits):
        super().__init__()
        self.automatic_optimization = False
        self.system, self.training_options, self.splits = system, training, splits
        self.phases = system.phases()
        self.turns = [index for index, phase in enumerate(self.phases) for _ in range(phase.steps)]
        self.augment = Augment(**training.augment) if training.augment else None
        self.policy = policy_for(training.policy) if training.policy else None
        self.mixing = Mixing(**training.mix) if training.mix else None
        self.composing = Composing(**training.compose) if training.compose else None
        self.freezing = Freezing(system, training) if training.freeze else None
        self.average: AveragedModel | None = None
        if training.ema or training.swa:
            kind = get_ema_multi_avg_fn(training.ema) if training.ema else None  # none: all alike
            self.average = AveragedModel(system, multi_avg_fn=kind, use_buffers=bool(training.ema))  # batch norm's too
        self.average_from = training.steps - round(training.swa * training.steps) if training.swa else 0
        self.best = Best(training.stop)
        self.steps_done, self.log_every = 0, max(1, training.steps // 100)
        self.experience = None if splits.environment is None else Experience(self)
        self.metrics_file: Path | None = None  # step,metric,value; a resumed run goes on where it stopped

    def configure_optimizers(self) -> Any:
        options, optimizers, schedulers = self.training_options, [], []
        rates = layer_rates(self.system, options.lr_decay) if options.lr_decay != 1 else None
        for phase in self.phases:
            optimizers.append(optimizer_for(phase, options, rates))
            share = options.steps * phase.steps // len(self.turns)
            schedulers.append(schedule_for(optimizers[-1], options, share))
        return optimizers, schedulers

    def train_dataloader(self) -> Any:
        options = self.training_options
        if self.experience is not None:
            return DataLoader(self.experience, batch_size=None)
        return training_batches(
            self.splits.train, options.batch_size, options.steps, options.seed, self.steps_done, options.workers
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch if device.type == "cpu" else batch.to(device)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        options = self.training_options
        batch = self._varied(batch)
        if self.freezing is not None:
            self.freezing(self.steps_done)
        turn = self.turns[self.steps_done % len(self.turns)]
        phase = self.phases[turn]
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        optimizer = optimizers[turn] if isinstance(optimizers, list) else optimizers
        scheduler = schedulers[turn] if isinstance(schedulers, list) else schedulers
        losses = phase.loss(batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise Diverged(self.steps_done, phase.name, losses)
        optimizer.zero_grad()
        self.manual_backward(total)
        if options.clip:
            self.clip_gradients(optimizer, options.clip, "norm")
        if options.clip_value:
            self.clip_gradients(optimizer, options.clip_value, "value")
        optimizer.step()
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()
        self.system.on_step_end(phase.name, self.steps_done)
        if self.average is not None and self.steps_done >= self.average_from:
            self.average.update_parameters(self.system)
        self.steps_done += 1
        if self.steps_done % self.log_every == 0 or self.steps_done == options.steps:
            self._log(losses, total, optimizer.param_groups[-1]["lr"])
        if options.validate and self.steps_done % options.validate == 0:
            self._validate(schedulers if isinstance(schedulers, list) else [schedulers])

    def _varied(self, batch: Batch) -> Batch:
        """Composed, augmented and mixed."""
        if self.composing is not None:
            batch = self.composing(batch)
        if self.augment is not None:
            batch = self.augment(batch)
        if self.policy is not None:
            batch = self.policy(batch)
        if self.mixing is not None:
            classes = self.system.config.get("num_classes") or len(self.system.class_names or [])
            batch = self.mixing(batch, classes)
        options = self.training_options
        share = side_share(self.steps_done, options)
        if options.vary:
            share *= int(torch.randint(math.ceil(8 * options.vary), 9, ())) / 8
        return smaller(batch, share) if share < 1 else batch

    def result(self) -> System:
        """What is kept of the run as it stands: the averaged weights, where there are any."""
        averaged = self.average is not None and bool(self.average.n_averaged)
        return self.average.module if averaged else self.system  # type: ignore[return-value, union-attr]

    def keep(self) -> None:
        """The system gets the weights that are kept: the best ones, or the averages."""
        options, kept = self.training_options, self.result()
        if self.freezing is not None:
            self.freezing.end()
        if self.best.weights:
            self.system.load_state_dict(self.best.weights)
        elif kept is not self.system:
            if options.swa:
                settle_batch_norms(kept, self.splits.train, options.batch_size)
            self.system.load_state_dict(kept.state_dict())

    def _validate(self, schedulers: list[Any]) -> None:
        """Look at the validation loss: reduce the rate on a plateau, stop where it no longer falls."""
        judged = self.result()
        loss = validation_loss(judged, self.splits.validation, self.training_options.batch_size)
        self._write({"validation/loss": loss})
        for scheduler in schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(loss)
        if self.best.shows(loss, judged):
            self.trainer.should_stop = True

    def _log(self, losses: Losses, total: torch.Tensor, lr: float) -> None:
        values = {f"train/{name}": float(value.detach()) for name, value in losses.items()}
        values |= {"train/loss": float(total.detach()), "train/lr": lr}
        self._write(values)
        self.log("loss", total.detach(), prog_bar=True, logger=False)

    def _write(self, values: dict[str, float]) -> None:
        if self.metrics_file is not None:  # first, since TensorBoard's writer would wait for ever for a full disk
            with self.metrics_file.open("a", encoding="utf-8") as rows:
                rows.writelines(f"{self.steps_done},{name},{value:.6g}\n" for name, value in values.items())
        for logger in self.loggers:
            logger.log_metrics(values, self.steps_done)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["oculi"] = {"steps_done": self.steps_done, "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["oculi"]["cuda"] = torch.cuda.get_rng_state_all()
        if self.training_options.stop:
            checkpoint["oculi"]["best"] = vars(self.best)
        if self.experience is not None:
            checkpoint["oculi"]["experience"] = self.experience.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_done = checkpoint["oculi"]["steps_done"]
        self._restored = checkpoint["oculi"]
        vars(self.best).update(checkpoint["oculi"].get("best", {}))
        if self.experience is not None:
            self.experience.load_state_dict(checkpoint["oculi"]["experience"])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        restored = self.__dict__.pop("_restored", None)  # at the first batch: nothing random happens after this
        if restored is not None:
            torch.set_rng_state(restored["torch"].cpu())
            if "cuda" in restored and torch.cuda.is_available():
                torch.cuda.set_rng_state_all([state.cpu() for state in restored["cuda"]])


class Diverged(RuntimeError):
    """The loss is no longer a number."""

    def __init__(self, step: int, phase: str, losses: Losses):
        terms = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in losses.items())
        super().__init__(f"training diverged at step {step} (phase {phase}): {terms}; try a smaller lr or clip: 1.0")


class Experience(IterableDataset):
    """Batches that the system collects by acting in its environment, as many as there are steps left.

    Its state is the environment's, the generator's, and what was collected but not yet learned from.
    """

    def __init__(self, learner: Learner):
        self.learner = learner
        self.generator = torch.Generator().manual_seed(learner.training_options.seed)
        self.waiting: deque[Batch] = deque()

    def __len__(self) -> int:
        return self.learner.training_options.steps

    def __iter__(self) -> Iterator[Batch]:
        learner = self.learner
        for _ in range(learner.steps_done, learner.training_options.steps):
            if not self.waiting:
                self.waiting.extend(learner.system.collect(learner.splits.environment, self.generator))
            yield self.waiting.popleft()

    def state_dict(self) -> dict[str, Any]:
        return {
            "environment": self.learner.splits.environment.state_dict(),
            "generator": self.generator.get_state(),
            "waiting": [batch.transitions for batch in self.waiting],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.splits.environment.load_state_dict(state["environment"])
        self.generator.set_state(state["generator"].cpu())
        self.waiting = deque(Batch(transitions=transitions) for transitions in state["waiting"])


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries below us draw from the global generator
    torch.manual_seed(seed)


def fit(
    system: System,
    training: Training,
    splits: Splits,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int = 200,
    callbacks: list[Callback] | None = None,
    mlflow: str | None = None,
    devices: int = 1,
) -> Learner:
    """Train `system` in place. Logs and checkpoints go to `folder`; `resume` goes on from its last checkpoint."""
    system.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # U-Net's step: 1.4 times faster
    learner = Learner(system, training, splits)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        learner.metrics_file = folder / "metrics.csv"
    extra: list[Callback] = list(callbacks or [])
    if folder is not None and checkpoint_every:
        extra.append(
            ModelCheckpoint(folder, filename="last", every_n_train_steps=checkpoint_every, save_top_k=1,
                            monitor=None, enable_version_counter=False)
        )  # fmt: skip
    if progress:
        extra.append(_Bar(refresh_rate=max(1, training.steps // 200)))
    trainer = pl.Trainer(
        accelerator="auto",
        devices=devices,
        max_epochs=1,
        precision=training.precision,  # type: ignore[arg-type]
        logger=_loggers(folder, mlflow),
        callbacks=extra,
        enable_progress_bar=progress,
        enable_model_summary=False,
        enable_checkpointing=folder is not None and checkpoint_every > 0,
        log_every_n_steps=learner.log_every,
        use_distributed_sampler=False,
        plugins=[_WholeCheckpoints()],
        default_root_dir=folder or ".",
    )
    checkpoint = folder / "last.ckpt" if folder is not None and resume and (folder / "last.ckpt").is_file() else None
    if checkpoint is not None:
        learner.steps_done = torch.load(checkpoint, weights_only=True)["oculi"]["steps_done"]
    if learner.metrics_file is not None:
        _keep_rows(learner.metrics_file, learner.steps_done)
    with warnings.catch_warnings():
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message)
        try:
            trainer.fit(learner, ckpt_path=checkpoint, weights_only=True)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            _abandon(trainer.loggers)
            raise OSError(error.errno, f"{folder}: the run cannot be written, {error.strerror}") from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    learner.keep()
    return learner


_HARMLESS = (
    "Checkpoint directory .* exists",  # a run's folder holds its logs too, and a resumed run finds its checkpoint
    "(?s).*Using ModelCheckpoint with manual optimization",  # weights after the step are what we want to keep
    "The .*dataloader.* does not have many workers",  # samples are kept in memory; `workers` is there for those on disk
    "Your `IterableDataset` has `__len__` defined",  # one process acts
    "You're resuming from a checkpoint that ended before",  # where the batches go on is in our checkpoint
    "Starting from v1.9.0, .tensorboardX",  # we depend on tensorboardX
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.13
)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no advertisements


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class _WholeCheckpoints(TorchCheckpointIO):
    """Written beside the last one, which stays until the new one is whole. Lightning's own way through the folder of
    temporary files is a copy where that is another disk, and then a full disk would cost the last checkpoint too."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())


def _keep_rows(path: Path, steps: int) -> None:
    """The rows up to the checkpoint, whole ones; what came after it will be written again."""
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if steps and path.is_file() else []
    kept = [row for row in rows if row.endswith("\n") and int(row.partition(",")[0]) <= steps]
    with replacing(path) as temporary:
        temporary.write_text("".join(["step,metric,value\n", *kept]), encoding="utf-8")


def _abandon(loggers: list[Any]) -> None:
    """What TensorBoard's writer still holds has no place; it would try again when Python ends, and complain."""
    for logger in loggers:
        writer = getattr(getattr(logger.experiment, "file_writer", None), "event_writer", None)
        if writer is not None:
            writer._closed = True


class _Bar(TQDMProgressBar):
    """Lightning's bar under the name of what happens."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("training")


def _loggers(folder: Path | None, mlflow: str | None) -> list[Any] | bool:
    if folder is None:
        return False
    from pytorch_lightning.loggers import TensorBoardLogger

    loggers: list[Any] = [TensorBoardLogger(folder, name="", version="")]
    if mlflow:
        loggers.append(_mlflow(mlflow, folder.name))
    return loggers


def _mlflow(address: str, name: str) -> Any:
    """A run in MLflow's store, opened here, so that an address that cannot be is named before the first step."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    from mlflow.exceptions import MlflowException
    from pytorch_lightning.loggers import MLFlowLogger

    try:
        logger = MLFlowLogger(experiment_name="oculi", tracking_uri=address, run_name=name)
        logger.run_id  # noqa: B018 - opens it
    except MlflowException as error:
        raise ValueError(f"mlflow: {address} cannot be used ({' '.join(str(error).split())})") from None
    return logger
