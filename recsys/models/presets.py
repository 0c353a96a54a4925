"""Presets: hyper-parameters by what the data is like, where one default does not suit all.

Those for long histories were chosen on the validation part of MovieLens 1M, those for short ones on
that of Amazon Beauty (benchmarks/RESULTS.md), never on a test part.
"""

from __future__ import annotations

from typing import Any

from infra.errors import RecsysError

LONG_HISTORIES: dict[str, Any] = {
    "block": "gated",
    "dim": 128,
    "dropout": 0.3,
    "max_length": 200,
    "blocks": 4,
    "batch_events": 1024,
}
"""Dozens of events a user or more, of items with many events each: films, music, news."""

SHORT_HISTORIES: dict[str, Any] = {
    "block": "gated",
    "dim": 128,
    "dropout": 0.5,
    "max_length": 50,
    "batch_events": 512,
}
"""A few events a user, of items with a few each: shops. More is dropped, for there is less to
learn from and more to learn by heart."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "sasrec": {"long-histories": LONG_HISTORIES, "short-histories": SHORT_HISTORIES},
}


def preset(kind: str, name: str) -> dict[str, Any]:
    """A kind's hyper-parameters by the name; raises RecsysError naming those there are."""
    of_kind = PRESETS.get(kind, {})
    if name not in of_kind:
        known = ", ".join(of_kind) or "none, its defaults suit all"
        raise RecsysError(f"{kind} has no preset {name!r}; there are: {known}")
    return of_kind[name]
