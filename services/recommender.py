"""Recommender: queries in, recommendations out, always a batch and nothing but the batch.

It knows no user, no Redis and no HTTP. Histories come resolved to item ids; a query is turned into
a vector of its model's space and the space's index is searched. It is one state of the service: the
models, the content spaces and the live catalogue over them, exchanged whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import orjson

from recsys.bundle import Bundle
from services.item_schemas import ItemReply
from services.live_catalogue import LiveCatalogue
from services.problems import Invalid, ServiceError, UnknownItem, UnknownModel
from services.schemas import FieldError, RecommendReply, SimilarReply
from services.searcher import Searcher
from services.served_model import Query, ServedModel


class Recommender:
    """The models in service, by name. Pure: nothing changes between calls."""

    def __init__(self, models: Mapping[str, ServedModel], default: str, searcher: Searcher) -> None:
        """`default` answers requests that name no model; raises ValueError if it is none of
        `models`."""
        if default not in models:
            raise ValueError(f"the default model {default!r} is none of {', '.join(models)}")
        self.default = default
        self.searcher = searcher
        self._served = dict(models)

    @classmethod
    def of(cls, bundles: Mapping[str, Bundle], default: str) -> Self:
        """Of models alone, without content spaces."""
        searcher = Searcher({}, LiveCatalogue.empty())
        models = {name: ServedModel(name, bundle, searcher) for name, bundle in bundles.items()}
        return cls(models, default, searcher)

    @property
    def models(self) -> Mapping[str, ServedModel]:
        return self._served

    @property
    def bundles(self) -> dict[str, Bundle]:
        return {name: served.bundle for name, served in self._served.items()}

    def over(self, live: LiveCatalogue) -> Recommender:
        """The same models and spaces under another live catalogue."""
        searcher = self.searcher.over(live)
        models = {name: served.over(searcher) for name, served in self._served.items()}
        return Recommender(models, self.default, searcher)

    def recommend(self, queries: Sequence[Query]) -> list[RecommendReply | ServiceError]:
        """One answer for each query, or the reason why it has none; no query's answer depends on
        the others."""
        answers: dict[int, RecommendReply | ServiceError] = {}
        groups: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            try:
                served = self._model(query.request.model)
                served.check(query.request)
            except ServiceError as error:
                answers[i] = error
            else:
                groups.setdefault(served.name, []).append(i)
        for name, group in groups.items():
            replies = self._served[name].recommend([queries[i] for i in group])
            answers.update(zip(group, replies, strict=True))
        return [answers[i] for i in range(len(queries))]

    def similar(
        self, item_id: str, k: int | None = None, model: str | None = None, space: str | None = None
    ) -> SimilarReply:
        """The k items most similar to one, by the cosine of their vectors in the model's space, or
        in the content space that is named.

        Raises UnknownModel, UnknownSpace, UnknownItem, or Invalid where k is not from 1 to the
        catalogue's size, or both a model and a space are named.
        """
        if model is not None and space is not None:
            message = "give either a model or a content space, not both"
            raise Invalid(f"space: {message}", [FieldError(field="space", message=message)])
        if space is not None:
            return self.searcher.similar(item_id, k, space)
        served = self._model(model)
        served.check_k(k)
        return served.similar(item_id, served.size(k))

    def item(self, item_id: str) -> ItemReply:
        """What is known of an item; raises UnknownItem."""
        rows = self.searcher.catalogue([item_id]).to_pylist()
        entry = self.searcher.live.entries.get(item_id)
        knowing = [served for served in self._served.values() if served.knows(item_id)]
        if not rows and knowing and not self.searcher.live.is_gone(item_id):
            rows = [knowing[0].described(item_id)]
        if not rows:
            raise UnknownItem(f"there is no item {item_id!r}")
        [row] = rows
        return ItemReply(
            item_id=item_id,
            title=row["title"],
            text=row["text"],
            image=row["image"],
            tags=row["tags"] or [],
            attributes=orjson.loads(row["attributes"] or "{}"),
            available=row["available"],
            live=entry is not None,
            spaces=self.searcher.states(item_id),
            reasons={} if entry is None else dict(entry.reasons),
            models=[served.name for served in knowing],
        )

    def _model(self, name: str | None) -> ServedModel:
        served = self._served.get(self.default if name is None else name)
        if served is None:
            raise UnknownModel(
                f"there is no model {name!r} in service; there are {', '.join(self._served)}"
            )
        return served
