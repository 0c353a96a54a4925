"""Models of the hub: of what is in the cache, half a model is completed or refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from encoders.catalog import open_encoder
from encoders.checkpoint import MODULES, NoModel, find
from infra.loopback import LOOPBACK
from tests.encoders.models import tiny_bert

NAME = "someone/bert"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download takes: one model."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        folder: Path = self.server.folder  # type: ignore[attr-defined]
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
        path = unquote(urlsplit(self.path).path)
        named = path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
        if path.startswith(f"/api/models/{NAME}/revision/"):
            body = json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode()
        elif path.startswith(f"/api/models/{NAME}/tree/"):
            told = [
                {"type": "file", "path": each, "size": at.stat().st_size, "oid": "0" * 40}
                for each, at in files.items()
            ]
            body = json.dumps(told).encode()
        elif named in files:
            body = files[named].read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What the hub has."""
    folder = tiny_bert(tmp_path / "on-the-hub")
    (folder / "1_Pooling").mkdir()
    pooling = {"embedding_dimension": 32, "pooling_mode": "cls"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
        {"idx": 2, "name": "2", "path": "2_N", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / MODULES).write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text("{}")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on this machine, empty; the hub does not answer."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    with closing(socket.socket()) as nobody:
        nobody.bind((LOOPBACK, 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://{LOOPBACK}:{nobody.getsockname()[1]}")
    return folder


@pytest.fixture
def hub(model: Path) -> Iterator[str]:
    """One that answers; its address."""
    with ThreadingHTTPServer((LOOPBACK, 0), Hub) as server:
        server.folder = model  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_address[1]}"
        server.shutdown()


def put_in_cache(cache: Path, model: Path) -> Path:
    """As another program leaves it, that fetched file by file."""
    folder = cache / "models--someone--bert" / "snapshots" / COMMIT
    shutil.copytree(model, folder)
    refs = folder.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    return folder


def test_what_the_cache_holds_whole_is_loaded_while_the_hub_is_away(
    cache: Path, model: Path
) -> None:
    put_in_cache(cache, model)
    there = open_encoder("text", NAME, device="cpu")
    assert there.fingerprint == open_encoder("text", str(model), device="cpu").fingerprint


@pytest.mark.parametrize(
    "part", [MODULES, "1_Pooling", "model.safetensors", "config.json", "tokenizer"]
)
def test_a_part_of_a_model_is_refused_while_the_hub_is_away(
    cache: Path, model: Path, part: str
) -> None:
    folder = put_in_cache(cache, model)
    for path in list(folder.glob(f"{part}*")) + (
        list(folder.glob("vocab*")) if part == "tokenizer" else []
    ):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(NoModel, match="folder with"):
        find(NAME)


def test_a_part_of_a_models_weights_is_refused_while_the_hub_is_away(
    cache: Path, model: Path
) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    put_in_cache(cache, model)
    with pytest.raises(NoModel, match=r"lacks model-2\.safetensors"):
        find(NAME)


@pytest.mark.parametrize("index", ["tf_model.h5.index.json", "pytorch_model.bin.index.json"])
def test_shards_of_weights_that_are_not_loaded_are_not_missed(
    cache: Path, model: Path, index: str
) -> None:
    (model / index).write_text(json.dumps({"weight_map": {"a": "a-00001-of-00002"}}))
    folder = put_in_cache(cache, model)
    assert find(NAME).folder == folder


def test_shards_in_pytorchs_own_format_are_missed_where_nothing_else_is_there(
    cache: Path, model: Path
) -> None:
    (model / "model.safetensors").rename(model / "shard-1.bin")
    index = {"weight_map": {"a": "shard-1.bin", "b": "shard-2.bin"}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    put_in_cache(cache, model)
    with pytest.raises(NoModel, match=r"lacks shard-2\.bin"):
        find(NAME)


def found_by(hub: str, cache: Path) -> Path:
    """The folder in which a process finds the model that has this hub."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from encoders.checkpoint import find; print(find({NAME!r}).folder)",
        ],
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HUB_CACHE": str(cache)},
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(told.stdout.strip())


def test_a_part_of_a_model_is_completed_from_the_hub(cache: Path, model: Path, hub: str) -> None:
    folder = put_in_cache(cache, model)
    (folder / MODULES).unlink()
    assert found_by(hub, cache) == folder
    assert (folder / MODULES).read_bytes() == (model / MODULES).read_bytes()


def test_a_download_that_was_broken_off_is_no_model_while_the_hub_is_away(
    cache: Path, hub: str
) -> None:
    """Although nothing in what is there says that there is more."""
    folder = found_by(hub, cache)
    assert find(NAME).folder == folder
    (folder / MODULES).unlink()
    (folder / "config_sentence_transformers.json").unlink()
    with pytest.raises(NoModel, match="cannot be had"):
        find(NAME)


@pytest.mark.parametrize(
    "name",
    [
        "a model",
        "../models",
        "./bert",
        "someone/../bert",
        "someone/bert@../../main",
        "x" * 500,
        "someone/" + "x" * 100,
        "a\0b",
        "a--b/c",
        "~/no-such-folder",
        "https://huggingface.co/someone/bert",
        "",
    ],
)
def test_what_is_no_name_is_told_with_what_to_give(cache: Path, name: str) -> None:
    with pytest.raises(NoModel, match="give the path of a folder with a model, or a name") as told:
        find(name)
    assert len(told.value.message) < 500


def test_a_folder_may_be_named_from_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tiny_bert(tmp_path / "bert")
    assert find("~/bert").folder == folder
