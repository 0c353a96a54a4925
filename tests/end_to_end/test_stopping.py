"""`recsys serve` beside another one, stopped and killed: the rest goes on, nothing stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from infra.loopback import free_port
from recsys.registry import Registry
from tests.processes import alive, command, descendants, off_loopback

START_S = 120.0
STOP_S = 15.0
"""Measured at 5 s on two cores that had nothing else to do; without care it is over 30 s."""

RAYS_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They outlive a kill by a minute, to report it."""


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str

    def answers(self) -> bool:
        reply = httpx.post(f"{self.url}/v1/recommend", json={"history": ["drama-1"], "k": 3})
        return reply.status_code == 200 and len(reply.json()["items"]) == 3


@contextmanager
def served(state: Path, registry: Registry) -> Iterator[Served]:
    """The command in a session of its own, as in a terminal of its own."""
    shutil.copytree(registry.root, state / "models")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", "serve", "--port", str(port)],
        env={**os.environ, "RECSYS_STATE_DIR": str(state)},
        stdout=(state / "out").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield Served(process, f"http://127.0.0.1:{port}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(service: Served, state: Path) -> None:
    until = time.monotonic() + START_S
    while "Ctrl-C stops" not in (output := (state / "out").read_text()):
        assert service.process.poll() is None, output
        assert time.monotonic() < until, output
        time.sleep(0.1)


def left_after(pids: list[int], seconds: float, *, spared: tuple[str, ...] = ()) -> list[str]:
    """The command lines of those that are still there after so long."""
    until = time.monotonic() + seconds
    while True:
        commands = [command(pid) for pid in alive(pids)]
        left = [each for each in commands if each and not each.startswith(spared)]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.1)


@pytest.mark.timeout(400)
def test_two_at_once_then_one_is_stopped_and_the_other_is_killed(
    registry: Registry, tmp_path: Path
) -> None:
    one_state, two_state = tmp_path / "one", tmp_path / "two"
    with ExitStack() as stack:
        one = stack.enter_context(served(one_state, registry))
        two = stack.enter_context(served(two_state, registry))
        wait_until_ready(one, one_state)
        wait_until_ready(two, two_state)
        assert one.answers()
        assert two.answers()

        below = descendants(one.process.pid)
        os.killpg(one.process.pid, signal.SIGINT)  # as Ctrl-C in its terminal does
        assert one.process.wait(STOP_S) == 0, (one_state / "out").read_text()
        assert left_after(below, 5) == []
        assert "Traceback" not in (one_state / "out").read_text()
        assert two.answers()

        below = descendants(two.process.pid)
        two.process.kill()
        assert left_after(below, 10, spared=RAYS_AGENTS) == []


PYTHON_PROXY = """
import os, sys
from pathlib import Path
import httpx
from infra.settings import Settings
from services.serving import serving
from tests.processes import descendants, listening

settings = Settings(state_dir=Path(sys.argv[1]), http_port=int(sys.argv[2]))
with serving(settings, sys.argv[3], haproxy=False) as running:
    assert not running.haproxy
    reply = httpx.post(f"{running.url}/v1/recommend", json={"history": ["drama-1"], "k": 3})
    assert len(reply.json()["items"]) == 3, reply.text
    assert httpx.get(f"{running.url}/nothing").headers["content-type"] == "application/problem+json"
    print(*listening(descendants(os.getpid())))
"""


@pytest.mark.slow
def test_ray_serves_own_proxy_keeps_to_loopback_too_and_stops(
    registry: Registry, redis_url: str, tmp_path: Path
) -> None:
    shutil.copytree(registry.root, tmp_path / "models")
    arguments = [str(tmp_path), str(free_port()), redis_url]
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_PROXY, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0
    addresses = done.stdout.split()
    assert addresses
    assert off_loopback(addresses) == []
