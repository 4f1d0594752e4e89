"""What an operator can set of the mirror."""

from pathlib import Path

from pydantic import BaseModel, Field


class ShadowSettings(BaseModel):
    """A copy of live traffic, for a companion."""

    shadow_target: str | None = Field(
        None, description="host:port of the companion that gets a share of the inferences"
    )
    shadow_share: float = Field(
        0.0, ge=0, le=1, description="share of them, 0 to 1, with their answers; 0: none"
    )
    shadow_ca: Path | None = Field(
        None, description="PEM file: who signed the companion's certificate; turns TLS to it on"
    )
    shadow_token_file: Path | None = Field(None, description="file with the token for it")
