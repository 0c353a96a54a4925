"""A study: the trials of a search, in a folder of their own that outlives the process.

journal.log    all that happened, as Optuna writes it down
lock           held by the process that runs the study
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from infra.errors import RecsysError
from infra.storage import exclusive

JOURNAL, LOCK = "journal.log", "lock"

MAX_STARTS = 3
"""How often a trial is run that the process does not outlive: it may be what ends it."""

REASON = "reason"
"""The attribute of a failed trial that says why."""

_IDENTITY, _CUT_OFF, _STOPPED = "identity", "cut off", "stopped"

Outcome = Literal["finished", "pruned", "failed"]


class BadStudy(RecsysError):
    """A folder that holds another study, or one that cannot be gone on with."""


@dataclass(frozen=True)
class Trial:
    """One fit of a study."""

    number: int
    """Counted from 1."""

    values: dict[str, Any]
    """The hyper-parameters that were searched."""

    curve: list[float]
    """NDCG@10 on the validation part after each epoch."""

    outcome: Outcome
    """Pruned: ended early, as not worth more."""

    seconds: float
    """Wall-clock seconds."""

    reason: str
    """Why it failed; empty if it did not."""

    @property
    def ndcg(self) -> float:
        """The best epoch's; 0 where none ended."""
        return max(self.curve, default=0.0)


@contextmanager
def opened(
    folder: Path, identity: dict[str, Any], pruner: optuna.pruners.BasePruner, *, resume: bool
) -> Iterator[optuna.Study]:
    """The study in the folder, new or with `resume` as it was left, for this process alone.

    identity: what it is a study of, in JSON's types. Raises BadStudy, and changes nothing, if there
    is one already that is not to be resumed, is of something else, or is being run.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / JOURNAL
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder / LOCK))
        except BlockingIOError:
            raise BadStudy(f"the study in {folder} is being run by another process") from None
        if journal.exists() and not resume:
            raise BadStudy(
                f"there is a study in {folder} already: go on with it by --resume, give this one "
                "another --name, or delete the folder"
            )
        _mend(journal)
        try:
            study = optuna.create_study(
                study_name="study",
                storage=JournalStorage(JournalFileBackend(str(journal))),
                pruner=pruner,
                direction="maximize",
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise BadStudy(
                f"{journal} cannot be read: {error}. Delete {folder} and tune without --resume"
            ) from None
        _check_same(study, identity, folder)
        _give_up_cut_off(study)
        yield study


def trials(study: optuna.Study) -> list[Trial]:
    """Those that came to an end, in order; without those that were cut off and done again."""
    cut_off = study.user_attrs.get(_CUT_OFF, [])
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    counted = [trial for trial in ended if trial.number not in cut_off]
    return [_trial(number, trial) for number, trial in enumerate(counted, 1)]


def stop(study: optuna.Study, number: int) -> None:
    """End the trial in hand for nothing that it did, as a person wishes or a bug has it: it is done
    again, however often."""
    for name in (_CUT_OFF, _STOPPED):
        study.set_user_attr(name, [*study.user_attrs.get(name, []), number])
    study.tell(number, state=TrialState.FAIL)


def _mend(journal: Path) -> None:
    """Take away what a crash left behind, which Optuna would wait for or stumble over: its lock,
    and a last line without an end."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        with journal.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _check_same(study: optuna.Study, now: dict[str, Any], folder: Path) -> None:
    before = study.user_attrs.get(_IDENTITY)
    if before is None:
        study.set_user_attr(_IDENTITY, now)
        return
    changes = [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise BadStudy(
            f"the study in {folder} cannot be resumed as another: {'; '.join(changes)}. Give it "
            "what it was started with, or another --name"
        )


def _give_up_cut_off(study: optuna.Study) -> None:
    """End the trial that an earlier process ended in. It counts, as a failure, only if that
    happened `MAX_STARTS` times in a row."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        cut_off = study.user_attrs.get(_CUT_OFF, [])
        died = set(cut_off) - set(study.user_attrs.get(_STOPPED, []))
        if not {trial.number - i for i in range(1, MAX_STARTS)} <= died:
            study.set_user_attr(_CUT_OFF, [*cut_off, trial.number])
        study.tell(trial.number, state=TrialState.FAIL)


_OUTCOMES: dict[TrialState, Outcome] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def _trial(number: int, trial: FrozenTrial) -> Trial:
    outcome = _OUTCOMES[trial.state]
    cut_off = f"the process ended {MAX_STARTS} times while it ran"
    return Trial(
        number=number,
        values=trial.params,
        curve=[trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)],
        outcome=outcome,
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        reason=trial.user_attrs.get(REASON, cut_off) if outcome == "failed" else "",
    )
