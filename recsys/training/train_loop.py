"""What each worker of a fit runs: an epoch at a time, each with a checkpoint and a report."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import get_device

from infra.errors import RecsysError
from infra.storage import atomic_folder
from recsys.data.dataset import Dataset
from recsys.data.split import Holdout, split_dataset
from recsys.models.catalog import kind_of
from recsys.models.model import Fit, Tensors, Workers
from recsys.training.checkpoint import Checkpoint, Progress
from recsys.training.cost import Meter
from recsys.training.epochs import finished, next_epoch
from recsys.training.run import IN_PROCESS, REPORTS, START, refuse
from recsys.training.start import Start
from recsys.training.workers import current_workers


class AnotherRefused(Exception):
    """Another worker cannot train on this data, and says why."""


def train_loop(options: dict[str, Any]) -> None:
    """What is wrong with the input is wrong at every new start too, so it is told and not raised,
    which would have Ray Train start again."""
    device = get_device() if options["gpu"] else torch.device("cpu")
    first_here = options["in_process"] or ray.train.get_context().get_local_rank() == 0
    try:
        with Meter(device, counts_processors=first_here) as meter:
            _train(options, device, meter)
    except RecsysError as error:
        refuse(Path(options["run_dir"]), error.message)
    except AnotherRefused:
        return


def _train(options: dict[str, Any], device: torch.device, meter: Meter) -> None:
    run_dir, workers = Path(options["run_dir"]), current_workers()
    with unanimous(workers):
        validation, fitting, best, earlier = _begun(options, run_dir, workers, device)
    progress = earlier
    max_epochs = options["epochs"] or fitting.max_epochs
    while not finished(progress, max_epochs):
        report, model = next_epoch(
            fitting, validation, workers, progress=progress, max_epochs=max_epochs
        )
        used = torch.tensor([meter.read()], dtype=torch.float64)
        progress = progress.after(report, earlier, workers.concatenate(used))
        if progress.best_epoch == report.epoch:
            best = model.tensors()
        assert best is not None
        checkpoint = Checkpoint(fitting.state(), best, progress)
        if options["in_process"]:
            _report_in_process(checkpoint, run_dir)
        else:
            _report(checkpoint, workers.rank)
        if workers.rank == 0:
            with (run_dir / REPORTS).open("a", encoding="utf-8") as file:
                file.write(report.model_dump_json() + "\n")


def _begun(
    options: dict[str, Any], run_dir: Path, workers: Workers, device: torch.device
) -> tuple[Holdout | None, Fit, Tensors | None, Progress]:
    """What each epoch is measured on, and the fit as it was left, with the best model so far."""
    kind = kind_of(options["kind"])
    config = kind.config.model_validate(options["config"])
    dataset = Dataset.load(Path(options["dataset"]))
    if dataset.fingerprint != options["data"]:
        raise RecsysError(
            f"{dataset.path} was imported anew while it was trained on: train without --resume"
        )
    split = split_dataset(dataset, options["protocol"])
    learns_all, started = options["learn_validation"], options["start"] is not None
    learnt = split.before_test if learns_all else split.train
    validation = None if learns_all else split.validation
    if started and validation is not None:
        validation = split.new_to_a_start()
        if len(validation.users) == 0:
            raise RecsysError(
                f"no user of {dataset.path} has four events or more, and {options['start']} may "
                "have learnt the validation events of the others: train without --warm-start"
            )
    fitting = kind.fit(config, learnt, len(dataset.items), workers, device)
    best, progress = None, Progress()
    resumed = newest(run_dir) if options["in_process"] else ray.train.get_checkpoint()
    if resumed is not None:
        with resumed.as_directory() as folder:
            checkpoint = Checkpoint.load(Path(folder))
        fitting.load_state(checkpoint.state)
        best, progress = checkpoint.best, checkpoint.progress
    elif started:
        Start.load(run_dir / START, options["start"]).give(fitting, dataset.items)
    return validation, fitting, best, progress.model_copy(update={"starts": progress.starts + 1})


@contextmanager
def unanimous(workers: Workers) -> Iterator[None]:
    """A block that all workers come out of, or none: were one alone to refuse the data, the others
    would wait for it in the next sum until that timed out."""
    refusal = None
    try:
        yield
    except RecsysError as error:
        refusal = error
    refused = workers.sum(torch.tensor([float(refusal is not None)])).item()
    if refusal is not None:
        raise refusal
    if refused:
        raise AnotherRefused


def _report(checkpoint: Checkpoint, rank: int) -> None:
    """Hand the checkpoint to Ray Train, which puts it into the run's storage as a whole."""
    if rank != 0:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder))
        ray.train.report(
            _metrics(checkpoint), checkpoint=ray.train.Checkpoint.from_directory(folder)
        )


def _report_in_process(checkpoint: Checkpoint, run_dir: Path) -> None:
    """The same without workers, where Ray Train stores nothing and remembers no earlier run."""
    earlier = _checkpoints(run_dir)
    folder = run_dir / IN_PROCESS / f"{len(checkpoint.progress.history):06d}"
    with atomic_folder(folder) as unfinished:
        checkpoint.save(unfinished)
    ray.train.report(_metrics(checkpoint), checkpoint=ray.train.Checkpoint.from_directory(folder))
    for each in earlier:
        shutil.rmtree(each)


def _metrics(checkpoint: Checkpoint) -> dict[str, float]:
    report = checkpoint.progress.history[-1]
    return {"loss": report.loss} | ({} if report.ndcg is None else {"ndcg": report.ndcg})


def newest(run_dir: Path) -> ray.train.Checkpoint | None:
    """The last checkpoint of a run in one process."""
    checkpoints = _checkpoints(run_dir)
    return ray.train.Checkpoint.from_directory(checkpoints[-1]) if checkpoints else None


def _checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of runs in one process, oldest first."""
    return sorted((run_dir / IN_PROCESS).glob("[0-9]*"))
