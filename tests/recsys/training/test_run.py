"""The folder of a run: nothing foreign is ever deleted, and only the same run is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.training.run import BadRun, Identity, prepare, refusal, refuse

RUN = Identity(
    kind="ials", config={"dim": 64, "seed": 0}, data="abc", protocol="temporal", in_process=True
)


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_run_begins_in_a_folder_with_nothing_of_the_last_one(tmp_path: Path) -> None:
    prepare(tmp_path, RUN, resume=False)
    (tmp_path / "in-process" / "000001").mkdir(parents=True)
    (tmp_path / "epochs.jsonl").touch()
    prepare(tmp_path, RUN, resume=False)
    assert contents(tmp_path) == {"run.json"}


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_holds_anything_else_is_refused_and_left_as_it_was(
    tmp_path: Path, resume: bool
) -> None:
    (tmp_path / "epochs.jsonl").touch()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BadRun, match=r"thesis\.tex"):
        prepare(tmp_path, RUN, resume=resume)
    assert contents(tmp_path) == {"epochs.jsonl", "thesis.tex"}


def test_a_link_in_the_folder_is_removed_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    run.mkdir()
    (run / "ray").symlink_to(elsewhere)
    prepare(run, RUN, resume=False)
    assert (elsewhere / "kept").exists()


def test_the_same_run_is_resumed_with_all_that_it_left(tmp_path: Path) -> None:
    prepare(tmp_path, RUN, resume=False)
    (tmp_path / "epochs.jsonl").touch()
    prepare(tmp_path, RUN, resume=True)
    assert contents(tmp_path) == {"run.json", "epochs.jsonl"}


def test_resuming_where_nothing_was_begun_begins(tmp_path: Path) -> None:
    prepare(tmp_path / "new", RUN, resume=True)
    assert contents(tmp_path / "new") == {"run.json"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"config": {"dim": 32, "seed": 0}}, "dim was 64 and is now 32"),
        ({"data": "xyz"}, "data was 'abc' and is now 'xyz'"),
        ({"protocol": "leave_one_out"}, "protocol was 'temporal'"),
        ({"in_process": False}, "in_process was True"),
    ],
)
def test_another_run_is_not_resumed_and_the_difference_is_told(
    tmp_path: Path, changed: dict[str, object], told: str
) -> None:
    prepare(tmp_path, RUN, resume=False)
    with pytest.raises(BadRun, match=told):
        prepare(tmp_path, RUN.model_copy(update=changed), resume=True)
    prepare(tmp_path, RUN, resume=True)


def test_a_run_that_does_not_say_what_it_was_of_is_not_resumed(tmp_path: Path) -> None:
    prepare(tmp_path, RUN, resume=False)
    (tmp_path / "run.json").write_bytes(b'{"kind": "ia')
    with pytest.raises(BadRun, match=r"run\.json"):
        prepare(tmp_path, RUN, resume=True)


def test_a_refusal_is_told_until_the_run_begins_again(tmp_path: Path) -> None:
    prepare(tmp_path, RUN, resume=False)
    refuse(tmp_path, "nothing to learn from")
    assert refusal(tmp_path) == "nothing to learn from"
    prepare(tmp_path, RUN, resume=True)
    assert refusal(tmp_path) is None
