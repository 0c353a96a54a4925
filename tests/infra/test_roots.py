"""Content is read from under the roots, and nothing else is touched."""

from __future__ import annotations

import base64
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.loopback import LOOPBACK
from infra.roots import BadRoot, Roots, Unreached, Unreadable

POSTER = b"a poster"
LIMIT = 1_000


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A root with a poster, beside a file that is not under it."""
    folder = tmp_path / "films"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "1 a.png").write_bytes(POSTER)
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


@pytest.fixture
def roots(films: Path) -> Roots:
    return Roots([films])


def test_a_relative_path_starts_in_the_first_root(films: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x").write_bytes(b"more")
    roots = Roots([films, tmp_path / "more"])
    assert roots.read("pictures/1 a.png", LIMIT) == POSTER
    with pytest.raises(Unreadable, match="No such file"):
        roots.read("x", LIMIT)


def test_an_absolute_path_may_lie_under_any_root(films: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    roots = Roots([tmp_path / "more", films])
    assert roots.read(str(films / "pictures" / "1 a.png"), LIMIT) == POSTER


def test_a_file_uri_is_percent_encoded(films: Path, roots: Roots) -> None:
    assert roots.read((films / "pictures" / "1 a.png").as_uri(), LIMIT) == POSTER


def test_dots_that_stay_under_the_root_are_followed(roots: Roots) -> None:
    assert roots.read("pictures/../pictures/./1 a.png", LIMIT) == POSTER


def test_a_link_to_under_the_root_is_followed(films: Path, roots: Roots) -> None:
    (films / "link").symlink_to("pictures/1 a.png")
    assert roots.read("link", LIMIT) == POSTER


@pytest.mark.parametrize(
    "uri",
    [
        "../secret",
        "pictures/../../secret",
        "{}/secret",
        "file://{}/secret",
        "file://{}/films/%2e%2e/secret",
    ],
)
def test_what_lies_beside_the_root_is_refused(tmp_path: Path, roots: Roots, uri: str) -> None:
    with pytest.raises(Unreadable, match="outside"):
        roots.read(uri.format(tmp_path), LIMIT)


def test_a_folder_whose_name_begins_as_the_roots_is_outside(tmp_path: Path, roots: Roots) -> None:
    (tmp_path / "films-of-others").mkdir()
    (tmp_path / "films-of-others" / "x").write_bytes(b"x")
    with pytest.raises(Unreadable, match="outside"):
        roots.read(str(tmp_path / "films-of-others" / "x"), LIMIT)


def test_a_link_that_leads_out_is_refused(films: Path, tmp_path: Path, roots: Roots) -> None:
    (films / "link").symlink_to(tmp_path / "secret")
    (films / "folder").symlink_to(tmp_path)
    for uri in ("link", "folder/secret"):
        with pytest.raises(Unreadable, match="outside"):
            roots.read(uri, LIMIT)


def test_links_in_a_circle_are_refused(films: Path, roots: Roots) -> None:
    (films / "a").symlink_to("b")
    (films / "b").symlink_to("a")
    with pytest.raises(Unreadable):
        roots.read("a", LIMIT)


def test_a_file_outside_is_not_told_from_one_that_is_not_there(roots: Roots) -> None:
    said = []
    for uri in ("file:///etc/passwd", "file:///etc/no-such-file"):
        with pytest.raises(Unreadable) as refusal:
            roots.read(uri, LIMIT)
        said.append(refusal.value.message.removeprefix(repr(uri)))
    assert said[0] == said[1]
    assert "outside" in said[0]


@contextmanager
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server((LOOPBACK, 0))) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize(
    "uri",
    [
        "http://{}/x.png",
        "https://{}/x.png",
        "HTTP://{}/x.png",
        "ftp://{}/x.png",
        "http:{}/x.png",
        "file://{}/x.png",
        "gopher://{}/x",
        "hdfs://{}/x",
        "s3://bucket/x.png?endpoint_override={}&scheme=http",
    ],
)
def test_an_address_in_a_uri_is_refused_and_never_connected_to(roots: Roots, uri: str) -> None:
    with listener() as server:
        with pytest.raises(Unreadable):
            roots.read(uri.format(f"{LOOPBACK}:{server.getsockname()[1]}"), LIMIT)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_metadata_service_of_a_cloud_is_refused(roots: Roots) -> None:
    with pytest.raises(Unreadable, match="nothing is fetched over http:"):
        roots.read("http://169.254.169.254/latest/meta-data/", LIMIT)


def test_what_is_no_regular_file_is_refused_without_waiting(films: Path) -> None:
    os.mkfifo(films / "pipe")
    roots = Roots([films, "/dev"])
    for uri, why in (("pipe", "regular"), ("/dev/zero", "regular"), ("pictures", "directory")):
        with pytest.raises(Unreadable, match=why):
            roots.read(uri, LIMIT)


@pytest.mark.parametrize("uri", ["", "no-such-file", "pictures/1 a.png/x", "a\0b", "x" * 5_000])
def test_what_is_not_there_is_told(roots: Roots, uri: str) -> None:
    with pytest.raises(Unreadable) as refusal:
        roots.read(uri, LIMIT)
    assert len(refusal.value.message) < 400


def test_a_file_past_the_limit_is_refused(roots: Roots) -> None:
    assert roots.read("pictures/1 a.png", len(POSTER)) == POSTER
    with pytest.raises(Unreadable, match="more than 7 bytes"):
        roots.read("pictures/1 a.png", len(POSTER) - 1)


def test_a_data_uri_holds_its_content(roots: Roots) -> None:
    payload = base64.b64encode(POSTER).decode()
    for uri in (f"data:image/png;base64,{payload}", f"DATA:;base64,{payload.replace('=', '%3D')}"):
        assert roots.read(uri, len(POSTER)) == POSTER
        with pytest.raises(Unreadable, match="more than 7 bytes"):
            roots.read(uri, len(POSTER) - 1)


@pytest.mark.parametrize("uri", ["data:,plain", "data:image/png;base64", "data:;base64,a*b="])
def test_a_data_uri_that_is_not_base64_is_refused(roots: Roots, uri: str) -> None:
    with pytest.raises(Unreadable, match="base64"):
        roots.read(uri, LIMIT)


def test_without_a_root_only_data_is_read(films: Path) -> None:
    roots = Roots([])
    assert roots.read("data:;base64,YQ==", LIMIT) == b"a"
    for uri in ("pictures/1 a.png", str(films / "pictures" / "1 a.png")):
        with pytest.raises(Unreadable):
            roots.read(uri, LIMIT)


@pytest.mark.parametrize("root", ["no-such-folder", "http://example.com/films", "hdfs://films"])
def test_what_cannot_be_a_root_is_refused(root: str) -> None:
    with pytest.raises(BadRoot):
        Roots([root])


def test_what_a_disk_does_not_give_is_told_from_what_is_not_there() -> None:
    with pytest.raises(Unreached, match="'mem' cannot be read for now: Input/output error"):
        Roots(["/proc/self"]).read("mem", LIMIT)


def test_what_cannot_be_opened_for_want_of_file_descriptors_may_be_later(roots: Roots) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(socket.socket()) as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
        try:
            with pytest.raises(Unreached, match="Too many open files"):
                roots.read("pictures/1 a.png", LIMIT)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert roots.read("pictures/1 a.png", LIMIT) == POSTER


def test_a_root_that_is_gone_is_not_the_files_fault(films: Path, roots: Roots) -> None:
    films.rename(films.with_name("unmounted"))
    with pytest.raises(Unreached, match="root"):
        roots.read("pictures/1 a.png", LIMIT)


@pytest.mark.parametrize(
    "root",
    [
        "s3://key:pass%2Fword@bucket/films?nonsense=1",
        "s3://key:pass/word@bucket/films",
        "s3://key:pass?word@bucket/films",
        "s3://key:pass#word@bucket/films",
        "s3://key:pass word@bucket/films",
        "S3://key:password@bucket/films",
        "gs://key:password@bucket/films",
        "https://key:password@example.com/films",
        "file://key:password@example.com/films",
    ],
)
def test_a_root_is_refused_without_a_word_of_its_credentials(root: str) -> None:
    with pytest.raises(BadRoot) as refusal:
        Roots([root])
    assert "word" not in refusal.value.message
    assert "key" not in refusal.value.message


@pytest.mark.parametrize("credentials", ["key:password", "key:pass/word", "key:pa@ss/wo@rd/word"])
def test_the_credentials_of_a_uri_are_not_repeated(roots: Roots, credentials: str) -> None:
    with pytest.raises(Unreadable) as refusal:
        roots.read(f"s3://{credentials}@bucket/films/1.png", LIMIT)
    assert "word" not in refusal.value.message
    assert "bucket/films/1.png" in refusal.value.message


class Bucket(BaseHTTPRequestHandler):
    """As much of S3's protocol as reading takes: one object, `bucket/films/1.png`."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        there = self.path == "/bucket/films/1.png"
        refused: int = self.server.refuses.get(self.path, 404)  # type: ignore[attr-defined]
        self.send_response((206 if with_body else 200) if there else refused)
        self.send_header("Content-Length", str(len(POSTER) if there else 0))
        self.end_headers()
        if there and with_body:
            self.wfile.write(POSTER)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def store() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer((LOOPBACK, 0), Bucket) as server:
        server.asked = []  # type: ignore[attr-defined]
        server.refuses = {}  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def in_store(server: ThreadingHTTPServer) -> str:
    endpoint = f"{LOOPBACK}:{server.server_address[1]}"
    return f"s3://key:password@bucket/films?scheme=http&endpoint_override={endpoint}"


