"""Everything an operator can set.

flags -> NYQUIST_* of the environment -> the TOML file that --config names -> defaults
"""

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from nyquist.server.front.settings import CallSettings, SecuritySettings
from nyquist.server.serving.settings import ShadowSettings
from nyquist.server.sources.address import Address, parse_repository
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.listening import UNIX

PREFIX = "NYQUIST_"
COMPANION_PREFIX = "NYQUIST_COMPANION_"
"""The companion's variables, which may stand beside the server's."""

Port = Annotated[int, Field(ge=0, le=65535)]


def _without_brackets(host: str) -> str:
    if host[:1] == "[" and host[-1:] == "]":
        raise ValueError(f"an address stands without brackets, {host[1:-1]}")
    return host


Host = Annotated[str, AfterValidator(_without_brackets)]

# What Kubernetes puts into a pod's environment for a Service that is called nyquist.
_SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP)(_.*)?)")


def _several(separator: str) -> BeforeValidator:
    """Take one text for several values, as a variable of the environment has them."""

    def split(value: object) -> object:
        if isinstance(value, str):
            value = value.split(separator)
        if isinstance(value, Path):
            return [value]
        return [one for one in value if one != ""] if isinstance(value, list) else value

    return BeforeValidator(split)


def _repositories(value: object) -> object:
    """Read folders and addresses; addresses have colons, so that a text of some has blanks."""
    if isinstance(value, str):
        value = value.split(None if "://" in value else os.pathsep)
    if isinstance(value, Path):
        return [value]
    if not isinstance(value, list | tuple):
        return value
    return [parse_repository(one) if isinstance(one, str) else one for one in value if one != ""]


MOST_WORKERS, AUTO_WORKERS = 64, 0
Workers = Annotated[int, BeforeValidator(lambda value: AUTO_WORKERS if value == "auto" else value)]
Folders = Annotated[tuple[Path, ...], NoDecode, _several(os.pathsep)]
Repositories = Annotated[tuple[Path | Address, ...], NoDecode, BeforeValidator(_repositories)]
Names = Annotated[tuple[str, ...], NoDecode, _several(",")]


class ModelSettings(BaseModel):
    """Models, and what runs them."""

    repository: Repositories = Field(
        (Path("model_repository"),),
        min_length=1,
        description="folder that holds the models, or s3://, gs://, az://, hf://, oci:// or "
        "https:// address of one; may be repeated",
    )
    cache: Path | None = Field(
        None,
        description="folder for what is fetched from addresses; none: nyquist in $XDG_CACHE_HOME "
        "or ~/.cache",
    )
    source_timeout_s: float = Field(
        10.0,
        gt=0,
        description="seconds without a byte from an address after which it is asked again",
    )
    load: Names | None = Field(
        None,
        description="model to load at the start, and no other; may be repeated; empty: nothing; "
        "none: every model",
    )
    config_overrides: bool = Field(
        default=False,
        description="take a model's configuration from calls that load it, in place of its "
        "config.pbtxt",
    )
    link_folder: Folders = Field(
        (), description="outside the repository, where links in it may lead to; may be repeated"
    )
    provider: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="execution provider; auto is CUDA where there is one, else the CPU"
    )
    require_cuda: bool = Field(
        default=False, description="refuse to start rather than run on the CPU"
    )
    threads: int = Field(
        0,
        ge=0,
        description="intra-op threads of a session; 0 shares the cores out to a model's instances, "
        "or gives each core a session of one thread, and one of all where that is quicker",
    )
    poll_s: float = Field(
        0.0,
        ge=0,
        description="seconds between looks for changed models; 0: load and unload by call instead",
    )
    strict_readiness: bool = Field(
        default=True,
        description="say not ready while a model that was asked for could not be loaded",
    )

    @property
    def cache_folder(self) -> Path:
        """The folder for what is fetched.

        Raises:
            StartError: none is named, and this user has no home.
        """
        if self.cache is not None:
            return self.cache
        try:
            return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "nyquist")
        except RuntimeError as error:
            raise StartError(
                "there is no home folder for a cache; name one with --cache"
            ) from error


class NetworkSettings(BaseModel):
    """Addresses, and what listens there."""

    transport: Literal["h2corn", "grpcio"] = Field(
        "h2corn", description="what carries gRPC: h2corn, or grpcio, which costs more CPU a call"
    )
    workers: Workers = Field(
        1,
        ge=AUTO_WORKERS,
        le=MOST_WORKERS,
        description="processes that serve, where one event loop is the limit; auto: one for each "
        "two cores",
    )
    host: Host = Field(
        "127.0.0.1",
        description="address to listen on; 0.0.0.0 for all, unix:/path/to.sock for a socket's file",
    )
    port: Port = Field(8001, description="of gRPC; 0 lets the system choose")
    cors_origin: Names = Field(
        (), description="origin of web pages whose scripts may call, or *; may be repeated"
    )
    metrics_host: Host | None = Field(
        None, description="address of the metrics; none: that of --host, 127.0.0.1 of a socket"
    )
    metrics_port: Port = Field(8002, description="of Prometheus metrics; 0 lets the system choose")

    @property
    def scraped_host(self) -> str:
        """The address of the metrics, which no scraper reads from a socket's file unasked."""
        alone = "127.0.0.1" if self.host.startswith(UNIX) else self.host
        return self.metrics_host or alone


