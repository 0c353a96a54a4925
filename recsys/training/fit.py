"""Fit a model with Ray Train: any kind, on any number of workers.

The loop knows no model and a model knows no loop: each worker makes the kind's `Fit`, runs it an
epoch at a time, validates, and reports a checkpoint. When NDCG@10 on the validation part has not
risen for some epochs, it stops; the best epoch's model is the result. `refit` then fits once more,
to the validation part as well, for as many epochs. When a worker dies,
Ray Train starts the workers anew and they go on from the last checkpoint that was committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from infra.errors import RecsysError
from infra.follow import followed
from infra.interrupt import interruptible
from recsys.data.dataset import read_info
from recsys.models.catalog import kind_of
from recsys.models.model import Model, ModelConfig, Tensors
from recsys.training.checkpoint import Checkpoint, EpochReport, Progress
from recsys.training.cost import of_both
from recsys.training.local_ray import connected
from recsys.training.room import cores, room
from recsys.training.run import (
    RAY,
    REFIT,
    REPORTS,
    START,
    Identity,
    held,
    prepare,
    refusal,
    seconds_spent,
)
from recsys.training.start import Start
from recsys.training.train_loop import newest, train_loop

MAX_FAILURES = 3
"""How often the workers are started anew after one has died."""


class TrainingFailed(RecsysError):
    """The workers did not finish."""


@dataclass(frozen=True)
class FitResult:
    """A fitted model, and how it came about."""

    model: Model
    data: str
    """The fingerprint of the Dataset that it was fitted to."""
    start: str | None
    """The fitted model that it began from, if any."""
    learnt_validation: bool
    """Whether it was fitted to the validation part too."""
    history: list[EpochReport]
    """Of the fit that was validated."""
    best_epoch: int
    starts: int
    """How often the workers were started: more than 1 if any died or the run was resumed."""
    cost: dict[str, float]
    """`wall_s`, `core_s` of the workers, `peak_rss_mb` of the largest one, `workers`, `gpus`, and
    where the machines tell them `processors_wh` and `gpus_wh`, their energy, and with GPUs `gpu_s`
    of all of them and `peak_gpu_mb` of the fullest one; what a resumed run had spent before is
    counted in."""


def fit(
    config: ModelConfig,
    dataset: Path,
    *,
    run_dir: Path,
    protocol: str = "leave_one_out",
    workers: int = 1,
    gpu: bool | None = None,
    epochs: int | None = None,
    resume: bool = False,
    start: Start | None = None,
    learn_validation: bool = False,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> FitResult:
    """Fit the model of `config` to the training part of the Dataset in the folder `dataset`.

    run_dir: a folder of the run's own that every worker reaches; what an earlier run left in it
    is deleted, or gone on from with `resume`.
    workers: Ray Train workers, in the Ray that this process is connected to or else in one that
    lasts as long as the fit; 0 trains in this process and needs no Ray. gpu: one each; None takes
    them where there are as many.
    start: begin from this fitted model of the same kind.
    learn_validation: fit to the validation part too. Nothing is left to choose an epoch by: all
    `epochs` are run, and the last one's model is the result.
    on_epoch: called in this process, in a thread of its own, after each epoch; again for an epoch
    that is done again because a worker died.

    Raises TrainingFailed if the workers fail more than MAX_FAILURES times, BadRun if `run_dir` is
    not this run's or one is under way in it, and RecsysError if the machine has no room for the
    workers, the fit diverges, or the data cannot be read or learnt from.
    """
    kind = kind_of(config.kind)
    data = read_info(dataset)  # the workers load it
    if data.users == 0:
        raise RecsysError(f"{dataset} has no user to learn from")
    run_dir = run_dir.resolve()
    identity = Identity(
        kind=config.kind,
        config=config.model_dump(mode="json"),
        data=data.fingerprint,
        protocol=protocol,
        start=None if start is None else start.name,
        learn_validation=learn_validation,
        in_process=workers == 0,
    )
    options = {
        **identity.model_dump(),
        "dataset": str(dataset.resolve()),
        "epochs": epochs,
        "run_dir": str(run_dir),
    }
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with held(run_dir):
        prepare(run_dir, identity, resume=resume)
        if start is not None and not (run_dir / START).exists():
            start.save(run_dir / START)
        started = time.monotonic() - seconds_spent(run_dir)
        with nullcontext() if workers == 0 else connected(), _told(run_dir / REPORTS, on_epoch):
            gpu = room(workers, gpu)
            progress, best = _run(options | {"gpu": gpu}, run_dir, workers=workers, gpu=gpu)
    return FitResult(
        model=kind.model.restore(config, best),
        data=identity.data,
        start=identity.start,
        learnt_validation=learn_validation,
        history=progress.history,
        best_epoch=progress.best_epoch,
        starts=progress.starts,
        cost={
            "wall_s": time.monotonic() - started,
            "core_s": progress.core_seconds,
            "peak_rss_mb": progress.peak_rss_mb,
            "workers": float(workers),
            **(_gpu_cost(progress, max(workers, 1)) if gpu else {"gpus": 0.0}),
            **progress.known(),
        },
    )


def refit(chosen: FitResult, dataset: Path, *, run_dir: Path, **options: Any) -> FitResult:
    """Fit the model of `chosen` once more, to all that comes before the test part, for as many
    epochs as were best on the validation part; the newest events are the most worth learning.

    run_dir and options: those of the fit that gave `chosen`, which is resumed in the same folder.
    The result's history is of the fit that chose, its cost that of both.
    """
    once_more = {"epochs": chosen.best_epoch + 1, "learn_validation": True}
    with held(run_dir):  # another run there would delete the folder of this one
        again = fit(chosen.model.config, dataset, run_dir=run_dir / REFIT, **(options | once_more))
    return replace(
        again,
        history=chosen.history,
        best_epoch=chosen.best_epoch,
        starts=chosen.starts + again.starts,
        cost=of_both(chosen.cost, again.cost),
    )


def _run(
    options: dict[str, Any], run_dir: Path, *, workers: int, gpu: bool
) -> tuple[Progress, Tensors]:
    """Run the workers to their end; returns how it went, and the best model's tensors."""
    kind = options["kind"]
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=options,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": cores(workers)},
        ),
        run_config=ray.train.RunConfig(
            name=RAY,
            storage_path=str(run_dir),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        with interruptible():
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        if reason := refusal(run_dir):
            raise RecsysError(reason) from None
        raise TrainingFailed(f"training {kind} failed: {error}") from error
    if reason := refusal(run_dir):
        raise RecsysError(reason)
    final = result.checkpoint or newest(run_dir)  # a finished run resumed reports nothing new
    if final is None:
        raise TrainingFailed(f"training {kind} ended before its first epoch did")
    with final.as_directory() as folder:
        checkpoint = Checkpoint.load(Path(folder))
    return checkpoint.progress, checkpoint.best


def _gpu_cost(progress: Progress, gpus: int) -> dict[str, float]:
    """How many GPUs, and the seconds of all of them in epochs."""
    seconds = sum(report.seconds for report in progress.history)
    return {"gpus": float(gpus), "gpu_s": seconds * gpus}


@contextmanager
def _told(reports: Path, on_epoch: Callable[[EpochReport], None] | None) -> Iterator[None]:
    """Call `on_epoch` for every report that the workers add to the file, until the block ends."""
    if on_epoch is None:
        yield
        return
    with followed(reports, lambda line: on_epoch(EpochReport.model_validate_json(line))):
        yield
