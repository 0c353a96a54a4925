"""The catalogue's part of the demonstration: embedded by the queue, searched, added to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape

from services.cli.console import err, out
from services.cli.embed import check, run_job
from services.cli.search import print_found

if TYPE_CHECKING:
    from infra.settings import Settings
    from recsys.data.dataset import Dataset

WORDS = "a lonely rider meets the law in a desert town"
"""What is searched for among the films that are made up: words of none of their titles."""

PATIENCE_S = 60.0
"""For a new item to be embedded, on a busy machine."""


def embed(settings: Settings, redis_url: str, dataset: Dataset) -> bool:
    """Embed the texts by an embedding job, with a worker of its own; whether there is a model."""
    from encoders.catalog import fingerprint_of
    from encoders.checkpoint import NoModel
    from encoders.text_input import DEFAULT_TEXT_MODEL

    try:
        fingerprint_of("text", DEFAULT_TEXT_MODEL)
    except NoModel as error:
        err.print(f"[yellow]note:[/] no search by words: {escape(error.message)}")
        return False
    models = {"text": DEFAULT_TEXT_MODEL}
    job = asyncio.run(run_job(settings, redis_url, dataset.path, models))
    check(job)
    [space] = job.spaces
    rate = f", {job.rate:,.0f} a second" if job.rate else ""
    out.print(f"{space.vectors:,} texts in the space [bold]text[/]{rate}\n")
    return True


def bridge(settings: Settings, dataset: Dataset, models: Sequence[str]) -> None:
    """Fit a bridge from the texts to each model, so that it recommends what is new."""
    from recsys.bridging import bridge as fit_bridge
    from recsys.registry import Bridges, Registry, Spaces

    registry, bridges = Registry(settings.models_dir), Bridges(settings.bridges_dir)
    space = Spaces(settings.spaces_dir).open_active("text")
    for name in models:
        with err.status(f"Bridging from the texts to {name}"):
            bridged = fit_bridge(bridges, registry.open_active(name), [space], dataset)
            bridges.activate(name, bridged.version)


def show_search(url: str, dataset: Dataset, made_up: bool) -> None:
    """Search by words, put a new item in, and find it."""
    from services.client import Client
    from services.item_schemas import Item, ItemState
    from services.schemas import RecommendRequest
    from services.search_schemas import SearchRequest

    # Its own title is what a catalogue of anything can be searched by.
    words = WORDS if made_up else str(dataset.catalogue["title"][0])
    with Client(url) as client:
        out.print(f"[bold]Searched for[/] {escape(repr(words))}")
        print_found(client.search(SearchRequest(text=words, k=5)))
        if not made_up:
            return
        new = Item(
            item_id="new",
            title="The Marshal of Dry Creek",
            text="A Western film: sheriff, saddle, ranch; dusty and lonesome.",
            tags=["Western"],
        )
        began = time.perf_counter()
        client.put_items([new])
        while client.item("new").spaces["text"] is not ItemState.READY:
            if time.perf_counter() - began > PATIENCE_S:
                out.print("A film put in just now still waits to be embedded.\n")
                return
            time.sleep(0.05)
        took = time.perf_counter() - began
        found = [item.item_id for item in client.search(SearchRequest(text=words, k=50)).items]
        place = f"place {found.index('new') + 1}" if "new" in found else "not among the first 50"
        told = f"{new.title!r}, put in just now, was embedded and searchable after {took:.1f} s"
        out.print(f"{told}: {place} of the same search.", markup=False)
        western = dataset.items.ids(_westerns(dataset))
        reply = client.recommend(RecommendRequest(history=western, k=50))
        places = [i for i, item in enumerate(reply.items, 1) if item.bridged]
        if places:
            out.print(
                f"Who watched {len(western)} Westerns gets it recommended by {reply.model} at "
                f"place {places[0]}, though nobody has watched it yet.\n",
                markup=False,
            )


def _westerns(dataset: Dataset) -> NDArray[np.int64]:
    """Int64[5], the most watched ones."""
    from recsys.retrieval.rules import Rules

    watched = np.bincount(dataset.histories.items, minlength=len(dataset.items))
    watched[~Rules(dataset.catalogue).bearing(["Western"])] = 0
    best: NDArray[np.int64] = np.argsort(-watched, kind="stable")[:5]
    return best
