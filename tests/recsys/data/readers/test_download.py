"""MovieLens fetched from a site that publishes checksums: here a server of our own."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.errors import RecsysError
from recsys.data.readers import import_dataset
from recsys.data.readers.download import DownloadFailed, download_movielens


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The folder that the site serves: a zip as ml-100k.zip is, and its checksum."""
    folder = tmp_path / "site"
    folder.mkdir()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ml-100k/u.data", "1\t10\t4\t881250949\n2\t10\t3\t881250950\n")
    (folder / "ml-100k.zip").write_bytes(file.getvalue())
    digest = hashlib.md5(file.getvalue()).hexdigest()
    (folder / "ml-100k.zip.md5").write_text(f"MD5 (ml-100k.zip) = {digest}\n")
    return folder


@pytest.fixture
def site(published: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(published)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_fetched_edition_is_ready_to_import(tmp_path: Path, site: str) -> None:
    seen: list[tuple[int, int | None]] = []
    path = download_movielens(
        "ml-100k", tmp_path, site=site, progress=lambda done, total: seen.append((done, total))
    )
    assert path == tmp_path / "ml-100k.zip"
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    assert import_dataset(path, tmp_path / "films").events == 2


def test_what_differs_from_the_published_checksum_is_not_kept(
    tmp_path: Path, published: Path, site: str
) -> None:
    (published / "ml-100k.zip.md5").write_text(f"{'0' * 32}  ml-100k.zip\n")
    with pytest.raises(DownloadFailed, match=r"but 0{32} is published"):
        download_movielens("ml-100k", tmp_path / "out.zip", site=site)
    assert {path.name for path in tmp_path.iterdir()} == {"site"}


def test_an_edition_without_a_checksum_is_fetched_all_the_same(
    tmp_path: Path, published: Path, site: str
) -> None:
    (published / "ml-100k.zip.md5").unlink()
    assert download_movielens("ml-100k", tmp_path / "out.zip", site=site).exists()


def test_an_edition_that_the_site_does_not_hold_is_said_so(tmp_path: Path, site: str) -> None:
    with pytest.raises(DownloadFailed, match=r"/ml-1m\.zip: the site answers 404"):
        download_movielens("ml-1m", tmp_path / "out.zip", site=site)
    assert not (tmp_path / "out.zip").exists()


def test_without_a_network_one_is_told_how_to_go_on(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        closed = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(DownloadFailed, match=r"cannot be fetched.*recsys data import ml-1m\.zip"):
        download_movielens("ml-1m", tmp_path / "out.zip", site=closed)


def test_an_unknown_edition_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match="there are ml-latest-small, ml-100k"):
        download_movielens("netflix", tmp_path / "out.zip")


def test_a_file_that_exists_is_left_alone(tmp_path: Path, site: str) -> None:
    (tmp_path / "out.zip").write_text("precious")
    with pytest.raises(RecsysError, match="exists already"):
        download_movielens("ml-100k", tmp_path / "out.zip", site=site)
    assert (tmp_path / "out.zip").read_text() == "precious"
