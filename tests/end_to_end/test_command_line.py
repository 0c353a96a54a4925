"""The command line, as a person types it: one story on a small data set, and its refusals."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from recsys.data.dataset import Dataset
from recsys.registry import Registry


def recsys(
    *arguments: str | Path, state: Path | str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command with a state folder of its own."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("RECSYS_")}
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *map(str, arguments)],
        env={**environment, "RECSYS_STATE_DIR": str(state), "COLUMNS": "200"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def json_of(result: subprocess.CompletedProcess[str]) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def films(state: Path, shared_data: Path) -> Path:
    """ml-100k, imported, with two models trained on it in this process's children."""
    folder = state / "films"
    info = json_of(recsys("data", "import", shared_data / "ml-100k", folder, "--json", state=state))
    assert info["events"] == 100_000
    for kind, options in (("popularity", ()), ("ials", ("--set", "dim=16", "--epochs", "2"))):
        arguments = ("train", kind, "--data", folder, "--workers", "0", "--json", *options)
        trained = json_of(recsys(*arguments, state=state))
        assert trained["active"]
    return folder


def test_the_models_are_listed_and_shown(films: Path, state: Path) -> None:
    listed = json_of(recsys("models", "list", "--json", state=state))
    assert {row["name"] for row in listed if row["active"]} == {"ials", "popularity"}
    shown = json_of(recsys("models", "show", "ials", "--json", state=state))
    assert shown["cost"]["wall_s"] > 0
    assert films.is_dir()


def test_evaluation_tells_a_model_from_popularity(films: Path, state: Path) -> None:
    reports = json_of(recsys("evaluate", "--data", films, "-k", "10", "--json", state=state))
    ndcg = {name: report["metrics"]["ndcg@10"]["value"] for name, report in reports.items()}
    assert ndcg["ials"] > 1.5 * ndcg["popularity"]


def test_an_index_is_built_anew_as_a_new_version_and_rolled_back(films: Path, state: Path) -> None:
    built = json_of(recsys("index", "build", "ials", "--recall", "0.99", "--json", state=state))
    assert (built["version"], built["active"], built["index"]["type"]) == ("v0002", True, "exact")
    listed = json_of(recsys("models", "list", "--json", state=state))
    (active,) = [row["version"] for row in listed if row["name"] == "ials" and row["active"]]
    assert active == "v0002"
    assert json_of(recsys("index", "show", "ials", "--json", state=state)) == built["index"]
    back = json_of(recsys("models", "rollback", "ials", "--json", state=state))
    assert back == {"name": "ials", "version": "v0001"}
    again = json_of(recsys("models", "activate", "ials", "v0001", "--json", state=state))
    assert again == back
    assert films.is_dir()


def test_a_warm_start_goes_on_from_the_active_version_of_the_same_split(
    ring: Path, state: Path
) -> None:
    train = ("train", "ials", "--data", ring, "--workers", "0", "--name", "warm", "--epochs", "1")
    assert recsys(*train, state=state).returncode == 0
    refused = recsys(*train, "--warm-start", "--split", "temporal", state=state)
    assert refused.returncode == 1
    assert "warm v0001 was fitted with --split leave_one_out" in refused.stderr
    assert recsys(*train, "--warm-start", state=state).returncode == 0
    shown = json_of(recsys("models", "show", "warm", "--json", state=state))
    assert shown["started_from"] == "warm v0001"


def test_a_refit_says_what_it_learnt_and_its_validated_version_is_begun_from(
    ring: Path, state: Path
) -> None:
    train = ("train", "ials", "--data", ring, "--workers", "0", "--name", "refit", "--epochs", "2")
    done = recsys(*train, "--refit", state=state)
    assert done.returncode == 0, done.stderr
    assert "train and validation learnt" in " ".join(done.stdout.split())
    shown = json_of(recsys("models", "show", "refit", "--json", state=state))
    assert shown["refit_of"] == "v0001"
    again = recsys(*train, "--warm-start", "--no-activate", state=state)
    assert again.returncode == 0, again.stderr
    warm = json_of(recsys("models", "show", "refit@v0003", "--json", state=state))
    assert warm["started_from"] == "refit v0001"
    evaluate = ("evaluate", "refit", "--data", ring)
    measured = json_of(recsys(*evaluate, "--json", state=state))
    assert measured["refit"]["protocol"]["learnt"] == "train and validation"
    refused = recsys(*evaluate, "--part", "validation", state=state)
    assert refused.returncode == 1
    assert "measure it on the test part" in refused.stderr


