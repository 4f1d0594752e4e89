"""Everything an operator can set: command line first, then NYQUIST_* of the environment."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.engine import Provider

Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """Serve a repository of ONNX image classifiers over gRPC (Open Inference Protocol v2)."""

    model_config = SettingsConfigDict(
        env_prefix="NYQUIST_",
        cli_prog_name="nyquist-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        frozen=True,
    )

    repository: Path = Field(Path("model_repository"), description="folder that holds the models")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: Port = Field(8001, description="of gRPC; 0 lets the system choose")
    metrics_port: Port = Field(8002, description="of Prometheus metrics; 0 lets the system choose")
    provider: Provider = Field(
        "auto", description="execution provider; auto is CUDA where there is one, else the CPU"
    )
    require_cuda: bool = Field(
        default=False, description="refuse to start rather than run on the CPU"
    )
    threads: int = Field(
        0, ge=0, description="intra-op threads of a session; 0: cores by instances"
    )
    poll_s: float = Field(
        0.0,
        ge=0,
        description="seconds between looks for changed models; 0: load and unload by call instead",
    )
    max_image_pixels: int = Field(
        50_000_000, gt=0, description="pixels of a JPEG, PNG or WebP that is sent as such"
    )
    drain_s: float = Field(
        5.0, ge=0, description="seconds of service after SIGTERM, with readiness off"
    )
    grace_s: float = Field(30.0, ge=0, description="seconds that running requests have to end")
    max_message_bytes: int = Field(
        64 * 1024 * 1024, gt=0, description="largest request and largest answer"
    )
    max_queue_bytes: int = Field(
        512 * 1024 * 1024, gt=0, description="pictures held for all models together"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level"
    )
