"""Serving: the application on this machine, from nothing to ready and back to nothing."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from infra.errors import RecsysError
from infra.loopback import LOOPBACK
from infra.settings import Settings
from recsys.registry import Registry
from services.active_models import ActiveModels, NoModel
from services.app import build
from services.cluster import cluster

APPLICATION = "recsys"

LOGS = "/tmp/ray/session_latest/logs/serve"
"""Where Ray Serve's processes log, unless Ray was told another place."""

_LOGGING = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class Running:
    """A service that answers."""

    url: str
    """Of the HTTP API, from this machine."""

    haproxy: bool
    """Whether HAProxy answers, or Ray Serve's proxy in Python."""

    note: str | None
    """Why it is the proxy in Python, when HAProxy was wished."""


@contextmanager
def serving(
    settings: Settings, redis_url: str, *, haproxy: bool = True, last: bool = False
) -> Iterator[Running]:
    """Serve the active models over HTTP and the queue, from the first line of the block to its
    end; inside a `cluster`, in that one.

    last: the caller ends that cluster right after the block, which ends Ray Serve faster than its
    own shutdown does, and without a line about the controller's death.

    When the block ends, requests under way are answered, and no process stays behind; when this
    process is killed, none but what `cluster` says.
    Raises RecsysError if the port is taken, no model is active, the default one is none of them,
    the active bundles are refused, or Ray Serve does not start.
    """
    _check_models(settings)
    _check_port(settings.http_host, settings.http_port)
    # HAProxy listens where it is told to; the rest of Ray Serve has no business off this machine.
    with cluster(settings.http_host, haproxy=haproxy) as ray_cluster:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        host = LOOPBACK if ray_cluster.haproxy else settings.http_host
        try:
            _start(settings, redis_url, host)
            yield Running(settings.http_url, ray_cluster.haproxy, ray_cluster.note)
        finally:
            with suppress(RayServeException):  # without a controller there is nothing to delete
                serve.delete(APPLICATION)
            if not (ray_cluster.ends or last):
                serve.shutdown()  # type: ignore[no-untyped-call]


def _start(settings: Settings, redis_url: str, host: str) -> None:
    """Start Ray Serve and the application; raises RecsysError if it does not become ready."""
    options = {"host": host, "port": settings.http_port}
    try:
        serve.start(http_options=options, logging_config=_LOGGING)
        serve.run(build(settings, redis_url), name=APPLICATION, logging_config=_LOGGING)
    except (RuntimeError, TimeoutError, RayError, RayServeException) as error:
        raise RecsysError(
            f"Ray Serve could not start the service: {error}. What its processes said is in "
            f"{LOGS}; `recsys doctor` looks for causes"
        ) from error


def _check_models(settings: Settings) -> None:
    """Raise RecsysError, before Ray is started, if the models cannot be served as wished."""
    models = ActiveModels(Registry(settings.models_dir), settings.default_model)
    active = [*models.recommender.bundles, *models.failing]
    if settings.default_model not in (None, *active):
        raise NoModel(
            f"RECSYS_DEFAULT_MODEL names {settings.default_model!r}, and no such model is active; "
            f"there are {', '.join(sorted(active))}"
        )


def _check_port(host: str, port: int) -> None:
    """Raise RecsysError unless the port can be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "something listens there already: stop it, or choose another port"
        else:
            reason = f"{error.strerror}: choose another address or port"
        raise RecsysError(
            f"cannot listen on {host}:{port}, {reason} (RECSYS_HTTP_HOST, RECSYS_HTTP_PORT)"
        ) from None
