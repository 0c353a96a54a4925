"""Search by picture: a catalogue embedded by the command line, served, and asked over HTTP."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import SecretStr

from infra.loopback import free_port
from infra.settings import Settings
from recsys.data.dataset import EVENTS_SCHEMA, ITEMS_SCHEMA, write_dataset
from recsys.registry import Registry
from services.serving import serving
from tests.encoders.models import tiny_bert, tiny_resnet

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 230)}
EACH = 4
LETTERS = "abcd"


def picture(colour: str, seed: int) -> bytes:
    """Noise about a colour."""
    noise = np.random.default_rng(seed).integers(-20, 21, (48, 32, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_catalogue(folder: Path) -> None:
    """Films whose pictures are of three colours; the last has none."""
    ids = [(colour, n) for colour in COLOURS for n in range(EACH)]
    items = pa.Table.from_pylist(
        [
            {
                "item_id": f"{colour}-{n}",
                "title": f"The {colour} film {LETTERS[n]}",
                "text": f"all of it is {colour}",
                "image": f"pictures/{colour}-{n}.png",
                "tags": [colour],
                "attributes": "{}",
                "available": True,
            }
            for colour, n in ids
        ]
        + [
            {
                "item_id": "blind",
                "title": "A film without a picture",
                "text": "red",
                "image": None,
                "tags": [],
                "attributes": "{}",
                "available": True,
            }
        ],
        schema=ITEMS_SCHEMA,
    )
    write_dataset(folder, [EVENTS_SCHEMA.empty_table()], items, "colours")
    (folder / "pictures").mkdir()
    for row, (colour, n) in enumerate(ids):
        (folder / "pictures" / f"{colour}-{n}.png").write_bytes(picture(colour, row))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "films"
    write_catalogue(folder)
    return folder


@pytest.fixture(scope="module")
def http(
    ray_cluster: None,
    registry: Registry,
    redis_url: str,
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    models = tmp_path_factory.mktemp("encoders")
    settings = Settings(
        state_dir=tmp_path_factory.mktemp("state"),
        namespace="pictures",
        http_port=free_port(),
        deadline_ms=20_000,
        image_roots=(SecretStr(str(data / "pictures")),),
        embedding_workers=0,
    )
    shutil.copytree(registry.root, settings.models_dir)
    resnet, bert = tiny_resnet(models / "resnet"), tiny_bert(models / "bert")
    given = {
        "RECSYS_STATE_DIR": str(settings.state_dir),
        "RECSYS_REDIS_URL": redis_url,
        "RECSYS_NAMESPACE": settings.namespace,
    }
    command = [sys.executable, "-m", "services.cli.main", "embed", "--data", str(data)]
    subprocess.run(
        [*command, "--text-model", str(bert), "--image-model", str(resnet)],
        env={**os.environ, **given},
        check=True,
        timeout=120,
    )
    with serving(settings, redis_url) as running, httpx.Client(base_url=running.url) as client:
        client.timeout = httpx.Timeout(30)
        yield client


def searched(http: httpx.Client, **body: Any) -> dict[str, Any]:
    reply = http.post("/v1/search", json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def ids(reply: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in reply["items"]]


def test_pictures_are_found_by_the_bytes_of_one_like_them(http: httpx.Client) -> None:
    new = base64.b64encode(picture("green", 1000)).decode()
    reply = searched(http, picture={"base64": new}, k=EACH)
    assert {item_id.split("-")[0] for item_id in ids(reply)} == {"green"}
    assert set(reply["versions"]) == {"image"}


@pytest.mark.parametrize("uri", ["blue-1.png", "{folder}/blue-1.png", "file://{folder}/blue-1.png"])
def test_pictures_are_found_by_where_one_lies(http: httpx.Client, data: Path, uri: str) -> None:
    uri = uri.format(folder=data / "pictures")
    reply = searched(http, picture={"uri": uri}, k=EACH)
    assert ids(reply)[0] == "blue-1"
    assert reply["items"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert {item_id.split("-")[0] for item_id in ids(reply)} == {"blue"}


def test_words_and_a_picture_are_fused_by_the_ranks_in_both_spaces(http: httpx.Client) -> None:
    words, uri = f"The red film {LETTERS[2]}. red. all of it is red", "red-2.png"
    reply = searched(http, text=words, picture={"uri": uri}, k=3 * EACH + 1)
    assert set(reply["versions"]) == {"text", "image"}
    first = reply["items"][0]
    assert first["item_id"] == "red-2"
    assert {name: rank["rank"] for name, rank in first["spaces"].items()} == {"text": 1, "image": 1}
    [blind] = [item for item in reply["items"] if item["item_id"] == "blind"]
    assert set(blind["spaces"]) == {"text"}
    for item in reply["items"]:
        fused = sum(1 / (60 + rank["rank"]) for rank in item["spaces"].values())
        assert item["score"] == pytest.approx(fused, rel=1e-4)
    by_text_alone = searched(http, text=words, picture={"uri": uri}, spaces={"text": 1})
    assert set(by_text_alone["versions"]) == {"text"}


def test_what_looks_similar_is_found_in_the_space_of_pictures(http: httpx.Client) -> None:
    reply = http.get("/v1/items/green-0/similar", params={"space": "image", "k": EACH - 1})
    assert sorted(ids(reply.json())) == [f"green-{n}" for n in range(1, EACH)]
    without = http.get("/v1/items/blind/similar", params={"space": "image"})
    assert without.status_code == 404
    assert "blind" in without.json()["detail"]


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "../items.parquet",
        "http://169.254.169.254/",
        "http://169.254.169.254/latest/meta-data/",
        "s3://bucket/poster.png",
        "nowhere.png",
    ],
)
def test_a_picture_outside_the_roots_is_refused_by_its_field(http: httpx.Client, uri: str) -> None:
    reply = http.post("/v1/search", json={"picture": {"uri": uri}})
    assert reply.status_code == 422
    assert [error["field"] for error in reply.json()["errors"]] == ["picture.uri"]
    assert reply.elapsed.total_seconds() < 2, "nothing was waited for"


@pytest.mark.parametrize(
    "given",
    [{}, {"base64": "AAAA", "uri": "red-0.png"}, {"base64": base64.b64encode(b"GIF89a").decode()}],
)
def test_a_picture_that_is_none_is_refused_by_its_field(
    http: httpx.Client, given: dict[str, str]
) -> None:
    reply = http.post("/v1/search", json={"picture": given})
    assert reply.status_code == 422
    assert [error["field"] for error in reply.json()["errors"]] == ["picture"]
