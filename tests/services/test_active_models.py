"""What is in service follows the registry, and a bundle that is refused changes nothing."""

from __future__ import annotations

import asyncio
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.registry import Registry
from recsys.sealed_folder import BundleRefused
from services import active_models
from services.active_models import ActiveModels, NoModel
from services.schemas import RecommendReply, RecommendRequest
from services.search_schemas import SearchReply, SearchRequest
from services.searcher import SearchQuery
from services.served_model import Query
from tests.films import add_space, films
from tests.hashing_encoder import HashingEncoder
from tests.planted import Planted, add_fitted


@pytest.fixture
def own(registry: Registry, tmp_path: Path) -> Registry:
    """A copy of the registry that a test may change."""
    shutil.copytree(registry.root, tmp_path / "models")
    return Registry(tmp_path / "models")


def version(models: ActiveModels, name: str) -> str:
    [reply] = models.recommender.recommend([Query(RecommendRequest(model=name), ())])
    assert isinstance(reply, RecommendReply)
    return reply.version


def alter(registry: Registry, name: str, version: str) -> None:
    with (registry.path(name, version) / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))


def test_a_version_that_becomes_active_is_served(own: Registry, planted: Planted) -> None:
    models = ActiveModels(own)
    assert not models.refresh()
    add_fitted(own, "popularity", planted)
    assert models.refresh()
    assert version(models, "popularity") == "v0002"
    own.rollback("popularity")
    assert models.refresh()
    assert version(models, "popularity") == "v0001"


def test_requests_under_way_keep_the_models_they_began_with(
    own: Registry, planted: Planted
) -> None:
    models = ActiveModels(own)
    before = models.recommender
    add_fitted(own, "popularity", planted)
    models.refresh()
    assert before.bundles["popularity"].version == "v0001"
    assert models.recommender.bundles["ials"] is before.bundles["ials"]


