"""Fitting through Ray Train: in this process, and on real workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from numpy.typing import NDArray

from infra.errors import RecsysError
from infra.loopback import LOOPBACK
from recsys.data.dataset import EVENTS_SCHEMA, Dataset, write_dataset
from recsys.data.split import split_dataset
from recsys.models.catalog import kind_of
from recsys.models.ials import IalsConfig
from recsys.models.model import Alone
from recsys.models.popularity import PopularityConfig
from recsys.models.sasrec import SasrecConfig
from recsys.training.checkpoint import STATE, EpochReport
from recsys.training.epochs import PATIENCE
from recsys.training.fit import TrainingFailed, fit, refit
from recsys.training.room import room
from recsys.training.run import BadRun, held
from recsys.training.start import Start

SMALL = SasrecConfig(
    dim=16,
    blocks=1,
    heads=1,
    max_length=20,
    batch_events=512,
    dropout=0.0,
    learning_rate=5e-3,
    warmup_steps=0,
    max_epochs=12,
)


def test_a_fit_learns_keeps_its_best_epoch_and_tells_every_epoch(
    ring: Path, tmp_path: Path
) -> None:
    told: list[EpochReport] = []
    result = fit(SMALL, ring, run_dir=tmp_path / "run", workers=0, on_epoch=told.append)
    assert [report.epoch for report in told] == list(range(len(result.history)))
    assert told == result.history
    best = result.history[result.best_epoch]
    assert best.ndcg == max(report.ndcg for report in result.history) > 0.9
    assert result.cost["wall_s"] > 0
    assert result.cost["core_s"] > 0


def test_the_same_seed_gives_the_same_model(ring: Path, tmp_path: Path) -> None:
    first, second = (
        fit(SMALL, ring, run_dir=tmp_path / name, workers=0, gpu=False, epochs=2).model
        for name in "ab"
    )
    np.testing.assert_array_equal(first.item_vectors, second.item_vectors)


def test_it_stops_when_validation_no_longer_rises(ring: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"learning_rate": 1e-12, "max_epochs": 50})
    result = fit(config, ring, run_dir=tmp_path / "run", workers=0)
    assert len(result.history) == result.best_epoch + 1 + PATIENCE


def test_a_resumed_run_goes_on_after_its_last_epoch_as_if_never_stopped(
    ring: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit(SMALL, ring, run_dir=run, workers=0, epochs=2)
    resumed = fit(SMALL, ring, run_dir=run, workers=0, epochs=4, resume=True)
    whole = fit(SMALL, ring, run_dir=tmp_path / "whole", workers=0, epochs=4)
    assert [report.epoch for report in resumed.history] == [0, 1, 2, 3]
    assert resumed.starts == 2
    assert resumed.cost["wall_s"] > sum(report.seconds for report in resumed.history)
    losses = [[report.loss for report in result.history] for result in (resumed, whole)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_without_resume_a_run_begins_anew(ring: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(SMALL, ring, run_dir=run, workers=0, epochs=2)
    assert fit(SMALL, ring, run_dir=run, workers=0, epochs=1).starts == 1


def test_a_run_from_a_fitted_model_is_as_good_after_an_epoch_and_resumes(
    ring: Path, tmp_path: Path
) -> None:
    before = fit(SMALL, ring, run_dir=tmp_path / "before", workers=0)
    start = Start("sasrec v0001", Dataset.load(ring).items, before.model.tensors())
    run = tmp_path / "run"
    warm = fit(SMALL, ring, run_dir=run, workers=0, epochs=1, start=start)
    assert warm.history[0].ndcg > 0.9
    assert warm.history[0].loss < 0.75 * before.history[0].loss
    resumed = fit(SMALL, ring, run_dir=run, workers=0, epochs=2, start=start, resume=True)
    assert resumed.starts == 2
    with pytest.raises(BadRun, match="start was 'sasrec v0001' and is now None"):
        fit(SMALL, ring, run_dir=run, workers=0, epochs=2, resume=True)


def test_a_refit_learns_the_validation_part_for_the_epochs_that_were_best(
    ring: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    told: list[EpochReport] = []
    chosen = fit(SMALL, ring, run_dir=run, workers=0, gpu=False)
    again = refit(chosen, ring, run_dir=run, workers=0, gpu=False, on_epoch=told.append)
    split = split_dataset(Dataset.load(ring), "leave_one_out")
    by_hand = kind_of("sasrec").fit(
        SMALL, split.before_test, len(Dataset.load(ring).items), Alone(), torch.device("cpu")
    )
    for report in told:
        by_hand.run_epoch(report.epoch)
    np.testing.assert_allclose(
        again.model.item_vectors, by_hand.model().item_vectors, rtol=1e-4, atol=1e-5
    )
    assert len(told) == chosen.best_epoch + 1
    assert {report.ndcg for report in told} == {None}
    assert again.learnt_validation
    assert again.history == chosen.history
    assert again.cost["core_s"] > chosen.cost["core_s"]


def test_a_warm_start_is_not_validated_by_what_it_began_with(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    histories = [rng.permutation(200)[:n] for n in (3,) * 600 + (4,) * 100]
    before = fit(
        IalsConfig(dim=64),
        dataset_of([history[: len(history) - 1] for history in histories], tmp_path / "yesterday"),
        run_dir=tmp_path / "before",
        workers=0,
        epochs=5,
    )
    yesterday = Dataset.load(tmp_path / "yesterday")
    start = Start("ials v0001", yesterday.items, before.model.tensors())
    today = dataset_of(histories, tmp_path / "today")
    warm = fit(
        IalsConfig(dim=64), today, run_dir=tmp_path / "run", workers=0, epochs=1, start=start
    )
    assert warm.history[0].ndcg is not None
    assert warm.history[0].ndcg < 0.1, "of what is random, only the start could know anything"


def test_a_warm_start_that_nothing_can_validate_is_refused(tmp_path: Path) -> None:
    today = dataset_of([np.array([0, 1, 2]), np.array([2, 1, 0])], tmp_path / "today")
    before = fit(IalsConfig(dim=4), today, run_dir=tmp_path / "run", workers=0, epochs=1)
    start = Start("ials v0001", Dataset.load(today).items, before.model.tensors())
    with pytest.raises(RecsysError, match="train without --warm-start"):
        fit(IalsConfig(dim=4), today, run_dir=tmp_path / "run", workers=0, start=start)


def test_another_training_cannot_delete_the_folder_of_a_refit(ring: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    chosen = fit(SMALL, ring, run_dir=run, workers=0, epochs=2)
    refused: list[str] = []

    def intrude(report: EpochReport) -> None:
        with pytest.raises(BadRun, match="another run is under way") as error:
            fit(SMALL, ring, run_dir=run, workers=0)
        refused.append(str(error.value))

    refit(chosen, ring, run_dir=run, workers=0, on_epoch=intrude)
    assert len(refused) == chosen.best_epoch + 1


@pytest.mark.parametrize(
    ("gpus", "asked", "given"),
    [(0, None, False), (1, None, False), (2, None, True), (2, False, False), (2, True, True)],
)
def test_workers_take_gpus_where_there_are_as_many_unless_told(
    gpus: int, asked: bool | None, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2, "GPU": gpus})
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: LOOPBACK)
    assert room(2, asked) == given


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(ring: Path, tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match="train without --gpu"):
        fit(SMALL, ring, run_dir=tmp_path / "run", workers=0, gpu=True)


def test_a_refit_goes_on_where_it_stood_when_both_are_resumed(ring: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    chosen = fit(SMALL, ring, run_dir=run, workers=0, epochs=3)
    first = refit(chosen, ring, run_dir=run, workers=0)
    resumed = fit(SMALL, ring, run_dir=run, workers=0, epochs=3, resume=True)
    told: list[EpochReport] = []
    again = refit(resumed, ring, run_dir=run, workers=0, resume=True, on_epoch=told.append)
    assert told == []
    np.testing.assert_array_equal(again.model.item_vectors, first.model.item_vectors)


def test_a_start_of_another_shape_is_refused(ring: Path, tmp_path: Path) -> None:
    before = fit(SMALL, ring, run_dir=tmp_path / "before", workers=0, epochs=1)
    start = Start("sasrec v0001", Dataset.load(ring).items, before.model.tensors())
    config = SMALL.model_copy(update={"dim": 8})
    with pytest.raises(RecsysError, match="cannot start from sasrec v0001"):
        fit(config, ring, run_dir=tmp_path / "run", workers=0, start=start)


def test_popularity_is_fitted_the_same_way(ring: Path, tmp_path: Path) -> None:
    result = fit(PopularityConfig(), ring, run_dir=tmp_path / "run", workers=0)
    assert len(result.history) == 1


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match=r"is no Dataset"):
        fit(SMALL, tmp_path, run_dir=tmp_path / "run", workers=0)


def test_another_model_does_not_go_on_from_a_run(ring: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(SMALL, ring, run_dir=run, workers=0, epochs=1)
    with pytest.raises(RecsysError, match="dim was 16 and is now 32"):
        fit(SMALL.model_copy(update={"dim": 32}), ring, run_dir=run, workers=0, resume=True)


def test_a_run_is_not_resumed_from_a_truncated_checkpoint(ring: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(SMALL, ring, run_dir=run, workers=0, epochs=1)
    (state,) = run.rglob(STATE)
    state.write_bytes(state.read_bytes()[:-5])
    with pytest.raises(RecsysError, match=STATE):
        fit(SMALL, ring, run_dir=run, workers=0, resume=True)


def test_the_folder_of_a_run_is_never_one_with_other_things(ring: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RecsysError, match=r"thesis\.tex"):
        fit(SMALL, ring, run_dir=tmp_path, workers=0)
    assert (tmp_path / "thesis.tex").exists()


def test_data_that_nothing_can_be_learnt_from_is_refused_in_words(
    tmp_path: Path,
) -> None:
    with pytest.raises(RecsysError, match="at least two events"):
        fit(SMALL, too_short(tmp_path / "short"), run_dir=tmp_path / "run", workers=0)


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_refuse_the_data_are_not_started_again(tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match="at least two events") as refused:
        fit(SMALL, too_short(tmp_path / "short"), run_dir=tmp_path / "run", workers=1)
    assert not isinstance(refused.value, TrainingFailed)


def too_short(folder: Path) -> Path:
    """Users of three events each, of which one is left when two are held out."""
    return dataset_of(np.resize(np.arange(7), (20, 3)), folder)


def dataset_of(histories: Sequence[NDArray[np.int64]], folder: Path) -> Path:
    """A Dataset of these item numbers, one history a user."""
    lengths = [len(history) for history in histories]
    n = sum(lengths)
    events = pa.table(
        {
            "user_id": [f"u{user:04d}" for user in np.repeat(np.arange(len(lengths)), lengths)],
            "item_id": [f"i{item:04d}" for item in np.concatenate(histories)],
            "timestamp": pa.array(range(n)).cast(pa.timestamp("ms", tz="UTC")),
            "event": ["view"] * n,
            "value": pa.array([1.0] * n, pa.float32()),
        },
        schema=EVENTS_SCHEMA,
    )
    write_dataset(folder, [events], None, "made up")
    return folder


def test_a_run_under_way_is_not_trodden_on(ring: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held(run), pytest.raises(BadRun, match="another run is under way"):
        fit(PopularityConfig(), ring, run_dir=run, workers=0)
    assert fit(PopularityConfig(), ring, run_dir=run, workers=0).starts == 1


def test_a_report_that_a_kill_cut_off_does_not_stop_a_resume(ring: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(SMALL, ring, run_dir=run, workers=0, epochs=2)
    reports = run / "epochs.jsonl"
    reports.write_bytes(reports.read_bytes()[:-5])
    for epochs in (3, 4):
        resumed = fit(SMALL, ring, run_dir=run, workers=0, epochs=epochs, resume=True)
        assert len(resumed.history) == epochs


def test_a_fit_that_diverges_says_what_to_lower(ring: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(RecsysError, match=r"diverged in epoch 1.*lower learning_rate"):
        fit(config, ring, run_dir=tmp_path / "run", workers=0)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("options", "lacking"), [({}, "cores"), ({"gpu": True}, "GPUs")])
def test_more_workers_than_the_machine_has_room_for_are_refused(
    ring: Path, tmp_path: Path, options: dict[str, bool], lacking: str
) -> None:
    workers = 1 if options else 1000
    with pytest.raises(RecsysError, match=f"{workers} workers need as many {lacking}"):
        fit(PopularityConfig(), ring, run_dir=tmp_path / "run", workers=workers, **options)
