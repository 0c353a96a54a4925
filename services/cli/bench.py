"""`recsys bench`: measure this machine, beside the peers where there are any."""

from __future__ import annotations

import runpy
import sys
from typing import Annotated

import typer

from infra.errors import RecsysError

NAME = "bench"

BENCHMARKS = {
    "train": "quality against time of training: ours, EASE, implicit and RecTools on one split",
    "warm-start": "seconds to a quality from yesterday's model, beside from nothing",
    "scaling": "the same training on 1, 2, 4 .. workers of one core each",
    "als": "seconds of iALS to the loss at which implicit ends",
    "quality": "popularity and iALS beside implicit, each at its best, on one split",
    "cold-start": "new items by their content alone: the bridge, beside text-nearest and others",
    "ratings": "rating prediction beside Surprise on the same folds",
    "search": "films asked for in other words: text, re-ranked text and fusion",
    "index": "index types at the promised recall beside exact search, hnswlib and usearch",
    "images": "an image encoder trained on the catalogue's pictures, beside pixels and chance",
    "serving": "answers a second over HTTP and the queue, and how long each takes",
    "embed": "texts a second through the queue, beside SentenceTransformer alone",
    "events": "how fast events are imported, and in how much memory",
}


def command(
    context: typer.Context,
    benchmark: Annotated[
        str, typer.Argument(help="; ".join(f"[bold]{k}[/]: {v}" for k, v in BENCHMARKS.items()))
    ],
) -> None:
    """Measure, and print the command, the machine, the versions and the ratios with the figures.

    What stands after the name goes to the benchmark; with --help there it says what it takes.
    Peers are installed into virtual environments of their own under the state folder.

      recsys bench train ./ml-1m --models ease ials sasrec rectools
      recsys bench train ./ml-1m --models ease ials sasrec rectools --resume
      recsys bench serving -- --help
    """
    if benchmark not in BENCHMARKS:
        raise RecsysError(f"there is no benchmark {benchmark!r}; there are {', '.join(BENCHMARKS)}")
    sys.argv = [f"recsys bench {benchmark}", *context.args]
    module = f"benchmarks.{benchmark.replace('-', '_')}"
    runpy.run_module(module, run_name="__main__", alter_sys=False)
