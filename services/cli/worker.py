"""`recsys worker`: embed what jobs and live items ask for."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from services.cli.console import err

NAME = "worker"


def command(
    device: Annotated[
        str | None, typer.Option(help="As torch names it; a GPU where there is one.")
    ] = None,
) -> None:
    """Work on embedding jobs and live items until Ctrl-C or SIGTERM; what it holds is finished.

    It needs the Redis and the state folder of those who submit. Any number of workers share the
    work, here or elsewhere, and any may be killed: what it held goes to another.

      RECSYS_REDIS_URL=redis://queue:6379/0 recsys worker --device cuda:1
    """
    from infra.redis import redis_server
    from infra.settings import load_settings
    from services.worker import work_until_told

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    settings = load_settings()
    with redis_server(settings) as redis_url:
        err.print("Waiting for work. Ctrl-C stops.")
        work_until_told(settings, redis_url, device)
