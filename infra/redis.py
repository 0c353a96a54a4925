"""Redis: connections that fail with a message for people, and a server where there is none.

A command is sent once and never silently again: after a lost connection nobody knows whether it
took effect, and a request published twice would be answered twice. What may be repeated is
repeated by the caller, who knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

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

MIN_VERSION = 7
"""Servers before it leave `lag` out of XINFO GROUPS and deleted entries out of XAUTOCLAIM."""

SOCKET_TIMEOUT_S = 10.0
"""Seconds without an answer after which a connection is given up; blocking calls stay below."""

_REFUSALS = ("LOADING", "MISCONF", "OOM", "READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN")
"""Errors that say what state the server is in, not that the command was wrong."""


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
        if isinstance(error, failures.OutOfMemoryError | failures.ReadOnlyError) or any(
            str(error).startswith(each) for each in _REFUSALS
        ):
            raise _unavailable(_place(client.connection_pool.connection_kwargs), error) from error
        raise


@contextmanager
def redis_server(settings: Settings) -> Iterator[str]:
    """The URL of a Redis that answers: the configured one, or else a private server's.

    The private server keeps its data under `state_dir/redis`, listens on loopback only and stops
    with the process that started it; other processes with the same `state_dir` join it meanwhile.
    Raises RedisUnavailable.
    """
    if settings.redis_url is not None:
        _check(settings.redis_url)
        yield settings.redis_url
        return
    from infra.private_redis import private_server  # it stands on this module

    with private_server(settings.state_dir / "redis") as url:
        yield url


def _check(url: str) -> None:
    client = connect(url)
    try:
        with reaching(client):
            version = str(client.info("server")["redis_version"])
    finally:
        client.close()
    if int(version.split(".")[0]) < MIN_VERSION:
        place = urlsplit(url)
        raise RedisUnavailable(
            f"Redis at {place.hostname or place.path} is version {version}, and {MIN_VERSION} or "
            "later is needed; upgrade it, or unset RECSYS_REDIS_URL to have a private server"
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
    if isinstance(error, failures.AuthenticationError):
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
