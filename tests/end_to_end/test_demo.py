"""`recsys demo`: from a file of events to answers, in one command, with nothing set up."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.loopback import free_port
from recsys.data.readers import import_dataset
from tests.processes import alive, command, descendants

START_S = 420.0
RECSYS = [sys.executable, "-m", "services.cli.main"]


README = Path(__file__).parents[2] / "README.md"
ASKS = [
    line
    for line in re.findall(r"^(?:curl -s|recsys search) .*$", README.read_text("utf-8"), re.M)
    if "--picture" not in line and "--rerank" not in line
]

USERS = ["u1353", *(f"u{n}" for n in range(199))]
ITEMS = ["i029", "i174", "i304", *(f"i{n}" for n in range(37))]
"""Those that the README names, and others."""


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dataset of 200 users who walk around a ring of 40 Westerns."""
    folder = tmp_path_factory.mktemp("walks")
    events = ["user_id,item_id,timestamp"]
    events += [f"{user},{ITEMS[(7 * n + step) % 40]},{step}"
               for n, user in enumerate(USERS) for step in range(12)]  # fmt: skip
    items = ["item_id,title,tags,year"]
    items += [f"{name},The Sheriff of Station {n},Western,{1980 + n}"
              for n, name in enumerate(ITEMS)]  # fmt: skip
    events_file, items_file = folder / "walks.csv", folder / "stations.csv"
    events_file.write_text("\n".join(events), encoding="utf-8")
    items_file.write_text("\n".join(items), encoding="utf-8")
    import_dataset(events_file, folder / "data", catalogue=items_file)
    return folder / "data"


class Demo:
    """`recsys demo` under way, and what it has printed."""

    def __init__(self, walks: Path, state: Path, port: int) -> None:
        self.printed = state / "printed"
        self.environment = {**os.environ, "RECSYS_STATE_DIR": str(state), "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [*RECSYS, "demo", "--data", str(walks), "--port", str(port)],
            env=self.environment,
            stdout=self.printed.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def text(self) -> str:
        return self.printed.read_text(encoding="utf-8")

    def wait_for(self, line: str) -> None:
        until = time.monotonic() + START_S
        while line not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < until, self.text()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def demo(walks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(walks, tmp_path_factory.mktemp("state"), free_port())
    try:
        running.wait_for("Ctrl-C stops.")
        yield running
    finally:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()


def test_every_model_is_measured_and_a_named_user_is_answered(demo: Demo) -> None:
    text = demo.text()
    ndcg = {
        kind: float(re.search(rf"{kind} +[\d.]+ +([\d.]+)", text)[1])  # type: ignore[index]
        for kind in ("popularity", "ials", "sasrec")
    }
    assert ndcg["sasrec"] > 0.9 > 2 * ndcg["popularity"]  # the last item alone tells the next
    assert re.search(r"Recommended to\s+user\s+u\d+,\s+over\s+HTTP", text)
    assert "The same over the Redis queue" in text
    assert "failed" not in text


def test_the_curl_line_that_it_prints_works(demo: Demo) -> None:
    line, _ = re.findall(r"^ +(curl .*)$", demo.text(), re.MULTILINE)
    reply = json.loads(subprocess.check_output(line, shell=True, text=True))
    assert len(reply["items"]) == 5
    assert reply["fallback"] is None


def ask(demo: Demo, *arguments: str) -> str:
    """What a command prints that is told where the demo's state is."""
    [line] = re.findall(r"^Start it again: RECSYS_STATE_DIR=(\S+)", demo.text(), re.MULTILINE)
    [port] = re.findall(r"http://127\.0\.0\.1:(\d+)/docs", demo.text())
    environment = {**demo.environment, "RECSYS_STATE_DIR": line, "RECSYS_HTTP_PORT": port}
    return subprocess.check_output([*RECSYS, *arguments], env=environment, text=True)


@pytest.mark.parametrize("way", [[], ["--queue"]], ids=["http", "queue"])
def test_what_is_sent_from_the_command_line_counts_at_once(demo: Demo, way: list[str]) -> None:
    user = f"new-{len(way)}"
    ask(demo, "events", "send", "--user", user, "--item", ITEMS[7], "--item", ITEMS[8])
    reply = json.loads(ask(demo, "recommend", "--user", user, "-k", "1", "--json", *way))
    assert reply["items"][0]["item_id"] == ITEMS[9]


@pytest.mark.parametrize("line", ASKS)
def test_what_the_readme_asks_is_answered(demo: Demo, line: str) -> None:
    if line.startswith("recsys"):
        assert "Sheriff" in ask(demo, *shlex.split(line)[1:])
        return
    [port] = re.findall(r"http://127\.0\.0\.1:(\d+)/docs", demo.text())
    here = line.replace(":8000/", f":{port}/")
    reply = json.loads(subprocess.check_output(here, shell=True, text=True))
    assert "status" not in reply, reply


def test_it_ends_when_asked_to_and_leaves_no_process(demo: Demo) -> None:
    started = descendants(demo.process.pid)
    assert started
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(timeout=20) == 0
    until = time.monotonic() + 10  # Python's own tracker of resources ends after who started it
    while alive(started) and time.monotonic() < until:
        time.sleep(0.1)
    assert [command(pid) for pid in alive(started)] == []
    assert "failed" not in demo.text()


def test_with_once_it_ends_by_itself_and_what_it_made_is_used_again(
    demo: Demo, walks: Path
) -> None:
    again = [*RECSYS, "demo", "--data", str(walks), "--once", "--port", str(free_port())]
    printed = subprocess.check_output(again, env=demo.environment, text=True)
    assert "From nothing to answers" in printed
    assert re.search(r"^(ials|sasrec) v0002", printed, re.MULTILINE)
