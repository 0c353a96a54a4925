"""The registry keeps every version, and its pointer is always on one that verifies."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.bundle import Bundle, Manifest, seal
from recsys.models.popularity import Popularity, PopularityConfig
from recsys.registry import Registry, RegistryError
from recsys.retrieval.index import Index
from recsys.sealed_folder import BundleRefused


def write(folder: Path) -> Manifest:
    model = Popularity(PopularityConfig(), np.linspace(0, 1, 5, dtype=np.float32)[:, None])
    return seal(
        folder,
        model=model,
        catalogue=pa.table({"item_id": list("abcde"), "title": list("ABCDE")}),
        popularity=np.arange(5),
        index=Index.build(model.item_vectors),
        data_fingerprint="data",
        metrics=[],
        cost={},
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def add(registry: Registry, n: int) -> list[str]:
    return [registry.add("ials", write) for _ in range(n)]


def spoil(registry: Registry, version: str) -> None:
    os.truncate(registry.path("ials", version) / "weights.safetensors", 3)


def test_versions_are_counted_up(registry: Registry) -> None:
    assert registry.names() == []
    assert add(registry, 3) == registry.versions("ials") == ["v0001", "v0002", "v0003"]
    assert registry.names() == ["ials"]


def test_versions_past_9999_stay_in_order(registry: Registry) -> None:
    [first] = add(registry, 1)
    registry.path("ials", first).rename(registry.root / "ials" / "v9999")
    assert add(registry, 2) == ["v10000", "v10001"]
    assert registry.versions("ials") == ["v9999", "v10000", "v10001"]


def test_an_added_version_is_not_active(registry: Registry) -> None:
    add(registry, 1)
    assert registry.active("ials") is None
    with pytest.raises(RegistryError, match="recsys models activate ials v0001"):
        registry.open_active("ials")


def test_the_active_version_is_opened(registry: Registry) -> None:
    add(registry, 2)
    registry.activate("ials", "v0001")
    assert registry.active("ials") == "v0001"
    assert registry.open_active("ials").version == "v0001"
    assert registry.open("ials").version == "v0001"
    assert registry.open("ials@v0002").version == "v0002"


def test_a_writer_that_fails_adds_nothing(registry: Registry) -> None:
    def fail(folder: Path) -> Manifest:
        write(folder)
        raise RuntimeError("no more disk")

    with pytest.raises(RuntimeError):
        registry.add("ials", fail)
    assert registry.versions("ials") == []
    assert list((registry.root / "ials").iterdir()) == []


def test_what_does_not_verify_is_not_added(registry: Registry) -> None:
    def write_badly(folder: Path) -> Manifest:
        manifest = write(folder)
        (folder / "config.json").write_text("{}")
        return manifest

    with pytest.raises(BundleRefused):
        registry.add("ials", write_badly)
    assert registry.versions("ials") == []


def test_a_refused_version_leaves_the_active_one_in_place(registry: Registry) -> None:
    add(registry, 2)
    registry.activate("ials", "v0001")
    spoil(registry, "v0002")
    with pytest.raises(BundleRefused, match=r"v0002 is refused: weights\.safetensors"):
        registry.activate("ials", "v0002")
    assert registry.active("ials") == "v0001"


def test_rolling_back_goes_back_step_by_step(registry: Registry) -> None:
    for version in add(registry, 3):
        registry.activate("ials", version)
    assert registry.rollback("ials") == "v0002"
    assert registry.rollback("ials") == "v0001"
    assert registry.active("ials") == "v0001"
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        registry.rollback("ials")


def test_activating_the_active_version_again_is_no_step(registry: Registry) -> None:
    first, second = add(registry, 2)
    for version in (first, second, second):
        registry.activate("ials", version)
    assert registry.rollback("ials") == first


def test_rolling_back_to_a_spoilt_version_is_refused(registry: Registry) -> None:
    for version in add(registry, 2):
        registry.activate("ials", version)
    spoil(registry, "v0001")
    with pytest.raises(BundleRefused):
        registry.rollback("ials")
    assert registry.active("ials") == "v0002"


def test_what_is_not_there_is_named(registry: Registry) -> None:
    add(registry, 1)
    with pytest.raises(
        RegistryError, match=r"no version 'v0009' of the model 'ials'; it has v0001"
    ):
        registry.activate("ials", "v0009")
    with pytest.raises(RegistryError, match="no model 'bpr'; the registry has ials"):
        registry.open("bpr")
    with pytest.raises(RegistryError, match="no version of the model 'ials' was ever active"):
        registry.rollback("ials")
    with pytest.raises(RegistryError, match="no model 'bpr'"):
        registry.rollback("bpr")


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", "UPPER", ".hidden", "a" * 65, "a\n"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="cannot name a model"):
        registry.add(name, write)
    assert not registry.root.exists()


@pytest.mark.parametrize("version", ["..", "v1", "v0001/../v0001", "ACTIVE", ".lock"])
def test_a_version_is_never_a_path(registry: Registry, version: str) -> None:
    add(registry, 1)
    registry.activate("ials", "v0001")
    with pytest.raises(RegistryError, match="there is no version"):
        registry.activate("ials", version)


@pytest.mark.parametrize("content", ["", "{}", '{"version": "../../elsewhere"}', "v0001"])
def test_a_pointer_that_does_not_read_is_named(registry: Registry, content: str) -> None:
    add(registry, 1)
    (registry.root / "ials" / "ACTIVE").write_text(content)
    with pytest.raises(RegistryError, match="ACTIVE does not say which version is active"):
        registry.active("ials")


ADD_AND_ACTIVATE = """
import shutil, sys
from pathlib import Path
from recsys.registry import Registry