def test_an_object_under_a_stores_root_is_read(store: ThreadingHTTPServer, films: Path) -> None:
    assert Roots([films, in_store(store)]).read("s3://bucket/films/1.png", LIMIT) == POSTER
    roots = Roots([in_store(store)])
    assert roots.read("1.png", LIMIT) == POSTER
    with pytest.raises(Unreadable, match="more than 7 bytes"):
        roots.read("1.png", 7)
    with pytest.raises(Unreadable, match="cannot be read"):
        roots.read("2.png", LIMIT)


def test_what_a_store_denies_is_refused(store: ThreadingHTTPServer) -> None:
    store.refuses = {"/bucket/films/2.png": 403}  # type: ignore[attr-defined]
    with pytest.raises(Unreadable):
        Roots([in_store(store)]).read("2.png", LIMIT)


def test_a_store_that_does_not_answer_is_not_the_objects_fault() -> None:
    with closing(socket.socket()) as nobody:  # bound, so that nobody else listens there
        nobody.bind((LOOPBACK, 0))
        endpoint = f"{LOOPBACK}:{nobody.getsockname()[1]}"
        root = f"s3://key:password@bucket/films?scheme=http&endpoint_override={endpoint}"
        with pytest.raises(Unreached, match=r"'1\.png' cannot be read for now"):
            Roots([root]).read("1.png", LIMIT)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/other/1.png",
        "s3://bucket/films-of-others/1.png",
        "s3://other/films/1.png",
        "s3://bucket/films/../other/1.png",
        "s3://bucket/films//1.png",
        "gs://bucket/films/1.png",
        "../1.png",
    ],
)
def test_an_object_outside_the_stores_root_is_refused_unasked(
    store: ThreadingHTTPServer, uri: str
) -> None:
    with pytest.raises(Unreadable, match="outside"):
        Roots([in_store(store)]).read(uri, LIMIT)
    assert store.asked == []  # type: ignore[attr-defined]