class LimitSettings(CallSettings):
    """What one caller, or all of them together, may ask for."""

    max_queue_bytes: int = Field(
        512 * 1024 * 1024, gt=0, description="pictures held for all models together"
    )
    max_image_pixels: int = Field(
        50_000_000,
        gt=0,
        description="pixels that are decoded of a JPEG, PNG or WebP that is sent as such",
    )


class TracingSettings(BaseModel):
    """Traces, sent to an OpenTelemetry collector."""

    tracing_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="http://host:port or https://host:port of the collector, OTLP over gRPC",
    )
    tracing_ratio: float = Field(
        0.01, ge=0, le=1, description="share of the calls traced whose callers have not decided it"
    )


class StopSettings(BaseModel):
    """How the server stops."""

    drain_s: float = Field(
        5.0, ge=0, description="seconds of service after SIGTERM, with readiness off"
    )
    grace_s: float = Field(
        30.0, ge=0, description="seconds that running calls have to end when a connection closes"
    )


class LogSettings(BaseModel):
    """The log, on standard error."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level; debug has a line for each call"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console at a terminal, else json, one object a line"
    )


GROUPS: tuple[type[BaseModel], ...] = (
    ModelSettings,
    NetworkSettings,
    SecuritySettings,
    LimitSettings,
    ShadowSettings,
    TracingSettings,
    StopSettings,
    LogSettings,
)


class Settings(
    ModelSettings,
    NetworkSettings,
    SecuritySettings,
    LimitSettings,
    ShadowSettings,
    TracingSettings,
    StopSettings,
    LogSettings,
    BaseSettings,
):
    """Serve a repository of ONNX image classifiers over gRPC (Open Inference Protocol v2)."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    config: Path | None = Field(
        None, description="TOML file with options by their long names, as in max_message_bytes = 1"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the places that options come from, the first one winning.

        No .env file is read, because compose has one of its own; secrets have their files.
        """
        del cls  # it is settings_cls
        return init_settings, env_settings, _File(settings_cls)

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        if self.load is not None and self.poll_s:
            raise ValueError("--load and --poll-s exclude each other: polling loads every model")
        if self.workers != 1 and self.transport != "h2corn":
            asked = self.workers or "auto"
            raise ValueError(f"--workers {asked} needs --transport h2corn")
        if self.shadow_share and self.shadow_target is None:
            raise ValueError("--shadow-share needs --shadow-target")
        for name in ("token", "repository_token"):
            if getattr(self, name) and getattr(self, f"{name}_file"):
                raise ValueError(
                    f"{PREFIX}{name.upper()} and {flag(f'{name}_file')} exclude each other"
                )
        return self


class _File(PydanticBaseSettingsSource):
    """The TOML file that a source before this one names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base class's signature
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config")
        if named is None:
            return {}
        path = Path(named)
        try:
            options = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StartError(f"--config {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise StartError(f"--config {path} is no TOML: {error}") from error
        known = {*file_options()}
        for name in options:
            if name not in known:
                raise StartError(f"--config {path} has {name!r}, {_rather(name, known)}")
        return options


def read_settings(flags: Mapping[str, Any]) -> Settings:
    """Make the settings of these flags, the environment and the file that they name.

    Raises:
        StartError: a value is wrong; the message names it and what would be right.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise StartError(first_mistake(error)) from error


def first_mistake(error: ValidationError) -> str:
    """Return a line for the first wrong value, and never that of a secret."""
    first = error.errors(include_context=False)[0]
    name = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    if not name:
        return message
    if "token" in name and "file" not in name:
        return f"{name}: {message}"  # never the value
    return f"{name}: {message}, got {first['input']!r}"


def flag(name: str) -> str:
    """Return how an option is spelled on the command line."""
    return "--" + name.replace("_", "-")


def is_secret(name: str, settings: type[BaseModel] = Settings) -> bool:
    """Say whether an option's value must stand neither on the command line nor in the file."""
    return "SecretStr" in str(settings.model_fields[name].annotation)


def file_options() -> list[str]:
    """Return the options that the TOML file may have."""
    return [name for name in Settings.model_fields if name != "config" and not is_secret(name)]


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line for each variable that looks like an option and is none."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return [
        f"{name} is no option, {_rather(name, known)}"
        for name in sorted(environment)
        if name.startswith(PREFIX)
        and name not in known
        and not name.startswith(COMPANION_PREFIX)
        and not _SERVICE_LINK.fullmatch(name)
    ]


def _rather(name: str, known: set[str]) -> str:
    close = get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else "see nyquist serve --help"
