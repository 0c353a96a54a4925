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

    micro_batch: Annotated[int, Field(ge=1, le=1024)] = 64
    """The most requests that are answered together."""

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
