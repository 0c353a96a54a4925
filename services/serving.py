"""Serving: the application on this machine, from nothing to ready and back to nothing."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ray import serve

from infra.errors import RecsysError
from infra.settings import Settings
from recsys.registry import Registry
from services.active_models import ActiveModels, NoModel
from services.app import build
from services.cluster import LOOPBACK, cluster

APPLICATION = "recsys"

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
    Raises RecsysError if the port is taken, no model is active, the default one is none of them, or
    the active bundles are refused.
    """
    _check_models(settings)
    _check_port(settings.http_host, settings.http_port)
    # HAProxy listens where it is told to; the rest of Ray Serve has no business off this machine.
    with cluster(settings.http_host, haproxy=haproxy) as ray_cluster:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        host = LOOPBACK if ray_cluster.haproxy else settings.http_host
        try:
            serve.start(
                http_options={"host": host, "port": settings.http_port}, logging_config=_LOGGING
            )
            serve.run(build(settings, redis_url), name=APPLICATION, logging_config=_LOGGING)
            yield Running(settings.http_url, ray_cluster.haproxy, ray_cluster.note)
        finally:
            serve.delete(APPLICATION)
            if not (ray_cluster.ends or last):
                serve.shutdown()  # type: ignore[no-untyped-call]


def _check_models(settings: Settings) -> None:
    """Raise RecsysError, before Ray is started, if the models cannot be served as wished."""
    registry = Registry(settings.models_dir)
    ActiveModels(registry, settings.default_model)
    active = [name for name in registry.names() if registry.active(name) is not None]
    if settings.default_model not in (None, *active):
        raise NoModel(
            f"RECSYS_DEFAULT_MODEL names {settings.default_model!r}, and no such model is active; "
            f"there are {', '.join(active)}"
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
