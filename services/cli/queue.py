"""`recsys queue`: the dead letters, messages that no worker could do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.markup import escape

from infra.errors import RecsysError
from services.cli.console import AsJson, out, print_json

if TYPE_CHECKING:
    from infra.dead_letters import DeadLetter, DeadLetters

T = TypeVar("T")

NAME = "queue"
app = typer.Typer(help="The queues' dead letters.", no_args_is_help=True)
dead = typer.Typer(
    help="Messages that no worker could do: look at them, try them again, drop them.",
    no_args_is_help=True,
)
app.add_typer(dead, name="dead")

Stream = Annotated[
    str,
    typer.Argument(
        help="[bold]requests[/], [bold]jobs:embed[/] or [bold]jobs:items[/]: the stream without "
        "the namespace."
    ),
]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids that `recsys queue dead list` shows.")]
Every = Annotated[bool, typer.Option("--all", help="All that there are.")]

SHOWN = 100
"""The most letters in a list: the newest."""

EXCERPT = 300
"""Characters of a message that are printed."""


@dead.command(name="list")
def list_(stream: Stream, as_json: AsJson = False) -> None:
    """The newest dead letters of a stream, newest first.

    recsys queue dead list jobs:embed
    """
    letters = _ask(stream, lambda dead: dead.newest(SHOWN))
    if as_json:
        print_json([_document(letter) for letter in letters])
        return
    if not letters:
        out.print("No dead letters.")
    for letter in letters:
        document = _document(letter)
        out.print(
            f"[bold]{letter.id}[/] {document['died']}, after {letter.deliveries} tries: "
            f"{escape(letter.reason)}"
        )
        for field, value in document["fields"].items():
            out.print(f"  {escape(field)}: {escape(_excerpt(value))}", soft_wrap=True)


@dead.command()
def retry(stream: Stream, ids: Ids = None, every: Every = False) -> None:
    """Put dead letters back into the stream, as if they were published now.

    recsys queue dead retry jobs:embed --all
    """
    _chosen(ids, every)

    async def again(dead: DeadLetters) -> int:
        return await dead.retry(await _those(dead, ids))

    out.print(f"{_ask(stream, again):,} put back.")


@dead.command()
def drop(stream: Stream, ids: Ids = None, every: Every = False) -> None:
    """Remove dead letters for good."""
    _chosen(ids, every)

    async def remove(dead: DeadLetters) -> int:
        return await dead.drop(await _those(dead, ids))

    out.print(f"{_ask(stream, remove):,} dropped.")


def _chosen(ids: list[str] | None, every: bool) -> None:
    if bool(ids) == every:
        raise typer.BadParameter("give ids, or --all")


async def _those(dead: DeadLetters, ids: list[str] | None) -> list[str]:
    from infra.dead_letters import MOST

    return ids or [letter.id for letter in await dead.newest(MOST)]


def _document(letter: DeadLetter) -> dict[str, Any]:
    moment = datetime.fromtimestamp(int(letter.id.partition("-")[0]) / 1000, UTC)
    return {
        "id": letter.id,
        "message_id": letter.message_id,
        "died": moment.isoformat(timespec="seconds"),
        "reason": letter.reason,
        "deliveries": letter.deliveries,
        "whole": letter.whole,
        "fields": {name: value.decode(errors="replace") for name, value in letter.fields.items()},
    }


def _excerpt(value: str) -> str:
    return value if len(value) <= EXCERPT else f"{value[:EXCERPT]}…"


def _ask(stream: str, question: Callable[[DeadLetters], Awaitable[T]]) -> T:
    from infra.dead_letters import DeadLetters
    from infra.redis import connect_async, redis_server
    from infra.settings import load_settings

    settings = load_settings()

    async def ask(redis_url: str) -> T:
        redis = connect_async(redis_url)
        try:
            return await question(DeadLetters(redis, f"{settings.namespace}:{stream}"))
        finally:
            await redis.aclose()

    if stream.startswith(f"{settings.namespace}:"):
        raise RecsysError(f"name the stream without the namespace: {stream.partition(':')[2]}")
    with redis_server(settings) as redis_url:
        return asyncio.run(ask(redis_url))