def test_a_search_writes_a_config_that_training_takes_and_a_plot(ring: Path, state: Path) -> None:
    search = ("tune", "ials", "--data", ring, "--set", "dim=8", "--epochs", "3", "--seed", "2")
    file = state / "best.toml"
    assert recsys(*search, "--trials", "2", state=state).returncode == 0
    study = (*search, "--trials", "4", "--resume", "--output", file, "--json")
    tuned = json_of(recsys(*study, state=state))
    assert [trial["trial"] for trial in tuned["trials"]] == [1, 2, 3, 4]
    header, best = file.read_text().partition("dim = 8")[0], tuned["best"]["ndcg@10"]
    assert f"Validation NDCG@10: {best:.4f}" in header
    assert Dataset.load(ring).fingerprint in header
    assert "--resume --output" in header
    assert ElementTree.parse(tuned["plot"]).getroot().tag.endswith("svg")

    train = ("train", "ials", "--data", ring, "--workers", "0", "--name", "tuned")
    trained = recsys(*train, "--config", file, "--seed", "2", state=state)
    assert trained.returncode == 0, trained.stderr
    config = Registry(state / "models").open_active("tuned").model.config
    assert config.model_dump() == tuned["config"]
    assert config.model_dump().items() >= tuned["best"]["values"].items()


def test_made_up_data_are_the_same_for_the_same_seed(state: Path) -> None:
    arguments = ("--users", "50", "--items", "40", "--no-pictures", "--json")
    first, second = (
        json_of(recsys("data", "synth", state / name, *arguments, state=state)) for name in "ab"
    )
    assert first["fingerprint"] == second["fingerprint"]


def test_the_doctor_finds_what_is_needed(state: Path) -> None:
    found = json_of(recsys("doctor", "--json", state=state))
    assert found["problem"] is None
    assert found["settings"]["http_host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "ials", "--data", "nowhere"), 1, "nowhere is no Dataset"),
        (("train", "magic", "--data", "nowhere"), 1, "the models are popularity, ials, sasrec"),
        (("train", "ials", "--data", "x", "--set", "dim=many"), 1, "dim"),
        (("train", "ials", "--data", "x", "--set", "dim"), 1, "write it as name=value"),
        (("tune", "popularity", "--data", "x"), 1, "popularity has nothing to tune"),
        (("tune", "ials", "--data", "x", "--name", "../x"), 1, "cannot name a study"),
        (("tune", "ials", "--data", "x", "--trials", "0"), 2, "--trials"),
        (("data", "import", "nowhere", "out"), 1, "there is no such file or folder"),
        (("models", "activate", "ghost", "v0001"), 1, "ghost"),
        (("recommend", "--user", "[/x]", "--url", "http://127.0.0.1:9"), 1, "recsys serve"),
        (("events", "send", "--user", "u", *["--item", "1"] * 1001), 1, "at most 1000"),
        (("data", "synth", "/proc/x", "--no-pictures"), 1, "/proc/x cannot be read or written"),
        (("data", "import", "events.csv", "/proc/x"), 1, "/proc/x cannot be read or written"),
        (("serve",), 1, "recsys train"),
        (("train",), 2, "Missing argument"),
        (("fly",), 2, "No such command"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id\nann,1\n")
    result = recsys(*arguments, state=tmp_path / "state", cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("state", "arguments"),
    [
        ("/dev/null", ("doctor",)),
        ("/proc/x", ("recommend", "--queue")),
        ("/proc/x", ("train", "popularity", "--workers", "0", "--data")),
    ],
)
def test_a_state_folder_that_cannot_be_is_told_with_the_settings_name(
    ring: Path, state: str, arguments: tuple[str, ...]
) -> None:
    data = [ring] if arguments[-1] == "--data" else []
    result = recsys(*arguments, *data, state=state)
    assert result.returncode == 1
    assert re.search(rf"error: {state}.*RECSYS_STATE_DIR", result.stderr)
    assert "Traceback" not in result.stderr
