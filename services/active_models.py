"""The models in service: the registry's active bundles as one Recommender, replaced whole.

What is in service follows the registry's pointers, each model by itself. Requests under way keep
the Recommender that they began with; the next ones get the new one, every model of which has
answered a query by then. A model that cannot be opened changes nothing but the log: what is in
service of it stays, and it is tried again, unless it is a bundle that was refused, which is tried
again only after another version was active.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import numpy as np

from infra.errors import RecsysError
from recsys.bundle import Bundle
from recsys.registry import Registry
from recsys.sealed_folder import BundleRefused
from services.problems import ServiceError
from services.recommender import Query, Recommender
from services.schemas import ModelInfo, ModelsReply, RecommendRequest

logger = logging.getLogger(__name__)

DEFAULT_METRIC = "ndcg@10"
"""Unless one is named, the model that measured best by this is the default."""

WATCH_S = 1.0
"""Seconds between two looks at which versions are active."""


class NoModel(RecsysError):
    """No version of any model is active."""


class ActiveModels:
    """Opens what is active in a registry, and follows it."""

    def __init__(self, registry: Registry, default: str | None = None) -> None:
        """default: the model that answers requests that name none; the best one if it is None or,
        with a warning, not in service.

        Raises NoModel, or if no active model can be opened, what is wrong with the first of them,
        such as BundleRefused.
        """
        self.failing: dict[str, str] = {}
        """What is wrong with each model whose active version could not be opened."""

        self._registry = registry
        self._default = default
        self._refused: dict[str, str] = {}  # why, by NAME@VERSION
        bundles, errors = self._open({})
        if not bundles:
            raise next(iter(errors), self._no_model())
        self.recommender = Recommender(bundles, self._default_of(bundles))

    def refresh(self) -> bool:
        """Bring into service what has become active since, and say whether anything did.

        What is wrong with a model is logged once; its version in service stays.
        """
        before = self.recommender.bundles
        bundles, _ = self._open(before)
        if not bundles or bundles == before:
            return False
        self.recommender = Recommender(bundles, self._default_of(bundles))
        return True

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
                    logger.exception("the registry %s cannot be followed", self._registry.root)
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
                    versions=self._registry.versions(name),
                    default=name == recommender.default,
                    created=bundle.manifest.created,
                    n_items=len(bundle.items),
                    metrics=[report.to_dict() for report in bundle.manifest.metrics],
                    index=bundle.manifest.index,
                )
                for name, bundle in recommender.bundles.items()
            ]
        )

    def _open(self, before: Mapping[str, Bundle]) -> tuple[dict[str, Bundle], list[RecsysError]]:
        """The bundles to be in service after those of `before`, and what is wrong with others."""
        bundles: dict[str, Bundle] = {}
        errors: list[RecsysError] = []
        failing: dict[str, str] = {}
        refused: dict[str, str] = {}
        for name in self._registry.names():
            bundle = before.get(name)
            try:
                version = self._registry.active(name)
                if version is None:
                    continue
                reference = f"{name}@{version}"
                if reference in self._refused:
                    refused[reference] = failing[name] = self._refused[reference]
                elif bundle is None or version != bundle.version:
                    bundle = self._answering(name, version)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is of this model alone
                errors.append(self._told(name, error))
                failing[name] = str(errors[-1])
                if isinstance(error, BundleRefused):
                    refused[reference] = failing[name]
            if bundle is not None:
                bundles[name] = bundle
        self.failing, self._refused = failing, refused
        return bundles, errors

    def _answering(self, name: str, version: str) -> Bundle:
        """The bundle, verified, after it has answered a query."""
        bundle = self._registry.open(f"{name}@{version}")
        query = Query(RecommendRequest(), bundle.items.ids(np.zeros(1, np.int64)))
        [reply] = Recommender({name: bundle}, name).recommend([query])
        if isinstance(reply, ServiceError):
            raise reply
        return bundle

    def _told(self, name: str, error: Exception) -> RecsysError:
        """The error for a reader, logged unless it was."""
        if isinstance(error, RecsysError):
            told = error
        else:
            told = RecsysError(f"the model {name!r} cannot be opened: {error!r}")
            told.__cause__ = error
        if self.failing.get(name) != str(told):
            logger.error("%s", told, exc_info=told.__cause__)
        return told

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
        root = self._registry.root
        return NoModel(
            f"no model of {root} is active: choose one with `recsys models activate`"
            if self._registry.names()
            else f"there is no model in {root}: fit one with `recsys train`"
        )


def _measured(bundle: Bundle) -> float:
    reports = bundle.manifest.metrics
    values = [r.metrics[DEFAULT_METRIC].value for r in reports if DEFAULT_METRIC in r.metrics]
    return max(values, default=-1.0)
