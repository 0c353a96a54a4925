"""Pictures that searches name: read under the roots, refused elsewhere, and never fetched."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.named_pictures import MOST, NamedPictures
from services.problems import Invalid, Overloaded, Unavailable


def read(uri: str, *roots: Path) -> bytes:
    async def held() -> bytes:
        async with NamedPictures([str(root) for root in roots]).read(uri) as picture:
            return picture

    return asyncio.run(held())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    (root / "red.png").write_bytes(b"red")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return root


@pytest.mark.parametrize("uri", ["red.png", "{root}/red.png", "file://{root}/red.png"])
def test_a_picture_under_a_root_is_read(root: Path, uri: str) -> None:
    assert read(uri.format(root=root), root) == b"red"


@pytest.mark.parametrize(
    "uri",
    ["file:///etc/passwd", "/etc/passwd", "../secret.png", "file://{root}/../secret.png", "blue"],
)
def test_what_is_elsewhere_is_refused_by_its_field(root: Path, uri: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(uri.format(root=root), root)
    assert [error.field for error in refused.value.errors] == ["picture.uri"]


def test_without_a_root_nothing_is_read() -> None:
    with pytest.raises(Invalid, match="outside the folders"):
        read("/etc/hostname")


def test_nothing_is_fetched(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        host, port = server.getsockname()
        with pytest.raises(Invalid, match="nothing is fetched over http"):
            read(f"http://{host}:{port}/red.png", root)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_root_that_is_not_there_is_told_when_it_is_needed(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is no folder"):
        read("red.png", tmp_path / "nowhere")


def test_only_so_many_are_held_at_a_time(root: Path) -> None:
    async def ask() -> bytes:
        pictures = NamedPictures([str(root)])
        async with AsyncExitStack() as held:
            for _ in range(MOST):
                await held.enter_async_context(pictures.read("red.png"))
            with pytest.raises(Overloaded):
                await held.enter_async_context(pictures.read("red.png"))
        async with pictures.read("red.png") as picture:
            return picture

    assert asyncio.run(ask()) == b"red"
