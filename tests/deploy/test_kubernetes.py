"""deploy/kubernetes and deploy/helm: what is applied, and whether the programs are what it says."""

import json
import re
import subprocess
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from deploy.kubernetes.__main__ import TARGET, rules
from nyquist.companion.settings import Settings as CompanionSettings
from nyquist.export.command_line import make_parser
from nyquist.models.zoo import specs
from nyquist.server.front.inference_service import SERVICE
from nyquist.server.settings import COMPANION_PREFIX, PREFIX, Settings
from nyquist.server.telemetry.metrics import STAGES
from nyquist.server.telemetry.names import STAGE_DURATION
from nyquist.server.wire.pb import inference_pb2
from tests.conformance.environments import interpreter
from tests.deploy.promql import matched, selectors
from tests.npm import installed

HERE = Path(__file__).parent / "manifests"
OVERLAYS = ("cpu", "gpu", "ha")
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
COMPANION_DEFAULTS = {name: field.default for name, field in CompanionSettings.model_fields.items()}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"scaling": {"by": "load"}}, "at '/scaling/by': value must be one of 'cpu', 'queue', 'none'"),
    ({"replicaCount": 3}, "additional properties 'replicaCount' not allowed"),
    ({"models": {"source": "s3"}}, "value must be one of 'build', 'claim', 'image'"),
    ({"server": {"drainSeconds": "5"}}, "at '/server/drainSeconds': got string, want integer"),
    ({"server": {"env": {"NYQUIST_THREADS": 2}}}, "got number, want string"),
]
FOREIGN = {
    "ClusterServingRuntime",
    "GRPCRoute",
    "InferenceService",
    "PrometheusRule",
    "ScaledObject",
    "ServiceMonitor",
}
"""Kinds that Kubernetes has no schema of: two tests below ask others for it."""

Object = dict[str, Any]


def answer(command: Sequence[str | Path], given: object = None) -> Any:
    """Run a command that takes JSON and answers with JSON."""
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def manifests(root: Path) -> dict[str, Any]:
    """Return every object, as kubectl and Helm would send it, and what is said against them."""
    python = interpreter("kubernetes-1.37")
    refused = json.dumps([values for values, _ in REFUSED])
    found = answer([python, HERE / "render.py", root, refused])
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="session", params=OVERLAYS)
def objects(manifests: dict[str, Any], request: pytest.FixtureRequest) -> list[Object]:
    """Return the objects of an overlay."""
    found: list[Object] = manifests["overlays"][request.param]
    return found


@pytest.fixture(scope="session")
def ha(manifests: dict[str, Any]) -> list[Object]:
    """Return the objects of the overlay that has most of them."""
    found: list[Object] = manifests["overlays"]["ha"]
    return found


def by_name(objects: list[Object], kind: str | None = None) -> dict[str, Object]:
    """Return them by kind and name, or those of a kind by name."""
    if kind is None:
        return {f"{one['kind']}/{one['metadata']['name']}": one for one in objects}
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pod_of(one: Object) -> Object:
    pod: Object = one["spec"]["template"]["spec"]
    return pod


