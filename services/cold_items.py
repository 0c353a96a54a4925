"""Cold items: what a model never learnt, made recommendable by what its items are.

These are the items that came after the model's training and those that were in its catalogue but in
no history. A bridge maps the vectors of an item's contents and its tags into the model's space. It
was fitted to one version of the model and to the encoders of some spaces, and serves those alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.bridge_bundle import BridgeBundle
from recsys.bundle import Bundle
from recsys.content_bundle import ContentBundle
from recsys.data.vocabulary import UNKNOWN, Vocabulary
from services.candidates import Candidates, Ranking, search
from services.live_catalogue import LiveCatalogue, Overlay
from services.schemas import Recommendation, RecommendRequest
from services.shelf import Shelf, flat


@dataclass(frozen=True, eq=False)
class ColdShelf:
    """Cold items, and who of them may come."""

    shelf: Shelf
    rows: NDArray[np.int64]
    """Int64[M], the row that each has in the model's bundle too; UNKNOWN where it has none."""

    available: NDArray[np.bool_]
    """Bool[M]."""

    overlay: Overlay
    """What is live, as these rows see it."""

    space: str
    """Whose their vectors are."""

    def candidates(
        self,
        request: RecommendRequest,
        k: int,
        history: Sequence[str],
        passes: NDArray[np.bool_] | None,
    ) -> Candidates:
        """What of the shelf may answer the request.

        passes: Bool[M], the rows that pass the request's filters; None where it has none.
        """
        seen = self.shelf.known(history)
        return Candidates.of(self.shelf, self.available, request, k, seen, passes)

    def best(
        self, vectors: NDArray[np.float32], wanted: Mapping[int, Candidates]
    ) -> dict[int, list[Recommendation]]:
        """For each query in `wanted`, whose vector is `vectors[i]`, those of its candidates that
        have the largest inner products with it."""
        rankings = search(self.shelf.index, vectors, wanted, self.available)
        return {i: self._items(ranking) for i, ranking in rankings.items()}

    def _items(self, ranking: Ranking) -> list[Recommendation]:
        scores, rows = ranking
        named = zip(
            self.shelf.ids.take(rows).to_pylist(),
            self.shelf.titles.take(rows).to_pylist(),
            scores.tolist(),
            strict=True,
        )
        return [
            Recommendation(
                item_id=item_id,
                title=self.overlay.live.title(item_id, title),
                score=score,
                space=self.space,
                bridged=True,
            )
            for item_id, title, score in named
        ]


class ColdItems:
    """The items of the content spaces that a model never learnt."""

    def __init__(
        self, bundle: Bundle, bridge: BridgeBundle, spaces: Mapping[str, ContentBundle]
    ) -> None:
        """The bridge is of the bundle and of the spaces: see `bridges_to`."""
        self._bundle = bundle
        self._bridge = bridge
        self._main = self._bridged([spaces[name] for name in bridge.fingerprints])
        self._rows = bundle.items.rows([] if self._main is None else self._main.ids)

    @staticmethod
    def bridges_to(
        bridge: BridgeBundle, bundle: Bundle, spaces: Mapping[str, ContentBundle]
    ) -> bool:
        """Whether the bridge is one from the spaces in service to this version of the model."""
        return bridge.manifest.model_version == bundle.version and all(
            name in spaces and spaces[name].manifest.fingerprint == fingerprint
            for name, fingerprint in bridge.fingerprints.items()
        )

    def under(self, live: LiveCatalogue, may: NDArray[np.bool_]) -> list[ColdShelf]:
        """The cold items of the main indexes, and the live ones.

        may: Bool[N], the rows of the bundle that may be found; an item must be available by all
        that is said of it."""
        found: list[ColdShelf] = []
        added = self._bridged_live(live)
        if self._main is not None:
            overlay = live.over(self._main.items)
            available = self._main.available(overlay)
            if added is not None:  # what was embedded anew comes from there and not from here
                available[self._main.known(added.ids.to_pylist())] = False
            found.append(self._laid(self._main, self._rows, available, overlay, may))
        if added is not None:
            rows = self._bundle.items.rows(added.ids.to_pylist())
            overlay = live.over(added.items)
            found.append(self._laid(added, rows, added.rules.available, overlay, may))
        return found

    def _laid(
        self,
        shelf: Shelf,
        rows: NDArray[np.int64],
        available: NDArray[np.bool_],
        overlay: Overlay,
        may: NDArray[np.bool_],
    ) -> ColdShelf:
        available = available & ((rows == UNKNOWN) | may[rows])
        return ColdShelf(shelf, rows, available, overlay, self._bundle.manifest.kind)

    def _bridged(self, spaces: list[ContentBundle]) -> Shelf | None:
        first = spaces[0]
        cold = self._bundle.never_learnt(first.items.to_arrow())
        rows = [np.flatnonzero(cold)]
        for other in spaces[1:]:
            at = other.items.rows(first.items.to_arrow().take(pa.array(rows[0])))
            rows = [each[at != UNKNOWN] for each in rows] + [at[at != UNKNOWN]]
        if not len(rows[0]):
            return None
        vectors = [space.vectors[at] for space, at in zip(spaces, rows, strict=True)]
        return self._mapped(vectors, first.catalogue.take(pa.array(rows[0])))

    def _bridged_live(self, live: LiveCatalogue) -> Shelf | None:
        shelves = [live.shelf(*encoder) for encoder in self._bridge.fingerprints.items()]
        found = [shelf for shelf in shelves if shelf is not None]
        if len(found) < len(shelves):
            return None
        first = found[0]
        cold = self._bundle.never_learnt(first.ids.to_pylist())
        ids = Vocabulary(first.ids.filter(pa.array(cold)))
        at = np.stack([shelf.items.rows(ids.to_arrow()) for shelf in found])
        at = at[:, (at != UNKNOWN).all(axis=0)]
        if not at.shape[1]:
            return None
        vectors = [shelf.index.vectors[rows] for shelf, rows in zip(found, at, strict=True)]
        return self._mapped(vectors, first.catalogue.take(pa.array(at[0])))

    def _mapped(self, vectors: Sequence[NDArray[np.float32]], catalogue: pa.Table) -> Shelf:
        return Shelf(catalogue, flat(self._bridge.map(vectors, catalogue["tags"])))
