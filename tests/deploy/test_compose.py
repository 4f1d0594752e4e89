import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest

from nyquist.companion.page.kit import report_folder
from nyquist.companion.settings import Settings as CompanionSettings
from nyquist.server.settings import COMPANION_PREFIX, PREFIX, Settings

Services = dict[str, dict[str, Any]]
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
COMPANION_DEFAULTS = {name: field.default for name, field in CompanionSettings.model_fields.items()}


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Return what a service is given of the working tree: source by target."""
    split = (volume.split(":") for volume in service["volumes"])
    return {target: source for source, target, *_ in split if source.startswith(".")}


def names(services: Services, service: str) -> set[str]:
    """Return the names that a service answers to on the default network."""
    default = services[service].get("networks", {}).get("default", {})
    return {service, *default.get("aliases", ())}


def in_profile(services: Services, profile: str) -> set[str]:
    """Return the services that a profile starts."""
    return {
        name for name, service in services.items() if profile in service.get("profiles", (profile,))
    }


SERVERS = ["server", "server-gpu", "replica-1", "replica-2", "replica-3"]


def test_plain_up_builds_the_models_and_starts_server_companion_prometheus_and_grafana(
    root: Path, services: Services
) -> None:
    lines = (root / ".env").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=") for line in lines if not line.startswith("#"))
    started = in_profile(services, settings["COMPOSE_PROFILES"])
    assert started == {"models", "server", "companion", "prometheus", "grafana"}


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_one_service_of_each_profile_answers_to_the_name_server(
    services: Services, profile: str
) -> None:
    named = [name for name in in_profile(services, profile) if "server" in names(services, name)]
    assert len(named) == 1


def test_in_the_profile_scale_three_replicas_do_and_one_balancer_is_published(
    root: Path, services: Services
) -> None:
    started = in_profile(services, "scale")
    replicas = {name for name in started if "server" in names(services, name)}
    assert replicas == {"replica-1", "replica-2", "replica-3"}
    assert not any(services[name]["ports"] for name in replicas)
    balancer = (root / "deploy/nginx/default.conf").read_text(encoding="utf-8")
    port = DEFAULTS["port"]
    asked = {line.split()[1] for line in balancer.splitlines() if line.startswith("    server ")}
    assert asked == {f"{name}:{port}" for name in replicas}
    assert f"listen {port} http2;" in balancer
    envoy = (root / "deploy/envoy/envoy.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"address: (replica-\d), port_value: 8001", envoy)) == replicas
    assert set(services["balancer"]["depends_on"]) == replicas


def test_what_serves_and_what_proves_waits_for_the_models_to_be_built(services: Services) -> None:
    for name in (*SERVERS, "companion"):
        waits = services[name]["depends_on"]["models"]
        assert waits == {"condition": "service_completed_successfully"}, name
    assert services["models"]["command"] == ["build", "--output", "/models"]
    assert services["models"]["restart"] == "no"
    for name in SERVERS:  # and what is built anew is served without a restart
        assert float(services[name]["environment"]["NYQUIST_POLL_S"]) > 0


def test_a_gpu_is_reserved_in_the_gpu_profile_alone(services: Services) -> None:
    devices = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services.items()
        if "deploy" in service
    }
    assert devices == {"server-gpu": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}
    assert services["server-gpu"]["profiles"] == ["gpu"]
    assert services["server-gpu"]["environment"]["NYQUIST_REQUIRE_CUDA"] == "true"


def test_each_service_is_built_from_the_target_of_its_own(services: Services) -> None:
    targets = {
        name: service["build"]["target"] for name, service in services.items() if "build" in service
    }
    assert targets == dict.fromkeys(SERVERS, "server-cpu") | {
        "server-gpu": "server-gpu",
        "models": "companion",
        "companion": "companion",
        "receiver": "companion",
    }


def test_every_file_of_the_tree_is_mounted_read_only(services: Services) -> None:
    bound = [
        volume
        for service in services.values()
        for volume in service["volumes"]
        if volume.startswith(".")
    ]
    assert bound
    assert [volume for volume in bound if not volume.endswith(":ro")] == []


def test_every_mount_exists(root: Path, services: Services) -> None:
    sources = {
        source for name in ("prometheus", "grafana") for source in mounts(services[name]).values()
    }
    assert len(sources) == 4
    assert [source for source in sources if not (root / source).is_dir()] == []


def test_the_models_and_their_report_are_handed_on_in_two_volumes(services: Services) -> None:
    volume = "${NYQUIST_MODELS:-models}:/models"
    report = f"${{NYQUIST_REPORT:-report}}:/{report_folder(Path('/models')).name}"
    assert services["models"]["volumes"] == [volume, report]
    for name in SERVERS:
        assert services[name]["volumes"] == [f"{volume}:ro"], name
    assert services["companion"]["volumes"][:2] == [f"{volume}:ro", f"{report}:ro"]


def test_ports_are_published_to_this_machine_alone(services: Services) -> None:
    published = {
        name: service["ports"] for name, service in services.items() if service.get("ports")
    }
    server = [f"127.0.0.1:{port}:{port}" for port in (DEFAULTS["port"], DEFAULTS["metrics_port"])]
    assert published == {
        "server": server,
        "server-gpu": server,
        "balancer": server[:1],
        "companion": [
            f"127.0.0.1:{port}:{port}"
            for port in (COMPANION_DEFAULTS["port"], COMPANION_DEFAULTS["http_port"])
        ],
        "prometheus": ["127.0.0.1:9090:9090"],
        "alertmanager": ["127.0.0.1:9093:9093"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_every_service_is_locked_down(services: Services) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["tmpfs"] == ["/tmp"], name  # noqa: S108 - a path in the container
        assert "user" not in service, f"{name} does not run as the user of its image"


def test_every_image_is_pinned_and_every_service_has_a_health_check(
    services: Services, instructions: list[tuple[str, str]]
) -> None:
    assert [word for word, _ in instructions].count("HEALTHCHECK") == 2
    for name, service in services.items():
        if "build" not in service:
            assert service["image"].rpartition(":")[2][-1].isdigit(), name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_a_stopping_server_has_the_time_that_it_asks_for(services: Services) -> None:
    needed_s = DEFAULTS["drain_s"] + DEFAULTS["grace_s"]
    for name in (*SERVERS, "companion"):
        assert float(services[name]["stop_grace_period"].removesuffix("s")) > needed_s


@pytest.mark.parametrize("name", [*SERVERS, "companion"])
def test_every_variable_is_a_setting_of_what_it_is_given_to(services: Services, name: str) -> None:
    prefix, settings = (
        (COMPANION_PREFIX, CompanionSettings) if name == "companion" else (PREFIX, Settings)
    )
    given = services[name]["environment"]
    assert given
    known = {f"{prefix}{setting.upper()}" for setting in settings.model_fields}
    assert set(given) <= known


@pytest.mark.parametrize("name", SERVERS)
def test_one_request_in_a_hundred_goes_to_the_companion_too(services: Services, name: str) -> None:
    given = services[name]["environment"]
    host, port = given["NYQUIST_SHADOW_TARGET"].split(":")
    assert host in names(services, "companion")
    assert int(port) == COMPANION_DEFAULTS["port"]
    assert given["NYQUIST_SHADOW_SHARE"] == "${NYQUIST_SHADOW_SHARE:-0.01}"


def test_the_companion_asks_the_server(services: Services) -> None:
    host, port = services["companion"]["environment"]["NYQUIST_COMPANION_TARGET"].split(":")
    assert host in names(services, "server") & names(services, "server-gpu")
    assert int(port) == DEFAULTS["port"]


def test_the_companions_history_lies_on_a_volume_that_its_user_may_write(
    services: Services, instructions: list[tuple[str, str]]
) -> None:
    state = services["companion"]["environment"]["NYQUIST_COMPANION_STATE"]
    assert f"companion:{state}" in services["companion"]["volumes"]
    assert ("COPY", f"--from=builder --chown=10001:10001 {state} {state}") in instructions


def test_prometheus_scrapes_the_server_and_the_companion_every_five_seconds(
    services: Services, scrape: dict[str, Any]
) -> None:
    server, companion = scrape["scrape_configs"]
    assert (server["job_name"], companion["job_name"]) == ("nyquist", "nyquist-companion")
    (found,) = server["dns_sd_configs"]
    assert (found["names"], found["type"]) == (["server"], "A"), "every replica of the name"
    assert found["port"] == DEFAULTS["metrics_port"]
    assert all("server" in names(services, name) for name in SERVERS)
    port = COMPANION_DEFAULTS["http_port"]
    assert companion["static_configs"][0]["targets"] == [f"companion:{port}"]
    assert scrape["global"]["scrape_interval"] == "5s"


def test_prometheus_keeps_what_the_error_budget_is_over(services: Services) -> None:
    options = dict(option.split("=") for option in services["prometheus"]["command"])
    assert options["--storage.tsdb.path"] == "/prometheus"
    assert int(options["--storage.tsdb.retention.time"].removesuffix("d")) > 30


def test_prometheus_finds_its_configuration_where_its_image_looks(
    root: Path, services: Services
) -> None:
    folder = mounts(services["prometheus"])["/etc/prometheus"]
    assert (root / folder / "prometheus.yml").is_file()
    assert "--config.file=/etc/prometheus/prometheus.yml" in services["prometheus"]["command"]
    assert "prometheus:/prometheus" in services["prometheus"]["volumes"]


def test_grafana_asks_prometheus_at_its_scrape_interval(
    services: Services, scrape: dict[str, Any], source: dict[str, Any]
) -> None:
    address = urlsplit(source["url"])
    assert address.hostname in names(services, "prometheus")
    assert services["prometheus"]["ports"] == [f"127.0.0.1:{address.port}:{address.port}"]
    assert source["jsonData"]["timeInterval"] == scrape["global"]["scrape_interval"]


def test_grafana_finds_its_dashboards_and_its_front_page(
    root: Path, services: Services, provider: dict[str, Any]
) -> None:
    grafana = services["grafana"]
    for kind in ("dashboards", "datasources"):
        provisioned = mounts(grafana)[f"/etc/grafana/provisioning/{kind}"]
        assert list((root / provisioned).glob("*.yml")), kind
    folder = root / mounts(grafana)[provider["options"]["path"]]
    home = PurePosixPath(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (folder / home.name).is_file()


def test_grafana_has_no_account_and_no_password(services: Services) -> None:
    environment = services["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not any("PASSWORD" in name for name in environment)
