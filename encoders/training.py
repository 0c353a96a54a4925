"""Train an image encoder with Ray Train: on the catalogue's own pictures, without labels.

Each worker runs `encoders.contrastive.Training` an epoch at a time, and the first one reports a
checkpoint. When a worker dies, Ray Train starts all anew, and they go on from the last checkpoint
that was committed. Without workers the same runs in this process, and Ray is not needed.
"""

from __future__ import annotations

import json
import logging
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from pydantic import BaseModel, ConfigDict
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ResNetModel, ViTImageProcessorPil

from encoders.checkpoint import CONFIG
from encoders.contrastive import ContrastiveConfig, Training
from encoders.picture_file import read_pictures
from encoders.resnet import load_resnet, save_resnet
from infra.errors import RecsysError
from infra.follow import followed
from infra.interrupt import interruptible
from infra.storage import atomic_folder

MAX_FAILURES = 3
"""How often the workers are started anew after one has died."""

ABOUT = "training.json"
"""What the folder of a trained encoder says of how it came about."""

_START, _RAY, _EPOCHS = "start", "ray", "epochs.jsonl"
"""In the folder of a run: the net it begins from, Ray Train's checkpoints, a line an epoch."""

_STATE, _PROGRESS = "state.safetensors", "progress.json"
"""In a checkpoint."""

_NET = "learner.net."
"""What the names of the net's tensors begin with in a training's state."""


class TrainingFailed(RecsysError):
    """The workers did not finish."""


