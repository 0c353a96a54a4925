"""The private server comes and goes with its parent, keeps its data, and is joined, not doubled."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.private_redis import server_binary
from infra.redis import RedisUnavailable, connect, connect_async, reaching, redis_server
from infra.settings import Settings

HOLDER = """
import sys, time
from pathlib import Path
from infra.redis import redis_server
from infra.settings import Settings
with redis_server(Settings(redis_url=None, state_dir=Path(sys.argv[1]))) as url:
    print(url, flush=True)
    {then}
"""


def settings(state: Path) -> Settings:
    return Settings(redis_url=None, state_dir=state)


@contextmanager
def holder(
    state: Path, then: str = "time.sleep(600)"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of its own that holds a private server, and the server's URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(then=then), str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def answers(url: str) -> bool:
    try:
        with connect(url) as client, reaching(client):
            return bool(client.ping())
    except RedisUnavailable:
        return False


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def server_pid(url: str) -> int:
    with connect(url) as client:
        return int(client.info("server")["process_id"])


def test_it_is_what_the_queue_needs(redis_url: str) -> None:
    with connect(redis_url) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert int(client.info("server")["redis_version"].split(".")[0]) >= 7


def test_it_listens_on_loopback_only(redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].removesuffix("/0"))
    elsewhere = next(
        (
            found[4][0]
            for found in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)
            if not str(found[4][0]).startswith("127.")
        ),
        None,
    )
    with connect(redis_url) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
    if elsewhere is not None:
        with pytest.raises(OSError):
            socket.create_connection((str(elsewhere), port), timeout=1)


def test_it_wants_a_password_that_only_its_owner_can_read(tmp_path: Path) -> None:
    with redis_server(settings(tmp_path)) as url:
        password = url.split("@")[0].rpartition(":")[2]
        with (
            pytest.raises(RedisUnavailable, match="password"),
            connect(url.replace(password, "guess")) as client,
            reaching(client),
        ):
            client.ping()
        folder = tmp_path / "redis"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("redis.conf", "server.json"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        processes = subprocess.run(["ps", "-efww"], capture_output=True, text=True, check=True)
        assert str(folder) in processes.stdout
        assert password not in processes.stdout


def test_it_stops_with_the_block_also_when_that_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), redis_server(settings(tmp_path)) as url:
        assert answers(url)
        _ = 1 / 0
    assert not answers(url)
    assert not (tmp_path / "redis" / "server.json").exists()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_its_parent_is_killed(tmp_path: Path, kill: signal.Signals) -> None:
    with holder(tmp_path) as (process, url):
        assert answers(url)
        process.send_signal(kill)
        process.wait()
        assert within(10, lambda: not answers(url))


def test_the_terminals_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    then = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(then=then), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # what the terminal does
        time.sleep(0.5)
        assert answers(url)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_data_survive_a_restart(tmp_path: Path) -> None:
    with redis_server(settings(tmp_path)) as url, connect(url) as client:
        client.set("kept", "yes")
    with redis_server(settings(tmp_path)) as url, connect(url) as client:
        assert client.get("kept") == b"yes"


def test_a_killed_server_comes_back_with_its_data_at_the_same_url(tmp_path: Path) -> None:
    with redis_server(settings(tmp_path)) as url, connect(url) as client:
        client.set("kept", "yes")
        os.kill(server_pid(url), signal.SIGKILL)
        assert within(10, lambda: answers(url))
        assert client.get("kept") == b"yes"


def test_it_stops_even_when_its_guard_was_killed(tmp_path: Path) -> None:
    with redis_server(settings(tmp_path)) as url:
        parent = subprocess.run(
            ["ps", "-o", "ppid=", "-p", str(server_pid(url))],
            capture_output=True,
            text=True,
            check=True,
        )
        os.kill(int(parent.stdout), signal.SIGKILL)
        assert answers(url)
    assert within(5, lambda: not answers(url))


def test_a_running_server_is_joined_and_not_stopped(tmp_path: Path) -> None:
    with holder(tmp_path) as (_, url):
        with redis_server(settings(tmp_path)) as joined:
            assert joined == url
        assert answers(url)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_joined_server_runs_until_the_last_one_ends(tmp_path: Path, kill: signal.Signals) -> None:
    with holder(tmp_path) as (starter, url), holder(tmp_path) as (joiner, joined):
        assert joined == url
        starter.send_signal(kill)
        starter.wait(10)
        time.sleep(1)
        assert answers(url)
        with holder(tmp_path) as (_, later):
            assert later == url
        assert answers(url)
        joiner.kill()
        joiner.wait()
        assert within(10, lambda: not answers(url))


def test_the_next_one_starts_as_soon_as_the_killed_ones_server_is_down(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, url):
        with connect(url) as client:
            client.set("kept", "yes")
        process.kill()
        process.wait()
    assert within(10, lambda: not (tmp_path / "redis" / "server.json").exists())
    with redis_server(settings(tmp_path)) as again, connect(again) as client:
        assert again != url
        assert client.get("kept") == b"yes"


def test_a_server_that_cannot_start_says_what_its_log_says(tmp_path: Path) -> None:
    folder = tmp_path / "redis" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(RedisUnavailable, match=r"redis\.log"), redis_server(settings(tmp_path)):
        pass


def test_a_configured_server_is_used_as_it_is(redis_url: str, tmp_path: Path) -> None:
    with redis_server(Settings(redis_url=redis_url, state_dir=tmp_path)) as url:
        assert url == redis_url
    assert answers(redis_url)
    assert not (tmp_path / "redis").exists()


def test_a_server_that_is_too_old_is_refused(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.redis.MIN_VERSION", 99)
    password = redis_url.split("@")[0].rpartition(":")[2]
    with (
        pytest.raises(RedisUnavailable, match=r"is version \d.*99 or later is needed") as caught,
        redis_server(Settings(redis_url=redis_url)),
    ):
        pass
    assert password not in caught.value.message


def test_a_server_that_drops_data_when_it_is_full_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        redis_server(settings(tmp_path)) as url,
        connect(url) as client,
    ):
        client.config_set("maxmemory", "1gb")
        with redis_server(Settings(redis_url=url)):
            assert caplog.messages == []
        client.config_set("maxmemory-policy", "allkeys-lru")
        with redis_server(Settings(redis_url=url)):
            (warning,) = caplog.messages
    assert "allkeys-lru" in warning
    assert "noeviction" in warning


def test_a_server_that_keeps_nothing_on_disk_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        redis_server(settings(tmp_path)) as url,
        connect(url) as client,
    ):
        client.config_set("appendonly", "no")
        with redis_server(Settings(redis_url=url)):
            (warning,) = caplog.messages
    assert "has no append-only file" in warning
    assert "set appendonly to yes" in warning


def test_a_user_who_may_not_is_told_so(tmp_path: Path) -> None:
    with redis_server(settings(tmp_path)) as url:
        with connect(url) as client:
            client.acl_setuser("weak", enabled=True, passwords=["+weak"], categories=["+@read"])
        weak = f"redis://weak:weak@{url.rpartition('@')[2]}"
        with (
            pytest.raises(RedisUnavailable, match="check the user and the password"),
            redis_server(Settings(redis_url=weak)),
        ):
            pass


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{unused.getsockname()[1]}"
        configured = Settings(redis_url=f"redis://me:secret@{place}/0")
        with pytest.raises(RedisUnavailable) as caught, redis_server(configured):
            pass
    assert place in caught.value.message
    assert "RECSYS_REDIS_URL" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_malformed_url_is_told_without_its_password() -> None:
    with pytest.raises(RedisUnavailable, match="RECSYS_REDIS_URL") as caught:
        connect("redis://me:sec/ret@localhost:6379/0")
    assert "sec" not in caught.value.message.replace("RECSYS", "")


async def _ping(url: str) -> None:
    client = connect_async(url)
    try:
        with reaching(client):
            await client.ping()
    finally:
        await client.aclose()


def test_the_async_client_fails_alike() -> None:
    with pytest.raises(RedisUnavailable, match=r"127\.0\.0\.1:1 is not available"):
        asyncio.run(_ping("redis://127.0.0.1:1/0"))


@pytest.mark.parametrize(
    ("name", "told", "taken"),
    [
        ("redis-server", "Redis server v=7.4.2 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", True),
        ("redis-server", "Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.1 bits=64", False),
        ("valkey-server", "Valkey server v=8.0.1 sha=00000000:0 malloc=libc bits=64", True),
        ("redis-server", "Segmentation fault", False),
    ],
)
def test_the_paths_binary_goes_first_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str, taken: bool
) -> None:
    binary = tmp_path / name
    binary.write_text(f"#!/bin/sh\necho '{told}'\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (server_binary() == str(binary)) is taken


def test_the_binary_is_new_enough() -> None:
    told = subprocess.run(
        [server_binary(), "--version"], capture_output=True, text=True, check=True
    )
    assert "v=" in told.stdout


def test_the_record_tells_who_holds_the_server(tmp_path: Path) -> None:
    with redis_server(settings(tmp_path)) as url:
        record = json.loads((tmp_path / "redis" / "server.json").read_text())
        assert record == {"url": url, "pid": os.getpid()}
