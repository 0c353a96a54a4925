"""An import as a whole: in blocks, with progress, and nothing half-written when it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from recsys.data.dataset import Dataset
from recsys.data.readers import BadSource, Columns, detect, import_dataset
from recsys.data.readers.blocks import Member, blocks
from recsys.data.readers.movielens import MovieLens

LONG = """
import sys
from pathlib import Path
from recsys.data.readers import import_dataset
def tell(done, total):
    print(done, flush=True)
import_dataset(Path(sys.argv[1]), Path(sys.argv[2]), progress=tell)
"""


def test_blocks_end_with_lines_and_leave_nothing_out(tmp_path: Path) -> None:
    text = b"".join(b"%d,%s\n" % (i, b"x" * (i % 7)) for i in range(100)) + b"the end"
    (tmp_path / "f").write_bytes(text)
    parts = list(blocks(Member(tmp_path / "f"), size=50))
    assert b"".join(block for _, block in parts) == text
    assert all(block.endswith(b"\n") for _, block in parts[:-1])
    assert [line for line, _ in parts] == [
        1 + text[: text.index(block)].count(b"\n") for _, block in parts
    ]


def test_a_file_without_lines_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 1000)
    with pytest.raises(BadSource, match="line 1: it is longer than 50 bytes; is this a text"):
        list(blocks(Member(tmp_path / "f"), size=50))


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl", "c.txt", "c.zip"])
def test_progress_ends_at_the_size_of_what_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    match path.suffix:
        case ".csv":
            path.write_text("user_id,item_id\n1,2\n")
        case ".jsonl":
            path.write_text('{"user_id": 1, "item_id": 2}\n')
        case ".txt":
            path.write_text("1 2\n")
        case _:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("ml/u.data", "1\t2\t3\t4\n" * 100)
    seen: list[tuple[int, int | None]] = []
    import_dataset(path, tmp_path / "out", progress=lambda done, of: seen.append((done, of)))
    done, total = seen[-1]
    assert done == total == detect(path).size


def test_default_columns_do_not_hide_a_known_layout(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,4\n")
    assert isinstance(detect(tmp_path, Columns()), MovieLens)


def test_ratings_of_another_shape_are_not_taken_for_movielens(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user_id,item_id,value\n1,2,3\n")
    assert import_dataset(tmp_path / "ratings.csv", tmp_path / "out").events == 1


def test_a_data_set_is_not_imported_twice(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("user_id,item_id\n1,2\n")
    import_dataset(tmp_path / "c.csv", tmp_path / "out")
    with pytest.raises(BadSource, match="is a Dataset already"):
        import_dataset(tmp_path / "out", tmp_path / "again")


def test_a_number_that_is_not_in_the_catalogue_of_ml_1m_keeps_its_own_name(tmp_path: Path) -> None:
    source = tmp_path / "ml"
    source.mkdir()
    (source / "ml.txt").write_text("1 1\n1 2\n")
    (source / "sas_to_original_items.txt").write_text("1 50\n2 60\n")
    (source / "movies.dat").write_text("50::Heat (1995)::Crime\n")
    import_dataset(source, tmp_path / "out")
    titles = Dataset.load(tmp_path / "out").catalogue["title"].to_pylist()
    assert titles == ["Heat (1995)", "2"]


def test_a_number_that_is_joined_twice_in_the_folder_of_ml_1m_is_named(tmp_path: Path) -> None:
    source = tmp_path / "ml"
    source.mkdir()
    (source / "ml.txt").write_text("1 1\n1 2\n")
    (source / "sas_to_original_items.txt").write_text("1 50\n\n2 60\n1 60\n")
    (source / "movies.dat").write_text("50::Heat (1995)::Crime\n")
    with pytest.raises(BadSource, match=r"sas_to_original_items\.txt, line 4: .* '1' stands twice"):
        import_dataset(source, tmp_path / "out")


def test_an_import_that_is_killed_leaves_no_data_set(tmp_path: Path) -> None:
    source = tmp_path / "c.csv"
    source.write_text("user_id,item_id\n" + "12345,67890\n" * 12_000_000)
    process = subprocess.Popen(
        [sys.executable, "-c", LONG, str(source), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    started = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert time.monotonic() - started < 5
    assert not (tmp_path / "out").exists()
    process.stdout.close()
    source.write_text("user_id,item_id\n1,2\n")
    assert import_dataset(source, tmp_path / "out").events == 1, "what is left is in nobody's way"