class EpochLoss(BaseModel):
    """What one epoch came to."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    epoch: int
    """Counted from 0."""

    epochs: int
    """How many there will be."""

    loss: float
    """The mean over its steps."""


class Progress(BaseModel):
    """How far a training has come."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    losses: list[float] = []
    """Of each epoch so far, over all restarts."""

    starts: int = 0
    """How often the workers were started: more than 1 if any died."""

    core_seconds: float = 0.0
    """Processor seconds of all workers so far, without what a death made lost."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A net that was trained, and how."""

    net: ResNetModel
    config: ContrastiveConfig
    progress: Progress
    pictures: int
    wall_seconds: float

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Write the folder, whole or not at all: what `ImageEncoder.open` reads, and `ABOUT`.

        about: what the encoder was trained on, of JSON's types. Raises FileExistsError if there is
        something of that name already.
        """
        side = self.config.pixels
        told = {
            **about,
            "pictures": self.pictures,
            "config": self.config.model_dump(),
            "epochs": len(self.progress.losses),
            "loss": self.progress.losses[-1],
            "starts": self.progress.starts,
            "core_seconds": round(self.progress.core_seconds, 1),
            "wall_seconds": round(self.wall_seconds, 1),
        }
        with atomic_folder(folder) as unfinished:
            save_resnet(self.net, unfinished)
            ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(unfinished)
            (unfinished / ABOUT).write_text(json.dumps(told, indent=2), encoding="utf-8")


def train(
    config: ContrastiveConfig,
    net: ResNetModel,
    pictures: Path,
    side: int,
    *,
    run_dir: Path,
    workers: int = 0,
    cores: int = 1,
    gpu: bool = False,
    on_epoch: Callable[[EpochLoss], None] = lambda report: None,
) -> Trained:
    """Train the net on the pictures of a picture file, `side` pixels wide.

    net: what to begin from: `encoders.resnet.new_resnet`, or one that was trained before.
    run_dir: an empty folder of the run's own, which every worker reaches, as they do `pictures`.
    workers: Ray Train workers, in the Ray that this process is connected to, each with so many
    cores and with a GPU if asked; 0 trains in this process.
    on_epoch: called after each epoch, in a thread of its own where there are workers; again for an
    epoch that is done again because a worker died.

    Raises TrainingFailed if the workers fail more than MAX_FAILURES times, and RecsysError if there
    are too few pictures or the loss is no number any more.
    """
    started = time.monotonic()
    n = len(read_pictures(pictures, side))
    Training.check_enough(n, max(workers, 1))
    (run_dir / _START).mkdir()
    save_resnet(net, run_dir / _START)
    options = {
        "config": config.model_dump(),
        "pictures": str(pictures.resolve()),
        "side": side,
        "run_dir": str(run_dir.resolve()),
        "gpu": gpu,
    }
    if workers == 0:
        for training, progress in _epochs(options, None, device=_own_device(gpu)):
            state, reached = training.state(), progress
            on_epoch(_report(config, progress))
    else:
        with followed(
            run_dir / _EPOCHS, lambda line: on_epoch(EpochLoss.model_validate_json(line))
        ):
            state, reached = _run(options, run_dir, workers=workers, cores=cores, gpu=gpu)
    learnt = {
        name.removeprefix(_NET): each for name, each in state.items() if name.startswith(_NET)
    }
    net.load_state_dict(learnt)
    return Trained(net, config, reached, n, time.monotonic() - started)


def _epochs(
    options: dict[str, Any],
    checkpoint: Path | None,
    *,
    device: torch.device,
    rank: int = 0,
    workers: int = 1,
) -> Iterator[tuple[Training, Progress]]:
    """Train on this worker, from the checkpoint on: the training and its progress after each
    epoch."""
    config = ContrastiveConfig.model_validate(options["config"])
    start = Path(options["run_dir"]) / _START
    training = Training(
        config,
        load_resnet(start / CONFIG, start / "model.safetensors"),
        read_pictures(Path(options["pictures"]), options["side"]),
        device=device,
        rank=rank,
        workers=workers,
    )
    earlier = Progress()
    if checkpoint is not None:
        training.load_state(load_file(checkpoint / _STATE))
        earlier = Progress.model_validate_json((checkpoint / _PROGRESS).read_bytes())
    progress = earlier.model_copy(update={"starts": earlier.starts + 1})
    before = _core_seconds()
    while len(progress.losses) < config.epochs:
        loss = training.epoch(len(progress.losses))
        used = torch.tensor(_core_seconds() - before, dtype=torch.float64, device=device)
        if workers > 1:
            torch.distributed.all_reduce(used)
        progress = progress.model_copy(
            update={
                "losses": [*progress.losses, loss],
                "core_seconds": earlier.core_seconds + used.item(),
            }
        )
        yield training, progress


def _loop(options: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = get_device() if options["gpu"] else torch.device("cpu")
    resumed = ray.train.get_checkpoint()
    config = ContrastiveConfig.model_validate(options["config"])
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = None if resumed is None else Path(resumed.to_directory(f"{scratch}/resumed"))
        epochs = _epochs(options, checkpoint, device=device, rank=rank, workers=workers)
        for training, progress in epochs:
            if rank != 0:
                ray.train.report({})
                continue
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                save_file(training.state(), f"{folder}/{_STATE}")
                Path(folder, _PROGRESS).write_text(progress.model_dump_json(), encoding="utf-8")
                ray.train.report(
                    {"loss": progress.losses[-1]},
                    checkpoint=ray.train.Checkpoint.from_directory(folder),
                )
            with Path(options["run_dir"], _EPOCHS).open("a", encoding="utf-8") as file:
                file.write(_report(config, progress).model_dump_json() + "\n")


def _run(
    options: dict[str, Any], run_dir: Path, *, workers: int, cores: int, gpu: bool
) -> tuple[dict[str, Tensor], Progress]:
    """Run the workers to their end; returns the training's last state, and how it went."""
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    trainer = TorchTrainer(
        _loop,
        train_loop_config=options,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cores}
        ),
        run_config=ray.train.RunConfig(
            name=_RAY,
            storage_path=str(run_dir.resolve()),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        with interruptible():
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingFailed(f"training the image encoder failed: {error}") from error
    if result.checkpoint is None:
        raise TrainingFailed("training the image encoder ended before its first epoch did")
    with result.checkpoint.as_directory() as folder:
        progress = Progress.model_validate_json(Path(folder, _PROGRESS).read_bytes())
        return load_file(Path(folder, _STATE)), progress


def _report(config: ContrastiveConfig, progress: Progress) -> EpochLoss:
    return EpochLoss(epoch=len(progress.losses) - 1, epochs=config.epochs, loss=progress.losses[-1])


def _own_device(gpu: bool) -> torch.device:
    return torch.device("cuda" if gpu else "cpu")


def _core_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