registry = Registry(Path(sys.argv[1]))
first = registry.path("ials", "v0001")
for _ in range(5):
    registry.activate("ials", registry.add("ials", lambda folder: shutil.copytree(first, folder)))
"""


def test_processes_that_add_and_activate_at_once_lose_nothing(registry: Registry) -> None:
    registry.activate("ials", registry.add("ials", write))
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD_AND_ACTIVATE, str(registry.root)])
        for _ in range(3)
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert registry.versions("ials") == [f"v{n:04d}" for n in range(1, 17)]
    seen = {registry.open_active("ials").version}
    for _ in range(15):
        seen.add(registry.rollback("ials"))
    assert seen == set(registry.versions("ials"))


def activated(registry: Registry, n: int) -> None:
    for version in add(registry, n):
        registry.activate("ials", version)


def test_pruning_keeps_the_newest_versions(registry: Registry) -> None:
    activated(registry, 5)
    assert registry.prune("ials", 2) == ["v0001", "v0002"]
    assert registry.versions("ials") == ["v0003", "v0004", "v0005"]
    assert {path.name for path in (registry.root / "ials").iterdir()} == {
        *("ACTIVE", ".lock", "v0003", "v0004", "v0005")
    }


def test_pruning_that_would_keep_no_version_is_refused(registry: Registry) -> None:
    activated(registry, 2)
    with pytest.raises(ValueError, match="keep must be at least 1, not 0"):
        registry.prune("ials", 0)


def test_pruning_keeps_the_active_version_and_those_that_a_rollback_leads_to(
    registry: Registry,
) -> None:
    activated(registry, 3)
    assert registry.rollback("ials") == "v0002"
    add(registry, 3)
    registry.prune("ials", 1)
    assert registry.versions("ials") == ["v0001", "v0002", "v0006"]
    assert registry.rollback("ials") == "v0001"


def test_after_pruning_a_rollback_passes_over_what_is_gone(registry: Registry) -> None:
    activated(registry, 4)
    registry.prune("ials", 1)
    assert registry.rollback("ials") == "v0003"
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        registry.rollback("ials")


def test_a_bundle_that_is_open_answers_after_it_was_pruned(registry: Registry) -> None:
    activated(registry, 1)
    bundle = registry.open_active("ials")
    activated(registry, 2)
    assert registry.prune("ials", 1) == ["v0001"]
    scores, _ = bundle.index.search(np.ones((1, 1), np.float32), 5)
    np.testing.assert_allclose(scores[0], [1, 0.75, 0.5, 0.25, 0])


def test_who_opens_the_active_version_while_it_is_replaced_and_pruned_gets_the_next(
    registry: Registry,
) -> None:
    activated(registry, 1)

    class Late(Registry):
        @staticmethod
        def read(folder: Path) -> Bundle:
            if folder.name == "v0001":
                activated(registry, 2)
                registry.prune("ials", 1)
            return Registry.read(folder)

    assert Late(registry.root).open_active("ials").version == "v0003"
