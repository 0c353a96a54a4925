"""A Ray cluster of this one machine, on loopback only, that ends with the process.

Ray listens on all interfaces by default, a dozen ports of it. One switch keeps every one to
loopback: `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`, which says that no other machine will join. Ray
Serve has its own ports and its own switches; both are environment variables that are read when
Ray starts, so everything that uses Ray in one run shares the cluster made here.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from infra.loopback import LOOPBACK, free_port
from recsys.training.local_ray import ENVIRONMENT, start
from services.haproxy import NoHAProxy, launcher
from services.headers import middlewares


@dataclass(frozen=True)
class Cluster:
    """What is known of the Ray that runs."""

    haproxy: bool
    """Whether Ray Serve, when it is started here, answers through HAProxy."""

    note: str | None
    """Why it does not, when it was wished."""

    ends: bool = True
    """Whether Ray ends with the `cluster` block; not if it was there before."""


_current: Cluster | None = None


@contextmanager
def cluster(
    http_host: str = LOOPBACK, *, haproxy: bool = True, quiet: bool = False
) -> Iterator[Cluster]:
    """Start Ray and stop it at the end; inside another `cluster`, that one.

    When this process is killed, what it started ends with it, except for two agents of Ray's, which
    try for a minute to report the loss.

    http_host: where HAProxy listens, when Ray Serve is started here.
    haproxy: let Ray Serve answer through HAProxy, which is about five times as fast as its proxy
    in Python. Where that cannot be had, the note says why.
    quiet: leave what Ray's processes log in its files, off this process's standard error.

    Where the caller has started Ray by itself, it is used as it is and not stopped.
    Raises RecsysError if Ray does not start.
    """
    global _current
    if _current is not None:
        yield replace(_current, ends=False)
        return
    if ray.is_initialized():
        yield Cluster(False, "Ray was started without the settings that HAProxy needs", ends=False)
        return
    with ExitStack() as stack:
        environment, note = _environment(), None
        if haproxy:
            folder = Path(tempfile.mkdtemp(prefix="recsys-", dir="/tmp"))  # sockets: short paths
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                environment |= _haproxy(folder, http_host)
            except NoHAProxy as error:
                haproxy, note = False, str(error)
        start(environment, quiet=quiet)
        stack.callback(ray.shutdown)
        _current = Cluster(haproxy, note)
        try:
            yield _current
        finally:
            _current = None


def confine_replica() -> None:
    """Keep the gRPC port of the Serve replica that this process is on loopback, if Ray is.

    Ray Serve binds it to all interfaces, whatever the node's address; it has no setting. To be
    called by every deployment's constructor, which runs before the port is opened.
    """
    if not on_loopback():
        return
    replica: Any = importlib.import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(
        server, address.replace("[::]", LOOPBACK)
    )


def on_loopback() -> bool:
    """Whether the Ray that runs keeps to loopback."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address == LOOPBACK


def _environment() -> dict[str, str]:
    """The switches that hold with either proxy."""
    return {
        **ENVIRONMENT,
        # What RAY_SERVE_THROUGHPUT_OPTIMIZED stands for, without ports for callers outside.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{middlewares.__module__}:middlewares",
    }


def _haproxy(folder: Path, http_host: str) -> dict[str, str]:
    """The switches that let HAProxy answer; raises NoHAProxy."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher(folder, http_host)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        # The proxy in Python still answers when no replica can; its port is fixed by default.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        # A replica that is told to stop goes on accepting for this long, 30 s by default: made
        # for load balancers that poll. HAProxy is told at once and retries a refused connection.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
    }
