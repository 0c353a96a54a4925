"""Settings: one frozen object, read once from RECSYS_… environment variables."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.errors import RecsysError, reason

DAY_S = 24 * 60 * 60


class InvalidSettings(RecsysError):
    """An environment variable or option holds a value that is not allowed."""


def _redis_url(url: SecretStr) -> SecretStr:
    if not re.match(r"(rediss?|unix)://.", url.get_secret_value()):
        raise ValueError("it must start with redis://, rediss:// or unix://")
    return url


def _root_anywhere(root: SecretStr) -> SecretStr:
    path = root.get_secret_value()
    is_uri = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path)
    return root if is_uri else SecretStr(str(Path(path).absolute()))


def _model_anywhere(model: str) -> str:
    try:
        folder = Path(model).expanduser()
        return str(folder.absolute()) if folder.is_dir() else model
    except (OSError, RuntimeError, ValueError):  # too long; no home; a NUL
        return model


class Settings(BaseSettings):
    """What a deployment may choose; every default works on a laptop."""

    model_config = SettingsConfigDict(
        env_prefix="RECSYS_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = None
    """`redis://`, `rediss://` or `unix://`; a private server is started when it is unset. It may
    hold a password, so it is never shown."""

    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_{}.-]{1,64}$")] = "recsys"
    """The prefix of every key in Redis: one a tenant. `{name}` keeps a tenant on one shard."""

    state_dir: Path = Path(".recsys")
    """Where models, runs and the private Redis keep their files."""

    http_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address that HTTP listens on; anything but loopback is for others to reach."""

    http_port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """The port that HTTP listens on."""

    history_max_items: Annotated[int, Field(ge=1, le=100_000)] = 500
    """How many of a user's newest events are kept as the history."""

    history_ttl_s: Annotated[int, Field(ge=1)] = 90 * DAY_S
    """Seconds after which the history of a user who does nothing is forgotten."""

    max_backlog: Annotated[int, Field(ge=1)] = 10_000
    """How many messages may wait in a stream before publishing is refused."""

    visibility_timeout_s: Annotated[float, Field(ge=0.1, le=DAY_S)] = 30.0
    """Seconds of silence after which a worker's messages are given to another. Too few of them,
    and a worker that is only busy loses its work to another."""

    max_deliveries: Annotated[int, Field(ge=1)] = 5
    """How often a message is tried before it goes to the dead letters."""

    reply_ttl_s: Annotated[int, Field(ge=1)] = 60
    """Seconds that a reply waits for its caller."""

    deadline_ms: Annotated[int, Field(ge=1)] = 2_000
    """Milliseconds that a request has when it names no deadline of its own."""

    default_model: str | None = None
    """The model that answers requests that name none; the best by NDCG@10 when it is unset."""

    image_roots: tuple[SecretStr, ...] = ()
    """Where the pictures may lie that items put in over the API and searches name: folders,
    `s3://bucket/prefix`, `gs://bucket/prefix`, as a JSON list. A relative path starts in the first.
    Nothing is ever read or fetched from anywhere else. They may hold credentials, so they are never
    shown."""

    dataset_roots: tuple[Path, ...] = ()
    """Folders under which the Datasets lie that `POST /v1/jobs` may name, as a JSON list; none when
    unset. The command line reads any."""

    encoder_models: tuple[str, ...] = ()
    """Encoders that `POST /v1/jobs` may name beside the default text encoder, as a JSON list of
    names and folders: workers load what a job names. The command line names any."""

    rerank_model: str | None = None
    """The cross-encoder that re-ranks a search on demand, by name or folder; none when unset."""

    embedding_workers: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers that `recsys serve` runs for embedding jobs and live items; 0 leaves them to
    `recsys worker`."""

    encoder_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each embedding worker and of the encoder of queries; a part of one shares it."""

    micro_batch: Annotated[int, Field(ge=1, le=1024)] = 64
    """The most requests that are answered together."""

    def anywhere(self) -> Settings:
        """The same settings from whatever folder a process works in: relative paths start in this
        one's. The name of a model that is no folder here stays a name."""
        rerank = self.rerank_model
        return self.model_copy(
            update={
                "state_dir": self.state_dir.absolute(),
                "image_roots": tuple(map(_root_anywhere, self.image_roots)),
                "dataset_roots": tuple(root.absolute() for root in self.dataset_roots),
                "encoder_models": tuple(map(_model_anywhere, self.encoder_models)),
                "rerank_model": None if rerank is None else _model_anywhere(rerank),
            }
        )

    @property
    def http_url(self) -> str:
        """Where the HTTP API is reached from this machine."""
        host = self.http_host
        try:
            address = ip_address(host)
        except ValueError:
            pass  # a name
        else:
            if address.is_unspecified:  # every address of the machine, loopback among them
                address = ip_address("127.0.0.1" if address.version == 4 else "::1")
            host = str(address) if address.version == 4 else f"[{address}]"
        return f"http://{host}:{self.http_port}"

    @property
    def models_dir(self) -> Path:
        """The root of the model registry."""
        return self.state_dir / "models"

    @property
    def jobs_dir(self) -> Path:
        """Where embedding jobs lie while they run, and their reports after that."""
        return self.state_dir / "jobs"

    @property
    def embeddings_dir(self) -> Path:
        """The root of the embedding stores: vectors of contents by encoder."""
        return self.state_dir / "embeddings"

    @property
    def spaces_dir(self) -> Path:
        """The root of the registry of content spaces: the catalogue's vectors by encoder."""
        return self.state_dir / "spaces"

    @property
    def bridges_dir(self) -> Path:
        """The root of the registry of bridges from content spaces to models."""
        return self.state_dir / "bridges"


def load_settings(**overrides: Any) -> Settings:
    """The settings from the environment; an override that is not None goes first.

    Raises InvalidSettings naming each variable that is wrong and what is allowed.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        wrong = "; ".join(
            f"RECSYS_{'_'.join(map(str, each['loc'][:1])).upper()}: {reason(each)}"
            for each in error.errors(include_input=False, include_url=False)
        )
        raise InvalidSettings(f"the settings are wrong: {wrong}") from None
