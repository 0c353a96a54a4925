"""Tune: search a kind's ranges for the hyper-parameters that validate best.

Each trial fits the model with other hyper-parameters, in this process, and counts by its best
NDCG@10 on the validation part; the test part is never looked at. The first trial has the defaults,
some more are drawn at random, and from then on they are drawn by the tree-structured Parzen
estimator (Bergstra et al., NeurIPS 2011; Watanabe, arXiv 2304.11127). The median stopping rule
(Golovin et al., KDD 2017) ends a trial whose best so far is below the median of the earlier ones
at the same epoch. Both are Optuna's.

What is drawn for a trial depends on the seed and the trials before it alone. So a study that was
killed goes on as if it had not been: the trial that was cut off is drawn and run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from pydantic import ValidationError

from infra.errors import RecsysError
from recsys.data.dataset import Dataset
from recsys.data.split import Split, split_dataset
from recsys.models.catalog import kind_of
from recsys.models.model import Alone, ModelConfig
from recsys.models.ranges import Between, Range
from recsys.training.checkpoint import EpochReport, Progress
from recsys.training.epochs import finished, next_epoch
from recsys.training.study import REASON, Trial, opened, stop, trials

_PRUNER = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=4)
"""Ends no trial before five have finished, nor before its fifth epoch."""

_FAILURES = (
    RecsysError,
    ValidationError,
    MemoryError,
    torch.OutOfMemoryError,
)
"""What hyper-parameters may do to a fit: it diverges, they exclude each other, or it outgrows the
memory."""

_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""What torch says, in a mere RuntimeError, where it gets no memory beside a processor."""


class NothingFound(RecsysError):
    """All trials failed."""


@dataclass(frozen=True)
class Tuned:
    """What a search found."""

    config: ModelConfig
    """The best trial's."""

    best: Trial
    """The one of the highest validation NDCG@10, the earliest of equals."""

    trials: list[Trial]

    ranges: dict[str, Range]
    """What was searched."""

    fingerprint: str
    """The data's."""


def tune(
    config: ModelConfig,
    dataset: Path,
    *,
    folder: Path,
    n_trials: int,
    fixed: Collection[str] = (),
    protocol: str = "leave_one_out",
    epochs: int | None = None,
    timeout_s: float | None = None,
    resume: bool = False,
    on_epoch: Callable[[int, EpochReport], None] | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Tuned:
    """Search the ranges of the config's kind on the Dataset in the folder `dataset`.

    config: the first trial's; what is `fixed`, by name, and what has no range stays as it is here.
    Its seed is the search's too: the same seed chooses the same.
    folder: the study's own. n_trials: how many it shall have, with those of the run that it goes
    on from with `resume`. epochs: of a trial, at most; the kind's own by default. timeout_s: no
    trial but the first begins after so many seconds.
    on_epoch: called with the number of the trial after each epoch. on_trial: after each trial.

    A trial that its hyper-parameters make fail is recorded, and the study goes on. Any other error
    is a bug: it is raised, and the trial is done again when the study is resumed. Raises
    NothingFound if all trials fail, BadStudy if the folder's study is another one or is being run,
    and RecsysError if there is nothing to search or the data cannot be read.
    """
    ranges = {name: each for name, each in config.ranges.items() if name not in fixed}
    if not ranges:
        why = "all that could be searched is set" if fixed else "train it as it is"
        raise RecsysError(f"{config.kind} has nothing to tune: {why}")
    data = Dataset.load(dataset)
    split = split_dataset(data, protocol)
    identity = {
        "kind": config.kind,
        "data": data.fingerprint,
        "split": protocol,
        "epochs": epochs,
        **config.model_dump(mode="json"),
        **{f"the range of {name}": str(each) for name, each in ranges.items()},
    }
    distributions = {name: _distribution(each) for name, each in ranges.items()}
    began = time.monotonic()
    with opened(folder, identity, _PRUNER, resume=resume) as study:
        while len(known := trials(study)) < n_trials:
            if known and timeout_s is not None and time.monotonic() - began > timeout_s:
                break
            number = len(known) + 1
            drawn = _draw(study, number, config, distributions)
            told = None if on_epoch is None else partial(on_epoch, number)
            _run(study, drawn, _reports(config, drawn.params, data, split, epochs), told)
            if on_trial is not None:
                on_trial(trials(study)[-1])
    candidates = [trial for trial in known if trial.outcome == "finished"]
    if not candidates:
        raise NothingFound(f"all trials of {folder} failed; the last one: {known[-1].reason}")
    best = max(candidates, key=lambda trial: (trial.ndcg, -trial.number))
    return Tuned(_with(config, best.values), best, known, ranges, data.fingerprint)


def _draw(
    study: optuna.Study,
    number: int,
    config: ModelConfig,
    distributions: dict[str, BaseDistribution],
) -> optuna.Trial:
    """A new trial: the config's own values for number 1."""
    (seed,) = np.random.SeedSequence((config.seed, number)).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(seed))
    if number == 1 and not study.get_trials(states=(TrialState.WAITING,)):
        study.enqueue_trial({name: getattr(config, name) for name in distributions})
    return study.ask(distributions)


def _reports(
    config: ModelConfig, drawn: Mapping[str, Any], data: Dataset, split: Split, epochs: int | None
) -> Iterator[EpochReport]:
    """Fit with what was drawn, one epoch for every report that is asked for."""
    config = _with(config, drawn)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    alone, progress = Alone(), Progress()
    fitting = kind_of(config.kind).fit(config, split.train, len(data.items), alone, device)
    max_epochs = epochs or fitting.max_epochs
    while not finished(progress, max_epochs):
        report, _ = next_epoch(
            fitting, split.validation, alone, progress=progress, max_epochs=max_epochs
        )
        progress = progress.model_copy(update={"history": [*progress.history, report]})
        yield report


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    reports: Iterator[EpochReport],
    told: Callable[[EpochReport], None] | None,
) -> None:
    """Run the trial to its end, or to the epoch that shows it not worth more."""
    best = 0.0
    try:
        for report in reports:
            assert report.ndcg is not None  # it was given what to measure on
            trial.report(report.ndcg, report.epoch)
            best = max(best, report.ndcg)
            if told is not None:
                told(report)
            if report.epoch + 1 < report.max_epochs and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return
    except (KeyboardInterrupt, Exception) as error:
        if not _is_failure(error):
            stop(study, trial.number)
            raise
        trial.set_user_attr(REASON, _reason(error))
        study.tell(trial, state=TrialState.FAIL)
        return
    study.tell(trial, best)


def _is_failure(error: BaseException) -> bool:
    """Whether it is the hyper-parameters' doing, and no bug or a person's wish."""
    return isinstance(error, _FAILURES) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY in str(error)
    )


def _with(config: ModelConfig, values: Mapping[str, Any]) -> ModelConfig:
    return type(config).model_validate({**config.model_dump(), **values})


def _reason(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(each["msg"] for each in error.errors())
    return str(error) or type(error).__name__


def _distribution(searched: Range) -> BaseDistribution:
    if not isinstance(searched, Between):
        return CategoricalDistribution(searched.values)
    low, high = searched.low, searched.high
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=searched.log)
    return FloatDistribution(low, high, log=searched.log)
