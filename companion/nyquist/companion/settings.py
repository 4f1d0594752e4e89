"""Everything an operator can set of a companion that runs.

flags -> NYQUIST_COMPANION_* of the environment -> defaults
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from nyquist.client.told import Told, told_by
from nyquist.companion.watch.limits import Limits
from nyquist.server.front.settings import CallSettings, ListenerSecurity
from nyquist.server.settings import (
    COMPANION_PREFIX,
    Host,
    LogSettings,
    Port,
    StopSettings,
    first_mistake,
    flag,
)
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.framing import Fit, Interpolation, Layout

Names = Annotated[tuple[str, ...], NoDecode]
"""Several names; one variable of the environment holds them separated by commas."""


METRICS_PORT = 8002
_ADDRESS = re.compile(r".+:[0-9]{1,5}")


class SubjectSettings(BaseModel):
    """What is watched."""

    target: str = Field("localhost:8001", description="HOST:PORT of the server")
    target_ca: Path | None = Field(
        None, description="PEM file: who signed the server's certificate; turns TLS on"
    )
    target_client_certificate: Path | None = Field(
        None, description="PEM file, where the server asks callers for one"
    )
    target_client_key: Path | None = Field(None, description="PEM file: its private key")
    target_token_file: Path | None = Field(
        None, description="file with the token that the server wants"
    )
    target_metrics: str | None = Field(
        None, description="HOST:PORT of the server's metrics, or off; none: port 8002 of its host"
    )
    repository: Path = Field(
        Path("model_repository"), description="folder with the references of its models"
    )
    model: Names = Field((), description="models that are watched; none: those of --repository")
    reference: Path | None = Field(
        None,
        description=".pt2 program or .onnx file that the one --model is held against; none: its "
        "artifact in --repository",
    )


class ModelSettings(BaseModel):
    """What the models take, where neither the server nor a reference says."""

    input: str | None = Field(None, description="CxHxW, such as 3x224x224")
    input_type: Literal["float32", "uint8"] | None = Field(
        None, description="float32: 0..1, uint8: 0..255; none: float32"
    )
    layout: Layout | None = Field(
        None, description="order of the axes; none: CHW of float32, HWC of uint8"
    )
    mean: str | None = Field(None, description="subtracted from pictures of 0..1, such as 0.5")
    std: str | None = Field(None, description="their divisor, likewise")
    interpolation: Interpolation | None = Field(None, description="of picture files; none: bicubic")
    crop_share: float | None = Field(
        None, gt=0, le=1, description="side of their centre crop; none: 0.875"
    )
    fit: Fit | None = Field(
        None, description="canvas: whole, on black; none: crop, and of grey pictures canvas"
    )
    input_name: str | None = Field(None, description="of the one input; none: input")
    output: str | None = Field(None, description="that is the answer; none: logits, or the first")
    max_batch_size: int | None = Field(
        None, gt=0, description="pictures that a request may hold; none: what the server says, or 8"
    )


class ProbeSettings(BaseModel):
    """How often, and how hard."""

    probe_period_s: float = Field(60.0, gt=0, description="seconds from one probe to the next")
    probe_shifts: int = Field(
        8,
        gt=0,
        description="pairs of shifts a protocol in each probe, once all have been tried",
    )
    core_share: float = Field(
        0.2, gt=0, le=1, description="of one core, for probes and as much for live traffic"
    )
    nice: int = Field(
        10, ge=0, le=19, description="added to the process's niceness, so that the server is first"
    )


class ShadowSettings(BaseModel):
    """What is done with live traffic that the server sends."""

    shadow_queue: int = Field(256, gt=0, description="inferences that wait; more are dropped")
    shadow_queue_bytes: int = Field(
        64 * 1024 * 1024, gt=0, description="their size together; more are dropped"
    )
    shadow_rate: float = Field(
        2.0, ge=0, description="moved pictures a second, at most, that the server is asked for"
    )
    shadow_window: int = Field(
        1000, gt=0, description="latest pictures that the figures of live traffic are over"
    )


class RolloutSettings(BaseModel):
    """What a version may do otherwise than the one below it, while both are served."""

    rollout_rate: float = Field(
        2.0, ge=0, description="pictures a second, at most, that both versions are asked for"
    )
    rollout_disagreement: float = Field(
        0.05, gt=0, lt=1, description="share of the pictures that it may answer differently"
    )
    rollout_flips: float = Field(
        0.01, gt=0, lt=1, description="more of its answers that may flip as a picture moves a pixel"
    )
    rollout_confidence: float = Field(
        0.05, gt=0, lt=1, description="that its mean confidence may lie above or below"
    )
    rollout_latency: float = Field(
        1.25, gt=1, description="times as long that half of its requests may take"
    )
    rollout_alpha: float = Field(
        0.05, gt=0, lt=1, description="chance, at most, of a wrong decision, whenever one looks"
    )

    @property
    def rollout_limits(self) -> Limits:
        """The same, as candidates are held to."""
        return Limits(
            disagreement=self.rollout_disagreement,
            flips=self.rollout_flips,
            confidence=self.rollout_confidence,
            latency=self.rollout_latency,
            alpha=self.rollout_alpha,
        )


class RecordSettings(BaseModel):
    """What is remembered."""

    state: Path | None = Field(
        None, description="folder of what outlives a restart; none: it is kept in memory, 16 MiB"
    )
    state_days: float = Field(90.0, gt=0, description="age of the oldest of it")
    state_bytes: int = Field(256 * 1024 * 1024, gt=0, description="its size; the oldest go first")
    history: int = Field(1440, gt=0, description="probes kept of each version of a model")
    disagreements: int = Field(50, gt=0, description="latest disagreements kept")
    disagreement_bytes: int = Field(
        32 * 1024 * 1024, gt=0, description="size of their pictures together"
    )


class AddressSettings(BaseModel):
    """Addresses."""

    host: Host = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: Port = Field(8003, description="of gRPC; 0 lets the system choose")
    http_host: Host | None = Field(None, description="address of HTTP; none: that of --host")
    http_port: Port = Field(
        8004, description="of metrics, health and the page; 0 lets the system choose"
    )
    allowed_hosts: Names = Field(
        (), description="names that browsers may have for the pages; none: those of this machine"
    )


GROUPS: tuple[type[BaseModel], ...] = (
    SubjectSettings,
    ModelSettings,
    ProbeSettings,
    ShadowSettings,
    RolloutSettings,
    RecordSettings,
    AddressSettings,
    ListenerSecurity,
    CallSettings,
    StopSettings,
    LogSettings,
)


class Settings(
    SubjectSettings,
    ModelSettings,
    ProbeSettings,
    ShadowSettings,
    RolloutSettings,
    RecordSettings,
    AddressSettings,
    ListenerSecurity,
    CallSettings,
    StopSettings,
    LogSettings,
    BaseSettings,
):
    """Hold a live server against PyTorch, on a schedule, on live traffic and on demand."""

    model_config = SettingsConfigDict(
        env_prefix=COMPANION_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    @model_validator(mode="before")
    @classmethod
    def _names_apart(cls, given: dict[str, Any]) -> dict[str, Any]:
        lists = {name: given[name] for name in ("model", "allowed_hosts") if given.get(name)}
        return given | {
            name: tuple(
                filter(None, ",".join([said] if isinstance(said, str) else said).split(","))
            )
            for name, said in lists.items()
        }

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        if self.token and self.token_file:
            raise ValueError(f"{COMPANION_PREFIX}TOKEN and {flag('token_file')} exclude each other")
        told_by(vars(self))
        if self.target_metrics not in (None, "off") and not _ADDRESS.fullmatch(self.target_metrics):
            raise ValueError(
                f"--target-metrics is HOST:PORT, such as localhost:{METRICS_PORT}, or off, "
                f"got {self.target_metrics!r}"
            )
        if self.reference and len(self.model) != 1:
            raise ValueError(f"--reference is of one model, --model names {len(self.model)}")
        return self

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of the server's metrics; None where they are not to be read."""
        said = self.target_metrics
        host, _, port = (said or self.target).rpartition(":")
        if said == "off" or "/" in host or host.partition(":")[0] in ("dns", "ipv4", "ipv6"):
            return None
        return host.strip("[]"), int(port) if said else METRICS_PORT

    @property
    def told(self) -> Told:
        """What is said of a model whose server does not say it."""
        return told_by(vars(self))


def read_settings(flags: Mapping[str, Any]) -> Settings:
    """Make the settings of these flags and the environment.

    Raises:
        StartError: a value is wrong; the message names it and what would be right.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise StartError(first_mistake(error)) from error
