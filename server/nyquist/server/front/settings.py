"""What an operator can set of the way in: who may call, encrypted how, and what calls may take."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, SecretStr, model_validator


class ListenerSecurity(BaseModel):
    """Encryption, and who may call."""

    tls_certificate: Path | None = Field(
        None, description="PEM file: the server's certificate and its chain; turns TLS on"
    )
    tls_key: Path | None = Field(None, description="PEM file: the certificate's private key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file: callers must show a certificate that one of these signed"
    )
    token: SecretStr | None = Field(
        None, description="token that callers must send; no flag, because others can read flags"
    )
    token_file: Path | None = Field(
        None, description="file with tokens, one a line; any of them lets a caller in"
    )
    health_access: Literal["open", "token"] = Field(
        "open", description="who may ask for health and readiness: all, or who has a token"
    )
    reflection: Literal["open", "token", "off"] = Field(
        "token", description="who may ask for the service's description; off: nobody"
    )

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key come together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("--tls-client-ca needs --tls-certificate and --tls-key")
        return self


class SecuritySettings(ListenerSecurity):
    """Encryption, and who may call what."""

    repository_token: SecretStr | None = Field(
        None, description="token that may load and unload models too, and change settings"
    )
    repository_token_file: Path | None = Field(
        None, description="file with such tokens, one a line"
    )


class CallSettings(BaseModel):
    """What calls may take."""

    max_message_bytes: int = Field(
        64 * 1024 * 1024,
        gt=0,
        le=2**31 - 1,
        description="largest message; requests are held to less where the models need less",
    )
    max_metadata_bytes: int = Field(
        16 * 1024, ge=1024, le=2**20, description="headers of one call, names and values together"
    )
    max_concurrent_rpcs: int = Field(
        2048, gt=0, description="calls at a time; one more is RESOURCE_EXHAUSTED, health is not"
    )
    default_deadline_s: float = Field(
        60.0, ge=0, description="deadline of a call that comes without one; 0: none"
    )
    min_ping_interval_s: float = Field(
        10.0, gt=0, description="connections whose idle keepalive pings come faster are closed"
    )
    max_connection_age_s: float = Field(
        0.0, ge=0, description="connections are renewed after this, to spread them; 0: never"
    )
