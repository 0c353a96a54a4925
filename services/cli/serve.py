"""`recsys serve`: answer over HTTP and over the Redis queue."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from services.cli.console import err, out
from services.cli.stopping import stoppable, wait_for_stop

if TYPE_CHECKING:
    from infra.settings import Settings

NAME = "serve"


def command(
    host: Annotated[
        str | None, typer.Option(help="The address to listen on; loopback by default.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The HTTP port.")] = None,
) -> None:
    """Answer over HTTP and over the Redis queue until Ctrl-C.

    Every active model of the registry is in service; activating another version swaps it with no
    failed request.

      recsys serve --host 0.0.0.0 --port 8080
    """
    from infra.redis import redis_server
    from infra.settings import load_settings
    from services.serving import serving

    settings = load_settings(http_host=host, http_port=port)
    with stoppable(), ExitStack() as stack:
        redis_url = stack.enter_context(redis_server(settings))
        with err.status("Starting Ray Serve"):
            server = stack.enter_context(serving(settings, redis_url))
        if server.note:
            err.print(
                f"[yellow]note:[/] answering through Ray Serve's own proxy: {escape(server.note)}"
            )
        url = escape(server.url)
        out.print(f"Listening on [bold]{url}[/] (API documentation at {url}/docs)")
        out.print(f"{queue_line(settings)} Ctrl-C stops.", markup=False, soft_wrap=True)
        wait_for_stop()
        err.print("Stopping ...")


def queue_line(settings: Settings) -> str:
    """Where other clients find the queue; a screen is no place for the password in the URL."""
    if settings.redis_url is not None:
        place = "of RECSYS_REDIS_URL"
    else:
        place = f"at the url in {settings.state_dir / 'redis' / 'server.json'}"
    return f"Queue: stream {settings.namespace}:requests of the Redis {place}."
