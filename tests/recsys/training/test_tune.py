"""Tuning: it keeps to the ranges and to the validation part, and outlives what happens to it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from infra.errors import RecsysError
from recsys.data.dataset import Dataset, write_dataset
from recsys.data.split import split_dataset
from recsys.evaluation.protocol import validate
from recsys.models.catalog import KINDS, kind_of
from recsys.models.ials import IalsConfig, IalsFit
from recsys.models.model import Alone
from recsys.models.popularity import PopularityConfig
from recsys.models.ranges import Between
from recsys.models.sasrec import SasrecConfig
from recsys.training.checkpoint import EpochReport
from recsys.training.study import JOURNAL, MAX_STARTS, BadStudy
from recsys.training.tune import NothingFound, Tuned, tune

SMALL = IalsConfig(dim=8)
EPOCHS = 7


def search(data: Path, folder: Path, **changed: Any) -> Tuned:
    options: dict[str, Any] = {"config": SMALL, "n_trials": 3, "fixed": {"dim"}, "epochs": EPOCHS}
    options |= changed
    return tune(options.pop("config"), data, folder=folder, **options)


def found(tuned: Tuned) -> list[tuple[dict[str, Any], list[float], str]]:
    """All that does not depend on the clock."""
    return [(trial.values, trial.curve, trial.outcome) for trial in tuned.trials]


@pytest.fixture(scope="module")
def tuned(ring: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Enough trials for the estimator to draw some of them, and for the pruner to end some."""
    return search(ring, tmp_path_factory.mktemp("study"), n_trials=16)


def test_the_first_trial_has_the_defaults_and_the_best_one_is_chosen(tuned: Tuned) -> None:
    assert [trial.number for trial in tuned.trials] == list(range(1, 17))
    assert tuned.trials[0].values.items() <= SMALL.model_dump().items()
    assert tuned.best.ndcg == max(trial.ndcg for trial in tuned.trials)
    assert tuned.config == SMALL.model_copy(update=tuned.best.values)


def test_every_value_is_within_its_range_and_what_is_fixed_stays(tuned: Tuned) -> None:
    assert tuned.ranges.keys() == IalsConfig.ranges.keys() - {"dim"}
    for trial in tuned.trials:
        assert trial.values.keys() == tuned.ranges.keys()
        for name, searched in tuned.ranges.items():
            assert isinstance(searched, Between)
            assert searched.low <= trial.values[name] <= searched.high
    assert tuned.config.model_dump()["dim"] == 8


def test_a_trial_behind_the_others_is_ended_early(tuned: Tuned) -> None:
    pruned = [trial for trial in tuned.trials if trial.outcome == "pruned"]
    assert pruned
    assert all(5 <= len(trial.curve) < EPOCHS for trial in pruned)


def test_the_same_seed_chooses_the_same_and_another_tries_other_values(
    ring: Path, tmp_path: Path, tuned: Tuned
) -> None:
    assert found(search(ring, tmp_path / "same", n_trials=16)) == found(tuned)
    other = search(ring, tmp_path / "other", config=SMALL.model_copy(update={"seed": 1}))
    assert other.trials[1].values != tuned.trials[1].values


def test_a_trial_is_measured_by_what_validation_gives(ring: Path, tuned: Tuned) -> None:
    data = Dataset.load(ring)
    split = split_dataset(data, "leave_one_out")
    cpu = torch.device("cpu")
    fit = kind_of("ials").fit(tuned.config, split.train, len(data.items), Alone(), cpu)
    curve = []
    for epoch in range(EPOCHS):
        fit.run_epoch(epoch)
        curve.append(validate(fit.model(), split.validation)["ndcg@10"])
    assert curve == pytest.approx(tuned.best.curve)


def test_what_the_test_part_holds_changes_nothing(ring: Path, tmp_path: Path) -> None:
    events = pq.read_table(ring / "events.parquet")
    items = np.array(events["item_id"].to_pylist())
    last = events["timestamp"].to_numpy() == events["timestamp"].to_numpy().max()
    items[last] = np.random.default_rng(0).permutation(items[last])
    moved = events.set_column(1, events.schema.field("item_id"), pa.array(items))
    write_dataset(tmp_path / "moved", [moved], pq.read_table(ring / "items.parquet"), "moved")
    before, after = (Dataset.load(folder) for folder in (ring, tmp_path / "moved"))
    assert before.fingerprint != after.fingerprint
    tests = [split_dataset(data, "leave_one_out").test.targets for data in (before, after)]
    assert (tests[0].items != tests[1].items).mean() > 0.9

    tuned = [search(data, tmp_path / data.name) for data in (ring, tmp_path / "moved")]
    assert found(tuned[0]) == found(tuned[1])