def test_an_altered_bundle_is_refused_by_name_and_the_one_in_service_stays(
    own: Registry, planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    models = ActiveModels(own)
    refused = add_fitted(own, "popularity", planted)
    alter(own, "popularity", refused)
    with caplog.at_level(logging.ERROR):
        assert not models.refresh()
        assert not models.refresh()
    assert version(models, "popularity") == "v0001"
    [record] = caplog.records
    assert f"popularity/{refused}" in record.getMessage()
    assert "weights.safetensors" in record.getMessage()
    own.rollback("popularity")
    assert not models.refresh()
    better = add_fitted(own, "popularity", planted)
    assert models.refresh()
    assert version(models, "popularity") == better


def test_at_the_start_the_models_that_verify_are_served(own: Registry) -> None:
    alter(own, "ials", "v0001")
    assert set(ActiveModels(own).recommender.bundles) == set(own.names()) - {"ials"}


def point(registry: Registry, name: str, content: str) -> None:
    (registry.root / name / "ACTIVE").write_text(content)


def test_a_model_whose_pointer_is_broken_keeps_no_other_from_being_replaced(
    own: Registry, planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    models = ActiveModels(own)
    whole = (own.root / "ials" / "ACTIVE").read_text()
    point(own, "ials", "nonsense")
    add_fitted(own, "popularity", planted)
    with caplog.at_level(logging.ERROR):
        assert models.refresh()
        assert not models.refresh()
    assert (version(models, "popularity"), version(models, "ials")) == ("v0002", "v0001")
    [record] = caplog.records
    assert "does not say which version is active" in record.getMessage()
    assert models.failing == {"ials": record.getMessage()}
    point(own, "ials", whole)
    add_fitted(own, "ials", planted)
    assert models.refresh()
    assert version(models, "ials") == "v0002"
    assert models.failing == {}


def test_a_version_that_appears_after_it_became_active_is_served_from_then_on(
    own: Registry, planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    models = ActiveModels(own)
    later = add_fitted(own, "ials", planted)
    folder = own.path("ials", later)
    folder.rename(own.root / "ials" / "later")
    with caplog.at_level(logging.ERROR):
        assert not models.refresh()
        assert not models.refresh()
    [record] = caplog.records
    assert later in record.getMessage()
    (own.root / "ials" / "later").rename(folder)
    assert models.refresh()
    assert version(models, "ials") == later


@pytest.mark.parametrize("content", ["nonsense", '{"version": "v0009"}'])
def test_at_the_start_a_broken_pointer_harms_no_other_model(own: Registry, content: str) -> None:
    point(own, "ials", content)
    assert set(ActiveModels(own).recommender.bundles) == set(own.names()) - {"ials"}


def test_a_bundle_that_verifies_but_cannot_answer_is_not_served(
    own: Registry, planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    columns = planted.catalogue.drop_columns(["available"])
    broken = replace(
        planted, catalogue=columns.append_column("available", planted.catalogue["title"])
    )
    models = ActiveModels(own)
    add_fitted(own, "popularity", broken)
    with caplog.at_level(logging.ERROR):
        assert not models.refresh()
    assert version(models, "popularity") == "v0001"
    [record] = caplog.records
    assert "'popularity' cannot be opened" in record.getMessage()
    assert record.exc_info


class Vanishing(Registry):
    """A registry on a share that is away for the first looks, once it may be."""

    away = 0

    def names(self) -> list[str]:
        if self.away > 0:
            self.away -= 1
            raise OSError("the share is away")
        return super().names()


def test_following_goes_on_whatever_happens(
    own: Registry,
    planted: Planted,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(active_models, "WATCH_S", 0.01)
    registry = Vanishing(own.root)
    models = ActiveModels(registry)
    add_fitted(own, "popularity", planted)
    registry.away = 3

    async def story() -> None:
        following = asyncio.create_task(models.follow())
        async with asyncio.timeout(20):
            while version(models, "popularity") != "v0002":
                await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(story())
    [record] = caplog.records
    assert record.exc_info
    assert str(own.root) in record.getMessage()


def test_if_no_bundle_verifies_there_is_no_start(own: Registry) -> None:
    for name in own.names():
        alter(own, name, "v0001")
    with pytest.raises(BundleRefused):
        ActiveModels(own)


def test_without_a_model_the_next_step_is_told(tmp_path: Path, own: Registry) -> None:
    with pytest.raises(NoModel, match="recsys train"):
        ActiveModels(Registry(tmp_path / "empty"))
    for name in own.names():
        (own.root / name / "ACTIVE").unlink()
    with pytest.raises(NoModel, match="recsys models activate"):
        ActiveModels(own)


def test_the_default_is_the_one_that_is_named(own: Registry) -> None:
    assert ActiveModels(own, "sasrec").recommender.default == "sasrec"
    described = ActiveModels(own, "sasrec").describe().models
    assert [model.name for model in described if model.default] == ["sasrec"]


def test_where_the_default_is_not_in_service_the_log_says_which_model_answers_for_it(
    own: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answering = ActiveModels(own, "ghost").recommender.default
    [record] = caplog.records
    assert f"'ghost' is not in service; {answering!r} answers" in record.getMessage()


def test_unless_one_is_named_the_best_measured_is_the_default(
    own: Registry, planted: Planted
) -> None:
    add_fitted(own, "ials", planted, ndcg=0.1)
    add_fitted(own, "popularity", planted, ndcg=0.2)
    models = ActiveModels(own)
    assert models.recommender.default == "popularity"
    add_fitted(own, "ials", planted, ndcg=0.3)
    models.refresh()
    assert models.recommender.default == "ials"


def test_searches_rank_by_what_is_popular_with_the_default_model(
    own: Registry, planted: Planted, tmp_path: Path
) -> None:
    spaces = add_space(tmp_path / "spaces", HashingEncoder(), films())
    models = ActiveModels(own, default="ials", spaces=spaces)
    request = SearchRequest(like=["western-5"], popularity=1000, k=5)
    reply = models.recommender.searcher.search(SearchQuery(request, {}))
    assert isinstance(reply, SearchReply)
    counts = dict(zip(planted.ids, planted.popularity.tolist(), strict=True))
    told = [item.spaces["popularity"].score for item in reply.items]
    assert told == [counts[item.item_id] for item in reply.items] == sorted(told, reverse=True)
