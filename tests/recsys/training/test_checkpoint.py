"""Checkpoints come back as they were, or are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.training.checkpoint import (
    BEST,
    PROGRESS,
    STATE,
    BadCheckpoint,
    Checkpoint,
    EpochReport,
    Progress,
)


@pytest.fixture
def checkpoint() -> Checkpoint:
    reports = [
        EpochReport(epoch=i, max_epochs=9, loss=1.0, ndcg=ndcg, seconds=1.0)
        for i, ndcg in enumerate([0.1, 0.3, 0.3, 0.2])
    ]
    return Checkpoint(
        state={"a": torch.arange(6).view(2, 3), "step": torch.tensor(4)},
        best={"items": np.eye(3, dtype=np.float32)},
        progress=Progress(history=reports, starts=2, core_seconds=1.5, peak_rss_mb=10),
    )


def test_a_checkpoint_comes_back_as_it_was(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path)
    loaded = Checkpoint.load(tmp_path)
    assert loaded.progress == checkpoint.progress
    assert loaded.state.keys() == checkpoint.state.keys()
    torch.testing.assert_close(loaded.state["a"], checkpoint.state["a"])
    np.testing.assert_array_equal(loaded.best["items"], checkpoint.best["items"])


@pytest.mark.parametrize("name", [STATE, BEST, PROGRESS])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(
    checkpoint: Checkpoint, tmp_path: Path, name: str, damage: str
) -> None:
    checkpoint.save(tmp_path)
    file = tmp_path / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(BadCheckpoint, match=name):
        Checkpoint.load(tmp_path)


def test_the_best_epoch_is_the_earliest_of_equals(checkpoint: Checkpoint) -> None:
    assert checkpoint.progress.best_epoch == 1