KILLED = """
import os, signal, sys
from pathlib import Path
from recsys.models.ials import IalsConfig
from recsys.training.tune import tune

def kill(number, report):
    if (number, report.epoch) == (3, 1):
        os.kill(os.getpid(), signal.SIGKILL)

tune(IalsConfig(dim=8), Path(sys.argv[1]), folder=Path(sys.argv[2]), n_trials=5, fixed={"dim"},
     epochs=7, on_epoch=kill)
"""


def test_a_killed_study_goes_on_as_if_it_had_not_been(ring: Path, tmp_path: Path) -> None:
    study = tmp_path / "killed"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(ring), str(study)], check=False, timeout=120
    )
    assert process.returncode == -signal.SIGKILL
    done: list[int] = []
    resumed = search(
        ring, study, n_trials=5, resume=True, on_trial=lambda trial: done.append(trial.number)
    )
    assert done == [3, 4, 5]
    assert found(resumed) == found(search(ring, tmp_path / "undisturbed", n_trials=5))


def test_a_trial_that_the_process_never_outlives_counts_as_failed(
    ring: Path, tmp_path: Path
) -> None:
    def end(number: int, report: EpochReport) -> None:
        if number == 2:
            raise SystemExit

    for _ in range(MAX_STARTS):
        with pytest.raises(SystemExit):
            search(ring, tmp_path, resume=True, on_epoch=end)
    tuned = search(ring, tmp_path, resume=True)
    assert [trial.outcome for trial in tuned.trials] == ["finished", "failed", "finished"]
    assert f"ended {MAX_STARTS} times" in tuned.trials[1].reason


def test_a_trial_that_a_person_stops_is_done_again_however_often(
    ring: Path, tmp_path: Path
) -> None:
    def interrupt(number: int, report: EpochReport) -> None:
        if number == 2:
            raise KeyboardInterrupt

    for _ in range(MAX_STARTS + 1):
        with pytest.raises(KeyboardInterrupt):
            search(ring, tmp_path, resume=True, on_epoch=interrupt)
    tuned = search(ring, tmp_path, resume=True)
    assert [trial.outcome for trial in tuned.trials] == ["finished"] * 3


