"""The training benchmark as a command: what fails stops nobody, what has finished is kept; EASE."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import PEERS
from benchmarks.runs import OtherRun
from benchmarks.train import main
from benchmarks.train_ours import EASE_RIDGES, ease
from infra.errors import RecsysError
from recsys.data.histories import Histories


@pytest.fixture
def without_implicit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state folder whose environment of `implicit` does not hold it."""
    python = tmp_path / f"state/environments/implicit-{PEERS['implicit'].version}/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (python.parents[1] / ".installed").touch()
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path / "state"))


@pytest.mark.usefixtures("without_implicit")
def test_a_contender_that_fails_is_named_and_the_others_are_kept_for_a_resumed_run(
    ring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot, kept = tmp_path / "quality.svg", tmp_path / "quality.ease.json"
    command = [str(ring), "--models", "implicit", "ease", "--plot", str(plot)]
    main(command)
    told = capsys.readouterr().out
    assert "implicit: its process died with status 1: ModuleNotFoundError" in told
    assert "bench-implicit.log" in told
    assert "EASE" in told and "λ = " in told
    assert plot.exists()
    assert sorted(each.name for each in tmp_path.glob("quality.*")) == [kept.name, plot.name]

    written = kept.stat().st_mtime_ns
    main([*command, "--resume"])
    again = capsys.readouterr().out
    assert "ease      epoch" not in again
    assert kept.stat().st_mtime_ns == written
    assert rows(again) == rows(told)

    with pytest.raises(OtherRun, match="seed was 0 and is now 1"):
        main([*command, "--seed", "1", "--resume"])
    assert kept.exists()


@pytest.mark.usefixtures("without_implicit")
def test_it_fails_if_all_contenders_do(ring: Path, tmp_path: Path) -> None:
    plot = tmp_path / "quality.svg"
    with pytest.raises(RecsysError, match="no contender finished"):
        main([str(ring), "--models", "implicit", "--plot", str(plot)])
    assert not plot.exists()


def rows(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith((" EASE", " λ", " implicit"))]


def test_ease_predicts_each_item_from_the_others_by_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    seen = (rng.random((30, 6)) < 0.4).astype(np.float32)
    histories = Histories.of([np.flatnonzero(row).tolist() for row in seen])
    fitted = next(ease(histories, 6, EASE_RIDGES))
    assert fitted.label == f"EASE, λ = {EASE_RIDGES[0]:g}"
    scores = fitted.scores(histories)
    for item in range(6):
        others = np.delete(seen, item, axis=1)
        gramian = others.T @ others + EASE_RIDGES[0] * np.eye(5)
        weights = np.linalg.solve(gramian, others.T @ seen[:, item])
        np.testing.assert_allclose(scores[:, item], others @ weights, atol=1e-4)
