"""Which request headers reach Ray Serve: not those that steer it, and none that are no text.

Ray Serve reads headers of its own before any application does. It answers 500 to one that is not
UTF-8, and lets whoever asks choose time-outs and replicas; deadlines are in the requests here.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

STEERING = frozenset(
    (
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"x-session-id",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
    )
)


class PlainHeaders:
    """ASGI middleware around everything that Ray Serve does with a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            kept = [(n, v) for n, v in scope["headers"] if v.isascii() and n not in STEERING]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names."""
    return [Middleware(PlainHeaders)]
