"""Files and folders are there whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.storage import atomic_file, atomic_folder, sha256

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from infra.storage import atomic_file, atomic_folder
path = Path(sys.argv[2])
if sys.argv[1] == "file":
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
with atomic_folder(path) as folder:
    (folder / "part").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path, "w") as file:
        file.write("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path, "w") as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "x").write_text("x")
        assert not (tmp_path / "b").exists()
    assert (tmp_path / "b" / "deep" / "x").read_text() == "x"
    assert names(tmp_path) == ["b"]


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "b"):
        pytest.fail("the block must not be entered")


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "b") as folder:
        (folder / "mine").touch()
        (tmp_path / "b").mkdir()
    assert names(tmp_path) == ["b"]
    assert names(tmp_path / "b") == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_writer_killed_halfway_leaves_nothing_under_the_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c"
    result = subprocess.run([sys.executable, "-c", KILLED_WRITER, kind, str(path)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert not path.exists()
    assert all(name.startswith(".unfinished-") for name in names(tmp_path))


def test_the_checksum_is_that_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
