"""Ray on this machine alone, listening on loopback only."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray._private import ray_constants

from infra.errors import RecsysError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray listens on all interfaces by default, a dozen ports of it. This one switch keeps every
    # one to loopback: it says that no other machine will join.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


@contextmanager
def connected(cores: int | None = None) -> Iterator[None]:
    """Within the block this process is connected to Ray: to what it is already, which stays, or
    to one of its own with these cores, all unless told, which ends with the block."""
    if ray.is_initialized():
        yield
        return
    start(ENVIRONMENT, quiet=True, cores=cores)
    try:
        yield
    finally:
        ray.shutdown()


def start(environment: Mapping[str, str], *, quiet: bool, cores: int | None = None) -> None:
    """Start Ray; its processes get the environment, this one keeps its own.

    quiet: leave what Ray's processes log in its files, off this process's standard error.
    Raises RecsysError if Ray does not start.
    """
    before = dict(os.environ)
    os.environ.update(environment)
    # Ray read the switch when it was imported, perhaps long before this.
    before_switch, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=not quiet,
        )
    except (RuntimeError, OSError, TimeoutError) as error:
        raise RecsysError(
            f"Ray did not start: {error}. `recsys doctor` looks for causes"
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before_switch
        os.environ.clear()
        os.environ.update(before)