def all_but_the_first(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Let every trial but the first, which has the defaults, do something in its second epoch."""

    class Fit(IalsFit):
        def run_epoch(self, epoch: int) -> dict[str, float]:
            if epoch == 1 and self._config != SMALL:
                do()
            return super().run_epoch(epoch)

    monkeypatch.setitem(KINDS, "ials", replace(KINDS["ials"], fit=Fit))


def raising(error: Exception) -> Callable[[], object]:
    def do() -> None:
        raise error

    return do


@pytest.mark.parametrize(
    "error",
    [ValueError("shapes do not match"), RuntimeError("no kernel"), TypeError(), OSError("disk")],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_is_raised_and_the_study_goes_on_once_it_is_mended(
    ring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        all_but_the_first(patch, raising(error))
        for _ in range(MAX_STARTS + 1):
            with pytest.raises(type(error)) as raised:
                search(ring, tmp_path / "study", resume=True)
            assert raised.value is error
            assert "run_epoch" in {each.name for each in raised.traceback}
    resumed = search(ring, tmp_path / "study", resume=True)
    assert found(resumed) == found(search(ring, tmp_path / "undisturbed"))


OUT_OF_MEMORY: dict[str, Callable[[], object]] = {
    "numpy": lambda: np.empty(2**55),
    "torch": lambda: torch.empty(2**55),
    "a GPU": raising(torch.OutOfMemoryError("CUDA out of memory")),
}


@pytest.mark.parametrize("library", OUT_OF_MEMORY)
def test_a_trial_that_outgrows_the_memory_fails_and_the_study_goes_on(
    ring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    all_but_the_first(monkeypatch, OUT_OF_MEMORY[library])
    tuned = search(ring, tmp_path)
    assert [trial.outcome for trial in tuned.trials] == ["finished", "failed", "failed"]
    assert re.search("allocate|out of memory", tuned.trials[1].reason)


def test_a_trial_whose_model_is_too_near_to_singular_to_answer_fails(
    ring: Path, tmp_path: Path
) -> None:
    events = pq.read_table(ring / "events.parquet")
    items = [f"i{row % 32}" for row in range(len(events))]  # 16 a user: there are two histories
    two_kinds = events.set_column(1, events.schema.field("item_id"), pa.array(items))
    write_dataset(tmp_path / "data", [two_kinds], None, "users of two kinds")
    config = IalsConfig(dim=8, unobserved_weight=1e-30, regularization=1e-12)
    fixed = IalsConfig.ranges.keys() - {"recency"}
    with pytest.raises(NothingFound, match=r"linalg\.cholesky"):
        search(tmp_path / "data", tmp_path / "study", config=config, fixed=fixed, n_trials=2)


def test_what_a_crash_leaves_in_the_folder_is_in_nobodys_way(ring: Path, tmp_path: Path) -> None:
    before = search(ring, tmp_path, n_trials=2)
    (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"op_code": 6, "tri')
    after = search(ring, tmp_path, n_trials=3, resume=True)
    assert found(after)[:2] == found(before)


def test_a_study_with_all_its_trials_is_told_again_and_not_searched_further(
    ring: Path, tmp_path: Path
) -> None:
    before = search(ring, tmp_path)
    again = search(ring, tmp_path, resume=True, on_trial=lambda _: pytest.fail("a new trial"))
    assert found(again) == found(before)


def test_no_trial_begins_after_the_time_is_over(ring: Path, tmp_path: Path) -> None:
    assert len(search(ring, tmp_path, n_trials=100, timeout_s=0.0).trials) == 1


def test_a_trial_that_cannot_be_fitted_is_recorded_and_the_study_goes_on(
    ring: Path, tmp_path: Path
) -> None:
    config = SasrecConfig(dim=6, blocks=1, max_length=8, batch_events=512)
    fixed = SasrecConfig.ranges.keys() - {"heads"}
    tuned = search(ring, tmp_path, config=config, fixed=fixed, n_trials=8, epochs=1)
    failed = [trial for trial in tuned.trials if trial.outcome == "failed"]
    assert 0 < len(failed) < len(tuned.trials) == 8
    assert all(trial.values == {"heads": 4} for trial in failed)
    assert "dim (6) must be a multiple of heads (4)" in failed[0].reason


def test_a_study_of_which_all_trials_fail_says_why(ring: Path, tmp_path: Path) -> None:
    config = SasrecConfig(dim=8, learning_rate=1e30, warmup_steps=0, max_length=8)
    fixed = SasrecConfig.ranges.keys() - {"dropout"}
    with pytest.raises(
        NothingFound, match=r"all trials of .* failed; the last one: the fit diverged"
    ):
        search(ring, tmp_path, config=config, fixed=fixed, n_trials=2, epochs=3)


def test_a_study_is_not_begun_over_and_not_gone_on_with_as_another(
    ring: Path, tmp_path: Path
) -> None:
    before = search(ring, tmp_path)
    with pytest.raises(BadStudy, match="--resume"):
        search(ring, tmp_path)
    for changed, told in (
        ({"epochs": 2}, "epochs was 7 and is now 2"),
        ({"config": IalsConfig(dim=16)}, "dim was 8 and is now 16"),
        ({"fixed": {"dim", "recency"}}, "the range of recency was '0 to 2' and is now None"),
        ({"protocol": "temporal"}, "split was 'leave_one_out'"),
    ):
        with pytest.raises(BadStudy, match=told):
            search(ring, tmp_path, resume=True, **changed)
    assert found(search(ring, tmp_path, resume=True)) == found(before)


def test_one_process_at_a_time_runs_a_study(ring: Path, tmp_path: Path) -> None:
    def run_it_too(number: int, report: EpochReport) -> None:
        with pytest.raises(BadStudy, match="by another process"):
            search(ring, tmp_path, resume=True)

    search(ring, tmp_path, n_trials=1, on_epoch=run_it_too)


def test_a_journal_that_is_none_is_named(ring: Path, tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("this is no journal\n")
    with pytest.raises(BadStudy, match=r"journal\.log cannot be read"):
        search(ring, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("config", "fixed", "told"),
    [
        (PopularityConfig(), set(), "popularity has nothing to tune: train it as it is"),
        (IalsConfig(), set(IalsConfig.ranges), "all that could be searched is set"),
    ],
)
def test_where_there_is_nothing_to_search_it_is_said(
    ring: Path, tmp_path: Path, config: Any, fixed: set[str], told: str
) -> None:
    with pytest.raises(RecsysError, match=told):
        search(ring, tmp_path, config=config, fixed=fixed)
