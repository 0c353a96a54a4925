"""What the training benchmark's figures stand on: which epoch is tested, when a contender ends, and
what is kept and shown of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.contender import Epoch
from benchmarks.runs import PATIENCE, OtherRun, Run, follow, keep, kept
from benchmarks.runs_table import best_peer, table
from recsys.data.histories import Histories
from recsys.data.split import leave_one_out

N_ITEMS = 40
SPLIT = leave_one_out(Histories.of([[user, user + 10, user + 20] for user in range(10)]))
"""User u's validation item is u + 10 and the test item u + 20."""


def epochs(hits: list[int], drawn: list[int]) -> Iterator[Epoch]:
    """Epochs of a second each that find the right item for so many users, in both parts."""
    for number, right in enumerate(hits):
        drawn.append(number)
        users = np.arange(10)
        top = np.tile(np.arange(30, 40), (10, 1))
        validation, test = top.copy(), top.copy()
        validation[:right, 0] = users[:right] + 10
        test[:right, 0] = users[:right] + 20
        yield Epoch(f"ours, {right} right", "float32", number + 1.0, 100.0, validation, test)


def run(hits: list[int], *, name: str = "ours", minutes: float = 60) -> Run:
    return follow(name, epochs(hits, []), SPLIT, N_ITEMS, minutes)


def test_the_test_part_is_ranked_with_the_epoch_that_validates_best() -> None:
    found = run([1, 5, 3])
    assert found.best == 1
    assert found.label == "ours, 5 right"
    assert found.ndcg == pytest.approx([0.1, 0.5, 0.3])
    assert found.test.metrics["recall@10"].value == pytest.approx(0.5)


def test_it_ends_when_validation_has_long_not_risen() -> None:
    drawn: list[int] = []
    found = follow("ours", epochs([1, 2] + [1] * 50, drawn), SPLIT, N_ITEMS, minutes=60)
    assert len(drawn) == 2 + PATIENCE
    assert not found.cut_off


def test_it_is_cut_off_with_the_epoch_in_which_its_minutes_are_over() -> None:
    drawn: list[int] = []
    found = follow("ours", epochs(list(range(10)), drawn), SPLIT, N_ITEMS, minutes=4.5 / 60)
    assert len(drawn) == 5
    assert found.cut_off


def test_it_ends_by_itself_where_no_epoch_is_left() -> None:
    assert not run([1, 2, 3]).cut_off


def test_seconds_to_a_quality_are_those_at_which_it_was_first_reached() -> None:
    found = run([1, 5, 3, 5])
    assert found.seconds_to(0.3) == 2
    assert found.seconds_to(0.6) is None


COMMAND = {"data": "a fingerprint", "minutes": 30.0, "ridges": [1.0, 2.0]}


def test_what_is_kept_of_a_run_is_all_of_it(tmp_path: Path) -> None:
    found, file = run([1, 5, 3]), tmp_path / "plot.ours.json"
    assert kept(COMMAND, file) is None
    keep(found, COMMAND, file)
    assert kept(COMMAND, file) == found
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def test_a_run_of_another_command_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    file = tmp_path / "plot.ours.json"
    keep(run([1]), COMMAND, file)
    with pytest.raises(OtherRun, match=r"plot\.ours\.json .*minutes was 30\.0 and is now 20"):
        kept({**COMMAND, "minutes": 20.0}, file)
    with pytest.raises(OtherRun, match="dim was None and is now 64"):
        kept({**COMMAND, "dim": 64}, file)


def test_a_file_that_holds_no_run_is_named(tmp_path: Path) -> None:
    file = tmp_path / "plot.ours.json"
    file.write_text('{"command": {}}')
    with pytest.raises(OtherRun, match=r"plot\.ours\.json holds no run"):
        kept({}, file)


def printed(runs: list[Run], failed: list[str]) -> list[str]:
    """The lines of the table and its caption, without what is above and beside them."""
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as captured:
        console.print(table(runs, failed))
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    return lines[lines.index(next(line for line in lines if line.startswith("──"))) + 1 :]


def test_the_goal_is_the_best_that_a_peer_validates_with() -> None:
    ease, implicit = run([3, 2], name="ease"), run([2, 2, 2, 4, 3], name="implicit")
    sasrec = run([1, 4, 9], name="sasrec")
    assert best_peer([sasrec, ease, implicit]) == implicit
    lines = printed([ease, implicit, sasrec], [])
    to_goal = [line.split()[-2] for line in lines if line.startswith("ours ")]
    beneath = [line.split()[-1] for line in lines if "float32 ended" in line]
    assert to_goal == ["not", "4.00", "2.00"]
    assert beneath == ["reached", "1.00", "0.50"]
    assert any(line.startswith("goal: validation NDCG@10 0.4000, the best") for line in lines)


def test_without_a_peer_there_is_no_goal() -> None:
    sasrec = run([1], name="sasrec")
    assert best_peer([sasrec]) is None
    lines = printed([sasrec], ["rectools"])
    assert lines[0].split()[-2] == "-"
    assert "goal: none, because no peer finished" in lines


def test_the_table_tells_what_was_cut_off_from_what_ended_and_what_failed() -> None:
    ended, cut_off = run([1], name="ease"), run([1, 2, 3], name="sasrec", minutes=1.5 / 60)
    lines = printed([ended, cut_off], ["rectools"])
    assert lines[0].startswith("ours 1 ")  # the label, and so many epochs
    assert lines[1].startswith("1 right, float32 ended ")
    assert lines[2].startswith("ours 2 ")
    assert lines[3].startswith("2 right, float32 cut off ")
    assert lines[4] == "rectools failed - - - - - - -"


def test_both_test_metrics_come_with_their_intervals() -> None:
    found = run([5])
    values, intervals, *_ = printed([found], [])
    for name, value, interval in zip(
        ("recall@10", "ndcg@10"), values.split()[-4:-2], intervals.split()[-2:], strict=True
    ):
        estimate = found.test.metrics[name]
        ends = [float(end) for end in interval.split("-")]
        assert float(value) == pytest.approx(estimate.value, abs=5e-5)
        assert ends == pytest.approx([estimate.low, estimate.high], abs=5e-4)
