"""How many recommendations and searches a second are served, and how long each takes.

    recsys bench serving [--seconds 10] [--connections 1 8 32]

Fits a small iALS (600 items) on made-up data, embeds its titles by MiniLM, and serves both on this
machine, through HAProxy and then through Ray Serve's proxy in Python. A process of its own asks in
a closed loop: each connection sends its next request when the last is answered. Over the queue, as
many requests are always waiting as there are connections over HTTP.

`by words` is a search whose four words are encoded first, `like an item` one that needs no encoder.
`alive` answers at once from the API's replica: what is left of the time is transport. Clients and
service share the machine's cores, so that both would be faster apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from recsys.data.dataset import Dataset

MAX_REQUESTS = 200_000
"""Of one measurement, beside its time."""

WARM_UP_S = 2.0
"""Before each measurement, asked and not counted."""

PATHS = {
    "alive": b"/healthz",
    "by history": b"/v1/recommend",
    "by user": b"/v1/recommend",
    "by words": b"/v1/search",
    "like an item": b"/v1/search",
}
WHOLE = {
    b"/healthz": b"alive",
    b"/v1/recommend": b'"fallback":null',
    b"/v1/search": b'"rank":10,',
}
"""What an answer holds that is no lesser one."""

WAYS = (*PATHS, "queue")
WORDS = (b"lonely", b"rider", b"desert", b"town", b"space", b"ship", b"war", b"hero", b"love")
N_USERS, N_ITEMS = 2_000, 600
REDIS_URL = "RECSYS_REDIS_URL"

Ask = Callable[[int], Awaitable[None]]
"""Asks once and waits for the answer; raises if it is not one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    console = Console()
    console.print(f"$ recsys bench serving {' '.join(sys.argv[1:])}")
    console.print(_machine())
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(Path(folder), options.seconds, options.connections))
    table = Table(box=box.SIMPLE)
    for column in ("ingress", "way", "connections", "answers/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="left" if column in ("ingress", "way") else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def measure(state: Path, seconds: float, connections: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """The rows of the table, as each way through each ingress is measured."""
    from infra.loopback import free_port
    from infra.redis import redis_server
    from infra.settings import Settings
    from services.cli.histories import load_histories
    from services.serving import serving

    dataset = _publish(state)
    settings = Settings(state_dir=state, redis_url=None, http_port=free_port())
    with redis_server(settings) as redis_url:
        load_histories(dataset, redis_url, settings)
        for haproxy in (True, False):
            with serving(settings, redis_url, haproxy=haproxy) as running:
                ingress = "HAProxy" if running.haproxy else "Python proxy"
                for way in WAYS if running.haproxy else WAYS[:-1]:
                    for n in connections:
                        found = _load(way, n, seconds, settings.http_port, redis_url)
                        yield ("-" if way == "queue" else ingress, way, str(n), *found)


def _publish(state: Path) -> Dataset:
    """Data, and a model and a content space of it that are active."""
    from benchmarks.text_space import seal_texts
    from encoders.item_text import item_texts
    from encoders.text import TextEncoder
    from encoders.text_input import DEFAULT_TEXT_MODEL
    from infra.settings import Settings
    from recsys.data.dataset import ITEMS_SCHEMA, Dataset
    from recsys.data.split import split_dataset
    from recsys.data.synthetic import synthesize
    from recsys.models.ials import IalsConfig
    from recsys.publish import publish
    from recsys.registry import Registry, Spaces
    from recsys.training.fit import fit

    folder = state / "data"
    synthesize(folder, n_users=N_USERS, n_items=N_ITEMS, pictures=False)
    dataset = Dataset.load(folder)
    fitted = fit(IalsConfig(dim=64), folder, run_dir=state / "run", workers=0, epochs=3)
    registry = Registry(state / "models")
    split = split_dataset(dataset, "leave_one_out")
    registry.activate("ials", publish(registry, "ials", dataset, split, fitted).version)
    catalogue = dataset.catalogue.select(ITEMS_SCHEMA.names)
    texts, encoder = item_texts(catalogue).to_pylist(), TextEncoder.open(DEFAULT_TEXT_MODEL)
    spaces = Spaces(Settings(state_dir=state).spaces_dir)
    writer = partial(seal_texts, catalogue=catalogue, texts=texts, encoder=encoder)
    spaces.activate("text", spaces.add("text", writer))
    return dataset


def _load(way: str, connections: int, seconds: float, port: int, redis_url: str) -> list[str]:
    """Measured in another process, so that it does not share this one's lock."""
    arguments = [way, str(connections), str(seconds), str(port)]
    command = [sys.executable, "-c", "from benchmarks.serving import load; load()", *arguments]
    # By the environment: a command line shows everyone on the machine the password in the URL.
    surroundings = {**os.environ, REDIS_URL: redis_url}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=surroundings)
    rate, *percentiles = json.loads(done.stdout)
    return [f"{rate:,.0f}", *(f"{value:.2f}" for value in percentiles)]


