"""The models and content spaces in service: what the registries say, as one Recommender.

What is in service follows the registries' pointers. Requests under way keep the Recommender that
they began with; the next ones get the new one, every model of which has answered a query by then.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping

import numpy as np

from infra.errors import RecsysError
from recsys.bridge_bundle import BridgeBundle
from recsys.bundle import Bundle
from recsys.content_bundle import ContentBundle
from recsys.registry import Bridges, Registry, Spaces
from services.active_versions import ActiveVersions
from services.cold_items import ColdItems
from services.live_catalogue import LiveCatalogue
from services.popularity import Popularity
from services.problems import ServiceError
from services.recommender import Recommender
from services.schemas import ModelInfo, ModelsReply, RecommendRequest
from services.search_schemas import SearchRequest
from services.searcher import Searcher, SearchQuery
from services.served_model import Query, ServedModel

logger = logging.getLogger(__name__)

DEFAULT_METRIC = "ndcg@10"
"""Unless one is named, the model that measured best by this is the default."""

WATCH_S = 1.0
"""Seconds between two looks at which versions are active."""


class NoModel(RecsysError):
    """No version of any model is active."""


class ActiveModels:
    """Opens what is active in the registries, and follows them."""

    def __init__(
        self,
        registry: Registry,
        default: str | None = None,
        spaces: Spaces | None = None,
        bridges: Bridges | None = None,
        is_ready: Callable[[str, str], bool] | None = None,
    ) -> None:
        """default: the model that answers requests that name none; the best one if it is None or,
        with a warning, not in service.

        Raises NoModel, or if no active model can be opened, what is wrong with the first of them,
        such as BundleRefused. A content space or bridge that cannot be opened is logged, and not in
        service.
        is_ready: called with the name and version of a space; whether its queries can be encoded.
        Until then the version before stays in service.
        """
        self._default = default
        self._models = ActiveVersions(registry, _model_answers)
        self._spaces = None if spaces is None else ActiveVersions(spaces, _space_answers, is_ready)
        self._bridges = None if bridges is None else ActiveVersions(bridges)
        self._told: dict[str, str] = {}  # what was said of bridges that lead elsewhere
        self._live = LiveCatalogue.empty()
        self._refreshing = threading.Lock()
        self._exchange = threading.Lock()
        errors = self._models.look()
        if not self._models.bundles:
            raise next(iter(errors), self._no_model())
        self._look_at_content()
        self.recommender = self._recommender({})

    @property
    def failing(self) -> dict[str, str]:
        """What is wrong with each model whose active version could not be opened."""
        return self._models.failing

    def refresh(self) -> bool:
        """Bring into service what has become active since, and say whether anything did.

        What is wrong with a model is logged once; its version in service stays.
        """
        with self._refreshing:  # two may ask: who follows the registries, and the live items
            before = self.recommender
            bridges = self._open_bridges()
            self._models.look()
            self._look_at_content()
            models = self._models.bundles
            same = self._content() == before.searcher.bundles and self._open_bridges() == bridges
            if not models or (models == before.bundles and same):
                return False
            recommender = self._recommender(before.models if same else {})
            with self._exchange:
                self.recommender = recommender.over(self._live)
            return True

    def lay(self, live: LiveCatalogue) -> None:
        """Answer under this live catalogue from now on; until it is laid, as before."""
        with self._exchange:
            self._live = live
            self.recommender = self.recommender.over(live)

    async def follow(self) -> None:
        """Refresh for ever, in a thread, while requests are answered."""
        told = ""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await asyncio.to_thread(self.refresh)
                told = ""
            except Exception as error:  # whatever it is, what becomes active later must be found
                if str(error) != told:
                    logger.exception(
                        "the registry %s cannot be followed", self._models.registry.root
                    )
                told = str(error)

    def describe(self) -> ModelsReply:
        """What is in service, for a reader."""
        recommender = self.recommender
        return ModelsReply(
            models=[
                ModelInfo(
                    name=name,
                    kind=bundle.manifest.kind,
                    version=bundle.version,
                    versions=self._models.registry.versions(name),
                    default=name == recommender.default,
                    created=bundle.manifest.created,
                    n_items=len(bundle.items),
                    metrics=[report.to_dict() for report in bundle.manifest.metrics],
                    index=bundle.manifest.index,
                )
                for name, bundle in recommender.bundles.items()
            ]
        )

    def _look_at_content(self) -> None:
        for each in (self._spaces, self._bridges):
            if each is not None:
                each.look()

    def _content(self) -> dict[str, ContentBundle]:
        return {} if self._spaces is None else self._spaces.bundles

    def _open_bridges(self) -> dict[str, BridgeBundle]:
        return {} if self._bridges is None else self._bridges.bundles

    def _cold(self, name: str, bundle: Bundle) -> ColdItems | None:
        """The items that a model never learnt, where a bridge leads from what is in service to
        this version of it."""
        bridge = self._open_bridges().get(name)
        if bridge is None:
            return None
        if ColdItems.bridges_to(bridge, bundle, self._content()):
            self._told.pop(name, None)
            return ColdItems(bundle, bridge, self._content())
        why = (
            f"the bridge {name} {bridge.version} is of another version of the model, or from other "
            f"encoders than those in service, so {name} recommends no new items: fit one with "
            f"`recsys bridge fit {name}`"
        )
        if self._told.get(name) != why:
            logger.warning("%s", why)
        self._told[name] = why
        return None

    def _recommender(self, kept: Mapping[str, ServedModel]) -> Recommender:
        """Of what is open now; `kept` models are taken over where their bundles are the same."""
        bundles = self._models.bundles
        default = self._default_of(bundles)
        popularity = Popularity(bundles[default].items, bundles[default].popularity)
        searcher = Searcher(self._content(), self._live, popularity)
        models = {}
        for name, bundle in bundles.items():
            before = kept.get(name)
            if before is not None and before.bundle is bundle:
                models[name] = before.over(searcher)
            else:
                models[name] = ServedModel(name, bundle, searcher, self._cold(name, bundle))
        return Recommender(models, default, searcher)

    def _default_of(self, bundles: Mapping[str, Bundle]) -> str:
        if self._default is not None and self._default in bundles:
            return self._default
        best = max(bundles, key=lambda name: _measured(bundles[name]))
        if self._default is not None:
            logger.warning(
                "the default model %r is not in service; %r answers in its place",
                *(self._default, best),
            )
        return best

    def _no_model(self) -> NoModel:
        root = self._models.registry.root
        return NoModel(
            f"no model of {root} is active: choose one with `recsys models activate`"
            if self._models.registry.names()
            else f"there is no model in {root}: fit one with `recsys train`"
        )


def _model_answers(name: str, bundle: Bundle) -> None:
    """Raise unless the bundle answers a query."""
    query = Query(RecommendRequest(), bundle.items.ids(np.zeros(1, np.int64)))
    [reply] = Recommender.of({name: bundle}, name).recommend([query])
    if isinstance(reply, ServiceError):
        raise reply


def _space_answers(name: str, bundle: ContentBundle) -> None:
    """Raise unless the bundle answers a search."""
    request = SearchRequest(like=bundle.items.ids(np.zeros(1, np.int64)))
    searcher = Searcher({name: bundle}, LiveCatalogue.empty())
    reply = searcher.search(SearchQuery(request, {}))
    if isinstance(reply, ServiceError):
        raise reply


def _measured(bundle: Bundle) -> float:
    reports = bundle.manifest.metrics
    values = [r.metrics[DEFAULT_METRIC].value for r in reports if DEFAULT_METRIC in r.metrics]
    return max(values, default=-1.0)
