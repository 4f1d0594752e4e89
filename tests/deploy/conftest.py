"""The files of the deployment, parsed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def _yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def services() -> dict[str, dict[str, Any]]:
    """Return the services of docker-compose.yml by name, anchors resolved."""
    services: dict[str, dict[str, Any]] = _yaml("docker-compose.yml")["services"]
    return services


@pytest.fixture(scope="session")
def scrape() -> dict[str, Any]:
    """Return prometheus.yml."""
    scrape: dict[str, Any] = _yaml("deploy/prometheus/prometheus.yml")
    return scrape


@pytest.fixture(scope="session")
def source() -> dict[str, Any]:
    """Return the one data source that Grafana is given."""
    (source,) = _yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert isinstance(source, dict)
    return source


@pytest.fixture(scope="session")
def provider() -> dict[str, Any]:
    """Return the one dashboard provider that Grafana is given."""
    (provider,) = _yaml("deploy/grafana/provisioning/dashboards/nyquist.yml")["providers"]
    assert isinstance(provider, dict)
    return provider


@pytest.fixture(scope="session")
def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile and their arguments, in order."""
    text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, " ".join(rest.split())) for word, _, rest in (x.partition(" ") for x in lines)]