def pods(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Return name, labels and specification of the pods of everything that makes some."""
    for one in objects:
        if one["kind"] in ("Deployment", "Job"):
            template = one["spec"]["template"]
            yield one["metadata"]["name"], template["metadata"]["labels"], template["spec"]


def containers(objects: list[Object]) -> list[Object]:
    return [
        one
        for _, _, pod in pods(objects)
        for one in (*pod["containers"], *pod.get("initContainers", ()))
    ]


def main_container(one: Object) -> Object:
    (container,) = pod_of(one)["containers"]
    assert isinstance(container, dict)
    return container


def environment(container: Object) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


def chosen(objects: list[Object], labels: dict[str, str]) -> set[str]:
    """Return whose pods a selector chooses."""
    return {name for name, own, _ in pods(objects) if labels.items() <= own.items()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_chart_makes_the_objects_that_the_overlay_makes(
    manifests: dict[str, Any], overlay: str
) -> None:
    applied, installed_ = manifests["overlays"][overlay], manifests["charts"][overlay]
    assert len(applied) == len(by_name(applied)) == len(installed_)
    assert by_name(installed_) == by_name(applied)


def test_kubernetes_takes_every_object_and_helm_the_chart(manifests: dict[str, Any]) -> None:
    assert manifests["judged"]["wrong"] == []
    assert set(manifests["judged"]["foreign"]) == FOREIGN
    assert manifests["lint"] == []


def test_gateway_keda_and_the_prometheus_operator_take_their_resources(
    ha: list[Object], tmp_path: Path
) -> None:
    ours = [one for one in ha if one["kind"] in FOREIGN]
    assert len(ours) == 5
    folder = installed(HERE / "crds")
    check: list[str | Path] = ["node", HERE / "crds" / "check.mjs", folder, tmp_path / "all.ts"]
    assert answer(check, ours) == []


def test_kserve_knows_every_field_of_its_resources(manifests: dict[str, Any]) -> None:
    check = [interpreter("kserve-0.21.0"), HERE / "kserve_fields.py"]
    assert answer(check, manifests["kserve"]) == []


def test_values_that_the_chart_does_not_know_are_refused_by_name(
    manifests: dict[str, Any],
) -> None:
    for (_, reason), refusal in zip(REFUSED, manifests["refusals"], strict=True):
        assert reason in refusal


def test_a_release_of_another_name_has_objects_of_its_own(
    manifests: dict[str, Any], ha: list[Object]
) -> None:
    other = manifests["other"]
    assert all(name.partition("/")[2].startswith("fashion") for name in by_name(other))
    for one in by_name(other, "Service").values():
        assert len(chosen(other, one["spec"]["selector"])) == 1
        assert chosen(ha, one["spec"]["selector"]) == set()
    server = by_name(other, "Deployment")["fashion"]
    assert server["spec"]["replicas"] == 2
    assert environment(main_container(server))["NYQUIST_SHADOW_TARGET"] == "fashion-companion:8003"


def test_a_pod_has_the_time_to_stop_that_its_program_asks_for(objects: list[Object]) -> None:
    for one in by_name(objects, "Deployment").values():
        container = main_container(one)
        given = {
            name.rpartition("NYQUIST_")[2]: value for name, value in environment(container).items()
        }
        drain_s, grace_s = (
            float(next(value for name, value in given.items() if name.endswith(end)))
            for end in ("DRAIN_S", "GRACE_S")
        )
        assert (drain_s, grace_s) == (DEFAULTS["drain_s"], DEFAULTS["grace_s"])
        wait_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod_of(one)["terminationGracePeriodSeconds"] > wait_s + drain_s + grace_s


def test_probes_ask_what_the_programs_answer(objects: list[Object]) -> None:
    deployments = by_name(objects, "Deployment")
    for name, defaults, path in (
        ("nyquist", DEFAULTS, "/v2/health/live"),
        ("nyquist-companion", COMPANION_DEFAULTS, "/healthz"),
    ):
        container = main_container(deployments[name])
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe"):
            asked = container[probe]["grpc"]
            assert asked["port"] == ports["grpc"] == defaults["port"]
            assert asked.get("service", "") in ("", SERVICE)
        alive = container["livenessProbe"]["httpGet"]
        assert alive["path"] == path
        http = defaults["metrics_port"] if name == "nyquist" else defaults["http_port"]
        assert ports[alive["port"]] == http


def test_services_reach_ports_that_their_pods_have(objects: list[Object]) -> None:
    services = by_name(objects, "Service")
    assert services["nyquist-headless"]["spec"]["clusterIP"] == "None"
    for name, service in services.items():
        (of,) = chosen(objects, service["spec"]["selector"])
        assert of == name.removesuffix("-headless")
        container = main_container(by_name(objects, "Deployment")[of])
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_every_variable_is_a_setting_of_the_program_that_gets_it(
    objects: list[Object], manifests: dict[str, Any]
) -> None:
    (runtime,) = by_name(manifests["kserve"], "ClusterServingRuntime").values()
    given = [
        (main_container(one), name) for name, one in by_name(objects, "Deployment").items()
    ] + [(one, "kserve") for one in runtime["spec"]["containers"]]
    for container, name in given:
        companion = name.endswith("companion")
        prefix = COMPANION_PREFIX if companion else PREFIX
        settings = CompanionSettings if companion else Settings
        known = {f"{prefix}{setting.upper()}" for setting in settings.model_fields}
        assert set(environment(container)) <= known


def test_server_and_companion_find_each_other(objects: list[Object]) -> None:
    deployments, services = by_name(objects, "Deployment"), by_name(objects, "Service")
    for name, variable in (
        ("nyquist", "NYQUIST_SHADOW_TARGET"),
        ("nyquist-companion", "NYQUIST_COMPANION_TARGET"),
    ):
        host, port = environment(main_container(deployments[name]))[variable].split(":")
        ports = {one["name"]: one["port"] for one in services[host]["spec"]["ports"]}
        assert int(port) == ports["grpc"]
        (policy,) = [
            one
            for one in by_name(objects, "NetworkPolicy").values()
            if chosen(objects, one["spec"]["podSelector"]["matchLabels"]) == {name}
        ]
        reached = policy["spec"]["egress"][0]
        (to,) = chosen(objects, reached["to"][0]["podSelector"]["matchLabels"])
        assert (to, reached["ports"]) == (host, [{"port": "grpc"}])


def test_every_pod_is_locked_down(objects: list[Object]) -> None:
    found = list(pods(objects))
    assert len(found) >= 2
    for _, _, pod in found:
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["fsGroup"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(objects):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "/tmp" in {one["mountPath"] for one in container["volumeMounts"]}  # noqa: S108 - a path in the container


def test_a_network_policy_holds_for_every_pod(objects: list[Object]) -> None:
    policies = by_name(objects, "NetworkPolicy").values()
    held = [chosen(objects, one["spec"]["podSelector"]["matchLabels"]) for one in policies]
    assert set().union(*held) == {name for name, _, _ in pods(objects)}
    assert all(one["spec"]["policyTypes"] == ["Ingress", "Egress"] for one in policies)


def test_volumes_are_there_and_only_who_builds_may_write_models(objects: list[Object]) -> None:
    for _, _, pod in pods(objects):
        volumes = {one["name"] for one in pod["volumes"]}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
            assert {one["name"] for one in mounts.values()} <= volumes
            builds = "build" in container.get("args", ())
            assert mounts["/models"].get("readOnly", False) is not builds


def test_models_come_from_a_build_in_the_pod_an_image_or_a_claim_that_a_job_fills(
    manifests: dict[str, Any],
) -> None:
    found = {}
    for overlay, objects in manifests["overlays"].items():
        for name, one in by_name(objects, "Deployment").items():
            pod = pod_of(one)
            assert [init["name"] for init in pod.get("initContainers", ())] == (
                ["models"] if overlay == "cpu" else []
            ), name
            (volume,) = [each for each in pod["volumes"] if each["name"] == "models"]
            found[overlay] = next(kind for kind in volume if kind != "name")
    assert found == {"cpu": "emptyDir", "gpu": "image", "ha": "persistentVolumeClaim"}


def test_what_builds_models_is_a_command_of_nyquist_and_names_models_of_the_zoo(
    objects: list[Object],
) -> None:
    for container in containers(objects):
        if "args" in container:
            command, *arguments = container["args"]
            options: Namespace = make_parser().parse_args(arguments)
            assert (command, str(options.output)) == ("build", "/models")
            assert set(options.only) <= set(specs())


def test_a_claim_is_polled_for_models_that_come_later(ha: list[Object]) -> None:
    server = by_name(ha, "Deployment")["nyquist"]
    given = environment(main_container(server))
    assert float(given["NYQUIST_POLL_S"]) > 0
    assert given["NYQUIST_STRICT_READINESS"] == "false", "one broken model would stop every replica"
    (claim,) = by_name(ha, "PersistentVolumeClaim")
    assert claim in json.dumps(pod_of(server)["volumes"])
    (job,) = by_name(ha, "Job").values()
    assert claim in json.dumps(pod_of(job)["volumes"])


def test_a_gpu_server_has_a_gpu_and_refuses_to_run_without(manifests: dict[str, Any]) -> None:
    container = main_container(by_name(manifests["overlays"]["gpu"], "Deployment")["nyquist"])
    assert container["image"] == "nyquist-server:gpu"
    assert environment(container)["NYQUIST_REQUIRE_CUDA"] == "true"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["resources"]["limits"]["cpu"] == "2"


def test_one_autoscaler_has_the_say_about_the_replicas(objects: list[Object]) -> None:
    assert "replicas" not in by_name(objects, "Deployment")["nyquist"]["spec"]
    (scaler,) = [
        one for one in objects if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert scaler["spec"]["scaleTargetRef"]["name"] == "nyquist"
    (budget,) = by_name(objects, "PodDisruptionBudget").values()
    assert budget["spec"]["maxUnavailable"] == 1
    assert chosen(objects, budget["spec"]["selector"]["matchLabels"]) == {"nyquist"}


def test_keda_scales_by_the_queue_of_this_namespace_as_the_server_tells_it(
    ha: list[Object],
) -> None:
    (scaled,) = by_name(ha, "ScaledObject").values()
    (trigger,) = scaled["spec"]["triggers"]
    asked = list(selectors(promql_parser.parse(trigger["metadata"]["query"])))
    assert {one.name for one in asked} == {f"{STAGE_DURATION}_sum", f"{STAGE_DURATION}_count"}
    for one in asked:
        labels = matched(one)
        assert labels["stage"] in STAGES
        assert labels == {"job": "nyquist", "namespace": "nyquist", "stage": "queue"}
    assert trigger["metricType"] == "Value"


def test_the_route_lets_inferences_in_and_nothing_that_changes_the_server(
    ha: list[Object],
) -> None:
    (route,) = by_name(ha, "GRPCRoute").values()
    (rule,) = route["spec"]["rules"]
    service = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    let_in = {
        one["method"]["method"]
        for one in rule["matches"]
        if one["method"]["service"] == service.full_name
    }
    assert let_in <= set(service.methods_by_name)
    assert let_in == {
        name for name in service.methods_by_name if re.match("(Server|Model)(L|R|M|I|S)", name)
    } - {"ModelStatistics"}
    (backend,) = rule["backendRefs"]
    assert backend["name"] in by_name(ha, "Service")
    assert backend["port"] == DEFAULTS["port"]


def test_the_rules_are_those_that_prometheus_reads_in_compose(root: Path, ha: list[Object]) -> None:
    assert TARGET.read_text(encoding="utf-8") == rules(), "run python -m deploy.kubernetes"
    chart = root / "deploy" / "helm" / "nyquist" / "files" / "rules.yaml"
    assert chart.samefile(TARGET)
    (rule,) = by_name(ha, "PrometheusRule").values()
    alerts = {
        one["alert"] for each in rule["spec"]["groups"] for one in each["rules"] if "alert" in one
    }
    runbooks = {path.stem for path in (root / "docs" / "runbooks").glob("Nyquist*.md")}
    assert alerts == runbooks


def test_prometheus_scrapes_each_program_once_under_the_name_that_the_rules_have(
    ha: list[Object], scrape: dict[str, Any]
) -> None:
    jobs = {job["job_name"] for job in scrape["scrape_configs"]}
    found = []
    for monitor in by_name(ha, "ServiceMonitor").values():
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (endpoint,) = monitor["spec"]["endpoints"]
        (service,) = [
            one
            for one in by_name(ha, "Service").values()
            if wanted.items() <= one["metadata"]["labels"].items()
            and endpoint["port"] in [port["name"] for port in one["spec"]["ports"]]
        ]
        assert endpoint["interval"] == scrape["global"]["scrape_interval"]
        found.append(service["metadata"]["labels"][monitor["spec"]["jobLabel"]])
    assert sorted(found) == sorted(jobs)


def test_kserve_serves_what_it_fetches_over_grpc(manifests: dict[str, Any]) -> None:
    (runtime,) = by_name(manifests["kserve"], "ClusterServingRuntime").values()
    (service,) = by_name(manifests["kserve"], "InferenceService").values()
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert container["ports"] == [
        {"name": "h2c", "containerPort": DEFAULTS["port"], "protocol": "TCP"}
    ]
    assert environment(container)["NYQUIST_REPOSITORY"] == "/mnt/models"
    annotations = runtime["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/port"] == str(DEFAULTS["metrics_port"])
    assert container["readinessProbe"]["grpc"]["service"] == SERVICE
    model = service["spec"]["predictor"]["model"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in [
        one["name"] for one in runtime["spec"]["supportedModelFormats"]
    ]
    assert model["runtime"] == runtime["metadata"]["name"]


def test_replicas_are_spread_over_nodes_and_zones_each_rollout_by_itself(ha: list[Object]) -> None:
    spread = pod_of(by_name(ha, "Deployment")["nyquist"])["topologySpreadConstraints"]
    assert {one["topologyKey"]: one["whenUnsatisfiable"] for one in spread} == {
        "kubernetes.io/hostname": "DoNotSchedule",
        "topology.kubernetes.io/zone": "ScheduleAnyway",
    }
    for one in spread:
        assert chosen(ha, one["labelSelector"]["matchLabels"]) == {"nyquist"}
        assert one["matchLabelKeys"] == ["pod-template-hash"]
