"""Settings come from the environment, and a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import InvalidSettings, load_settings


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_HTTP_PORT", "8123")
    assert load_settings().http_port == 8123


def test_an_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_HTTP_PORT", "8123")
    assert load_settings(http_port=9000).http_port == 9000
    assert load_settings(http_port=None).http_port == 8123


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RECSYS_HTTP_PORT", "http"),
        ("RECSYS_HTTP_PORT", "70000"),
        ("RECSYS_REDIS_URL", "http://somewhere"),
        ("RECSYS_NAMESPACE", "with blanks"),
        ("RECSYS_VISIBILITY_TIMEOUT_S", "0.09"),
        ("RECSYS_VISIBILITY_TIMEOUT_S", "inf"),
    ],
)
def test_a_wrong_value_is_refused_by_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettings, match=variable):
        load_settings()


def test_what_is_wrong_is_said_in_words_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_REDIS_URL", "http://somewhere")
    with pytest.raises(InvalidSettings, match="RECSYS_REDIS_URL: it must start with redis://"):
        load_settings()


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("here.example", "here.example"),
        ("::1", "[::1]"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("0:0:0:0:0:0:0:0", "[::1]"),
    ],
)
def test_whatever_http_listens_on_its_url_leads_there_from_this_machine(
    host: str, reached: str
) -> None:
    assert load_settings(http_host=host, http_port=8123).http_url == f"http://{reached}:8123"


@pytest.mark.parametrize("url", ["redis://me:secret@somewhere:6379/0", "htp://me:secret@somewhere"])
def test_the_password_of_redis_is_never_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RECSYS_REDIS_URL", url)
    try:
        settings = load_settings()
        shown = f"{settings!r} {settings} {settings.model_dump(mode='json')}"
    except InvalidSettings as error:
        shown = error.message
    assert "redis" in shown
    assert "secret" not in shown


def test_the_credentials_of_image_roots_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_IMAGE_ROOTS", '["s3://me:secret@films"]')
    settings = load_settings()
    assert settings.image_roots[0].get_secret_value() == "s3://me:secret@films"
    assert "secret" not in f"{settings!r} {settings} {settings.model_dump(mode='json')}"


def test_paths_lead_to_the_same_places_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "cross").mkdir(parents=True)
    settings = load_settings(
        state_dir=Path("state"),
        image_roots=["pictures", "s3://bucket/films?region=eu-west-1", "file:///pictures"],
        dataset_roots=[Path("data"), Path("/data")],
        encoder_models=["models/cross", "microsoft/resnet-50"],
        rerank_model="models/cross",
    ).anywhere()
    monkeypatch.chdir("/")
    cross = str(tmp_path / "models" / "cross")
    assert settings.state_dir == tmp_path / "state"
    assert [root.get_secret_value() for root in settings.image_roots] == [
        str(tmp_path / "pictures"),
        "s3://bucket/films?region=eu-west-1",
        "file:///pictures",
    ]
    assert settings.dataset_roots == (tmp_path / "data", Path("/data"))
    assert settings.encoder_models == (cross, "microsoft/resnet-50")
    assert settings.rerank_model == cross


def test_a_models_name_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "cross-encoder/ms-marco-MiniLM-L6-v2"
    assert load_settings(rerank_model=name).anywhere().rerank_model == name
    assert load_settings().anywhere().rerank_model is None
