"""Every line that is added to a followed file is told once, when it is whole."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from infra.follow import followed


def test_lines_are_told_while_the_block_lasts(tmp_path: Path) -> None:
    path, told = tmp_path / "lines", list[str]()
    with followed(path, told.append), path.open("a") as file:
        file.write("one\ntw")
        file.flush()
        end = time.monotonic() + 10
        while not told and time.monotonic() < end:
            time.sleep(0.02)
        assert told == ["one"]
        file.write("o\nthree\nhalf")
        file.flush()
    assert told == ["one", "two", "three"]


def test_what_was_there_before_is_not_told(tmp_path: Path) -> None:
    path, told = tmp_path / "lines", list[str]()
    path.write_text("old\n")
    with followed(path, told.append), path.open("a") as file:
        file.write("new\n")
    assert told == ["new"]


def test_all_that_was_added_is_told_when_the_block_fails(tmp_path: Path) -> None:
    path, told = tmp_path / "lines", list[str]()
    with pytest.raises(RuntimeError), followed(path, told.append):
        path.write_text("one\n")
        raise RuntimeError
    assert told == ["one"]