def load() -> None:
    """The asking process: prints answers a second and the percentiles, as JSON."""
    way, connections, seconds, port = sys.argv[1:]
    run = _run(way, int(connections), float(seconds), int(port), os.environ[REDIS_URL])
    print(json.dumps(asyncio.run(run)))  # noqa: T201 - the other process reads it


async def _run(
    way: str, connections: int, seconds: float, port: int, redis_url: str
) -> list[float]:
    if way == "queue":
        asks = [_queue(redis_url) for _ in range(connections)]
    else:
        asks = [await _http(way, port) for _ in range(connections)]
    await _closed_loops(asks, WARM_UP_S)
    started = time.perf_counter()
    took = await _closed_loops(asks, seconds)
    rate = len(took) / (time.perf_counter() - started)
    return [rate, *(1000 * np.percentile(took, [50, 95, 99])).tolist()]


async def _closed_loops(asks: Sequence[Ask], seconds: float) -> list[float]:
    """Seconds that each answer took."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def loop(ask: Ask) -> None:
        while (began := time.perf_counter()) < until and len(took) < MAX_REQUESTS:
            await ask(len(took))
            took.append(time.perf_counter() - began)

    await asyncio.gather(*map(loop, asks))
    return took


async def _http(way: str, port: int) -> Ask:
    """One connection, kept open. Spoken by hand: a client library would be what is measured."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(number: int) -> None:
        if way == "alive":
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n")
        else:
            head = b"POST %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n"
            body = _body(way, number)
            writer.write(head % (PATHS[way], len(body)) + body)
        response = await reader.readuntil(b"\r\n\r\n")
        lines = response.lower().split(b"\r\n")
        [length] = [line[15:] for line in lines if line.startswith(b"content-length:")]
        answer = await reader.readexactly(int(length))
        if b" 200 " not in lines[0] or WHOLE[PATHS[way]] not in answer:
            raise RuntimeError(f"{lines[0].decode()}: {answer.decode()}")

    return ask


def _queue(redis_url: str) -> Ask:
    from infra.queue import Queue
    from infra.redis import connect_async

    queue = Queue(
        connect_async(redis_url),
        "recsys:requests",
        visibility_timeout_s=30,
        max_deliveries=5,
        max_backlog=10_000,
        reply_ttl_s=60,
    )

    async def ask(number: int) -> None:
        reply_to = queue.new_reply_key()
        await queue.publish(_body("by history", number), reply_to=reply_to)
        if await queue.wait_reply(reply_to, 60) is None:
            raise RuntimeError("no reply came over the queue in 60 s")

    return ask


def _body(way: str, number: int) -> bytes:
    if way == "by user":
        return b'{"user_id":"u%04d","k":10}' % (number % N_USERS)
    if way == "like an item":
        return b'{"like":["i%03d"],"k":10}' % (number * 37 % N_ITEMS)
    if way == "by words":
        words = [WORDS[number // len(WORDS) ** i % len(WORDS)] for i in range(4)]
        return b'{"text":"%s","k":10}' % b" ".join(words)
    items = b",".join(b'"i%03d"' % ((number * 37 + 11 * i) % N_ITEMS) for i in range(20))
    return b'{"history":[%s],"k":10}' % items


def _machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("ray", "faiss-cpu", "redis"))
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {sys.version.split()[0]}, {versions}"
    )


if __name__ == "__main__":
    main()
