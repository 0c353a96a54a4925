"""Redis: connections that fail with a message for people, and a server where there is none.

A command is sent once and never silently again: after a lost connection nobody knows whether it
took effect, and a request published twice would be answered twice. What may be repeated is
repeated by the caller, who knows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis.asyncio as aio
from redis import Redis
from redis import exceptions as failures
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.errors import RecsysError
from infra.settings import Settings

__all__ = [
    "MIN_VERSION",
    "SOCKET_TIMEOUT_S",
    "AsyncRedis",
    "Redis",
    "RedisUnavailable",
    "connect",
    "connect_async",
    "reaching",
    "redis_server",
]

logger = logging.getLogger(__name__)

MIN_VERSION = 7
"""Servers before it leave `lag` out of XINFO GROUPS and deleted entries out of XAUTOCLAIM."""

KEEPING = "noeviction"
"""The maxmemory-policy of a server that refuses writes, and drops nothing, when it is full."""

SOCKET_TIMEOUT_S = 10.0
"""Seconds without an answer after which a connection is given up; blocking calls stay below."""

_REFUSED = (failures.OutOfMemoryError, failures.ReadOnlyError, failures.NoPermissionError)
_REFUSALS = ("LOADING", "MISCONF", "OOM", "READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN")
"""What errors are or start with that tell of the server's state, not of a wrong command."""


class RedisUnavailable(RecsysError):
    """Redis does not answer, or not yet, or is no Redis that this project can use."""


def connect(url: str) -> Redis:
    """A client of the server at the URL; it connects when it is first used. Replies are bytes."""
    try:
        return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_options())
    except ValueError:
        raise _malformed() from None  # the error's own text may hold a part of the password


def connect_async(url: str) -> AsyncRedis:
    """As `connect`, for asyncio. Close it with `await client.aclose()`."""
    try:
        return aio.from_url(url, retry=AsyncRetry(NoBackoff(), 0), **_options())
    except ValueError:
        raise _malformed() from None


@contextmanager
def reaching(client: Redis | AsyncRedis) -> Iterator[None]:
    """Raise RedisUnavailable, naming the server, if the block's commands cannot reach it."""
    try:
        yield
    except (failures.ConnectionError, failures.TimeoutError) as error:
        raise _unavailable(_place(client.connection_pool.connection_kwargs), error) from error
    except failures.ResponseError as error:
        if isinstance(error, _REFUSED) or str(error).startswith(_REFUSALS):
            raise _unavailable(_place(client.connection_pool.connection_kwargs), error) from error
        raise


@contextmanager
def redis_server(settings: Settings) -> Iterator[str]:
    """The URL of a Redis that answers: the configured one, or else a private server's.

    The private server keeps its data under `state_dir/redis`, listens on loopback only, wants a
    password, and stops with the process that started it, or with the last of those that joined it
    meanwhile: all with the same `state_dir` share one server. What it has acknowledged survives
    its kill; a crash of the machine costs the last second or so.
    Raises RedisUnavailable.
    """
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        _check(url)
        yield url
        return
    from infra.private_redis import private_server  # it stands on this module

    with private_server(settings.state_dir / "redis") as url:
        yield url


def _check(url: str) -> None:
    client = connect(url)
    try:
        with reaching(client):
            info = client.info()
    finally:
        client.close()
    place = _place(client.connection_pool.connection_kwargs)
    version = str(info["redis_version"])
    if int(version.split(".")[0]) < MIN_VERSION:
        raise RedisUnavailable(
            f"Redis at {place} is version {version}, and {MIN_VERSION} or later is needed; "
            "upgrade it, or unset RECSYS_REDIS_URL to have a private server"
        )
    policy = str(info.get("maxmemory_policy", KEEPING))
    if info.get("maxmemory") and policy != KEEPING:
        logger.warning(
            "Redis at %s drops data when its memory is full (maxmemory-policy %s), queued requests "
            "among them; set it to %s",
            *(place, policy, KEEPING),
        )
    if not info.get("aof_enabled", True):
        logger.warning(
            "Redis at %s has no append-only file: what it took since its last snapshot, events and "
            "queued requests among it, is lost when it ends; set appendonly to yes",
            place,
        )


def _options() -> dict[str, Any]:
    return {
        "protocol": 2,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        "health_check_interval": 30,
    }


def _place(options: dict[str, Any]) -> str:
    """The server's address without the password."""
    return str(options.get("path") or f"{options.get('host')}:{options.get('port', 6379)}")


def _unavailable(place: str, error: Exception) -> RedisUnavailable:
    if isinstance(error, failures.AuthenticationError | failures.NoPermissionError):
        step = "check the user and the password in RECSYS_REDIS_URL"
    elif isinstance(error, failures.ResponseError):
        step = "look at its log, its memory and its disk"
    else:
        step = (
            "check that it runs and that RECSYS_REDIS_URL names it, or unset RECSYS_REDIS_URL to "
            "have a private server"
        )
    return RedisUnavailable(f"Redis at {place} is not available ({error}): {step}")


def _malformed() -> RedisUnavailable:
    return RedisUnavailable(
        "the Redis URL is not one: write RECSYS_REDIS_URL as redis://user:password@host:6379/0, "
        "with special characters of the password percent-encoded"
    )
